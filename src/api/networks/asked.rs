//! What `POST /networks/create` asks for, as a network's file. Pure.

use bollard_stubs::models::{IpamConfig, NetworkCreateRequest};

use crate::manifest::model::NetworkFile;
use crate::network::spec::Driver;

/// A network's file, and what of the description it leaves out.
#[derive(Debug)]
pub struct Asked {
    /// The file.
    pub file: NetworkFile,
    /// In sentences; empty if it leaves out nothing.
    pub warning: String,
}

/// The option that says how large packets may be.
pub const MTU: &str = "com.docker.network.driver.mtu";
/// The option that says whether containers of a network may talk to each other.
pub const ICC: &str = "com.docker.network.bridge.enable_icc";

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "True")
}

/// What changes which addresses are given, or who may talk to whom, is refused where it
/// can't be had: a client must not believe that it has it.
fn refuse(what: &str, asked: bool) -> Result<(), String> {
    match asked {
        true => Err(format!("{what} is not served by Berth; leave it out")),
        false => Ok(()),
    }
}

/// What a client may call a driver.
pub const DRIVERS: [&str; 5] = ["", "default", "bridge", "macvlan", "ipvlan"];

/// The network that a description asks for.
///
/// # Errors
/// A sentence for the client.
pub fn asked(body: &NetworkCreateRequest) -> Result<Asked, String> {
    let mut file = NetworkFile {
        driver: match body.driver.as_deref() {
            None | Some("" | "bridge" | "default") => Driver::Bridge,
            Some("macvlan") => Driver::Macvlan,
            Some("ipvlan") => Driver::Ipvlan,
            Some(other) => {
                return Err(format!("plugin \"{other}\" not found"));
            }
        },
        internal: body.internal.unwrap_or(false),
        ipv6: body.enable_ipv6.unwrap_or(true),
        labels: body.labels.clone().unwrap_or_default().into_iter().collect(),
        ..NetworkFile::default()
    };
    let scope = body.scope.as_deref().unwrap_or_default();
    refuse(&format!("the scope {scope:?} of a network"), !["", "local"].contains(&scope))?;
    refuse("a network for ingress (swarm)", body.ingress == Some(true))?;
    refuse("a network of configuration only", body.config_only == Some(true))?;
    let from = body.config_from.as_ref().and_then(|from| from.network.as_deref());
    refuse("ConfigFrom of a network", from.is_some_and(|from| !from.is_empty()))?;
    refuse("a network without IPv4", body.enable_ipv4 == Some(false))?;
    if let Some(ipam) = &body.ipam {
        let driver = ipam.driver.as_deref().unwrap_or_default();
        refuse(&format!("the IPAM driver {driver:?}"), !["", "default"].contains(&driver))?;
        let options = ipam.options.iter().flatten().any(|(_, value)| !value.is_empty());
        refuse("an option of the IPAM driver", options)?;
        for config in ipam.config.iter().flatten() {
            addresses(config, &mut file)?;
        }
        // Who says all addresses of a network, and none of IPv6, gets no more than that.
        let is_v4_alone = file.subnet.is_some() && file.subnet6.is_none();
        file.ipv6 = body.enable_ipv6.unwrap_or(!is_v4_alone) || file.subnet6.is_some();
    }
    let mut warning = Vec::new();
    for (key, value) in body.options.iter().flatten() {
        if let Some(sentence) = option(key, value, &mut file)? {
            warning.push(sentence);
        }
        let is_told = match key.as_str() {
            MTU => file.mtu.is_some(),
            ICC => file.isolated && value == "false",
            "parent" => file.parent.is_some(),
            _ => false,
        };
        if !is_told {
            file.docker.insert(key.clone(), value.clone());
        }
    }
    warning.sort();
    Ok(Asked { file, warning: warning.join("; ") })
}

fn addresses(config: &IpamConfig, file: &mut NetworkFile) -> Result<(), String> {
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let range = said(&config.ip_range);
    let range = range.filter(|range| Some(range) != said(&config.subnet).as_ref());
    let reserved = config.auxiliary_addresses.clone().unwrap_or_default();
    let gateway = said(&config.gateway);
    let Some(subnet) = said(&config.subnet) else {
        return match gateway {
            None => Ok(()),
            Some(gateway) => Err(format!("the gateway {gateway} has no subnet")),
        };
    };
    let wrong = |what: &str| format!("invalid {what} in the IPAM configuration of {subnet}");
    let twice = || format!("{subnet}: a network has one subnet of each family in Berth");
    match subnet.parse::<ipnet::IpNet>() {
        Ok(ipnet::IpNet::V4(_)) if file.subnet.is_some() => return Err(twice()),
        Ok(ipnet::IpNet::V6(_)) if file.subnet6.is_some() => return Err(twice()),
        Ok(ipnet::IpNet::V4(net)) => {
            file.subnet = Some(net.trunc());
            file.ip_range =
                range.map(|net| net.parse()).transpose().map_err(|_| wrong("IPRange"))?;
            file.gateway =
                gateway.map(|ip| ip.parse()).transpose().map_err(|_| wrong("gateway"))?;
        }
        Ok(ipnet::IpNet::V6(net)) => {
            file.ip_range6 =
                range.map(|net| net.parse()).transpose().map_err(|_| wrong("IPRange"))?;
            (file.subnet6, file.ipv6) = (Some(net.trunc()), true);
            file.gateway6 =
                gateway.map(|ip| ip.parse()).transpose().map_err(|_| wrong("gateway"))?;
        }
        Err(_) => return Err(format!("invalid subnet {subnet}: it is no CIDR block")),
    }
    for (name, address) in reserved {
        let address = address.parse().map_err(|_| wrong("auxiliary address"))?;
        file.reserved.insert(name, address);
    }
    Ok(())
}

