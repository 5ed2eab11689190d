//! Locks by flock(2): they hold between processes, and the kernel drops them with
//! their holder.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::image::Error;

/// A lock that is held; dropping it lets it go.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else has it.
    pub fn exclusive(path: &Path) -> Result<Lock, Error> {
        Lock::take(path, FlockOperation::LockExclusive)
    }

    /// Waits until nobody has it exclusively.
    pub fn shared(path: &Path) -> Result<Lock, Error> {
        Lock::take(path, FlockOperation::LockShared)
    }

    fn take(path: &Path, operation: FlockOperation) -> Result<Lock, Error> {
        let file = open(path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("lock", path, e.into())),
            }
        }
    }

    /// Whether nobody holds the file or folder; gone counts as held, there is
    /// nothing to sweep.
    pub fn is_free(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| try_exclusive(&file))
    }

    /// Opens `path` and locks it, or gives `None` if another has it. What was
    /// locked is certain to be still at `path`.
    pub fn try_file(path: &Path) -> Result<Option<File>, Error> {
        loop {
            let file = open(path)?;
            if !try_exclusive(&file) {
                return Ok(None);
            }
            let here = file.metadata().map_err(|e| Error::io("read", path, e))?;
            match std::fs::symlink_metadata(path) {
                Ok(there) if there.ino() == here.ino() && there.dev() == here.dev() => {
                    return Ok(Some(file));
                }
                // It was renamed or removed between open and flock.
                _ => {}
            }
        }
    }
}

/// Locks an open file if nobody else has.
pub(super) fn try_exclusive(file: impl AsFd) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("open", path, e))
}
