//! A container's root, from what it is made of to descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::cover;
use super::error::Error;
use super::host;
use super::overlay::{self, Layers};
use super::view::{self, Kind, Owned, Part, STANDARD};
use super::volume::Bind;
use super::writable::Writable;
use crate::sys::mount::{self, NODEV, NOSUID, RDONLY};
use crate::sys::userns::IdRange;

/// The ids of a container: a range of the host's, and a user namespace with that
/// mapping.
#[derive(Debug, Clone, Copy)]
pub struct IdMap<'a> {
    /// Which ids of the host they are.
    pub range: IdRange,
    /// A namespace whose id 0 is the range's first, from [`super::userns_with_range`].
    pub userns: BorrowedFd<'a>,
}

/// What is below the container's own changes. None of it is ever written to.
#[derive(Debug, Clone)]
pub enum Lower {
    /// A view of the host's programs, without its secrets.
    Host {
        /// Paths that would be hidden, and are not: they and all below them.
        expose: Vec<PathBuf>,
        /// Berth's folders (state, run, logs, manifests), hidden wherever they are.
        own: Vec<PathBuf>,
    },
    /// Directories, the topmost first: one `rootfs`, or the layers of an image.
    Layers(Vec<PathBuf>),
}

impl Lower {
    /// What `rootfs = PATH` means: any path that leads to `/` is the host.
    pub fn of_rootfs(rootfs: &Path, expose: Vec<PathBuf>, own: Vec<PathBuf>) -> Lower {
        match rootfs.canonicalize() {
            Ok(path) if path == Path::new("/") => Lower::Host { expose, own },
            _ => Lower::Layers(vec![rootfs.to_owned()]),
        }
    }
}

/// How ids on disk and in the container belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The container has the host's ids.
    Host,
    /// By idmapped mounts: on disk is what the container sees (root is 0).
    Idmapped,
    /// The file system of the state directory can't be idmapped (tmpfs before Linux
    /// 6.3): on disk are the host's ids of the range, and the range must stay.
    Shifted,
}

/// Mounts to be moved into a new mount namespace, the root first, then the others
/// in their order.
#[derive(Debug)]
pub struct Mounts {
    /// The root, detached.
    pub root: OwnedFd,
    /// What is mounted in it.
    pub submounts: Vec<Submount>,
}

/// A further mount of a host view.
#[derive(Debug)]
pub struct Submount {
    /// The absolute path in the root. Resolve it there without following links:
    /// the container may have changed what leads to it.
    pub target: PathBuf,
    /// The detached mount: a directory (an overlay, writable), or a single file or
    /// socket (read-only).
    pub mount: OwnedFd,
}

/// A prepared root. It is held for the container's life, never moved itself:
/// each launch takes clones of it by [`Root::again`].
#[derive(Debug)]
pub struct Root {
    /// The detached mounts. Where [`Root::again`] answers `None`, the launch moves
    /// these.
    pub mounts: Mounts,
    /// How ids on disk and in the container belong together.
    pub ids: Ids,
    /// Lower parts that can't be idmapped (NFS, overlay): the container sees their
    /// files as nobody's, reads what others may, and can't change them. To be told.
    pub unmapped: Vec<PathBuf>,
    /// The directories below it, and which they were: device and inode.
    lowers: Vec<(PathBuf, (u64, u64))>,
}

impl Root {
    /// Clones of the mounts, for one more launch on the same files. `None` where the
    /// kernel can't clone a detached mount (before Linux 6.15), or where another
    /// directory has taken the place of one below it (a damaged layer that was unpacked
    /// again): drop this root, and prepare it anew.
    pub fn again(&self) -> Result<Option<Mounts>, Error> {
        let is_same = |(path, was): &(PathBuf, (u64, u64))| {
            std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == *was)
        };
        if !self.lowers.iter().all(is_same) {
            return Ok(None);
        }
        let Some(root) = reclone(self.mounts.root.as_fd(), Path::new("/"))? else {
            return Ok(None);
        };
        let mut submounts = Vec::with_capacity(self.mounts.submounts.len());
        for Submount { target, mount } in &self.mounts.submounts {
            let Some(mount) = reclone(mount.as_fd(), target)? else {
                return Ok(None);
            };
            submounts.push(Submount { target: target.clone(), mount });
        }
        Ok(Some(Mounts { root, submounts }))
    }
}

