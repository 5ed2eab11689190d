//! Where a container's changes lie on disk.
//!
//! `<state>/roots/<id>/` is 0700 and root's: the set-user-ID files that a container
//! makes are real ones on disk. In it `upper` and `work` for the root itself, and
//! `sub/<path>/upper` and `work` for each further file system of a host view.
//! Making it needs no fsync: one that a power cut ate is made again, and is empty
//! as it was.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::view::Owned;

/// The folder with a container's changes; its name is the container's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writable {
    pub(super) state: PathBuf,
    pub(super) id: String,
}

/// An upper and a work directory: both in `folder`, as an overlay wants them on
/// one mount.
#[derive(Debug)]
pub(super) struct Branch {
    pub folder: PathBuf,
    /// The id that owns the folders on disk: 0 when they are to be idmapped.
    pub owner: u32,
}

impl Writable {
    /// The changes of container `id` below the state directory. Nothing is made.
    pub fn at(state_dir: &Path, id: &str) -> Result<Writable, Error> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if id.is_empty() || id.starts_with('.') || id.len() > 200 || !plain {
            let why = "an id has letters, digits, `.`, `_` and `-`, and no leading dot";
            return Err(Error::refused("use the container id", Path::new(id), why));
        }
        Ok(Writable { state: state_dir.to_owned(), id: id.to_owned() })
    }

    /// The container's folder, 0700.
    pub fn folder(&self) -> PathBuf {
        self.state.join("roots").join(&self.id)
    }

    /// What the container changed in its root, as an overlay's upper directory:
    /// what commit and diff read.
    pub fn upper(&self) -> PathBuf {
        self.folder().join("upper")
    }

    /// Makes what is missing of the folder for the mount at `target` (`/` is the
    /// root itself). `root` is the mode and owner of a new upper directory, which
    /// are those of the mount's root.
    pub(super) fn branch(&self, target: &Path, root: Owned) -> Result<Branch, Error> {
        let mut folder = self.folder();
        private(&self.state.join("roots"))?;
        private(&folder)?;
        if target != Path::new("/") {
            private(&folder.join("sub"))?;
            folder = folder.join("sub").join(escaped(target)?);
            private(&folder)?;
        }
        let upper = folder.join("upper");
        if make(&upper, root.mode)? && (root.uid, root.gid) != (0, 0) {
            lchown(&upper, Some(root.uid), Some(root.gid))
                .map_err(|e| Error::new("give away", &upper, e))?;
        }
        make(&folder.join("work"), 0o755)?;
        // The work directory is never visible to the container, so it can't have
        // changed hands: its owner says how the upper one was made.
        let work = folder.join("work");
        let owner = fs::symlink_metadata(&work).map_err(|e| Error::new("look at", &work, e))?;
        Ok(Branch { folder, owner: owner.uid() })
    }
}

impl Branch {
    /// Gives both directories to `owner`, for a file system that can't be idmapped.
    /// Refused once the container has written with another owner.
    pub(super) fn shift(&mut self, owner: u32) -> Result<(), Error> {
        if self.owner == owner {
            return Ok(());
        }
        let upper = self.folder.join("upper");
        let used = fs::read_dir(&upper).map_err(|e| Error::new("read", &upper, e))?.next();
        if used.is_some() {
            let why = format!(
                "its files belong to id {} on a file system that can't be idmapped, and \
                 the container now starts at id {owner}: remove and create the container",
                self.owner
            );
            return Err(Error::refused("reuse", &upper, why));
        }
        // The work directory last: its owner is the record.
        for name in ["upper", "work"] {
            let path = self.folder.join(name);
            lchown(&path, Some(owner), Some(owner))
                .map_err(|e| Error::new("give away", &path, e))?;
        }
        self.owner = owner;
        Ok(())
    }
}

/// A folder that only root enters, also if it was there with another mode.
pub(super) fn private(path: &Path) -> Result<(), Error> {
    make(path, 0o700)?;
    let failed = |e| Error::new("protect", path, e);
    let there = fs::symlink_metadata(path).map_err(failed)?;
    if !there.is_dir() {
        return Err(Error::refused("use", path, "it is not a directory"));
    }
    if there.uid() != 0 {
        lchown(path, Some(0), Some(0)).map_err(failed)?;
    }
    if there.mode() & 0o7777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Makes a directory; false if it was there.
fn make(path: &Path, mode: u32) -> Result<bool, Error> {
    let mut builder = DirBuilder::new();
    builder.mode(mode);
    let made = match builder.create(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            builder.mode(0o700).recursive(true).create(path)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        made => made,
    };
    // The mode that mkdir(2) gave is short of the umask's bits.
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|e| Error::new("make the directory", path, e))?;
    Ok(true)
}

/// A path as one file name: `/var/lib` is `var%2Flib`.
fn escaped(path: &Path) -> Result<OsString, Error> {
    let bytes = path.as_os_str().as_bytes();
    let mut name = Vec::new();
    for byte in bytes.strip_prefix(b"/").unwrap_or(bytes) {
        match byte {
            b'/' => name.extend(b"%2F"),
            b'%' => name.extend(b"%25"),
            b => name.push(*b),
        }
    }
    if name.len() > 255 {
        return Err(Error::refused("expose", path, "the path is too long"));
    }
    Ok(OsString::from_vec(name))
}

/// Whether a name is one that [`Writable`] gives to containers.
pub(super) fn is_id(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b".")
}
