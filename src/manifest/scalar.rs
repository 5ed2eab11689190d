//! The scalars of a manifest: names, sizes and signals, each a type that can't
//! hold what a manifest must not say. Serialised as a person would write them.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal as NixSignal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The name of a container: `[a-zA-Z0-9][a-zA-Z0-9._@-]*`, at most 63 bytes.
///
/// `@` stands only between a template's name and its instance (`worker@1`).
/// A name is safe as a file name, a host name's label and a cgroup's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// The longest name, in bytes: that of a host name's label (RFC 1035 2.3.4).
pub const NAME_MAX: usize = 63;

/// No name ends with it.
const NOBODY: char = '~';

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What nobody can be called: whom this name means, where it means nobody.
    pub fn nobody(&self) -> Name {
        Name(format!("{}{NOBODY}", self.0))
    }

    /// The name that was meant.
    pub fn meant(&self) -> Name {
        Name(self.0.strip_suffix(NOBODY).unwrap_or(&self.0).to_owned())
    }

    /// The template and the instance of a name such as `worker@1`.
    pub fn instance(&self) -> Option<(&str, &str)> {
        self.0.split_once('@')
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part_ok = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        if text.len() > NAME_MAX {
            return Err(format!(
                "the name is {} bytes long; at most {NAME_MAX} are allowed",
                text.len()
            ));
        }
        let ok = match text.split_once('@') {
            Some((template, instance)) => part_ok(template) && part_ok(instance),
            None => part_ok(text),
        };
        if !ok {
            return Err(format!(
                "{text:?} is not a container's name: letters, digits, '.', '_' and '-', beginning \
                 with a letter or a digit"
            ));
        }
        Ok(Name(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A size in bytes. Written as `256MiB`, `1GB` or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Size(size.as_u64()))
            .map_err(|_| format!("{text:?} is not a size; write it as 256MiB, 1GB or 65536"))
    }
}

impl fmt::Display for Size {
    /// The shortest exact form: `256MiB`, not `268435456`, but `1000000` as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A signal by its number, so that real-time signals are there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal(pub i32);

impl Signal {
    /// `SIGTERM`, what stops a container unless it says otherwise.
    pub const TERM: Signal = Signal(libc::SIGTERM);
    /// `SIGKILL`.
    pub const KILL: Signal = Signal(libc::SIGKILL);
    /// `SIGHUP`.
    pub const HUP: Signal = Signal(libc::SIGHUP);
    /// The first real-time signal that glibc leaves to programs (signal(7)).
    const RTMIN: i32 = 34;
    /// The last real-time signal.
    const RTMAX: i32 = 64;
}

impl FromStr for Signal {
    type Err = String;

    /// `SIGHUP`, `HUP`, `hup`, `1`, `SIGRTMIN+3`, `RTMAX-1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text:?} is not a signal; write it as SIGTERM, TERM or 15");
        if let Ok(number) = text.parse::<i32>() {
            return match number {
                1..=Self::RTMAX => Ok(Signal(number)),
                _ => Err(unknown()),
            };
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |rest: &str, sign: char| match rest {
            "" => Some(0),
            rest => rest.strip_prefix(sign)?.parse::<i32>().ok(),
        };
        let realtime = if let Some(rest) = bare.strip_prefix("RTMIN") {
            Some(offset(rest, '+').map(|n| Self::RTMIN + n))
        } else {
            bare.strip_prefix("RTMAX").map(|rest| offset(rest, '-').map(|n| Self::RTMAX - n))
        };
        if let Some(number) = realtime {
            return match number {
                Some(n @ Self::RTMIN..=Self::RTMAX) => Ok(Signal(n)),
                _ => Err(unknown()),
            };
        }
        let alias = match bare {
            "CLD" => "CHLD",
            "POLL" => "IO",
            bare => bare,
        };
        NixSignal::from_str(&format!("SIG{alias}"))
            .map(|signal| Signal(signal as i32))
            .map_err(|_| unknown())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NixSignal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) if self.0 >= Self::RTMIN => write!(f, "SIGRTMIN+{}", self.0 - Self::RTMIN),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

macro_rules! serialize_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialize_as_text!(Name, Size, Signal);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A number or a text, whichever the manifest has.
struct NumberOrText<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = String>> de::Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText(
            std::marker::PhantomData,
            "a size such as \"256MiB\" or a number of bytes",
        ))
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText(
            std::marker::PhantomData,
            "a signal such as \"SIGTERM\" or its number",
        ))
    }
}

impl JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$",
            "maxLength": NAME_MAX,
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a size: 256MiB, 1GB, or a number of bytes",
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? ?([kKmMgGtTpP]?i?[bB]?)$"},
                {"type": "integer", "minimum": 0},
            ],
        })
    }
}

impl JsonSchema for Signal {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a signal: SIGTERM, TERM, 15, SIGRTMIN+3",
            "anyOf": [
                {"type": "string"},
                {"type": "integer", "minimum": 1, "maximum": 64},
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["web", "0", "a.b_c-d", "worker@1", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a/b", "a@", "@1", "a@b@c", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_read_and_write_the_same() {
        for (text, bytes) in
            [("256MiB", 256 << 20), ("1GB", 1_000_000_000), ("65536", 65536), ("0", 0)]
        {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes);
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }
        assert!("lots".parse::<Size>().is_err());
    }

    #[test]
    fn signals_have_all_their_names() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGCLD", 17),
        ] {
            let signal: Signal = text.parse().unwrap();
            assert_eq!(signal.0, number, "{text}");
            assert_eq!(signal.to_string().parse::<Signal>().unwrap(), signal);
        }
        for bad in ["", "SIGFOO", "0", "65", "RTMIN+99", "RTMIN-1"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad:?}");
        }
    }
}
