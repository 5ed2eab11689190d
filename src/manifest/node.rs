//! What both languages are read into: a tree that remembers where each part stood.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// A part of a tree, told apart from every other.
pub type Id = u32;

/// Where something stands: in which of a manifest's files (the manifest itself is
/// 0, its drop-ins follow), and at which bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spot {
    /// Which file.
    pub file: usize,
    /// Which bytes of it.
    pub span: Range<usize>,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Itself.
    pub id: Id,
    /// Where.
    pub spot: Spot,
    /// What.
    pub value: Value,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub spot: Spot,
    /// The value.
    pub node: Node,
}

/// What a manifest can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// KDL's `#null`: as if the key were not there.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// Several values.
    List(Vec<Node>),
    /// KDL's arguments: one of them is also the value itself.
    Args(Vec<Node>),
    /// Keys and values.
    Table(Vec<Entry>),
}

static NEXT: AtomicU32 = AtomicU32::new(1);

impl Node {
    /// A part with an id of its own.
    pub fn new(spot: Spot, value: Value) -> Self {
        Node { id: NEXT.fetch_add(1, Ordering::Relaxed), spot, value }
    }

    /// The entries, if it is a table.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// Takes an entry out of a table.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let Value::Table(entries) = &mut self.value else {
            return None;
        };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }

    /// Removes the entry or the element with an id, wherever it is.
    pub fn remove(&mut self, id: Id) -> bool {
        match &mut self.value {
            Value::Table(entries) => {
                let before = entries.len();
                entries.retain(|entry| entry.node.id != id);
                before != entries.len() || entries.iter_mut().any(|entry| entry.node.remove(id))
            }
            Value::List(nodes) | Value::Args(nodes) => {
                let before = nodes.len();
                nodes.retain(|node| node.id != id);
                before != nodes.len() || nodes.iter_mut().any(|node| node.remove(id))
            }
            _ => false,
        }
    }

    /// Lays another tree over this one: tables merge, all else is replaced.
    pub fn overlay(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(entries), Value::Table(others)) => {
                for other in others {
                    match entries.iter_mut().find(|entry| entry.key == other.key) {
                        Some(entry) => {
                            entry.spot = other.spot;
                            entry.node.overlay(other.node);
                        }
                        None => entries.push(other),
                    }
                }
            }
            (value, other) => {
                *value = other;
                self.spot = over.spot;
            }
        }
    }

    /// Replaces every text by what `change` makes of it.
    pub fn each_text(&mut self, change: &mut impl FnMut(&Spot, &str) -> Option<String>) {
        match &mut self.value {
            Value::Text(text) => {
                if let Some(new) = change(&self.spot, text) {
                    *text = new;
                }
            }
            Value::List(nodes) | Value::Args(nodes) => {
                nodes.iter_mut().for_each(|node| node.each_text(change));
            }
            Value::Table(entries) => {
                entries.iter_mut().for_each(|entry| entry.node.each_text(change));
            }
            _ => {}
        }
    }
}

/// How deep a manifest may nest. Parsers recurse: a deeper one never reaches them.
pub const DEPTH_MAX: usize = 100;

/// Whether a text could nest deeper than [`DEPTH_MAX`]: brackets are counted
/// wherever they stand, and dots of a key as well.
pub fn nests_too_deep(text: &str) -> bool {
    let mut depth = 0usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    text.lines().any(|line| {
        let key = line.split('=').next().unwrap_or_default();
        key.bytes().filter(|byte| *byte == b'.').count() > DEPTH_MAX
            || line.matches("/*").count() > DEPTH_MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Node {
        Node::new(Spot::default(), Value::Text(value.into()))
    }

    fn table(entries: Vec<(&str, Node)>) -> Node {
        let entries = entries
            .into_iter()
            .map(|(key, node)| Entry { key: key.into(), spot: Spot::default(), node })
            .collect();
        Node::new(Spot::default(), Value::Table(entries))
    }

    #[test]
    fn tables_merge_and_all_else_is_replaced() {
        let mut base = table(vec![("a", text("1")), ("t", table(vec![("x", text("1"))]))]);
        base.overlay(table(vec![("t", table(vec![("x", text("2")), ("y", text("3"))]))]));
        assert_eq!(base.entries().len(), 2);
        let inner = &base.entries()[1].node;
        assert!(matches!(&inner.entries()[0].node.value, Value::Text(t) if t == "2"));
        assert_eq!(inner.entries().len(), 2);
    }

    #[test]
    fn depth_is_seen_before_any_parser() {
        assert!(nests_too_deep(&"[".repeat(100_000)));
        assert!(nests_too_deep(&"a.".repeat(100_000)));
        assert!(!nests_too_deep("a = [[1], [2]]\n[b.c.d]\n"));
    }
}
