//! `docker inspect`: every field that Docker's daemon always sends, with the type that
//! clients read it by, also where it is empty. Pure.

mod config;
mod host;

pub use config::health_config;
pub use host::host_config;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::endpoints;
use super::model::{NEVER, health, is_running, mounts, timestamp, words};
use crate::engine::handle::{Probed, View};
use crate::image::config::Process;

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
    let words = words(view, &base.process);
    let mut config = config::config(view, &base.process);
    let mut host_config = host_config(&view.manifest);
    super::create::tell(&view.manifest, &mut config, &mut host_config);
    json!({
        "Id": view.id,
        "Created": timestamp(view.created),
        "Path": words.first().cloned().unwrap_or_default(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": state(view, base),
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
        "NetworkSettings": endpoints::settings(view, &base.process.exposed_ports),
        "Berth": view,
    })
}

fn probed(probed: &Probed) -> Value {
    json!({
        "Start": timestamp(probed.start),
        "End": timestamp(probed.end),
        "ExitCode": probed.code,
        "Output": match (probed.output.as_str(), &probed.failure) {
            ("", Some(why)) => why.clone(),
            // As Docker's daemon does where it did not wait for the end.
            (output, Some(why)) if probed.code == -1 => format!("{why}: {output}"),
            (output, _) => output.to_owned(),
        },
    })
}

fn state(view: &View, base: &Base) -> Value {
    let time = |time: Option<SystemTime>| time.map_or_else(|| NEVER.to_owned(), timestamp);
    let mut state = json!({
        "Status": match view.state.as_str() {
            known @ ("running" | "paused" | "restarting" | "removing" | "exited" | "dead") => known,
            _ => "created",
        },
        // Also while it waits to be started again, as with Docker.
        "Running": is_running(view) || view.state == "restarting",
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
    if let Some(health) = health(view, Some(&base.process)) {
        state["Health"] = json!({
            "Status": health,
            "FailingStreak": view.failing_streak,
            "Log": view.probes.iter().map(probed).collect::<Vec<_>>(),
        });
    }
    state
}

#[cfg(test)]
mod tests;
