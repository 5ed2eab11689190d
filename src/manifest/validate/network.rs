//! Networks: what a container asks of them, and what a network itself is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::{Objection, objection};
use crate::manifest::model::{Container, NetworkFile, NetworkMode, Start};
use crate::manifest::network::{RESERVED_NETWORKS, is_host_name, is_network_name};
use crate::network::spec::{Driver, NetworkSpec};
use crate::sandbox::plan::SOCKETS_MAX;

pub(super) fn network(container: &Container, found: &mut Vec<Objection>) {
    let network = &container.network;
    let mode = container.network_mode();
    let bridged = mode == NetworkMode::Bridge;
    let meaningless = [
        ("network.publish", network.publish.iter().any(|one| !one.hold)),
        ("network.networks", !network.networks.is_empty()),
        ("network.alias", !network.alias.is_empty()),
        ("network.ip", network.ip.is_some()),
        ("network.ip6", network.ip6.is_some()),
        ("network.mac", network.mac.is_some()),
    ];
    for (key, _) in meaningless.iter().filter(|(_, set)| *set && !bridged) {
        let hint = match mode {
            NetworkMode::Host => "with mode = \"host\" the program's own ports are the host's",
            NetworkMode::Container(_) => "it belongs to the container whose network it shares",
            _ => "it goes with mode = \"bridge\"",
        };
        found.push(objection(key, format!("it has no meaning with mode = \"{mode}\""), hint));
    }
    let mut seen = BTreeSet::new();
    for member in &network.networks {
        if !is_network_name(&member.name) || RESERVED_NETWORKS.contains(&member.name.as_str()) {
            let message = format!("{:?} is not a network's name", member.name);
            found.push(objection("network.networks", message, "write networks = [\"back\"]"));
        }
        if let Err(why) = member.check() {
            found.push(objection("network.networks", why, ""));
        }
        if let Some(other) = member.link_local.iter().find(|address| !address.is_link_local()) {
            let message = format!("{other} is not in 169.254.0.0/16");
            found.push(objection("network.networks", message, "write it as `ip`"));
        }
        if !seen.insert(&member.name) {
            let message = format!("it is on the network {} twice", member.name);
            found.push(objection("network.networks", message, "take one of them out"));
        }
    }
    let aliases = network.networks.iter().flat_map(|member| &member.alias);
    for alias in aliases.chain(&network.alias) {
        if !is_host_name(alias) {
            let message = format!("{alias:?} can't be looked up as a name");
            found.push(objection("network.alias", message, "letters, digits, '-', '_' and '.'"));
        }
    }
    for domain in network.dns_search.iter().chain(&network.dns_options) {
        if domain.is_empty() || domain.contains(char::is_whitespace) {
            let message = format!("{domain:?} is no word of resolv.conf(5)");
            found.push(objection("network.dns-search", message, ""));
        }
    }
    let mut ports: BTreeMap<_, Vec<Option<IpAddr>>> = BTreeMap::new();
    for one in &network.publish {
        let mapping = &one.mapping;
        for (host, _) in mapping.pairs() {
            let Some(port) = host else { continue };
            let others = ports.entry((port, mapping.protocol)).or_default();
            // All addresses are this one, too.
            let meets = |other: &Option<IpAddr>| {
                other.is_none() || mapping.address.is_none() || *other == mapping.address
            };
            if others.iter().any(meets) {
                let message = format!("port {port}/{} is published twice", mapping.protocol);
                found.push(objection("network.publish", message, "take one of them out"));
                break;
            }
            others.push(mapping.address);
        }
        if one.hold && (mapping.host.is_none() || mapping.among().is_some()) {
            let message = "a held socket needs a port of the host";
            found.push(objection("network.publish", message, "write { host = 80, hold = true }"));
        }
    }
    let held = held(container);
    if held > SOCKETS_MAX {
        let message = format!("{held} held sockets; a program can be given {SOCKETS_MAX}");
        found.push(objection("network.publish", message, "publish the others without `hold`"));
    }
}

/// How many listening sockets it is handed, from descriptor 3 on.
pub(super) fn held(container: &Container) -> usize {
    let held = container.network.publish.iter().filter(|one| one.hold);
    held.map(|one| usize::from(one.mapping.count)).sum()
}

pub(super) fn start(container: &Container, found: &mut Vec<Objection>) {
    let on_demand = container.start == Start::OnDemand;
    if on_demand && !container.network.publish.iter().any(|one| one.hold) {
        found.push(objection(
            "start",
            "nobody can connect to it: it has no held socket",
            "write network.publish = [{ host = 80, hold = true }]",
        ));
    }
    if container.idle_timeout.is_some() && !on_demand {
        let hint = "it goes with start = \"on-demand\"";
        found.push(objection("idle-timeout", "it would never be started again", hint));
    }
    if container.idle_timeout.is_some_and(|idle| idle < Duration::from_secs(1)) {
        found.push(objection("idle-timeout", "less than a second is not told from a pause", ""));
    }
}

