//! The mounts of a container: those that every one has, and those of its manifest.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::devices::DeviceRequest;
use super::{CgroupVersion, Context, Error, IdRange, Netns};
use crate::manifest::model::{self, Cgroupns, Container, Ipc, MountKind, Sharing};

/// Docker's size of `/dev/shm`.
const SHM_SIZE: u64 = 64 << 20;
/// The group `tty`, as distributions have it.
const TTY_GID: u32 = 5;

/// All mounts in the order in which they are made: a parent before what is below.
pub(super) fn mounts(
    container: &Container,
    context: &Context,
    devices: &[DeviceRequest],
) -> Result<Vec<Mount>, Error> {
    let mut own: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    for wanted in &container.mounts {
        let target = target(&wanted.target).map_err(|reason| Error::new("mount", reason))?;
        let mount = user_mount(wanted, &target, context)?;
        if own.insert(target.clone(), mount).is_some() {
            return Err(Error::new("mount", format!("{} is a target twice", target.display())));
        }
    }
    let etc = context.etc.iter().map(|(target, source)| {
        plain(target, "bind", source, &["bind", "rprivate", "nosuid", "nodev"])
    });
    let mut all: Vec<Mount> = default_mounts(container, context)
        .into_iter()
        .chain(etc)
        .filter(|mount| !own.contains_key(mount.destination()))
        .collect();
    // In a user namespace mknod(2) is refused, so the host's node is mounted.
    if context.ids.is_some() {
        all.extend(devices.iter().map(|device| {
            let source = device.host.as_path();
            plain(&device.container, "bind", source, &["bind", "nosuid", "noexec"])
        }));
    }
    all.extend(own.into_values());
    // Stable: the defaults keep their order, and a mount that replaces one of them
    // does not cover those below it.
    all.sort_by_key(|mount| mount.destination().components().count());
    Ok(all)
}

/// What Docker mounts in every container (OCI runtime-spec, config-linux.md
/// "Default Filesystems").
fn default_mounts(container: &Container, context: &Context) -> Vec<Mount> {
    let gid = format!("gid={TTY_GID}");
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if context.ids.is_none_or(|ids| ids.count > TTY_GID) {
        pts.push(&gid);
    }
    let shm_size = format!("size={}", container.shm_size.map_or(SHM_SIZE, |size| size.0));
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", &shm_size];
    let closed = ["nosuid", "noexec", "nodev"];
    let closed_ro: &[&str] = match container.security.unmask {
        true => &closed,
        false => &["nosuid", "noexec", "nodev", "ro"],
    };
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| {
        plain(Path::new(target), kind, Path::new(source), options)
    };
    // A new sysfs shows the network namespace's devices, and only who owns that
    // namespace may mount one.
    let sys = if context.ids.is_some() && context.network != Netns::Own {
        mount("/sys", "bind", "/sys", &["rbind", "rslave", "nosuid", "noexec", "nodev", "ro"])
    } else {
        mount("/sys", "sysfs", "sysfs", closed_ro)
    };
    let cgroup = match context.cgroup_version {
        CgroupVersion::V2 => "cgroup2",
        CgroupVersion::V1 | CgroupVersion::Hybrid => "cgroup",
    };
    // The same of the processes and the message queues of the host.
    let namespaces = &container.namespaces;
    let with_ids = |ours: Mount, target: &str, is_hosts: bool| match is_hosts {
        true => mount(target, "bind", target, &["bind", "rprivate", "nosuid", "noexec", "nodev"]),
        false => ours,
    };
    let own_ids = context.ids.is_some();
    let proc = mount("/proc", "proc", "proc", &closed);
    let proc = with_ids(proc, "/proc", own_ids && namespaces.pid == Sharing::Host);
    let queues = mount("/dev/mqueue", "mqueue", "mqueue", &closed);
    let queues = with_ids(queues, "/dev/mqueue", own_ids && namespaces.ipc == Ipc::Host);
    let shm = mount("/dev/shm", "tmpfs", "shm", &shm);
    let shm = with_ids(shm, "/dev/shm", !namespaces.ipc.is_own());
    let groups = mount("/sys/fs/cgroup", cgroup, cgroup, closed_ro);
    let groups = match own_ids && namespaces.cgroup == Cgroupns::Host {
        true => mount(
            "/sys/fs/cgroup",
            "bind",
            "/sys/fs/cgroup",
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"],
        ),
        false => groups,
    };
    let all = vec![
        proc,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        shm,
        queues,
        sys,
        groups,
    ];
    let is_wanted = |mount: &Mount| match mount.destination().to_str() {
        Some("/dev/shm") => namespaces.ipc != Ipc::None,
        Some("/dev/mqueue") => context.has_mqueue || mount.typ().as_deref() != Some("bind"),
        _ => true,
    };
    all.into_iter().filter(is_wanted).collect()
}

