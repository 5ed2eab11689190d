//! What the child is to do, as data. Written by the engine, in the order in which
//! [`super::child`] reads it; the two change together, with [`MAGIC`].

use super::tape::Writer;

/// Begins every tape; its last byte is the version of the layout. A keeper that
/// finds another one refuses the launch.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BERTHPL\x03");

/// The most listening sockets that a payload can be given: as many as SCM_RIGHTS could
/// bring beside everything else.
pub const SOCKETS_MAX: usize = 64;
/// The most FIFOs that container init keeps.
pub const OUTPUT_MAX: usize = 3;

/// An index into the descriptors that came with the launch.
pub type FdIndex = usize;

/// Bits of the plan's flag word.
pub mod flags {
    /// Namespaces are entered or made: the launch takes two clones.
    pub const TWO_STEP: u64 = 1 << 0;
    /// Berth's container init stays as the payload's parent.
    pub const INIT: u64 = 1 << 1;
    /// Standard input is a terminal and becomes the controlling one.
    pub const TTY: u64 = 1 << 2;
    /// prctl(2) `PR_SET_NO_NEW_PRIVS`.
    pub const NO_NEW_PRIVS: u64 = 1 << 3;
    /// The root is made read-only last.
    pub const READ_ONLY_ROOT: u64 = 1 << 4;
    /// The loopback interface is brought up.
    pub const LOOPBACK: u64 = 1 << 5;
}

/// One launch.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// See [`flags`]; `TWO_STEP` is set by [`Plan::encode`].
    pub flags: u64,
    /// The cgroup2 directory to be born in.
    pub cgroup: Option<FdIndex>,
    /// `cgroup.procs` of v1 hierarchies, open for writing.
    pub cgroup_procs: Vec<FdIndex>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// (resource, soft, hard) of setrlimit(2).
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Namespaces to enter, in this order: a descriptor and its `CLONE_NEW*` bits
    /// (several with a pidfd, setns(2)).
    pub join: Vec<(FdIndex, u64)>,
    /// `CLONE_NEW*` of the namespaces to make.
    pub new_namespaces: u64,
    /// The root's detached mount; without it the root stays as it is.
    pub root: Option<FdIndex>,
    /// What is mounted below the root, in this order.
    pub mounts: Vec<PlanMount>,
    /// (path below the root, what it points to).
    pub symlinks: Vec<(String, String)>,
    /// (file below /proc/sys, value).
    pub sysctls: Vec<(String, String)>,
    /// Paths hidden behind an empty, read-only file or directory.
    pub masked: Vec<String>,
    /// Paths that can't be written to.
    pub read_only: Vec<String>,
    /// sethostname(2).
    pub hostname: Option<String>,
    /// Standard input, output and error.
    pub stdio: [FdIndex; 3],
    /// What container init keeps open until nothing waits in it: the FIFOs of the
    /// payload's output, the last of which whoever reads them has locked.
    pub output: Vec<FdIndex>,
    /// Listening sockets, which the payload gets as descriptors from 3 on
    /// (sd_listen_fds(3)). With any, `envp` begins with `LISTEN_PID=`: the child puts
    /// the payload's own pid in its place.
    pub sockets: Vec<FdIndex>,
    /// What the payload says that it is ready with, and its number there.
    pub ready: Option<(FdIndex, u32)>,
    /// The working directory; made when it is missing.
    pub workdir: String,
    /// umask(2).
    pub umask: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Group id.
    pub gid: u32,
    /// User id.
    pub uid: u32,
    /// Capability sets as bits; `None` keeps what there is.
    pub capabilities: Option<Capabilities>,
    /// A compiled seccomp program: `struct sock_filter` in memory order.
    pub seccomp: Vec<u8>,
    /// Paths to try to execute, in this order (the `PATH` applied).
    pub programs: Vec<String>,
    /// The arguments, the program's name first.
    pub argv: Vec<String>,
    /// `NAME=value`.
    pub envp: Vec<String>,
}

/// Capability sets as bits (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What execve(2) can ever grant.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over execve(2) for files that allow it.
    pub inheritable: u64,
    /// Kept over execve(2) of any file.
    pub ambient: u64,
}