fn reclone(mount: BorrowedFd<'_>, target: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match open_tree(mount, "", flags) {
        Ok(clone) => Ok(Some(clone)),
        Err(Errno::INVAL) => Ok(None),
        Err(e) => Err(Error::new("clone the mount of", target, e)),
    }
}

/// Makes the root of a container: `lower` with the container's own changes over
/// it, as detached mounts. Without `ids` the container has the host's.
pub fn prepare(lower: &Lower, writable: &Writable, ids: Option<IdMap<'_>>) -> Result<Root, Error> {
    match lower {
        Lower::Layers(layers) => {
            let mut work = Workshop { writable, ids, way: None, unmapped: Vec::new() };
            let mut lowers = Vec::with_capacity(layers.len());
            for layer in layers {
                lowers.push(work.lower(layer, "use as a root")?);
            }
            if lowers.is_empty() {
                let why = "it has no layer";
                return Err(Error::refused("make the root of", Path::new(&writable.id), why));
            }
            let root = work.overlay(&lowers, Path::new("/"), STANDARD)?;
            let mut root = work.root(Mounts { root, submounts: Vec::new() });
            for (path, lower) in layers.iter().zip(&lowers) {
                let there = fstat(lower).map_err(|e| Error::new("look at", path, e))?;
                root.lowers.push((path.clone(), (there.st_dev, there.st_ino)));
            }
            Ok(root)
        }
        Lower::Host { expose, own } => {
            let mut own = own.clone();
            own.push(writable.state.clone());
            let rules = host::rules(&own, expose)?;
            let parts = view::plan(&host::look(&rules)?);
            let mut work = Workshop { writable, ids, way: None, unmapped: Vec::new() };
            let mut parts = parts.iter();
            let root = match parts.next() {
                Some(part) => work.part(part)?,
                None => return Err(Error::refused("view", Path::new("/"), "it is empty")),
            };
            let mut submounts = Vec::with_capacity(parts.len());
            for part in parts {
                let mount = work.part(part)?;
                submounts.push(Submount { target: part.at.clone(), mount });
            }
            Ok(work.root(Mounts { root, submounts }))
        }
    }
}

/// What is known while a root is made.
struct Workshop<'a> {
    writable: &'a Writable,
    ids: Option<IdMap<'a>>,
    /// How the upper directories are owned; all lie on one file system.
    way: Option<Ids>,
    unmapped: Vec<PathBuf>,
}

