//! Questions to netfilter, one at a time: parts of the ruleset, and what connection
//! tracking knows.

use std::io;
use std::os::fd::AsFd;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::wire::{Message, take_message};

/// The attributes of a message, by their kind.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // Without the bits that say how it is nested and written.
        Some((kind & 0x3fff, value))
    })
}

/// A socket of the network namespace in which it was opened.
pub(super) struct Netfilter {
    socket: Socket,
    sequence: u32,
}

impl Netfilter {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> io::Result<Netfilter> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        let patience = nix::sys::time::TimeVal::new(10, 0);
        let _ = nix::sys::socket::setsockopt(
            &socket.as_fd(),
            nix::sys::socket::sockopt::ReceiveTimeout,
            &patience,
        );
        Ok(Netfilter { socket, sequence: 0 })
    }

    /// Asks for all objects; a question is a subsystem and its message. Tells of each its
    /// family and attributes.
    pub fn all(
        &mut self,
        question: (u16, u16),
        family: u8,
        body: &[u8],
        take: impl FnMut(u8, &[u8]),
    ) -> io::Result<()> {
        self.exchange(question, NLM_F_DUMP, family, body, take)
    }

    /// Has something done.
    pub fn order(&mut self, order: (u16, u16), family: u8, body: &[u8]) -> io::Result<()> {
        self.exchange(order, NLM_F_ACK, family, body, |_, _| ())
    }

    fn exchange(
        &mut self,
        (subsystem, what): (u16, u16),
        flags: u16,
        family: u8,
        body: &[u8],
        mut take: impl FnMut(u8, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        bytes.extend((20 + body.len() as u32).to_ne_bytes());
        bytes.extend((subsystem << 8 | what).to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        // struct nfgenmsg
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(body);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            let (bytes, from) = self.socket.recv_from_full()?;
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = bytes.as_slice();
            while let Some((message, tail)) = take_message(rest) {
                let Message { kind, sequence, body, .. } = message;
                rest = tail;
                if sequence != self.sequence {
                    continue;
                }
                if kind == libc::NLMSG_DONE as u16 {
                    return Ok(());
                }
                if kind == libc::NLMSG_ERROR as u16 {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
                    };
                }
                if let (Some(family), Some(body)) = (body.first(), body.get(4..)) {
                    take(*family, body);
                }
            }
        }
    }
}
