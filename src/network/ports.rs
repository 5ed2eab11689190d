//! Ports of the host: taking one, so that nobody else does, who has it if somebody
//! does, and who is connected to it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::error::{Error, Result};
use super::listener::Listener;
use crate::manifest::publish::Protocol;

/// Clients of `::1` that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// At this address; at all of them when missing.
    pub address: Option<IpAddr>,
    /// Its number.
    pub number: u16,
    /// tcp or udp.
    pub protocol: Protocol,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)?;
        match self.address {
            Some(address) => write!(f, " of {address}"),
            None => Ok(()),
        }
    }
}

impl Port {
    /// Whether a socket that is bound there takes something of this port.
    fn meets(&self, address: IpAddr, number: u16) -> bool {
        let address = address.to_canonical();
        let both = |own: IpAddr| own.to_canonical() == address || address.is_unspecified();
        number == self.number && self.address.is_none_or(both)
    }

    /// Whether a connection whose local end is there was made to this port.
    fn leads_to(&self, address: IpAddr, number: u16) -> bool {
        number == self.number
            && self.address.is_none_or(|own| own.to_canonical() == address.to_canonical())
    }

    /// Binds it as long as the descriptor is open; a TCP socket listens.
    ///
    /// # Errors
    /// What the system said; [`Unbound::explain`] knows more.
    pub fn bind(self) -> std::result::Result<OwnedFd, Unbound> {
        self.bind_by(|at| {
            Ok(match self.protocol {
                Protocol::Tcp => TcpListener::bind(at)?.into(),
                Protocol::Udp => UdpSocket::bind(at)?.into(),
            })
        })
    }

    /// The same with a socket that only stands for the port: the kernel translates what
    /// comes before it gets there, but for `::1`, and what comes before that is so would be
    /// taken by somebody who never answers. It hears nothing of it, and the client asks
    /// again.
    fn bind_deaf(self) -> std::result::Result<OwnedFd, Unbound> {
        self.bind_by(|at| {
            let family = match at {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let kind = match self.protocol {
                Protocol::Tcp => SocketType::STREAM,
                Protocol::Udp => SocketType::DGRAM,
            };
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            if self.protocol == Protocol::Tcp {
                rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            }
            crate::sys::deaf::but_for_loopback6(socket.as_fd())?;
            rustix::net::bind(&socket, &at)?;
            if self.protocol == Protocol::Tcp {
                rustix::net::listen(&socket, BACKLOG)?;
            }
            Ok(socket)
        })
    }

    fn bind_by(
        self,
        by: impl Fn(SocketAddr) -> io::Result<OwnedFd>,
    ) -> std::result::Result<OwnedFd, Unbound> {
        let bind = |address: IpAddr| by(SocketAddr::new(address, self.number));
        let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let bound = match (self.address, bind(self.address.unwrap_or(all))) {
            // A host without IPv6.
            (None, Err(error)) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                bind(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
            }
            (_, other) => other,
        };
        bound.map_err(|error| Unbound { port: self, error })
    }
}

/// A port that can't be had.
#[derive(Debug)]
pub struct Unbound {
    port: Port,
    error: io::Error,
}

impl Unbound {
    /// Whether somebody has it.
    pub fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }

    /// Why, and who has it: looks through all processes, so it takes a while.
    pub fn explain(self) -> Error {
        let Unbound { port, error } = self;
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => match owner(port) {
                Some(owner) => format!("{owner} has it"),
                None => "a process that can't be seen has it (another container's?)".into(),
            },
            io::ErrorKind::AddrNotAvailable => "no interface has that address".into(),
            _ => String::new(),
        };
        Error::new("publish the port", port.to_string(), error).with_remedy(remedy)
    }
}

/// Binds a port of the host as long as the descriptor is open, for one that is published.
///
/// # Errors
/// What the system said, not explained yet.
pub fn claim(
    address: Option<IpAddr>,
    number: u16,
    protocol: Protocol,
) -> std::result::Result<OwnedFd, Unbound> {
    Port { address, number, protocol }.bind_deaf()
}

/// The process that has a local port, as `nginx (pid 4711)`.
pub fn owner(port: Port) -> Option<String> {
    let mut inodes = Vec::new();
    for version in ["", "6"] {
        let path = format!("/proc/thread-self/net/{}{version}", port.protocol);
        let table = fs::read_to_string(path).unwrap_or_default();
        let is_it = |socket: &Socket<'_>| {
            (port.protocol == Protocol::Udp || socket.state == "0A")
                && port.meets(socket.address, socket.port)
        };
        let found = sockets(&table).filter(is_it);
        inodes.extend(found.map(|socket| format!("socket:[{}]", socket.inode)));
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name();
        let Some(pid) = pid.to_str().and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if target.to_str().is_some_and(|target| inodes.iter().any(|inode| inode == target)) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (pid {pid})", name.trim()));
            }
        }
    }
    None
}

/// How many TCP connections clients have to these local ports.
pub fn connections(ports: &[Port]) -> usize {
    let is_one = |socket: &Socket<'_>| {
        // proc_net(5): established, and those whose other end still sends or reads. One
        // that its server has closed and whose client has not is nobody's here any more:
        // the kernel forgets it without telling.
        let is_open = match socket.state {
            "01" | "04" | "08" => true,
            "05" => socket.inode != "0",
            _ => false,
        };
        is_open && ports.iter().any(|port| port.leads_to(socket.address, socket.port))
    };
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .map(|table| sockets(&table).filter(is_one).count())
        .sum()
}

