//! Into a root.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchown, linkat, openat, statat};
use rustix::io::Errno;

use crate::archive::make::{self, Finish};
use crate::archive::{
    Devices, Dirs, Entry, Error, Kind, Limits, Missing, Reader, components, is_overlay_xattr, join,
};
use crate::rootfs::thread;
use crate::sys::userns::IdRange;

/// How an archive is copied into a root.
#[derive(Debug, Clone, Default)]
pub struct Into {
    /// Docker's `noOverwriteDirNonDir`: fail where a directory would be replaced by
    /// something else, or something else by a directory.
    pub keep_kinds: bool,
    /// Docker's `copyUIDGID`: everything is owned by this user and group of the
    /// container, instead of those in the archive.
    pub owner: Option<(u32, u32)>,
    /// The container's user namespace, if it has one.
    pub ids: Option<IdRange>,
    /// The bounds of the archive.
    pub limits: Limits,
    /// The first name of the archive, or `.`, and what it becomes.
    pub rename: Option<(Vec<u8>, Vec<u8>)>,
}

impl Into {
    /// A path of the archive as it is to be.
    fn renamed<'p>(&'p self, mut names: Vec<&'p [u8]>) -> Vec<&'p [u8]> {
        let Some((from, to)) = &self.rename else { return names };
        if from == b"." {
            names.insert(0, to);
        } else if let Some(first) = names.first_mut()
            && *first == from
        {
            *first = to;
        }
        names
    }
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of files, holes counted.
    pub bytes: u64,
}

/// Unpacks an uncompressed archive into a directory of a root, which links may lead
/// to. What is there and has the same name is replaced; directories are merged.
///
/// Errors: [`std::io::ErrorKind::NotFound`] and `NotADirectory` for the directory; what
/// was copied before an error stays, as with Docker.
pub fn copy_in(
    root: BorrowedFd<'_>,
    path: &Path,
    archive: &mut (dyn Read + Send),
    options: &Into,
) -> Result<Copied, Error> {
    let Some(range) = options.ids else {
        return copy(root, path, archive, options);
    };
    // Files are born as the container's root: an idmapped upper directory has no
    // other ids (EOVERFLOW).
    let mut outcome = None;
    thread::with_ids(range.first, range.first, || {
        outcome = Some(copy(root, path, archive, options));
        Ok(())
    })
    .map_err(|e| Error::system("take the ids of the container for", path, e))?;
    outcome.unwrap_or_else(|| Err(Error::system("copy to", path, Errno::INTR)))
}

fn copy(
    root: BorrowedFd<'_>,
    path: &Path,
    archive: &mut dyn Read,
    options: &Into,
) -> Result<Copied, Error> {
    let text = path.as_os_str().as_encoded_bytes();
    let base = if text.is_empty() { b"/" } else { text };
    let mut copying = Copying {
        dirs: Dirs::below(root, base).map_err(|e| Error::system("copy to", path, e))?,
        options,
        umask: make::umask(),
        directories: Vec::new(),
    };
    let mut reader = Reader::new(archive, &options.limits);
    while let Some(entry) = reader.next_entry()? {
        copying.apply(entry, &mut reader)?;
    }
    reader.drain()?;
    copying.finish()?;
    Ok(Copied { entries: reader.entries(), bytes: reader.unpacked() })
}

struct Copying<'r> {
    dirs: Dirs<'r>,
    options: &'r Into,
    umask: u32,
    /// Directories get their times and modes when all files are in them.
    directories: Vec<Entry>,
}

