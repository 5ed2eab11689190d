//! `/networks/…`: named networks, as Docker's types have them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bollard_stubs::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::endpoints::{BRIDGE, docker_name, member, our_name, put_on};
use super::respond::{Answer, created, failure, json as as_json, no_content, refused};
use super::route::Query;
use super::{body, model};
use crate::engine::handle::{Handle, Refusal, View};
use crate::engine::networks::{NetworkView, Seen};
use crate::manifest::model::{Member, NetworkFile, NetworkMode};
use crate::network::spec::Driver;

/// Docker's networks that are none: the host's own, and loopback alone.
const WITHOUT: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// The id of one of them: the same each time.
fn made_up_id(name: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(format!("berth network {name}")))
}

/// Our name of the network that a client means: by name, id, or the beginning of an id
/// that only it has.
pub fn named(handle: &Handle, which: &str) -> Option<String> {
    let seen = handle.networks.seen();
    let name = our_name(which);
    if seen.networks.contains_key(name) {
        return Some(name.to_owned());
    }
    let mut by_id = seen
        .networks
        .iter()
        .filter(|(_, view)| !which.is_empty() && view.id.starts_with(which))
        .map(|(name, _)| name.clone());
    match (by_id.next(), by_id.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

fn described(name: &str, view: &NetworkView, views: &[View], with_containers: bool) -> Value {
    let driver = match view.spec.as_ref().map(|spec| spec.driver).unwrap_or_default() {
        Driver::Bridge => "bridge",
        Driver::Macvlan => "macvlan",
        Driver::Ipvlan => "ipvlan",
    };
    let mut ipam = Vec::new();
    let mut options = Map::new();
    if let Some(spec) = &view.spec {
        ipam.push(json!({ "Subnet": spec.subnet, "Gateway": spec.gateway }));
        if let Some(subnet) = spec.subnet6 {
            ipam.push(json!({ "Subnet": subnet, "Gateway": spec.gateway6() }));
        }
        if spec.driver == Driver::Bridge {
            options.insert("com.docker.network.bridge.name".into(), view.bridge.clone().into());
        }
        if let Some(mtu) = spec.mtu {
            options.insert("com.docker.network.driver.mtu".into(), mtu.to_string().into());
        }
        if let Some(parent) = &spec.parent {
            options.insert("parent".into(), parent.clone().into());
        }
        if spec.isolated {
            options.insert("com.docker.network.bridge.enable_icc".into(), "false".into());
        }
    }
    let containers: Map<String, Value> = views
        .iter()
        .filter(|_| with_containers)
        .filter_map(|one| {
            let place = one.endpoints.iter().find(|place| place.network == name)?;
            let v6 = place.address6.map(|ip| format!("{ip}/{}", place.prefix6));
            let about = json!({
                "Name": one.name,
                "EndpointID": one.id,
                "MacAddress": place.mac,
                "IPv4Address": format!("{}/{}", place.address, place.prefix),
                "IPv6Address": v6.unwrap_or_default(),
            });
            Some((one.id.clone(), about))
        })
        .collect();
    let nanos = Duration::from_nanos(view.created.max(0).unsigned_abs());
    json!({
        "Name": docker_name(name),
        "Id": view.id,
        "Created": model::timestamp(SystemTime::UNIX_EPOCH + nanos),
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": view.spec.as_ref().is_some_and(|spec| spec.subnet6.is_some()),
        "IPAM": { "Driver": "default", "Options": null, "Config": ipam },
        "Internal": view.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": view.labels,
    })
}

/// One of Docker's networks that are none.
fn without(name: &str, driver: &str) -> Value {
    json!({
        "Name": name, "Id": made_up_id(name), "Created": "1970-01-01T00:00:00Z",
        "Scope": "local", "Driver": driver, "EnableIPv4": true, "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false, "Attachable": false, "Ingress": false,
        "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": {}, "Options": {}, "Labels": {},
    })
}

/// Everything that docker lists.
fn all(seen: &Seen, views: &[View]) -> Vec<Value> {
    let ours = seen.networks.iter().map(|(name, view)| described(name, view, views, false));
    ours.chain(WITHOUT.map(|(name, driver)| without(name, driver))).collect()
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "True")
}

fn fits(value: &Value, filters: &BTreeMap<String, Vec<String>>, used: &[String]) -> bool {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let is_builtin = [BRIDGE, "host", "none"].contains(&text("Name"));
    filters.iter().all(|(key, values)| {
        values.iter().any(|wanted| match key.as_str() {
            "name" => text("Name").contains(wanted.as_str()),
            "id" => text("Id").starts_with(wanted.as_str()),
            "driver" => text("Driver") == wanted,
            "scope" => text("Scope") == wanted,
            "type" => (wanted == "builtin") == is_builtin,
            "dangling" => {
                let is_used = is_builtin || used.iter().any(|name| name == text("Name"));
                is_used != is_true(wanted)
            }
            "label" | "label!" => {
                let (name, wanted) = match wanted.split_once('=') {
                    Some((name, wanted)) => (name, Some(wanted)),
                    None => (wanted.as_str(), None),
                };
                let label = value["Labels"].get(name).and_then(Value::as_str);
                let has = label.is_some_and(|label| wanted.is_none_or(|wanted| wanted == label));
                has != key.ends_with('!')
            }
            _ => true,
        })
    })
}

const FILTERS: [&str; 7] = ["name", "id", "driver", "scope", "type", "dangling", "label"];

/// Docker's names of the networks that containers are on, running or not.
fn used(views: &[View]) -> Vec<String> {
    views
        .iter()
        .filter(|view| view.manifest.network_mode() == NetworkMode::Bridge)
        .flat_map(|view| view.manifest.network.members())
        .map(|member| docker_name(&member.name).to_owned())
        .collect()
}

pub async fn list(handle: &Handle, query: &Query) -> Answer {
    let filters = match query.filters_among(&FILTERS) {
        Ok(filters) => filters,
        Err(answer) => return *answer,
    };
    let views = handle.list().await;
    let used = used(&views);
    let mut list = all(&handle.networks.seen(), &views);
    list.retain(|value| fits(value, &filters, &used));
    as_json(&list)
}

fn missing(which: &str) -> Answer {
    failure(StatusCode::NOT_FOUND, &format!("network {which} not found"))
}

pub async fn inspect(handle: &Handle, which: &str) -> Answer {
    if let Some((name, driver)) =
        WITHOUT.iter().find(|(name, _)| *name == which || made_up_id(name) == which)
    {
        return as_json(&without(name, driver));
    }
    let Some(name) = named(handle, which) else { return missing(which) };
    let views = handle.list().await;
    match handle.networks.seen().networks.get(&name) {
        Some(view) => as_json(&described(&name, view, &views, true)),
        None => missing(which),
    }
}

/// What `POST /networks/create` asks for.
fn file(asked: &NetworkCreateRequest) -> Result<NetworkFile, String> {
    let mut file = NetworkFile {
        driver: match asked.driver.as_deref() {
            None | Some("" | "bridge" | "default") => Driver::Bridge,
            Some("macvlan") => Driver::Macvlan,
            Some("ipvlan") => Driver::Ipvlan,
            Some(other) => {
                return Err(format!("could not find plugin {other} in v1 plugin registry"));
            }
        },
        internal: asked.internal.unwrap_or(false),
        ipv6: asked.enable_ipv6.unwrap_or(true),
        labels: asked.labels.clone().unwrap_or_default().into_iter().collect(),
        ..NetworkFile::default()
    };
    let configs = asked.ipam.as_ref().and_then(|ipam| ipam.config.clone()).unwrap_or_default();
    for config in configs {
        let Some(subnet) = config.subnet.filter(|subnet| !subnet.is_empty()) else { continue };
        let gateway = config.gateway.filter(|gateway| !gateway.is_empty());
        let wrong = |what: &str| format!("invalid {what} in the IPAM configuration of {subnet}");
        match subnet.parse::<ipnet::IpNet>() {
            Ok(ipnet::IpNet::V4(net)) => {
                file.subnet = Some(net.trunc());
                file.gateway =
                    gateway.map(|ip| ip.parse()).transpose().map_err(|_| wrong("gateway"))?;
            }
            Ok(ipnet::IpNet::V6(net)) => {
                (file.subnet6, file.ipv6) = (Some(net.trunc()), true);
                file.gateway6 =
                    gateway.map(|ip| ip.parse()).transpose().map_err(|_| wrong("gateway"))?;
            }
            Err(_) => return Err(wrong("subnet")),
        }
    }
    for (key, value) in asked.options.iter().flatten() {
        match key.as_str() {
            "com.docker.network.driver.mtu" | "mtu" => {
                let mtu = value.parse().map_err(|_| format!("invalid mtu: {value}"))?;
                file.mtu = Some(mtu);
            }
            "com.docker.network.bridge.enable_icc" => file.isolated = !is_true(value),
            "parent" => file.parent = Some(value.clone()),
            "isolated" => file.isolated = is_true(value),
            _ => {}
        }
    }
    Ok(file)
}

pub async fn create(handle: &Handle, body: Incoming) -> Answer {
    let asked: NetworkCreateRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let name = asked.name.clone();
    let made = async {
        let file = file(&asked).map_err(Refusal::Invalid)?;
        handle.create_network(&name, file).await
    };
    match made.await {
        Ok(()) => {
            let seen = handle.networks.seen();
            let id = seen.networks.get(&name).map(|view| view.id.clone());
            created(&json!({ "Id": id, "Warning": "" }))
        }
        Err(refusal) => refused(refusal),
    }
}

pub async fn remove(handle: &Handle, which: &str) -> Answer {
    if [BRIDGE, "host", "none"].contains(&which) {
        let message = format!("{which} is a pre-defined network and cannot be removed");
        return failure(StatusCode::FORBIDDEN, &message);
    }
    let Some(name) = named(handle, which) else { return missing(which) };
    match handle.remove_network(&name).await {
        Ok(()) => no_content(),
        Err(refusal) => refused(refusal),
    }
}

pub async fn prune(handle: &Handle, query: &Query) -> Answer {
    let filters = match query.filters() {
        Ok(filters) => filters,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let views = handle.list().await;
    let (seen, used) = (handle.networks.seen(), used(&views));
    let mut deleted = Vec::new();
    for (name, view) in &seen.networks {
        let value = described(name, view, &views, false);
        let labels: BTreeMap<_, _> = filters
            .iter()
            .filter(|(key, _)| key.starts_with("label"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let is_free = !used.iter().any(|used| used == docker_name(name));
        if is_free && fits(&value, &labels, &used) && handle.remove_network(name).await.is_ok() {
            deleted.push(name.clone());
        }
    }
    as_json(&json!({ "NetworksDeleted": deleted }))
}

pub async fn connect(handle: &Handle, which: &str, body: Incoming) -> Answer {
    let asked: NetworkConnectRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let Some(name) = named(handle, which) else { return missing(which) };
    let changed = async {
        let settings = asked.endpoint_config.clone().unwrap_or_default();
        let wanted =
            Member { name: name.clone(), ..member(&name, &settings).map_err(Refusal::Invalid)? };
        let view = handle.find(&asked.container).await?;
        change(handle, view, |members| {
            if members.iter().any(|member| member.name == name) {
                return Err(Refusal::Conflict(format!(
                    "endpoint with name {} already exists in network {}",
                    asked.container,
                    docker_name(&name)
                )));
            }
            members.push(wanted);
            Ok(())
        })
        .await
    };
    match changed.await {
        Ok(()) => super::respond::empty(),
        Err(refusal) => refused(refusal),
    }
}

pub async fn disconnect(handle: &Handle, which: &str, body: Incoming) -> Answer {
    let asked: NetworkDisconnectRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let Some(name) = named(handle, which) else { return missing(which) };
    let changed = async {
        let container = asked.container.clone();
        let view = handle.find(&container).await?;
        change(handle, view, |members| {
            let before = members.len();
            members.retain(|member| member.name != name);
            match before == members.len() {
                true => Err(Refusal::Conflict(format!(
                    "container {container} is not connected to the network {}",
                    docker_name(&name)
                ))),
                false => Ok(()),
            }
        })
        .await
    };
    match changed.await {
        Ok(()) => super::respond::empty(),
        Err(refusal) => refused(refusal),
    }
}

/// Changes the networks of a container that a client made, and waits until it is on
/// them.
async fn change(
    handle: &Handle,
    view: View,
    edit: impl FnOnce(&mut Vec<Member>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut manifest = view.manifest.clone();
    if !matches!(manifest.network_mode(), NetworkMode::Bridge | NetworkMode::None) {
        return Err(Refusal::Conflict(format!(
            "container {} has the network mode {}: it can't be on a network",
            view.name,
            manifest.network_mode()
        )));
    }
    let mut members = match manifest.network_mode() {
        NetworkMode::Bridge => manifest.network.members(),
        _ => Vec::new(),
    };
    edit(&mut members)?;
    let wanted: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    put_on(&mut manifest, members).map_err(Refusal::Failed)?;
    handle.change(&view.name, manifest).await?;
    if !model::is_running(&view) {
        return Ok(());
    }
    let is_so = |view: &View| {
        let mut on: Vec<&str> = view.endpoints.iter().map(|place| place.network.as_str()).collect();
        let mut wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        on.sort_unstable();
        wanted.sort_unstable();
        on == wanted || view.error.is_some() || !model::is_running(view)
    };
    let reached = handle.wait_until(&view.name, is_so);
    let reached = tokio::time::timeout(Duration::from_secs(10), reached).await;
    match reached.ok().flatten().and_then(|view| view.error) {
        Some(error) => Err(Refusal::Failed(error)),
        None => Ok(()),
    }
}
