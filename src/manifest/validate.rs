//! What a manifest says against itself and against the others. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::model::{
    Container, Isolation, MountKind, NetworkFile, NetworkMode, RestartPolicy, Start,
};
use super::network::{RESERVED_NETWORKS, is_network_name};
use super::scalar::Name;
use super::service::Kind;
use crate::image::Reference;
use crate::network::spec::{Driver, NetworkSpec};

/// Something that can't be, about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The key, `resources.memory` where it is nested.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

fn objection(key: &str, message: impl Into<String>, hint: &str) -> Objection {
    Objection {
        key: key.to_owned(),
        message: message.into(),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    }
}

/// Names of getrlimit(2), as Docker writes them.
const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Checks one container by itself.
pub fn alone(container: &Container) -> Vec<Objection> {
    let mut found = Vec::new();
    root(container, &mut found);
    process(container, &mut found);
    limits(container, &mut found);
    mounts(container, &mut found);
    network(container, &mut found);
    start(container, &mut found);
    health(container, &mut found);
    service(container, &mut found);
    found
}

fn service(container: &Container, found: &mut Vec<Objection>) {
    if container.is_target() {
        let names = !(container.requires.is_empty()
            && container.wants.is_empty()
            && container.after.is_empty());
        if !names {
            found.push(objection("type", "a target names no other", "write requires or wants"));
        }
        if container.is_timed() {
            found.push(objection("schedule", "a target runs nothing", "take it out"));
        }
    }
    if container.schedule.is_some() && container.every.is_some() {
        found.push(objection("every", "there is a `schedule` too", "take one of them out"));
    }
    if container.catch_up && !container.is_timed() {
        found.push(objection("catch-up", "it goes with `schedule` or `every`", ""));
    }
    if container.every.is_some_and(|every| every < Duration::from_secs(1)) {
        found.push(objection("every", "less than a second", "a service that runs on is cheaper"));
    }
    if container.watchdog.is_some_and(|time| time < Duration::from_millis(100)) {
        found.push(objection("watchdog", "less than 100ms says nothing", ""));
    }
    let ready = &container.ready;
    if ready.fd.is_some_and(|fd| !(3..1024).contains(&fd)) {
        found.push(objection("ready.fd", "it goes from 3 to 1023", "0, 1 and 2 are its output"));
    }
    if ready.listen == Some(0) {
        found.push(objection("ready.listen", "0 is not a port", ""));
    }
    if ready.timeout == Some(Duration::ZERO) {
        found.push(objection("ready.timeout", "nobody is ready at once", "take it out for no end"));
    }
    let ways = [container.kind == Kind::Notify, ready.fd.is_some(), ready.listen.is_some()];
    if ways.iter().filter(|way| **way).count() > 1 {
        found.push(objection(
            "ready",
            "more than one way to tell that it is ready",
            "one of type = \"notify\", ready.fd and ready.listen",
        ));
    }
    if matches!(container.kind, Kind::Oneshot | Kind::Target) && ways.contains(&true) {
        found.push(objection("ready", "a oneshot is ready when it has ended", "take it out"));
    }
    for path in &container.if_exists {
        absolute("if-exists", Path::new(path.trim_start_matches('!')), found);
    }
}

