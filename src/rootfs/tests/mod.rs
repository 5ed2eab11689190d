//! Roots on the real kernel, looked at through their descriptors: nothing is
//! attached, so a test that dies leaves no mount.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, openat2, statx, unlinkat,
};
use rustix::io::Errno;
use tempfile::TempDir;

use super::overlay::{Form, Layers, mount_as};
use super::prepare::clone_of;
use super::thread::with_ids;
use super::view::STANDARD;
use super::*;

mod host_view;
mod removal;
mod roots;
mod volumes;

const RANGE: IdRange = IdRange { first: 700_000, count: 65536 };

/// A state directory, a `rootfs` directory and a user namespace.
struct Bed {
    temp: TempDir,
    userns: OwnedFd,
}

impl Bed {
    fn new() -> Bed {
        let temp = TempDir::new().unwrap();
        for folder in ["state", "rootfs/etc", "rootfs/bin"] {
            fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        fs::write(temp.path().join("rootfs/etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        Bed { temp, userns: userns_with_range(RANGE).unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn rootfs(&self) -> PathBuf {
        self.temp.path().join("rootfs")
    }

    /// Makes a directory of the temporary ones.
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn ids(&self) -> Option<IdMap<'_>> {
        Some(IdMap { range: RANGE, userns: self.userns.as_fd() })
    }

    fn of_directory(&self, id: &str) -> Root {
        let writable = Writable::at(&self.state(), id).unwrap();
        prepare(&Lower::Layers(vec![self.rootfs()]), &writable, self.ids()).unwrap()
    }

    fn host(&self, expose: &[&Path]) -> Result<Root, Error> {
        let writable = Writable::at(&self.state(), "host").unwrap();
        let expose = expose.iter().map(PathBuf::from).collect();
        prepare(&Lower::Host { expose, own: vec![] }, &writable, self.ids())
    }
}

fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::from(0o644) } else { Mode::empty() };
    loop {
        // EAGAIN: a mount elsewhere on the machine disturbed the lookup, openat2(2).
        match openat2(root, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN) => {}
            answer => return answer,
        }
    }
}

/// Writes as the container's root would: with its ids, through the mount.
fn write(root: &Root, path: &str, content: &str) -> io::Result<()> {
    write_at(root.mounts.root.as_fd(), path, content)
}

fn write_at(root: BorrowedFd<'_>, path: &str, content: &str) -> io::Result<()> {
    with_ids(RANGE.first, RANGE.first, || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let fd = open(root, path, flags)?;
        io::Write::write_all(&mut fs::File::from(fd), content.as_bytes())
    })
}

fn read(root: &Root, path: &str) -> Result<String, ErrorKind> {
    read_in_root(root.mounts.root.as_fd(), Path::new(path), 1 << 20)
        .map(|content| String::from_utf8(content).unwrap())
        .map_err(|e| e.kind())
}

/// The names in a directory, or `None` if it is not there.
fn names(root: BorrowedFd<'_>, path: &str) -> Option<BTreeSet<String>> {
    let directory = match open(root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR) => return None,
        Err(e) => panic!("{path}: {e}"),
    };
    let names = rustix::fs::Dir::new(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    Some(names)
}

fn stat(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<rustix::fs::Stat> {
    rustix::fs::fstat(open(root, path, OFlags::PATH)?)
}

/// Runs in a thread with a mount namespace of its own, so that the host can be
/// given mounts.
fn with_mounts(test: impl FnOnce() + Send) {
    with_mounts_that_are(rustix::mount::MountPropagationFlags::PRIVATE, test);
}

/// The same, with all mounts private, or shared as systemd makes them.
fn with_mounts_that_are(
    propagation: rustix::mount::MountPropagationFlags,
    test: impl FnOnce() + Send,
) {
    use rustix::mount::{MountPropagationFlags, mount_change};
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            for flags in [MountPropagationFlags::PRIVATE, propagation] {
                mount_change("/", flags | MountPropagationFlags::REC).unwrap();
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn mount_tmpfs(at: &str, options: &std::ffi::CStr) {
    use rustix::mount::{MountFlags, mount};
    mount("test", at, "tmpfs", MountFlags::empty(), options).unwrap();
}
