//! What a manifest says of networks: a container's own part, and the files that
//! declare networks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::publish::{PortMapping, Protocol};
use super::variants::NetworkMode;
use crate::network::spec::DEFAULT_NETWORK;

/// A container's network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Network {
    /// `bridge`, `none`, `host`, `container:NAME`, `ns:/run/netns/NAME` or `cni:NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// Ports of the host that lead into the container: `8080:80`, `127.0.0.1:5353:53/udp`.
    #[schemars(with = "Vec<PublishText>")]
    pub publish: Vec<Publish>,
    /// The named networks that it is on; `default` otherwise. The first that has an
    /// outside is its way there.
    #[schemars(with = "Vec<MemberText>")]
    pub networks: Vec<Member>,
    /// Names that it is found by on every network, beside its own.
    pub alias: Vec<String>,
    /// Its IPv4 address on its first network; one is chosen otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// The same of IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Its hardware address on its first network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Servers that are asked for names that are no containers', instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Domains that are tried behind a short name, instead of the host's.
    pub dns_search: Vec<String>,
    /// Options of the resolver (resolv.conf(5)).
    pub dns_options: Vec<String>,
    /// Lines of its `/etc/hosts`: `NAME:ADDRESS`, or `NAME:host-gateway` for the host.
    pub extra_hosts: Vec<ExtraHost>,
}

impl Network {
    /// The networks that a container in bridge mode is on, with what it wants there.
    pub fn members(&self) -> Vec<Member> {
        let mut members = match self.networks.is_empty() {
            true => vec![Member::of(DEFAULT_NETWORK)],
            false => self.networks.clone(),
        };
        if let Some(first) = members.first_mut() {
            first.ip = first.ip.or(self.ip);
            first.ip6 = first.ip6.or(self.ip6);
            first.mac = first.mac.or(self.mac);
        }
        members
    }

    /// Whether anything in it needs an interface on a network.
    pub fn needs_bridge(&self) -> bool {
        !self.networks.is_empty()
            || self.ip.is_some()
            || self.ip6.is_some()
            || self.mac.is_some()
            || self.publish.iter().any(|one| !one.hold)
    }
}

/// A container's place on a network. Also written as the network's name alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// The network.
    pub name: String,
    /// Names that it is found by there, beside its own.
    pub alias: Vec<String>,
    /// Other containers there, by names that it alone finds them by.
    pub link: Vec<Link>,
    /// Its IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// The highest of them has the way outside; the first of equals.
    pub priority: i64,
    /// What Docker's drivers call options of an endpoint.
    pub options: BTreeMap<String, String>,
    /// More addresses, which lead no further than the network (RFC 3927).
    pub link_local: Vec<Ipv4Addr>,
}

impl Member {
    /// On this network, with nothing said about it.
    pub fn of(name: &str) -> Member {
        Member { name: name.to_owned(), ..Member::default() }
    }
}

/// Another container, and a name for it that one container alone knows: `db:database`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The other one, by its name or id. It need not be there yet.
    pub container: String,
    /// The name.
    pub alias: String,
}

impl Link {
    /// The other one has another name.
    pub fn follow(&mut self, from: &str, to: &str) {
        if self.container == from {
            to.clone_into(&mut self.container);
        }
    }
}

