//! Volumes that are something else than a folder of ours: the options of Docker's
//! `local` driver (`type`, `device`, `o`), which are those of mount(8).
//!
//! Such a file system is mounted when the first container needs it, and shared by all
//! that have the volume. It is never in the host's mount table: it is the root of a mount
//! namespace with nothing else in it, which lives as long as somebody has its descriptor.
//! A crash leaves nothing behind, and nothing that removes a volume's folder can go
//! astray into what is mounted there. The engine has the keeper hold the descriptors, so
//! that what lives in memory alone (tmpfs) outlasts the engine.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
    move_mount, unmount,
};

use super::error::Error;
use super::overlay::kernel_log;
use super::prepare::{clone_inside, clone_of};
use super::thread;
use super::volume::Volume;

/// Options of a volume, by name.
pub type Options = BTreeMap<String, String>;

/// What Docker's `local` driver objects to, in its words.
///
/// # Errors
/// An option that there is not, or one without another that it needs.
pub fn check_options(options: &Options) -> Result<(), String> {
    let known = ["type", "o", "device"];
    if options.contains_key("size") {
        return Err("quota size requested but no quota support".to_owned());
    }
    if let Some(other) = options.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("invalid option: {other:?}"));
    }
    for (key, needed) in
        [("device", &["type"][..]), ("type", &["device"]), ("o", &["device", "type"])]
    {
        if !options.contains_key(key) {
            continue;
        }
        if let Some(missing) = needed.iter().find(|key| !options.contains_key(**key)) {
            return Err(format!("missing required option: {missing:?}"));
        }
    }
    match options.values().any(|value| value.contains('\0')) {
        true => Err("invalid option: a NUL byte".to_owned()),
        false => Ok(()),
    }
}

/// Which access times are kept.
const ACCESS_TIMES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOATIME.union(MountAttrFlags::MOUNT_ATTR_STRICTATIME);

/// What is mounted, read from the options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backing {
    kind: String,
    device: String,
    /// A path of the host is shown, and nothing mounted anew.
    is_bind: bool,
    /// With what is mounted below that path.
    is_recursive: bool,
    attributes: MountAttrFlags,
    /// The file system's own.
    own: Vec<(String, Option<String>)>,
}

impl Backing {
    /// `None` without options.
    pub(super) fn of(options: &Options) -> Option<Backing> {
        let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
        if options.is_empty() {
            return None;
        }
        let mut backing = Backing {
            kind: get("type").to_owned(),
            device: get("device").to_owned(),
            is_bind: get("type") == "none" || get("type") == "bind",
            is_recursive: false,
            attributes: MountAttrFlags::empty(),
            own: Vec::new(),
        };
        for option in get("o").split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if matches!(option, "atime" | "relatime" | "noatime" | "strictatime") {
                // One of them: the last, as with mount(8).
                backing.attributes -= ACCESS_TIMES;
            }
            backing.attributes |= match option {
                "ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
                "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
                "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
                "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
                "bind" | "rbind" => {
                    backing.is_bind = true;
                    backing.is_recursive |= option == "rbind";
                    continue;
                }
                // What is so without being said, and what would reach the host's own table.
                "defaults" | "rw" | "suid" | "dev" | "exec" | "atime" | "diratime" | "relatime"
                | "auto" | "noauto" | "nofail" | "_netdev" | "shared" | "rshared" | "slave"
                | "rslave" | "private" | "rprivate" | "unbindable" | "runbindable" => {
                    continue;
                }
                other => {
                    backing.own.push(match other.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (other.to_owned(), None),
                    });
                    continue;
                }
            };
        }
        Some(backing)
    }

    /// A new, detached mount.
    fn mount(&self) -> Result<OwnedFd, Error> {
        let device = Path::new(&self.device);
        let failed = |error: io::Error| Error::new("mount the local volume from", device, error);
        let context = fsopen(self.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| {
            let unknown = match e {
                rustix::io::Errno::NODEV => "this kernel has no such file system",
                _ => "",
            };
            Error::new("mount a file system of the type", Path::new(&self.kind), e)
                .with_remedy(unknown)
        })?;
        let set = || -> io::Result<OwnedFd> {
            fsconfig_set_string(context.as_fd(), "source", self.device.as_str())?;
            if self.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
                // Or a disk that can't be written to would not be mounted.
                fsconfig_set_flag(context.as_fd(), "ro")?;
            }
            for (key, value) in &self.own {
                match value {
                    Some(value) => {
                        fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?
                    }
                    None => fsconfig_set_flag(context.as_fd(), key.as_str())?,
                }
            }
            fsconfig_create(context.as_fd())?;
            Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)?)
        };
        match set() {
            Ok(mount) => Ok(mount),
            Err(error) => {
                let said = kernel_log(context);
                let said = (!said.is_empty()).then(|| format!("the kernel says: {said}"));
                Err(failed(error).with_remedy(said.unwrap_or_default()))
            }
        }
    }
}

/// The file systems of volumes that are mounted, by the volume's name.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounted {
    all: Arc<Mutex<BTreeMap<String, Arc<Slot>>>>,
}

/// The file system of a volume.
#[derive(Debug, Default)]
struct Slot {
    /// Whose turn it is to mount it: a server that does not answer holds up one volume.
    turn: Mutex<()>,
    /// It, once it is mounted. Nobody has this lock for long.
    has: Mutex<Option<Has>>,
}

