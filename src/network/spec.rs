//! Named networks as plain data, their checks, and the choice of a subnet. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::names::Instance;

/// The network of containers that name none.
pub const DEFAULT_NETWORK: &str = "default";

/// How a network is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// A bridge of ours and a veth pair a container.
    #[default]
    Bridge,
    /// Interfaces of their own hardware address on `parent`.
    Macvlan,
    /// Interfaces that share the hardware address of `parent`.
    Ipvlan,
}

/// A network, with everything that was chosen for it filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name among this Berth's networks.
    pub name: String,
    /// How it is made.
    #[serde(default)]
    pub driver: Driver,
    /// The IPv4 subnet.
    pub subnet: Ipv4Net,
    /// The router's address in it: the bridge's own with [`Driver::Bridge`].
    pub gateway: Ipv4Addr,
    /// Where addresses are chosen from, if not from all of the subnet. One that a container
    /// asks for may lie elsewhere in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Ipv4Net>,
    /// Addresses of it that no container gets: others have them. By a name for each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
    /// The IPv6 subnet, for a bridge usually a ULA one (RFC 4193); `None`: IPv4 alone.
    #[serde(default)]
    pub subnet6: Option<Ipv6Net>,
    /// Where IPv6 addresses are chosen from, if not from all of `subnet6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range6: Option<Ipv6Net>,
    /// The router's address in `subnet6`; its first address when missing.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Nothing goes in or out but among its containers and the host's own bridge address.
    #[serde(default)]
    pub internal: bool,
    /// Its containers do not reach each other, only the outside.
    #[serde(default)]
    pub isolated: bool,
    /// The largest packet in bytes; the kernel's choice when missing.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The host's interface below a macvlan or ipvlan.
    #[serde(default)]
    pub parent: Option<String>,
}

impl NetworkSpec {
    /// A bridge network on these subnets, its gateway the first address of each.
    pub fn bridge(name: &str, subnet: Ipv4Net, subnet6: Option<Ipv6Net>) -> NetworkSpec {
        NetworkSpec {
            name: name.into(),
            driver: Driver::Bridge,
            subnet: subnet.trunc(),
            gateway: first_host(subnet),
            range: None,
            reserved: BTreeMap::new(),
            subnet6: subnet6.map(|net| net.trunc()),
            range6: None,
            gateway6: None,
            internal: false,
            isolated: false,
            mtu: None,
            parent: None,
        }
    }

    /// The router's IPv6 address.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.subnet6.map(|net| {
            self.gateway6.unwrap_or_else(|| Ipv6Addr::from(u128::from(net.network()) | 1))
        })
    }

    /// Everything that is wrong with it by itself, as sentences for its author.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(is_name) {
            found.push(format!(
                "{:?} is not a network's name: letters, digits, -, _, . and spaces between, at \
                 most 64",
                self.name
            ));
        }
        if self.subnet.prefix_len() > 30 {
            found.push(format!("{} has no room: a prefix of at most 30 is needed", self.subnet));
        }
        if !is_usable_v4(self.subnet.network()) {
            found.push(format!("{} is not a subnet for hosts", self.subnet));
        }
        if !self.subnet.contains(&self.gateway)
            || self.gateway == self.subnet.network()
            || self.gateway == self.subnet.broadcast()
        {
            found.push(format!("the gateway {} is not a host in {}", self.gateway, self.subnet));
        }
        if let Some(range) = self.range.filter(|range| !self.subnet.contains(range)) {
            found.push(format!("the range {range} is not in {}", self.subnet));
        }
        for (name, address) in &self.reserved {
            let is_within = self.subnets().any(|net| net.contains(address));
            if !is_within {
                let of = match self.subnet6.filter(|_| address.is_ipv6()) {
                    Some(net) => net.to_string(),
                    None => self.subnet.to_string(),
                };
                found.push(format!("the reserved {address} of {name:?} is not in {of}"));
            }
        }
        if let Some(range) = self.range6.filter(|range| {
            let net = self.subnet6;
            !net.is_some_and(|net| net.contains(range))
        }) {
            found.push(format!("the range {range} is not in the IPv6 subnet"));
        }
        if let Some(net) = self.subnet6 {
            // The host's part of an IPv6 address repeats that of the IPv4 one.
            if 128 - u32::from(net.prefix_len()) < 32 - u32::from(self.subnet.prefix_len()) {
                found.push(format!("{net} has fewer addresses than {}", self.subnet));
            }
            if net.network().is_multicast() || net.network().is_loopback() {
                found.push(format!("{net} is not a subnet for hosts"));
            }
            if self.gateway6.is_some_and(|gateway| !net.contains(&gateway)) {
                found.push(format!("the gateway {:?} is not in {net}", self.gateway6));
            }
        } else if self.gateway6.is_some() {
            found.push("it has an IPv6 gateway but no IPv6 subnet".into());
        }
        if self.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
            found.push("an MTU is from 68 to 65535 bytes".into());
        } else if self.subnet6.is_some() && self.mtu.is_some_and(|mtu| mtu < 1280) {
            found.push("IPv6 needs an MTU of at least 1280 bytes (RFC 8200, section 5)".into());
        }
        match (self.driver, &self.parent) {
            (Driver::Bridge, Some(_)) => {
                found.push("a bridge has no parent; driver = \"macvlan\" has".into());
            }
            (Driver::Macvlan | Driver::Ipvlan, None) => {
                found.push("macvlan and ipvlan need `parent`, an interface of the host".into());
            }
            _ => {}
        }
        if self.driver != Driver::Bridge && self.isolated {
            found.push("`isolated` is a bridge's".into());
        }
        found
    }

    /// The subnets, for comparing with others.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        [Some(IpNet::V4(self.subnet)), self.subnet6.map(IpNet::V6)].into_iter().flatten()
    }

    /// The first of `taken` that this network overlaps. macvlan and ipvlan are
    /// in the parent's own subnet on purpose, so they overlap nothing.
    pub fn overlap<'a>(&self, taken: &'a [Taken]) -> Option<&'a Taken> {
        if self.driver != Driver::Bridge {
            return None;
        }
        taken.iter().find(|taken| self.subnets().any(|subnet| overlaps(subnet, taken.net)))
    }
}

