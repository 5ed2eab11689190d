//! Docker's description of a container turned into a manifest. Pure: what it can't
//! know (other containers, random names) comes in by [`Surroundings`]. What Berth does
//! not have is an error, or a warning where the container works without it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bollard_stubs::models::{
    ContainerCreateBody, HealthConfig, HostConfig, Mount as DockerMount, MountType,
    RestartPolicy as DockerPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use serde_json::Value;

use super::endpoints;
use crate::manifest::model::{
    Container, Cpus, Health, IoLimit, Mount, MountKind, RestartPolicy, Rlimit, Userns,
};
use crate::manifest::scalar::Size;

/// What a description refers to outside of itself.
pub struct Surroundings<'a> {
    /// The manifest of another container, and its name, by name or id.
    pub container: &'a dyn Fn(&str) -> Option<(String, Container)>,
    /// The name of a network, by name or id.
    pub network: &'a dyn Fn(&str) -> Option<String>,
    /// A new name for a volume that has none.
    pub volume: &'a mut dyn FnMut() -> String,
}

/// A manifest, and what of the description it leaves out.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The manifest.
    pub container: Container,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// Docker's JSON with the liberties that its clients take.
///
/// # Errors
/// What is not as the API's types have it.
pub fn parse(mut value: Value) -> Result<ContainerCreateBody, String> {
    let object = value.as_object_mut().ok_or("invalid JSON: not an object")?;
    for key in ["Cmd", "Entrypoint"] {
        // A string stands for a list of one.
        if let Some(text @ Value::String(_)) = object.get_mut(key) {
            *text = Value::Array(vec![text.take()]);
        }
    }
    for key in ["ExposedPorts", "Volumes"] {
        if object.get(key).is_some_and(Value::is_null) {
            object.remove(key);
        }
    }
    if let Some(Value::Object(labels)) = object.get_mut("Labels") {
        for label in labels.values_mut().filter(|label| label.is_null()) {
            *label = Value::String(String::new());
        }
    }
    serde_json::from_value(value).map_err(|error| format!("invalid JSON: {error}"))
}

/// The manifest that means the same.
///
/// # Errors
/// A sentence for the client.
pub fn manifest(
    body: ContainerCreateBody,
    surroundings: &mut Surroundings<'_>,
) -> Result<Made, String> {
    let host = body.host_config.clone().unwrap_or_default();
    let mut warnings = Vec::new();
    let mut container = Container::default();
    root(&body, &mut container)?;
    let named = |which: &str| (surroundings.container)(which).map(|(name, _)| name);
    endpoints::network(&body, &mut container, &named, surroundings.network)?;
    process(body, &mut container)?;
    resources(&host, &mut container)?;
    mounts(&host, &mut container, surroundings)?;
    security(&host, &mut container, &mut warnings)?;
    rest(host, &mut container, &mut warnings)?;
    Ok(Made { container, warnings })
}

fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// An image, or a folder of the host: `/` is a view of the host's own programs.
fn root(body: &ContainerCreateBody, container: &mut Container) -> Result<(), String> {
    match some(body.image.clone()) {
        None => Err("no image was named".to_owned()),
        Some(path) if path.starts_with('/') => {
            container.rootfs = Some(PathBuf::from(path));
            Ok(())
        }
        Some(image) => {
            container.image = Some(image);
            Ok(())
        }
    }
}

fn process(body: ContainerCreateBody, container: &mut Container) -> Result<(), String> {
    container.command = body.cmd.unwrap_or_default();
    // An entrypoint of one empty word takes the image's away.
    container.entrypoint = body
        .entrypoint
        .filter(|words| !words.is_empty())
        .map(|words| if words == [""] { Vec::new() } else { words });
    for variable in body.env.into_iter().flatten() {
        match variable.split_once('=') {
            Some(("", _)) => return Err(format!("invalid environment variable: {variable}")),
            Some((name, value)) => drop(container.env.insert(name.to_owned(), value.to_owned())),
            None => drop(container.env.remove(&variable)),
        }
    }
    container.user = some(body.user);
    container.workdir = some(body.working_dir).map(PathBuf::from);
    container.hostname = some(body.hostname).map(|host| match some(body.domainname.clone()) {
        Some(domain) => format!("{host}.{domain}"),
        None => host,
    });
    container.tty = body.tty.unwrap_or(false);
    container.stdin = body.open_stdin.unwrap_or(false);
    container.stdin_once = container.stdin && body.stdin_once.unwrap_or(false);
    container.labels = body.labels.unwrap_or_default().into_iter().collect();
    if let Some(signal) = some(body.stop_signal) {
        container.stop.signal = Some(signal.parse()?);
    }
    match body.stop_timeout {
        Some(seconds) if seconds < 0 => container.stop.timeout = FOREVER,
        Some(seconds) => container.stop.timeout = Duration::from_secs(seconds.unsigned_abs()),
        None => {}
    }
    for path in body.volumes.into_iter().flatten() {
        container.mounts.push(volume(None, &path));
    }
    container.health = body.healthcheck.map(health).transpose()?.flatten();
    Ok(())
}