fn root(container: &Container, found: &mut Vec<Objection>) {
    let isolated = container.isolation == Isolation::Full;
    match (&container.image, &container.rootfs) {
        (Some(_), Some(_)) => found.push(objection(
            "rootfs",
            "there is an `image` and a `rootfs`",
            "a container has one root: take one of them out",
        )),
        (Some(image), None) => {
            if !isolated {
                found.push(objection(
                    "image",
                    "it has no meaning with isolation = \"none\"",
                    "take one of them out",
                ));
            }
            if let Err(error) = image.parse::<Reference>() {
                found.push(objection("image", error.to_string(), ""));
            }
        }
        (None, None) if container.is_target() => {}
        (None, None) if isolated => found.push(objection(
            "rootfs",
            "it has no root filesystem",
            "write image = \"name\", rootfs = \"/\" for a view of the host's programs, \
             rootfs = \"/a/directory\", or isolation = \"none\" for a plain process",
        )),
        (None, Some(_)) if !isolated => found.push(objection(
            "rootfs",
            "it has no meaning with isolation = \"none\"",
            "take one of them out",
        )),
        _ => {}
    }
    if let Some(rootfs) = &container.rootfs {
        let name = rootfs.to_string_lossy();
        if [".tar.xz", ".txz", ".tar.bz2", ".zip"].iter().any(|end| name.ends_with(end)) {
            found.push(objection(
                "rootfs",
                format!("{name} is compressed in a way that layers of images are not"),
                "make it a .tar, .tar.gz or .tar.zst",
            ));
        }
    }
    let is_host = container.rootfs.as_deref() == Some(Path::new("/"));
    if !container.expose.is_empty() && !is_host {
        found.push(objection(
            "expose",
            "there is nothing to expose",
            "it goes with rootfs = \"/\"",
        ));
    }
    for path in &container.expose {
        absolute("expose", path, found);
    }
    if !isolated {
        let meaningless = [
            ("mount", !container.mounts.is_empty()),
            ("devices", !container.devices.is_empty()),
            ("sysctls", !container.sysctls.is_empty()),
            ("hostname", container.hostname.is_some()),
            ("shm-size", container.shm_size.is_some()),
            ("security.read-only", container.security.read_only),
            (
                "network.mode",
                container.network.mode.as_ref().is_some_and(|m| *m != NetworkMode::Host),
            ),
        ];
        for (key, _) in meaningless.iter().filter(|(_, set)| *set) {
            found.push(objection(
                key,
                "it has no meaning with isolation = \"none\"",
                "take it out",
            ));
        }
    }
}

fn absolute(key: &str, path: &Path, found: &mut Vec<Objection>) {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        found.push(objection(
            key,
            format!("{} is not an absolute path without `..`", path.display()),
            "",
        ));
    }
}