/// One option of a driver; the sentence says that it has no effect.
fn option(key: &str, value: &str, file: &mut NetworkFile) -> Result<Option<String>, String> {
    let what = format!("the option {key}={value}");
    let bridge = key.strip_prefix("com.docker.network.bridge.");
    match (key, bridge) {
        _ if value.is_empty() => {}
        (MTU | "mtu", _) => {
            let mtu = value.parse().map_err(|_| format!("invalid mtu: {value}"))?;
            file.mtu = Some(mtu);
        }
        ("parent", _) => file.parent = Some(value.to_owned()),
        ("isolated", _) => file.isolated = is_true(value),
        (_, Some("enable_icc")) => file.isolated = !is_true(value),
        (_, Some("enable_ip_masquerade")) => refuse(&what, !is_true(value))?,
        // Ports that are meant for one address would be open at all.
        (_, Some("host_binding_ipv4")) => refuse(&what, value != "0.0.0.0")?,
        (_, Some("gateway_mode_ipv4" | "gateway_mode_ipv6")) => refuse(&what, value != "nat")?,
        (_, Some("inhibit_ipv4")) => refuse(&what, is_true(value))?,
        ("macvlan_mode", _) => refuse(&what, value != "bridge")?,
        ("ipvlan_mode", _) => refuse(&what, value != "l2")?,
        _ => return Ok(Some(format!("{what} has no effect in Berth"))),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(value: Value) -> Result<Asked, String> {
        asked(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn subnets_and_options_become_keys() {
        let made = of(json!({
            "Name": "n", "Internal": true, "Scope": "", "Attachable": true,
            "IPAM": {"Driver": "default", "Options": {}, "Config": [
                {"Subnet": "10.9.1.7/24", "Gateway": "10.9.1.1", "IPRange": "10.9.1.128/25",
                 "AuxiliaryAddresses": {"router": "10.9.1.130"}},
                {"Subnet": "fd00:9::/64"}, {},
            ]},
            "Options": {"com.docker.network.driver.mtu": "1400", "isolated": "true",
                        "com.docker.network.bridge.name": "br9"},
        }))
        .unwrap();
        assert_eq!(made.file.subnet.unwrap().to_string(), "10.9.1.0/24");
        assert_eq!(made.file.reserved["router"].to_string(), "10.9.1.130");
        assert_eq!(made.file.gateway.unwrap().to_string(), "10.9.1.1");
        assert_eq!(made.file.ip_range.unwrap().to_string(), "10.9.1.128/25");
        assert_eq!(made.file.subnet6.unwrap().to_string(), "fd00:9::/64");
        assert_eq!(
            (made.file.mtu, made.file.isolated, made.file.internal),
            (Some(1400), true, true)
        );
        assert!(made.warning.contains("bridge.name=br9 has no effect"), "{}", made.warning);
        // Each option is told again, once.
        let kept: Vec<&str> = made.file.docker.keys().map(String::as_str).collect();
        assert_eq!(kept, ["com.docker.network.bridge.name", "isolated"]);
    }

    #[test]
    fn a_part_of_an_ipv6_subnet_and_no_ipv6_beside_ipv4_that_is_said() {
        let config = |config: Value| of(json!({"Name": "n", "IPAM": {"Config": config}})).unwrap();
        let six = config(json!([{"Subnet": "fd00::/64", "IPRange": "fd00::8/125",
                                 "AuxiliaryAddresses": {"a": "fd00::9"}}]));
        assert_eq!(six.file.ip_range6.unwrap().to_string(), "fd00::8/125");
        assert_eq!(six.file.reserved["a"].to_string(), "fd00::9");
        assert!(six.file.ipv6 && config(json!([])).file.ipv6);
        assert!(!config(json!([{"Subnet": "10.9.1.0/24"}])).file.ipv6);
        let both = json!({"Name": "n", "EnableIPv6": true,
                          "IPAM": {"Config": [{"Subnet": "10.9.1.0/24"}]}});
        assert!(of(both).unwrap().file.ipv6);
    }

    #[test]
    fn what_is_not_served_is_said() {
        let with = |key: &str, value: Value| {
            let mut body = json!({"Name": "n"});
            body[key] = value;
            of(body).unwrap_err()
        };
        let config = |config: Value| with("IPAM", json!({"Config": [config]}));
        assert!(config(json!({"Subnet": "fd00::/64", "IPRange": "x"})).contains("IPRange"));
        assert!(config(json!({"Subnet": "10.9.0.0/16", "IPRange": "x"})).contains("IPRange"));
        assert!(config(json!({"Gateway": "10.9.0.1"})).contains("no subnet"));
        let two = json!({"Config": [{"Subnet": "10.1.0.0/16"}, {"Subnet": "10.2.0.0/16"}]});
        assert!(with("IPAM", two).contains("one subnet"));
        assert!(with("IPAM", json!({"Driver": "dhcp"})).contains("dhcp"));
        assert!(with("IPAM", json!({"Options": {"a": "b"}})).contains("option"));
        assert!(with("Ingress", json!(true)).contains("swarm"));
        assert!(with("ConfigFrom", json!({"Network": "c"})).contains("ConfigFrom"));
        let binding = json!({"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"});
        assert!(with("Options", binding).contains("127.0.0.1"));
        assert!(with("Driver", json!("weave")).contains("\"weave\" not found"));
    }
}
