//! Values of a manifest that are one of several forms, written as one text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::model::Restart;
use super::scalar::{Name, Size};

/// When a container that ended is started again (Docker's restart policies).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    No,
    /// When its exit status was not 0, at most `max` times in a row.
    OnFailure {
        /// Without it, without an end.
        max: Option<u32>,
    },
    /// Always, and after a boot also what a person had stopped.
    Always,
    /// Always, but what a person stopped stays stopped after a boot.
    UnlessStopped,
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => match text {
                "no" => Ok(RestartPolicy::No),
                "on-failure" => Ok(RestartPolicy::OnFailure { max: None }),
                "always" => Ok(RestartPolicy::Always),
                "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
                _ => Err(()),
            },
            Some(("on-failure", count)) => {
                count.parse().map(|max| RestartPolicy::OnFailure { max: Some(max) }).map_err(|_| ())
            }
            Some(_) => Err(()),
        }
        .map_err(|()| {
            format!(
                "{text:?} is not a restart policy: no, on-failure, on-failure:N, always or \
                 unless-stopped"
            )
        })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::No => f.write_str("no"),
            RestartPolicy::OnFailure { max: None } => f.write_str("on-failure"),
            RestartPolicy::OnFailure { max: Some(max) } => write!(f, "on-failure:{max}"),
            RestartPolicy::Always => f.write_str("always"),
            RestartPolicy::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// Where a container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// A namespace of its own with an interface on Berth's bridge.
    Bridge,
    /// A namespace of its own with only the loopback interface.
    None,
    /// The host's network.
    Host,
    /// The network of another container.
    Container(Name),
    /// A namespace that something else manages, by its path (ip-netns(8)).
    Namespace(PathBuf),
    /// A namespace of its own that CNI plugins set up: the name of their
    /// configuration list.
    Cni(String),
}

impl FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bridge" => Ok(NetworkMode::Bridge),
            "none" => Ok(NetworkMode::None),
            "host" => Ok(NetworkMode::Host),
            _ => match text.split_once(':') {
                Some(("container", name)) => name.parse().map(NetworkMode::Container),
                Some(("ns", path)) if path.starts_with('/') => {
                    Ok(NetworkMode::Namespace(path.into()))
                }
                Some(("cni", name)) if !name.is_empty() => Ok(NetworkMode::Cni(name.to_owned())),
                _ => Err(format!(
                    "{text:?} is not a network mode: bridge, none, host, container:NAME, \
                     ns:/PATH or cni:NAME"
                )),
            },
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkMode::Bridge => f.write_str("bridge"),
            NetworkMode::None => f.write_str("none"),
            NetworkMode::Host => f.write_str("host"),
            NetworkMode::Container(name) => write!(f, "container:{name}"),
            NetworkMode::Namespace(path) => write!(f, "ns:{}", path.display()),
            NetworkMode::Cni(name) => write!(f, "cni:{name}"),
        }
    }
}

/// Whose user and group ids a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Userns {
    /// A user namespace with a range of ids of its own.
    #[default]
    Auto,
    /// The host's.
    Host,
}

impl FromStr for Userns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Userns::Auto),
            "host" => Ok(Userns::Host),
            _ => Err(format!("{text:?} is not a user namespace: auto or host")),
        }
    }
}

impl fmt::Display for Userns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Userns::Auto => "auto",
            Userns::Host => "host",
        })
    }
}

/// A number of processors in thousandths, so that it can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus {
    /// Thousandths of a processor.
    pub milli: u32,
}

impl Cpus {
    fn from_number(number: f64) -> Result<Self, String> {
        let milli = (number * 1000.0).round();
        if number.is_finite() && (1.0..=f64::from(u32::MAX)).contains(&milli) {
            Ok(Cpus { milli: milli as u32 })
        } else {
            Err(format!("{number} is not a number of processors; write it as 1.5"))
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.milli) / 1000.0)
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.milli) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cpus::from_number(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Cpus {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cpus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "exclusiveMinimum": 0})
    }
}

/// Limits on the input/output of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IoLimit {
    /// The device, such as `/dev/sda`.
    pub device: PathBuf,
    /// Bytes read in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Size>,
    /// Bytes written in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Size>,
    /// Reads in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u64>,
    /// Writes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u64>,
}

/// A limit of processes (getrlimit(2)): `nofile = 1024`, or soft and hard apart.
/// `unlimited` is `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Rlimit {
    /// What is enforced.
    pub soft: u64,
    /// Up to where the process may raise it.
    pub hard: u64,
}

impl<'de> Deserialize<'de> for Rlimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Limit {
            Number(u64),
            Text(String),
        }
        impl Limit {
            fn value<E: de::Error>(self) -> Result<u64, E> {
                match self {
                    Limit::Number(number) => Ok(number),
                    Limit::Text(text) if text == "unlimited" => Ok(u64::MAX),
                    Limit::Text(text) => text.parse().map_err(|_| {
                        E::custom(format!("{text:?} is not a limit: a number or \"unlimited\""))
                    }),
                }
            }
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Pair {
            soft: Limit,
            hard: Limit,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Both(Limit),
            Pair(Pair),
        }
        match Form::deserialize(deserializer)? {
            Form::Both(limit) => {
                let value = limit.value()?;
                Ok(Rlimit { soft: value, hard: value })
            }
            Form::Pair(pair) => Ok(Rlimit { soft: pair.soft.value()?, hard: pair.hard.value()? }),
        }
    }
}

impl<'de> Deserialize<'de> for Restart {
    /// The table, or the policy alone.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct Table {
            policy: Option<RestartPolicy>,
            #[serde(default, with = "humantime_serde::option")]
            backoff: Option<Duration>,
            #[serde(default, with = "humantime_serde::option")]
            max_backoff: Option<Duration>,
            #[serde(default, with = "humantime_serde::option")]
            reset_after: Option<Duration>,
        }
        struct PolicyOrTable;
        impl<'de> de::Visitor<'de> for PolicyOrTable {
            type Value = Restart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a restart policy, or a table with `policy`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Restart, E> {
                let policy = text.parse().map_err(E::custom)?;
                Ok(Restart { policy, ..Restart::default() })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Restart, A::Error> {
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let default = Restart::default();
                Ok(Restart {
                    policy: table.policy.unwrap_or(default.policy),
                    backoff: table.backoff.unwrap_or(default.backoff),
                    max_backoff: table.max_backoff.unwrap_or(default.max_backoff),
                    reset_after: table.reset_after.unwrap_or(default.reset_after),
                })
            }
        }
        deserializer.deserialize_any(PolicyOrTable)
    }
}

macro_rules! text_form {
    ($($type:ident, $schema:expr;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

pub(super) use text_form;

text_form! {
    RestartPolicy, json_schema!({
        "type": "string",
        "pattern": "^(no|always|unless-stopped|on-failure(:[0-9]+)?)$",
    });
    NetworkMode, json_schema!({
        "type": "string",
        "pattern": "^(bridge|none|host|container:.+|ns:/.+|cni:.+)$",
    });
    Userns, json_schema!({"type": "string", "enum": ["auto", "host"]});
}
