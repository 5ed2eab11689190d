//! Removal: what `Writable` and `Volumes` made.
//!
//! First a rename into `<state>/trash` (or `<state>/FOLDER/.trash`, if that folder is a
//! mount of its own), which is atomic and quick; then the
//! deletion, which may take long and may be cut short at any instant: the next one
//! goes on. A tree is flattened while it is deleted, so its depth costs neither
//! stack nor descriptors.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, ioctl_getflags, ioctl_setflags,
    openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::error::Error;
use super::writable::{Writable, is_id, private};

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Takes a container's changes away: gone at once, deleted by [`empty_trash`]. No
/// error if there are none. The container must have ended, and its `Root` be
/// dropped.
pub fn discard(writable: &Writable) -> Result<(), Error> {
    throw_away(&writable.state, &writable.folder()).map(drop)
}

/// Throws away the changes of every container that is not in `keep`, and says which
/// they were. Whether they were left by a crash or by a state that was lost is not
/// known here.
pub fn sweep(state_dir: &Path, keep: &BTreeSet<String>) -> Result<Vec<String>, Error> {
    let roots = state_dir.join("roots");
    let entries = match fs::read_dir(&roots) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::new("read", &roots, e)),
    };
    let mut gone = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::new("read", &roots, e))?.file_name();
        let id = name.to_string_lossy().into_owned();
        if is_id(&name) && !keep.contains(&id) && throw_away(state_dir, &roots.join(&name))? {
            gone.push(id);
        }
    }
    Ok(gone)
}

/// Moves a path into the trash; false if there was nothing.
pub(crate) fn throw_away(state_dir: &Path, path: &Path) -> Result<bool, Error> {
    let mut trash = state_dir.join("trash");
    private(&trash)?;
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    loop {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let to = trash.join(format!("{started}-{}-{serial}", std::process::id()));
        match renameat_with(CWD, path, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(Errno::EXIST) => {}
            // A folder of the state's may be a mount of its own; said before it is looked
            // whether anything is there.
            Err(Errno::XDEV) if !trash.ends_with(OWN_TRASH) => {
                let below = path.strip_prefix(state_dir).ok();
                let Some(top) = below.and_then(|below| below.components().next()) else {
                    return Err(Error::new("remove", path, Errno::XDEV));
                };
                trash = state_dir.join(top).join(OWN_TRASH);
                private(&trash)?;
            }
            Err(Errno::PERM) if unlock_path(path) => {}
            Err(e) => return Err(Error::new("remove", path, e)),
        }
    }
}

/// The trash of a folder of the state's that is a mount of its own, in there.
const OWN_TRASH: &str = ".trash";

/// Deletes what is in the trash; from a thread that may take its time. Only one at a
/// time does it: another returns at once.
pub fn empty_trash(state_dir: &Path) -> Result<(), Error> {
    let folders = fs::read_dir(state_dir).into_iter().flatten().flatten();
    let own = folders.map(|folder| folder.path().join(OWN_TRASH));
    let all = std::iter::once(state_dir.join("trash")).chain(own);
    all.map(|trash| empty_one(&trash)).fold(Ok(()), Result::and)
}

fn empty_one(path: &Path) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let trash = match openat(CWD, path, flags, Mode::empty()) {
        Ok(trash) => trash,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(Error::new("open", path, e)),
    };
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::flock(&trash, lock) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(()),
        Err(e) => return Err(Error::new("lock", path, e)),
    }
    empty(trash.as_fd()).map_err(|e| Error::new("empty", path, e))
}

/// Deletes all that is in a directory. What can't be deleted is passed over, so one
/// such file keeps nothing else alive; the first error is the answer.
fn empty(top: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut failed = None;
    // Directories whose entries could not all be taken out are tried once.
    let mut stuck: BTreeSet<Vec<u8>> = BTreeSet::new();
    loop {
        let names: Vec<(Vec<u8>, FileType)> =
            entries(top)?.into_iter().filter(|(name, _)| !stuck.contains(name)).collect();
        if names.is_empty() {
            return failed.map_or(Ok(()), Err);
        }
        for (name, kind) in names {
            let gone = match kind {
                FileType::Directory => dissolve(top, &name),
                _ => unlink(top, &name, AtFlags::empty()),
            };
            if let Err(e) = gone {
                failed.get_or_insert(e);
                stuck.insert(name);
            }
        }
    }
}

/// Deletes a directory in `top`; those in it are moved up to `top` for later.
fn dissolve(top: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match unlink(top, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        answer => return answer,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = openat(top, OsStr::from_bytes(name), flags, Mode::empty())?;
    let mut failed = None;
    for (inner, kind) in entries(directory.as_fd())? {
        let gone = match kind {
            FileType::Directory => raise(top, &directory, &inner),
            _ => unlink(directory.as_fd(), &inner, AtFlags::empty()),
        };
        if let Err(e) = gone {
            failed.get_or_insert(e);
        }
    }
    match failed {
        Some(e) => Err(e),
        None => unlink(top, name, AtFlags::REMOVEDIR),
    }
}

/// Moves a directory up to `top`, if it can't be deleted at once.
fn raise(top: BorrowedFd<'_>, from: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match unlink(from.as_fd(), name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        answer => return answer,
    }
    loop {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let to = format!("raised-{}-{serial}", std::process::id());
        match renameat_with(from, OsStr::from_bytes(name), top, &to, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) if unlock(from.as_fd(), name) => {}
            answer => return answer,
        }
    }
}

fn unlink(directory: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> rustix::io::Result<()> {
    match unlinkat(directory, OsStr::from_bytes(name), flags) {
        Err(Errno::PERM) if unlock(directory, name) => {
            unlinkat(directory, OsStr::from_bytes(name), flags)
        }
        answer => answer,
    }
}

/// Takes the immutable and append-only flags (chattr(1)) off a directory and an
/// entry of it; whether there were any.
fn unlock(directory: BorrowedFd<'_>, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let above = unlock_fd(directory);
    let entry = rustix::fs::statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|there| {
            // To open a device would be to use it; it can't have these flags anyway.
            matches!(
                FileType::from_raw_mode(there.st_mode),
                FileType::RegularFile | FileType::Directory
            )
        })
        && openat(directory, OsStr::from_bytes(name), flags, Mode::empty())
            .is_ok_and(|fd| unlock_fd(fd.as_fd()));
    above || entry
}

fn unlock_path(path: &Path) -> bool {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, parent, flags, Mode::empty())
                .is_ok_and(|fd| unlock(fd.as_fd(), name.as_encoded_bytes()))
        }
        _ => false,
    }
}

fn unlock_fd(fd: BorrowedFd<'_>) -> bool {
    let locks = IFlags::IMMUTABLE | IFlags::APPEND;
    ioctl_getflags(fd)
        .is_ok_and(|had| had.intersects(locks) && ioctl_setflags(fd, had - locks).is_ok())
}

/// The names in a directory, all of them read before any is deleted.
fn entries(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let there = rustix::fs::statat(
                    directory,
                    OsStr::from_bytes(name),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
                FileType::from_raw_mode(there.st_mode)
            }
            kind => kind,
        };
        names.push((name.to_owned(), kind));
    }
    Ok(names)
}
