//! Networks in Docker's description of a container, both ways: what `create` asks for
//! becomes the manifest's `network`, what is in force becomes `NetworkSettings`. Pure.

use std::net::IpAddr;

use bollard_stubs::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, PortMap, PortSummary, PortSummaryTypeEnum,
};
use serde_json::{Map, Value, json};

use crate::engine::handle::View;
use crate::engine::networks::EndpointView;
use crate::manifest::model::{Container, Member, NetworkMode, Publish};
use crate::manifest::network::{Mac, is_network_name};
use crate::manifest::publish::PortMapping;
use crate::network::spec::DEFAULT_NETWORK;

/// Docker's name of the network of containers that name none.
pub const BRIDGE: &str = "bridge";

/// Docker's name of a network.
pub fn docker_name(network: &str) -> &str {
    if network == DEFAULT_NETWORK { BRIDGE } else { network }
}

/// Our name of one of Docker's.
pub fn our_name(network: &str) -> &str {
    if network == BRIDGE { DEFAULT_NETWORK } else { network }
}

/// The network that a description asks for. `named` gives a network's name for its
/// name or id.
///
/// # Errors
/// A sentence for the client.
pub fn network(
    body: &ContainerCreateBody,
    container: &mut Container,
    container_named: &dyn Fn(&str) -> Option<String>,
    named: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let host = body.host_config.clone().unwrap_or_default();
    let network = &mut container.network;
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    // One that is not there is missed at the start, as with Docker.
    let known = |which: &str| match named(which) {
        Some(name) => Ok(name),
        None if is_network_name(which) => Ok(which.to_owned()),
        None => Err(format!("{which:?} is not a network's name")),
    };
    let mode = said(&host.network_mode).unwrap_or_else(|| "default".to_owned());
    match (mode.as_str(), mode.split_once(':')) {
        ("default", _) => {}
        (_, Some(("container", which))) => {
            let missing = || format!("No such container: {which}");
            let name = container_named(which).ok_or_else(missing)?;
            network.mode = Some(NetworkMode::Container(name.parse()?));
        }
        ("none" | "host", _) | (_, Some(("ns" | "cni", _))) => {
            network.mode = Some(mode.parse()?);
        }
        (BRIDGE, _) => network.mode = Some(NetworkMode::Bridge),
        (which, _) => {
            network.mode = Some(NetworkMode::Bridge);
            network.networks.push(Member::of(&known(which)?));
        }
    }
    if body.network_disabled == Some(true) {
        network.mode = Some(NetworkMode::None);
    }
    let bridged = matches!(network.mode, None | Some(NetworkMode::Bridge));
    let config = body.networking_config.clone().unwrap_or_default();
    for (which, settings) in config.endpoints_config.into_iter().flatten().filter(|_| bridged) {
        let asked = member(&which, &settings)?;
        let name = match which.as_str() {
            "default" | BRIDGE => DEFAULT_NETWORK.to_owned(),
            which => known(which)?,
        };
        let asked = Member { name: name.clone(), ..asked };
        match network.networks.iter_mut().find(|member| member.name == name) {
            Some(member) => *member = asked,
            // What clients send with the default network, where nothing is asked.
            None if asked == Member::of(DEFAULT_NETWORK) => {}
            None => network.networks.push(asked),
        }
    }
    // The mode names the first one.
    if let Some(first) = named(&mode) {
        network.networks.sort_by_key(|member| member.name != first);
    }
    // Without a network there is nothing to publish, as with Docker.
    if bridged {
        network.publish = published(host.port_bindings.as_ref())?;
    }
    if bridged && host.publish_all_ports == Some(true) {
        let exposed = body.exposed_ports.iter().flatten();
        publish_all(exposed, container)?;
    }
    names(host, container)
}

