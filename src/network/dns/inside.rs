//! A resolver within a container's own network namespace, for who is on no bridge: on a
//! macvlan or ipvlan network there is no gateway of ours to ask, and the kernel lets
//! nothing pass between such an interface and its parent on the host.
//!
//! Its sockets are bound to free ports, and rules in that namespace lead port 53 of
//! [`ADDRESS`] there: a container that serves names itself takes port 53 for all
//! addresses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::manifest::publish::Protocol;
use crate::network::error::{Error, Result};
use crate::network::firewall;
use crate::network::netns;

/// Where a container finds it: the address that Docker's users know.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Binds its sockets, UDP and TCP.
///
/// # Errors
/// What the system said.
pub fn bind(netns: BorrowedFd<'_>) -> Result<[OwnedFd; 2]> {
    netns::inside(netns, || {
        let bind = || -> io::Result<[OwnedFd; 2]> {
            let at = SocketAddr::from((ADDRESS, 0));
            Ok([UdpSocket::bind(at)?.into(), TcpListener::bind(at)?.into()])
        };
        bind().map_err(|error| {
            Error::new("serve names in a container at", ADDRESS.to_string(), error)
        })
    })
}

/// Whether these are such sockets.
pub fn is_bound(sockets: &[&OwnedFd; 2]) -> bool {
    sockets.iter().all(|socket| port(socket).is_ok())
}

fn port(socket: &OwnedFd) -> io::Result<u16> {
    match SocketAddr::try_from(rustix::net::getsockname(socket.as_fd())?) {
        Ok(SocketAddr::V4(at)) if *at.ip() == ADDRESS => Ok(at.port()),
        _ => Err(io::Error::other("it is bound elsewhere")),
    }
}

/// Leads questions to port 53 to the sockets; without any, they go where they would.
///
/// # Errors
/// The kernel has no nf_tables.
pub fn lead(netns: BorrowedFd<'_>, sockets: Option<&[OwnedFd; 2]>) -> Result<()> {
    let failed = |error| Error::new("lead names to", ADDRESS.to_string(), error);
    let to = match sockets {
        Some([udp, tcp]) => vec![
            (Protocol::Udp, port(udp).map_err(failed)?),
            (Protocol::Tcp, port(tcp).map_err(failed)?),
        ],
        None => Vec::new(),
    };
    netns::inside(netns, || firewall::lead_names((ADDRESS, 53), &to))
}
