//! `/networks/…`: named networks, as Docker's types have them.

mod asked;
mod members;

use std::time::{Duration, SystemTime};

use bollard_stubs::models::NetworkCreateRequest;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

pub use members::{connect, disconnect};

use super::endpoints::{BRIDGE, docker_name, our_name};
use super::events::tell;
use super::filters::{self, Filters};
use super::respond::{Answer, created, failure, json as as_json, no_content, refused};
use super::route::Query;
use super::{body, model};
use crate::engine::handle::{Handle, Refusal, View};
use crate::engine::networks::{NetworkView, Seen};
use crate::manifest::model::NetworkMode;
use crate::network::spec::{DEFAULT_NETWORK, Driver};

/// Docker's networks that are none: the host's own, and loopback alone.
const WITHOUT: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// The id of one of them: the same each time.
pub(super) fn made_up_id(name: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(format!("berth network {name}")))
}

/// Our name of the network that a client means: by its whole id, its name, or the
/// beginning of an id that only it has.
pub fn named(handle: &Handle, which: &str) -> Option<String> {
    let seen = handle.networks.seen();
    let whole = seen.networks.iter().find(|(_, view)| view.id == which);
    if let Some((name, _)) = whole.filter(|_| !which.is_empty()) {
        return Some(name.clone());
    }
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

fn born(view: &NetworkView) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(view.created.max(0).unsigned_abs())
}

