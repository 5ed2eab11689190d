//! Ports of the host: taking one, so that nobody else does, and who has it if
//! somebody does.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::error::{Error, Result};
use crate::manifest::publish::Protocol;

/// Binds a port of the host as long as the descriptor is open. A TCP socket listens,
/// with nobody to accept: the kernel translates what comes from elsewhere before it
/// gets there.
///
/// # Errors
/// The port is in use, and by which process, if it can be seen.
pub fn claim(address: Option<IpAddr>, port: u16, protocol: Protocol) -> Result<OwnedFd> {
    let all = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let bind = |address: IpAddr| -> io::Result<OwnedFd> {
        let at = SocketAddr::new(address, port);
        Ok(match protocol {
            Protocol::Tcp => TcpListener::bind(at)?.into(),
            Protocol::Udp => UdpSocket::bind(at)?.into(),
        })
    };
    let bound = match (address, bind(address.unwrap_or(all))) {
        // A host without IPv6.
        (None, Err(error)) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
        }
        (_, other) => other,
    };
    bound.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => match owner(port, protocol) {
                Some(owner) => format!("{owner} has it"),
                None => "a process that can't be seen has it (another container's?)".into(),
            },
            io::ErrorKind::AddrNotAvailable => "no interface has that address".into(),
            _ => String::new(),
        };
        let at = address.map(|address| format!(" of {address}")).unwrap_or_default();
        Error::new("publish the port", format!("{port}/{protocol}{at}"), error).with_remedy(remedy)
    })
}

/// The process that has a local port, as `nginx (pid 4711)`.
pub fn owner(port: u16, protocol: Protocol) -> Option<String> {
    let mut inodes = Vec::new();
    for version in ["", "6"] {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{protocol}{version}"));
        inodes.extend(inodes_of(&table.unwrap_or_default(), port, protocol));
    }
    let is_it = |target: &str| {
        target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inode| inodes.iter().any(|known| known == inode))
    };
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name();
        let Some(pid) = pid.to_str().and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        let descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            if target.to_str().is_some_and(is_it) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (pid {pid})", name.trim()));
            }
        }
    }
    None
}

/// How many TCP connections clients have to these local ports.
pub fn connections(ports: &[u16]) -> usize {
    let wanted: Vec<String> = ports.iter().map(|port| format!(":{port:04X}")).collect();
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().take(4).collect();
        // proc_net(5): established, and those whose other end still sends or reads.
        let lives = fields.get(3).is_some_and(|state| ["01", "04", "05", "08"].contains(state));
        lives && fields.get(1).is_some_and(|at| wanted.iter().any(|port| at.ends_with(port)))
    };
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .map(|table| table.lines().skip(1).filter(is_one).count())
        .sum()
}

/// The inodes of sockets that have this local port, in the text of `/proc/net/tcp`
/// and its like (proc_net(5)): listening ones of TCP, all of UDP.
fn inodes_of(table: &str, port: u16, protocol: Protocol) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let state = *fields.get(3)?;
            let is_open = protocol == Protocol::Udp || state == "0A";
            let is_it = fields.get(1)?.ends_with(&wanted) && is_open;
            fields.get(9).filter(|_| is_it).map(|inode| (*inode).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_its_owner() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let error = claim(Some("127.0.0.1".parse().unwrap()), port, Protocol::Tcp).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&format!("(pid {pid}) has it")), "{error}");
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(owner(port, Protocol::Udp).unwrap().contains(&pid));
        drop((ours, udp));
        assert!(claim(None, port, Protocol::Udp).is_ok());
    }
}
