//! `docker inspect`: every field that Docker's daemon always sends, with the type that
//! clients read it by, also where it is empty. Pure.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::endpoints;
use super::model::{argv, image, is_running, mounts, policy, timestamp};
use crate::engine::handle::View;
use crate::image::config::Process;
use crate::manifest::model::{Container, Health, MountKind};

/// Docker's "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

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
        "HostConfig": host_config(view),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": { "UpperDir": places.upper },
        },
        "Mounts": mounts(view),
        "Config": config(view, &base.process),
        "NetworkSettings": endpoints::settings(view, &base.process.exposed_ports),
        "Berth": view,
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
        state["Health"] = json!({ "Status": health, "FailingStreak": 0, "Log": [] });
    }
    state
}

/// A size, or Docker's 0 for none.
fn bytes(size: Option<crate::manifest::scalar::Size>) -> u64 {
    size.map_or(0, |size| size.0)
}

fn list_or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

fn host_config(view: &View) -> Value {
    let manifest = &view.manifest;
    let security = &manifest.security;
    let binds: Vec<String> = manifest
        .mounts
        .iter()
        .filter(|mount| mount.kind() != MountKind::Tmpfs)
        .filter_map(|mount| {
            let mode = if mount.read_only { "ro" } else { "rw" };
            Some(format!("{}:{}:{mode}", mount.source.as_ref()?, mount.target.display()))
        })
        .collect();
    let tmpfs: Map<String, Value> = manifest
        .mounts
        .iter()
        .filter(|mount| mount.kind() == MountKind::Tmpfs)
        .map(|mount| {
            let size = mount.size.map(|size| format!("size={}", size.0));
            let mode = mount.mode.as_ref().map(|mode| format!("mode={mode}"));
            let options: Vec<String> = size.into_iter().chain(mode).collect();
            (mount.target.display().to_string(), Value::from(options.join(",")))
        })
        .collect();
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if security.seccomp != "default" {
        options.push(format!("seccomp={}", security.seccomp));
    }
    let mut config = json!({
        "Binds": list_or_null(&binds),
        "ContainerIDFile": "",
        "LogConfig": {
            "Type": "json-file",
            "Config": {
                "max-size": manifest.log.max_size.0.to_string(),
                "max-file": manifest.log.max_files.saturating_add(1).to_string(),
            },
        },
        "NetworkMode": endpoints::mode(manifest),
        "PortBindings": endpoints::port_bindings(manifest),
        "RestartPolicy": policy(manifest.restart.policy),
        "AutoRemove": manifest.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "CapAdd": list_or_null(&security.cap_add),
        "CapDrop": list_or_null(&security.cap_drop),
        "CgroupnsMode": "private",
        "Dns": manifest.network.dns,
        "DnsOptions": manifest.network.dns_options,
        "DnsSearch": manifest.network.dns_search,
        "ExtraHosts": list_or_null(&manifest.network.extra_hosts),
        "GroupAdd": list_or_null(&manifest.groups),
        "IpcMode": "private",
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": manifest.oom_score_adj.unwrap_or(0),
        "PidMode": "",
        "Privileged": security.cap_add.iter().any(|c| c == "ALL") && security.seccomp == "unconfined",
        "PublishAllPorts": false,
        "ReadonlyRootfs": security.read_only,
        "SecurityOpt": list_or_null(&options),
        "Tmpfs": tmpfs,
        "UTSMode": "",
        "UsernsMode": if security.userns.to_string() == "host" { "host" } else { "" },
        "ShmSize": manifest.shm_size.map_or(64 << 20, |size| size.0),
        "Sysctls": manifest.sysctls,
        "Runtime": "berth",
        "Isolation": "",
        "MaskedPaths": crate::spec::paths::MASKED,
        "ReadonlyPaths": crate::spec::paths::READONLY,
        "Init": manifest.init,
    });
    if let (Value::Object(config), Value::Object(limits)) = (&mut config, limits(manifest)) {
        config.extend(limits);
    }
    config
}

/// The part of `HostConfig` that is about resources.
fn limits(manifest: &Container) -> Value {
    let resources = &manifest.resources;
    let swap = match (resources.memory, resources.swap) {
        (Some(memory), Some(swap)) => memory.0.saturating_add(swap.0),
        _ => 0,
    };
    let ulimits: Vec<Value> = manifest
        .rlimits
        .iter()
        .map(|(name, limit)| {
            let number = |value: u64| i64::try_from(value).unwrap_or(-1);
            json!({ "Name": name, "Soft": number(limit.soft), "Hard": number(limit.hard) })
        })
        .collect();
    let rates = |of: fn(&crate::manifest::model::IoLimit) -> Option<u64>| -> Value {
        let rates: Vec<Value> = resources
            .io
            .iter()
            .filter_map(|limit| Some(json!({ "Path": limit.device, "Rate": of(limit)? })))
            .collect();
        list_or_null(&rates)
    };
    let devices: Vec<Value> = manifest.devices.iter().map(|device| described(device)).collect();
    json!({
        "CpuShares": resources.cpu_weight.map_or(0, |weight| u64::from(weight) * 1024 / 100),
        "Memory": bytes(resources.memory),
        "NanoCpus": resources.cpus.map_or(0, |cpus| u64::from(cpus.milli) * 1_000_000),
        "CgroupParent": "",
        "BlkioWeight": resources.io_weight.map_or(0, |weight| weight.saturating_mul(5).min(1000)),
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": rates(|limit| limit.read.map(|size| size.0)),
        "BlkioDeviceWriteBps": rates(|limit| limit.write.map(|size| size.0)),
        "BlkioDeviceReadIOps": rates(|limit| limit.read_iops),
        "BlkioDeviceWriteIOps": rates(|limit| limit.write_iops),
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": resources.cpuset.clone().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.clone().unwrap_or_default(),
        "Devices": devices,
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "MemoryReservation": bytes(resources.memory_reservation),
        "MemorySwap": swap,
        "MemorySwappiness": null,
        "OomKillDisable": false,
        "PidsLimit": resources.pids,
        "Ulimits": ulimits,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    })
}

