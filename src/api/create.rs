//! Docker's description of a container turned into a manifest. Pure: what it can't
//! know (other containers, random names) comes in by [`Surroundings`]. What Berth does
//! not have is an error, or a warning where the container works without it.

mod limits;
mod links;
mod mounts;
mod namespaces;
mod remembered;
mod security;

use limits::positive;
pub use limits::{resources, weight_of_shares};
pub use links::without_link;
pub use mounts::docker_size;
use mounts::{mounts, volume};
pub use remembered::{is_typed, kept_of_host, plain, remembered, tell, updated};
use security::security;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bollard_stubs::models::{
    ContainerCreateBody, HealthConfig, HostConfig, RestartPolicy as DockerPolicy,
    RestartPolicyNameEnum,
};
use serde_json::Value;

use super::endpoints;
use crate::image::config::Process;
use crate::manifest::model::{Container, Health, NetworkMode, RestartPolicy, Rlimit};
use crate::manifest::scalar::Size;

/// What a description refers to outside of itself.
pub struct Surroundings<'a> {
    /// The name that the container gets.
    pub name: &'a str,
    /// The manifest of another container, and its name, by name or id.
    pub container: &'a dyn Fn(&str) -> Option<(String, Container)>,
    /// What the image of another container says, by that one's name.
    pub image: &'a dyn Fn(&str) -> Process,
    /// The name of a network, by name or id.
    pub network: &'a dyn Fn(&str) -> Option<String>,
    /// The address of a container, by its name, if it has one.
    pub address: &'a dyn Fn(&str) -> Option<IpAddr>,
    /// How many processors the machine has.
    pub processors: usize,
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
    if object.is_empty() {
        return Err("config cannot be empty in order to create a container".to_owned());
    }
    if let Some(host) = object.get("HostConfig") {
        known_policy(host)?;
        known_words(host)?;
    }
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
    super::loose::from_value(value).map_err(|error| format!("invalid JSON: {error}"))
}

/// Puts everything where it belongs: keys by the names that the API has for them, and
/// limits that clients of old say beside `HostConfig` into it where it does not say them.
pub fn to_their_place(asked: &mut Value) {
    super::loose::rename::<ContainerCreateBody>(asked);
    for (old, new) in [
        ("Memory", "Memory"),
        ("MemorySwap", "MemorySwap"),
        ("CpuShares", "CpuShares"),
        ("Cpuset", "CpusetCpus"),
    ] {
        let said = |value: &Value| !matches!(value.as_i64(), Some(0)) && value != "";
        let Some(value) = asked.get(old).filter(|value| said(value)).cloned() else { continue };
        let Some(asked) = asked.as_object_mut().filter(|_| !value.is_null()) else { continue };
        let host = asked.entry("HostConfig").or_insert(Value::Null);
        if host.is_null() {
            *host = Value::Object(serde_json::Map::new());
        }
        if let Some(host) = host.as_object_mut()
            && host.get(new).is_none_or(|now| now.is_null() || !said(now))
        {
            host.insert(new.to_owned(), value);
        }
    }
}

/// A restart policy that there is not, in Docker's words.
pub fn known_policy(host: &Value) -> Result<(), String> {
    let name = host["RestartPolicy"]["Name"].as_str().unwrap_or_default();
    match name {
        "" | "no" | "always" | "on-failure" | "unless-stopped" => Ok(()),
        other => Err(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
             'on-failure', or 'unless-stopped'"
        )),
    }
}

/// Refuses, in Docker's words, other words that there are not.
fn known_words(host: &Value) -> Result<(), String> {
    let mode = host["CgroupnsMode"].as_str().unwrap_or_default();
    if !["", "private", "host"].contains(&mode) {
        return Err(format!("invalid cgroup namespace mode: {mode}"));
    }
    let kinds = ["", "bind", "cluster", "image", "npipe", "tmpfs", "volume"];
    let mounts = host["Mounts"].as_array().into_iter().flatten();
    let mut said = mounts.filter_map(|mount| mount["Type"].as_str());
    match said.find(|kind| !kinds.contains(kind)) {
        Some(kind) => Err(format!("invalid mount config for type \"{kind}\": mount type unknown")),
        None => Ok(()),
    }
}

