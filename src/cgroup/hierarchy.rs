//! Which cgroup hierarchies the machine has, and where ours begin.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Cgroup, Error, Result, make};
use crate::spec::CgroupVersion;

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    /// Where.
    point: PathBuf,
    /// Its v1 controllers or `name=…`; none for cgroup2.
    controllers: Vec<String>,
}

/// The machine's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    v2: Option<PathBuf>,
    v1: Vec<Mounted>,
    /// Our own group in the cgroup2 tree.
    own: PathBuf,
}

/// v1 controllers that Berth uses.
const CONTROLLERS: [&str; 7] = ["memory", "pids", "cpu", "cpuacct", "cpuset", "blkio", "devices"];
/// Those of cgroup2.
const UNIFIED: [&str; 5] = ["memory", "pids", "cpu", "io", "cpuset"];

impl Hierarchy {
    /// Looks at what is mounted (proc_pid_mountinfo(5)).
    ///
    /// # Errors
    /// /proc can't be read, or no hierarchy is mounted.
    pub fn detect() -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| Error::new(format!("reading {path}"), error))
        };
        let found = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        if found.v2.is_none() && found.v1.is_empty() {
            let none = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::new("looking for a cgroup hierarchy", none)
                .hint("mount cgroup2 at /sys/fs/cgroup"));
        }
        Ok(found)
    }

    /// Which layout it is.
    pub fn version(&self) -> CgroupVersion {
        match (&self.v2, self.v1.iter().any(|mounted| mounted.has_controller())) {
            (_, false) => CgroupVersion::V2,
            (Some(_), true) => CgroupVersion::Hybrid,
            (None, true) => CgroupVersion::V1,
        }
    }

    /// For people: `v2 at /sys/fs/cgroup`.
    pub fn describe(&self) -> String {
        let at = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
        };
        match self.version() {
            CgroupVersion::V2 => format!("v2 at {}", at(&self.v2)),
            CgroupVersion::Hybrid => {
                format!("hybrid: controllers on v1, processes on v2 at {}", at(&self.v2))
            }
            CgroupVersion::V1 => "v1".to_owned(),
        }
    }

    /// The group that all of ours are below, made in every hierarchy. In a systemd unit it
    /// is in the unit's own slice, without one beneath the unit; otherwise at the top.
    pub fn parent(&self, name: &str) -> Result<Parent> {
        let unified = self.version() == CgroupVersion::V2;
        let v2 = match &self.v2 {
            Some(point) if unified => Some(self.unified_parent(point, name)?),
            Some(point) => Some(point.join(name)),
            None => None,
        };
        let mut v1 = Vec::new();
        for mounted in &self.v1 {
            for controller in &mounted.controllers {
                if CONTROLLERS.contains(&controller.as_str())
                    || (self.v2.is_none() && controller == "freezer")
                {
                    v1.push((controller.clone(), mounted.point.join(name)));
                }
            }
        }
        for dir in v2.iter().chain(v1.iter().map(|(_, dir)| dir)) {
            make(dir)?;
        }
        let parent = Parent { v2, v1, version: self.version(), seen: self.v1.clone() };
        if unified && let Some(dir) = &parent.v2 {
            enable(dir);
        }
        Ok(parent)
    }

    /// The slice of our unit, where it has one of its own. Below the unit itself containers
    /// could not outlive us: systemd starts a program in the group of its unit, which it
    /// can't while groups below that have controllers.
    fn own_slice(&self) -> Option<&Path> {
        self.own.ancestors().find(|path| path.file_name().is_some_and(|last| last == SLICE))
    }

    fn unified_parent(&self, point: &Path, name: &str) -> Result<PathBuf> {
        let own = point.join(self.own.strip_prefix("/").unwrap_or(&self.own));
        if let Some(slice) = self.own_slice() {
            let slice = point.join(slice.strip_prefix("/").unwrap_or(slice));
            enable(&slice);
            return Ok(slice.join(name));
        }
        let is_unit = self.own.extension().is_some_and(|kind| kind == "service")
            || self.own.file_name().is_some_and(|last| last == SUPERVISOR);
        if is_unit {
            let unit = match self.own.file_name().is_some_and(|last| last == SUPERVISOR) {
                true => own.parent().unwrap_or(&own).to_owned(),
                false => own,
            };
            // Processes and controllers don't go together in one group (cgroups(7),
            // "no internal processes"): keeper and engine move into a leaf.
            let leaf = unit.join(SUPERVISOR);
            make(&leaf)?;
            let keeper = std::os::unix::process::parent_id();
            for pid in [keeper, std::process::id()] {
                let _ = fs::write(leaf.join("cgroup.procs"), pid.to_string());
            }
            enable(&unit);
            return Ok(unit.join(name));
        }
        enable(point);
        Ok(point.join(name))
    }
}