/// A line of `/proc/net/tcp` and its like (proc_net(5)).
struct Socket<'a> {
    address: IpAddr,
    port: u16,
    state: &'a str,
    inode: &'a str,
}

fn sockets(table: &str) -> impl Iterator<Item = Socket<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(10).collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        Some(Socket {
            address: read_address(address)?,
            port: u16::from_str_radix(port, 16).ok()?,
            state: fields.get(3)?,
            inode: fields.get(9)?,
        })
    })
}

/// The kernel prints each 32 bits as a number of its own.
fn read_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// Whether a connection that has ended, of which the kernel tells in these bytes, led to
/// one of the ports (`struct inet_diag_msg`, sock_diag(7)).
fn is_end(bytes: &[u8], ports: &[Port]) -> bool {
    const HEADER: usize = 16;
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let body = rest.get(HEADER..length).unwrap_or_default();
        let local = body.get(4..6).and_then(|port| port.try_into().ok()).map(u16::from_be_bytes);
        let address = match body.first().map(|family| i32::from(*family)) {
            Some(libc::AF_INET) => body
                .get(8..12)
                .and_then(|four| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(four).ok()?)))),
            Some(libc::AF_INET6) => body
                .get(8..24)
                .and_then(|all| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(all).ok()?)))),
            _ => None,
        };
        if let (Some(local), Some(address)) = (local, address)
            && ports.iter().any(|port| port.leads_to(address, local))
        {
            return true;
        }
        match rest.get(length.next_multiple_of(4)..) {
            Some(tail) if length >= HEADER => rest = tail,
            _ => return false,
        }
    }
    false
}

/// Hears of the end of TCP connections to ports of the host: the kernel tells of each,
/// however short it was.
#[derive(Debug)]
pub struct Ends {
    listener: Listener,
    ports: Vec<Port>,
}

impl Ends {
    /// Listens in the calling thread's network namespace; within a tokio runtime.
    ///
    /// # Errors
    /// The kernel does not tell (Linux before 4.9, or its module is missing).
    pub fn open(ports: Vec<Port>) -> Result<Ends> {
        // SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY.
        let listener = Listener::open(NETLINK_SOCK_DIAG, &[1, 3], "ends of connections")?;
        Ok(Ends { listener, ports })
    }

    /// Waits until one or several have ended.
    pub async fn next(&mut self) -> Result<()> {
        let Ends { listener, ports } = self;
        listener.wait_for(|bytes| is_end(bytes, ports)).await
    }
}

/// `NETLINK_SOCK_DIAG`.
const NETLINK_SOCK_DIAG: isize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_its_owner() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let claimed = claim(Some("127.0.0.1".parse().unwrap()), port, Protocol::Tcp);
        let error = claimed.unwrap_err().explain();
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&format!("(pid {pid}) has it")), "{error}");
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let udp6 = Port { address: None, number: port, protocol: Protocol::Udp };
        assert!(owner(udp6).unwrap().contains(&pid));
        drop((ours, udp));
        assert!(claim(None, port, Protocol::Udp).is_ok());
    }
    #[test]
    fn an_address_tells_two_sockets_of_one_port_apart() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n\
             1: 0A00000A:0050 0B00000A:1234 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n";
        let all: Vec<Socket<'_>> = sockets(text).collect();
        assert_eq!(all[0].address, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((all[0].port, all[0].state, all[0].inode), (80, "0A", "77"));
        let at = |address: Option<&str>| Port {
            address: address.map(|text| text.parse().unwrap()),
            number: 80,
            protocol: Protocol::Tcp,
        };
        let meets = |port: Port| all.iter().filter(|one| port.meets(one.address, one.port)).count();
        assert_eq!(meets(at(None)), 2);
        assert_eq!(meets(at(Some("127.0.0.1"))), 1);
        assert_eq!(meets(at(Some("10.0.0.9"))), 0);
        let six = read_address("0000000000000000FFFF00000100007F").unwrap();
        assert_eq!(six.to_canonical(), "127.0.0.1".parse::<IpAddr>().unwrap());
        assert!(at(Some("127.0.0.1")).leads_to(six, 80));
        // Bound to all addresses it takes every one.
        assert!(at(Some("10.0.0.9")).meets("::".parse().unwrap(), 80));
        assert!(!is_end(&[0; 7], &[at(None)]) && !is_end(&[0; 100], &[at(None)]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_end_of_a_connection_is_heard_of_however_short_it_was() {
        let ours = TcpListener::bind("[::]:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let loopback = Some("127.0.0.1".parse().unwrap());
        let port = Port { address: loopback, number: number(&ours), protocol: Protocol::Tcp };
        let mut ends = Ends::open(vec![port]).unwrap();
        let connect = |listener: &TcpListener| {
            let client = std::net::TcpStream::connect(("127.0.0.1", number(listener))).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let moment = std::time::Duration::from_millis(200);
        drop(connect(&other));
        assert!(tokio::time::timeout(moment, ends.next()).await.is_err());
        let (client, server) = connect(&ours);
        assert_eq!(connections(&[port]), 1);
        assert!(tokio::time::timeout(moment, ends.next()).await.is_err());
        drop((client, server));
        tokio::time::timeout(10 * moment, ends.next()).await.unwrap().unwrap();
        assert_eq!(connections(&[port]), 0);
        // A client that never closes what its server has closed.
        let (client, server) = connect(&ours);
        drop(server);
        // The end is on its way for a moment.
        for _ in 0..100 {
            if connections(&[port]) == 0 {
                break;
            }
            tokio::time::sleep(moment / 20).await;
        }
        assert_eq!(connections(&[port]), 0);
        drop(client);
    }
}
