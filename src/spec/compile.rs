//! A Spec to the sandbox's plan: what the child of a launch does, step by step.
//! Pure; the descriptors are named by their index in the launch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxNamespaceType, Mount, PosixRlimitType, Process, Spec,
};

use super::capabilities::CapSet;
use super::{Error, devices};
use crate::sandbox::plan::{Capabilities, FdIndex, Plan, PlanMount, PlanSource, flags};
use crate::sys::mount;
use crate::sys::process::flags as clone;

/// What was prepared for the launch; indices into its descriptors.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The root's detached mount.
    pub root: Option<FdIndex>,
    /// Mounts that belong to the root itself, in order.
    pub submounts: Vec<(PathBuf, bool, FdIndex)>,
    /// Detached mounts of bind mounts by target, and whether it is a file.
    pub binds: BTreeMap<PathBuf, (FdIndex, bool)>,
    /// The host's path of each device whose path in the container differs.
    pub devices: BTreeMap<PathBuf, PathBuf>,
    /// The cgroup2 directory to be born in.
    pub cgroup: Option<FdIndex>,
    /// `cgroup.procs` of v1 hierarchies.
    pub cgroup_procs: Vec<FdIndex>,
    /// The v1 hierarchies that the container sees: folder below /sys/fs/cgroup, and
    /// its mount options.
    pub cgroup_v1: Vec<(String, String)>,
    /// The machine's controllers are on v1.
    pub has_cgroup_v1: bool,
    /// Namespaces that exist already, in the order to enter them, with `CLONE_NEW*`.
    pub join: Vec<(FdIndex, u64)>,
    /// Standard input, output, error.
    pub stdio: [FdIndex; 3],
    /// The FIFOs of its output, which container init keeps.
    pub output: Vec<FdIndex>,
    /// Listening sockets that it is given, and their names (sd_listen_fds_with_names(3)).
    pub sockets: Vec<(FdIndex, String)>,
    /// The detached mount of its terminal, for `/dev/console`.
    pub console: Option<FdIndex>,
    /// What the payload says that it is ready with, and its number there.
    pub ready: Option<(FdIndex, u32)>,
    /// Berth's container init is PID 1.
    pub init: bool,
    /// A compiled seccomp program.
    pub seccomp: Vec<u8>,
}

/// The plan of a Spec.
///
/// # Errors
/// Something in it that no descriptor was prepared for, or that is not of Linux.
pub fn compile(spec: &Spec, parts: &Parts) -> Result<Plan, Error> {
    let process =
        spec.process().as_ref().ok_or_else(|| Error::new("process", "the Spec has no process"))?;
    // Without this section a process has the namespaces that there are; the crate's default
    // would give it new ones.
    let mut none = Linux::default();
    none.set_namespaces(None).set_masked_paths(None).set_readonly_paths(None);
    let linux = spec.linux().as_ref().unwrap_or(&none);
    let mut plan = Plan {
        cgroup: parts.cgroup,
        cgroup_procs: parts.cgroup_procs.clone(),
        join: parts.join.clone(),
        root: parts.root,
        stdio: parts.stdio,
        output: parts.output.clone(),
        ready: parts.ready,
        seccomp: parts.seccomp.clone(),
        ..Plan::default()
    };
    let joined = parts.join.iter().fold(0, |all, (_, kind)| all | kind);
    for namespace in linux.namespaces().iter().flatten() {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Mount => clone::NEWNS,
            LinuxNamespaceType::Cgroup => clone::NEWCGROUP,
            LinuxNamespaceType::Uts => clone::NEWUTS,
            LinuxNamespaceType::Ipc => clone::NEWIPC,
            LinuxNamespaceType::User => clone::NEWUSER,
            LinuxNamespaceType::Pid => clone::NEWPID,
            LinuxNamespaceType::Network => clone::NEWNET,
            _ => {
                return Err(Error::new("namespaces", "a namespace that Berth does not have"));
            }
        };
        if joined & kind == 0 {
            plan.new_namespaces |= kind;
        }
    }
    if plan.new_namespaces & clone::NEWNET != 0 {
        plan.flags |= flags::LOOPBACK;
    }
    if parts.init {
        plan.flags |= flags::INIT;
    }
    if plan.root.is_some() {
        mounts(&mut plan, spec, parts)?;
        plan.masked = linux.masked_paths().clone().unwrap_or_default();
        plan.read_only = linux.readonly_paths().clone().unwrap_or_default();
        if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
            plan.flags |= flags::READ_ONLY_ROOT;
        }
        let mut sysctls: Vec<_> = linux.sysctl().clone().unwrap_or_default().into_iter().collect();
        sysctls.sort();
        plan.sysctls = sysctls
            .into_iter()
            .map(|(key, value)| (format!("/proc/sys/{}", key.replace('.', "/")), value))
            .collect();
    }
    if plan.new_namespaces & clone::NEWUTS != 0 {
        plan.hostname = spec.hostname().clone();
    }
    payload(&mut plan, process)?;
    listen(&mut plan, &parts.sockets);
    Ok(plan)
}