fn process(container: &Container, found: &mut Vec<Objection>) {
    let nul = |text: &str| text.contains('\0');
    let argv = container.entrypoint.iter().flatten().chain(&container.command);
    if argv.clone().any(|arg| nul(arg)) {
        found.push(objection("command", "there is a NUL byte in it", ""));
    }
    let first = argv.clone().next();
    if container.image.is_none()
        && !container.is_target()
        && first.is_none_or(|program| program.is_empty())
    {
        found.push(objection(
            "command",
            "there is no program to run",
            "write command = [\"program\", \"argument\"]",
        ));
    }
    if container.auto_remove && container.restart.policy != RestartPolicy::No {
        found.push(objection(
            "auto-remove",
            "it is started again when it has ended",
            "write restart = \"no\", or take auto-remove out",
        ));
    }
    if container.stdin_once && !container.stdin {
        found.push(objection(
            "stdin-once",
            "it says when the standard input ends, and there is none",
            "add stdin = true, or take it out",
        ));
    }
    for (name, value) in &container.env {
        if name.is_empty() || name.contains('=') || nul(name) || nul(value) {
            found.push(objection("env", format!("{name:?} can't be a variable"), ""));
        }
    }
    if let Some(workdir) = &container.workdir {
        absolute("workdir", workdir, found);
    }
    if let Some(hostname) = &container.hostname
        && (hostname.is_empty()
            || hostname.len() > 64
            || !hostname.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')))
    {
        found.push(objection(
            "hostname",
            format!("{hostname:?} is not a host name"),
            "letters, digits, '-' and '.', at most 64",
        ));
    }
    if let Some(user) = &container.user
        && (user.is_empty() || user.matches(':').count() > 1 || nul(user))
    {
        found.push(objection(
            "user",
            format!("{user:?} is not a user"),
            "write user, user:group or 1000:1000",
        ));
    }
    for (key, names) in [
        ("security.cap-add", &container.security.cap_add),
        ("security.cap-drop", &container.security.cap_drop),
    ] {
        for name in names {
            let bare = name.to_ascii_uppercase();
            let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
            if bare != "ALL" && crate::spec::capabilities::number(bare).is_none() {
                found.push(objection(
                    key,
                    format!("{name:?} is not a capability"),
                    "see capabilities(7); written as NET_ADMIN or ALL",
                ));
            }
        }
    }
    let seccomp = container.security.seccomp.as_str();
    if !matches!(seccomp, "default" | "unconfined") && !seccomp.starts_with(['/', '{']) {
        found.push(objection(
            "security.seccomp",
            format!("{seccomp:?} is not a profile"),
            "default, unconfined, the absolute path of a profile, or its JSON itself",
        ));
    }
    for device in &container.devices {
        if let Err(error) = device.parse::<crate::spec::devices::DeviceRequest>() {
            found.push(objection("devices", error, ""));
        }
    }
    if let Some(super::model::Reload::Exec { exec }) = &container.signals.reload
        && exec.is_empty()
    {
        found.push(objection("signals.reload", "there is no command in `exec`", ""));
    }
}

fn limits(container: &Container, found: &mut Vec<Objection>) {
    let resources = &container.resources;
    for (key, weight) in [
        ("resources.cpu-weight", resources.cpu_weight),
        ("resources.io-weight", resources.io_weight),
    ] {
        if weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            found.push(objection(key, "a weight goes from 1 to 10000", "100 is the usual one"));
        }
    }
    if resources.memory.is_some_and(|memory| memory.0 < 512 << 10) {
        found.push(objection("resources.memory", "less than 512KiB runs nothing", ""));
    }
    if resources.pids == Some(0) {
        found.push(objection("resources.pids", "with 0 it can't even start", ""));
    }
    if container.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        found.push(objection("oom-score-adj", "it goes from -1000 to 1000", ""));
    }
    for (name, limit) in &container.rlimits {
        let key = format!("rlimits.{name}");
        if !RLIMITS.contains(&name.as_str()) {
            let hint = super::problem::nearest(name, &RLIMITS)
                .map_or_else(|| RLIMITS.join(", "), |meant| format!("did you mean `{meant}`?"));
            found.push(objection(&key, format!("`{name}` is not a limit of getrlimit(2)"), &hint));
        } else if limit.soft > limit.hard {
            found.push(objection(&key, "its soft limit is above the hard one", ""));
        }
    }
    for key in container.sysctls.keys() {
        let own = ["net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"];
        let whole = matches!(key.as_str(), "kernel.hostname" | "kernel.domainname");
        if !whole && !own.iter().any(|prefix| key.starts_with(prefix)) || key.contains("..") {
            found.push(objection(
                &format!("sysctls.{key}"),
                format!("{key} is the whole machine's"),
                "a container can set net.*, fs.mqueue.*, kernel.msg*, kernel.sem and kernel.shm*",
            ));
        } else if key.starts_with("net.")
            && matches!(
                container.network_mode(),
                NetworkMode::Host | NetworkMode::Container(_) | NetworkMode::Namespace(_)
            )
        {
            found.push(objection(
                &format!("sysctls.{key}"),
                "its network is not its own",
                "set it where the network belongs",
            ));
        }
    }
    let restart = &container.restart;
    if restart.backoff > restart.max_backoff {
        found.push(objection("restart.backoff", "it is longer than `max-backoff`", ""));
    }
    if container.log.max_size.0 < 4096 {
        found.push(objection("log.max-size", "less than 4KiB holds no log", ""));
    }
    if container.log.max_age == Some(Duration::ZERO) {
        found.push(objection("log.max-age", "no file is younger than that", ""));
    }
    if container.shm_size.is_some_and(|size| size.0 == 0) {
        found.push(objection("shm-size", "0 would be without a limit", "write a size"));
    }
}