impl std::str::FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Link, String> {
        let (container, alias) = text.split_once(':').unwrap_or((text, text));
        if !is_host_name(container) || !is_host_name(alias) {
            return Err(format!("{text:?} is not a link: write \"db:database\""));
        }
        Ok(Link { container: container.to_owned(), alias: alias.to_owned() })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container, self.alias)
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Link, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whether a text can be looked up as a name.
pub fn is_host_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A named network's place for a container.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MemberTable {
    /// The network.
    name: String,
    /// Names that the container is found by there, beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alias: Vec<String>,
    /// Other containers there, by names that it alone finds them by: `["db:database"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    link: Vec<Link>,
    /// Its IPv4 address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<Ipv6Addr>,
    /// Its hardware address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    /// Of its networks that with the highest number is its way outside; 0 otherwise.
    #[serde(default, skip_serializing_if = "is_zero")]
    priority: i64,
    /// Options of the interface: `com.docker.network.endpoint.ifname` is its name in the
    /// container, `com.docker.network.endpoint.sysctls` kernel parameters of it
    /// (`net.ipv4.conf.IFNAME.log_martians=1`). Others are kept and have no effect.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
    /// More addresses there, of 169.254.0.0/16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    link_local: Vec<Ipv4Addr>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum MemberText {
    Name(String),
    Table(MemberTable),
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Member::of(&self.name) {
            return serializer.serialize_str(&self.name);
        }
        let Member { name, alias, link, ip, ip6, mac, priority, options, link_local } =
            self.clone();
        MemberTable { name, alias, link, ip, ip6, mac, priority, options, link_local }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Member, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Member;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network's name, or a table with name, alias, link, ip, ip6, mac, …")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Member, E> {
                Ok(Member::of(text))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Member, A::Error> {
                let table = MemberTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let MemberTable { name, alias, link, ip, ip6, mac, priority, options, link_local } =
                    table;
                Ok(Member { name, alias, link, ip, ip6, mac, priority, options, link_local })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A port of the host that leads into a container, or a listening socket that is
/// handed to it. Also written as the text of a [`PortMapping`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Which ports.
    pub mapping: PortMapping,
    /// The supervisor keeps the socket open and gives it to the program
    /// (sd_listen_fds(3)); no connection is refused while that is restarted.
    pub hold: bool,
    /// Open whatever the host's input rules say.
    pub bypass: bool,
}

impl Publish {
    /// Of a mapping, as its text alone means it.
    pub fn of(mapping: PortMapping) -> Publish {
        Publish { mapping, hold: false, bypass: false }
    }
}

/// Whether published ports obey the host's firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Obey {
    /// What the host's input rules drop for the port is dropped.
    #[default]
    Obey,
    /// It is open whatever they say.
    Bypass,
}

/// A published port, or range of ports.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PublishTable {
    /// The host's port, or range of ports; any free one when missing. Of a range for one
    /// port of the container one that is free is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Ports>,
    /// The container's; the host's when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<Ports>,
    /// The host's address; all of them when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// tcp or udp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    /// The supervisor keeps the socket and gives it to the program.
    #[serde(default)]
    hold: bool,
    /// Whether the host's input rules count.
    #[serde(default)]
    firewall: Obey,
}

/// A port, or a range such as `9000-9010`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Ports {
    One(u16),
    Range(String),
}

impl Ports {
    fn text(&self) -> String {
        match self {
            Ports::One(port) => port.to_string(),
            Ports::Range(text) => text.clone(),
        }
    }
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum PublishText {
    Text(String),
    Table(PublishTable),
}

impl TryFrom<PublishTable> for Publish {
    type Error = String;

