//! The flags of `run` and `create`: Docker's names and meanings.

use std::path::PathBuf;

use clap::Args;

/// What `update` changes of a container, too.
#[derive(Debug, Clone, Args, Default)]
pub struct Limits {
    /// When it is started again: no, on-failure[:N], always, unless-stopped.
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// The most memory: 64m, 1g.
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 without a limit.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory_swap: Option<String>,
    /// How many processors' time: 1.5.
    #[arg(long)]
    pub cpus: Option<f64>,
    /// Its share of processor time; 1024 is usual.
    #[arg(short, long, value_name = "SHARES")]
    pub cpu_shares: Option<i64>,
    /// The processors that it may run on: 0-3,8.
    #[arg(long, value_name = "SET")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that it may use.
    #[arg(long, value_name = "SET")]
    pub cpuset_mems: Option<String>,
    /// Microseconds by which `--cpu-quota` counts.
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<i64>,
    /// Microseconds of processor time in each period; -1 without a limit.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Memory that the kernel leaves to it under pressure.
    #[arg(long, value_name = "SIZE")]
    pub memory_reservation: Option<String>,
    /// Its share of input and output, 10 to 1000.
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// How many processes and threads it may have; -1 without a limit.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
}

/// How a container is made. Options end at the image.
#[derive(Debug, Clone, Args, Default)]
pub struct Create {
    /// Its name; one is made up otherwise.
    #[arg(long)]
    pub name: Option<String>,
    /// Keep its standard input open.
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// Remove it when it has ended.
    #[arg(long)]
    pub rm: bool,
    /// An environment variable, NAME=VALUE or a NAME of ours.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// A file with environment variables.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// A volume or a path of the host: SOURCE:TARGET[:ro].
    #[arg(short, long, value_name = "SOURCE:TARGET")]
    pub volume: Vec<String>,
    /// A mount: type=bind,source=/a,target=/b,readonly.
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub mount: Vec<String>,
    /// The volumes of another container.
    #[arg(long, value_name = "NAME")]
    pub volumes_from: Vec<String>,
    /// Memory as a file system: TARGET[:size=64m].
    #[arg(long, value_name = "TARGET")]
    pub tmpfs: Vec<String>,
    /// A port of the host that leads into it: [IP:]HOST:CONTAINER[/udp].
    #[arg(short, long, value_name = "HOST:CONTAINER")]
    pub publish: Vec<String>,
    /// The working directory in it.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user in it: name or number, with :group.
    #[arg(short, long)]
    pub user: Option<String>,
    /// A supplementary group.
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
    /// Publish all ports that the image exposes, on free ports of the host.
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// A network's name, or bridge, none, host, container:NAME, ns:/PATH, cni:NAME; also
    /// name=back,alias=db,ip=10.0.0.5,gw-priority=1,driver-opt=KEY=VALUE.
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// A name that it is found by on its network.
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// Its IPv4 address.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Its IPv6 address.
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// Its hardware address.
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// A line of its /etc/hosts, NAME:ADDRESS.
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// A server that is asked for names.
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// A domain that is tried behind a short name.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option of its resolver (resolv.conf(5)).
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Another name for a container: NAME[:ALIAS].
    #[arg(long, value_name = "NAME:ALIAS")]
    pub link: Vec<String>,
    /// A port that it listens on: 80, 8000-8010/udp.
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,
    /// Its host name.
    #[arg(long)]
    pub hostname: Option<String>,
    /// The domain behind its host name.
    #[arg(long)]
    pub domainname: Option<String>,
    /// A label, NAME=VALUE.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// A file with labels.
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// A note for the runtime, NAME=VALUE.
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Write its id into this file, which must not be there.
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// The program instead of the image's entrypoint.
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Run Berth's init as its first process (it does without this, too).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub init: Option<bool>,
    /// Nothing can be written to its root.
    #[arg(long)]
    pub read_only: bool,
    /// With all capabilities and the host's ids.
    #[arg(long)]
    pub privileged: bool,
    /// A capability more.
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// A capability less.
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined, seccomp=/profile.json.
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// The user namespace: host, or one of its own.
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// Whose processes it sees: host, or container:NAME, whose user ids it then has.
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// Its shared memory and message queues: private, shareable, none, host, container:NAME.
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// Its host name: host, or container:NAME.
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// Which control groups it sees: private or host.
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// How readily the kernel ends it when memory runs out, -1000 to 1000.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i64>,
    /// How fast it reads from a device: /dev/sda:1mb.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_read_bps: Vec<String>,
    /// How fast it writes to a device.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_write_bps: Vec<String>,
    /// How often a second it reads from a device.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_read_iops: Vec<String>,
    /// How often a second it writes to a device.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub device_write_iops: Vec<String>,
    /// What makes its volumes: local.
    #[arg(long, value_name = "DRIVER")]
    pub volume_driver: Option<String>,
    /// What keeps its log; Berth does, whatever is said.
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// An option of its log: max-size=10m.
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// A device of the host: /dev/fuse[:/dev/x[:rwm]].
    #[arg(long)]
    pub device: Vec<String>,
    /// A kernel parameter of its own, NAME=VALUE.
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// The signal that asks it to end.
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub stop_timeout: Option<i64>,
    /// A limit of processes: nofile=1024[:2048].
    #[arg(long, value_name = "NAME=SOFT")]
    pub ulimit: Vec<String>,
    /// The size of /dev/shm.
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// A command that tells whether it is well.
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// The time between two looks: 30s.
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<String>,
    /// How long a look may take.
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<String>,
    /// How many failures in a row make it unhealthy.
    #[arg(long, value_name = "COUNT")]
    pub health_retries: Option<i64>,
    /// Failures within this time after a start don't count.
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<String>,
    /// The time between two looks while it starts.
    #[arg(long, value_name = "DURATION")]
    pub health_start_interval: Option<String>,
    /// No health check, whatever the image says.
    #[arg(long)]
    pub no_healthcheck: bool,
    /// When the image is pulled: missing, always, never.
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: String,
    /// Write the manifest /etc/containers.d/NAME.toml instead of making a container.
    #[arg(long, value_name = "NAME")]
    pub save: Option<String>,
    /// The image; `/` is a view of the host's own files.
    pub image: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `run`: make a container, start it, stay at it.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// Print its id and come back at once.
    #[arg(short, long)]
    pub detach: bool,
    /// The keys that detach, instead of ctrl-p,ctrl-q.
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Pass signals on to it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// How it is made.
    #[command(flatten)]
    pub create: Create,
}

/// `exec`: a further command inside a container.
#[derive(Debug, Clone, Args)]
pub struct Exec {
    /// Pass on what is typed.
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// Come back at once.
    #[arg(short, long)]
    pub detach: bool,
    /// An environment variable, NAME=VALUE or a NAME of ours.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The working directory.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user: name or number, with :group.
    #[arg(short, long)]
    pub user: Option<String>,
    /// With all capabilities.
    #[arg(long)]
    pub privileged: bool,
    /// The keys that detach, instead of ctrl-p,ctrl-q.
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Which container.
    pub name: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `attach`: to a container that runs.
#[derive(Debug, Clone, Args)]
pub struct Attach {
    /// Pass nothing on that is typed.
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to it.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// The keys that detach, instead of ctrl-p,ctrl-q.
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Which container.
    pub name: String,
}
