//! A new volume begins with what the image has at its place, as with Docker.
//!
//! It is copied beside `_data` first. Once the copy is whole and on disk it bears
//! another name; from then on it is moved into `_data`, one name after the other, and
//! whoever finds it goes on with that. So a crash leaves either nothing, or what the
//! next one completes, and what somebody has put into the volume is never touched.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, flock, openat, openat2,
    renameat_with,
};
use rustix::io::Errno;

use super::duplicate::{dress, tree_of};
use super::error::Error;
use super::prepare::read_only_view;
use super::volume::Volumes;
use crate::archive::{Node, make};

/// What is being copied; a crash leaves it half, and it begins anew.
const COPYING: &str = "seed.new";
/// What was copied, whole.
const SEED: &str = "seed";

impl Volumes {
    /// Fills a volume that is empty with what the layers, the topmost first, have at
    /// `target`; false if it has something, or is no folder of ours, or they have no directory there. The
    /// directory's owner and mode are taken over too.
    ///
    /// # Errors
    /// If the disk refuses; the next call begins anew, or goes on.
    pub fn seed(&self, name: &str, layers: &[PathBuf], target: &Path) -> Result<bool, Error> {
        if !self.is_folder(name)? {
            return Ok(false);
        }
        let data = self.data(name)?;
        let folder = data.parent().unwrap_or(&data).to_owned();
        let failed = |e: io::Error| Error::new("fill the volume", &folder, e);
        let hold = hold(&folder).map_err(failed)?;
        if folder.join(SEED).exists() {
            return self.move_in(&hold, &folder);
        }
        if fs::read_dir(&data).map_err(failed)?.next().is_some() {
            return Ok(false);
        }
        let view = read_only_view(layers)?;
        let Some(source) = directory_at(&view, target).map_err(|e| failed(e.into()))? else {
            return Ok(false);
        };
        let copying = folder.join(COPYING);
        self.throw_away(&copying)?;
        DirBuilder::new().mode(0o700).create(&copying).map_err(failed)?;
        tree_of(&source, &copying, &|_| false)?;
        rustix::fs::syncfs(&hold).map_err(|e| failed(e.into()))?;
        fs::rename(&copying, folder.join(SEED)).map_err(failed)?;
        hold.sync_all().map_err(failed)?;
        self.move_in(&hold, &folder)
    }

    /// Takes away what a crash left half copied.
    pub(super) fn sweep_copies(&self, folder: &Path) -> Result<(), Error> {
        self.throw_away(&folder.join(COPYING)).map(drop)
    }

    /// Goes on with a filling that was cut short, and waits for one that is under way.
    /// To be called before a volume is given to anybody.
    pub(super) fn end_seeding(&self, name: &str) -> Result<(), Error> {
        let data = self.data(name)?;
        let folder = data.parent().unwrap_or(&data).to_owned();
        if !folder.join(SEED).exists() {
            return Ok(());
        }
        let hold = hold(&folder).map_err(|e| Error::new("fill the volume", &folder, e))?;
        match folder.join(SEED).exists() {
            true => self.move_in(&hold, &folder).map(drop),
            false => Ok(()),
        }
    }

    /// Moves the whole copy into the volume. A name that is there stays as it is.
    fn move_in(&self, hold: &File, folder: &Path) -> Result<bool, Error> {
        let (seed, data) = (folder.join(SEED), folder.join("_data"));
        let failed = |e: io::Error| Error::new("fill the volume", folder, e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| openat(CWD, path, flags, Mode::empty());
        let moved = open(&seed).and_then(Node::of).and_then(|from| {
            let (names, to) = (from.read_directory()?, open(&data)?);
            for name in make::names(&names)? {
                let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
                match renameat_with(&names, &name, &to, &name, RenameFlags::NOREPLACE) {
                    Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok((from, to))
        });
        let filled = match moved {
            Ok((from, to)) => {
                dress(&from, to.as_fd()).map_err(failed)?;
                File::open(&data).and_then(|data| data.sync_all()).map_err(failed)?;
                true
            }
            // Somebody has mounted or linked another file system there.
            Err(Errno::XDEV) => {
                tracing::warn!(
                    "{} is on another file system than its folder: it stays empty, without what \
                     the image has",
                    data.display()
                );
                false
            }
            Err(e) => return Err(failed(e.into())),
        };
        self.throw_away(&seed)?;
        hold.sync_all().map_err(failed)?;
        Ok(filled)
    }
}

/// Two containers that begin at once fill a volume once.
fn hold(folder: &Path) -> io::Result<File> {
    let hold = File::open(folder)?;
    flock(&hold, FlockOperation::LockExclusive)?;
    Ok(hold)
}

/// A directory of the image, its links resolved as in the container.
fn directory_at(view: &OwnedFd, target: &Path) -> rustix::io::Result<Option<Node>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(view.as_fd(), target, flags, Mode::empty(), resolve) {
        Ok(found) => Node::of(found).map(Some),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e),
    }
}