    fn try_from(table: PublishTable) -> Result<Publish, String> {
        let protocol = table.protocol.as_deref().unwrap_or("tcp");
        let inside = table.container.as_ref().or(table.host.as_ref());
        let inside = inside.ok_or("it names no port: write host = 8080, container = 80")?.text();
        let outside = table.host.as_ref().map(Ports::text).unwrap_or_default();
        let text = match table.address {
            Some(IpAddr::V6(address)) => format!("[{address}]:{outside}:{inside}/{protocol}"),
            Some(IpAddr::V4(address)) => format!("{address}:{outside}:{inside}/{protocol}"),
            None if outside.is_empty() => format!("{inside}/{protocol}"),
            None => format!("{outside}:{inside}/{protocol}"),
        };
        let mapping = text.parse()?;
        Ok(Publish { mapping, hold: table.hold, bypass: table.firewall == Obey::Bypass })
    }
}

impl Serialize for Publish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Publish::of(self.mapping) {
            return serializer.collect_str(&self.mapping);
        }
        let range = |first: u16| match self.mapping.count {
            1 => Ports::One(first),
            count => Ports::Range(format!("{first}-{}", first + (count - 1))),
        };
        PublishTable {
            host: match self.mapping.choices {
                1 => self.mapping.host.map(range),
                _ => self.mapping.outside().map(Ports::Range),
            },
            container: Some(range(self.mapping.container)),
            address: self.mapping.address,
            protocol: (self.mapping.protocol == Protocol::Udp).then(|| "udp".to_owned()),
            hold: self.hold,
            firewall: if self.bypass { Obey::Bypass } else { Obey::Obey },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Publish, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Publish;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ports such as \"8080:80\", or a table with host and container")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Publish, E> {
                text.parse().map(Publish::of).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Publish, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Publish, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Publish, A::Error> {
                let table = PublishTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Publish::try_from(table).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// The address; the host's own on the container's network when missing.
    pub address: Option<IpAddr>,
}

/// Docker's word for the host as a container sees it.
const HOST_GATEWAY: &str = "host-gateway";

impl FromStr for ExtraHost {
    type Err = String;

    fn from_str(text: &str) -> Result<ExtraHost, String> {
        let wrong = || format!("{text:?} is not NAME:ADDRESS, such as \"db:10.0.0.9\"");
        let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
        let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(usable) {
            return Err(wrong());
        }
        let address = match address {
            HOST_GATEWAY => None,
            text => {
                let text = text.trim_start_matches('[').trim_end_matches(']');
                Some(text.parse().map_err(|_| wrong())?)
            }
        };
        Ok(ExtraHost { name: name.to_owned(), address })
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}:{address}", self.name),
            None => write!(f, "{}:{HOST_GATEWAY}", self.name),
        }
    }
}

impl Serialize for ExtraHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ExtraHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExtraHost, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ExtraHost {
    fn schema_name() -> Cow<'static, str> {
        "ExtraHost".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[A-Za-z0-9._-]+[:=].+$"})
    }
}

/// A hardware address, such as `02:42:ac:11:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mac(pub crate::network::Mac);

impl JsonSchema for Mac {
    fn schema_name() -> Cow<'static, str> {
        "Mac".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"})
    }
}

/// Whether a text can be a network's name, which also becomes a file's.
pub fn is_network_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.ends_with(' ')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c))
}

/// Names that mean something else where a network is named.
pub const RESERVED_NETWORKS: [&str; 4] = ["bridge", "host", "none", "container"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        let text = r#"
            mode = "bridge"
            publish = ["8080:80", { host = 80, hold = true }, 
                       { host = "9000-9001", container = "90-91", protocol = "udp", firewall = "bypass" }]
            networks = ["front", { name = "back", alias = ["db"], ip = "10.0.0.9", ip6 = "fd00::9" }]
            extra-hosts = ["a:10.0.0.1", "b:host-gateway", "c:::1"]
            mac = "02:42:ac:11:00:02"
        "#;
        let network: Network = toml::from_str(text).unwrap();
        assert!(network.publish[1].hold && network.publish[2].bypass);
        assert_eq!(network.publish[1].mapping.container, 80);
        assert_eq!(network.publish[2].mapping.count, 2);
        assert_eq!(network.networks[1].alias, ["db"]);
        assert_eq!(network.networks[1].ip6, "fd00::9".parse().ok());
        assert_eq!(network.extra_hosts[2].address, "::1".parse().ok());
        assert_eq!(network.members()[0].mac, network.mac);
        let json = serde_json::to_string(&network).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network, "{json}");
        for wrong in ["publish = [\"x\"]", "publish = [{}]", "extra-hosts = [\"a\"]", "mac = \"x\""]
        {
            assert!(toml::from_str::<Network>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_networks_become_files() {
        assert!(is_network_name("my shop") && !is_network_name("my ") && !is_network_name(" my"));
        assert!(is_network_name("shop_back") && !is_network_name("../x") && !is_network_name(""));
    }
}
