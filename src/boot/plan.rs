//! What a boot does, as data: from the configuration, the kernel's command line and
//! what the machine is like to a list of steps. Pure; `berth boot` prints it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::cmdline::{Check, CommandLine};
use super::config::Config;
use super::fstab::Entry;
use crate::manifest::variants::Rlimit;

/// What the machine is like when its init begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The root is the kernel's initramfs, which can't stay: pivot_root(2) is refused
    /// on it, so no container could have a root of its own.
    pub initramfs: bool,
    /// The root can be written to already: nobody checks it then (fsck(8)).
    pub writable: bool,
    /// What /etc/fstab lists.
    pub fstab: Vec<Entry>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A shell on the console, before anything goes on.
    Shell(&'static str),
    /// sethostname(2): this name, or that of /etc/hostname.
    Hostname(Option<String>),
    /// The loopback interface is set up.
    Loopback,
    /// Modules of /etc/modules-load.d and these.
    Modules(Vec<String>),
    /// Modules of the devices that are there.
    Coldplug,
    /// Resource limits of everything that runs.
    Rlimits(BTreeMap<String, Rlimit>),
    /// Kernel parameters of /etc/sysctl.d and these.
    Sysctls(BTreeMap<String, String>),
    /// Hierarchies of cgroup v1.
    CgroupV1(Vec<String>),
    /// A file system is checked.
    Check {
        /// As in /etc/fstab.
        source: String,
        /// `auto` where it is to be looked for.
        kind: String,
        /// Even if it is clean.
        force: bool,
        /// How long its device is waited for.
        wait: Duration,
        /// It may be missing.
        optional: bool,
    },
    /// The root, with the options of /etc/fstab.
    RemountRoot(Vec<String>),
    /// A line of /etc/fstab.
    Mount(Entry),
    /// Swap of /etc/fstab.
    Swap(Entry),
    /// Random bytes of the last boot for the kernel.
    Seed,
    /// The system's clock from the hardware's.
    Clock,
    /// /etc/machine-id, where there is none.
    MachineId,
    /// What /etc/tmpfiles.d and its like say of /run.
    Tmpfiles,
    /// From an initramfs to a disk.
    MountRoot {
        /// As on the command line.
        source: String,
        /// Looked for on the device where it is not known.
        kind: Option<String>,
        /// Mount options.
        options: String,
        /// How long the device is waited for.
        wait: Duration,
    },
    /// From an initramfs to a copy of it in memory.
    CopyRoot,
}

/// A step, and whether going on makes sense when it fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What is done.
    pub step: Step,
    /// A failure gives a shell on the console first.
    pub essential: bool,
}

/// How long the root's device is waited for.
const WAIT: Duration = Duration::from_secs(30);

/// The steps, in their order.
pub fn plan(config: &Config, line: &CommandLine, facts: &Facts) -> Vec<Planned> {
    let mut plan = Vec::new();
    let mut add = |essential: bool, step: Step| plan.push(Planned { step, essential });
    if line.emergency {
        add(false, Step::Shell("emergency"));
    }
    if facts.initramfs {
        add(false, Step::Modules(config.modules.clone()));
        if config.coldplug {
            add(false, Step::Coldplug);
        }
        move_root(config, line, &mut add);
        return plan;
    }
    add(false, Step::Hostname(config.hostname.clone()));
    add(false, Step::Loopback);
    add(false, Step::Modules(config.modules.clone()));
    if config.coldplug {
        add(false, Step::Coldplug);
    }
    if !config.rlimits.is_empty() {
        add(false, Step::Rlimits(config.rlimits.clone()));
    }
    // After the modules: they bring parameters of their own.
    add(false, Step::Sysctls(config.sysctls.clone()));
    if !config.cgroup_v1.is_empty() {
        add(false, Step::CgroupV1(config.cgroup_v1.clone()));
    }
    let fstab = if config.fstab { &facts.fstab[..] } else { &[] };
    file_systems(line, fstab, facts.writable, &mut add);
    // What is kept over boots is below /var, which may be a file system of its own.
    add(false, Step::Clock);
    add(false, Step::Seed);
    add(false, Step::MachineId);
    add(false, Step::Tmpfiles);
    if line.single {
        add(false, Step::Shell("single user"));
    }
    plan
}

fn move_root(config: &Config, line: &CommandLine, add: &mut impl FnMut(bool, Step)) {
    let source = line.root.clone().or_else(|| config.root.device.clone());
    match source.filter(|source| source != "tmpfs") {
        None => add(true, Step::CopyRoot),
        Some(source) => {
            let kind = line.root_type.clone().or_else(|| config.root.kind.clone());
            if line.check != Check::Skip {
                add(
                    true,
                    Step::Check {
                        source: source.clone(),
                        kind: kind.clone().unwrap_or_else(|| "auto".to_owned()),
                        force: line.check == Check::Force,
                        wait: config.root.wait.unwrap_or(WAIT),
                        optional: false,
                    },
                );
            }
            let mut options: Vec<String> =
                line.root_options.iter().chain(&config.root.options).cloned().collect();
            // As the kernel does it: read-only unless told otherwise; init on the root
            // makes it writable when it has been checked.
            options.push(if line.writable == Some(true) { "rw" } else { "ro" }.to_owned());
            add(
                true,
                Step::MountRoot {
                    source,
                    kind,
                    options: options.join(","),
                    wait: config.root.wait.unwrap_or(WAIT),
                },
            );
        }
    }
}

