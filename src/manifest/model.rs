//! What a manifest can say: one type, whichever language it was written in.
//!
//! The names of keys are Docker's and OCI's in kebab-case. Every field has the
//! default that a container without the key gets, so that a `Container` read
//! back from its JSON is the same `Container`. The JSON Schema in `schema/` is
//! generated from these types, their documentation included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calendar::Calendar;
pub use super::namespaces::{Cgroupns, Ipc, Namespaces, Sharing};
pub use super::network::{Member, Network, Publish};
pub use super::network_file::NetworkFile;
use super::scalar::{Name, Signal, Size};
use super::service::{Kind, Ready};
pub use super::variants::{Cpus, IoLimit, NetworkMode, RestartPolicy, Rlimit, Userns};
use crate::image::pull::Policy;

/// One container as its manifest declares it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Container {
    /// The image to run, such as `registry.example/shop/web:1.4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the registry is asked for the image: `missing` (the default), `always`
    /// when a container of it is made, `never`.
    #[serde(skip_serializing_if = "is_default")]
    pub pull: Policy,
    /// What is the root instead of an image: a directory, an archive (`.tar`, `.tar.gz`,
    /// `.tgz`, `.tar.zst`), or `/`, a copy-on-write view of the host's own programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// `full`: namespaces and a root of its own. `none`: a plain supervised process.
    pub isolation: Isolation,
    /// `service` (the default), `oneshot`, `notify` or `target`: when it is ready for
    /// those that wait for it.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: Kind,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The arguments after the entrypoint, or the program and its arguments.
    pub command: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Files with lines `NAME=value`, read before `env`; relative to the manifest.
    pub env_file: Vec<PathBuf>,
    /// `user`, `user:group`, `1000` or `1000:1000`, looked up inside the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Supplementary groups, by name or number.
    pub groups: Vec<String>,
    /// The working directory inside the root; made when it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// The host name in the container; its name otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Gives the process a terminal.
    pub tty: bool,
    /// Keeps the standard input open.
    pub stdin: bool,
    /// With `stdin`: it ends when the first client that was attached to it goes.
    pub stdin_once: bool,
    /// Runs Berth's container init as PID 1: it forwards signals and reaps
    /// orphans. With `false` the payload itself is PID 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// `auto` (the default), or `on-demand`: at the first connection to one of its held
    /// sockets (`publish = [{ host = 80, hold = true }]`).
    #[serde(skip_serializing_if = "is_default")]
    pub start: Start,
    /// With `start = "on-demand"`: stopped when nobody was connected for so long.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub idle_timeout: Option<Duration>,
    /// When to start it again after it ended.
    pub restart: Restart,
    /// Removed when it has ended, with its manifest: only where an API client or
    /// `berth run` wrote that.
    pub auto_remove: bool,
    /// Started before this one, and stopped after it, if they are there at all.
    pub after: Vec<Name>,
    /// Must run for this one to start; it stops before they do.
    pub requires: Vec<Name>,
    /// Started together with this one, but may fail.
    pub wants: Vec<Name>,
    /// Can't run at the same time as this one.
    pub conflicts: Vec<Name>,
    /// When it is ready, where running alone does not make it so.
    #[serde(skip_serializing_if = "is_default")]
    pub ready: Ready,
    /// It says by sd_notify(3) that it is well, at least so often, or it is stopped
    /// and its restart policy decides.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub watchdog: Option<Duration>,
    /// Run at these times (systemd.time(7), "CALENDAR EVENTS"): `*-*-* 03:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Calendar>,
    /// Run again and again, so long after the last time it was begun.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub every: Option<Duration>,
    /// With `schedule` or `every`: a time that passed while the machine was down is
    /// made up for once.
    #[serde(skip_serializing_if = "is_default")]
    pub catch_up: bool,
    /// Run only if these files of the host exist; with a `!` in front if not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub if_exists: Vec<String>,
    /// Run only on a virtual machine, or (`false`) only on a real one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_virtual: Option<bool>,
    /// Run only if the kernel's command line has these words, `key` or `key=value`, also
    /// with a comma and more behind it; with a `!` in front if not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub if_kernel: Vec<String>,
    /// How it is stopped.
    pub stop: Stop,
    /// Signals that are passed on, and how it reloads.
    pub signals: Signals,
    /// Limits on memory, processors, processes and input/output.
    pub resources: Resources,
    /// Its network.
    pub network: Network,
    /// Volumes, bind mounts and tmpfs.
    #[serde(rename = "mount")]
    pub mounts: Vec<Mount>,
    /// How its output is kept.
    pub log: Log,
    /// How to tell whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What it may do.
    pub security: Security,
    /// Namespaces that it shares with the host or with another container.
    pub namespaces: Namespaces,
    /// With `rootfs = "/"`: paths of the host that would be hidden, and are not.
    pub expose: Vec<PathBuf>,
    /// Kernel parameters of its own namespaces, such as `net.ipv4.ip_forward`.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of processes (getrlimit(2)), such as `nofile`.
    pub rlimits: BTreeMap<String, Rlimit>,
    /// How readily the kernel ends it when memory runs out, -1000 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Size of `/dev/shm`; 64MiB otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<Size>,
    /// Devices of the host, `/dev/fuse` or `/dev/sda:/dev/xvda:rwm`.
    pub devices: Vec<String>,
    /// Free text for people and tools.
    pub labels: BTreeMap<String, String>,
    /// What a Docker client said that no other key here can hold, as the API's JSON:
    /// told again to such clients, without effect.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub docker: BTreeMap<String, String>,
}

