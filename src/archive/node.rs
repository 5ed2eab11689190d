//! One file of a tree that somebody else may change meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, getxattr, listxattr, openat, readlinkat};
use rustix::io::Errno;

use super::entry::{Entry, Kind, Time};

/// The most that the kernel gives of one attribute or a list of them (xattr(7)).
const XATTR_MAX: usize = 64 << 10;

/// A file, pinned by an `O_PATH` descriptor: what is asked later is asked of the
/// same file, and to open a device or a pipe by accident is not possible.
pub struct Node {
    place: OwnedFd,
    stat: Stat,
}

impl Node {
    /// A name in a directory; links are not followed.
    pub fn open(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Node::of(openat(dir, OsStr::from_bytes(name), flags, Mode::empty())?)
    }

    /// The file of a descriptor, which may be `O_PATH`.
    pub fn of(place: OwnedFd) -> rustix::io::Result<Node> {
        let stat = fstat(&place)?;
        Ok(Node { place, stat })
    }

    /// As the file was when it was pinned.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// What sort of file it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Whether it is an overlay's whiteout: a character device 0/0.
    pub fn is_whiteout(&self) -> bool {
        super::dirs::is_whiteout(&self.stat)
    }

    /// The descriptor, `O_PATH`.
    pub fn place(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }

    /// Its last change of content.
    pub fn mtime(&self) -> Time {
        Time { seconds: self.stat.st_mtime, nanoseconds: self.stat.st_mtime_nsec as u32 }
    }

    /// Where a symbolic link leads.
    pub fn link_target(&self) -> rustix::io::Result<Vec<u8>> {
        readlinkat(&self.place, "", Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// The file, or the directory, opened for reading. The caller has seen that it
    /// is one.
    pub fn read(&self) -> rustix::io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(self.through(), flags, Mode::empty()).map(File::from)
    }

    /// A directory, for looking into.
    pub fn read_directory(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.place, ".", flags, Mode::empty())
    }

    /// One attribute's value.
    pub fn xattr(&self, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
        let mut value = Vec::with_capacity(256);
        loop {
            match getxattr(self.through(), name, spare_capacity(&mut value)) {
                Ok(_) => return Ok(Some(value)),
                Err(Errno::RANGE) if value.capacity() <= XATTR_MAX => {
                    value = Vec::with_capacity(XATTR_MAX + 1);
                }
                Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// All attributes but overlayfs's own, sorted by name.
    pub fn xattrs(&self) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut list = Vec::with_capacity(1024);
        loop {
            match listxattr(self.through(), spare_capacity(&mut list)) {
                Ok(_) => break,
                Err(Errno::RANGE) if list.capacity() <= XATTR_MAX => {
                    list = Vec::with_capacity(XATTR_MAX + 1);
                }
                Err(Errno::NOTSUP) => return Ok(Vec::new()),
                Err(e) => return Err(e),
            }
        }
        let mut names: Vec<&[u8]> = list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty() && !is_overlay_xattr(name))
            .collect();
        names.sort_unstable();
        let mut attributes = Vec::with_capacity(names.len());
        for name in names {
            if let Some(value) = self.xattr(name)? {
                attributes.push((name.to_vec(), value));
            }
        }
        Ok(attributes)
    }

    /// What an archive says of it under this path; `None` for sockets, which no
    /// archive has.
    pub fn entry(&self, path: Vec<u8>) -> rustix::io::Result<Option<Entry>> {
        let device = self.stat.st_rdev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let kind = match self.file_type() {
            FileType::RegularFile => {
                Kind::File { size: u64::try_from(self.stat.st_size).unwrap_or(0) }
            }
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(self.link_target()?),
            FileType::CharacterDevice => Kind::Character(major, minor),
            FileType::BlockDevice => Kind::Block(major, minor),
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        Ok(Some(Entry {
            path,
            kind,
            mode: self.stat.st_mode & 0o7777,
            uid: self.stat.st_uid,
            gid: self.stat.st_gid,
            mtime: self.mtime(),
            xattrs: self.xattrs()?,
        }))
    }

    fn through(&self) -> String {
        format!("/proc/self/fd/{}", self.place.as_raw_fd())
    }
}

/// Attributes that mean something to overlayfs: an archive may neither bring nor
/// take them.
pub(crate) fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}