fn mounts(plan: &mut Plan, spec: &Spec, parts: &Parts) -> Result<(), Error> {
    let given = |target: &Path, file: bool, fd: FdIndex| PlanMount {
        source: PlanSource::Descriptor(fd),
        attributes: 0,
        target: text(target),
        file,
        optional: false,
    };
    for (target, file, fd) in &parts.submounts {
        plan.mounts.push(given(target, *file, *fd));
    }
    let devices_below_dev = spec.linux().as_ref().and_then(|linux| linux.devices().clone());
    for mount in spec.mounts().iter().flatten() {
        let target = mount.destination();
        if let Some((fd, file)) = parts.binds.get(target) {
            plan.mounts.push(given(target, *file, *fd));
        } else if mount.typ().as_deref() == Some("cgroup") {
            cgroup_mounts(plan, mount, parts);
        } else if let Some(host) = parts.devices.get(target) {
            plan.mounts.push(device(host, target));
        } else if is_bind(mount) {
            return Err(Error::new(
                "mount",
                format!("nothing was prepared for the bind mount at {}", target.display()),
            ));
        } else {
            plan.mounts.push(filesystem(mount, None));
        }
        if target == Path::new("/dev/pts")
            && let Some(console) = parts.console
        {
            plan.mounts.push(given(Path::new("/dev/console"), true, console));
        }
        if target == Path::new("/dev") {
            for node in devices_below_dev.iter().flatten() {
                let host = parts.devices.get(node.path()).unwrap_or(node.path());
                plan.mounts.push(device(host, node.path()));
            }
        }
    }
    plan.symlinks = devices::SYMLINKS
        .iter()
        .map(|(path, target)| ((*path).to_owned(), (*target).to_owned()))
        .collect();
    Ok(())
}

/// The host's device node at a place in the container.
fn device(host: &Path, target: &Path) -> PlanMount {
    PlanMount {
        source: PlanSource::HostFile(text(host)),
        attributes: 0,
        target: text(target),
        file: true,
        optional: false,
    }
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind")
}

/// A new filesystem; options that are the mount's become attributes, the others
/// are the filesystem's own (mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS").
fn filesystem(mount: &Mount, kind: Option<&str>) -> PlanMount {
    let mut attributes = 0;
    let mut options = Vec::new();
    for option in mount.options().iter().flatten() {
        attributes |= match option.as_str() {
            "ro" => mount::RDONLY,
            "nosuid" => mount::NOSUID,
            "nodev" => mount::NODEV,
            "noexec" => mount::NOEXEC,
            "noatime" => mount::NOATIME,
            "strictatime" => mount::STRICTATIME,
            "rw" | "relatime" | "suid" | "dev" | "exec" | "atime" | "private" | "rprivate" => 0,
            other => {
                options.push(match other.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (other.to_owned(), None),
                });
                0
            }
        };
    }
    PlanMount {
        source: PlanSource::Filesystem {
            kind: kind.or(mount.typ().as_deref()).unwrap_or("none").to_owned(),
            options,
        },
        attributes,
        target: text(mount.destination()),
        file: false,
        optional: false,
    }
}

