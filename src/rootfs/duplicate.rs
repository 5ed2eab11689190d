//! One container's changes as another's: what `clone` needs. What lies below them is
//! shared, so only what was changed is copied, and where the file system can share
//! extents (btrfs, XFS) not even that.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, SeekFrom, linkat, openat, seek};
use rustix::io::Errno;

use super::error::Error;
use super::writable::{Writable, private};
use crate::archive::make::{self, Finish};
use crate::archive::{Dirs, Entry, Kind, Missing, Node, Step, components, walk};

/// Overlayfs's mark of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

impl Writable {
    /// Copies all changes to where `to` has none yet; they are on disk when this
    /// returns. Nobody may change either meanwhile. What a crash leaves belongs to no
    /// container, and is swept.
    ///
    /// # Errors
    /// If the disk refuses; then nothing is left.
    pub fn duplicate(&self, to: &Writable) -> Result<Duplicate, Error> {
        let duplicate = Duplicate(Some(to.clone()));
        private(&to.state.join("roots"))?;
        private(&to.folder())?;
        tree(&self.folder(), &to.folder(), &is_work)?;
        to_disk(&to.folder())?;
        Ok(duplicate)
    }
}

/// A copy that is no container's yet: dropped before it is kept, it goes.
#[derive(Debug)]
pub struct Duplicate(Option<Writable>);

impl Duplicate {
    /// It is a container's from now on.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Duplicate {
    fn drop(&mut self) {
        if let Some(writable) = &self.0
            && let Err(error) = super::discard(writable)
        {
            tracing::warn!("{error}; it is swept at the next start");
        }
    }
}

/// Whether overlayfs works in this directory of a container's folder: it is empty again
/// with each mount. A container's own directories of that name lie deeper.
fn is_work(path: &[u8]) -> bool {
    match path.strip_prefix(b"sub/") {
        Some(of_part) => of_part.strip_suffix(b"/work").is_some_and(|part| !part.contains(&b'/')),
        None => path == b"work",
    }
}

/// Forces what was copied to disk: a record on disk must not name what is not.
pub(super) fn to_disk(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| Ok(rustix::fs::syncfs(&folder)?))
        .map_err(|e| Error::new("write to disk", folder, e))
}

/// Copies what is in a directory into another, with owners, modes, times, attributes,
/// hard links, deletions and holes. `bare`: directories whose contents are left out.
pub(super) fn tree(from: &Path, to: &Path, bare: &dyn Fn(&[u8]) -> bool) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = openat(CWD, from, flags, Mode::empty())
        .and_then(Node::of)
        .map_err(|e| Error::new("copy", from, e))?;
    tree_of(&source, to, bare)
}

/// The same from a directory that is open.
pub(super) fn tree_of(source: &Node, to: &Path, bare: &dyn Fn(&[u8]) -> bool) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |e: Errno| Error::new("copy to", to, e);
    let top = openat(CWD, to, flags, Mode::empty()).map_err(failed)?;
    let mut copying = Copying {
        dirs: Dirs::new(top.as_fd()).map_err(failed)?,
        linked: HashMap::new(),
        directories: Vec::new(),
    };
    let copied = walk(source, b"", &mut |path, node| {
        let at = |e: io::Error| crate::archive::Error::at("copy", path, e);
        copying.add(path, node).map_err(at)?;
        Ok(if node.is_directory() && bare(path) { Step::Over } else { Step::In })
    });
    copied
        .and_then(|()| copying.finish().map_err(|e| crate::archive::Error::at("finish", b"", e)))
        .and_then(|()| {
            dress(source, top.as_fd()).map_err(|e| crate::archive::Error::at("finish", b".", e))
        })
        .map_err(|e| Error::new("copy to", to, io::Error::other(e)))
}