/// What a tmpfs is without, unless its options say otherwise.
const CLOSED: [&str; 3] = ["suid", "dev", "exec"];

/// What of a tmpfs's options can't be.
///
/// # Errors
/// One that a tmpfs does not have.
pub fn check_tmpfs(options: &BTreeMap<String, String>) -> Result<(), String> {
    let numbers = ["uid", "gid", "nr_inodes", "nr_blocks"];
    for (key, value) in options {
        let fits = match key.as_str() {
            key if CLOSED.contains(&key) => value.is_empty() || value == "true",
            key if numbers.contains(&key) => {
                !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric())
            }
            "mpol" | "huge" => !value.is_empty() && !value.contains([',', '\0']),
            "noatime" | "strictatime" | "inode32" | "inode64" => value.is_empty(),
            _ => false,
        };
        if !fits {
            return Err(format!("{key:?} = {value:?} is no option of a tmpfs"));
        }
    }
    Ok(())
}

/// One mount of the manifest.
fn user_mount(wanted: &model::Mount, target: &Path, context: &Context) -> Result<Mount, Error> {
    let fail =
        |reason: String| Error::new("mount", format!("target {}: {reason}", target.display()));
    let kind = wanted.kind();
    if kind == MountKind::Tmpfs {
        check_tmpfs(&wanted.options).map_err(fail)?;
        let allowed = |option: &str| wanted.options.contains_key(option);
        let closed = ["suid", "dev", "exec"].into_iter().filter(|option| !allowed(option));
        let mut options: Vec<String> = closed.map(|option| format!("no{option}")).collect();
        if wanted.read_only {
            options.push("ro".to_owned());
        }
        let mode = wanted.mode.as_deref().unwrap_or("1777");
        if !u32::from_str_radix(mode, 8).is_ok_and(|bits| bits <= 0o7777) {
            return Err(fail(format!("{mode:?} is not a mode; write it in octal, as \"1777\"")));
        }
        options.push(format!("mode={mode}"));
        options.extend(wanted.size.map(|size| format!("size={}", size.0)));
        for (key, value) in wanted.options.iter().filter(|(key, _)| !CLOSED.contains(&key.as_str()))
        {
            options.push(match value.as_str() {
                "" => key.clone(),
                value => format!("{key}={value}"),
            });
        }
        let mut mount = plain(target, "tmpfs", Path::new("tmpfs"), &[]);
        mount.set_options(Some(options));
        return Ok(mount);
    }
    let source = wanted
        .source
        .as_deref()
        .ok_or_else(|| fail("it has no source; name a volume or a path".to_owned()))?;
    let read_only = wanted.read_only || kind == MountKind::Image;
    let path = match context.sources.get(source) {
        Some(path) => path.as_path(),
        None if kind == MountKind::Bind && Path::new(source).is_absolute() => Path::new(source),
        None => {
            return Err(fail(format!("the source {source:?} has no path on the host")));
        }
    };
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(fail("its source has a NUL byte".to_owned()));
    }
    let mut options = vec!["rbind", "rprivate"];
    if read_only {
        // Recursive too: a mount below the source stays writable with `ro` alone.
        options.extend(["ro", "rro"]);
    }
    if let Some(ids) = context.ids {
        // Files belong to the same ids inside as on disk.
        options.push("idmap");
        let mut mount = plain(target, "bind", path, &options);
        mount.set_uid_mappings(Some(vec![mapping(ids)]));
        mount.set_gid_mappings(Some(vec![mapping(ids)]));
        return Ok(mount);
    }
    Ok(plain(target, "bind", path, &options))
}

/// A range of ids as a Spec has it.
pub(super) fn mapping(ids: IdRange) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(ids.first)
        .size(ids.count)
        .build()
        .unwrap_or_default()
}

/// The place in the container, without a trailing slash or `.`.
fn target(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("the target {shown} must be absolute"));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err("a target has a NUL byte".to_owned());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("the target {shown} must not contain '..'"));
    }
    let target: PathBuf = path.components().collect();
    if target == Path::new("/") {
        return Err("the target / is the root itself; use rootfs for that".to_owned());
    }
    if target.starts_with("/proc") {
        return Err(format!("{shown}: nothing can be mounted at or below /proc"));
    }
    Ok(target)
}

fn plain(target: &Path, kind: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}
