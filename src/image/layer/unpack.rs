//! One layer's archive into an empty directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fremovexattr, linkat, mkdirat, mknodat, openat, statat,
};
use rustix::io::Errno;

use super::below::Below;
use super::{AUFS, OPAQUE, OPAQUE_XATTR, WHITEOUT};
use crate::archive::make::{self, Finish};
use crate::archive::{
    Devices, Dirs, Entry, Error, Kind, Limits, Missing, Reader, Time, components, is_overlay_xattr,
    is_whiteout, join,
};

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries of the archive, headers of headers counted.
    pub entries: u64,
    /// Bytes of the uncompressed stream, which was read to its end.
    pub stream: u64,
    /// Bytes of files, holes counted.
    pub bytes: u64,
    /// The layer hides everything below it. Overlayfs does not look for the mark at
    /// the top, so such a layer must be mounted without lower ones.
    pub opaque: bool,
    /// Devices that [`Devices::Skip`] left out, and aufs's own files.
    pub skipped: u64,
    /// Attributes that were left out: overlayfs's own, and what the file system
    /// can't have.
    pub lost_xattrs: u64,
    /// What depends on the layers below: see [`settle`](super::settle). If it is not
    /// empty, the directory belongs to the chain and not to the layer alone.
    pub below: Below,
}

/// Unpacks a layer's uncompressed archive into an empty directory of its own, as
/// root, and reads the stream to its end.
///
/// Later entries replace earlier ones of the same name, as with Docker; a deletion
/// counts for lower layers only, wherever it stands (OCI image-spec, layer.md). On
/// an error the directory is half full and the caller's to remove.
pub fn unpack(reader: &mut dyn Read, target: &Path, limits: &Limits) -> Result<Unpacked, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |e: Errno| Error::system("open the layer's directory", target, e);
    let top = openat(CWD, target, flags, Mode::empty()).map_err(failed)?;
    // A default ACL of whoever holds the store would be inherited by every file.
    match fremovexattr(&top, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
        Err(e) => return Err(failed(e)),
    }
    let mut layer = Layer {
        dirs: Dirs::new(top.as_fd()).map_err(failed)?,
        limits: *limits,
        umask: make::umask(),
        directories: BTreeMap::new(),
        unpacked: Unpacked::default(),
    };
    layer.directories.insert(Vec::new(), unnamed_directory());
    let mut reader = Reader::new(reader, limits);
    while let Some(mut entry) = reader.next_entry()? {
        layer.apply(&mut entry, &mut reader)?;
    }
    reader.drain()?;
    layer.finish(&top)?;
    Ok(Unpacked {
        entries: reader.entries(),
        stream: reader.offset(),
        bytes: reader.unpacked(),
        ..layer.unpacked
    })
}

/// Brings a layer's directory to the disk: one syncfs(2) for all its files.
pub fn sync(target: &Path) -> Result<(), Error> {
    let failed = |e: Errno| Error::system("sync", target, e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, target, flags, Mode::empty()).map_err(failed)?;
    rustix::fs::syncfs(top).map_err(failed)
}