impl Workshop<'_> {
    fn root(self, mounts: Mounts) -> Root {
        Root {
            mounts,
            ids: self.way.unwrap_or(Ids::Host),
            unmapped: self.unmapped,
            lowers: Vec::new(),
        }
    }

    fn part(&mut self, part: &Part) -> Result<OwnedFd, Error> {
        match part.kind {
            Kind::Directory => {
                let there =
                    std::fs::metadata(&part.at).map_err(|e| Error::new("look at", &part.at, e))?;
                let owned = host::owned(&there);
                let mut lowers = Vec::with_capacity(2);
                if !part.covers.is_empty() {
                    let range = self.ids.map(|ids| ids.range);
                    let layer = cover::build(&part.covers, owned, range)
                        .map_err(|e| Error::new("cover the secrets of", &part.at, e))?;
                    lowers.push(layer);
                }
                lowers.push(self.lower(&part.at, "view")?);
                self.overlay(&lowers, &part.at, owned)
            }
            Kind::Symlink | Kind::File => {
                let file = self.lower(&part.at, "view")?;
                mount::set_attributes(file.as_fd(), RDONLY | NOSUID | NODEV, false)
                    .map_err(|e| Error::new("make read-only", &part.at, e))?;
                Ok(file)
            }
        }
    }

    /// A clone of one mount at a directory or file, idmapped if that can be.
    fn lower(&mut self, path: &Path, step: &'static str) -> Result<OwnedFd, Error> {
        let clone = clone_of(path, false).map_err(|e| Error::new(step, path, e))?;
        if let Some(ids) = self.ids {
            match mount::idmap(clone.as_fd(), ids.userns, false) {
                Ok(()) => {}
                Err(e) if cant_idmap(&e) => self.unmapped.push(path.to_owned()),
                Err(e) => return Err(Error::new("map the ids of", path, e)),
            }
        }
        Ok(clone)
    }

    /// The container's own directories over the lower ones.
    fn overlay(
        &mut self,
        lowers: &[OwnedFd],
        target: &Path,
        root: Owned,
    ) -> Result<OwnedFd, Error> {
        let mut branch = self.writable.branch(target, root)?;
        let folder = branch.folder.clone();
        let mount = clone_of(&folder, false).map_err(|e| Error::new("open", &folder, e))?;
        let first = self.ids.map_or(0, |ids| ids.range.first);
        let way = match self.ids {
            None => Ids::Host,
            // Made while it could not be idmapped: it stays as it is.
            Some(_) if branch.owner != 0 => Ids::Shifted,
            Some(ids) => match mount::idmap(mount.as_fd(), ids.userns, false) {
                Ok(()) => Ids::Idmapped,
                Err(e) if cant_idmap(&e) => Ids::Shifted,
                Err(e) => return Err(Error::new("map the ids of", &folder, e)),
            },
        };
        if way == Ids::Shifted || branch.owner != 0 {
            branch.shift(first)?;
        }
        self.way = Some(way);
        let layers = Layers {
            lowers: lowers.iter().map(OwnedFd::as_fd).collect(),
            branch: Some(mount.as_fd()),
            root: first,
        };
        overlay::mount(&layers).map_err(|refusal| {
            let remedy = match (refusal.error.raw_os_error(), refusal.log.as_str()) {
                (Some(libc::ENODEV), _) => {
                    "this kernel has no overlay file system (CONFIG_OVERLAY_FS)".to_owned()
                }
                (_, "") => String::new(),
                (_, log) => format!("the kernel says: {log}"),
            };
            Error::new("mount the overlay over", target, refusal.error).with_remedy(remedy)
        })
    }
}

/// Directories laid over one another, the topmost first, to be read from outside: owned
/// as on disk, written to by nobody.
pub fn read_only_view(layers: &[PathBuf]) -> Result<OwnedFd, Error> {
    let open = |path: &PathBuf| clone_of(path, false).map_err(|e| Error::new("open", path, e));
    let mut lowers = layers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    // An overlay without an upper directory has at least two lower ones.
    if lowers.len() < 2 {
        let first = lowers.pop();
        return first
            .ok_or_else(|| Error::refused("make a view of", Path::new("/"), "there is no layer"));
    }
    let layers =
        Layers { lowers: lowers.iter().map(OwnedFd::as_fd).collect(), branch: None, root: 0 };
    overlay::mount(&layers)
        .map_err(|refusal| Error::new("mount a view of", Path::new("/"), refusal.error))
}