/// How it finds others by name.
fn names(host: HostConfig, container: &mut Container) -> Result<(), String> {
    let network = &mut container.network;
    for server in host.dns.iter().flatten() {
        let address = server.parse().map_err(|_| format!("{server} is not an ip address"))?;
        network.dns.push(address);
    }
    network.dns_search = host.dns_search.unwrap_or_default();
    network.dns_options = host.dns_options.unwrap_or_default();
    for extra in host.extra_hosts.iter().flatten() {
        let wrong = |why: String| format!("bad format for add-host: {extra:?}: {why}");
        network.extra_hosts.push(extra.parse().map_err(wrong)?);
    }
    Ok(())
}

/// `MacAddress` of the container itself, which older clients send: that of its first
/// network, unless the network says its own.
///
/// # Errors
/// It is none.
pub fn hardware_address(said: &Value, container: &mut Container) -> Result<(), String> {
    let text = said["MacAddress"].as_str().unwrap_or_default();
    let bridged = matches!(container.network.mode, None | Some(NetworkMode::Bridge));
    if text.is_empty() || !bridged {
        return Ok(());
    }
    let network = &mut container.network;
    let mac = match network.networks.first_mut() {
        Some(first) => &mut first.mac,
        None => &mut network.mac,
    };
    if mac.is_none() {
        *mac = Some(Mac(text.parse()?));
    }
    Ok(())
}

/// Publishes ports on free ones of the host, where they are not published yet.
///
/// # Errors
/// One that is none.
pub fn publish_all<'a>(
    ports: impl IntoIterator<Item = &'a String>,
    container: &mut Container,
) -> Result<(), String> {
    for port in ports {
        let mapping: PortMapping = port.parse()?;
        let same = |one: &Publish| {
            (one.mapping.container, one.mapping.protocol) == (mapping.container, mapping.protocol)
        };
        if !container.network.publish.iter().any(same) {
            container.network.publish.push(Publish::of(mapping));
        }
    }
    Ok(())
}

/// A place on a network as Docker asks for it.
///
/// # Errors
/// A sentence for the client.
pub fn member(name: &str, settings: &EndpointSettings) -> Result<Member, String> {
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let ipam = settings.ipam_config.as_ref();
    let ip = ipam.and_then(|ipam| said(&ipam.ipv4_address));
    let ip = ip.map(|ip| ip.parse().map_err(|_| format!("invalid IPv4 address: {ip}")));
    let ip6 = ipam.and_then(|ipam| said(&ipam.ipv6_address));
    let ip6 = ip6.map(|ip| ip.parse().map_err(|_| format!("invalid IPv6 address: {ip}")));
    let link_local = ipam.iter().flat_map(|ipam| ipam.link_local_ips.iter().flatten());
    let link_local = link_local
        .filter(|ip| !ip.is_empty())
        .map(|ip| ip.parse().map_err(|_| format!("invalid link-local address: {ip}")));
    let mac = said(&settings.mac_address).map(|mac| mac.parse().map(Mac));
    let links = settings.links.iter().flatten().filter(|link| !link.is_empty());
    let link = links.map(|link| link.trim_start_matches('/').parse());
    let member = Member {
        name: our_name(name).to_owned(),
        alias: settings.aliases.clone().unwrap_or_default(),
        link: link.collect::<Result<_, _>>()?,
        ip: ip.transpose()?,
        ip6: ip6.transpose()?,
        mac: mac.transpose()?,
        link_local: link_local.collect::<Result<_, _>>()?,
        priority: settings.gw_priority.unwrap_or_default(),
        options: settings.driver_opts.clone().unwrap_or_default().into_iter().collect(),
    };
    member.check()?;
    Ok(member)
}

/// Where the ports of a container that left its last network are remembered.
const BINDINGS: &str = "HostConfig.PortBindings";

