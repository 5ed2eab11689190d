//! `docker inspect`: every field that Docker's daemon always sends, with the type that
//! clients read it by, also where it is empty. Pure.

mod config;
mod host;

pub use host::host_config;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::model::{NEVER, argv, is_running, mounts, timestamp};
use crate::engine::handle::{Probed, View};
use crate::image::config::Process;
use crate::manifest::model::Container;

/// What a container's image says, if it has one and that is here.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// The image's id.
    pub id: String,
    /// Its settings.
    pub process: Process,
}

/// Where things of a container are on the host.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Its log.
    pub log: String,
    /// Its writable layer.
    pub upper: String,
    /// The volumes that it has, by name.
    pub volumes: BTreeMap<String, String>,
}

/// A container as Docker has it; what Docker has no field for is under `Berth`.
pub fn inspect(view: &View, base: &Base, places: &Places) -> Value {
    let mut words = match &view.manifest.entrypoint {
        None => base.process.entrypoint.clone(),
        Some(_) => Vec::new(),
    };
    words.extend(argv(view));
    if view.manifest.command.is_empty() && view.manifest.entrypoint.is_none() {
        words.extend(base.process.cmd.iter().cloned());
    }
    let mut config = config::config(view, &base.process);
    let mut host_config = host_config(&view.manifest);
    super::create::tell(&view.manifest, &mut config, &mut host_config);
    json!({
        "Id": view.id,
        "Created": timestamp(view.created),
        "Path": words.first().cloned().unwrap_or_default(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": state(view),
        "Image": base.id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": places.log,
        "Name": format!("/{}", view.name),
        "RestartCount": view.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": match view.execs.is_empty() {
            true => Value::Null,
            false => json!(view.execs),
        },
        "HostConfig": host_config,
        "GraphDriver": {
            "Name": "overlay2",
            "Data": { "UpperDir": places.upper },
        },
        "Mounts": mounts(view, &|name| places.volumes.get(name).cloned().unwrap_or_default()),
        "Config": config,
        "NetworkSettings": network_settings(view),
        "Berth": view,
    })
}

fn probed(probed: &Probed) -> Value {
    json!({
        "Start": timestamp(probed.start),
        "End": timestamp(probed.end),
        "ExitCode": i32::from(probed.failure.is_some()),
        "Output": probed.failure.clone().unwrap_or_default(),
    })
}

fn state(view: &View) -> Value {
    let time = |time: Option<SystemTime>| time.map_or_else(|| NEVER.to_owned(), timestamp);
    let mut state = json!({
        "Status": match view.state.as_str() {
            known @ ("running" | "paused" | "restarting" | "removing" | "exited" | "dead") => known,
            _ => "created",
        },
        "Running": is_running(view),
        "Paused": view.state == "paused",
        "Restarting": view.state == "restarting",
        "OOMKilled": view.oom_killed,
        "Dead": view.state == "dead",
        "Pid": view.pid,
        "ExitCode": if is_running(view) { 0 } else { view.exit_code.unwrap_or(0) },
        "Error": view.error.clone().unwrap_or_default(),
        "StartedAt": time(view.started),
        "FinishedAt": time(view.finished),
    });
    if let Some(health) = &view.health {
        state["Health"] = json!({
            "Status": health,
            "FailingStreak": view.failing_streak,
            "Log": view.probes.iter().map(probed).collect::<Vec<_>>(),
        });
    }
    state
}

/// One entry of `network.publish`: address and port outside, port and protocol inside.
fn published(entry: &str) -> (String, String, String) {
    let (rest, protocol) = entry.split_once('/').unwrap_or((entry, "tcp"));
    let (outside, inside) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (address, port) = outside.rsplit_once(':').unwrap_or(("", outside));
    let address = address.trim_matches(['[', ']']);
    (address.to_owned(), port.to_owned(), format!("{inside}/{protocol}"))
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`
pub fn port_bindings(manifest: &Container) -> Map<String, Value> {
    let mut bindings: Map<String, Value> = Map::new();
    for entry in &manifest.network.publish {
        let (address, port, inside) = published(entry);
        let list = bindings.entry(inside).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!({ "HostIp": address, "HostPort": port }));
        }
    }
    bindings
}

/// A network that a container is in, with nothing known of it yet.
fn endpoint() -> Value {
    json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "MacAddress": "",
        "DriverOpts": null,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}

fn network_settings(view: &View) -> Value {
    let mode = view.manifest.network_mode().to_string();
    let mut networks = Map::new();
    if !mode.starts_with("container:") {
        networks.insert(mode, endpoint());
    }
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": {},
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": networks,
    })
}

#[cfg(test)]
mod tests;
