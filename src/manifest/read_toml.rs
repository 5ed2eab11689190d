//! TOML to the tree.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::node::{Entry, Node, Spot, Value};
use super::problem::Fault;

/// Reads TOML; all syntax errors of the text, or the tree.
pub fn read(text: &str, file: usize) -> Result<Node, Vec<Fault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .into_iter()
            .map(|error| Fault {
                spot: Spot { file, span: error.span().unwrap_or(0..0) },
                message: error.message().to_owned(),
                hint: None,
            })
            .collect());
    }
    let mut faults = Vec::new();
    let span = table.span();
    let node = of_table(table.into_inner(), span, file, &mut faults);
    if faults.is_empty() { Ok(node) } else { Err(faults) }
}

fn of_table(
    table: DeTable<'_>,
    span: std::ops::Range<usize>,
    file: usize,
    faults: &mut Vec<Fault>,
) -> Node {
    let entries = table
        .into_iter()
        .map(|(key, value)| {
            let spot = Spot { file, span: key.span() };
            Entry { key: key.into_inner().into_owned(), spot, node: of_value(value, file, faults) }
        })
        .collect();
    Node::new(Spot { file, span }, Value::Table(entries))
}

fn of_value(value: Spanned<DeValue<'_>>, file: usize, faults: &mut Vec<Fault>) -> Node {
    let span = value.span();
    let spot = Spot { file, span: span.clone() };
    let mut number = |text: String, what: &str| {
        faults.push(Fault {
            spot: spot.clone(),
            message: format!("{text} is not {what} that fits"),
            hint: None,
        });
        Value::Null
    };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) => Value::Int(value),
            Err(_) => number(integer.as_str().to_owned(), "a whole number"),
        },
        DeValue::Float(float) => match float.as_str().parse() {
            Ok(value) => Value::Float(value),
            Err(_) => number(float.as_str().to_owned(), "a number"),
        },
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(array) => {
            Value::List(array.into_iter().map(|value| of_value(value, file, faults)).collect())
        }
        DeValue::Table(table) => return of_table(table, span, file, faults),
    };
    Node::new(spot, value)
}
