//! One tree of a root and what is mounted in it, for those who look into a container
//! that does not run.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};

use super::error::Error;
use super::inside::{ensure_dir_in_root, ensure_file_in_root};
use super::thread;

/// A detached mount that belongs into a root.
#[derive(Debug)]
pub struct Inside {
    /// Where, as the container names it.
    pub target: PathBuf,
    /// The mount.
    pub mount: OwnedFd,
    /// Whether it is a directory, and so is its target.
    pub directory: bool,
}

/// Mounts them in the root, in their order, and gives the tree, detached: a path in it
/// leads where it leads in a container that was launched in the same order.
/// Targets that are not there are made in the root.
pub fn assemble(root: OwnedFd, mounts: Vec<Inside>) -> Result<OwnedFd, Error> {
    if mounts.is_empty() {
        return Ok(root);
    }
    let mut failed = None;
    let tree = thread::with_ids(0, 0, || {
        // A detached mount can't be mounted upon before Linux 6.15. So all are attached
        // in a mount namespace that goes with this thread; a clone of them stays.
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        for Inside { target, mount, directory } in &mounts {
            let place = match directory {
                true => ensure_dir_in_root(root.as_fd(), target, None),
                false => ensure_file_in_root(root.as_fd(), target, None),
            };
            let place = match place {
                Ok(place) => place,
                Err(error) => {
                    failed = Some(error);
                    return Err(io::Error::other("no place to mount upon"));
                }
            };
            let flags =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(mount, "", &place, "", flags)?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(open_tree(&root, "", flags)?)
    });
    tree.map_err(|e| failed.unwrap_or_else(|| Error::new("mount the parts of", Path::new("/"), e)))
}

/// A detached mount of what lies at a path in another, whose links lead nowhere else.
pub(super) fn part_of(mount: &OwnedFd, inner: &Path) -> io::Result<OwnedFd> {
    let find = || -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = openat2(mount, inner, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(open_tree(&place, "", clone | OpenTreeFlags::AT_EMPTY_PATH)?)
    };
    match find() {
        // As with [`with_part`].
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => thread::with_ids(0, 0, || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            find()
        }),
        found => found,
    }
}

/// A detached mount, and one of a file in it. Before Linux 6.15 nothing can be cloned out
/// of a detached mount: there it is attached for a moment, in a mount namespace that goes
/// with a thread, and what is given are clones.
pub fn with_part(mount: OwnedFd, file: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if let Ok(part) = open_tree(&mount, file, clone) {
        return Ok((mount, part));
    }
    thread::with_ids(0, 0, || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        move_mount(&mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let part = open_tree(&mount, file, clone)?;
        Ok((open_tree(&mount, "", clone | OpenTreeFlags::AT_EMPTY_PATH)?, part))
    })
}