/// `/sys/fs/cgroup`: the one unified hierarchy, or a folder for each of v1
/// (runtime-spec, config.md "cgroup"), read-only as the Spec says. A machine whose
/// hierarchies can't be seen from inside still runs the container.
fn cgroup_mounts(plan: &mut Plan, mount: &Mount, parts: &Parts) {
    if !parts.has_cgroup_v1 {
        plan.mounts.push(PlanMount { optional: true, ..filesystem(mount, Some("cgroup2")) });
        return;
    }
    let attributes = filesystem(mount, None).attributes;
    let folder = |target: String, kind: &str, options, attributes| PlanMount {
        source: PlanSource::Filesystem { kind: kind.to_owned(), options },
        attributes,
        target,
        file: false,
        optional: true,
    };
    let top = text(mount.destination());
    let mode = vec![("mode".to_owned(), Some("755".to_owned()))];
    plan.mounts.push(folder(top.clone(), "tmpfs", mode, attributes & !mount::RDONLY));
    for (name, options) in &parts.cgroup_v1 {
        let options = options
            .split(',')
            .map(|option| match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            })
            .collect();
        plan.mounts.push(folder(format!("{top}/{name}"), "cgroup", options, attributes));
    }
}

fn payload(plan: &mut Plan, process: &Process) -> Result<(), Error> {
    let args = process.args().clone().unwrap_or_default();
    let program = args
        .first()
        .filter(|program| !program.is_empty())
        .ok_or_else(|| Error::new("command", "there is no program to run"))?;
    plan.envp = process.env().clone().unwrap_or_default();
    plan.programs = if program.contains('/') {
        vec![program.clone()]
    } else {
        let path = plan.envp.iter().find_map(|entry| entry.strip_prefix("PATH="));
        path.unwrap_or(DEFAULT_PATH)
            .split(':')
            .map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir }))
            .collect()
    };
    plan.argv = args;
    plan.workdir = text(process.cwd());
    plan.oom_score_adj = process.oom_score_adj();
    for limit in process.rlimits().iter().flatten() {
        plan.rlimits.push((resource(limit.typ()), limit.soft(), limit.hard()));
    }
    let user = process.user();
    plan.uid = user.uid();
    plan.gid = user.gid();
    plan.umask = user.umask().unwrap_or(0o22);
    plan.groups = user.additional_gids().clone().unwrap_or_default();
    if process.terminal().unwrap_or(false) {
        plan.flags |= flags::TTY;
    }
    if process.no_new_privileges().unwrap_or(false) {
        plan.flags |= flags::NO_NEW_PRIVS;
    }
    plan.capabilities = process.capabilities().as_ref().map(sets);
    Ok(())
}

/// What tells a program of the sockets that it was given. The process id has ten
/// digits: the child writes the payload's own into them.
fn listen(plan: &mut Plan, sockets: &[(FdIndex, String)]) {
    if sockets.is_empty() {
        return;
    }
    plan.sockets = sockets.iter().map(|(fd, _)| *fd).collect();
    let names: Vec<&str> = sockets.iter().map(|(_, name)| name.as_str()).collect();
    plan.envp.retain(|variable| !variable.starts_with("LISTEN_"));
    plan.envp.splice(
        0..0,
        [
            "LISTEN_PID=0000000000".to_owned(),
            format!("LISTEN_FDS={}", sockets.len()),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ],
    );
}

/// Where programs are looked for when the environment does not say (execvp(3)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn sets(of: &LinuxCapabilities) -> Capabilities {
    let bits = |set: &Option<oci_spec::runtime::Capabilities>| {
        set.as_ref().map_or(0, |set| CapSet::from_oci(set).bits())
    };
    Capabilities {
        bounding: bits(of.bounding()),
        effective: bits(of.effective()),
        permitted: bits(of.permitted()),
        inheritable: bits(of.inheritable()),
        ambient: bits(of.ambient()),
    }
}

/// The number of getrlimit(2).
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