fn mounts(container: &Container, found: &mut Vec<Objection>) {
    let mut targets = BTreeSet::new();
    for mount in &container.mounts {
        let key = format!("mount {}", mount.target.display());
        absolute(&key, &mount.target, found);
        if mount.target == Path::new("/") {
            found.push(objection(&key, "the root itself can't be a mount's target", ""));
        }
        if mount.target.starts_with("/proc") {
            found.push(objection(&key, "nothing can be mounted in /proc", ""));
        }
        if !targets.insert(&mount.target) {
            found.push(objection(&key, "two mounts have this target", ""));
        }
        match (mount.kind(), &mount.source) {
            (MountKind::Tmpfs, Some(_)) => {
                found.push(objection(&key, "a tmpfs has no source", "take `source` out"));
            }
            (MountKind::Volume, Some(name)) if !crate::rootfs::is_volume_name(name) => {
                found.push(objection(
                    &key,
                    format!("{name:?} is not a volume's name"),
                    "a path begins with / or .; a volume has letters, digits, '.', '_' and '-'",
                ));
            }
            (MountKind::Volume | MountKind::Bind, None) => {
                found.push(objection(&key, "it has no source", "name a volume or a path"));
            }
            _ => {}
        }
        if mount.kind() != MountKind::Tmpfs && (mount.size.is_some() || mount.mode.is_some()) {
            found.push(objection(&key, "`size` and `mode` are a tmpfs's", ""));
        }
    }
}

fn network(container: &Container, found: &mut Vec<Objection>) {
    let network = &container.network;
    let mode = container.network_mode();
    let bridged = mode == NetworkMode::Bridge;
    let meaningless = [
        ("network.publish", network.publish.iter().any(|one| !one.hold)),
        ("network.networks", !network.networks.is_empty()),
        ("network.alias", !network.alias.is_empty()),
        ("network.ip", network.ip.is_some()),
        ("network.mac", network.mac.is_some()),
    ];
    for (key, _) in meaningless.iter().filter(|(_, set)| *set && !bridged) {
        let hint = match mode {
            NetworkMode::Host => "with mode = \"host\" the program's own ports are the host's",
            NetworkMode::Container(_) => "it belongs to the container whose network it shares",
            _ => "it goes with mode = \"bridge\"",
        };
        found.push(objection(key, format!("it has no meaning with mode = \"{mode}\""), hint));
    }
    let mut seen = BTreeSet::new();
    for member in &network.networks {
        if !is_network_name(&member.name) || RESERVED_NETWORKS.contains(&member.name.as_str()) {
            let message = format!("{:?} is not a network's name", member.name);
            found.push(objection("network.networks", message, "write networks = [\"back\"]"));
        }
        if !seen.insert(&member.name) {
            let message = format!("it is on the network {} twice", member.name);
            found.push(objection("network.networks", message, "take one of them out"));
        }
    }
    let aliases = network.networks.iter().flat_map(|member| &member.alias);
    for alias in aliases.chain(&network.alias) {
        let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if alias.is_empty() || alias.len() > 253 || !alias.chars().all(usable) {
            let message = format!("{alias:?} can't be looked up as a name");
            found.push(objection("network.alias", message, "letters, digits, '-', '_' and '.'"));
        }
    }
    for domain in network.dns_search.iter().chain(&network.dns_options) {
        if domain.is_empty() || domain.contains(char::is_whitespace) {
            let message = format!("{domain:?} is no word of resolv.conf(5)");
            found.push(objection("network.dns-search", message, ""));
        }
    }
    let mut ports = BTreeSet::new();
    for one in &network.publish {
        let mapping = &one.mapping;
        for (host, _) in mapping.pairs() {
            let Some(port) = host else { continue };
            if !ports.insert((mapping.address, port, mapping.protocol)) {
                let message = format!("port {port}/{} is published twice", mapping.protocol);
                found.push(objection("network.publish", message, "take one of them out"));
                break;
            }
        }
        if one.hold && mapping.host.is_none() {
            let message = "a held socket needs a port of the host";
            found.push(objection("network.publish", message, "write { host = 80, hold = true }"));
        }
    }
}

fn start(container: &Container, found: &mut Vec<Objection>) {
    let on_demand = container.start == Start::OnDemand;
    if on_demand && !container.network.publish.iter().any(|one| one.hold) {
        found.push(objection(
            "start",
            "nobody can connect to it: it has no held socket",
            "write network.publish = [{ host = 80, hold = true }]",
        ));
    }
    if container.idle_timeout.is_some() && !on_demand {
        let hint = "it goes with start = \"on-demand\"";
        found.push(objection("idle-timeout", "it would never be started again", hint));
    }
    if container.idle_timeout.is_some_and(|idle| idle < Duration::from_secs(1)) {
        found.push(objection("idle-timeout", "less than a second is not told from a pause", ""));
    }
}

