//! Questions to netfilter, one at a time: parts of the ruleset, and what connection
//! tracking knows.

use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::wire::{put_message, take_message};
use crate::network::netlink::socket;

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
        Ok(Netfilter { socket: socket(NETLINK_NETFILTER)?.0, sequence: 0 })
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
        put_message(&mut bytes, (subsystem << 8 | what, flags, self.sequence), (family, 0), body);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            let (bytes, from) = self.socket.recv_from_full()?;
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = bytes.as_slice();
            while let Some((message, tail)) = take_message(rest) {
                rest = tail;
                if message.sequence != self.sequence {
                    continue;
                }
                if message.kind == libc::NLMSG_DONE as u16 {
                    return Ok(());
                }
                if let Some(answer) = message.answer() {
                    return answer;
                }
                if let (Some(family), Some(body)) = (message.body.first(), message.body.get(4..)) {
                    take(*family, body);
                }
            }
        }
    }
}
