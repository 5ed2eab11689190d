//! From an entry's path to the directory that it belongs into.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, openat, openat2, statat,
};
use rustix::io::Errno;

/// The names of a path: `.` and doubled or leading slashes are dropped and `..`
/// takes the name before it away, as Go's `path.Clean` does. `None` if it leads
/// above the top.
pub(crate) fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names)
}

/// The names with slashes between them.
pub(crate) fn join(names: &[&[u8]]) -> Vec<u8> {
    names.join(&b'/')
}

/// What to do where a directory is missing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make it: 0755, owned by who makes it.
    Make,
    /// Give ENOENT.
    Fail,
}

/// The directories below one, the last path to one of them held open: archives are
/// written directory by directory, so mostly the next file's directory is there.
///
/// Each step is one name looked up in a descriptor, so nothing leads out. Where a
/// symbolic link is on the way, the kernel resolves the path as if `root` were `/`
/// (openat2(2), `RESOLVE_IN_ROOT`), as in Docker's chroot: images have entries below
/// `lib/` whose `lib` is a link to `usr/lib`.
pub(crate) struct Dirs<'r> {
    root: BorrowedFd<'r>,
    top: OwnedFd,
    /// Where `top` lies in `root`.
    base: Vec<u8>,
    resolve: ResolveFlags,
    stack: Vec<(Vec<u8>, OwnedFd)>,
    /// The paths of directories that were made on the way, since last taken.
    pub made: Vec<Vec<u8>>,
}

pub(super) const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A rename in the root makes the kernel give up a lookup with EAGAIN, openat2(2).
const ATTEMPTS: usize = 64;

impl<'r> Dirs<'r> {
    /// The directories below `root` itself, on the same file system.
    pub(crate) fn new(root: BorrowedFd<'r>) -> rustix::io::Result<Dirs<'r>> {
        let mut dirs = Dirs::below(root, b".")?;
        dirs.resolve |= ResolveFlags::NO_XDEV;
        Ok(dirs)
    }

    /// The directories below a path in `root`, whose links lead where they lead when
    /// `root` is `/`.
    pub(crate) fn below(root: BorrowedFd<'r>, base: &[u8]) -> rustix::io::Result<Dirs<'r>> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = resolve_in(root, base, flags, resolve)?;
        Ok(Dirs { root, top, base: base.to_vec(), resolve, stack: Vec::new(), made: Vec::new() })
    }

    /// Forgets what is held open; after anything but a plain file was removed.
    pub(crate) fn forget(&mut self) {
        self.stack.clear();
    }

    /// The directory of these names. ENOTDIR where a name is something else.
    pub(crate) fn enter(
        &mut self,
        names: &[&[u8]],
        missing: Missing,
    ) -> rustix::io::Result<BorrowedFd<'_>> {
        let common = self.stack.iter().zip(names).take_while(|((held, _), n)| held == *n).count();
        self.stack.truncate(common);
        for (at, name) in names.iter().enumerate().skip(common) {
            let name_os = OsStr::from_bytes(name);
            let above = self.last();
            let opened = match openat(above, name_os, DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) if missing == Missing::Make => {
                    mkdirat(above, name_os, Mode::from(0o755))?;
                    let made = openat(above, name_os, DIRECTORY, Mode::empty());
                    self.made.push(join(names.get(..=at).unwrap_or_default()));
                    made
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let there = statat(above, name_os, AtFlags::SYMLINK_NOFOLLOW)?;
                    if FileType::from_raw_mode(there.st_mode) != FileType::Symlink {
                        return Err(Errno::NOTDIR);
                    }
                    let mut path = self.base.clone();
                    for name in names.get(..=at).unwrap_or_default() {
                        path.push(b'/');
                        path.extend_from_slice(name);
                    }
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    resolve_in(self.root, &path, flags, self.resolve)
                }
                opened => opened,
            };
            self.stack.push((name.to_vec(), opened?));
        }
        Ok(self.last())
    }

    fn last(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.top.as_fd(), |(_, fd)| fd.as_fd())
    }
}

pub(super) fn resolve_in(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut last = Errno::AGAIN;
    for _ in 0..ATTEMPTS {
        match openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => last = Errno::AGAIN,
            answer => return answer,
        }
    }
    Err(last)
}

/// Whether a file is overlayfs's whiteout: a character device 0/0.
pub(crate) fn is_whiteout(there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice && there.st_rdev == 0
}
