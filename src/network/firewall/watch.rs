//! Tells when somebody removed or changed a table of ours, or made chains of their own.

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::wire::{Message, take_message};
use crate::network::Instance;
use crate::network::error::Result;
use crate::network::listener::Listener;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const DELETE_RULE: u16 = 8;
const DELETE_SET: u16 = 11;
const DELETE_ELEMENTS: u16 = 14;

/// What was heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Others made or changed chains of their own.
    Others,
    /// More than could be listened to.
    Lost,
    /// Something of ours is gone.
    Removed,
}

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

    /// Waits until something of ours was removed by anybody but `firewall` itself, or
    /// others changed their chains, or too much came at once.
    pub async fn heard(&mut self) -> Result<Heard> {
        let Watcher { listener, table, own } = self;
        let mut most = None;
        listener
            .wait_for(|bytes| {
                let heard = what(bytes, table, *own);
                most = most.max(heard);
                heard.is_some()
            })
            .await?;
        Ok(most.unwrap_or(Heard::Lost))
    }
}

/// Whether one of these messages removes something of the table, or is of another one's
/// chain; the table's name, with a zero at its end, is the first attribute of each. No
/// bytes stand for messages that were lost.
fn what(bytes: &[u8], table: &[u8], own: u32) -> Option<Heard> {
    let mut rest = bytes;
    let mut heard = bytes.is_empty().then_some(Heard::Lost);
    while let Some((message, tail)) = take_message(rest) {
        let Message { kind, sender, body, .. } = message;
        rest = tail;
        if sender == own || kind >> 8 != SUBSYSTEM {
            continue;
        }
        // struct nfgenmsg, then the attribute's length and type.
        let is_ours = body.get(8..8 + table.len()) == Some(table);
        let removals = [DELETE_TABLE, DELETE_CHAIN, DELETE_RULE, DELETE_SET, DELETE_ELEMENTS];
        let kind = kind & 0xff;
        if is_ours && removals.contains(&kind) {
            return Some(Heard::Removed);
        }
        if !is_ours && kind == NEW_CHAIN {
            heard = Some(Heard::Others);
        }
    }
    heard
}