/// A range of addresses that something has, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The range.
    pub net: IpNet,
    /// Who has it, for messages: `the address of eth0`, `the network back`.
    pub by: String,
}

fn overlaps(a: IpNet, b: IpNet) -> bool {
    match (a, b) {
        (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)) => {
            a.contains(&b) || b.contains(&a)
        }
        _ => false,
    }
}

fn is_usable_v4(address: Ipv4Addr) -> bool {
    !(address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.octets()[0] >= 240)
}

fn first_host(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(1))
}

/// A free private IPv4 subnet of 24 bits (RFC 1918): the same one for the same name
/// as long as nobody else has it. `None` when all are taken.
pub fn choose_subnet(instance: &Instance, network: &str, taken: &[Taken]) -> Option<Ipv4Net> {
    // 10.88.0.0 to 10.127.255.0: away from the first networks of home routers,
    // Docker (172.17 and up, 192.168), Kubernetes (10.96, 10.244) only if taken.
    const COUNT: u32 = 40 * 256;
    let seed = instance.seed(&["subnet", network]);
    let start = u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]]) % COUNT;
    (0..COUNT)
        .map(|step| 0x0a58_0000 + ((start + step) % COUNT) * 256)
        .filter_map(|base| Ipv4Net::new(Ipv4Addr::from(base), 24).ok())
        .find(|net| !taken.iter().any(|taken| overlaps(IpNet::V4(*net), taken.net)))
}

/// A ULA subnet of 64 bits (RFC 4193): 40 bits from this Berth, 16 from the name.
pub fn choose_subnet6(instance: &Instance, network: &str, taken: &[Taken]) -> Option<Ipv6Net> {
    let global = instance.seed(&["ula"]);
    let named = instance.seed(&["subnet6", network]);
    let start = u16::from_le_bytes([named[0], named[1]]);
    (0..=u16::MAX)
        .map(|step| {
            let [a, b, c, d, e, ..] = global;
            let [f, g] = start.wrapping_add(step).to_be_bytes();
            Ipv6Addr::from([0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0])
        })
        .filter_map(|base| Ipv6Net::new(base, 64).ok())
        .find(|net| !taken.iter().any(|taken| overlaps(IpNet::V6(*net), taken.net)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(net: &str) -> Taken {
        Taken { net: net.parse().unwrap(), by: "a test".into() }
    }

    #[test]
    fn a_chosen_subnet_avoids_what_is_taken_and_is_the_same_again() {
        let instance = Instance::of_root("/");
        let first = choose_subnet(&instance, "default", &[]).unwrap();
        assert_eq!(choose_subnet(&instance, "default", &[]), Some(first));
        let around = [taken(&format!("{}/16", first.network()))];
        let second = choose_subnet(&instance, "default", &around).unwrap();
        assert!(!overlaps(IpNet::V4(second), around[0].net));
        assert_eq!(choose_subnet(&instance, "x", &[taken("0.0.0.0/0")]), None);
        let six = choose_subnet6(&instance, "default", &[]).unwrap();
        assert_eq!(six.network().octets()[0], 0xfd);
        assert_ne!(choose_subnet6(&instance, "default", &[taken(&six.to_string())]), Some(six));
    }

    #[test]
    fn every_problem_of_a_network_is_told() {
        let good = NetworkSpec::bridge(
            "back",
            "10.1.0.0/24".parse().unwrap(),
            Some("fd00:1::/64".parse().unwrap()),
        );
        assert_eq!(good.problems(), Vec::<String>::new());
        assert_eq!(good.gateway6().unwrap().to_string(), "fd00:1::1");
        let bad = |change: fn(&mut NetworkSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec.problems().len()
        };
        assert_eq!(bad(|spec| spec.name = "a/b".into()), 1);
        assert_eq!(bad(|spec| spec.gateway = "10.2.0.1".parse().unwrap()), 1);
        assert_eq!(bad(|spec| spec.gateway = "10.1.0.255".parse().unwrap()), 1);
        assert_eq!(bad(|spec| spec.mtu = Some(1000)), 1);
        assert_eq!(bad(|spec| spec.range = "10.2.0.0/25".parse().ok()), 1);
        assert_eq!(
            bad(|spec| spec.reserved = [("a".into(), "10.2.0.9".parse().unwrap())].into()),
            1
        );
        assert_eq!(bad(|spec| spec.parent = Some("eth0".into())), 1);
        assert_eq!(bad(|spec| spec.driver = Driver::Macvlan), 1);
        assert_eq!(bad(|spec| spec.subnet6 = "fd00::/126".parse().ok()), 1);
        assert_eq!(bad(|spec| spec.subnet = "10.1.0.0/31".parse().unwrap()), 2);
    }

    #[test]
    fn overlap_names_who_has_it() {
        let spec = NetworkSpec::bridge("back", "10.1.0.0/24".parse().unwrap(), None);
        let host = [taken("192.168.0.0/16"), taken("10.1.0.128/25")];
        assert_eq!(
            spec.overlap(&host).map(|taken| taken.net.to_string()).unwrap(),
            "10.1.0.128/25"
        );
        assert_eq!(spec.overlap(&host[..1]), None);
    }
}
