//! Tells when somebody removed or changed a table of ours.

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::wire::{Message, take_message};
use crate::network::Instance;
use crate::network::error::Result;
use crate::network::listener::Listener;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
const DELETE_TABLE: u16 = 2;
const DELETE_CHAIN: u16 = 5;
const DELETE_RULE: u16 = 8;
const DELETE_SET: u16 = 11;
const DELETE_ELEMENTS: u16 = 14;

/// Hears of every change of the ruleset.
#[derive(Debug)]
pub struct Watcher {
    listener: Listener,
    table: Vec<u8>,
    own: u32,
}

impl Watcher {
    /// Listens in the calling thread's network namespace for removals in the tables
    /// of `firewall`. To be called within a tokio runtime.
    pub fn open(instance: &Instance, firewall: &super::Firewall) -> Result<Watcher> {
        let listener =
            Listener::open(NETLINK_NETFILTER, &[GROUP], "changes of the nftables ruleset")?;
        let mut table = instance.table().into_bytes();
        table.push(0);
        Ok(Watcher { listener, table, own: firewall.wire.port() })
    }

    /// Waits until something of ours was removed by anybody but `firewall` itself.
    pub async fn removed(&mut self) -> Result<()> {
        let Watcher { listener, table, own } = self;
        listener.wait_for(|bytes| is_removal(bytes, table, *own)).await
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