fn file_systems(
    line: &CommandLine,
    fstab: &[Entry],
    writable: bool,
    add: &mut impl FnMut(bool, Step),
) {
    let check = |entry: &Entry| Step::Check {
        source: entry.source.clone(),
        kind: entry.kind.clone(),
        force: line.check == Check::Force,
        wait: entry.patience(),
        optional: entry.has("nofail"),
    };
    let is_checked = |entry: &Entry| entry.pass > 0 && line.check != Check::Skip;
    let root = fstab.iter().find(|entry| entry.target.as_os_str() == "/");
    if let Some(root) = root.filter(|root| is_checked(root) && !writable) {
        add(true, check(root));
    }
    let mut options = root.map(|root| root.options.clone()).unwrap_or_default();
    if options.iter().all(|option| option != "ro") {
        options.push("rw".to_owned());
        // A root that says `ro` in its own line means it.
    }
    add(true, Step::RemountRoot(options));
    let others = fstab.iter().filter(|entry| entry.target.as_os_str() != "/" && entry.is_local());
    for entry in others {
        if entry.is_swap() {
            add(false, Step::Swap(entry.clone()));
            continue;
        }
        if is_checked(entry) {
            add(!entry.has("nofail"), check(entry));
        }
        add(false, Step::Mount(entry.clone()));
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Shell(why) => write!(f, "{why}: a shell on the console"),
            Step::Hostname(Some(name)) => write!(f, "host name {name}"),
            Step::Hostname(None) => f.write_str("host name of /etc/hostname"),
            Step::Loopback => f.write_str("loopback interface"),
            Step::Modules(names) if names.is_empty() => f.write_str("modules of modules-load.d"),
            Step::Modules(names) => write!(f, "modules of modules-load.d, {}", names.join(", ")),
            Step::Coldplug => f.write_str("modules of the devices"),
            Step::Rlimits(_) => f.write_str("resource limits"),
            Step::Sysctls(_) => f.write_str("kernel parameters"),
            Step::CgroupV1(names) => write!(f, "cgroup v1: {}", names.join(", ")),
            Step::Check { source, .. } => write!(f, "checking {source}"),
            Step::RemountRoot(options) => write!(f, "remounting / ({})", options.join(",")),
            Step::Mount(entry) => write!(f, "mounting {}", entry.target.display()),
            Step::Swap(entry) => write!(f, "swap on {}", entry.source),
            Step::Seed => f.write_str("random seed"),
            Step::Clock => f.write_str("clock"),
            Step::MachineId => f.write_str("machine id"),
            Step::Tmpfiles => f.write_str("files of /run"),
            Step::MountRoot { source, .. } => write!(f, "the root file system on {source}"),
            Step::CopyRoot => f.write_str("the root file system in memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str, line: &str, initramfs: bool, fstab: &str) -> Vec<String> {
        let line = CommandLine::parse(line);
        let (config, problems) = Config::read(text, &line);
        assert_eq!(problems, Vec::<String>::new());
        let fstab = super::super::fstab::parse(fstab).0;
        let writable = line.writable == Some(true);
        let facts = Facts { initramfs, writable, fstab };
        let star = |essential: bool| if essential { "*" } else { "" };
        plan(&config, &line, &facts)
            .iter()
            .map(|planned| format!("{}{}", planned.step, star(planned.essential)))
            .collect()
    }

    #[test]
    fn an_initramfs_moves_on() {
        let modules = "modules of modules-load.d";
        let devices = "modules of the devices";
        assert_eq!(
            steps("", "quiet", true, ""),
            [modules, devices, "the root file system in memory*"]
        );
        assert_eq!(
            steps("", "root=/dev/vda rootfstype=ext4", true, ""),
            [modules, devices, "checking /dev/vda*", "the root file system on /dev/vda*"]
        );
        assert_eq!(
            steps("coldplug = false", "root=LABEL=x fsck.mode=skip emergency", true, ""),
            ["emergency: a shell on the console", modules, "the root file system on LABEL=x*"]
        );
    }

    #[test]
    fn a_root_is_made_ready_in_order() {
        let fstab = "/dev/vda / ext4 noatime 0 1\n/dev/vdb /var ext4 defaults 0 2\n\
            /dev/vdc none swap sw 0 0\nnas:/ /n nfs defaults 0 0\n/dev/vdd /x ext4 noauto 0 2\n";
        assert_eq!(
            steps("", "single", false, fstab),
            [
                "host name of /etc/hostname",
                "loopback interface",
                "modules of modules-load.d",
                "modules of the devices",
                "kernel parameters",
                "checking /dev/vda*",
                "remounting / (noatime,rw)*",
                "checking /dev/vdb*",
                "mounting /var",
                "swap on /dev/vdc",
                "clock",
                "random seed",
                "machine id",
                "files of /run",
                "single user: a shell on the console",
            ]
        );
    }

    #[test]
    fn a_root_that_is_written_to_is_not_checked() {
        let all =
            steps("", "rw", false, "/dev/vda / ext4 noatime 0 1\n/dev/vdb /var ext4 ro 0 2\n");
        assert!(!all.contains(&"checking /dev/vda*".to_owned()), "{all:?}");
        assert!(all.contains(&"checking /dev/vdb*".to_owned()), "{all:?}");
    }

    #[test]
    fn without_any_file_a_minimal_root_boots() {
        let all = steps("", "", false, "");
        assert!(all.contains(&"remounting / (rw)*".to_owned()), "{all:?}");
        assert!(!all.iter().any(|step| step.starts_with("checking")));
    }
}
