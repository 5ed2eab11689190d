//! What a manifest says against itself and against the others. Pure.

mod network;
mod together;

use std::collections::BTreeSet;
use std::path::{Component, Path};
use std::time::Duration;

use super::model::{
    Container, Isolation, MountKind, Namespaces, NetworkMode, RestartPolicy, Sharing,
};
use super::service::Kind;
use crate::image::Reference;

pub use network::network_alone;
use network::{network, start};
pub use together::together;

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
    let held = network::held(container);
    let is_taken = |fd: u32| usize::try_from(fd).is_ok_and(|fd| (3..3 + held).contains(&fd));
    if ready.fd.is_some_and(is_taken) {
        let message = format!("descriptors 3 to {} are its held sockets", 2 + held);
        found.push(objection("ready.fd", message, "take a number above them"));
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
            ("security.unmask", container.security.unmask),
            ("namespaces", container.namespaces != Namespaces::default()),
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
    if container.hostname.is_some() && container.namespaces.uts != Sharing::Private {
        let hint = "take it out, or namespaces.uts";
        found.push(objection("hostname", "its host name is not its own", hint));
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
        } else if key == "kernel.domainname" && container.namespaces.uts != Sharing::Private {
            let hint = "set it where the host name belongs";
            found.push(objection(&format!("sysctls.{key}"), "its host name is not its own", hint));
        } else if !key.starts_with("net.")
            && !key.ends_with("name")
            && !container.namespaces.ipc.is_own()
        {
            let hint = "set it where the namespace belongs";
            found.push(objection(
                &format!("sysctls.{key}"),
                "its IPC namespace is not its own",
                hint,
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
            (MountKind::Volume | MountKind::Bind | MountKind::Image, None) => {
                found.push(objection(
                    &key,
                    "it has no source",
                    "name a volume, a path or an image",
                ));
            }
            (MountKind::Image, Some(image)) => {
                if let Err(error) = image.parse::<Reference>() {
                    found.push(objection(&key, error.to_string(), ""));
                }
            }
            _ => {}
        }
        if let Some(path) = &mount.subpath {
            if !matches!(mount.kind(), MountKind::Volume | MountKind::Image) {
                found.push(objection(&key, "`subpath` is a volume's or an image's", ""));
            } else if !crate::manifest::model::is_within(path) {
                let why = "`subpath` is a relative path within the volume, without `..`";
                found.push(objection(&key, why, ""));
            }
        }
        let wrong = match mount.kind() {
            MountKind::Volume => crate::rootfs::check_options(&mount.options),
            MountKind::Tmpfs => crate::spec::check_tmpfs(&mount.options),
            _ if mount.options.is_empty() => Ok(()),
            _ => Err("`options` are a volume's or a tmpfs's".to_owned()),
        };
        if let Err(why) = wrong {
            found.push(objection(&key, why, ""));
        }
        if mount.kind() != MountKind::Volume && mount.no_copy {
            found.push(objection(&key, "`no-copy` is a volume's", ""));
        }
        if mount.kind() != MountKind::Tmpfs && (mount.size.is_some() || mount.mode.is_some()) {
            found.push(objection(&key, "`size` and `mode` are a tmpfs's", ""));
        }
    }
}

fn health(container: &Container, found: &mut Vec<Objection>) {
    let Some(health) = &container.health else {
        return;
    };
    let probes = [health.exec.is_some(), health.http.is_some(), health.tcp.is_some()];
    if health.none {
        if probes.contains(&true) {
            found.push(objection("health", "there is a check, and `none`", "take one of them out"));
        }
        return;
    }
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
}
