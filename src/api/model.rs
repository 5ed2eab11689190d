//! A container as Docker's types have it. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryStateEnum, MountPoint,
    RestartPolicy as DockerPolicy, RestartPolicyNameEnum,
};
use serde_json::{Value, json};

use crate::cgroup::Stats;
use crate::engine::handle::View;
use crate::manifest::model::{MountKind, RestartPolicy};
use crate::network::link::Traffic;

/// Docker's "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with nanoseconds.
pub fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| NEVER.to_owned(), |time| format!("{time:.9}"))
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Whether a process of it runs, in Docker's sense.
pub fn is_running(view: &View) -> bool {
    matches!(view.state.as_str(), "running" | "paused")
}

/// What it runs, on one line.
pub fn command_line(view: &View) -> String {
    argv(view).join(" ")
}

/// The words of its command that the manifest says.
pub fn argv(view: &View) -> Vec<String> {
    view.manifest.entrypoint.iter().flatten().chain(&view.manifest.command).cloned().collect()
}

/// What stands in for an image: where the root comes from.
pub fn image(view: &View) -> String {
    let root = view.manifest.rootfs.as_ref().map(|path| path.display().to_string());
    view.manifest.image.clone().or(root).unwrap_or_else(|| "(none)".to_owned())
}

/// Docker's sentence: `Up 3 minutes`, `Exited (1) 5 seconds ago`.
pub fn status(view: &View, now: SystemTime) -> String {
    let ago = |time: Option<SystemTime>| {
        time.map_or_else(
            || "some time".to_owned(),
            |time| age(now.duration_since(time).unwrap_or_default()),
        )
    };
    let code = view.exit_code.unwrap_or(0);
    match view.state.as_str() {
        "running" => {
            let health = view.health.as_ref().map(|health| match health.as_str() {
                "starting" => " (health: starting)".to_owned(),
                health => format!(" ({health})"),
            });
            format!("Up {}{}", ago(view.started), health.unwrap_or_default())
        }
        "paused" => format!("Up {} (Paused)", ago(view.started)),
        "restarting" => format!("Restarting ({code}) {} ago", ago(view.finished)),
        "exited" => format!("Exited ({code}) {} ago", ago(view.finished)),
        "removing" => "Removal In Progress".to_owned(),
        "dead" => "Dead".to_owned(),
        _ => "Created".to_owned(),
    }
}

/// A duration in words, as Docker has them.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let plural =
        |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0 => "Less than a second".to_owned(),
        1..60 => plural(seconds, "second"),
        60..120 => "About a minute".to_owned(),
        120..3600 => plural(seconds / 60, "minute"),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => plural(seconds / 3600, "hour"),
        _ => plural(seconds / 86_400, "day"),
    }
}

/// One line of `docker ps`.
pub fn summary(view: &View, now: SystemTime) -> ContainerSummary {
    ContainerSummary {
        id: Some(view.id.clone()),
        names: Some(vec![format!("/{}", view.name)]),
        image: Some(image(view)),
        image_id: Some(String::new()),
        command: Some(command_line(view)),
        created: Some(seconds(view.created)),
        ports: Some(super::endpoints::summary(view)),
        labels: Some(view.manifest.labels.clone().into_iter().collect()),
        state: Some(match view.state.as_str() {
            "running" => ContainerSummaryStateEnum::RUNNING,
            "paused" => ContainerSummaryStateEnum::PAUSED,
            "restarting" => ContainerSummaryStateEnum::RESTARTING,
            "removing" => ContainerSummaryStateEnum::REMOVING,
            "exited" => ContainerSummaryStateEnum::EXITED,
            "dead" => ContainerSummaryStateEnum::DEAD,
            _ => ContainerSummaryStateEnum::CREATED,
        }),
        status: Some(status(view, now)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(super::endpoints::mode(&view.manifest)),
            ..ContainerSummaryHostConfig::default()
        }),
        mounts: Some(mounts(view)),
        network_settings: serde_json::from_value(
            json!({ "Networks": super::endpoints::networks(view) }),
        )
        .ok(),
        ..ContainerSummary::default()
    }
}

/// What is mounted in it.
pub fn mounts(view: &View) -> Vec<MountPoint> {
    view.manifest
        .mounts
        .iter()
        .map(|mount| MountPoint {
            typ: Some(match mount.kind() {
                MountKind::Volume => "volume".to_owned(),
                MountKind::Bind => "bind".to_owned(),
                MountKind::Tmpfs => "tmpfs".to_owned(),
            }),
            name: mount.source.clone().filter(|_| mount.kind() == MountKind::Volume),
            source: Some(mount.source.clone().unwrap_or_default()),
            destination: Some(mount.target.display().to_string()),
            mode: Some(String::new()),
            rw: Some(!mount.read_only),
            propagation: Some(String::new()),
            ..MountPoint::default()
        })
        .collect()
}

