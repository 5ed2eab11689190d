//! Limits, statistics, freezing and killing of a container's processes, on cgroup
//! v1, hybrid and v2 (cgroups(7)).
//!
//! Values of controllers are read and written through `cgroups-rs`; beside it are
//! the things that it lacks: descriptors to be born in a group, `cgroup.kill`,
//! `cgroup.events`. Where there is a cgroup2 tree, even one without controllers
//! (hybrid), processes are followed, frozen and killed through it.
//!
//! Whoever is in a group's `create` has its mirror in `remove`, and `list` finds
//! what a crash left. Called by the engine, from threads that may block. Knows
//! nothing of namespaces, keepers or HTTP.

mod devices;
mod hierarchy;
mod life;
mod limits;
mod stats;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::manifest::model::Resources;
pub use hierarchy::{Hierarchy, Parent};
pub use stats::{IoStats, Stats};

/// The v1 controllers that every container is in: what its statistics need. Joining
/// one can cost milliseconds at each launch (the kernel waits for an RCU grace
/// period), so the others are joined by those that have a limit of theirs.
const ALWAYS: [&str; 2] = ["memory", "cpuacct"];

/// Something that could not be done to a cgroup.
#[derive(Debug)]
pub struct Error {
    doing: String,
    source: io::Error,
    hint: &'static str,
}

impl Error {
    fn new(doing: impl Into<String>, source: io::Error) -> Self {
        Error { doing: doing.into(), source, hint: "" }
    }

    fn hint(self, hint: &'static str) -> Self {
        Error { hint, ..self }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

type Result<T> = std::result::Result<T, Error>;

/// How a new process gets into a group.
#[derive(Debug)]
pub struct Join {
    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub v2: Option<OwnedFd>,
    /// `tasks` of v1 groups, open for writing: "0" is the writer, which must have one
    /// thread. Through `cgroup.procs` the kernel would first wait until no process of
    /// the machine is between fork and exit, for some milliseconds a group.
    pub v1: Vec<OwnedFd>,
}

/// The group of one container, in all hierarchies that it is in.
#[derive(Debug)]
pub struct Cgroup {
    /// Its folder in the cgroup2 tree.
    v2: Option<PathBuf>,
    /// Whether cgroup2 also has the controllers.
    unified: bool,
    /// Its folder by v1 controller; co-mounted controllers have the same one.
    v1: Vec<(String, PathBuf)>,
    /// What was applied last, so that a launch without a change writes nothing.
    applied: Mutex<Option<Resources>>,
    /// It was ended by `cgroup.kill`; see [`Cgroup::renew`].
    was_killed: AtomicBool,
    /// Who holds it still; see [`Cgroup::hold_still`].
    still: Mutex<life::Still>,
}

impl Cgroup {
    fn at(parent: &Parent, name: &str) -> Self {
        Cgroup {
            v2: parent.v2.as_ref().map(|dir| dir.join(name)),
            unified: parent.is_unified(),
            v1: parent
                .v1
                .iter()
                .map(|(controller, dir)| (controller.clone(), dir.join(name)))
                .collect(),
            applied: Mutex::new(None),
            was_killed: AtomicBool::new(false),
            still: Mutex::default(),
        }
    }

    /// The group `name` below `parent`, for a launch: made where it is not there
    /// yet, made anew where an earlier engine left it.
    ///
    /// # Errors
    /// The kernel refuses a folder: no rights, or the depth or number is limited.
    pub fn create(parent: &Parent, name: &str) -> Result<Self> {
        let group = Cgroup::at(parent, name);
        if group.v2.as_ref().is_some_and(|dir| dir.is_dir()) {
            group.was_killed.store(true, Ordering::Relaxed);
            group.renew()?;
        }
        for dir in group.v2.iter().chain(group.always()) {
            make(dir)?;
        }
        Ok(group)
    }

    /// Makes its cgroup2 folder anew if it was ever killed: Linux 6.18 ends at once
    /// what is born by `CLONE_INTO_CGROUP` in a group that `cgroup.kill` was used on
    /// (it compares the kill count of the group with that of the cloner's).
    ///
    /// # Errors
    /// A process is in it.
    pub fn renew(&self) -> Result<()> {
        let Some(dir) = &self.v2 else { return Ok(()) };
        if self.was_killed.swap(false, Ordering::Relaxed) {
            life::remove_tree(dir)
                .map_err(|error| Error::new(format!("removing {}", dir.display()), error))?;
            make(dir)?;
            if self.unified {
                *self.applied.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
            }
        }
        Ok(())
    }

    /// The group, if any hierarchy has it.
    pub fn open_existing(parent: &Parent, name: &str) -> Result<Option<Self>> {
        let group = Cgroup::at(parent, name);
        let exists = group.dirs().any(|dir| dir.is_dir());
        Ok(exists.then_some(group))
    }

    /// The names of all groups below `parent`, in any hierarchy.
    pub fn list(parent: &Parent) -> Result<Vec<String>> {
        let mut names = std::collections::BTreeSet::new();
        for dir in parent.v2.iter().chain(parent.v1.iter().map(|(_, dir)| dir)) {
            let entries = match fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::new(format!("reading {}", dir.display()), error)),
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.insert(name);
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Every folder, each once.
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        let mut v1: Vec<&PathBuf> = self.v1.iter().map(|(_, dir)| dir).collect();
        v1.dedup();
        self.v2.iter().chain(v1)
    }

    /// The v1 folders that every container is in, each once.
    fn always(&self) -> impl Iterator<Item = &PathBuf> {
        let mut dirs: Vec<&PathBuf> = self
            .v1
            .iter()
            .filter(|(controller, _)| ALWAYS.contains(&controller.as_str()))
            .map(|(_, dir)| dir)
            .collect();
        dirs.dedup();
        dirs.into_iter()
    }

    /// The folder of a controller: of its v1 hierarchy, or of the unified one.
    fn dir_of(&self, controller: &str) -> Option<&PathBuf> {
        if self.unified {
            return self.v2.as_ref();
        }
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, dir)| dir)
    }

