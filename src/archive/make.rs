//! Files made from entries, by name in a directory that is open.
//!
//! The directory may belong to a container that runs, so no name is believed twice:
//! after a file was made, only its descriptor is used, and where there is none
//! (links), only calls that don't follow links.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fsetxattr, fstat, futimens, lsetxattr, mkdirat, mknodat, openat, setxattr,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::entry::{Entry, Kind, Time};
use super::error::Error;
use super::reader::Reader;

/// How deep a directory that is to be removed may be.
const MAX_DEPTH: usize = 256;

/// The umask of this process: what open(2) takes off the mode, so that it has to be
/// set again. Read, not changed: it is shared by all threads.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        // Not known: then every mode is set.
        .unwrap_or(0o777)
}

/// Makes an entry's file, empty and private; EEXIST if the name is taken. A regular
/// file is given open. Hard links are not made here.
pub(crate) fn create(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> rustix::io::Result<Option<OwnedFd>> {
    let name = OsStr::from_bytes(name);
    let mode = Mode::from(entry.mode & 0o777);
    match &entry.kind {
        Kind::File { .. } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            return openat(dir, name, flags, mode).map(Some);
        }
        Kind::Symlink(target) => symlinkat(OsStr::from_bytes(target), dir, name)?,
        Kind::Character(major, minor) => {
            let device = rustix::fs::makedev(*major, *minor);
            mknodat(dir, name, FileType::CharacterDevice, mode, device)?;
        }
        Kind::Block(major, minor) => {
            let device = rustix::fs::makedev(*major, *minor);
            mknodat(dir, name, FileType::BlockDevice, mode, device)?;
        }
        Kind::Fifo => mknodat(dir, name, FileType::Fifo, mode, 0)?,
        Kind::Directory => mkdirat(dir, name, Mode::from(0o755))?,
        Kind::HardLink(_) => return Err(Errno::INVAL),
    }
    Ok(None)
}

/// Writes the current entry's content into a new file.
pub(crate) fn fill(file: &OwnedFd, entry: &Entry, reader: &mut Reader<'_>) -> Result<(), Error> {
    let failed = |e: Errno| Error::at("write", &entry.path, e);
    let mut end = 0;
    while let Some(chunk) = reader.chunk()? {
        let (mut offset, mut bytes) = (chunk.offset, chunk.bytes);
        while !bytes.is_empty() {
            match rustix::io::pwrite(file, bytes, offset) {
                Ok(0) => return Err(failed(Errno::IO)),
                Ok(written) => {
                    offset += written as u64;
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        end = offset;
    }
    match entry.kind {
        // The hole at the end of a sparse file.
        Kind::File { size } if size > end => rustix::fs::ftruncate(file, size).map_err(failed),
        _ => Ok(()),
    }
}

/// What was made has which owner, mode, attributes and times.
pub(crate) struct Finish<'e> {
    pub entry: &'e Entry,
    /// The owner, which may differ from the entry's.
    pub owner: (u32, u32),
    /// What a new file's owner is, so that it needs no chown(2).
    pub born: (u32, u32),
    pub umask: u32,
}

/// Attributes that the file system could not take.
pub(crate) type Lost = u64;

impl Finish<'_> {
    /// Dresses a file that is open for writing, or a directory open for reading. The
    /// order matters: a change of owner takes set-user-ID and capabilities away.
    pub(crate) fn open(&self, file: BorrowedFd<'_>, created: bool) -> rustix::io::Result<Lost> {
        if self.owner != self.born || !created {
            fchown(file, Some(uid(self.owner.0)), Some(gid(self.owner.1)))?;
        }
        let mut lost = 0;
        for (name, value) in &self.entry.xattrs {
            lost += kept(fsetxattr(file, name.as_slice(), value, XattrFlags::empty()))?;
        }
        if !created || self.entry.mode & (0o7000 | self.umask) != 0 || !self.entry.xattrs.is_empty()
        {
            fchmod(file, Mode::from(self.entry.mode))?;
        }
        futimens(file, &times(self.entry.mtime))?;
        Ok(lost)
    }

    /// Dresses a symbolic link, device or pipe that was just made.
    pub(crate) fn named(&self, dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Lost> {
        let name = OsStr::from_bytes(name);
        let mut lost = 0;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat(dir, name, flags, Mode::empty())?;
        let link = matches!(self.entry.kind, Kind::Symlink(_));
        let wanted = match self.entry.kind {
            Kind::Symlink(_) => FileType::Symlink,
            Kind::Character(..) => FileType::CharacterDevice,
            Kind::Block(..) => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        // Somebody put something else there: it is not ours to dress.
        if FileType::from_raw_mode(fstat(&node)?.st_mode) != wanted {
            return Err(Errno::STALE);
        }
        let (user, group) = (Some(uid(self.owner.0)), Some(gid(self.owner.1)));
        if self.owner != self.born {
            chownat(&node, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        // The kernel's link to an open file leads to that file, whatever it is.
        let through = format!("/proc/self/fd/{}", node.as_raw_fd());
        for (name, value) in &self.entry.xattrs {
            lost += kept(setxattr(&through, name.as_slice(), value, XattrFlags::empty()))?;
        }
        if !link {
            rustix::fs::chmod(&through, Mode::from(self.entry.mode))?;
        }
        utimensat(&node, "", &times(self.entry.mtime), AtFlags::EMPTY_PATH)?;
        Ok(lost)
    }
}

/// An attribute that the file system does not know is no reason to fail, as for
/// every other engine; nor are `user.` attributes of links and devices (EPERM).
fn kept(set: rustix::io::Result<()>) -> rustix::io::Result<Lost> {
    match set {
        Ok(()) => Ok(0),
        Err(Errno::NOTSUP | Errno::PERM | Errno::INVAL) => Ok(1),
        Err(e) => Err(e),
    }
}

/// Sets an attribute of a directory that is only a place (`O_PATH`).
pub(crate) fn mark(dir: BorrowedFd<'_>, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    setxattr(format!("/proc/self/fd/{}", dir.as_raw_fd()), name, value, XattrFlags::empty())
}

/// As [`mark`], for a name in a directory that nobody else changes.
pub(crate) fn mark_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    attribute: &str,
    value: &[u8],
) -> rustix::io::Result<()> {
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    lsetxattr(path.as_slice(), attribute, value, XattrFlags::empty())
}

pub(crate) fn uid(id: u32) -> Uid {
    Uid::from_raw(id)
}

pub(crate) fn gid(id: u32) -> Gid {
    Gid::from_raw(id)
}

/// The time of the content for both: no archive's reader knows when a file was read.
pub(crate) fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Removes a name, with all below it.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    remove_at(dir, name, 0)
}

fn remove_at(dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> rustix::io::Result<()> {
    let name = OsStr::from_bytes(name);
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        answer => return answer,
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) if depth < MAX_DEPTH => {}
        answer => return answer,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = openat(dir, name, flags, Mode::empty())?;
    for name in names(&inner)? {
        remove_at(inner.as_fd(), &name, depth + 1)?;
    }
    unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// The names in a directory that is open for reading, sorted by their bytes.
pub(crate) fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.to_vec()),
        }
    }
    names.sort_unstable();
    Ok(names)
}
