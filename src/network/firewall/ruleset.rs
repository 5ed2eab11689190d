//! Tables, chains and sets as data. Pure.

use std::fmt;

use super::expr::Expr;

/// An address family of nftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames between ports of a bridge.
    Bridge,
}

impl Family {
    /// `NFPROTO_*`.
    pub(super) fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Bridge => 7,
            Family::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Bridge => "bridge",
        })
    }
}

/// A part of a set's key or value. The numbers are those by which the `nft` program
/// knows how to print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// An interface's name.
    Interface,
    /// A hardware address.
    Mac,
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// tcp or udp.
    Protocol,
    /// A port.
    Port,
}

/// The type of a set's key or of a map's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type(pub &'static [Part]);

impl Type {
    pub(super) fn kind(&self) -> u32 {
        self.0.iter().fold(0, |kind, part| {
            kind << 6
                | match part {
                    Part::Interface => 41,
                    Part::Mac => 9,
                    Part::V4 => 7,
                    Part::V6 => 8,
                    Part::Protocol => 12,
                    Part::Port => 13,
                }
        })
    }

    pub(super) fn length(&self) -> u32 {
        self.0
            .iter()
            .map(|part| match part {
                Part::Interface | Part::V6 => 16,
                Part::Mac => 8,
                Part::V4 | Part::Protocol | Part::Port => 4,
            })
            .sum()
    }
}

/// One element of a set, or with a value of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key's parts, each filled up to 4 bytes.
    pub key: Vec<u8>,
    /// The value; empty in a set.
    pub value: Vec<u8>,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name in the table.
    pub name: &'static str,
    /// The type of its keys.
    pub key: Type,
    /// The type of its values; without, it is a set.
    pub value: Option<Type>,
    /// What is in it, sorted.
    pub elements: Vec<Element>,
}

/// A base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*` or `NF_BR_*`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    /// Where it stands among the chains of its hook.
    pub priority: i32,
    /// Its rules.
    pub rules: Vec<Vec<Expr>>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

impl Table {
    /// Whether there is nothing in it, so that it should not be there.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }
}

/// What changed in one set.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub family: Family,
    pub table: &'a str,
    pub set: &'a str,
    pub removed: Vec<Element>,
    pub added: Vec<Element>,
}

/// What must change in sets for `old` to become `new`; `None` if more than that is
/// different.
pub(super) fn difference<'a>(old: &[Table], new: &'a [Table]) -> Option<Vec<Change<'a>>> {
    let mut changes = Vec::new();
    if old.len() != new.len() {
        return None;
    }
    for (old, new) in old.iter().zip(new) {
        let is_same = (old.family, &old.name, &old.chains) == (new.family, &new.name, &new.chains)
            && old.sets.len() == new.sets.len();
        if !is_same {
            return None;
        }
        for (before, after) in old.sets.iter().zip(&new.sets) {
            if (before.name, &before.key, &before.value) != (after.name, &after.key, &after.value) {
                return None;
            }
            let without = |some: &[Element], others: &[Element]| -> Vec<Element> {
                some.iter().filter(|one| others.binary_search(one).is_err()).cloned().collect()
            };
            let removed = without(&before.elements, &after.elements);
            let added = without(&after.elements, &before.elements);
            if !removed.is_empty() || !added.is_empty() {
                let (family, table, set) = (new.family, new.name.as_str(), after.name);
                changes.push(Change { family, table, set, removed, added });
            }
        }
    }
    Some(changes)
}