impl Container {
    /// Whether Berth's container init is its PID 1.
    pub fn has_init(&self) -> bool {
        self.init.unwrap_or(true)
    }

    /// Whether it has images mounted.
    pub fn mounts_images(&self) -> bool {
        self.mounts.iter().any(|mount| mount.kind() == MountKind::Image)
    }

    /// The network mode, with the default for its kind: `host` without isolation,
    /// `bridge` with an image or with something that needs one, else `none`.
    pub fn network_mode(&self) -> NetworkMode {
        match (&self.network.mode, self.isolation) {
            (_, Isolation::None) => NetworkMode::Host,
            (Some(mode), _) => mode.clone(),
            (None, _) if self.image.is_some() || self.network.needs_bridge() => NetworkMode::Bridge,
            (None, _) => NetworkMode::None,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How much a container is kept apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces, a root filesystem of its own, fewer capabilities, seccomp.
    #[default]
    Full,
    /// A plain process of the host, supervised, limited and logged.
    None,
}

/// When a container is started the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// As soon as nothing speaks against it.
    #[default]
    Auto,
    /// When somebody connects to it.
    OnDemand,
}

/// When and how a container is started again. Also written as the policy alone:
/// `restart = "on-failure:5"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Restart {
    /// `no`, `on-failure`, `on-failure:N`, `always` (the default) or `unless-stopped`.
    pub policy: RestartPolicy,
    /// The pause before the first restart; doubled with each one that follows.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub backoff: Duration,
    /// The longest pause.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_backoff: Duration,
    /// A run as long as this makes the next pause the first one again.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub reset_after: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Restart {
            policy: RestartPolicy::Always,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            reset_after: Duration::from_secs(600),
        }
    }
}

/// How a container is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Stop {
    /// Sent first; the image's own or SIGTERM otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    /// After this time every process of the container gets SIGKILL.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Stop { signal: None, timeout: Duration::from_secs(10) }
    }
}

/// Signals between the supervisor and the payload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Signals {
    /// What the supervisor receives and passes on to the payload.
    pub forward: Vec<Signal>,
    /// What `berth reload` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
}

/// How a payload is told to read its configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Reload {
    /// A signal to the payload.
    Signal(Signal),
    /// A command run inside the container.
    Exec {
        /// The program and its arguments.
        exec: Vec<String>,
    },
}

/// Limits of a container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Resources {
    /// The most memory it may use; beyond it the kernel ends a process of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// The most swap it may use beside `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Size>,
    /// Memory that the kernel leaves to it under pressure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<Size>,
    /// How many processors' time it may use, such as `1.5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Its share of processor time when there is not enough, 1 to 10000; 100 is usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// The processors that it may run on, such as `0-3,8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<String>,
    /// The memory nodes that it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// How many processes and threads it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Its share of input/output when there is not enough, 1 to 10000; 100 is usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u32>,
    /// Limits of a block device.
    pub io: Vec<IoLimit>,
}

