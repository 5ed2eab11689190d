//! A new volume begins with what the image has at its place, as with Docker.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags, flock, openat2};
use rustix::io::Errno;

use super::duplicate::tree_of;
use super::error::Error;
use super::prepare::read_only_view;
use super::volume::Volumes;
use crate::archive::Node;

/// Beside `_data` while it is filled: what a crash leaves half full begins anew.
const SEEDING: &str = "seeding";

impl Volumes {
    /// Fills a volume that is empty with what the layers, the topmost first, have at
    /// `target`; false if it has something, or they have no directory there. The
    /// directory's owner and mode are taken over too.
    ///
    /// # Errors
    /// If the disk refuses; the next call begins anew.
    pub fn seed(&self, name: &str, layers: &[PathBuf], target: &Path) -> Result<bool, Error> {
        let data = self.data(name)?;
        let folder = data.parent().unwrap_or(&data).to_owned();
        let failed = |e: io::Error| Error::new("fill the volume", &folder, e);
        // Two containers that begin at once fill it once.
        let hold = File::open(&folder).map_err(failed)?;
        flock(&hold, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let mark = folder.join(SEEDING);
        let half = mark.exists();
        let used = fs::read_dir(&data).map_err(failed)?.next().is_some();
        if used && !half {
            return Ok(false);
        }
        let view = read_only_view(layers)?;
        let Some(source) = directory_at(&view, target).map_err(|e| failed(e.into()))? else {
            return Ok(false);
        };
        if half {
            for entry in fs::read_dir(&data).map_err(failed)? {
                self.throw_away(&entry.map_err(failed)?.path())?;
            }
        }
        File::create(&mark).and_then(|file| file.sync_all()).map_err(failed)?;
        hold.sync_all().map_err(failed)?;
        tree_of(&source, &data, &|_| false)?;
        rustix::fs::syncfs(&hold).map_err(|e| failed(e.into()))?;
        fs::remove_file(&mark).map_err(failed)?;
        hold.sync_all().map_err(failed)?;
        Ok(true)
    }
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