/// A stop that never becomes a kill; humantime has no word for more.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn health(asked: HealthConfig) -> Result<Option<Health>, String> {
    let test = asked.test.unwrap_or_default();
    let exec = match test.split_first() {
        None => return Ok(None),
        Some((kind, [])) if kind == "NONE" => return Ok(None),
        Some((kind, [script])) if kind == "CMD-SHELL" => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), script.clone()]
        }
        Some((kind, command @ [_, ..])) if kind == "CMD" => command.to_vec(),
        Some((kind, _)) => return Err(format!("Unknown type {kind:?} of health check")),
    };
    let default = Health::default();
    let time = |nanos: Option<i64>, default| match nanos {
        Some(nanos @ 1..) => Duration::from_nanos(nanos.unsigned_abs()),
        _ => default,
    };
    Ok(Some(Health {
        exec: Some(exec),
        interval: time(asked.interval, default.interval),
        timeout: time(asked.timeout, default.timeout),
        start_period: time(asked.start_period, default.start_period),
        retries: match asked.retries {
            Some(retries @ 1..) => u32::try_from(retries).unwrap_or(u32::MAX),
            _ => default.retries,
        },
        ..default
    }))
}

/// A positive number; Docker's 0 is "not said".
fn positive(number: Option<i64>) -> Option<u64> {
    number.filter(|number| *number > 0).map(i64::unsigned_abs)
}

/// The least memory that Docker takes.
const LEAST_MEMORY: u64 = 6 << 20;

/// Docker's share of processor time into the model's, where 100 is usual, and back.
pub fn weight_of_shares(shares: u64) -> u32 {
    u32::try_from(shares.saturating_mul(100) / 1024).unwrap_or(u32::MAX).clamp(1, 10_000)
}

/// Limits, also those of `POST /containers/{id}/update`.
///
/// # Errors
/// A sentence for the client.
pub fn resources(host: &HostConfig, container: &mut Container) -> Result<(), String> {
    let limits = &mut container.resources;
    if let Some(memory) = positive(host.memory) {
        if memory < LEAST_MEMORY {
            return Err("Minimum memory limit allowed is 6MB".to_owned());
        }
        limits.memory = Some(Size(memory));
    }
    match (host.memory_swap, limits.memory) {
        (Some(total @ 1..), Some(memory)) => {
            let total = total.unsigned_abs();
            let swap = total
                .checked_sub(memory.0)
                .ok_or("Minimum memoryswap limit should be larger than memory limit, see usage")?;
            limits.swap = Some(Size(swap));
        }
        (Some(1..), None) => {
            return Err("You should always set the Memory limit when using Memoryswap limit, see \
                        usage"
                .to_owned());
        }
        (Some(-1), _) => limits.swap = None,
        _ => {}
    }
    if let Some(reservation) = positive(host.memory_reservation) {
        limits.memory_reservation = Some(Size(reservation));
    }
    let cpus = match (positive(host.nano_cpus), positive(host.cpu_quota)) {
        (Some(_), Some(_)) => {
            return Err("Conflicting options: Nano CPUs and CPU Quota cannot both be set.".into());
        }
        (Some(nano), None) => Some(nano / 1_000_000),
        (None, Some(quota)) => {
            Some(quota.saturating_mul(1000) / positive(host.cpu_period).unwrap_or(100_000))
        }
        (None, None) => None,
    };
    if let Some(milli) = cpus {
        limits.cpus = Some(Cpus { milli: u32::try_from(milli).unwrap_or(u32::MAX).max(1) });
    }
    if let Some(shares) = positive(host.cpu_shares) {
        limits.cpu_weight = Some(weight_of_shares(shares));
    }
    for (asked, limit) in
        [(&host.cpuset_cpus, &mut limits.cpuset), (&host.cpuset_mems, &mut limits.cpuset_mems)]
    {
        if let Some(set) = some(asked.clone()) {
            *limit = Some(set);
        }
    }
    if let Some(pids) = host.pids_limit {
        limits.pids = positive(Some(pids));
    }
    if let Some(weight) = host.blkio_weight.filter(|weight| *weight > 0) {
        // Docker's usual one is 500, the model's 100.
        limits.io_weight = Some(u32::from(weight / 5).clamp(1, 10_000));
    }
    for (devices, set) in [
        (&host.blkio_device_read_bps, (|l, n| l.read = Some(Size(n))) as fn(&mut IoLimit, u64)),
        (&host.blkio_device_write_bps, |l, n| l.write = Some(Size(n))),
        (&host.blkio_device_read_iops, |l, n| l.read_iops = Some(n)),
        (&host.blkio_device_write_iops, |l, n| l.write_iops = Some(n)),
    ] {
        for device in devices.iter().flatten() {
            io_limit(device, &mut limits.io, set);
        }
    }
    Ok(())
}

