//! What others see of networks: a picture, taken after each change.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::State;
use crate::network::NetworkSpec;
use crate::network::spec::Driver;

/// All networks and who is on them.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// By name: declared ones, and those that are known though nothing declares them.
    pub networks: BTreeMap<String, NetworkView>,
    /// By container: its places, and its ports.
    pub containers: BTreeMap<String, (Vec<EndpointView>, Vec<PortView>)>,
}

/// A network.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkView {
    /// Its Docker id.
    pub id: String,
    /// When it was first known, in Unix nanoseconds; 0 before that.
    pub created: i64,
    /// What was chosen for it, once that was.
    pub spec: Option<NetworkSpec>,
    /// The host's interface that it is.
    pub bridge: String,
    /// Whether it is made.
    pub is_up: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Options that a Docker client gave, which are only told again.
    pub docker: BTreeMap<String, String>,
    /// Nothing goes in or out.
    pub internal: bool,
}

impl NetworkView {
    /// How it is made, as Docker's clients know it.
    pub fn driver(&self) -> &'static str {
        match self.spec.as_ref().map(|spec| spec.driver).unwrap_or_default() {
            Driver::Bridge => "bridge",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
        }
    }
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointView {
    /// The network.
    pub network: String,
    /// The network's Docker id.
    pub network_id: String,
    /// The interface in the container.
    pub interface: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// How many bits of it are the network's.
    pub prefix: u8,
    /// The router.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// How many bits of it are the network's.
    pub prefix6: u8,
    /// The IPv6 router.
    pub gateway6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: String,
    /// What it is found by there.
    pub names: Vec<String>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortView {
    /// The address of the host; all of them without one.
    pub address: Option<IpAddr>,
    /// The port of the host.
    pub port: u16,
    /// The container's.
    pub container: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

impl State {
    pub(super) fn picture(&self) -> Seen {
        let default = crate::network::spec::DEFAULT_NETWORK.to_owned();
        let names = self.declared.keys().chain(self.known.keys()).chain([&default]);
        let networks = names.map(|name| (name.clone(), self.network_view(name))).collect();
        let containers = self
            .joined
            .iter()
            .map(|(name, joined)| {
                let places = joined.endpoints.iter().filter_map(|place| {
                    let up = self.up.get(&place.network)?;
                    let known = self.known.get(&place.network)?;
                    let all = joined.names.iter().chain(&place.aliases).chain(&joined.hostnames);
                    let mut names: Vec<String> = Vec::new();
                    for name in all {
                        if !names.contains(name) {
                            names.push(name.clone());
                        }
                    }
                    Some(EndpointView {
                        network: place.network.clone(),
                        network_id: known.id.clone(),
                        interface: place.interface.clone(),
                        address: place.lease.v4,
                        prefix: up.spec.subnet.prefix_len(),
                        gateway: up.spec.gateway,
                        address6: place.lease.v6,
                        prefix6: up.spec.subnet6.map_or(0, |net| net.prefix_len()),
                        gateway6: up.spec.gateway6().filter(|_| place.lease.v6.is_some()),
                        mac: place.lease.mac.to_string(),
                        names,
                    })
                });
                let ports = joined.claims.iter().map(|claim| PortView {
                    address: claim.address,
                    port: claim.port,
                    container: claim.to_port,
                    protocol: claim.protocol.to_string(),
                });
                (name.clone(), (places.collect(), ports.collect()))
            })
            .collect();
        Seen { networks, containers }
    }

    fn network_view(&self, name: &str) -> NetworkView {
        let known = self.known.get(name);
        let file = self.file_of(name).unwrap_or_default();
        NetworkView {
            id: known.map_or_else(|| self.instance.id(name), |known| known.id.clone()),
            created: known.map_or(0, |known| known.created),
            spec: known.map(|known| known.spec.clone()),
            bridge: self.instance.bridge(name),
            is_up: self.up.contains_key(name),
            labels: file.labels.clone(),
            docker: file.docker.clone(),
            internal: file.internal,
        }
    }
}