impl Copying<'_> {
    fn apply(&mut self, mut entry: Entry, reader: &mut Reader<'_>) -> Result<(), Error> {
        let limits = &self.options.limits;
        if entry.path.len() > limits.path {
            return Err(reader.exceeded("bytes of a path", limits.path as u64));
        }
        let path = std::mem::take(&mut entry.path);
        let names =
            components(&path).ok_or_else(|| reader.malformed("its path leads out by `..`"))?;
        let names = self.options.renamed(names);
        if names.len() > limits.depth {
            return Err(reader.exceeded("directories in one another", limits.depth as u64));
        }
        entry.path = join(&names);
        entry.xattrs.retain(|(name, _)| !is_overlay_xattr(name));
        // The directory that is copied to stays as it is.
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        match entry.kind {
            // In an overlay it would delete what is below (mknod refuses it there).
            Kind::Character(0, 0) => return Err(reader.malformed("a device 0/0")),
            Kind::Character(..) | Kind::Block(..) => match limits.devices {
                Devices::Make => {}
                Devices::Skip => return Ok(()),
                Devices::Refuse => return Err(reader.malformed("a device")),
            },
            _ => {}
        }
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        (entry.uid, entry.gid) = (self.outside(uid, reader)?, self.outside(gid, reader)?);
        let failed = |e| Error::at("copy", &entry.path, e);
        self.dirs.enter(parents, Missing::Make).map_err(failed)?;
        self.own_made()?;
        let mut attempts = 0;
        let file = loop {
            let made = match &entry.kind {
                Kind::HardLink(target) => self.link(target, parents, name, reader)?,
                _ => {
                    let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
                    make::create(dir, name, &entry)
                }
            };
            match made {
                Ok(file) => break file,
                Err(Errno::EXIST) if attempts < 16 => {
                    // Somebody in the container may put it back each time.
                    attempts += 1;
                    if self.make_room(parents, name, &entry, reader)? {
                        break None;
                    }
                }
                Err(e) => return Err(failed(e)),
            }
        };
        let born = self.born();
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let owner = (entry.uid, entry.gid);
        let dress = Finish { entry: &entry, owner, born, umask: self.umask };
        match (&entry.kind, file) {
            (Kind::HardLink(_), _) => {}
            (Kind::Directory, _) => self.directories.push(entry),
            (_, Some(file)) => {
                make::fill(&file, &entry, reader)?;
                // A set-group-ID or default ACL of the container's directory counts
                // for less than the archive.
                dress.open(file.as_fd(), false).map_err(failed)?;
            }
            (_, None) => drop(dress.named(dir, name).map_err(failed)?),
        }
        Ok(())
    }

    /// Takes away what is in the way; true if a directory may stay as it is.
    fn make_room(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        entry: &Entry,
        reader: &Reader<'_>,
    ) -> Result<bool, Error> {
        let failed = |e| Error::at("replace", &entry.path, e);
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let there = match statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => FileType::from_raw_mode(there.st_mode) == FileType::Directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        let comes = entry.kind == Kind::Directory;
        match (there, comes) {
            (true, true) => return Ok(true),
            (true, false) if self.options.keep_kinds => {
                return Err(reader.malformed("cannot overwrite a directory with a non-directory"));
            }
            (false, true) if self.options.keep_kinds => {
                return Err(reader.malformed("cannot overwrite a non-directory with a directory"));
            }
            _ => {}
        }
        make::remove(dir, name).map_err(failed)?;
        self.dirs.forget();
        Ok(false)
    }

    fn link(
        &mut self,
        target: &[u8],
        parents: &[&[u8]],
        name: &[u8],
        reader: &Reader<'_>,
    ) -> Result<rustix::io::Result<Option<std::os::fd::OwnedFd>>, Error> {
        let bad = || reader.malformed("a hard link to what is outside of the archive");
        let wanted = components(target).filter(|_| !target.contains(&0)).ok_or_else(bad)?;
        let wanted = self.options.renamed(wanted);
        let (last, above) = wanted.split_last().ok_or_else(bad)?;
        if wanted == [parents, &[name]].concat() {
            return Err(reader.malformed("a hard link to itself"));
        }
        let failed = |e| Error::at("link to", target, e);
        let from = self.dirs.enter(above, Missing::Fail).map_err(failed)?;
        let from = from.try_clone_to_owned().map_err(|e| Error::at("link to", target, e))?;
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let (last, name) = (OsStr::from_bytes(last), OsStr::from_bytes(name));
        Ok(linkat(&from, last, dir, name, AtFlags::empty()).map(|()| None))
    }

    /// Directories that the archive only implies belong to the owner of the rest.
    fn own_made(&mut self) -> Result<(), Error> {
        let made = std::mem::take(&mut self.dirs.made);
        let Some((uid, gid)) = self.options.owner else { return Ok(()) };
        for path in made {
            let failed = |e| Error::at("copy", &path, e);
            let shift = self.options.ids.map_or(0, |range| range.first);
            let names = components(&path).unwrap_or_default();
            let Some(directory) = self.open_directory(&names).map_err(failed)? else { continue };
            let (uid, gid) = (uid.saturating_add(shift), gid.saturating_add(shift));
            fchown(&directory, Some(make::uid(uid)), Some(make::gid(gid))).map_err(failed)?;
        }
        Ok(())
    }

    /// A directory of ours; none if somebody has put something else there.
    fn open_directory(
        &mut self,
        names: &[&[u8]],
    ) -> rustix::io::Result<Option<std::os::fd::OwnedFd>> {
        let Some((name, parents)) = names.split_last() else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = self
            .dirs
            .enter(parents, Missing::Fail)
            .and_then(|dir| openat(dir, OsStr::from_bytes(name), flags, Mode::empty()));
        match opened {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        for entry in std::mem::take(&mut self.directories) {
            let failed = |e| Error::at("finish the directory", &entry.path, e);
            let names = components(&entry.path).unwrap_or_default();
            let Some(directory) = self.open_directory(&names).map_err(failed)? else { continue };
            let owner = (entry.uid, entry.gid);
            let dress = Finish { entry: &entry, owner, born: self.born(), umask: self.umask };
            dress.open(directory.as_fd(), false).map_err(failed)?;
        }
        Ok(())
    }

    fn born(&self) -> (u32, u32) {
        let first = self.options.ids.map_or(0, |range| range.first);
        (first, first)
    }

    /// The host's id for an id of the container.
    fn outside(&self, id: u32, reader: &Reader<'_>) -> Result<u32, Error> {
        match self.options.ids {
            None => Ok(id),
            Some(range) if id < range.count => Ok(range.first.saturating_add(id)),
            Some(_) => {
                Err(reader.malformed(format!("the id {id} does not exist in the container")))
            }
        }
    }
}