/// Gives a directory the owner, mode, times and attributes of another.
pub(super) fn dress(source: &Node, directory: BorrowedFd<'_>) -> io::Result<()> {
    let Some(entry) = source.entry(Vec::new())? else { return Ok(()) };
    let directory = openat(directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let owner = (entry.uid, entry.gid);
    let dress = Finish { entry: &entry, owner, born: (0, 0), umask: 0o7777 };
    dress.open(directory.as_fd(), false)?;
    Ok(())
}

struct Copying<'r> {
    dirs: Dirs<'r>,
    /// The first path of each file with several names.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// They get their times when all is in them.
    directories: Vec<Entry>,
}

impl Copying<'_> {
    fn add(&mut self, path: &[u8], node: &Node) -> io::Result<()> {
        // A socket is nothing without its process.
        let Some(entry) = node.entry(path.to_vec())? else { return Ok(()) };
        let names = components(path).unwrap_or_default();
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        let several = node.stat().st_nlink > 1 && !node.is_directory();
        let file = (node.stat().st_dev, node.stat().st_ino);
        if several && let Some(first) = self.linked.get(&file) {
            let wanted = components(first).unwrap_or_default();
            let (last, above) = wanted.split_last().ok_or(Errno::NOENT)?;
            let held: OwnedFd = self.dirs.enter(above, Missing::Fail)?.try_clone_to_owned()?;
            let dir = self.dirs.enter(parents, Missing::Fail)?;
            let (last, name) = (OsStr::from_bytes(last), OsStr::from_bytes(name));
            return Ok(linkat(&held, last, dir, name, AtFlags::empty())?);
        }
        if several {
            self.linked.insert(file, path.to_vec());
        }
        let dir = self.dirs.enter(parents, Missing::Fail)?;
        let made = make::create(dir, name, &entry)?;
        let owner = (entry.uid, entry.gid);
        let dress = Finish { entry: &entry, owner, born: (0, 0), umask: 0o7777 };
        match (&entry.kind, made) {
            (Kind::Directory, _) => {
                if node.xattr(OPAQUE.as_bytes())?.as_deref() == Some(b"y") {
                    make::mark_at(dir, name, OPAQUE, b"y")?;
                }
                self.directories.push(entry);
            }
            (_, Some(made)) => {
                let made = File::from(made);
                content(&node.read()?, &made)?;
                dress.open(made.as_fd(), true)?;
            }
            (_, None) => drop(dress.named(dir, name)?),
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        for entry in std::mem::take(&mut self.directories).iter().rev() {
            let names = components(&entry.path).unwrap_or_default();
            let Some((name, parents)) = names.split_last() else { continue };
            let dir = self.dirs.enter(parents, Missing::Fail)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = openat(dir, OsStr::from_bytes(name), flags, Mode::empty())?;
            let owner = (entry.uid, entry.gid);
            let dress = Finish { entry, owner, born: (0, 0), umask: 0o7777 };
            dress.open(directory.as_fd(), false)?;
        }
        Ok(())
    }
}

/// The content: shared if the file system can (ioctl_ficlone(2)), otherwise copied
/// without its holes.
fn content(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = from.metadata()?.len();
    let mut at = 0;
    while at < size {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(from, SeekFrom::Hole(data))?.min(size);
        let (mut reader, mut writer) = (from, to);
        reader.seek(io::SeekFrom::Start(data))?;
        writer.seek(io::SeekFrom::Start(data))?;
        // In the kernel where it can be, but not from one file system to another, as that
        // of layers is when there are several.
        io::copy(&mut reader.take(end - data), &mut writer)?;
        at = end;
    }
    to.set_len(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_overlayfs_works_in_is_left_out() {
        for work in ["work", "sub/var/work", "sub/var%2Flib/work"] {
            assert!(is_work(work.as_bytes()), "{work}");
        }
        for own in ["upper/work", "upper/a/work", "sub/var/upper/work", "sub/work", "upper"] {
            assert!(!is_work(own.as_bytes()), "{own}");
        }
    }
}