fn described(name: &str, view: &NetworkView, views: &[View], with_containers: bool) -> Value {
    let mut ipam = Vec::new();
    let mut options = Map::new();
    if let Some(spec) = &view.spec {
        let mut config = json!({ "Subnet": spec.subnet, "Gateway": spec.gateway });
        if let Some(range) = spec.range {
            config["IPRange"] = json!(range);
        }
        let with_reserved = |mut config: Value, is_ipv6: bool| {
            let all = spec.reserved.iter().filter(|(_, address)| address.is_ipv6() == is_ipv6);
            let all: Map<String, Value> =
                all.map(|(name, address)| (name.clone(), json!(address))).collect();
            if !all.is_empty() {
                config["AuxiliaryAddresses"] = Value::Object(all);
            }
            config
        };
        ipam.push(with_reserved(config, false));
        if let Some(subnet) = spec.subnet6 {
            let mut config = json!({ "Subnet": subnet, "Gateway": spec.gateway6() });
            if let Some(range) = spec.range6 {
                config["IPRange"] = json!(range);
            }
            ipam.push(with_reserved(config, true));
        }
        // As with Docker's daemon of the first network alone: what stands in the options of
        // another one that nobody asked for is a difference to Compose, which then refuses.
        if spec.driver == Driver::Bridge && name == DEFAULT_NETWORK {
            options.insert("com.docker.network.bridge.name".into(), view.bridge.clone().into());
        }
        let is_kept = |key: &str| view.docker.contains_key(key);
        if let Some(mtu) = spec.mtu.filter(|_| !is_kept("mtu")) {
            options.insert(asked::MTU.into(), mtu.to_string().into());
        }
        if let Some(parent) = &spec.parent {
            options.insert("parent".into(), parent.clone().into());
        }
        if spec.isolated && !is_kept("isolated") {
            options.insert(asked::ICC.into(), "false".into());
        }
    }
    // What was asked for: Compose refuses a network that is told of with other options.
    options.extend(view.docker.iter().map(|(key, value)| (key.clone(), value.clone().into())));
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
    json!({
        "Name": docker_name(name),
        "Id": view.id,
        "Created": model::timestamp(born(view)),
        "Scope": "local",
        "Driver": view.driver(),
        "Bridge": view.spec.as_ref().filter(|spec| spec.driver == Driver::Bridge).map(|_| &view.bridge),
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

/// Whether a network is one of those that filters mean, but for its labels.
fn fits(
    value: &Value,
    filters: &Filters,
    [names, ids]: &[filters::Patterns; 2],
    used: &[String],
) -> bool {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let is_builtin = [BRIDGE, "host", "none"].contains(&text("Name"));
    filters.iter().filter(|(_, values)| !values.is_empty()).all(|(key, values)| {
        values.iter().any(|wanted| match key.as_str() {
            "name" => names.fit(text("Name")),
            "id" => ids.fit(text("Id")),
            "driver" => text("Driver") == wanted,
            "scope" => text("Scope") == wanted,
            "type" => (wanted == "builtin") == is_builtin,
            "dangling" => {
                let is_used = is_builtin || used.iter().any(|name| name == text("Name"));
                is_used != matches!(wanted.as_str(), "1" | "true" | "True")
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
    let asked = query.filters_among(&FILTERS);
    let asked = asked.and_then(|all| filters::is_on(&all, "dangling").map(|_| all));
    let filters = match asked {
        Ok(filters) => filters,
        Err(answer) => return *answer,
    };
    let views = handle.list().await;
    let used = used(&views);
    let patterns = ["name", "id"].map(|key| filters::Patterns::of(&filters, key));
    let mut list = all(&handle.networks.seen(), &views);
    list.retain(|value| {
        let labels = serde_json::from_value(value["Labels"].clone()).unwrap_or_default();
        fits(value, &filters, &patterns, &used) && filters::labels_fit(&filters, &labels)
    });
    as_json(&list)
}

fn missing(which: &str) -> Answer {
    failure(StatusCode::NOT_FOUND, &format!("network {which} not found"))
}

pub async fn inspect(handle: &Handle, which: &str, query: &Query) -> Answer {
    if query.get("scope").is_some_and(|scope| scope != "local") {
        return missing(which);
    }
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

pub async fn create(handle: &Handle, body: Incoming) -> Answer {
    let asked: NetworkCreateRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let name = asked.name.clone();
    if name.is_empty() {
        return failure(StatusCode::BAD_REQUEST, "invalid name: name is empty");
    }
    let driver = asked.driver.as_deref().unwrap_or_default();
    if !asked::DRIVERS.contains(&driver) {
        return failure(StatusCode::NOT_FOUND, &format!("plugin \"{driver}\" not found"));
    }
    if [BRIDGE, "host", "none"].contains(&name.as_str()) {
        let message = format!("operation is not permitted on predefined {name} network");
        return failure(StatusCode::FORBIDDEN, &message);
    }
    let made = async {
        let asked::Asked { file, warning } = asked::asked(&asked).map_err(Refusal::Invalid)?;
        handle.create_network(&name, file).await.map(|()| warning)
    };
    match made.await {
        Ok(warning) => {
            let seen = handle.networks.seen();
            let view = seen.networks.get(&name);
            let id = view.map(|view| view.id.as_str()).unwrap_or_default();
            let kind = view.map(NetworkView::driver).unwrap_or_default();
            tell(handle, ("network", "create"), (id, &name), [("type", kind)]);
            created(&json!({ "Id": id, "Warning": warning }))
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
    let seen = handle.networks.seen();
    match handle.remove_network(&name).await {
        Ok(()) => {
            let view = seen.networks.get(&name);
            let id = view.map(|view| view.id.as_str()).unwrap_or_default();
            let kind = view.map(NetworkView::driver).unwrap_or_default();
            tell(handle, ("network", "destroy"), (id, &name), [("type", kind)]);
            no_content()
        }
        Err(refusal) => refused(refusal),
    }
}

pub async fn prune(handle: &Handle, query: &Query) -> Answer {
    let asked = query.filters_among(&["label", "label!", "until"]);
    let asked =
        asked.and_then(|filters| Ok((filters::until(&filters, SystemTime::now())?, filters)));
    let (until, filters) = match asked {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let used = used(&handle.list().await);
    let mut deleted = Vec::new();
    for (name, view) in &handle.networks.seen().networks {
        let is_free = !used.iter().any(|used| used == docker_name(name));
        let is_old = until.is_none_or(|until| born(view) < until);
        if is_free
            && is_old
            && filters::labels_fit(&filters, &view.labels)
            && handle.remove_network(name).await.is_ok()
        {
            tell(handle, ("network", "destroy"), (&view.id, name), [("type", view.driver())]);
            deleted.push(name.clone());
        }
    }
    as_json(&json!({ "NetworksDeleted": super::respond::unless_empty(deleted) }))
}