/// `HOST[:CONTAINER][:ACCESS]` as Docker has it.
fn described(device: &str) -> Value {
    let mut parts = device.split(':');
    let host = parts.next().unwrap_or_default();
    let (mut inside, mut access) = (host, "rwm");
    for part in parts {
        match part.starts_with('/') {
            true => inside = part,
            false => access = part,
        }
    }
    json!({ "PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access })
}

fn config(view: &View, base: &Process) -> Value {
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
    let hostname = hostname.unwrap_or_else(|| view.name.as_str().replace(['@', '_'], "-"));
    let mut config = json!({
        "Hostname": hostname,
        "Domainname": "",
        "User": manifest.user.clone().unwrap_or_else(|| base.user.clone()),
        "AttachStdin": false,
        "AttachStdout": true,
        "AttachStderr": true,
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
    config["StopTimeout"] = json!(manifest.stop.timeout.as_secs());
    if let Some(health) = &manifest.health {
        config["Healthcheck"] = health_config(health);
    }
    config
}

fn health_config(health: &Health) -> Value {
    let test = match &health.exec {
        Some(command) => [&["CMD".to_owned()], command.as_slice()].concat(),
        None => vec!["NONE".to_owned()],
    };
    json!({
        "Test": test,
        "Interval": health.interval.as_nanos() as u64,
        "Timeout": health.timeout.as_nanos() as u64,
        "StartPeriod": health.start_period.as_nanos() as u64,
        "Retries": health.retries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::model::{Network, NetworkMode};

    fn view(manifest: Container) -> View {
        serde_json::from_value(json!({
            "name": "web", "id": "ab", "state": "running", "detail": null, "is-awaited": false, "pid": 7,
            "manifest": manifest, "source": null, "manifest-error": null, "error": null,
            "restarts": 1, "created": {"secs_since_epoch": 0, "nanos_since_epoch": 0},
            "started": null, "finished": null, "exit-code": 3, "oom-killed": false,
            "stopped-by-hand": false, "health": null,
        }))
        .unwrap()
    }

    /// The types of the published API read what is sent.
    #[test]
    fn the_published_types_read_it() {
        let manifest = Container {
            image: Some("web:1".to_owned()),
            network: Network { mode: Some(NetworkMode::Bridge), ..Network::default() },
            env: [("A".to_owned(), "2".to_owned())].into(),
            ..Container::default()
        };
        let base = Base {
            id: "sha256:00".to_owned(),
            process: Process {
                env: vec!["A=1".to_owned(), "B=1".to_owned()],
                entrypoint: vec!["/entry".to_owned()],
                cmd: vec!["serve".to_owned()],
                ..Process::default()
            },
        };
        let value = inspect(&view(manifest), &base, &Places::default());
        let typed: bollard_stubs::models::ContainerInspectResponse =
            serde_json::from_value(value.clone()).unwrap();
        assert_eq!(typed.path.as_deref(), Some("/entry"));
        assert_eq!(typed.args, Some(vec!["serve".to_owned()]));
        assert_eq!(value["Config"]["Env"], json!(["B=1", "A=2"]));
        assert_eq!(value["State"]["ExitCode"], 0, "of what runs nothing is known yet");
        assert_eq!(value["NetworkSettings"]["Networks"]["bridge"]["IPAddress"], "");
    }

    /// What was made of Docker's JSON says the same in Docker's JSON.
    #[test]
    fn what_was_asked_for_is_told() {
        let asked = json!({
            "Image": "/", "Cmd": ["x"], "StopTimeout": 4,
            "HostConfig": {
                "Memory": 64 << 20, "MemorySwap": 96 << 20, "NanoCpus": 1_500_000_000i64,
                "CpuShares": 512, "PidsLimit": 9, "Binds": ["/a:/b:ro"],
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
                "PortBindings": {"53/udp": [{"HostIp": "::1", "HostPort": "5353"}]},
                "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}],
                "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse",
                             "CgroupPermissions": "rw"}],
            },
        });
        let mut volume = String::new;
        let none = |_: &str| None;
        let mut surroundings = super::super::create::Surroundings {
            container: &none,
            network: &|_| None,
            volume: &mut volume,
        };
        let body = super::super::create::parse(asked.clone()).unwrap();
        let made = super::super::create::manifest(body, &mut surroundings).unwrap();
        let told = inspect(&view(made.container), &Base::default(), &Places::default());
        for (key, value) in asked["HostConfig"].as_object().unwrap() {
            assert_eq!(&told["HostConfig"][key], value, "{key}");
        }
        assert_eq!(told["Config"]["StopTimeout"], 4);
    }
}