fn io_limit(device: &ThrottleDevice, limits: &mut Vec<IoLimit>, set: fn(&mut IoLimit, u64)) {
    let (Some(path), Some(rate)) = (&device.path, positive(device.rate)) else {
        return;
    };
    let path = PathBuf::from(path);
    let at = limits.iter().position(|limit| limit.device == path).unwrap_or_else(|| {
        limits.push(IoLimit {
            device: path.clone(),
            read: None,
            write: None,
            read_iops: None,
            write_iops: None,
        });
        limits.len() - 1
    });
    set(&mut limits[at], rate);
}

fn volume(source: Option<&str>, target: &str) -> Mount {
    Mount {
        source: source.map(str::to_owned),
        target: PathBuf::from(target),
        kind: Some(MountKind::Volume),
        read_only: false,
        size: None,
        mode: None,
    }
}

fn mounts(
    host: &HostConfig,
    container: &mut Container,
    surroundings: &mut Surroundings<'_>,
) -> Result<(), String> {
    // What is said in more detail replaces what is said in less.
    let mut all = Vec::new();
    for from in host.volumes_from.iter().flatten() {
        let (which, read_only) = match from.rsplit_once(':') {
            Some((which, "ro")) => (which, true),
            Some((which, "rw")) => (which, false),
            _ => (from.as_str(), false),
        };
        let (_, other) =
            (surroundings.container)(which).ok_or_else(|| format!("No such container: {which}"))?;
        for mut mount in other.mounts {
            mount.read_only |= read_only;
            all.push(mount);
        }
    }
    all.append(&mut container.mounts);
    for text in host.binds.iter().flatten() {
        all.push(bind(text)?);
    }
    for mount in host.mounts.iter().flatten() {
        all.push(typed(mount)?);
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        all.push(tmpfs(target, options)?);
    }
    for mut mount in all {
        if !mount.target.is_absolute() {
            let target = mount.target.display();
            return Err(format!(
                "invalid mount config: invalid mount path: '{target}' mount path \
                                must be absolute"
            ));
        }
        container.mounts.retain(|earlier| earlier.target != mount.target);
        if mount.kind() == MountKind::Volume && mount.source.is_none() {
            mount.source = Some((surroundings.volume)());
        }
        container.mounts.push(mount);
    }
    Ok(())
}

/// `SOURCE:TARGET[:OPTIONS]`, or a target alone.
fn bind(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(format!("invalid volume specification: '{text}'")),
    };
    if target.is_empty() || source == Some("") {
        return Err(format!("invalid volume specification: '{text}'"));
    }
    let mut mount = volume(source, target);
    if let Some(source) = source {
        mount.kind = None;
        if mount.kind() == MountKind::Bind && !source.starts_with('/') {
            return Err(format!(
                "invalid volume specification: '{text}': {source:?} is neither a volume's name \
                 nor an absolute path"
            ));
        }
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            // Labels of SELinux, copying and propagation: as Berth does it anyway.
            "rw" | "z" | "Z" | "nocopy" | "private" | "rprivate" | "shared" | "rshared"
            | "slave" | "rslave" | "cached" | "delegated" | "consistent" => {}
            other => {
                return Err(format!(
                    "invalid volume specification: '{text}': invalid mode: {other}"
                ));
            }
        }
    }
    Ok(mount)
}

