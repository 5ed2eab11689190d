//! Namespaces that a launch shares with the host or with another container: which are
//! entered, and what of theirs is mounted.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::{Order, Preparation};
use crate::engine::namespaces::range_of;
use crate::keeper::process::has_ended;
use crate::manifest::model::{Cgroupns, Container, Ipc, Sharing, Userns};
use crate::manifest::scalar::Name;
use crate::rootfs::{self, IdMap, Source};
use crate::spec::{self, compile::Parts};
use crate::sys::mount;
use crate::sys::process::flags;

/// Another container that runs, some of whose namespaces are entered.
#[derive(Debug)]
pub struct Other {
    /// Its first process.
    pub pidfd: OwnedFd,
    /// The same as a number.
    pub pid: i32,
    /// Its host name.
    pub hostname: String,
}

impl Other {
    /// Whether a namespace of its process is the one that we are in, which is the host's.
    fn has_ours(&self, file: &str) -> Result<bool, String> {
        let known = |metadata: std::io::Result<Metadata>| {
            let metadata = metadata.map_err(|error| format!("looking at {file}: {error}"))?;
            Ok::<_, String>((metadata.dev(), metadata.ino()))
        };
        let ours = known(std::fs::metadata(Path::new("/proc/self").join(file)))?;
        Ok(known(self.open(file)?.metadata())? == ours)
    }

    /// A file below its process's folder in `/proc`.
    fn open(&self, file: &str) -> Result<File, String> {
        let path = format!("/proc/{}/{file}", self.pid);
        let opened = File::open(&path).map_err(|error| format!("opening {path}: {error}"))?;
        // While it has not ended the number is its own.
        match has_ended(self.pidfd.as_fd()) {
            false => Ok(opened),
            true => Err(format!("opening {path}: the process has ended")),
        }
    }
}

type Others = BTreeMap<Name, Other>;

fn find<'a>(others: &'a Others, name: &Name, what: &str) -> Result<&'a Other, String> {
    others.get(name).ok_or_else(|| format!("{name}, whose {what} it shares, does not run"))
}

/// Has what it shares with somebody who has it of the host as the host's: there is nothing
/// of its own to be mounted of that.
pub(super) fn follow_to_host(others: &Others, manifest: &mut Arc<Container>) -> Result<(), String> {
    let has_hosts = |owner: Option<&Name>, file: &str| match owner.and_then(|o| others.get(o)) {
        Some(other) => other.has_ours(file),
        None => Ok(false),
    };
    let shared = &manifest.namespaces;
    let pid = has_hosts(shared.pid.owner(), "ns/pid")?;
    let ipc = has_hosts(shared.ipc.owner(), "ns/ipc")?;
    let uts = has_hosts(shared.uts.owner(), "ns/uts")?;
    if pid || ipc || uts {
        let shared = &mut Arc::make_mut(manifest).namespaces;
        for (is_hosts, sharing) in [(pid, &mut shared.pid), (uts, &mut shared.uts)] {
            if is_hosts {
                *sharing = Sharing::Host;
            }
        }
        if ipc {
            shared.ipc = Ipc::Host;
        }
    }
    Ok(())
}

/// Its manifest with the host name that it shares with another container, as its files in
/// `/etc` have it.
pub fn with_host_name(manifest: &Arc<Container>, host_name: Option<String>) -> Arc<Container> {
    let mut named = Arc::clone(manifest);
    if let (Sharing::Container(_), Some(_)) = (&manifest.namespaces.uts, &host_name) {
        Arc::make_mut(&mut named).hostname = host_name;
    }
    named
}

