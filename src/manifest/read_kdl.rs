//! KDL 2 to the tree, as it reads naturally: `command "nginx" "-g"` is a list,
//! `mount source="data" target="/x"` a table, a repeated node a list of them,
//! children are a table, a bare node is true.

use kdl::{KdlDocument, KdlNode, KdlValue};

use super::node::{Entry, Node, Spot, Value};
use super::problem::Fault;

/// Reads KDL; all syntax errors of the text, or the tree.
pub fn read(text: &str, file: usize) -> Result<Node, Vec<Fault>> {
    let document = KdlDocument::parse_v2(text).map_err(|error| {
        let faults = error.diagnostics.iter().map(|found| Fault {
            spot: Spot { file, span: found.span.offset()..found.span.offset() + found.span.len() },
            message: found.message.clone().unwrap_or_else(|| "this is not KDL".to_owned()),
            hint: found.help.clone(),
        });
        faults.collect::<Vec<_>>()
    })?;
    let mut faults = Vec::new();
    let node = of_document(&document, file, &mut faults);
    if faults.is_empty() { Ok(node) } else { Err(faults) }
}

fn of_document(document: &KdlDocument, file: usize, faults: &mut Vec<Fault>) -> Node {
    let mut entries: Vec<Entry> = Vec::new();
    for kdl in document.nodes() {
        let name = kdl.name();
        let key = name.value().to_owned();
        let spot = Spot { file, span: span(name.span()) };
        let node = of_node(kdl, file, faults);
        match entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => repeat(&mut entry.node, node),
            None => entries.push(Entry { key, spot, node }),
        }
    }
    Node::new(Spot { file, span: span(document.span()) }, Value::Table(entries))
}

/// A node that stands twice: named tables (`container "a" {}`) merge, everything
/// else becomes a list.
fn repeat(first: &mut Node, again: Node) {
    let is_named = |node: &Node| {
        matches!(&node.value, Value::Table(entries)
        if entries.len() == 1 && entries[0].spot == node.spot)
    };
    let both_named = is_named(&again)
        && matches!(&first.value, Value::Table(entries)
            if entries.iter().all(|entry| matches!(entry.node.value, Value::Table(_))));
    match (&mut first.value, again.value) {
        (Value::Table(entries), Value::Table(others)) if both_named => entries.extend(others),
        (Value::List(nodes), other) => {
            nodes.push(Node::new(again.spot, other));
        }
        (Value::Args(nodes), Value::Args(others)) => nodes.extend(others),
        (value, other) => {
            let old = Node::new(first.spot.clone(), std::mem::replace(value, Value::Null));
            *value = Value::List(vec![old, Node::new(again.spot, other)]);
        }
    }
}

fn of_node(kdl: &KdlNode, file: usize, faults: &mut Vec<Fault>) -> Node {
    let spot = Spot { file, span: span(kdl.span()) };
    let (mut args, mut entries) = (Vec::new(), Vec::new());
    for entry in kdl.entries() {
        let at = Spot { file, span: span(entry.span()) };
        let node = Node::new(at.clone(), of_value(entry.value(), &at, faults));
        match entry.name() {
            None => args.push(node),
            Some(name) => entries.push(Entry { key: name.value().to_owned(), spot: at, node }),
        }
    }
    if let Some(children) = kdl.children() {
        let inner = of_document(children, file, faults);
        if let Value::Table(more) = inner.value {
            entries.extend(more);
        }
    }
    let is_table = !entries.is_empty() || kdl.children().is_some();
    let name = match (args.as_slice(), is_table) {
        ([Node { value: Value::Text(name), .. }], true) => Some(name.clone()),
        _ => None,
    };
    match (args.is_empty(), is_table, name) {
        (true, false, _) => Node::new(spot, Value::Bool(true)),
        (false, false, _) => Node::new(spot, Value::Args(args)),
        (true, true, _) => Node::new(spot, Value::Table(entries)),
        // `container "web" { … }`: a table of one, under its name.
        (false, true, Some(key)) => {
            let inner = Node::new(spot.clone(), Value::Table(entries));
            let named = Entry { key, spot: spot.clone(), node: inner };
            Node::new(spot, Value::Table(vec![named]))
        }
        (false, true, None) => {
            faults.push(Fault {
                spot: spot.clone(),
                message: format!(
                    "`{}` has both arguments and properties or children",
                    kdl.name().value()
                ),
                hint: Some("write all of it as properties or as children".to_owned()),
            });
            Node::new(spot, Value::Null)
        }
    }
}

fn of_value(value: &KdlValue, spot: &Spot, faults: &mut Vec<Fault>) -> Value {
    match value {
        KdlValue::String(text) => Value::Text(text.clone()),
        KdlValue::Integer(number) => match i64::try_from(*number) {
            Ok(number) => Value::Int(number),
            Err(_) => {
                faults.push(Fault {
                    spot: spot.clone(),
                    message: format!("{number} is not a whole number that fits"),
                    hint: None,
                });
                Value::Null
            }
        },
        KdlValue::Float(number) => Value::Float(*number),
        KdlValue::Bool(value) => Value::Bool(*value),
        KdlValue::Null => Value::Null,
    }
}

fn span(of: miette::SourceSpan) -> std::ops::Range<usize> {
    of.offset()..of.offset() + of.len()
}