/// A volume, a path of the host or a tmpfs inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mount {
    /// A volume's name, a path of the host (relative to the manifest), or with
    /// `type = "image"` an image's name; none for a tmpfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Where it is inside the container.
    pub target: PathBuf,
    /// What of a volume or image is mounted: a path in it, which must be there; all of it
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subpath: Option<PathBuf>,
    /// `volume`, `bind`, `tmpfs` or `image`; told from `source` otherwise.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<MountKind>,
    /// Nothing can be written to it.
    #[serde(default)]
    pub read_only: bool,
    /// The size of a tmpfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The mode of a tmpfs, such as `"1777"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// What a volume is made with, where it is not there yet, as with mount(8): `type`,
    /// `device`, `o`. Of a tmpfs: `uid`, `gid`, `nr_inodes`, `exec`, `suid`, `dev`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// A volume that is empty stays so, whatever the image has at its place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_copy: bool,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A directory that Berth keeps, by name.
    Volume,
    /// A path of the host.
    Bind,
    /// Memory.
    Tmpfs,
    /// The files of an image, which can't be written to.
    Image,
}

/// Whether a path can be one within a volume.
pub fn is_within(path: &Path) -> bool {
    use std::path::Component::{CurDir, Normal};
    !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Normal(_) | CurDir))
}

impl Mount {
    /// The kind that is meant: a source with a `/` or a leading `.` is a path.
    pub fn kind(&self) -> MountKind {
        match (self.kind, &self.source) {
            (Some(kind), _) => kind,
            (None, None) => MountKind::Tmpfs,
            (None, Some(source)) if source.contains('/') || source.starts_with('.') => {
                MountKind::Bind
            }
            (None, Some(_)) => MountKind::Volume,
        }
    }
}

/// How a container's output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Log {
    /// A file larger than this is rotated at the end of a line.
    pub max_size: Size,
    /// How many rotated files are kept.
    pub max_files: u32,
    /// A file older than this is rotated, however small.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub max_age: Option<Duration>,
    /// Compresses rotated files with zstd.
    pub compress: bool,
    /// Bytes a second beyond which output is dropped, and the drop noted; without
    /// it a container that writes too fast is slowed down instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Size>,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            max_size: Size(10 << 20),
            max_files: 5,
            max_age: None,
            compress: true,
            rate_limit: None,
        }
    }
}

/// How to tell whether a container is well: one of `exec`, `http` and `tcp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Health {
    /// No check, whatever the image says.
    #[serde(skip_serializing_if = "is_default")]
    pub none: bool,
    /// A command inside the container; exit status 0 is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// An address such as `http://:80/healthz`; a status from 200 to 399 is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// An address such as `:5432` that accepts a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// The time between two probes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// The time between two probes until it is well for the first time; at most a second
    /// otherwise.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub start_interval: Option<Duration>,
    /// How long a probe may take.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// How many failures in a row make it unhealthy.
    pub retries: u32,
    /// After a start, failures within this time don't count.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub start_period: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            none: false,
            exec: None,
            http: None,
            tcp: None,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
            start_interval: None,
        }
    }
}

/// What a container may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Security {
    /// `auto`: a range of ids of its own. `host`: the host's ids.
    pub userns: Userns,
    /// Capabilities beside Docker's default set, such as `NET_ADMIN`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to take away, or `ALL`.
    pub cap_drop: Vec<String>,
    /// `no_new_privs` (prctl(2)): set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// `default`, `unconfined`, the path of a profile in Docker's format, or its JSON.
    pub seccomp: String,
    /// The root filesystem can't be written to.
    pub read_only: bool,
    /// Nothing of `/proc` and `/sys` is hidden or read-only: the whole machine's settings
    /// with `userns = "host"`.
    #[serde(skip_serializing_if = "is_default")]
    pub unmask: bool,
}

impl Default for Security {
    fn default() -> Self {
        Security {
            userns: Userns::Auto,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            no_new_privileges: true,
            seccomp: "default".to_owned(),
            read_only: false,
            unmask: false,
        }
    }
}