/// Checks one network by itself.
pub fn network_alone(name: &str, file: &NetworkFile) -> Vec<Objection> {
    let mut found = Vec::new();
    if file.subnet.is_none() {
        if file.gateway.is_some() {
            found.push(objection("gateway", "there is no `subnet` that it could be in", ""));
        }
        let reserves = file.reserved.values().any(IpAddr::is_ipv4);
        let parts = [("ip-range", file.ip_range.is_some()), ("reserved", reserves)];
        for (key, _) in parts.iter().filter(|(_, said)| *said) {
            found.push(objection(key, "there is no `subnet` that it could be in", ""));
        }
        if file.driver != Driver::Bridge {
            let why = "a macvlan or ipvlan is in the subnet of its parent: `subnet` is missing";
            found.push(objection("driver", why, "write the subnet that the parent is in"));
        }
    }
    if file.subnet6.is_none() {
        let reserves = file.reserved.values().any(IpAddr::is_ipv6);
        let parts = [("ip-range6", file.ip_range6.is_some()), ("reserved", reserves)];
        for (key, _) in parts.iter().filter(|(_, said)| *said) {
            found.push(objection(key, "there is no `subnet6` that it could be in", ""));
        }
    }
    if !file.ipv6 && (file.subnet6.is_some() || file.gateway6.is_some()) {
        found.push(objection("ipv6", "there is no IPv6, and a subnet or gateway of it", ""));
    }
    // The rest is judged as a whole, any free subnet standing in for a missing one.
    let stand_in = Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 24);
    let mut spec = NetworkSpec::bridge(name, file.subnet.unwrap_or(stand_in), file.subnet6);
    spec.driver = file.driver;
    spec.gateway = file.gateway.filter(|_| file.subnet.is_some()).unwrap_or(spec.gateway);
    spec.range = file.ip_range.filter(|_| file.subnet.is_some());
    spec.range6 = file.ip_range6.filter(|_| file.subnet6.is_some());
    spec.gateway6 = file.gateway6;
    let judged = |address: &IpAddr| match address {
        IpAddr::V4(_) => file.subnet.is_some(),
        IpAddr::V6(_) => file.subnet6.is_some(),
    };
    let reserved = file.reserved.iter().filter(|(_, address)| judged(address));
    spec.reserved = reserved.map(|(name, address)| (name.clone(), *address)).collect();
    spec.internal = file.internal;
    spec.isolated = file.isolated;
    spec.mtu = file.mtu;
    spec.parent = file.parent.clone();
    found.extend(spec.problems().into_iter().map(|problem| {
        let key = ["gateway", "MTU", "parent", "isolated", "reserved", "range"]
            .into_iter()
            .find(|word| problem.contains(word))
            .unwrap_or("subnet");
        let key = match key {
            "range" if problem.contains("IPv6") => "ip-range6",
            "range" => "ip-range",
            key => key,
        };
        objection(&key.to_ascii_lowercase(), problem, "")
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objections(text: &str) -> Vec<String> {
        let container: Container =
            toml::from_str(&format!("rootfs = \"/\"\ncommand = [\"x\"]\n{text}")).unwrap();
        super::super::alone(&container).into_iter().map(|one| one.message).collect()
    }

    #[test]
    fn a_port_of_all_addresses_is_also_that_of_one() {
        let twice = |ports: &str| objections(&format!("network.publish = [{ports}]"));
        let bridge = "network.mode = \"bridge\"\n";
        assert_eq!(
            objections(&format!(
                "{bridge}network.publish = [\"127.0.0.1:80:80\", \"[::1]:80:80\", \"80:80/udp\"]"
            )),
            [""; 0]
        );
        for ports in ["\"80:80\", \"127.0.0.1:80:80\"", "\"[::1]:80:1\", \"79-81:79-81\""] {
            assert!(
                twice(ports)
                    .iter()
                    .any(|message| message.contains("port 80/tcp is published twice"))
            );
        }
    }

    #[test]
    fn held_sockets_have_numbers_of_their_own_and_are_not_too_many() {
        let held = |ports: &str, more: &str| {
            objections(&format!("{more}network.publish = [{{ host = \"{ports}\", hold = true }}]"))
        };
        assert_eq!(held("7001-7064", ""), [""; 0]);
        assert!(held("7001-7065", "")[0].contains("65 held sockets"));
        assert_eq!(held("7001-7002", "ready.fd = 5\n"), [""; 0]);
        assert!(held("7001-7002", "ready.fd = 4\n")[0].contains("held socket"));
    }
}