impl Preparation<'_> {
    /// The user namespace: none with the host's ids, that of whose processes or message
    /// queues it shares, or its own.
    pub(super) fn ids(&self, order: &mut Order, manifest: &Container) -> Result<(), String> {
        let kept = &mut order.kept;
        let shared = &manifest.namespaces;
        let is_anothers = |kept: &super::Kept| {
            kept.namespaces.as_ref().is_some_and(|namespaces| namespaces.is_anothers)
        };
        if is_anothers(kept) || shared.owners_of_ids().next().is_some() {
            // It may be made anew in the meantime, with other ids.
            (kept.namespaces, kept.root, kept.netns) = (None, None, None);
        }
        if manifest.security.userns == Userns::Host {
            return Ok(());
        }
        let mut found: Option<(&Name, File, u64)> = None;
        for name in shared.owners_of_ids() {
            let other = find(&order.others, name, "namespaces")?;
            let user = other.open("ns/user")?;
            let inode = user.metadata().map_err(|error| error.to_string())?.ino();
            match &found {
                Some((first, _, known)) if *known != inode => {
                    return Err(format!(
                        "{first} and {name} have different user ids, and whose processes or IPC \
                         it shares has its ids; let one of them share those of the other"
                    ));
                }
                Some(_) => {}
                None => found = Some((name, user, inode)),
            }
        }
        if let Some((name, user, _)) = found {
            let pid = find(&order.others, name, "namespaces")?.pid;
            let first = range_of(pid).ok_or_else(|| {
                format!(
                    "{name} has the host's user ids, and whoever shares its processes or IPC \
                     must have them too: say security.userns = \"host\" (--userns=host)"
                )
            })?;
            kept.namespaces = Some(self.workshop.pool.beside(user.into(), first)?);
        } else if kept.namespaces.is_none() {
            kept.namespaces = Some(self.workshop.pool.take()?);
        }
        Ok(())
    }

    /// Into namespaces of other containers, but the users'; and what is to be seen of
    /// theirs, or of the host's.
    pub(super) fn share(
        &mut self,
        others: &Others,
        manifest: &Container,
        ids: Option<IdMap<'_>>,
        parts: &mut Parts,
        context: &mut spec::Context,
    ) -> Result<(), String> {
        let shared = &manifest.namespaces;
        context.hostname = match &shared.uts {
            Sharing::Private => None,
            Sharing::Host => {
                Some(rustix::system::uname().nodename().to_string_lossy().into_owned())
            }
            Sharing::Container(name) => Some(find(others, name, "host name")?.hostname.clone()),
        };
        let entered = [
            (shared.uts.owner(), "host name", "ns/uts", flags::NEWUTS),
            (shared.ipc.owner(), "IPC", "ns/ipc", flags::NEWIPC),
            (shared.pid.owner(), "processes", "ns/pid", flags::NEWPID),
        ];
        for (owner, what, file, kind) in entered {
            let Some(name) = owner else { continue };
            let namespace = find(others, name, what)?.open(file)?;
            parts.join.push((self.add(namespace), kind));
        }
        match &shared.ipc {
            Ipc::Container(name) => {
                let other = find(others, name, "IPC")?;
                let namespace: OwnedFd = other.open("ns/mnt")?.into();
                let memory =
                    rootfs::clone_inside(&namespace, Path::new("dev/shm"), Some(rootfs::TMPFS))
                        .map_err(|error| format!("the shared memory of {name}: {error}"))?;
                let closed = mount::NOSUID | mount::NODEV | mount::NOEXEC;
                mount::set_attributes(memory.as_fd(), closed, false)
                    .map_err(|error| format!("the shared memory of {name}: {error}"))?;
                self.add_shared(Path::new("/dev/shm"), memory, manifest, parts);
            }
            Ipc::Host => self.of_host(Path::new("/dev/shm"), manifest, parts)?,
            _ => {}
        }
        if ids.is_none() {
            return Ok(());
        }
        // A user namespace has no rights over what belongs to the host's: of that there is
        // no new mount, but what the host has mounted can be shown.
        if shared.pid == Sharing::Host {
            self.of_host(Path::new("/proc"), manifest, parts)?;
        }
        let queues = Path::new("/dev/mqueue");
        context.has_mqueue = queues.is_dir();
        if shared.ipc == Ipc::Host && context.has_mqueue {
            self.of_host(queues, manifest, parts)?;
        }
        if shared.cgroup == Cgroupns::Host {
            let path = Path::new("/sys/fs/cgroup");
            let groups = self.workshop.volumes.mount(Source::Path(path), None, true);
            let groups = groups.map_err(|error| error.to_string())?;
            self.add_shared(path, groups.mount, manifest, parts);
        }
        Ok(())
    }

    fn of_host(
        &mut self,
        path: &Path,
        manifest: &Container,
        parts: &mut Parts,
    ) -> Result<(), String> {
        let mount = rootfs::clone_of_host(path).map_err(|error| error.to_string())?;
        self.add_shared(path, mount, manifest, parts);
        Ok(())
    }

    /// A folder that is not its own, unless the manifest mounts something else there.
    pub(super) fn add_shared(
        &mut self,
        path: &Path,
        mount: OwnedFd,
        manifest: &Container,
        parts: &mut Parts,
    ) {
        if manifest.mounts.iter().all(|own| own.target != path) {
            parts.binds.insert(path.to_owned(), (self.add(mount), false));
        }
    }
}