/// Puts a container on these networks alone. Without any it has loopback and publishes
/// nothing; its ports are remembered, and are back with its next network.
///
/// # Errors
/// What was remembered can't be read.
pub fn put_on(manifest: &mut Container, members: Vec<Member>) -> Result<(), String> {
    let network = &mut manifest.network;
    // Berth has no container in bridge mode without a network.
    network.mode = Some(match members.is_empty() {
        true => NetworkMode::None,
        false => NetworkMode::Bridge,
    });
    if members.is_empty() {
        (network.ip, network.ip6, network.mac) = (None, None, None);
        network.alias.clear();
        if !network.publish.is_empty() {
            let bindings = super::inspect::host_config(manifest)["PortBindings"].to_string();
            manifest.docker.insert(BINDINGS.to_owned(), bindings);
            manifest.network.publish.clear();
        }
    } else if network.publish.is_empty()
        && let Some(text) = manifest.docker.remove(BINDINGS)
    {
        let bindings: PortMap = serde_json::from_str(&text)
            .map_err(|error| format!("reading the ports that it published: {error}"))?;
        network.publish = published(Some(&bindings))?;
    }
    manifest.network.networks = members;
    Ok(())
}

/// Port bindings as the manifest has them, in order.
fn published(bindings: Option<&PortMap>) -> Result<Vec<Publish>, String> {
    let mut all = Vec::new();
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    for (port, hosts) in bindings.into_iter().flatten() {
        for host in hosts.iter().flatten() {
            let port = port.strip_suffix("/tcp").unwrap_or(port);
            let outside = said(&host.host_port).filter(|port| port != "0").unwrap_or_default();
            let text = match said(&host.host_ip) {
                Some(ip) if ip.contains(':') => format!("[{ip}]:{outside}:{port}"),
                Some(ip) => format!("{ip}:{outside}:{port}"),
                None if outside.is_empty() => port.to_owned(),
                None => format!("{outside}:{port}"),
            };
            all.push(text);
        }
    }
    all.sort();
    all.into_iter()
        .map(|text| match text.parse() {
            Ok(mapping) => Ok(Publish::of(mapping)),
            Err(error) => Err(format!("invalid port specification: {error}")),
        })
        .collect()
}