/// A mount below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanMount {
    /// What is mounted.
    pub source: PlanSource,
    /// `MOUNT_ATTR_*` (mount_setattr(2)) of a new filesystem.
    pub attributes: u64,
    /// Where, resolved inside the root.
    pub target: String,
    /// The target is a file, not a directory.
    pub file: bool,
    /// A failure is passed over.
    pub optional: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanSource {
    /// A new filesystem: its type and options (fsconfig(2)).
    Filesystem {
        /// Such as `tmpfs`.
        kind: String,
        /// `key` or `key=value`.
        options: Vec<(String, Option<String>)>,
    },
    /// A file of the host, such as a device.
    HostFile(String),
    /// A detached mount that the engine made.
    Descriptor(FdIndex),
}

impl Plan {
    /// The tape.
    pub fn encode(&self) -> Vec<u8> {
        let two_step = self.new_namespaces != 0 || !self.join.is_empty();
        let optional = |index: Option<FdIndex>| index.map_or(u64::MAX, |i| i as u64);
        let mut w = Writer::default();
        w.word(MAGIC);
        w.word(self.flags | if two_step { flags::TWO_STEP } else { 0 });
        w.word(optional(self.cgroup));

        w.list(&self.cgroup_procs, |w, fd| w.word(*fd as u64));
        w.word(self.oom_score_adj.map_or(i64::MAX, i64::from) as u64);
        w.list(&self.rlimits, |w, (resource, soft, hard)| {
            w.word(u64::from(*resource));
            w.word(*soft);
            w.word(*hard);
        });
        w.list(&self.join, |w, (fd, kind)| {
            w.word(*fd as u64);
            w.word(*kind);
        });
        w.word(self.new_namespaces);

        w.word(optional(self.root));
        w.list(&self.mounts, |w, mount| {
            match &mount.source {
                PlanSource::Filesystem { kind, options } => {
                    w.word(0);
                    w.bytes(kind.as_bytes());
                    w.list(options, |w, (key, value)| {
                        w.bytes(key.as_bytes());
                        w.word(u64::from(value.is_some()));
                        w.bytes(value.as_deref().unwrap_or_default().as_bytes());
                    });
                }
                PlanSource::HostFile(path) => {
                    w.word(1);
                    w.bytes(path.as_bytes());
                }
                PlanSource::Descriptor(fd) => {
                    w.word(2);
                    w.word(*fd as u64);
                }
            }
            w.word(mount.attributes);
            w.word(u64::from(mount.file) | u64::from(mount.optional) << 1);
            w.bytes(mount.target.as_bytes());
        });
        w.list(&self.symlinks, |w, (path, target)| {
            w.bytes(path.as_bytes());
            w.bytes(target.as_bytes());
        });
        w.list(&self.sysctls, |w, (path, value)| {
            w.bytes(path.as_bytes());
            w.bytes(value.as_bytes());
        });
        w.list(&self.masked, |w, path| w.bytes(path.as_bytes()));
        w.list(&self.read_only, |w, path| w.bytes(path.as_bytes()));
        w.bytes(self.hostname.as_deref().unwrap_or_default().as_bytes());
        w.bytes(self.workdir.as_bytes());

        w.list(&self.output, |w, fd| w.word(*fd as u64));
        for fd in self.stdio {
            w.word(fd as u64);
        }
        w.list(&self.sockets, |w, fd| w.word(*fd as u64));
        w.word(optional(self.ready.map(|(index, _)| index)));
        w.word(self.ready.map_or(0, |(_, number)| u64::from(number)));
        w.word(u64::from(self.umask));
        w.list(&self.groups, |w, group| w.word(u64::from(*group)));
        w.word(u64::from(self.gid));
        w.word(u64::from(self.uid));
        w.word(u64::from(self.capabilities.is_some()));
        let sets = self.capabilities.unwrap_or_default();
        for set in [sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient] {
            w.word(set);
        }
        w.bytes(&self.seccomp);
        let bytes = |strings: &[String]| -> Vec<Vec<u8>> {
            strings.iter().map(|s| s.clone().into_bytes()).collect()
        };
        w.pointers(&bytes(&self.argv));
        w.pointers(&bytes(&self.envp));
        w.list(&self.programs, |w, path| w.bytes(path.as_bytes()));
        w.finish()
    }
}