    /// The way in for a new process.
    ///
    /// # Errors
    /// The group is gone, or there are no descriptors left.
    pub fn join(&self) -> Result<Join> {
        let v2 = match &self.v2 {
            Some(dir) => Some(open(dir, false)?),
            None => None,
        };
        let mut v1 = Vec::new();
        let mut seen = Vec::new();
        for (_, dir) in &self.v1 {
            // A folder exists for each hierarchy that the container needs.
            if !seen.contains(&dir) && dir.is_dir() {
                seen.push(dir);
                v1.push(open(&dir.join("tasks"), true)?);
            }
        }
        Ok(Join { v2, v1 })
    }

    /// Whether it is a group of this v1 controller.
    pub(super) fn has_v1(&self, controller: &str) -> bool {
        self.v1.iter().any(|(name, dir)| name == controller && dir.is_dir())
    }

    /// The processes in it, as the host numbers them.
    pub fn procs(&self) -> Vec<i32> {
        let Some(dir) = self.dirs().find(|dir| dir.is_dir()) else {
            return Vec::new();
        };
        let mut pids = Vec::new();
        collect_procs(dir, &mut pids);
        pids
    }

    /// Makes the v1 group of a controller that the container was not in, and takes
    /// its processes along.
    fn enter(&self, controller: &str) -> Result<Option<&PathBuf>> {
        let Some(dir) = self.dir_of(controller) else {
            return Ok(None);
        };
        if self.unified || dir.is_dir() {
            return Ok(Some(dir));
        }
        make(dir)?;
        for pid in self.procs() {
            // One that has ended meanwhile needs no moving.
            let _ = fs::write(dir.join("cgroup.procs"), pid.to_string());
        }
        Ok(Some(dir))
    }
}

fn collect_procs(dir: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_procs(&entry.path(), pids);
        }
    }
}

fn open(path: &Path, writing: bool) -> Result<OwnedFd> {
    fs::File::options()
        .read(!writing)
        .write(writing)
        .open(path)
        .map(OwnedFd::from)
        .map_err(|error| Error::new(format!("opening {}", path.display()), error))
}

/// Makes a group's folder. A v1 cpuset takes no process before it has processors
/// and memory nodes: those of its parent (cpusets(7)).
fn make(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            return Err(Error::new(format!("making the cgroup {}", dir.display()), error)
                .hint("see that Berth runs as root and the cgroup tree is writable"));
        }
    }
    if let (Some(parent), true) = (dir.parent(), dir.join("cpuset.mems").is_file()) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if dir.join("cgroup.controllers").exists() {
                continue;
            }
            let value = fs::read_to_string(parent.join(file)).unwrap_or_default();
            fs::write(dir.join(file), value.trim())
                .map_err(|error| Error::new(format!("setting {file}"), error))?;
        }
    }
    Ok(())
}