/// Each published port: address and port outside, port and protocol inside.
fn pairs(manifest: &Container) -> impl Iterator<Item = (String, String, String)> {
    manifest.network.publish.iter().flat_map(|one| {
        let mapping = one.mapping;
        mapping.pairs().map(move |(host, inside)| {
            (
                mapping.address.map(|address| address.to_string()).unwrap_or_default(),
                match mapping.among() {
                    Some(_) => mapping.outside().unwrap_or_default(),
                    None => host.map(|port| port.to_string()).unwrap_or_default(),
                },
                format!("{inside}/{}", mapping.protocol),
            )
        })
    })
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`: as it was asked for.
pub fn port_bindings(manifest: &Container) -> Map<String, Value> {
    let mut bindings: Map<String, Value> = Map::new();
    for (address, port, inside) in pairs(manifest) {
        let list = bindings.entry(inside).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!({ "HostIp": address, "HostPort": port }));
        }
    }
    bindings
}

/// The ports inside that are published.
pub fn exposed(manifest: &Container) -> impl Iterator<Item = String> {
    pairs(manifest).map(|(_, _, inside)| inside)
}

/// Ports that a client said to expose, published or not.
pub fn said_exposed(manifest: &Container) -> Vec<String> {
    let said = manifest.docker.get("ExposedPorts").map(String::as_str).unwrap_or_default();
    let said: Map<String, Value> = serde_json::from_str(said).unwrap_or_default();
    said.into_iter().map(|(port, _)| port).collect()
}

/// Each published port: that of the host, and port and protocol inside.
pub fn published_pairs(manifest: &Container) -> Vec<(String, String)> {
    pairs(manifest).map(|(_, host, inside)| (host, inside)).collect()
}

/// `HostConfig.NetworkMode`.
pub fn mode(manifest: &Container) -> String {
    match manifest.network_mode() {
        NetworkMode::Bridge => match manifest.network.networks.first() {
            Some(first) => docker_name(&first.name).to_owned(),
            None => BRIDGE.to_owned(),
        },
        other => other.to_string(),
    }
}

/// Docker's families for a port on all addresses: one entry each.
fn addresses(address: Option<IpAddr>) -> Vec<String> {
    match address {
        Some(address) => vec![address.to_string()],
        None => vec!["0.0.0.0".to_owned(), "::".to_owned()],
    }
}

/// `NetworkSettings.Ports`: what is published now, and exposed without being so.
fn ports(view: &View, image_exposes: &[String]) -> Map<String, Value> {
    let mut ports: Map<String, Value> = Map::new();
    if !super::model::is_running(view) {
        return ports;
    }
    for port in image_exposes.iter().chain(&said_exposed(&view.manifest)) {
        ports.insert(port.clone(), Value::Null);
    }
    for port in &view.ports {
        let entry =
            ports.entry(format!("{}/{}", port.container, port.protocol)).or_insert(Value::Null);
        if entry.is_null() {
            *entry = json!([]);
        }
        if let Some(list) = entry.as_array_mut() {
            list.extend(
                addresses(port.address)
                    .into_iter()
                    .map(|address| json!({ "HostIp": address, "HostPort": port.port.to_string() })),
            );
        }
    }
    ports
}

/// The `Ports` of one line of `docker ps`.
/// With those that its image exposes.
pub fn summary(view: &View, image_exposes: &[String]) -> Vec<PortSummary> {
    let mut all = Vec::new();
    for port in &view.ports {
        for address in addresses(port.address) {
            all.push(PortSummary {
                ip: Some(address),
                private_port: port.container,
                public_port: Some(port.port),
                typ: Some(match port.protocol.as_str() {
                    "udp" => PortSummaryTypeEnum::UDP,
                    _ => PortSummaryTypeEnum::TCP,
                }),
            });
        }
    }
    if super::model::is_running(view) && view.manifest.network_mode() == NetworkMode::Bridge {
        let said = said_exposed(&view.manifest);
        for port in image_exposes.iter().chain(&said) {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let Ok(number) = number.parse() else { continue };
            let typ = Some(match protocol {
                "udp" => PortSummaryTypeEnum::UDP,
                "sctp" => PortSummaryTypeEnum::SCTP,
                _ => PortSummaryTypeEnum::TCP,
            });
            if !all.iter().any(|one| one.private_port == number && one.typ == typ) {
                all.push(PortSummary { private_port: number, typ, ..PortSummary::default() });
            }
        }
    }
    all
}

/// A network that a container is in.
fn endpoint(view: &View, place: Option<&EndpointView>, asked: Option<&Member>) -> Value {
    let aliases = asked.map(|member| member.alias.clone()).filter(|alias| !alias.is_empty());
    let options = asked.map(|member| &member.options).filter(|options| !options.is_empty());
    let fixed = [
        ("IPv4Address", asked.and_then(|member| member.ip).map(|ip| ip.to_string())),
        ("IPv6Address", asked.and_then(|member| member.ip6).map(|ip| ip.to_string())),
    ];
    let fixed = fixed.into_iter().filter_map(|(key, ip)| Some((key.to_owned(), ip?.into())));
    let local = asked.map(|member| &member.link_local).filter(|local| !local.is_empty());
    let local = local.map(|local| ("LinkLocalIPs".to_owned(), json!(local)));
    let ipam: Map<String, Value> = fixed.chain(local).collect();
    let ipam = Some(ipam).filter(|ipam| !ipam.is_empty());
    // Off the network it has what was asked for.
    let mac = match place {
        Some(place) => Some(place.mac.clone()),
        None => asked.and_then(|member| member.mac).map(|mac| mac.0.to_string()),
    };
    let text = |address: Option<std::net::Ipv6Addr>| {
        address.map(|address| address.to_string()).unwrap_or_default()
    };
    json!({
        "IPAMConfig": ipam,
        "Links": asked.map(|member| &member.link).filter(|links| !links.is_empty()),
        "Aliases": aliases,
        "MacAddress": mac.unwrap_or_default(),
        "DriverOpts": options,
        "GwPriority": asked.map_or(0, |member| member.priority),
        "NetworkID": place.map(|place| place.network_id.clone()).unwrap_or_default(),
        // Docker's is random; ours says whose it is.
        "EndpointID": place.map(|_| view.id.clone()).unwrap_or_default(),
        "Gateway": place.map(|place| place.gateway.to_string()).unwrap_or_default(),
        "IPAddress": place.map(|place| place.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": place.map_or(0, |place| place.prefix),
        "IPv6Gateway": text(place.and_then(|place| place.gateway6)),
        "GlobalIPv6Address": text(place.and_then(|place| place.address6)),
        "GlobalIPv6PrefixLen": place.map_or(0, |place| place.prefix6),
        "DNSNames": place.map(|place| place.names.clone()),
    })
}

/// `NetworkSettings.Networks`.
pub fn networks(view: &View) -> Map<String, Value> {
    let manifest = &view.manifest;
    match manifest.network_mode() {
        NetworkMode::Container(_) => Map::new(),
        NetworkMode::Bridge => manifest
            .network
            .members()
            .iter()
            .map(|member| {
                let place = view.endpoints.iter().find(|place| place.network == member.name);
                let name = docker_name(&member.name).to_owned();
                (name, endpoint(view, place, Some(member)))
            })
            .collect(),
        other => {
            let name = other.to_string();
            let mut about = endpoint(view, None, None);
            about["NetworkID"] = super::networks::made_up_id(&name).into();
            [(name, about)].into_iter().collect()
        }
    }
}

/// `NetworkSettings`.
pub fn settings(view: &View, image_exposes: &[String]) -> Value {
    let networks = networks(view);
    // The old fields are those of the default network.
    let first = networks.get(BRIDGE).cloned().unwrap_or_else(|| endpoint(view, None, None));
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": match view.pid {
            0 => String::new(),
            pid => format!("/proc/{pid}/ns/net"),
        },
        "Ports": ports(view, image_exposes),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": first["EndpointID"],
        "Gateway": first["Gateway"],
        "GlobalIPv6Address": first["GlobalIPv6Address"],
        "GlobalIPv6PrefixLen": first["GlobalIPv6PrefixLen"],
        "IPAddress": first["IPAddress"],
        "IPPrefixLen": first["IPPrefixLen"],
        "IPv6Gateway": first["IPv6Gateway"],
        "MacAddress": first["MacAddress"],
        "Networks": networks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_its_links_and_its_addresses_for_the_link() {
        let asked = json!({"Links": ["/db:x"], "IPAMConfig": {"LinkLocalIPs": ["169.254.8.8"]}});
        let member = member("back", &serde_json::from_value(asked).unwrap()).unwrap();
        assert_eq!(member.link[0].to_string(), "db:x");
        assert_eq!(member.link_local[0].to_string(), "169.254.8.8");
        let text = toml::to_string(&member).unwrap();
        assert_eq!(toml::from_str::<Member>(&text).unwrap(), member);
    }

    #[test]
    fn ports_come_back_with_the_next_network() {
        let text =
            "image = \"x\"\nnetwork.publish = [\"8080:80\", \"127.0.0.1:53:53/udp\", \"81\"]";
        let before: Container = toml::from_str(text).unwrap();
        let mut manifest = before.clone();
        put_on(&mut manifest, Vec::new()).unwrap();
        assert!(manifest.network.publish.is_empty());
        assert_eq!(manifest.network_mode(), NetworkMode::None);
        assert_eq!(crate::manifest::objections(&manifest), [""; 0]);
        let mut member = Member::of("back");
        member.ip6 = "fd00::9".parse().ok();
        put_on(&mut manifest, vec![member]).unwrap();
        let ports = |one: &Container| {
            let mut all: Vec<String> =
                one.network.publish.iter().map(|one| one.mapping.to_string()).collect();
            all.sort();
            all
        };
        assert_eq!(ports(&manifest), ports(&before));
        assert_eq!((manifest.network.networks.len(), manifest.docker.len()), (1, 0));
    }
}