/// The manifest that means the same.
///
/// # Errors
/// A sentence for the client, to go with 400: a 404 would have Docker's command look for
/// the image, whatever is missing.
pub fn manifest(
    body: ContainerCreateBody,
    surroundings: &mut Surroundings<'_>,
) -> Result<Made, String> {
    let host = body.host_config.clone().unwrap_or_default();
    of_others(&host)?;
    shared_network(&body, &host)?;
    let mut warnings = Vec::new();
    without_effect(&host, &mut warnings);
    let mut container = Container::default();
    root(&body, &mut container)?;
    let named = |which: &str| (surroundings.container)(which).map(|(name, _)| name);
    endpoints::network(&body, &mut container, &named, surroundings.network)?;
    let ports = host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty());
    if ports && container.network_mode() == NetworkMode::Host {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    links::links(&body, &mut container, surroundings, &mut warnings)?;
    process(body, &mut container)?;
    resources(&host, &mut container, surroundings.processors)?;
    mounts(&host, &mut container, surroundings, &mut warnings)?;
    security(&host, &mut container, &mut warnings)?;
    namespaces::namespaces(&host, &mut container, surroundings)?;
    rest(host, &mut container, &mut warnings)?;
    Ok(Made { container, warnings })
}

/// What is the network's own can't be said by who has another's, in Docker's words.
fn shared_network(body: &ContainerCreateBody, host: &HostConfig) -> Result<(), String> {
    let mode = host.network_mode.as_deref().unwrap_or_default();
    if !mode.starts_with("container:") {
        return Ok(());
    }
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let conflicts = [
        ("hostname and the network mode", some(body.hostname.clone()).is_some()),
        ("container type network can't be used with links", has(&host.links)),
        ("dns and the network mode", has(&host.dns)),
        ("custom host-to-IP mapping and the network mode", has(&host.extra_hosts)),
        (
            "port publishing and the container type network mode",
            host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty())
                || host.publish_all_ports == Some(true),
        ),
        (
            "port exposing and the container type network mode",
            body.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()),
        ),
    ];
    match conflicts.iter().find(|(_, said)| *said) {
        Some((what, _)) => Err(format!("conflicting options: {what}")),
        None => Ok(()),
    }
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
            // An id may stand without the name of its algorithm.
            let is_id = crate::image::Digest::from_hex(&image).is_some();
            container.image = Some(if is_id { format!("sha256:{image}") } else { image });
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
            _ if variable.is_empty() => return Err("invalid environment variable: ".to_owned()),
            Some(("", _)) => return Err(format!("invalid environment variable: {variable}")),
            Some((name, value)) => drop(container.env.insert(name.to_owned(), value.to_owned())),
            None => drop(container.env.remove(&variable)),
        }
    }
    container.user = some(body.user);
    // Without what says nothing, as a slash at the end.
    if let Some(path) = body.working_dir.as_deref()
        && !path.is_empty()
        && !path.starts_with('/')
    {
        return Err(format!(
            "the working directory '{path}' is invalid, it needs to be an absolute path"
        ));
    }
    container.workdir =
        some(body.working_dir).map(|path| PathBuf::from(path).components().collect());
    container.hostname = some(body.hostname).map(|host| match some(body.domainname.clone()) {
        Some(domain) => format!("{host}.{domain}"),
        None => host,
    });
    container.tty = body.tty.unwrap_or(false);
    container.stdin = body.open_stdin.unwrap_or(false);
    container.stdin_once = container.stdin && body.stdin_once.unwrap_or(false);
    container.labels = body.labels.unwrap_or_default().into_iter().collect();
    if let Some(signal) = some(body.stop_signal) {
        let wrong = |_: String| format!("invalid signal: {signal}");
        container.stop.signal = Some(signal.parse().map_err(wrong)?);
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

/// What a client changes of the check that the image has: it says no check of its own.
pub fn health_of_image(
    said: Option<&HealthConfig>,
    image: Option<&crate::image::config::Healthcheck>,
) -> Result<Option<Health>, String> {
    let (Some(said), Some(image)) = (said, image) else { return Ok(None) };
    if said.test.as_ref().is_some_and(|test| !test.is_empty()) {
        return Ok(None);
    }
    let or = |asked: Option<i64>, own: i64| asked.filter(|value| *value != 0).or(Some(own));
    health(HealthConfig {
        test: Some(image.test.clone()),
        interval: or(said.interval, image.interval),
        timeout: or(said.timeout, image.timeout),
        start_period: or(said.start_period, image.start_period),
        start_interval: or(said.start_interval, image.start_interval),
        retries: or(said.retries, image.retries),
    })
    .map_err(|why| {
        format!(
            "the image's HEALTHCHECK can't be used: {why}; name a command (--health-cmd), or none \
             (--no-healthcheck)"
        )
    })
}

/// Whether times and counts of a health check can be.
fn sound(asked: &HealthConfig) -> Result<(), String> {
    for (what, nanos) in [
        ("Interval", asked.interval),
        ("Timeout", asked.timeout),
        ("StartPeriod", asked.start_period),
        ("StartInterval", asked.start_interval),
    ] {
        if nanos.is_some_and(|nanos| nanos != 0 && nanos < 1_000_000) {
            return Err(format!("{what} in Healthcheck cannot be less than 1ms"));
        }
    }
    if asked.retries.is_some_and(|retries| retries < 0) {
        return Err("Retries in Healthcheck cannot be negative".to_owned());
    }
    Ok(())
}

pub(super) fn health(asked: HealthConfig) -> Result<Option<Health>, String> {
    let test = asked.test.clone().unwrap_or_default();
    sound(&asked)?;
    let exec = match test.split_first() {
        None => return Ok(None),
        Some((kind, [])) if kind == "NONE" => {
            return Ok(Some(Health { none: true, ..Health::default() }));
        }
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
        start_interval: positive(asked.start_interval).map(Duration::from_nanos),
        retries: match asked.retries {
            Some(retries @ 1..) => u32::try_from(retries).unwrap_or(u32::MAX),
            _ => default.retries,
        },
        ..default
    }))
}

