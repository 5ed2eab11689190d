//! Files inside a container's root, reached from outside.
//!
//! The root may be hostile in every way: links out of it, FIFOs and devices where
//! files should be, names that change while one looks.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, openat2};
use rustix::io::Errno;

use super::error::Error;
use super::thread;
use crate::sys::userns::IdRange;

/// A rename in the root makes the kernel give up a lookup with EAGAIN, openat2(2).
const ATTEMPTS: usize = 64;

fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..ATTEMPTS {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => last = Errno::AGAIN,
            answer => return answer,
        }
    }
    Err(last)
}

/// Reads a regular file of at most `limit` bytes inside a root; links lead where
/// they would lead in the container. [`io::ErrorKind::NotFound`] when it is not
/// there.
pub fn read_in_root(root: BorrowedFd<'_>, path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let failed = |e: io::Error| Error::new("read in the container", path, e);
    // Opened without effect first: to open a FIFO or a device is to use it.
    let place = open_in(root, path, OFlags::PATH).map_err(|e| failed(e.into()))?;
    let there = fstat(&place).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
        return Err(Error::refused("read in the container", path, "it is not a regular file"));
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).map_err(failed)?;
    let mut content = Vec::with_capacity(there.st_size.clamp(0, 1 << 20) as usize + 1);
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        let why = format!("it is larger than {limit} bytes");
        return Err(Error::refused("read in the container", path, why));
    }
    Ok(content)
}

/// A directory inside a root, with all above it, made where they are missing: mode
/// 0755, and the container's root owns them. Gives it as an `O_PATH` descriptor.
pub fn ensure_dir_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    ids: Option<IdRange>,
) -> Result<OwnedFd, Error> {
    ensure(root, path, FileType::Directory, ids)
}

/// As [`ensure_dir_in_root`], but the last name is an empty file, for a file to be
/// mounted on. What is there and no directory is good as it is.
pub fn ensure_file_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    ids: Option<IdRange>,
) -> Result<OwnedFd, Error> {
    ensure(root, path, FileType::RegularFile, ids)
}

fn ensure(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: FileType,
    ids: Option<IdRange>,
) -> Result<OwnedFd, Error> {
    let failed = |e: io::Error| Error::new("make in the container", path, e);
    let place = match open_in(root, path, OFlags::PATH) {
        Ok(place) => place,
        Err(Errno::NOENT) => {
            let owner = ids.map_or(0, |range| range.first);
            thread::with_ids(owner, owner, || make(root, path, kind).map_err(io::Error::from))
                .map_err(failed)?
        }
        Err(e) => return Err(failed(e.into())),
    };
    let there = fstat(&place).map_err(|e| failed(e.into()))?;
    let directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
    match (directory, kind == FileType::Directory) {
        (true, false) => Err(Error::refused("make in the container", path, "there is a directory")),
        (false, true) => Err(Error::refused("make in the container", path, "there is a file")),
        _ => Ok(place),
    }
}

/// Makes what is missing, name by name. Each prefix is resolved from the root anew:
/// only so do links and `..` in it mean what they mean in the container. A link to
/// nothing is not followed (EEXIST).
fn make(root: BorrowedFd<'_>, path: &Path, kind: FileType) -> rustix::io::Result<OwnedFd> {
    let mut parent = open_in(root, Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
    let mut prefix = PathBuf::new();
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        prefix.push(name);
        let last = names.peek().is_none();
        parent = match (open_in(root, &prefix, OFlags::PATH), name) {
            (Err(Errno::NOENT), Component::Normal(name)) => {
                let made = match (last, kind) {
                    (true, FileType::RegularFile) => {
                        let mode = Mode::from(0o644);
                        mknodat(parent.as_fd(), name, FileType::RegularFile, mode, 0)
                    }
                    _ => mkdirat(parent.as_fd(), name, Mode::from(0o755)),
                };
                match made {
                    // Somebody else may have made it, or it is a link to nothing:
                    // then it can't be opened still.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                open_in(root, &prefix, OFlags::PATH).map_err(|e| match (e, made) {
                    (Errno::NOENT, Err(exists)) => exists,
                    (e, _) => e,
                })?
            }
            (opened, _) => opened?,
        };
    }
    Ok(parent)
}