/// Checks one network by itself.
pub fn network_alone(name: &str, file: &NetworkFile) -> Vec<Objection> {
    let mut found = Vec::new();
    if file.subnet.is_none() {
        if file.gateway.is_some() {
            found.push(objection("gateway", "there is no `subnet` that it could be in", ""));
        }
        if file.driver != Driver::Bridge {
            let why = "a macvlan or ipvlan is in the subnet of its parent: `subnet` is missing";
            found.push(objection("driver", why, "write the subnet that the parent is in"));
        }
    }
    if !file.ipv6 && (file.subnet6.is_some() || file.gateway6.is_some()) {
        found.push(objection("ipv6", "there is no IPv6, and a subnet or gateway of it", ""));
    }
    // The rest is judged as a whole, any free subnet standing in for a missing one.
    let stand_in = Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 24);
    let mut spec = NetworkSpec::bridge(name, file.subnet.unwrap_or(stand_in), file.subnet6);
    spec.driver = file.driver;
    spec.gateway = file.gateway.filter(|_| file.subnet.is_some()).unwrap_or(spec.gateway);
    spec.gateway6 = file.gateway6;
    spec.internal = file.internal;
    spec.isolated = file.isolated;
    spec.mtu = file.mtu;
    spec.parent = file.parent.clone();
    found.extend(spec.problems().into_iter().map(|problem| {
        let key = ["gateway", "MTU", "parent", "isolated"]
            .into_iter()
            .find(|word| problem.contains(word))
            .unwrap_or("subnet");
        objection(&key.to_ascii_lowercase(), problem, "")
    }));
    found
}

fn health(container: &Container, found: &mut Vec<Objection>) {
    let Some(health) = &container.health else {
        return;
    };
    let probes = [health.exec.is_some(), health.http.is_some(), health.tcp.is_some()];
    if probes.iter().filter(|set| **set).count() != 1 {
        found.push(objection("health", "it needs one of `exec`, `http` and `tcp`", ""));
    }
    if health.exec.as_ref().is_some_and(Vec::is_empty) {
        found.push(objection("health.exec", "there is no command", ""));
    }
    if let Some(http) = &health.http
        && super::address::http(http).is_none()
    {
        found.push(objection(
            "health.http",
            format!("{http:?} is not an address"),
            "write http://:80/path",
        ));
    }
    if let Some(tcp) = &health.tcp
        && super::address::tcp(tcp).is_none()
    {
        found.push(objection("health.tcp", format!("{tcp:?} is not an address"), "write :5432"));
    }
    if health.interval.is_zero() || health.timeout.is_zero() || health.retries == 0 {
        found.push(objection("health", "`interval`, `timeout` and `retries` can't be 0", ""));
    }
}

/// Checks containers against each other; by name.
pub fn together(containers: &BTreeMap<Name, Arc<Container>>) -> Vec<(Name, Objection)> {
    let mut found = Vec::new();
    for (name, container) in containers {
        for required in &container.requires {
            if !containers.contains_key(required) {
                found.push((
                    name.clone(),
                    objection(
                        "requires",
                        format!("there is no container {required}"),
                        "use `after` or `wants` for one that may be missing",
                    ),
                ));
            }
        }
        if let NetworkMode::Container(owner) = container.network_mode()
            && (!containers.contains_key(&owner) || owner == *name)
        {
            found.push((
                name.clone(),
                objection("network.mode", format!("there is no other container {owner}"), ""),
            ));
        }
    }
    found.extend(cycles(containers));
    found
}