/// A restart policy as Docker has it.
pub fn policy(policy: RestartPolicy) -> DockerPolicy {
    let (name, count) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, 0),
        RestartPolicy::OnFailure { max } => {
            (RestartPolicyNameEnum::ON_FAILURE, i64::from(max.unwrap_or(0)))
        }
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, 0),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, 0),
    };
    DockerPolicy { name: Some(name), maximum_retry_count: Some(count) }
}

/// A measurement, and when it was made.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What the container uses.
    pub stats: Stats,
    /// What its interfaces counted.
    pub networks: BTreeMap<String, Traffic>,
    /// Processor time of the whole machine in nanoseconds.
    pub system: u64,
    /// When.
    pub time: SystemTime,
}

/// One reading of `/stats`, with the one before it; of a container that does not run
/// there is none, and everything is zero, as with Docker.
pub fn stats(view: &View, before: Option<&Reading>, now: Option<&Reading>, online: usize) -> Value {
    let cpu = |reading: Option<&Reading>| {
        let Some(Reading { stats, system, .. }) = reading else {
            return json!({
                "cpu_usage": {
                    "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0,
                },
                "throttling_data": {
                    "periods": 0, "throttled_periods": 0, "throttled_time": 0,
                },
            });
        };
        json!({
            "cpu_usage": {
                "total_usage": stats.cpu_total,
                "usage_in_kernelmode": stats.cpu_system,
                "usage_in_usermode": stats.cpu_user,
            },
            "system_cpu_usage": system,
            "online_cpus": online,
            "throttling_data": {
                "periods": stats.periods,
                "throttled_periods": stats.throttled_periods,
                "throttled_time": stats.throttled,
            },
        })
    };
    let time = |reading: Option<&Reading>| {
        reading.map_or_else(|| NEVER.to_owned(), |reading| timestamp(reading.time))
    };
    let mut value = json!({
        "id": view.id,
        "name": format!("/{}", view.name),
        "read": time(now),
        "preread": time(before),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": {},
        "pids_stats": {},
        "blkio_stats": blkio(now.map(|now| &now.stats)),
    });
    if let Some(Reading { stats, networks, .. }) = now {
        let total = rustix::system::sysinfo();
        let total = total.totalram as u64 * u64::from(total.mem_unit);
        value["memory_stats"] = json!({
            "usage": stats.memory,
            "max_usage": stats.memory_peak,
            "limit": stats.memory_limit.unwrap_or(total),
            "stats": {
                "inactive_file": stats.memory_inactive_file,
                "total_inactive_file": stats.memory_inactive_file,
                "anon": stats.memory_anonymous,
            },
        });
        value["pids_stats"] = json!({ "current": stats.pids });
        if let Some(limit) = stats.pids_limit {
            value["pids_stats"]["limit"] = json!(limit);
        }
        let counted = networks.iter().map(|(name, traffic)| {
            let counted = json!({
                "rx_bytes": traffic.rx_bytes, "rx_packets": traffic.rx_packets,
                "rx_errors": traffic.rx_errors, "rx_dropped": traffic.rx_dropped,
                "tx_bytes": traffic.tx_bytes, "tx_packets": traffic.tx_packets,
                "tx_errors": traffic.tx_errors, "tx_dropped": traffic.tx_dropped,
            });
            (name.clone(), counted)
        });
        value["networks"] = Value::Object(counted.collect());
    }
    value
}

fn blkio(stats: Option<&Stats>) -> Value {
    let mut bytes: Vec<Value> = Vec::new();
    for (device, stats) in stats.into_iter().flat_map(|stats| &stats.io) {
        let (major, minor) = device.split_once(':').unwrap_or((device, "0"));
        let (major, minor) = (major.parse().unwrap_or(0u64), minor.parse().unwrap_or(0u64));
        for (op, value) in [("read", stats.read_bytes), ("write", stats.write_bytes)] {
            bytes.push(json!({ "major": major, "minor": minor, "op": op, "value": value }));
        }
    }
    json!({
        "io_service_bytes_recursive": bytes,
        "io_serviced_recursive": null,
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_as_docker_says_them() {
        let say = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(say(0), "Less than a second");
        assert_eq!(say(1), "1 second");
        assert_eq!(say(90), "About a minute");
        assert_eq!(say(7200), "2 hours");
        assert_eq!(say(200_000), "2 days");
    }

    #[test]
    fn times_are_rfc3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_000_000_001);
        assert_eq!(timestamp(time), "2017-07-14T02:40:00.000000001Z");
    }
}
