//! What a layer takes from the layers below it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::lowers::{Lowers, Seen};
use super::unpack::link_at;
use crate::archive::make::{self, Finish};
use crate::archive::{Dirs, Entry, Error, Missing, Node, components, join};

/// What an archive said without saying all of it: empty for almost every layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    /// Hard links to files that are not in the layer: where, to what, in which order.
    links: BTreeMap<Vec<u8>, (usize, Vec<u8>)>,
    /// Directories that have no entry of their own: with a lower layer that has them,
    /// they are as there. (Bazel and ko make such layers.)
    pub(super) implied: BTreeSet<Vec<u8>>,
}

impl Below {
    /// Whether the layer is the same on whatever it lies, and so can be shared under
    /// its diff id. If not, [`settle`] it and name it by its chain id.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.implied.is_empty()
    }

    /// How many hard links wait for lower layers: without [`settle`] these files are
    /// missing. Implied directories alone are only a question of their modes.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    pub(super) fn note_link(&mut self, path: &[u8], target: &[u8]) {
        // Later ones may lead to earlier ones.
        let order = self.links.values().map(|(order, _)| order + 1).max().unwrap_or(0);
        self.links.insert(path.to_vec(), (order, target.to_vec()));
    }

    /// The archive named it after all.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.links.remove(path);
        self.implied.remove(path);
    }

    pub(super) fn forget_below(&mut self, inner: &[u8]) {
        self.links.retain(|path, _| !path.starts_with(inner));
        self.implied.retain(|path| !path.starts_with(inner));
    }
}

/// Completes a layer with what is below it, the topmost lower layer first: implied
/// directories become as they are there, and a file that a hard link leads to is
/// copied up, as overlayfs does when the link is made in a container.
///
/// An error if a link leads to nothing.
pub fn settle(target: &Path, below: &Below, lowers: &[&Path]) -> Result<(), Error> {
    if below.is_empty() {
        return Ok(());
    }
    let lowers = Lowers::open(lowers)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |e: Errno| Error::system("open the layer's directory", target, e);
    let top = openat(CWD, target, flags, Mode::empty()).map_err(failed)?;
    let mut settling = Settling { dirs: Dirs::new(top.as_fd()).map_err(failed)?, lowers };
    let mut links: Vec<_> = below.links.iter().collect();
    links.sort_by_key(|(_, (order, _))| *order);
    for (path, (_, to)) in links {
        settling.link(path, to)?;
    }
    // After the links, which change times.
    for path in &below.implied {
        settling.imply(path)?;
    }
    Ok(())
}

struct Settling<'t> {
    dirs: Dirs<'t>,
    lowers: Lowers,
}

impl Settling<'_> {
    fn link(&mut self, path: &[u8], to: &[u8]) -> Result<(), Error> {
        let failed = |e| Error::at("link", path, e);
        let wanted = components(to).unwrap_or_default();
        let Some((last, above)) = wanted.split_last() else { return Err(failed(Errno::NOENT)) };
        if let Err(e) = self.present(&wanted)
            && e == Errno::NOENT
        {
            let seen = self.lowers.find(&wanted).map_err(failed)?;
            let seen = seen.filter(|seen| !seen.node.is_directory()).ok_or_else(|| {
                let why = format!(
                    "the hard link's target `{}` is neither in the layer nor below it",
                    String::from_utf8_lossy(to)
                );
                Error::at("link", path, io::Error::new(io::ErrorKind::NotFound, why))
            })?;
            self.copy_up(&wanted, &seen)?;
        }
        let from = self.dirs.enter(above, Missing::Fail).map_err(failed)?;
        let from = from.try_clone_to_owned().map_err(|e| Error::at("link", path, e))?;
        let names = components(path).unwrap_or_default();
        let Some((name, parents)) = names.split_last() else { return Err(failed(Errno::EXIST)) };
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        untouched(dir, || link_at(from.as_fd(), last, dir, name)).map_err(failed)
    }

    fn present(&mut self, names: &[&[u8]]) -> rustix::io::Result<()> {
        let Some((last, above)) = names.split_last() else { return Ok(()) };
        let dir = self.dirs.enter(above, Missing::Fail)?;
        Node::open(dir, last).map(drop)
    }

    /// Copies a file with the directories above it into the layer.
    fn copy_up(&mut self, names: &[&[u8]], seen: &Seen) -> Result<(), Error> {
        let path = join(names);
        let failed = |e: Errno| Error::at("copy up", &path, e);
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        for end in 1..=parents.len() {
            let directory = parents.get(..end).unwrap_or_default();
            let Some((last, above)) = directory.split_last() else { continue };
            let dir = self.dirs.enter(above, Missing::Fail).map_err(failed)?;
            let last = OsStr::from_bytes(last);
            match untouched(dir, || mkdirat(dir, last, Mode::from(0o755))) {
                Ok(()) => self.imply(&join(directory))?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        let Some(entry) = seen.node.entry(path.clone()).map_err(failed)? else {
            return Err(failed(Errno::NOTSUP));
        };
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let made = untouched(dir, || make::create(dir, name, &entry)).map_err(failed)?;
        let dress =
            Finish { entry: &entry, owner: (entry.uid, entry.gid), born: (0, 0), umask: 0o777 };
        match made {
            Some(file) => {
                let mut from = seen.node.read().map_err(failed)?;
                let mut file = std::fs::File::from(file);
                // copy_file_range(2): a reflink where the file system has them.
                io::copy(&mut from, &mut file).map_err(|e| Error::at("copy up", &path, e))?;
                dress.open(file.as_fd(), true).map_err(failed)?;
            }
            None => drop(dress.named(dir, name).map_err(failed)?),
        }
        Ok(())
    }

    /// Makes a directory as it is below, if it is there.
    fn imply(&mut self, path: &[u8]) -> Result<(), Error> {
        let failed = |e| Error::at("finish the directory", path, e);
        let names = components(path).unwrap_or_default();
        let seen = self.lowers.find(&names).map_err(failed)?;
        let Some(seen) = seen.filter(|seen| seen.node.is_directory()) else { return Ok(()) };
        let Some(entry) = seen.node.entry(path.to_vec()).map_err(failed)? else { return Ok(()) };
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        dress_directory(dir, name, &entry).map_err(failed)
    }
}

fn dress_directory(dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(dir, OsStr::from_bytes(name), flags, Mode::empty())?;
    let dress = Finish { entry, owner: (entry.uid, entry.gid), born: (0, 0), umask: 0 };
    dress.open(directory.as_fd(), false).map(drop)
}

/// Does something in a directory whose time stays as the archive said.
fn untouched<T>(
    dir: BorrowedFd<'_>,
    work: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    let before = Node::of(rustix::io::fcntl_dupfd_cloexec(dir, 0)?)?.mtime();
    let done = work()?;
    rustix::fs::utimensat(dir, "", &make::times(before), AtFlags::EMPTY_PATH)?;
    Ok(done)
}