/// The files of an image to be looked at in a container, at `inner` in it: owned as the
/// container sees it, and written to by nobody.
pub fn image_view(
    layers: &[PathBuf],
    inner: Option<&Path>,
    ids: Option<IdMap<'_>>,
) -> Result<Bind, Error> {
    let mut idmapped = true;
    let mut lower = |path: &PathBuf| -> Result<OwnedFd, Error> {
        let clone = clone_of(path, false).map_err(|e| Error::new("open", path, e))?;
        if let Some(ids) = ids {
            match mount::idmap(clone.as_fd(), ids.userns, false) {
                Ok(()) => {}
                // Its files are nobody's in there, and can be read all the same.
                Err(e) if cant_idmap(&e) => idmapped = false,
                Err(e) => return Err(Error::new("map the ids of", path, e)),
            }
        }
        Ok(clone)
    };
    let mut lowers = layers.iter().map(&mut lower).collect::<Result<Vec<_>, _>>()?;
    let whole = Path::new("/");
    let mut view = match lowers.len() {
        0 => return Err(Error::refused("make a view of", whole, "the image has no layer")),
        1 => lowers.remove(0),
        _ => {
            let lowers = lowers.iter().map(OwnedFd::as_fd).collect();
            let root = ids.map_or(0, |ids| ids.range.first);
            overlay::mount(&Layers { lowers, branch: None, root })
                .map_err(|refusal| Error::new("mount a view of", whole, refusal.error))?
        }
    };
    if let Some(inner) = inner {
        view = super::assemble::part_of(&view, inner)
            .map_err(|e| Error::new("find in the image", inner, e))?;
    }
    mount::set_attributes(view.as_fd(), RDONLY | NOSUID | NODEV, false)
        .map_err(|e| Error::new("make read-only", whole, e))?;
    let there = fstat(&view).map_err(|e| Error::new("look at", whole, e))?;
    let directory = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
    Ok(Bind { mount: view, directory, idmapped })
}

/// A detached clone of what is at a path, with all that is mounted below it when
/// `recursive`. Nothing that is mounted on it reaches the host, nor the other way round.
pub(super) fn clone_of(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let clone = open_tree(CWD, path, flags)?;
    mount::make_private(clone.as_fd(), recursive)?;
    Ok(clone)
}

/// A detached, read-only clone of the one mount at a path of the host.
pub fn read_only_clone(path: &Path) -> Result<OwnedFd, Error> {
    let clone = clone_of(path, false).map_err(|e| Error::new("clone", path, e))?;
    mount::set_attributes(clone.as_fd(), RDONLY | NOSUID | NODEV | mount::NOEXEC, false)
        .map_err(|e| Error::new("make read-only", path, e))?;
    Ok(clone)
}

/// The same that can be written to, as far as the host lets its reader.
pub fn clone_of_host(path: &Path) -> Result<OwnedFd, Error> {
    let clone = clone_of(path, false).map_err(|e| Error::new("clone", path, e))?;
    mount::set_attributes(clone.as_fd(), NOSUID | NODEV | mount::NOEXEC, false)
        .map_err(|e| Error::new("set attributes of", path, e))?;
    Ok(clone)
}

/// A detached clone of what is at a path of another mount namespace, found within the
/// root there; only of a file system of this kind (statfs(2)) if one is named.
pub fn clone_inside(namespace: &OwnedFd, path: &Path, only: Option<i64>) -> Result<OwnedFd, Error> {
    super::thread::in_mounts_of(namespace, || {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let is_of = |kind| rustix::fs::fstatfs(&place).is_ok_and(|fs| fs.f_type == kind);
        if only.is_some_and(|kind| !is_of(kind)) {
            return Err(io::Error::other("another file system is there"));
        }
        let clone = open_tree(
            &place,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )?;
        mount::make_private(clone.as_fd(), false)?;
        Ok(clone)
    })
    .map_err(|e| Error::new("clone", &Path::new("/").join(path), e))
}

/// `TMPFS_MAGIC` of statfs(2).
pub const TMPFS: i64 = 0x0102_1994;

/// mount_setattr(2): EINVAL when the file system can't be idmapped; EPERM when the
/// mount is idmapped already, or its file system belongs to another user namespace.
pub(super) fn cant_idmap(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::EOPNOTSUPP))
}
