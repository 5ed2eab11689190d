//! Which namespaces (namespaces(7)) a container shares with the host or with another
//! container. The network's is `network.mode`, the users' `security.userns`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::model::Container;
use super::scalar::Name;
use super::variants::{NetworkMode, text_form};

/// Namespaces that a container does not have for itself alone. Whoever shares the `pid` or
/// `ipc` of another container has that one's user ids, too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Namespaces {
    /// Which processes it sees: `private` (the default), `host` or `container:NAME`.
    pub pid: Sharing,
    /// Shared memory and message queues: `private` (the default), `shareable` (others may
    /// join it), `none` (private, without `/dev/shm`), `host` or `container:NAME`.
    pub ipc: Ipc,
    /// Host name: `private` (the default), `host` or `container:NAME`.
    pub uts: Sharing,
    /// Which control groups it sees: `private` (the default) or `host`.
    pub cgroup: Cgroupns,
}

impl Namespaces {
    /// The containers whose namespaces these are.
    pub fn owners(&self) -> impl Iterator<Item = &Name> {
        self.owners_of_ids().chain(self.uts.owner())
    }

    /// The same, to be given other names.
    pub fn owners_mut(&mut self) -> impl Iterator<Item = &mut Name> {
        let ipc = match &mut self.ipc {
            Ipc::Container(name) => Some(name),
            _ => None,
        };
        let others = [&mut self.pid, &mut self.uts].into_iter().filter_map(|one| match one {
            Sharing::Container(name) => Some(name),
            _ => None,
        });
        ipc.into_iter().chain(others)
    }

    /// Those whose user ids go with the namespace: only who owns it may mount its `/proc`
    /// or its message queues.
    pub fn owners_of_ids(&self) -> impl Iterator<Item = &Name> {
        self.pid.owner().into_iter().chain(self.ipc.owner())
    }
}

impl Container {
    /// The containers that must run for this one to be in their namespaces.
    pub fn joined(&self) -> BTreeSet<Name> {
        let network = match self.network_mode() {
            NetworkMode::Container(owner) => Some(owner),
            _ => None,
        };
        network.into_iter().chain(self.namespaces.owners().cloned()).collect()
    }
}

/// Whose namespace of a kind a container is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container.
    Container(Name),
}

impl Sharing {
    /// The other container.
    pub fn owner(&self) -> Option<&Name> {
        match self {
            Sharing::Container(name) => Some(name),
            _ => None,
        }
    }
}

/// Whose IPC namespace a container is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ipc {
    /// Its own, which nobody else can join.
    #[default]
    Private,
    /// Its own, which others can join.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    /// The host's.
    Host,
    /// That of another container, which is shareable.
    Container(Name),
}

impl Ipc {
    /// The other container.
    pub fn owner(&self) -> Option<&Name> {
        match self {
            Ipc::Container(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it is its own.
    pub fn is_own(&self) -> bool {
        matches!(self, Ipc::Private | Ipc::Shareable | Ipc::None)
    }

    /// Whether others can be in it, too.
    pub fn can_be_joined(&self) -> bool {
        !matches!(self, Ipc::Private | Ipc::None)
    }
}

/// Whose cgroup namespace a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cgroupns {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

fn owner(text: &str) -> Option<Result<Name, String>> {
    text.strip_prefix("container:").map(str::parse)
}

impl FromStr for Sharing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "private" => Ok(Sharing::Private),
            "host" => Ok(Sharing::Host),
            _ => match owner(text) {
                Some(name) => name.map(Sharing::Container),
                None => Err(format!("{text:?} is not one of private, host and container:NAME")),
            },
        }
    }
}

impl FromStr for Ipc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "private" => Ok(Ipc::Private),
            "shareable" => Ok(Ipc::Shareable),
            "none" => Ok(Ipc::None),
            "host" => Ok(Ipc::Host),
            _ => match owner(text) {
                Some(name) => name.map(Ipc::Container),
                None => Err(format!(
                    "{text:?} is not one of private, shareable, none, host and container:NAME"
                )),
            },
        }
    }
}

impl FromStr for Cgroupns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "private" => Ok(Cgroupns::Private),
            "host" => Ok(Cgroupns::Host),
            _ => Err(format!("{text:?} is not one of private and host")),
        }
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sharing::Private => f.write_str("private"),
            Sharing::Host => f.write_str("host"),
            Sharing::Container(name) => write!(f, "container:{name}"),
        }
    }
}

impl fmt::Display for Ipc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ipc::Private => f.write_str("private"),
            Ipc::Shareable => f.write_str("shareable"),
            Ipc::None => f.write_str("none"),
            Ipc::Host => f.write_str("host"),
            Ipc::Container(name) => write!(f, "container:{name}"),
        }
    }
}

impl fmt::Display for Cgroupns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cgroupns::Private => "private",
            Cgroupns::Host => "host",
        })
    }
}

text_form! {
    Sharing, json_schema!({"type": "string", "pattern": "^(private|host|container:.+)$"});
    Ipc, json_schema!({
        "type": "string",
        "pattern": "^(private|shareable|none|host|container:.+)$",
    });
    Cgroupns, json_schema!({"type": "string", "enum": ["private", "host"]});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_whose_namespaces_are_joined_are_named_once() {
        let text = "image = \"x\"\nnetwork.mode = \"container:a\"\n[namespaces]\n\
                    pid = \"container:a\"\nipc = \"container:b\"\nuts = \"host\"\n";
        let container: Container = toml::from_str(text).unwrap();
        let names: Vec<String> = container.joined().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a", "b"]);
        let again: Container =
            toml::from_str(&crate::manifest::to_toml(&container).unwrap()).unwrap();
        assert_eq!(again, container);
        for wrong in ["pid = \"none\"", "ipc = \"container:\"", "cgroup = \"container:a\""] {
            assert!(toml::from_str::<Namespaces>(wrong).is_err(), "{wrong}");
        }
    }
}
