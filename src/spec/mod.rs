//! A manifest (and an image's defaults) to an OCI runtime Spec, and the parts of
//! a Spec to what the kernel takes: seccomp programs, users, capabilities.
//!
//! Everything here is a pure function on data that the caller has read: no file,
//! clock or system call. What comes out of a container's root (`/etc/passwd`),
//! an env-file or a profile is hostile and can at worst be an [`Error`].
//! Called by the engine before a launch; the Spec goes on to `sandbox`. It must
//! never know where state is kept, or that a keeper or an HTTP client exists.
//!
//! What the runtime supplies by convention and a Spec can't say: the symbolic
//! links [`devices::SYMLINKS`] below `/dev`, and the console.

mod build;
#[cfg(test)]
mod build_tests;
pub mod capabilities;
pub mod compile;
pub mod devices;
pub mod env_file;
mod mounts;
pub mod paths;
mod process;
pub mod seccomp;
pub mod users;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use build::{Filter, build, build_without_filter, hostname_of};

use devices::HostDevice;
use users::ResolvedUser;

/// What a manifest does not say itself and the engine has found out.
#[derive(Debug, Clone)]
pub struct Context {
    /// The container's name; its host name unless the manifest has one.
    pub name: String,
    /// Where the root filesystem is mounted; `root.path` of the Spec.
    pub root: PathBuf,
    /// The range of ids of its user namespace; `None` is the host's.
    pub ids: Option<IdRange>,
    /// The manifest's user as the container's own files know it.
    pub user: ResolvedUser,
    /// What the env-files say, in order; `env` of the manifest overrides it.
    pub env: Vec<(String, String)>,
    /// The host's path of each `source` of the manifest's mounts that is a volume
    /// or a relative path. An absolute source needs no entry.
    pub sources: BTreeMap<String, PathBuf>,
    /// The host's devices that `devices` names, by their path on the host.
    pub devices: BTreeMap<PathBuf, HostDevice>,
    /// Where its network comes from.
    pub network: Netns,
    /// Which cgroup hierarchy the machine has.
    pub cgroup_version: CgroupVersion,
    /// `linux.cgroupsPath` of the Spec, if the reader of the Spec should place it.
    pub cgroups_path: Option<PathBuf>,
    /// The contents of the file that `security.seccomp` names.
    pub seccomp_profile: Option<Vec<u8>>,
    /// The running kernel's version, for profiles with `minKernel`.
    pub kernel: KernelVersion,
    /// What the image says; empty with a root of the host.
    pub image: ImageDefaults,
    /// Files of the host that tell the container of its network, by their place in it;
    /// a mount of the manifest goes before.
    pub etc: BTreeMap<PathBuf, PathBuf>,
    /// How many open files a process may have (soft and hard `RLIMIT_NOFILE`) when the
    /// manifest does not say; `None` is what the keeper has, who has raised its own.
    pub open_files: Option<(u64, u64)>,
    /// The score for the kernel's choice of whom to end for lack of memory when the
    /// manifest does not say; `None` is Berth's own.
    pub oom_score_adj: Option<i32>,
}

/// A contiguous range of the host's ids; the container's id 0 is `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The host's id that is root in the container.
    pub first: u32,
    /// How many ids there are.
    pub count: u32,
}

/// Where a container's network namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// A new one, or one that the launcher has ready.
    Own,
    /// The host's.
    Host,
    /// That of another container, by the path of its namespace file.
    Shared(PathBuf),
}

/// The layout of `/sys/fs/cgroup` (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy for each controller.
    V1,
    /// As `V1`, and an empty unified hierarchy beside them.
    Hybrid,
    /// The unified hierarchy alone.
    V2,
}

/// A kernel's version, major and minor; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub u32, pub u32);

/// An image's configuration, as far as a Spec needs it (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub command: Vec<String>,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub workdir: Option<PathBuf>,
}

/// Why no Spec can be built: the manifest's key and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The key of the manifest, such as `mount` or `security.cap-add`.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl Error {
    pub(crate) fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Error { key, reason: reason.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)
    }
}

impl std::error::Error for Error {}
