//! Tells when somebody removed a bridge of ours.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::{Error, Result};
use super::names::Instance;

/// `RTNLGRP_LINK` (rtnetlink(7)).
const GROUP: u32 = 1;
/// How long the messages of one change take to come.
const SETTLE: Duration = Duration::from_millis(3);

/// A socket that hears of every interface that comes, changes or goes.
#[derive(Debug)]
pub struct Watcher {
    socket: AsyncFd<OwnedFd>,
    instance: Instance,
}

impl Watcher {
    /// Listens in the calling thread's network namespace; within a tokio runtime.
    pub fn open(instance: &Instance) -> Result<Watcher> {
        let open = || -> io::Result<AsyncFd<OwnedFd>> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            let fd = rustix::io::fcntl_dupfd_cloexec(&socket, 0)?;
            crate::sys::readiness::watch(fd, Interest::READABLE)
        };
        let socket = open().map_err(|error| Error::new("listen to", "changes of links", error))?;
        Ok(Watcher { socket, instance: instance.clone() })
    }

    /// Waits until a bridge of ours, or the pair of the admission, has gone. Messages
    /// that were lost because there were too many count as that.
    pub async fn removed(&mut self) -> Result<()> {
        let failed = |error| Error::new("hear of", "changes of links", error);
        loop {
            drop(self.socket.readable().await.map_err(failed)?);
            if self.drain().map_err(failed)? {
                tokio::time::sleep(SETTLE).await;
                self.drain().map_err(failed)?;
                return Ok(());
            }
        }
    }

    fn drain(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; 64 * 1024];
        let mut removed = false;
        loop {
            let fd = self.socket.get_ref();
            match self.socket.try_io(Interest::READABLE, |_| Ok(rustix::io::read(fd, &mut bytes)?))
            {
                Ok(length) => removed |= self.is_removal(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(removed),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn is_removal(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            let length = (message.header.length as usize).next_multiple_of(4);
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) =
                message.payload
            {
                let is_ours = link.attributes.iter().any(|attribute| match attribute {
                    LinkAttribute::IfName(name) => self.instance.is_lasting(name),
                    _ => false,
                });
                if is_ours {
                    return true;
                }
            }
            match rest.get(length..) {
                Some(tail) if length > 0 && !tail.is_empty() => rest = tail,
                _ => break,
            }
        }
        false
    }
}
