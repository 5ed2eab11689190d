//! `--network` and its like: a name alone, or `name=back,alias=db,ip=10.0.0.5,…`. Pure.

use serde_json::{Map, Value, json};

use super::super::Result;
use super::super::run_args::Create;

/// The network that is named first.
///
/// # Errors
/// A flag that says nothing sensible.
pub fn mode(args: &Create) -> Result<Option<String>> {
    Ok(args.network.first().map(|flag| one(flag)).transpose()?.map(|(name, _)| name))
}

/// What is asked of each network.
///
/// # Errors
/// A flag that says nothing sensible.
pub fn endpoints(args: &Create) -> Result<Value> {
    let mut all: Vec<(String, Value)> =
        args.network.iter().map(|flag| one(flag)).collect::<Result<_>>()?;
    let of_first = [
        ("Aliases", json!(args.network_alias), !args.network_alias.is_empty()),
        ("MacAddress", json!(args.mac_address), args.mac_address.is_some()),
        ("Links", json!(args.link), !args.link.is_empty() && !all.is_empty()),
    ];
    let fixed = args.ip.is_some() || args.ip6.is_some();
    if of_first.iter().any(|(_, _, said)| *said) || fixed {
        if all.is_empty() {
            all.push(("bridge".to_owned(), json!({})));
        }
        if let Some((_, settings)) = all.first_mut() {
            for (key, value, _) in of_first.into_iter().filter(|(_, _, said)| *said) {
                settings[key] = value;
            }
            for (key, value) in [("IPv4Address", &args.ip), ("IPv6Address", &args.ip6)] {
                if let Some(value) = value {
                    settings["IPAMConfig"][key] = json!(value);
                }
            }
        }
    }
    // A mode alone says it all.
    let is_mode = |name: &str| matches!(name, "none" | "host" | "default") || name.contains(':');
    all.retain(|(name, settings)| {
        !is_mode(name) && (args.network.len() > 1 || settings != &json!({}))
    });
    if all.is_empty() {
        return Ok(Value::Null);
    }
    Ok(json!({ "EndpointsConfig": Map::from_iter(all) }))
}

/// A network's name and what is asked of it.
fn one(flag: &str) -> Result<(String, Value)> {
    let mut settings = json!({});
    if !flag.contains('=') {
        return Ok((flag.to_owned(), settings));
    }
    let mut name = None;
    for part in flag.split(',') {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("invalid field {part} of {flag:?}"))?;
        match key {
            "name" => name = Some(value.to_owned()),
            "alias" => push(&mut settings["Aliases"], value),
            "ip" => settings["IPAMConfig"]["IPv4Address"] = json!(value),
            "ip6" => settings["IPAMConfig"]["IPv6Address"] = json!(value),
            "mac-address" => settings["MacAddress"] = json!(value),
            "gw-priority" => {
                let priority: i64 =
                    value.parse().map_err(|_| format!("invalid gw-priority: {value}"))?;
                settings["GwPriority"] = json!(priority);
            }
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .ok_or_else(|| format!("invalid driver-opt {value:?}: write KEY=VALUE"))?;
                settings["DriverOpts"][key] = json!(value);
            }
            _ => return Err(format!("unexpected key {key} in {flag:?}").into()),
        }
    }
    let name = name.filter(|name| !name.is_empty()).ok_or("network name is not set")?;
    Ok((name, settings))
}

fn push(list: &mut Value, value: &str) {
    match list.as_array_mut() {
        Some(list) => list.push(json!(value)),
        None => *list = json!([value]),
    }
}