fn typed(asked: &DockerMount) -> Result<Mount, String> {
    let target = asked.target.clone().unwrap_or_default();
    if target.is_empty() {
        return Err("invalid mount config: field Target must not be empty".to_owned());
    }
    let source = some(asked.source.clone());
    let mut mount = volume(source.as_deref(), &target);
    mount.read_only = asked.read_only.unwrap_or(false);
    match asked.typ {
        Some(MountType::VOLUME) | None => {}
        Some(MountType::BIND) => {
            let source = source.ok_or(
                "invalid mount config for type \"bind\": field Source must \
                                       not be empty",
            )?;
            if !source.starts_with('/') {
                return Err(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{source}' mount \
                     path must be absolute"
                ));
            }
            mount.kind = Some(MountKind::Bind);
        }
        Some(MountType::TMPFS) => {
            mount.kind = Some(MountKind::Tmpfs);
            mount.source = None;
            let options = asked.tmpfs_options.clone().unwrap_or_default();
            mount.size = positive(options.size_bytes).map(Size);
            mount.mode = positive(options.mode).map(|mode| format!("{mode:04o}"));
        }
        Some(other) => return Err(format!("mounts of type {other} are not served by Berth")),
    }
    Ok(mount)
}

fn tmpfs(target: &str, options: &str) -> Result<Mount, String> {
    let mut mount = volume(None, target);
    mount.kind = Some(MountKind::Tmpfs);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => mount.size = Some(docker_size(size)?),
            Some(("mode", mode)) => mount.mode = Some(mode.to_owned()),
            None if option == "ro" => mount.read_only = true,
            // Berth's tmpfs are nosuid, nodev and noexec.
            _ => {}
        }
    }
    Ok(mount)
}

/// `64m`: Docker's sizes are powers of 1024, whatever the letter's form.
///
/// # Errors
/// It is none.
pub fn docker_size(text: &str) -> Result<Size, String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("invalid size: '{text}'")),
    };
    let number: f64 = number.parse().map_err(|_| format!("invalid size: '{text}'"))?;
    Ok(Size((number * (1u64 << shift) as f64) as u64))
}

fn security(
    host: &HostConfig,
    container: &mut Container,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let security = &mut container.security;
    // Docker's default; a manifest's is the other way round.
    security.no_new_privileges = false;
    security.read_only = host.readonly_rootfs.unwrap_or(false);
    security.cap_add = host.cap_add.clone().unwrap_or_default();
    security.cap_drop = host.cap_drop.clone().unwrap_or_default();
    match host.userns_mode.as_deref() {
        None | Some("") => {}
        Some("host") => security.userns = Userns::Host,
        Some(other) => return Err(format!("invalid USER mode: {other}")),
    }
    for option in host.security_opt.iter().flatten() {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
        match (key, value) {
            ("no-new-privileges", value) => security.no_new_privileges = value != "false",
            ("seccomp", "unconfined") => security.seccomp = "unconfined".to_owned(),
            ("seccomp", "builtin" | "default") => {}
            ("seccomp", path) if path.starts_with('/') => security.seccomp = path.to_owned(),
            ("seccomp", _) => {
                return Err("a seccomp profile is taken from a file of the host: name its \
                            absolute path in security-opt seccomp=/path"
                    .to_owned());
            }
            ("apparmor" | "label" | "systempaths" | "writable-cgroups", _) => {
                warnings.push(format!("security option {key:?} has no effect in Berth"));
            }
            _ => return Err(format!("invalid --security-opt 2: {option:?}")),
        }
    }
    if host.privileged == Some(true) {
        security.userns = Userns::Host;
        security.cap_add = vec!["ALL".to_owned()];
        security.cap_drop = Vec::new();
        security.seccomp = "unconfined".to_owned();
        warnings.push(
            "privileged: it has all capabilities and the host's ids; devices are those that \
             --device names"
                .to_owned(),
        );
    }
    Ok(())
}

