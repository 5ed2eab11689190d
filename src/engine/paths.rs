//! Where things are: the folders of one Berth, below `/` or below `--root`.

use std::path::{Path, PathBuf};

/// The folders of one Berth (the table "Where things are" in ARCHITECTURE.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Below `root`; `/` is the machine's own Berth.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Paths { root: root.into() }
    }

    /// The folder that all others are below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn below(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The manifest directories, the first wins: the administrator's, what was
    /// made at run time, what packages ship.
    pub fn manifest_dirs(&self) -> Vec<PathBuf> {
        ["etc/containers.d", "run/containers.d", "usr/lib/containers.d"]
            .map(|dir| self.below(dir))
            .to_vec()
    }

    /// Where manifests are read from: the directories that a person named, or else the
    /// usual ones; and what clients made, always.
    pub fn sources(&self, named: Vec<PathBuf>) -> Vec<PathBuf> {
        let mut dirs = if named.is_empty() { self.manifest_dirs() } else { named };
        dirs.push(self.created_dir());
        dirs
    }

    /// How registries are reached.
    pub fn registries(&self) -> PathBuf {
        self.below("etc/berth/registries.toml")
    }

    /// Configuration lists of CNI plugins.
    pub fn cni_dir(&self) -> PathBuf {
        self.below("etc/cni/net.d")
    }

    /// Manifests that `run` and API clients created.
    pub fn created_dir(&self) -> PathBuf {
        self.below("var/lib/berth/containers.d")
    }

    /// What outlives a boot.
    pub fn state_dir(&self) -> PathBuf {
        self.below("var/lib/berth")
    }

    /// One file a container: its record.
    pub fn records_dir(&self) -> PathBuf {
        self.below("var/lib/berth/records")
    }

    /// What a reboot clears: FIFOs, status files, sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.below("run/berth")
    }

    /// What a Berth in the background says.
    pub fn up_log(&self) -> PathBuf {
        self.run_dir().join("up.log")
    }

    /// A container's FIFOs and status files.
    pub fn container_run_dir(&self, name: &str) -> PathBuf {
        self.run_dir().join("containers").join(name)
    }

    /// A container's own `/etc/hosts` and its like: it can write to them, so they lie
    /// where what it writes lies, not in memory beside what a start needs.
    pub fn etc_dir(&self, name: &str) -> PathBuf {
        self.state_dir().join("etc").join(name)
    }

    /// Commands inside containers, one file each.
    pub fn execs_dir(&self) -> PathBuf {
        self.run_dir().join("execs")
    }

    /// The API's socket for looking only.
    pub fn read_only_socket(&self) -> PathBuf {
        self.run_dir().join("ro.sock")
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("berth.sock")
    }

    /// Locked by the keeper that runs, with its pid inside.
    pub fn lock(&self) -> PathBuf {
        self.run_dir().join("berth.pid")
    }

    /// The folder of all logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.below("var/log/berth")
    }

    /// A container's logs.
    pub fn log_dir(&self, name: &str) -> PathBuf {
        self.logs_dir().join(name)
    }

    /// The name of this Berth's cgroup: `berth`, or `berth-` and a hash of the
    /// root for one that is not the machine's own.
    pub fn cgroup_name(&self) -> String {
        if self.root == Path::new("/") {
            return "berth".to_owned();
        }
        // FNV-1a: short, stable over versions; it need not resist anybody.
        let hash = self
            .root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
        format!("berth-{:08x}", hash as u32 ^ (hash >> 32) as u32)
    }
}

/// What was being done to a path, and what the system said.
pub(super) fn doing<'a>(
    what: &'a str,
    path: &'a Path,
) -> impl Fn(std::io::Error) -> String + use<'a> {
    move |error| format!("{what} {}: {error}", path.display())
}
