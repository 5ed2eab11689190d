//! Tells when somebody removed or changed a table of ours.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::wire::{Message, take_message};
use crate::network::Instance;
use crate::network::error::{Error, Result};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
const DELETE_TABLE: u16 = 2;
const DELETE_CHAIN: u16 = 5;
const DELETE_RULE: u16 = 8;
const DELETE_SET: u16 = 11;
const DELETE_ELEMENTS: u16 = 14;

/// How long the messages of one change take to come.
const SETTLE: Duration = Duration::from_millis(3);

/// A socket that hears of every change of the ruleset.
#[derive(Debug)]
pub struct Watcher {
    socket: AsyncFd<OwnedFd>,
    table: Vec<u8>,
    own: u32,
}

impl Watcher {
    /// Listens in the calling thread's network namespace for removals in the tables
    /// of `firewall`. To be called within a tokio runtime.
    pub fn open(instance: &Instance, firewall: &super::Firewall) -> Result<Watcher> {
        let failed = |error| Error::new("listen to", "changes of the nftables ruleset", error);
        let open = || -> io::Result<AsyncFd<OwnedFd>> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.add_membership(GROUP)?;
            socket.set_non_blocking(true)?;
            let fd = rustix::io::fcntl_dupfd_cloexec(&socket, 0)?;
            crate::sys::readiness::watch(fd, Interest::READABLE)
        };
        let mut table = instance.table().into_bytes();
        table.push(0);
        Ok(Watcher { socket: open().map_err(failed)?, table, own: firewall.wire.port() })
    }

    /// Waits until something of ours was removed by anybody but `firewall` itself.
    /// Messages that were lost because there were too many count as a removal.
    pub async fn removed(&mut self) -> Result<()> {
        let failed = |error| Error::new("hear of", "changes of the nftables ruleset", error);
        loop {
            let ready = self.socket.readable().await.map_err(failed)?;
            drop(ready);
            if self.drain().map_err(failed)? {
                // A flush is told in many messages; one answer is enough for them.
                tokio::time::sleep(SETTLE).await;
                self.drain().map_err(failed)?;
                return Ok(());
            }
        }
    }

    /// Reads all that is there; says whether something of ours was removed.
    fn drain(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; 64 * 1024];
        let mut removed = false;
        loop {
            let fd = self.socket.get_ref();
            match self.socket.try_io(Interest::READABLE, |_| Ok(rustix::io::read(fd, &mut bytes)?))
            {
                Ok(length) => removed |= is_removal(&bytes[..length], &self.table, self.own),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(removed),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether one of these messages removes something of the table; its name, with a
/// zero at its end, is the first attribute of each.
fn is_removal(bytes: &[u8], table: &[u8], own: u32) -> bool {
    let mut rest = bytes;
    while let Some((message, tail)) = take_message(rest) {
        let Message { kind, sender, body, .. } = message;
        rest = tail;
        let removals = [DELETE_TABLE, DELETE_CHAIN, DELETE_RULE, DELETE_SET, DELETE_ELEMENTS];
        let is_removal =
            sender != own && kind >> 8 == SUBSYSTEM && removals.contains(&(kind & 0xff));
        // struct nfgenmsg, then the attribute's length and type.
        if is_removal && body.get(8..8 + table.len()) == Some(table) {
            return true;
        }
    }
    false
}
