//! The `Config` of an inspected container. Pure.

use serde_json::{Map, Value, json};

use super::host::list_or_null;
use crate::api::endpoints;
use crate::api::model::image;
use crate::engine::handle::View;
use crate::image::config::Process;
use crate::manifest::model::{Health, Stop};
use crate::spec;

pub(super) fn config(view: &View, base: &Process) -> Value {
    let manifest = &view.manifest;
    let mut env = base.env.clone();
    for (name, value) in &manifest.env {
        let start = format!("{name}=");
        env.retain(|variable| !variable.starts_with(&start));
        env.push(format!("{start}{value}"));
    }
    let mut labels = base.labels.clone();
    labels.extend(manifest.labels.clone());
    let cmd = match manifest.command.is_empty() && manifest.entrypoint.is_none() {
        true => &base.cmd,
        false => &manifest.command,
    };
    let entrypoint = manifest.entrypoint.as_ref().unwrap_or(&base.entrypoint);
    let workdir = manifest.workdir.as_ref().map(|dir| dir.display().to_string());
    let hostname = manifest.hostname.clone();
    let hostname = hostname.unwrap_or_else(|| spec::hostname_of(view.name.as_str()));
    let mut config = json!({
        "Hostname": hostname,
        "Domainname": "",
        "User": manifest.user.clone().unwrap_or_else(|| base.user.clone()),
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": manifest.tty,
        "OpenStdin": manifest.stdin,
        "StdinOnce": manifest.stdin_once,
        "Env": env,
        "Cmd": list_or_null(cmd),
        "Image": image(view),
        "Volumes": null,
        "WorkingDir": workdir.unwrap_or_else(|| base.working_dir.clone()),
        "Entrypoint": list_or_null(entrypoint),
        "OnBuild": null,
        "Labels": labels,
    });
    let exposed: Map<String, Value> = base
        .exposed_ports
        .iter()
        .cloned()
        .chain(endpoints::exposed(manifest))
        .map(|port| (port, json!({})))
        .collect();
    if !exposed.is_empty() {
        config["ExposedPorts"] = Value::Object(exposed);
    }
    if let Some(signal) = manifest.stop.signal {
        config["StopSignal"] = json!(signal.to_string());
    } else if let Some(signal) = &base.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    if manifest.stop.timeout != Stop::default().timeout {
        config["StopTimeout"] = json!(manifest.stop.timeout.as_secs());
    }
    if let Some(health) = &manifest.health {
        config["Healthcheck"] = health_config(health);
    } else if let Some(health) = &base.healthcheck {
        config["Healthcheck"] = json!(health);
    }
    config
}

/// A health check as the API has it.
pub fn health_config(health: &Health) -> Value {
    if health.none {
        return json!({ "Test": ["NONE"] });
    }
    let test = match &health.exec {
        Some(command) => match command.as_slice() {
            [shell, option, script] if shell == "/bin/sh" && option == "-c" => {
                vec!["CMD-SHELL".to_owned(), script.clone()]
            }
            words => [&["CMD".to_owned()], words].concat(),
        },
        None => vec!["NONE".to_owned()],
    };
    let mut config = json!({
        "Test": test,
        "Interval": health.interval.as_nanos() as u64,
        "Timeout": health.timeout.as_nanos() as u64,
        "StartPeriod": health.start_period.as_nanos() as u64,
        "Retries": health.retries,
    });
    if let Some(start_interval) = health.start_interval {
        config["StartInterval"] = json!(start_interval.as_nanos() as u64);
    }
    config
}