/// What a directory is that the archive only implies. The time is fixed, so that the
/// same archive gives the same layer.
fn unnamed_directory() -> Entry {
    Entry {
        path: Vec::new(),
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

struct Layer<'t> {
    dirs: Dirs<'t>,
    limits: Limits,
    umask: u32,
    /// How directories are to be in the end. Until then they are 0755 and root's, or
    /// their times would change with every file, and set-group-ID would be inherited.
    directories: BTreeMap<Vec<u8>, Entry>,
    unpacked: Unpacked,
}

impl Layer<'_> {
    fn apply(&mut self, entry: &mut Entry, reader: &mut Reader<'_>) -> Result<(), Error> {
        if entry.path.len() > self.limits.path {
            return Err(reader.exceeded("bytes of a path", self.limits.path as u64));
        }
        let path = std::mem::take(&mut entry.path);
        let names = components(&path)
            .ok_or_else(|| reader.malformed("its path leads out of the layer by `..`"))?;
        if names.len() > self.limits.depth {
            let depth = self.limits.depth as u64;
            return Err(reader.exceeded("directories in one another", depth));
        }
        if names.iter().any(|name| name.len() > 255) {
            return Err(reader.exceeded("bytes of a file's name", 255));
        }
        let attributes = entry.xattrs.len();
        entry.xattrs.retain(|(name, _)| !is_overlay_xattr(name));
        self.unpacked.lost_xattrs += (attributes - entry.xattrs.len()) as u64;
        entry.path = join(&names);
        let Some((name, parents)) = names.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(reader.malformed("the top is not a directory"));
            }
            self.directories.insert(Vec::new(), entry.clone());
            return Ok(());
        };
        if parents.iter().any(|name| name.starts_with(WHITEOUT)) {
            if parents.iter().any(|name| name.starts_with(AUFS)) {
                self.unpacked.skipped += 1;
                return Ok(());
            }
            return Err(reader.malformed("a file in what is a deletion's name (`.wh.`)"));
        }
        match *name {
            OPAQUE => self.hide(parents, reader),
            name if name.starts_with(AUFS) => {
                self.unpacked.skipped += 1;
                Ok(())
            }
            name => match name.strip_prefix(WHITEOUT) {
                Some(b"" | b"." | b"..") => Err(reader.malformed("a deletion of nothing")),
                Some(hidden) => self.delete(parents, hidden, reader),
                None => self.make(parents, name, entry, reader),
            },
        }
    }

    /// The directory of an entry, made if the archive has not named it (yet).
    fn enter(&mut self, names: &[&[u8]], reader: &Reader<'_>) -> Result<(), Error> {
        let failed = |path: &[u8], e| match e {
            Errno::NOTDIR => reader.malformed("one of the directories it is in is a file"),
            Errno::NOENT | Errno::LOOP => {
                reader.malformed("one of the directories it is in is a link to nothing")
            }
            Errno::XDEV => reader.malformed("it leads out of the layer"),
            e => Error::at("make", path, e),
        };
        while let Err(e) = self.dirs.enter(names, Missing::Make) {
            if e != Errno::NOTDIR || !self.reveal(names)? {
                return Err(failed(&join(names), e));
            }
        }
        for made in std::mem::take(&mut self.dirs.made) {
            self.directories.insert(made.clone(), unnamed_directory());
            self.unpacked.below.implied.insert(made);
        }
        Ok(())
    }

    /// A file below what this layer deleted: a new directory that hides the old one.
    /// False if no deletion is in the way.
    fn reveal(&mut self, names: &[&[u8]]) -> Result<bool, Error> {
        for end in 1..=names.len() {
            let path = names.get(..end).unwrap_or_default();
            let Some((name, parents)) = path.split_last() else { continue };
            let Ok(dir) = self.dirs.enter(parents, Missing::Fail) else { return Ok(false) };
            match statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if is_whiteout(&there) => {
                    let failed = |e| Error::at("make", &join(path), e);
                    make::remove(dir, name).map_err(failed)?;
                    mkdirat(dir, OsStr::from_bytes(name), Mode::from(0o755)).map_err(failed)?;
                    make::mark_at(dir, name, OPAQUE_XATTR, b"y").map_err(failed)?;
                    // Not implied from below: what is there is not this directory.
                    self.directories.insert(join(path), unnamed_directory());
                    return Ok(true);
                }
                Ok(_) => {}
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// `.wh..wh..opq`
    fn hide(&mut self, parents: &[&[u8]], reader: &Reader<'_>) -> Result<(), Error> {
        if parents.is_empty() {
            self.unpacked.opaque = true;
        }
        self.enter(parents, reader)?;
        let failed = |e| Error::at("mark as opaque", &join(parents), e);
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        make::mark(dir, OPAQUE_XATTR, b"y").map_err(failed)
    }

    /// `.wh.NAME`: a character device 0/0. What this layer itself has under the name
    /// stays, and hides what is below by itself; a directory only if it is opaque.
    fn delete(&mut self, parents: &[&[u8]], name: &[u8], reader: &Reader<'_>) -> Result<(), Error> {
        self.enter(parents, reader)?;
        let path = join(&[parents, &[name]].concat());
        let failed = |e| Error::at("make a whiteout for", &path, e);
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let device = FileType::CharacterDevice;
        match mknodat(dir, OsStr::from_bytes(name), device, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let there = statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed)?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    make::mark_at(dir, name, OPAQUE_XATTR, b"y").map_err(failed)?;
                }
                Ok(())
            }
            Err(e) => Err(failed(e)),
        }
    }

    fn make(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<'_>,
    ) -> Result<(), Error> {
        match entry.kind {
            Kind::Character(0, 0) => {
                return Err(reader.malformed("a device 0/0, which is how overlays delete files"));
            }
            Kind::Character(..) | Kind::Block(..) => match self.limits.devices {
                Devices::Make => {}
                Devices::Skip => {
                    self.unpacked.skipped += 1;
                    return Ok(());
                }
                Devices::Refuse => return Err(reader.malformed("a device")),
            },
            Kind::Symlink(ref target) if target.is_empty() || target.contains(&0) => {
                return Err(reader.malformed("a symbolic link to nothing"));
            }
            _ => {}
        }
        self.enter(parents, reader)?;
        if let Kind::HardLink(target) = &entry.kind {
            return self.link(parents, name, &entry.path, target, reader);
        }
        let failed = |e| Error::at("make", &entry.path, e);
        let mut hides = false;
        let file = loop {
            let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
            match make::create(dir, name, entry) {
                Ok(file) => break file,
                Err(Errno::EXIST) => match self.replace(parents, name, entry)? {
                    Replaced::Kept => break None,
                    Replaced::Removed => {}
                    Replaced::Revealed => hides = true,
                },
                Err(e) => return Err(failed(e)),
            }
        };
        self.unpacked.below.forget(&entry.path);
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let dress =
            Finish { entry, owner: (entry.uid, entry.gid), born: (0, 0), umask: self.umask };
        match (&entry.kind, file) {
            (Kind::Directory, _) => {
                if hides {
                    make::mark_at(dir, name, OPAQUE_XATTR, b"y").map_err(failed)?;
                }
                self.directories.insert(entry.path.clone(), entry.clone());
            }
            (_, Some(file)) => {
                make::fill(&file, entry, reader)?;
                self.unpacked.lost_xattrs += dress.open(file.as_fd(), true).map_err(failed)?;
            }
            (_, None) => self.unpacked.lost_xattrs += dress.named(dir, name).map_err(failed)?,
        }
        Ok(())
    }

    /// Makes room for an entry whose name is taken.
    fn replace(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        entry: &Entry,
    ) -> Result<Replaced, Error> {
        let failed = |e| Error::at("replace", &entry.path, e);
        let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
        let there =
            statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
        if directory && entry.kind == Kind::Directory {
            return Ok(Replaced::Kept);
        }
        make::remove(dir, name).map_err(failed)?;
        if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
            self.dirs.forget();
        }
        self.unpacked.below.forget(&entry.path);
        if directory {
            self.forget_below(&entry.path);
        }
        Ok(if is_whiteout(&there) { Replaced::Revealed } else { Replaced::Removed })
    }

    /// A directory was removed: nothing below it is to be set any more.
    fn forget_below(&mut self, path: &[u8]) {
        self.directories.remove(path);
        let inner = [path, b"/"].concat();
        let gone: Vec<Vec<u8>> = self
            .directories
            .range::<[u8], _>((Bound::Included(inner.as_slice()), Bound::Unbounded))
            .map(|(known, _)| known.clone())
            .take_while(|known| known.starts_with(&inner))
            .collect();
        for gone in gone {
            self.directories.remove(&gone);
        }
        self.unpacked.below.forget_below(&inner);
    }

    /// A hard link: to a file of this layer, or noted for [`settle`](super::settle).
    fn link(
        &mut self,
        parents: &[&[u8]],
        name: &[u8],
        path: &[u8],
        target: &[u8],
        reader: &Reader<'_>,
    ) -> Result<(), Error> {
        let bad = || reader.malformed("a hard link to what is outside of the layer");
        let wanted = components(target).filter(|_| !target.contains(&0)).ok_or_else(bad)?;
        let (last, above) = wanted.split_last().ok_or_else(bad)?;
        if wanted == [parents, &[name]].concat() {
            return Err(reader.malformed("a hard link to itself"));
        }
        let failed = |e| Error::at("link", path, e);
        let from: Option<OwnedFd> = match self.dirs.enter(above, Missing::Fail) {
            Ok(dir) => Some(dir.try_clone_to_owned().map_err(|e| Error::at("link", path, e))?),
            Err(Errno::NOENT) => None,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(bad()),
            Err(e) => return Err(failed(e)),
        };
        let there = from
            .as_ref()
            .map(|dir| statat(dir, OsStr::from_bytes(last), AtFlags::SYMLINK_NOFOLLOW));
        let missing = match &there {
            None | Some(Err(Errno::NOENT)) => true,
            Some(Err(e)) => return Err(failed(*e)),
            Some(Ok(there)) if is_whiteout(there) => {
                return Err(reader.malformed("a hard link to what the same layer deletes"));
            }
            Some(Ok(there)) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                return Err(reader.malformed("a hard link to a directory"));
            }
            Some(Ok(_)) => false,
        };
        if missing {
            // The name is made free, or a later link to it would find what was there.
            let plain = Entry { path: path.to_vec(), kind: Kind::Fifo, ..unnamed_directory() };
            let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
            if statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                self.replace(parents, name, &plain)?;
            }
            self.unpacked.below.note_link(path, &join(&wanted));
            return Ok(());
        }
        loop {
            let dir = self.dirs.enter(parents, Missing::Fail).map_err(failed)?;
            let from = from.as_ref().map_or(dir, |from| from.as_fd());
            match link_at(from, last, dir, name) {
                Ok(()) => break,
                Err(Errno::EXIST) => {
                    let plain =
                        Entry { path: path.to_vec(), kind: Kind::Fifo, ..unnamed_directory() };
                    self.replace(parents, name, &plain)?;
                }
                Err(e) => return Err(failed(e)),
            }
        }
        self.unpacked.below.forget(path);
        Ok(())
    }

    /// Directories get their owners, modes, attributes and times at last.
    fn finish(&mut self, top: &OwnedFd) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, entry) in std::mem::take(&mut self.directories) {
            let failed = |e| Error::at("finish the directory", &path, e);
            let names = components(&path).unwrap_or_default();
            let opened = match names.split_last() {
                None => openat(top, ".", flags, Mode::empty()),
                Some((name, parents)) => self
                    .dirs
                    .enter(parents, Missing::Fail)
                    .and_then(|dir| openat(dir, OsStr::from_bytes(name), flags, Mode::empty())),
            };
            let directory = match opened {
                Ok(directory) => directory,
                // Replaced under another name that leads to it by a link.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(failed(e)),
            };
            let owner = (entry.uid, entry.gid);
            let dress = Finish { entry: &entry, owner, born: (0, 0), umask: self.umask };
            self.unpacked.lost_xattrs += dress.open(directory.as_fd(), false).map_err(failed)?;
        }
        Ok(())
    }
}

/// What became of a name that was taken.
enum Replaced {
    /// A directory for a directory: it stays.
    Kept,
    Removed,
    /// A deletion by this same layer: a directory in its place must hide what is below.
    Revealed,
}

/// The file itself if it is a symbolic link.
pub(super) fn link_at(
    from: BorrowedFd<'_>,
    target: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> rustix::io::Result<()> {
    linkat(from, OsStr::from_bytes(target), dir, OsStr::from_bytes(name), AtFlags::empty())
}
