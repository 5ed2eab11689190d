//! What a Docker client said that the manifest has no key for. It is kept with the
//! manifest as the API's JSON, and `inspect` tells it again, so that clients which
//! compare what they asked for with what they got find it. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::inspect::host_config;
use crate::engine::volumes::is_anonymous;
use crate::manifest::model::NetworkMode::Bridge;
use crate::manifest::model::{Container, Mount};

/// Settings of the container itself that inspect would not tell from the manifest.
const OF_CONTAINER: [&str; 11] = [
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "ExposedPorts",
    "MacAddress",
    "NetworkDisabled",
    "OnBuild",
    "Shell",
    "StopSignal",
    "StopTimeout",
    "Volumes",
];

/// Settings of the host that are told by the manifest alone, or not at all.
const NOT_OF_HOST: [&str; 7] = [
    "AutoRemove",
    "ContainerIDFile",
    "MaskedPaths",
    "NetworkMode",
    "PortBindings",
    "ReadonlyPaths",
    "RestartPolicy",
];

/// What belongs below `HostConfig`.
const HOST: &str = "HostConfig.";

/// Whether a client says anything by this: most send every key, most of them empty.
fn says(key: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => {
            let unsaid = if key == "MemorySwappiness" { -1 } else { 0 };
            number.as_i64() != Some(unsaid)
        }
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(|value| says("", value) || value.is_object()),
        Value::Bool(true) => true,
    }
}

/// What to keep of what was asked for, beside the manifest that was made of it.
pub fn remembered(asked: &Value, made: &Container) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for key in OF_CONTAINER {
        if let Some(value) = asked.get(key).filter(|value| says(key, value)) {
            kept.insert(key.to_owned(), value.to_string());
        }
    }
    // Names without a value are told in the list as they came.
    let bare: Vec<&Value> = asked["Env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|variable| variable.as_str().is_some_and(|text| !text.contains('=')))
        .collect();
    if !bare.is_empty() {
        kept.insert("Env".to_owned(), Value::from_iter(bare.into_iter().cloned()).to_string());
    }
    if let Some(domain) = asked["Domainname"].as_str().filter(|domain| !domain.is_empty()) {
        kept.insert("Domainname".to_owned(), Value::from(domain).to_string());
        if says("", &asked["Hostname"]) {
            kept.insert("Hostname".to_owned(), asked["Hostname"].to_string());
        }
    }
    // Where older clients say it.
    if let Some(runtime) = asked.get("Runtime").filter(|value| says("", value)) {
        kept.insert(format!("{HOST}Runtime"), runtime.to_string());
    }
    kept.extend(of_host(&asked["HostConfig"], made));
    kept.extend(without_limit(&asked["HostConfig"]));
    kept
}

fn of_host(asked: &Value, made: &Container) -> BTreeMap<String, String> {
    let told = host_config(made);
    // Ports that can't be published are for the day on which it comes onto a network; the
    // addresses that mean all of them are not in the manifest.
    let unpublished = |key: &str| {
        key == "PortBindings"
            && (made.network_mode() != Bridge || with_any_address(&asked[key]) != asked[key])
    };
    let differs = |(key, value): &(&String, &Value)| {
        says(key, value)
            && (!NOT_OF_HOST.contains(&key.as_str()) || unpublished(key))
            && told.get(*key) != Some(*value)
    };
    let asked = asked.as_object().into_iter().flatten().filter(differs);
    asked.map(|(key, value)| (format!("{HOST}{key}"), value.to_string())).collect()
}

/// No limit of processes that a client asked for is told as 0, as with Docker's daemon:
/// where none asked for anything it is null.
fn without_limit(asked: &Value) -> Option<(String, String)> {
    let pids = asked["PidsLimit"].as_i64()?;
    (pids <= 0).then(|| (format!("{HOST}PidsLimit"), "0".to_owned()))
}

/// Bindings with those of all addresses as the manifest has them, without one.
fn with_any_address(bindings: &Value) -> Value {
    let mut bindings = bindings.clone();
    let places = bindings.as_object_mut().into_iter().flat_map(Map::values_mut);
    for place in places.filter_map(Value::as_array_mut).flatten() {
        if matches!(place["HostIp"].as_str(), Some("0.0.0.0" | "::")) {
            place["HostIp"] = Value::from("");
        }
    }
    bindings
}