fn rest(
    host: HostConfig,
    container: &mut Container,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    if host.annotations.as_ref().is_some_and(|all| all.contains_key("")) {
        return Err(
            "invalid Annotations: the empty string is not permitted as an annotation key".into()
        );
    }
    container.restart.policy = policy(host.restart_policy)?;
    container.auto_remove = host.auto_remove.unwrap_or(false);
    if container.auto_remove && container.restart.policy != RestartPolicy::No {
        return Err("can't create 'AutoRemove' container with restart policy".to_owned());
    }
    container.init = host.init;
    container.groups = host.group_add.unwrap_or_default();
    if let Some(score) = host.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    container.oom_score_adj = host
        .oom_score_adj
        .filter(|score| *score != 0)
        .map(|score| i32::try_from(score).map_err(|_| "Invalid value for oom score adj"))
        .transpose()?;
    if host.shm_size.is_some_and(|size| size < 0) {
        return Err("SHM size can not be less than 0".to_owned());
    }
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
        log_options(log.typ.as_deref(), log.config.unwrap_or_default(), container)?;
        match log.typ.as_deref() {
            None | Some("" | "json-file" | "local" | "berth") => {}
            Some(other) if LOG_DRIVERS.contains(&other) => {
                warnings.push(format!("log driver {other:?}: Berth keeps the log itself"))
            }
            Some(other) => {
                return Err(format!(
                    "error looking up logging plugin {other}: plugin \"{other}\" not found"
                ));
            }
        }
    }
    Ok(())
}

