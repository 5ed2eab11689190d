//! A ruleset in one nfnetlink batch: the kernel takes all of it or nothing.

use std::io;
use std::os::fd::AsFd;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::expr::Attributes;
use super::ruleset::{Chain, Element, Family, Set, Table};
use crate::network::error::{Error, Result};
use crate::network::netlink::socket;

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
/// Elements in one message: an attribute is at most 64 KiB.
const ELEMENTS_AT_ONCE: usize = 400;

/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`: nobody else can change the table, a
/// `flush ruleset` passes it by, and it stays when our socket is gone (Linux 6.9).
const OWNED: u32 = 2 | 4;

/// Where rulesets are given to the kernel. The socket owns our tables.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    port: u32,
    sequence: u32,
    /// Whether tables are owned; found out with the first one.
    owned: bool,
}

/// Messages of one batch, and what each is about, for errors.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    about: Vec<String>,
    first: u32,
    /// Where the newest message begins.
    newest: usize,
}

impl Batch {
    fn push(&mut self, kind: u16, flags: u16, family: u8, about: String, body: &[u8]) {
        self.newest = self.bytes.len();
        let sequence = self.first.wrapping_add(self.about.len() as u32);
        let resource = if kind == BATCH_BEGIN || kind == BATCH_END { SUBSYSTEM } else { 0 };
        put_message(&mut self.bytes, (kind, flags, sequence), (family, resource), body);
        self.about.push(about);
    }

    fn message(&mut self, kind: u16, flags: u16, family: Family, about: String, body: &Attributes) {
        self.push(SUBSYSTEM << 8 | kind, flags, family.number(), about, &body.0);
    }

    fn table(&mut self, table: &Table, owned: bool) {
        let about = |what: &str| format!("{what} of the table {} {}", table.family, table.name);
        let mut named = Attributes::default();
        named.text(1, &table.name).number(2, if owned { OWNED } else { 0 });
        // Made so that there is one to delete, and that one is ours.
        self.message(NEW_TABLE, NLM_F_CREATE, table.family, about("the making"), &named);
        self.message(DELETE_TABLE, 0, table.family, about("the removal"), &named);
        if table.is_empty() {
            return;
        }
        self.message(NEW_TABLE, NLM_F_CREATE, table.family, about("the making"), &named);
        for (number, set) in table.sets.iter().enumerate() {
            self.message(
                NEW_SET,
                NLM_F_CREATE,
                table.family,
                about(set.name),
                &set_attributes(table, set, number as u32 + 1),
            );
            self.elements(table.family, &table.name, set.name, &set.elements, NEW_ELEMENTS);
        }
        for chain in &table.chains {
            let body = chain_attributes(table, chain);
            self.message(NEW_CHAIN, NLM_F_CREATE, table.family, about(chain.name), &body);
            for (number, rule) in chain.rules.iter().enumerate() {
                let mut body = Attributes::default();
                body.text(1, &table.name).text(2, chain.name).nested(4, |list| {
                    for expr in rule {
                        expr.emit(list);
                    }
                });
                let what = format!("rule {number} of {}", chain.name);
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.message(NEW_RULE, flags, table.family, about(&what), &body);
            }
        }
    }

    fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: &[Element],
        kind: u16,
    ) {
        for some in elements.chunks(ELEMENTS_AT_ONCE) {
            let mut body = Attributes::default();
            body.text(1, table).text(2, set).nested(3, |list| {
                for element in some {
                    list.nested(1, |one| {
                        one.data(1, &element.key);
                        if !element.value.is_empty() {
                            one.data(2, &element.value);
                        }
                    });
                }
            });
            let flags = if kind == NEW_ELEMENTS { NLM_F_CREATE } else { 0 };
            self.message(kind, flags, family, format!("elements of {set}"), &body);
        }
    }
}

fn set_attributes(table: &Table, set: &Set, id: u32) -> Attributes {
    const MAP: u32 = 8;
    let mut body = Attributes::default();
    body.text(1, &table.name).text(2, set.name);
    body.number(3, if set.value.is_some() { MAP } else { 0 });
    body.number(4, set.key.kind()).number(5, set.key.length());
    if let Some(value) = &set.value {
        body.number(6, value.kind()).number(7, value.length());
    }
    body.number(10, id);
    body
}

fn chain_attributes(table: &Table, chain: &Chain) -> Attributes {
    let mut body = Attributes::default();
    body.text(1, &table.name).text(3, chain.name);
    body.nested(4, |hook| {
        hook.number(1, chain.hook).bytes(2, &chain.priority.to_be_bytes());
    });
    // Policy accept: what we say nothing about is the host's own matter.
    body.number(5, 1).text(7, chain.kind);
    body
}

impl Wire {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Wire> {
        let failed = |error| Error::new("open", "a netfilter socket (nfnetlink)", error);
        let (socket, port) = socket(NETLINK_NETFILTER).map_err(failed)?;
        Ok(Wire { socket, port, sequence: 1, owned: true })
    }

    /// Whether others can't change our tables.
    pub(super) fn is_owner(&self) -> bool {
        self.owned
    }

    /// The port of its socket, which marks its changes.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Gives up ownership for kernels, and tests, without it.
    pub(super) fn disown(&mut self) {
        self.owned = false;
    }

    /// Replaces these tables by what they are now; an empty one is removed.
    pub(super) fn replace(&mut self, tables: &[Table]) -> Result<()> {
        let owned = self.owned;
        let result = self.commit(|batch| tables.iter().for_each(|table| batch.table(table, owned)));
        match result {
            // EOPNOTSUPP, EINVAL: this kernel has no owned tables that persist, or
            // the table was made by an earlier Berth that did not own it.
            Err(error)
                if owned && matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
            {
                self.owned = false;
                let again = self.commit(|batch| {
                    tables.iter().for_each(|table| batch.table(table, false));
                });
                self.owned = again.is_err();
                again
            }
            other => other,
        }
    }

    /// Adds and removes elements of sets, and nothing else.
    pub(super) fn change(&mut self, changes: &[super::ruleset::Change<'_>]) -> Result<()> {
        self.commit(|batch| {
            for change in changes {
                let (family, table, set) = (change.family, change.table, change.set);
                batch.elements(family, table, set, &change.removed, DELETE_ELEMENTS);
                batch.elements(family, table, set, &change.added, NEW_ELEMENTS);
            }
        })
    }

    fn commit(&mut self, fill: impl FnOnce(&mut Batch)) -> Result<()> {
        let mut batch = Batch { first: self.sequence, ..Batch::default() };
        batch.push(BATCH_BEGIN, 0, 0, "the batch".into(), &[]);
        fill(&mut batch);
        if batch.about.len() == 1 {
            return Ok(());
        }
        // The last one asks for an answer: there would be none otherwise.
        let last = batch.first.wrapping_add(batch.about.len() as u32 - 1);
        if let Some(flags) = batch.bytes.get_mut(batch.newest + 6..batch.newest + 8) {
            flags.copy_from_slice(
                &(u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK).to_ne_bytes(),
            );
        }
        batch.push(BATCH_END, 0, 0, "the batch".into(), &[]);
        self.sequence = batch.first.wrapping_add(batch.about.len() as u32);
        let failed = |error| Error::new("change", "the nftables ruleset", error);
        let room = batch.bytes.len() * 2;
        let _ = nix::sys::socket::setsockopt(
            &self.socket.as_fd(),
            nix::sys::socket::sockopt::SndBufForce,
            &room,
        );
        self.socket.send_to(&batch.bytes, &SocketAddr::new(0, 0), 0).map_err(failed)?;
        self.await_answer(&batch, last)
    }

    /// The first error of a batch, or that there was none.
    fn await_answer(&mut self, batch: &Batch, last: u32) -> Result<()> {
        let mut first: Option<Error> = None;
        loop {
            let (bytes, from) = match self.socket.recv_from_full() {
                Ok(received) => received,
                Err(error) => {
                    return Err(first
                        .unwrap_or_else(|| Error::new("change", "the nftables ruleset", error)));
                }
            };
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = bytes.as_slice();
            while let Some((message, tail)) = take_message(rest) {
                rest = tail;
                let index = message.sequence.wrapping_sub(batch.first) as usize;
                let (Some(answer), Some(about)) = (message.answer(), batch.about.get(index)) else {
                    continue;
                };
                if let Err(error) = answer {
                    first.get_or_insert_with(|| Error::new("set", about.clone(), error));
                }
                let is_end = index == 0 || message.sequence == last;
                if is_end {
                    return first.map_or(Ok(()), Err);
                }
            }
        }
    }
}

/// One netlink message.
pub(super) struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// The sequence number of the request.
    pub sequence: u32,
    /// The port of the socket whose request it is about.
    pub sender: u32,
    /// What follows its header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// What the system says of the request, if this is the answer to it.
    pub fn answer(&self) -> Option<io::Result<()>> {
        if self.kind != libc::NLMSG_ERROR as u16 {
            return None;
        }
        let code = self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        Some(match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
        })
    }
}

/// Puts one request behind others: its type, flags and sequence number, then the family and
/// the resource of `struct nfgenmsg`, then its body.
pub(super) fn put_message(
    bytes: &mut Vec<u8>,
    (kind, flags, sequence): (u16, u16, u32),
    (family, resource): (u8, u16),
    body: &[u8],
) {
    bytes.extend((20 + body.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Takes one message off; gives the rest too.
pub(super) fn take_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let number =
        |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|number| u32::from_ne_bytes(*number));
    let length = number(0)? as usize;
    let message = Message {
        kind: u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]),
        sequence: number(8)?,
        sender: number(12)?,
        body: bytes.get(16..length)?,
    };
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
