//! The tree to a [`Container`], by serde, with every problem and not only the
//! first: what can't be read is noted, taken out of the tree, and the rest is read
//! again.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::model::Container;
use super::node::{Entry, Id, Node, Spot, Value};
use super::problem::{Fault, nearest};

/// More problems than this in one file are one problem: it is no manifest.
const FAULTS_MAX: usize = 100;

/// Reads a container from its tree; all that is wrong comes with it.
pub fn decode(mut tree: Node) -> (Container, Vec<Fault>) {
    let mut faults = Vec::new();
    loop {
        let error = match Container::deserialize(Decoder(&tree)) {
            Ok(mut container) => {
                if container.only_names_others() {
                    container.kind = super::service::Kind::Target;
                }
                return (container, faults);
            }
            Err(error) => error,
        };
        let removed = error.culprit.is_some_and(|id| tree.remove(id));
        faults.push(Fault {
            spot: error.spot.unwrap_or_else(|| tree.spot.clone()),
            message: error.message,
            hint: error.hint,
        });
        if !removed || faults.len() >= FAULTS_MAX {
            return (Container::default(), faults);
        }
    }
}

/// What serde says, and of which part.
#[derive(Debug)]
struct Error {
    message: String,
    hint: Option<String>,
    spot: Option<Spot>,
    culprit: Option<Id>,
}

impl Error {
    fn at(mut self, spot: &Spot, id: Id) -> Self {
        self.spot.get_or_insert_with(|| spot.clone());
        self.culprit.get_or_insert(id);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error { message: message.to_string(), hint: None, spot: None, culprit: None }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = match nearest(field, expected) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => {
                let mut known = expected.to_vec();
                known.sort_unstable();
                format!("known here: {}", known.join(", "))
            }
        };
        Error { hint: Some(hint), ..Self::custom(format!("unknown key `{field}`")) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = match nearest(variant, expected) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("one of {}", expected.join(", ")),
        };
        Error { hint: Some(hint), ..Self::custom(format!("{variant:?} is not allowed here")) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("the key `{field}` is missing"))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("this is {}; expected {}", named(found), kind(expected)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format!("{} can't be here; expected {}", named(found), kind(expected)))
    }
}

fn named(found: de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Str(text) => format!("the text {text:?}"),
        de::Unexpected::Signed(number) => format!("the number {number}"),
        de::Unexpected::Unsigned(number) => format!("the number {number}"),
        de::Unexpected::Float(number) => format!("the number {number}"),
        de::Unexpected::Bool(value) => format!("{value}"),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// serde names Rust's types; who writes a manifest needs none of them.
fn kind(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "bool" | "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => other.to_owned(),
    }
}

#[derive(Debug, Clone, Copy)]
struct Decoder<'a>(&'a Node);

impl<'a> Decoder<'a> {
    fn placed<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| error.at(&self.0.spot, self.0.id))
    }

    /// What stands for one value: one argument of KDL is the value itself.
    fn single(self) -> &'a Node {
        match &self.0.value {
            Value::Args(nodes) if nodes.len() == 1 => &nodes[0],
            _ => self.0,
        }
    }
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = self.single();
        self.placed(match &node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(nodes) | Value::Args(nodes) => visitor.visit_seq(Elements(nodes.iter())),
            Value::Table(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), current: None })
            }
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.placed(match self.single().value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.placed(visitor.visit_newtype_struct(self))
    }

    /// A list; in KDL also one table, or one value, where a list is wanted.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.placed(match &self.0.value {
            Value::Args(nodes) | Value::List(nodes) => visitor.visit_seq(Elements(nodes.iter())),
            Value::Table(_) => visitor.visit_seq(Elements(std::slice::from_ref(self.0).iter())),
            _ => return self.deserialize_any(visitor),
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let _ = (name, variants);
        self.placed(match &self.single().value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => return self.deserialize_any(visitor),
        })
    }

    /// Whole numbers do where a number is wanted.
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.single().value {
            Value::Int(number) => self.placed(visitor.visit_f64(*number as f64)),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char str string bytes
        byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

struct Elements<'a>(std::slice::Iter<'a, Node>);

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(Decoder(node)).map(Some).map_err(|error| error.at(&node.spot, node.id))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        // `key #null` is as if the key were not there.
        let entry = self.entries.by_ref().find(|entry| entry.node.value != Value::Null);
        let Some(entry) = entry else { return Ok(None) };
        self.current = Some(entry);
        let key: de::value::StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(&entry.spot, entry.node.id))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.current.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        seed.deserialize(Decoder(&entry.node))
            .map_err(|error| error.at(&entry.node.spot, entry.node.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{read_kdl, read_toml};

    fn toml(text: &str) -> (Container, Vec<Fault>) {
        decode(read_toml::read(text, 0).unwrap())
    }

    fn kdl(text: &str) -> (Container, Vec<Fault>) {
        decode(read_kdl::read(text, 0).unwrap())
    }

    #[test]
    fn every_problem_is_found() {
        let (container, faults) = toml(
            "rootfs = \"/\"\ncomand = [\"x\"]\ntty = 3\n[resources]\nmemory = \"lots\"\npids = 5\n\
             [[mount]]\nsource = \"a\"\n[log]\nmax-size = \"1MiB\"\nmax-sise = 1\n",
        );
        let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(faults.len(), 5, "{messages:?}");
        assert_eq!(faults[0].hint.as_deref(), Some("did you mean `command`?"));
        assert!(messages.iter().any(|message| message.contains("\"lots\" is not a size")));
        assert!(messages.contains(&"the key `target` is missing"));
        assert_eq!(container.resources.pids, Some(5), "the rest is read");
    }

    #[test]
    fn both_languages_mean_the_same() {
        let (from_toml, faults) = toml(
            "rootfs = \"/\"\ncommand = [\"nginx\", \"-g\"]\nafter = [\"db\"]\n\
             restart = \"on-failure:5\"\nenv = { LOG = \"info\" }\ntty = true\n\
             [resources]\nmemory = \"256MiB\"\ncpus = 2\n\
             [[mount]]\nsource = \"data\"\ntarget = \"/x\"\n[[mount]]\ntarget = \"/y\"\n\
             [health]\ntcp = \":80\"\ninterval = \"5s\"\n[rlimits]\nnofile = 10\n",
        );
        assert_eq!(faults, []);
        let (from_kdl, faults) =
            kdl("rootfs \"/\"\ncommand \"nginx\" \"-g\"\nafter \"db\"\nrestart \"on-failure:5\"\n\
             env LOG=\"info\"\ntty\nresources memory=\"256MiB\" cpus=2\n\
             mount source=\"data\" target=\"/x\"\nmount { target \"/y\" }\n\
             health { tcp \":80\"; interval \"5s\" }\nrlimits nofile=10\n");
        assert_eq!(faults, []);
        assert_eq!(from_toml, from_kdl);
    }

    #[test]
    fn a_manifest_reads_its_own_json() {
        let (container, _) = toml(
            "rootfs = \"/\"\ncommand = [\"x\"]\n[log]\nmax-age = \"1h\"\n[signals]\nreload = \"HUP\"\n\
             [security]\ncap-drop = [\"ALL\"]\n[rlimits]\ncore = \"unlimited\"\n",
        );
        let text = serde_json::to_string(&container).unwrap();
        assert_eq!(serde_json::from_str::<Container>(&text).unwrap(), container);
    }
}
