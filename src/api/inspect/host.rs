//! The `HostConfig` of an inspected container. Pure.

use serde_json::{Map, Value, json};

use crate::api::endpoints;
use crate::api::model::policy;
use crate::manifest::model::{Container, IoLimit, Log, MountKind, Sharing};
use crate::manifest::scalar::Size;

/// A size, or Docker's 0 for none.
fn bytes(size: Option<Size>) -> u64 {
    size.map_or(0, |size| size.0)
}

pub(super) fn list_or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// What the manifest says, as Docker has it.
pub fn host_config(manifest: &Container) -> Value {
    let security = &manifest.security;
    let binds: Vec<String> = manifest
        .mounts
        .iter()
        // A bind has no word for a part of a volume, or for an image; those stand in `Mounts`.
        .filter(|mount| !matches!(mount.kind(), MountKind::Tmpfs | MountKind::Image))
        .filter(|mount| mount.subpath.is_none() && mount.options.is_empty())
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
            let others = mount.options.iter().map(|(key, value)| match value.as_str() {
                "" => key.clone(),
                value => format!("{key}={value}"),
            });
            let options: Vec<String> = size.into_iter().chain(mode).chain(others).collect();
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
            "Config": log_options(&manifest.log),
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
        "CgroupnsMode": manifest.namespaces.cgroup,
        "Dns": manifest.network.dns,
        "DnsOptions": manifest.network.dns_options,
        "DnsSearch": manifest.network.dns_search,
        "ExtraHosts": list_or_null(&manifest.network.extra_hosts),
        "GroupAdd": list_or_null(&manifest.groups),
        "IpcMode": manifest.namespaces.ipc,
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": manifest.oom_score_adj.unwrap_or(0),
        "PidMode": sharing(&manifest.namespaces.pid),
        "Privileged": security.cap_add.iter().any(|c| c == "ALL") && security.seccomp == "unconfined",
        "PublishAllPorts": false,
        "ReadonlyRootfs": security.read_only,
        "SecurityOpt": list_or_null(&options),
        "Tmpfs": tmpfs,
        "UTSMode": sharing(&manifest.namespaces.uts),
        "UsernsMode": if security.userns.to_string() == "host" { "host" } else { "" },
        "ShmSize": manifest.shm_size.map_or(64 << 20, |size| size.0),
        "Sysctls": manifest.sysctls,
        "Runtime": "berth",
        "Isolation": "",
        "MaskedPaths": if security.unmask { &[][..] } else { &crate::spec::paths::MASKED },
        "ReadonlyPaths": if security.unmask { &[][..] } else { &crate::spec::paths::READONLY },
        "Init": manifest.init,
    });
    if let (Value::Object(config), Value::Object(limits)) = (&mut config, limits(manifest)) {
        config.extend(limits);
    }
    config
}

/// Docker has no word for what is a container's own.
fn sharing(of: &Sharing) -> String {
    match of {
        Sharing::Private => String::new(),
        shared => shared.to_string(),
    }
}

/// What is not as usual.
fn log_options(log: &Log) -> Value {
    let usual = Log::default();
    let mut options = json!({});
    if log.max_size != usual.max_size {
        options["max-size"] = json!(log.max_size.0.to_string());
    }
    if log.max_files != usual.max_files {
        options["max-file"] = json!(log.max_files.saturating_add(1).to_string());
    }
    if log.compress != usual.compress {
        options["compress"] = json!(log.compress.to_string());
    }
    options
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
    let rates = |of: fn(&IoLimit) -> Option<u64>| -> Value {
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