fn rest(
    host: HostConfig,
    container: &mut Container,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    container.restart.policy = policy(host.restart_policy)?;
    container.auto_remove = host.auto_remove.unwrap_or(false);
    if container.auto_remove && container.restart.policy != RestartPolicy::No {
        return Err("can't create 'AutoRemove' container with restart policy".to_owned());
    }
    container.init = host.init;
    container.groups = host.group_add.unwrap_or_default();
    container.oom_score_adj = host
        .oom_score_adj
        .filter(|score| *score != 0)
        .map(|score| i32::try_from(score).map_err(|_| "Invalid value for oom score adj"))
        .transpose()?;
    container.shm_size = positive(host.shm_size).map(Size);
    container.sysctls = host.sysctls.unwrap_or_default().into_iter().collect();
    for limit in host.ulimits.into_iter().flatten() {
        let value = |number: Option<i64>| match number.unwrap_or(-1) {
            number @ 0.. => number.unsigned_abs(),
            _ => u64::MAX,
        };
        let name = limit.name.unwrap_or_default();
        let limit = Rlimit { soft: value(limit.soft), hard: value(limit.hard) };
        container.rlimits.insert(name, limit);
    }
    for device in host.devices.into_iter().flatten() {
        let path = device.path_on_host.unwrap_or_default();
        let inside = some(device.path_in_container).unwrap_or_else(|| path.clone());
        let access = some(device.cgroup_permissions).unwrap_or_else(|| "rwm".to_owned());
        container.devices.push(format!("{path}:{inside}:{access}"));
    }
    if let Some(log) = host.log_config {
        log_options(log.config.unwrap_or_default(), container)?;
        match log.typ.as_deref() {
            None | Some("" | "json-file" | "local" | "berth") => {}
            Some(other) => {
                warnings.push(format!("log driver {other:?}: Berth keeps the log itself"))
            }
        }
    }
    for (what, mode) in [("PID", host.pid_mode), ("IPC", host.ipc_mode), ("UTS", host.uts_mode)] {
        match mode.as_deref() {
            None | Some("" | "private" | "shareable") => {}
            Some(other) => return Err(format!("{what} mode {other:?} is not served by Berth")),
        }
    }
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    for (what, there) in [
        ("link", has(&host.links)),
        ("device-cgroup-rule", has(&host.device_cgroup_rules)),
        ("gpus", host.device_requests.is_some_and(|list| !list.is_empty())),
        ("storage-opt", host.storage_opt.is_some_and(|options| !options.is_empty())),
    ] {
        if there {
            warnings.push(format!("--{what} has no effect yet"));
        }
    }
    Ok(())
}

/// A restart policy; without a word it is Docker's `no`.
///
/// # Errors
/// Docker's sentence.
pub fn policy(asked: Option<DockerPolicy>) -> Result<RestartPolicy, String> {
    let asked = asked.unwrap_or_default();
    let count = asked.maximum_retry_count.unwrap_or(0);
    Ok(match asked.name {
        Some(RestartPolicyNameEnum::ON_FAILURE) if count < 0 => {
            return Err("invalid restart policy: maximum retry count cannot be negative".to_owned());
        }
        Some(RestartPolicyNameEnum::ON_FAILURE) => {
            let max = u32::try_from(count).unwrap_or(u32::MAX);
            RestartPolicy::OnFailure { max: (max > 0).then_some(max) }
        }
        _ if count != 0 => {
            return Err("invalid restart policy: maximum retry count can only be used with \
                        'on-failure'"
                .to_owned());
        }
        Some(RestartPolicyNameEnum::ALWAYS) => RestartPolicy::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
        _ => RestartPolicy::No,
    })
}

fn log_options(options: HashMap<String, String>, container: &mut Container) -> Result<(), String> {
    for (key, value) in options {
        match key.as_str() {
            "max-size" => container.log.max_size = docker_size(&value)?,
            "max-file" => {
                let files: u32 = value.parse().map_err(|_| format!("invalid max-file: {value}"))?;
                // Docker counts the one that is being written.
                container.log.max_files = files.saturating_sub(1);
            }
            "compress" => container.log.compress = value == "true",
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