/// A slice of systemd's that is for Berth's unit alone.
const SLICE: &str = "berth.slice";

/// The leaf for keeper and engine in a delegated unit.
const SUPERVISOR: &str = "supervisor";

/// Lets the groups below have controllers; those that there are.
fn enable(dir: &Path) {
    let there = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in UNIFIED.iter().filter(|name| there.split_whitespace().any(|c| c == **name)) {
        // One that can't be enabled shows when a limit needs it.
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

impl Mounted {
    fn has_controller(&self) -> bool {
        self.controllers.iter().any(|name| CONTROLLERS.contains(&name.as_str()))
    }
}

/// Our own group, in every hierarchy.
#[derive(Debug)]
pub struct Parent {
    pub(super) v2: Option<PathBuf>,
    pub(super) v1: Vec<(String, PathBuf)>,
    version: CgroupVersion,
    seen: Vec<Mounted>,
}

impl Parent {
    /// Of a machine, or a container, that gives us no hierarchy that we may write to:
    /// every group below it is empty and limits nothing.
    pub fn none() -> Self {
        Parent { v2: None, v1: Vec::new(), version: CgroupVersion::V2, seen: Vec::new() }
    }

    /// Whether processes can be followed, limited and ended by their group.
    pub fn has_groups(&self) -> bool {
        self.v2.is_some() || !self.v1.is_empty()
    }

    /// Which layout the machine has.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// Whether the controllers are in the unified hierarchy.
    pub(super) fn is_unified(&self) -> bool {
        self.version == CgroupVersion::V2
    }

    /// What the container of a group sees of v1: folder below /sys/fs/cgroup, mount options.
    /// Those hierarchies in which it has a group of its own; in the others it would see
    /// that of everybody else. Each costs a launch a filesystem, and its end too. But
    /// programs believe in none of the usual four unless all are there (Java's do).
    pub fn v1_mounts(&self, group: &Cgroup) -> Vec<(String, String)> {
        const USUAL: [&str; 4] = ["memory", "cpu", "cpuacct", "cpuset"];
        let has_usual = USUAL.iter().any(|name| group.has_v1(name));
        let is_its = |mounted: &&Mounted| {
            let mut names = mounted.controllers.iter();
            names.any(|name| group.has_v1(name) || has_usual && USUAL.contains(&name.as_str()))
        };
        self.seen
            .iter()
            .filter(is_its)
            .filter_map(|mounted| {
                let folder = mounted.point.file_name()?.to_str()?.to_owned();
                Some((folder, mounted.controllers.join(",")))
            })
            .collect()
    }

    /// Removes it, if nothing is in it any more.
    pub fn remove(&self) {
        for dir in self.v2.iter().chain(self.v1.iter().map(|(_, dir)| dir)) {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Reads /proc/self/mountinfo and /proc/self/cgroup.
fn parse(mountinfo: &str, cgroup: &str) -> Hierarchy {
    let (mut v2, mut v1) = (None, Vec::new());
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4) else {
            continue;
        };
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next(), filesystem.nth(1).unwrap_or_default());
        match kind {
            Some("cgroup2") if v2.is_none() => v2 = Some(PathBuf::from(point)),
            Some("cgroup") => v1.push(Mounted {
                point: PathBuf::from(point),
                controllers: options
                    .split(',')
                    .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                    .map(str::to_owned)
                    .collect(),
            }),
            _ => {}
        }
    }
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Hierarchy { v2, v1, own: PathBuf::from(own) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn layouts_are_told_apart() {
        let hybrid = parse(HYBRID, "3:memory:/x\n0::/\n");
        assert_eq!(hybrid.version(), CgroupVersion::Hybrid);
        assert_eq!(hybrid.v1[0].controllers, ["cpu", "cpuacct"]);
        let lines: Vec<&str> = HYBRID.lines().filter(|line| !line.contains("cgroup2")).collect();
        assert_eq!(parse(&lines.join("\n"), "").version(), CgroupVersion::V1);
        let v2 = parse(
            "25 22 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
            "0::/system.slice/berth.service\n",
        );
        assert_eq!(v2.version(), CgroupVersion::V2);
        assert_eq!(v2.own, Path::new("/system.slice/berth.service"));
        assert_eq!(v2.own_slice(), None);
        let slice = Hierarchy { own: "/berth.slice/berth.service".into(), ..v2.clone() };
        assert_eq!(slice.own_slice(), Some(Path::new("/berth.slice")));
        assert_eq!(v2.describe(), "v2 at /sys/fs/cgroup");
    }
}
