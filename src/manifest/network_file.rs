//! Named networks in manifests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::network::spec::Driver;

/// A named network: the file `NAME.network.toml`, or `network "NAME" { … }` beside
/// containers. What it does not say is chosen once and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct NetworkFile {
    /// `bridge` (the default), `macvlan` or `ipvlan`.
    #[schemars(with = "DriverText")]
    pub driver: Driver,
    /// The IPv4 subnet, such as `10.1.2.0/24`; a free one otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub subnet: Option<Ipv4Net>,
    /// The part of `subnet` from which addresses are given, such as `10.1.2.128/25`; all of
    /// it otherwise. A container may ask for another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ip_range: Option<Ipv4Net>,
    /// Addresses of the subnets that no container gets: others have them. A name for each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
    /// The router's address in it; the first one otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Whether it has IPv6 addresses too.
    pub ipv6: bool,
    /// The IPv6 subnet; a unique local one (RFC 4193) otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub subnet6: Option<Ipv6Net>,
    /// The part of `subnet6` from which addresses are given; all of it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ip_range6: Option<Ipv6Net>,
    /// The router's address in `subnet6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// Nothing goes in or out but among its containers.
    pub internal: bool,
    /// Its containers reach the outside, but not each other.
    pub isolated: bool,
    /// The largest packet in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The host's interface below a macvlan or ipvlan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Free text for people and tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Options that a Docker client gave and that no other key holds: told again, and
    /// without effect.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub docker: BTreeMap<String, String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", rename = "Driver")]
#[allow(dead_code)]
enum DriverText {
    Bridge,
    Macvlan,
    Ipvlan,
}

impl Default for NetworkFile {
    fn default() -> Self {
        NetworkFile {
            driver: Driver::Bridge,
            subnet: None,
            ip_range: None,
            gateway: None,
            reserved: BTreeMap::new(),
            ipv6: true,
            subnet6: None,
            ip_range6: None,
            gateway6: None,
            internal: false,
            isolated: false,
            mtu: None,
            parent: None,
            labels: BTreeMap::new(),
            docker: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_file_is_read_and_written_back() {
        let text = "subnet = \"10.9.0.0/24\"\ninternal = true\n[labels]\na = \"b\"\n";
        let file: NetworkFile = toml::from_str(text).unwrap();
        assert!(file.ipv6 && file.internal);
        let json = serde_json::to_string(&file).unwrap();
        assert_eq!(serde_json::from_str::<NetworkFile>(&json).unwrap(), file);
        assert!(toml::from_str::<NetworkFile>("subnett = 1").is_err());
    }
}