/// The same after an update of limits: what was asked for now replaces what was kept.
pub fn updated(asked: &Value, container: &mut Container) {
    for (key, value) in asked.as_object().into_iter().flatten() {
        if says(key, value) {
            container.docker.remove(&format!("{HOST}{key}"));
            // Two ways to say the same.
            let rivals: &[&str] = match key.as_str() {
                "NanoCpus" => &["CpuQuota", "CpuPeriod"],
                "CpuQuota" => &["NanoCpus"],
                _ => &[],
            };
            for rival in rivals {
                container.docker.remove(&format!("{HOST}{rival}"));
            }
        }
    }
    container.docker.extend(of_host(asked, container));
    container.docker.extend(without_limit(asked));
}

/// Tells again, in an inspected container, what was kept.
pub fn tell(container: &Container, config: &mut Value, host: &mut Value) {
    without_repeated(container, host);
    for (key, text) in &container.docker {
        let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
        match (key.strip_prefix(HOST), key.as_str()) {
            // They may have changed since.
            (Some("PortBindings"), _)
                if !container.network.publish.is_empty()
                    && with_any_address(&value) != host["PortBindings"] => {}
            (Some("LogConfig"), _) if value["Type"] == "" => {
                host["LogConfig"]["Config"] = value["Config"].clone();
            }
            (Some(key), _) => {
                // Docker knows one of the two ways to say it; both of them are a conflict.
                if key == "CpuQuota" && value.as_i64().is_some_and(|quota| quota > 0) {
                    host["NanoCpus"] = Value::from(0);
                }
                host[key] = value;
            }
            (None, "Env") => {
                if let (Some(env), Value::Array(bare)) = (config["Env"].as_array_mut(), value) {
                    env.extend(bare);
                }
            }
            (None, "ExposedPorts") => {
                let mut ports = config["ExposedPorts"].as_object().cloned().unwrap_or_default();
                ports.extend(value.as_object().cloned().unwrap_or_else(Map::new));
                config["ExposedPorts"] = Value::Object(ports);
            }
            (None, key) => config[key] = value,
        }
    }
}

/// Takes out of `Binds` and `Tmpfs` what a client asked for in other words, which are told
/// too: who makes a container anew of what it is told would have each mount twice.
fn without_repeated(container: &Container, host: &mut Value) {
    let kept = |key: &str| kept_of_host(container, key);
    let typed: Vec<PathBuf> = kept("Mounts")
        .iter()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|mount| mount["Target"].as_str().map(plain))
        .collect();
    // Of volumes without a name the paths are told.
    let unnamed = container.docker.get("Volumes").and_then(|text| {
        let paths: Map<String, Value> = serde_json::from_str(text).ok()?;
        Some(paths.keys().map(|path| plain(path)).collect::<Vec<_>>())
    });
    let unnamed = unnamed.unwrap_or_default();
    let is_elsewhere = |mount: &&Mount| {
        typed.contains(&mount.target)
            || unnamed.contains(&mount.target) && mount.source.as_deref().is_some_and(is_anonymous)
    };
    let elsewhere: Vec<String> = container
        .mounts
        .iter()
        .filter(is_elsewhere)
        .map(|mount| mount.target.display().to_string())
        .collect();
    if let Some(binds) = host["Binds"].as_array_mut() {
        binds.retain(|bind| {
            let bind = bind.as_str().unwrap_or_default();
            !elsewhere.iter().any(|target| bind.split(':').nth(1) == Some(target))
        });
        if binds.is_empty() {
            host["Binds"] = Value::Null;
        }
    }
    if let Some(tmpfs) = host["Tmpfs"].as_object_mut() {
        tmpfs.retain(|target, _| !elsewhere.contains(target));
    }
}

/// A path without what says nothing, as a slash at the end.
pub fn plain(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// Whether a client asked for a tmpfs in `Mounts`, and not by `Tmpfs`.
pub fn is_typed(container: &Container, target: &Path) -> bool {
    let kept = kept_of_host(container, "Mounts");
    let mut all = kept.iter().filter_map(Value::as_array).flatten();
    all.any(|mount| mount["Target"].as_str().is_some_and(|text| plain(text) == target))
}

/// One value that was kept of the host's settings.
pub fn kept_of_host(container: &Container, key: &str) -> Option<Value> {
    serde_json::from_str(container.docker.get(&format!("{HOST}{key}"))?).ok()
}
