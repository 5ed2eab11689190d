//! A container as Docker's types have it. Pure.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bollard_stubs::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum,
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryStateEnum, Health,
    HealthStatusEnum, HostConfig, MountPoint, NetworkSettings, RestartPolicy as DockerPolicy,
    RestartPolicyNameEnum,
};
use serde_json::{Map, Value, json};

use crate::cgroup::Stats;
use crate::engine::handle::View;
use crate::manifest::model::{MountKind, RestartPolicy};

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

fn argv(view: &View) -> Vec<String> {
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
        ports: Some(Vec::new()),
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
            network_mode: Some(view.manifest.network_mode().to_string()),
            ..ContainerSummaryHostConfig::default()
        }),
        mounts: Some(mounts(view)),
        ..ContainerSummary::default()
    }
}

fn mounts(view: &View) -> Vec<MountPoint> {
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

/// `docker inspect`; what Docker has no field for is under `Berth`.
pub fn inspect(view: &View, log_path: String) -> Value {
    let manifest = &view.manifest;
    let resources = &manifest.resources;
    let argv = argv(view);
    let bytes = |size: Option<crate::manifest::scalar::Size>| size.map(|size| size.0 as i64);
    let host = HostConfig {
        memory: Some(bytes(resources.memory).unwrap_or(0)),
        memory_reservation: bytes(resources.memory_reservation),
        nano_cpus: resources.cpus.map(|cpus| i64::from(cpus.milli) * 1_000_000),
        cpuset_cpus: resources.cpuset.clone(),
        pids_limit: resources.pids.map(|pids| pids as i64),
        network_mode: Some(manifest.network_mode().to_string()),
        restart_policy: Some(policy(manifest.restart.policy)),
        readonly_rootfs: Some(manifest.security.read_only),
        cap_add: Some(manifest.security.cap_add.clone()),
        cap_drop: Some(manifest.security.cap_drop.clone()),
        init: Some(manifest.has_init()),
        oom_score_adj: manifest.oom_score_adj.map(i64::from),
        userns_mode: Some(manifest.security.userns.to_string()),
        ..HostConfig::default()
    };
    let config = ContainerConfig {
        hostname: Some(manifest.hostname.clone().unwrap_or_else(|| view.name.to_string())),
        user: Some(manifest.user.clone().unwrap_or_default()),
        tty: Some(manifest.tty),
        open_stdin: Some(manifest.stdin),
        env: Some(manifest.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(manifest.command.clone()),
        entrypoint: manifest.entrypoint.clone(),
        image: Some(image(view)),
        working_dir: Some(
            manifest
                .workdir
                .as_ref()
                .map_or_else(|| "/".to_owned(), |dir| dir.display().to_string()),
        ),
        labels: Some(manifest.labels.clone().into_iter().collect::<HashMap<_, _>>()),
        stop_signal: manifest.stop.signal.map(|signal| signal.to_string()),
        stop_timeout: Some(manifest.stop.timeout.as_secs() as i64),
        ..ContainerConfig::default()
    };
    let response = ContainerInspectResponse {
        id: Some(view.id.clone()),
        created: Some(timestamp(view.created)),
        path: Some(argv.first().cloned().unwrap_or_default()),
        args: Some(argv.into_iter().skip(1).collect()),
        state: Some(state(view)),
        image: Some(String::new()),
        log_path: Some(log_path),
        name: Some(format!("/{}", view.name)),
        restart_count: Some(i64::from(view.restarts)),
        driver: Some("overlay".to_owned()),
        platform: Some("linux".to_owned()),
        host_config: Some(host),
        mounts: Some(mounts(view)),
        config: Some(config),
        network_settings: Some(NetworkSettings::default()),
        ..ContainerInspectResponse::default()
    };
    let mut value = serde_json::to_value(response).unwrap_or_default();
    if let Value::Object(object) = &mut value {
        object.insert("Berth".to_owned(), serde_json::to_value(view).unwrap_or_default());
    }
    value
}

fn policy(policy: RestartPolicy) -> DockerPolicy {
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

fn state(view: &View) -> ContainerState {
    let time = |time: Option<SystemTime>| Some(time.map_or_else(|| NEVER.to_owned(), timestamp));
    ContainerState {
        status: Some(match view.state.as_str() {
            "running" => ContainerStateStatusEnum::RUNNING,
            "paused" => ContainerStateStatusEnum::PAUSED,
            "restarting" => ContainerStateStatusEnum::RESTARTING,
            "removing" => ContainerStateStatusEnum::REMOVING,
            "exited" => ContainerStateStatusEnum::EXITED,
            "dead" => ContainerStateStatusEnum::DEAD,
            _ => ContainerStateStatusEnum::CREATED,
        }),
        running: Some(is_running(view)),
        paused: Some(view.state == "paused"),
        restarting: Some(view.state == "restarting"),
        oom_killed: Some(view.oom_killed),
        dead: Some(view.state == "dead"),
        pid: Some(i64::from(view.pid)),
        exit_code: Some(i64::from(view.exit_code.unwrap_or(0))),
        error: Some(view.error.clone().unwrap_or_default()),
        started_at: time(view.started),
        finished_at: time(view.finished),
        health: view.health.as_ref().map(|health| Health {
            status: Some(match health.as_str() {
                "healthy" => HealthStatusEnum::HEALTHY,
                "unhealthy" => HealthStatusEnum::UNHEALTHY,
                _ => HealthStatusEnum::STARTING,
            }),
            failing_streak: Some(0),
            log: Some(Vec::new()),
        }),
    }
}

/// One reading of `/stats`, with the one before it.
pub fn stats(view: &View, before: &Stats, now: &Stats, online: usize, system: (u64, u64)) -> Value {
    let cpu = |stats: &Stats, system: u64| {
        json!({
            "cpu_usage": {
                "total_usage": stats.cpu_total,
                "usage_in_usermode": stats.cpu_user,
                "usage_in_kernelmode": stats.cpu_system,
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
    let total = rustix::system::sysinfo();
    let total = total.totalram as u64 * u64::from(total.mem_unit);
    let mut io: Vec<Value> = Vec::new();
    for (device, stats) in &now.io {
        let (major, minor) = device.split_once(':').unwrap_or((device, "0"));
        let (major, minor) = (major.parse().unwrap_or(0u64), minor.parse().unwrap_or(0u64));
        for (op, value) in [("read", stats.read_bytes), ("write", stats.write_bytes)] {
            io.push(json!({"major": major, "minor": minor, "op": op, "value": value}));
        }
    }
    let read = timestamp(SystemTime::now());
    let mut object = Map::new();
    for (key, value) in [
        ("id", json!(view.id)),
        ("name", json!(format!("/{}", view.name))),
        ("read", json!(read)),
        ("preread", json!(read)),
        ("num_procs", json!(0)),
        ("cpu_stats", cpu(now, system.1)),
        ("precpu_stats", cpu(before, system.0)),
        (
            "memory_stats",
            json!({
                "usage": now.memory,
                "max_usage": now.memory_peak,
                "limit": now.memory_limit.unwrap_or(total),
                "stats": {
                    "inactive_file": now.memory_inactive_file,
                    "total_inactive_file": now.memory_inactive_file,
                    "anon": now.memory_anonymous,
                },
            }),
        ),
        ("pids_stats", json!({"current": now.pids, "limit": now.pids_limit.unwrap_or(0)})),
        ("blkio_stats", json!({"io_service_bytes_recursive": io})),
        ("networks", json!({})),
    ] {
        object.insert(key.to_owned(), value);
    }
    Value::Object(object)
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