/// A file system that is mounted.
#[derive(Debug)]
struct Has {
    /// When its volume was made: one that bears the same name later is another volume.
    created: String,
    /// The mount namespace that it is the root of.
    namespace: Arc<OwnedFd>,
    /// The keeper has it too.
    is_held: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    fn of(&self, volume: &Volume) -> Option<Arc<OwnedFd>> {
        let has = lock(&self.has);
        let same = has.as_ref().filter(|has| has.created == volume.created);
        same.map(|has| Arc::clone(&has.namespace))
    }

    fn set(&self, volume: &Volume, namespace: OwnedFd, is_held: bool) -> Arc<OwnedFd> {
        let namespace = Arc::new(namespace);
        let created = volume.created.clone();
        // What was there before is let go of without the lock: that can take long.
        let _before =
            lock(&self.has).replace(Has { created, namespace: Arc::clone(&namespace), is_held });
        namespace
    }
}

/// A file system that no container has any more. Dropping it can take as long as its
/// server or disk likes.
#[derive(Debug)]
pub struct Unused(#[expect(dead_code, reason = "held until it is dropped")] Arc<Slot>);

impl Mounted {
    fn slot(&self, name: &str) -> Arc<Slot> {
        Arc::clone(lock(&self.all).entry(name.to_owned()).or_default())
    }

    /// A detached mount of what lies at `inner` in the volume.
    pub(super) fn part(
        &self,
        volume: &Volume,
        backing: &Backing,
        inner: &Path,
    ) -> Result<OwnedFd, Error> {
        let device = Path::new(&backing.device);
        if backing.is_bind {
            if !device.is_absolute() {
                return Err(Error::refused("mount", device, "a device of type none is a path"));
            }
            let part = super::volume::part_of(device, inner)
                .map_err(|error| error.with_remedy("it is the `device` of the volume"))?;
            let recursive = backing.is_recursive;
            let mount = clone_of(&super::volume::by_descriptor(&part), recursive)
                .map_err(|e| Error::new("mount", device, e))?;
            let attributes = u64::from(backing.attributes.bits());
            crate::sys::mount::set_attributes(mount.as_fd(), attributes, recursive)
                .map_err(|e| Error::new("set attributes of", device, e))?;
            return Ok(mount);
        }
        let slot = self.slot(&volume.name);
        let namespace = {
            let _turn = lock(&slot.turn);
            match slot.of(volume) {
                Some(namespace) => namespace,
                None => {
                    let namespace = alone_in_namespace(backing.mount()?)
                        .map_err(|e| Error::new("mount", device, e))?;
                    slot.set(volume, namespace, false)
                }
            }
        };
        clone_inside(&namespace, inner, None)
    }

    /// Those among the used that nobody holds yet, who is told of them to hold them.
    pub(super) fn to_hold(&self, is_used: impl Fn(&str) -> bool) -> Vec<(String, Arc<OwnedFd>)> {
        let mut found = Vec::new();
        for (name, slot) in lock(&self.all).iter().filter(|(name, _)| is_used(name)) {
            if let Some(has) = lock(&slot.has).as_mut().filter(|has| !has.is_held) {
                has.is_held = true;
                found.push((name.clone(), Arc::clone(&has.namespace)));
            }
        }
        found
    }

    /// One that an engine before us had mounted, and that is held.
    pub(super) fn take_back(&self, volume: &Volume, namespace: OwnedFd) {
        self.slot(&volume.name).set(volume, namespace, true);
    }

    /// Whether there is one of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// Forgets those that are not among the used; gives them and their names.
    pub(super) fn keep_only(&self, is_used: impl Fn(&str) -> bool) -> Vec<(String, Unused)> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<String> = all.keys().filter(|name| !is_used(name)).cloned().collect();
        gone.into_iter()
            .filter_map(|name| Some((name.clone(), Unused(all.remove(&name)?))))
            .collect()
    }
}

/// A mount namespace whose root is this mount, and that has no other.
fn alone_in_namespace(mount: OwnedFd) -> io::Result<OwnedFd> {
    thread::apart(move || {
        // The host's /proc is not there any more when its name is needed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = rustix::fs::open("/proc/thread-self", flags, Mode::empty())?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mount, "", rustix::fs::CWD, "/", flags)?;
        // As the sandbox does: the old root lands on the new one, and goes from there.
        rustix::process::fchdir(&mount)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&own, "ns/mnt", flags, Mode::empty())?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn bad_options_are_refused_as_docker_does() {
        for (text, why) in [
            ("type=tmpfs device=tmpfs foo=1", "invalid option: \"foo\""),
            ("type=tmpfs", "missing required option: \"device\""),
            ("device=/x", "missing required option: \"type\""),
            ("o=bind", "missing required option: \"device\""),
        ] {
            assert_eq!(check_options(&options(text)).unwrap_err(), why);
        }
        for text in ["", "type=none device=/x o=bind", "type=tmpfs device=tmpfs"] {
            assert_eq!(check_options(&options(text)), Ok(()));
        }
        assert!(check_options(&options("size=1g")).unwrap_err().contains("quota"));
    }

    #[test]
    fn flags_of_the_mount_are_told_from_options_of_the_file_system() {
        let backing =
            Backing::of(&options("type=tmpfs device=tmpfs o=size=1m,ro,noexec,uid=7,inode64"));
        let backing = backing.unwrap();
        assert!(!backing.is_bind);
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        assert_eq!(backing.attributes, flags);
        let own: Vec<&str> = backing.own.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(own, ["size", "uid", "inode64"]);
        assert!(Backing::of(&options("type=ext4 device=/x o=bind")).unwrap().is_bind);
        assert_eq!(Backing::of(&Options::new()), None);
    }
}