/// What is for another kind of engine, in Docker's words.
fn of_others(host: &HostConfig) -> Result<(), String> {
    use bollard_stubs::models::HostConfigIsolationEnum as Isolation;
    if let Some(other) = host.isolation
        && !matches!(other, Isolation::EMPTY | Isolation::DEFAULT)
    {
        return Err(format!("invalid isolation '{other}' on linux"));
    }
    // As Docker does without the vendor's driver: a container that needs one would start, and
    // run without it.
    if let Some(request) = host.device_requests.iter().flatten().next() {
        return Err(format!(
            "could not select device driver {:?} with capabilities: [{}]: Berth has no device \
             drivers (--gpus, CDI); name the devices with --device",
            request.driver.as_deref().unwrap_or_default(),
            request
                .capabilities
                .iter()
                .flatten()
                .map(|all| format!("[{}]", all.join(" ")))
                .collect::<Vec<_>>()
                .join(" "),
        ));
    }
    match host.runtime.as_deref().filter(|name| !name.is_empty() && !RUNTIMES.contains(name)) {
        Some(other) => Err(format!("unknown or invalid runtime name: {other}")),
        None => Ok(()),
    }
}

/// What is kept and told, and changes nothing: a sentence with the reason each.
fn without_effect(host: &HostConfig, warnings: &mut Vec<String>) {
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let positive = |number: Option<i64>| number.is_some_and(|number| number > 0);
    for (what, there, why) in [
        (
            "device-cgroup-rule",
            has(&host.device_cgroup_rules),
            "a device is allowed by naming it with --device",
        ),
        (
            "storage-opt",
            host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()),
            "what a container writes lies in a folder without a quota",
        ),
        (
            "cgroup-parent",
            host.cgroup_parent.as_deref().is_some_and(|parent| !parent.is_empty()),
            "all containers are in the group of this Berth",
        ),
        (
            "blkio-weight-device",
            host.blkio_weight_device.as_ref().is_some_and(|list| !list.is_empty()),
            "a weight holds for all devices: --blkio-weight",
        ),
        (
            "cpu-rt-runtime",
            positive(host.cpu_realtime_period) || positive(host.cpu_realtime_runtime),
            "the kernel gives real-time priority to no group of its own; see --ulimit rtprio",
        ),
        (
            "memory-swappiness",
            host.memory_swappiness.is_some_and(|value| value >= 0),
            "the kernel has none of a container's own on cgroup v2",
        ),
        (
            "oom-kill-disable",
            host.oom_kill_disable == Some(true),
            "the kernel has no such thing on cgroup v2; see --oom-score-adj",
        ),
    ] {
        if there {
            warnings.push(format!("--{what} has no effect in Berth: {why}"));
        }
    }
}

/// What a client may call the one runtime that there is: Berth, or what it stands for.
const RUNTIMES: [&str; 3] = ["berth", "runc", "io.containerd.runc.v2"];

/// Drivers of Docker's daemon that have no meaning here; another word is an error.
const LOG_DRIVERS: [&str; 9] =
    ["awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "journald", "none", "splunk", "syslog"];

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

fn log_options(
    driver: Option<&str>,
    options: HashMap<String, String>,
    container: &mut Container,
) -> Result<(), String> {
    for (key, value) in options {
        match key.as_str() {
            "max-size" => container.log.max_size = docker_size(&value)?,
            "max-file" => {
                let files: u32 = value.parse().map_err(|_| format!("invalid max-file: {value}"))?;
                // Docker counts the one that is being written.
                container.log.max_files = files.saturating_sub(1);
            }
            "compress" => container.log.compress = value == "true",
            "env" | "env-regex" | "labels" | "labels-regex" | "max-buffer-size" | "mode"
            | "tag" => {}
            _ if driver.is_none_or(|driver| matches!(driver, "" | "json-file" | "local")) => {
                return Err(format!("unknown log opt '{key}' for json-file log driver"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