/// Whom a container waits for.
fn awaited(container: &Container) -> impl Iterator<Item = Name> {
    let network = match container.network_mode() {
        NetworkMode::Container(owner) => Some(owner),
        _ => None,
    };
    // A target is reached when what it wants has been tried.
    let wanted = container.is_target().then_some(&container.wants).into_iter().flatten();
    container.after.iter().chain(&container.requires).chain(wanted).cloned().chain(network)
}

/// The key by which a container waits for another.
fn naming(container: &Container, other: &Name) -> &'static str {
    if container.after.contains(other) {
        "after"
    } else if container.requires.contains(other) {
        "requires"
    } else {
        "network.mode"
    }
}

/// Each cycle once, told at its first name. Iterative: a chain may be long.
fn cycles(containers: &BTreeMap<Name, Arc<Container>>) -> Vec<(Name, Objection)> {
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for start in containers.keys() {
        if done.contains(start) {
            continue;
        }
        let mut path: Vec<(Name, Vec<Name>)> = Vec::new();
        let next = |name: &Name| -> Vec<Name> {
            containers.get(name).map(|container| awaited(container).collect()).unwrap_or_default()
        };
        path.push((start.clone(), next(start)));
        while let Some((name, rest)) = path.last_mut() {
            let Some(other) = rest.pop() else {
                done.insert(name.clone());
                path.pop();
                continue;
            };
            if let Some(at) = path.iter().position(|(name, _)| *name == other) {
                let round: Vec<&str> = path[at..]
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .chain([other.as_str()])
                    .collect();
                let message = format!("they wait for each other: {}", round.join(" → "));
                let next = path.get(at + 1).map_or(&other, |(name, _)| name);
                let key = containers.get(&other).map_or("after", |this| naming(this, next));
                found.push((other.clone(), objection(key, message, "take one of them out")));
            } else if !done.contains(&other) && containers.contains_key(&other) {
                let further = next(&other);
                path.push((other, further));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(text: &str) -> Container {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn contradictions_are_found() {
        for (text, key) in [
            ("command = [\"x\"]", "rootfs"),
            ("image = \"x\"\nrootfs = \"/\"\ncommand = [\"x\"]", "rootfs"),
            ("rootfs = \"/\"", "command"),
            ("rootfs = \"/\"\ncommand = [\"x\"]\nworkdir = \"a/..\"", "workdir"),
            (
                "rootfs = \"/\"\ncommand = [\"x\"]\n[network]\nmode = \"host\"\npublish = [\"80\"]",
                "network.publish",
            ),
            (
                "rootfs = \"/\"\ncommand = [\"x\"]\n[security]\ncap-add = [\"FLY\"]",
                "security.cap-add",
            ),
            ("rootfs = \"/\"\ncommand = [\"x\"]\n[rlimits]\nnofiles = 3", "rlimits.nofiles"),
            (
                "rootfs = \"/\"\ncommand = [\"x\"]\n[sysctls]\n\"kernel.panic\" = \"1\"",
                "sysctls.kernel.panic",
            ),
            ("rootfs = \"/\"\ncommand = [\"x\"]\n[health]\ntcp = \"x\"", "health.tcp"),
            (
                "rootfs = \"/\"\ncommand = [\"x\"]\n[[mount]]\nsource = \"a\"\ntarget = \"/proc/x\"",
                "mount /proc/x",
            ),
        ] {
            let found = alone(&container(text));
            assert!(found.iter().any(|o| o.key == key), "{text}: {found:?}");
        }
        assert_eq!(alone(&container("rootfs = \"/\"\ncommand = [\"x\"]")), []);
        assert_eq!(alone(&container("isolation = \"none\"\ncommand = [\"x\"]")), []);
    }

    #[test]
    fn cycles_are_printed() {
        let make = |after: &str| {
            Arc::new(container(&format!("rootfs = \"/\"\ncommand = [\"x\"]\nafter = [{after}]")))
        };
        let mut all = BTreeMap::new();
        all.insert("a".parse().unwrap(), make("\"b\""));
        all.insert("b".parse().unwrap(), make("\"c\", \"nobody\""));
        all.insert("c".parse().unwrap(), make("\"a\""));
        let found = together(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.message.contains("a → b → c → a"), "{}", found[0].1.message);
    }
}
