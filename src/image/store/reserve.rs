//! Room for the index when the disk is full: without it nothing could be removed just
//! when it must be.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate};

use super::Store;

/// More than an index of a thousand images.
const SIZE: u64 = 512 << 10;

impl Store {
    /// Takes the room again, if there is any.
    pub(super) fn reserve(&self) {
        let path = self.work("reserve");
        let taken = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, SIZE)?));
        if let Err(error) = taken {
            // Half a reserve is none, and takes room from who needs it.
            self.release();
            tracing::debug!("no room is set aside at {}: {error}", path.display());
        }
    }

    /// Gives the room up; false if there was none.
    pub(super) fn release(&self) -> bool {
        std::fs::remove_file(self.work("reserve")).is_ok()
    }
}

/// Whether the disk is full, or the quota used up.
pub(super) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        at = error.source();
    }
    false
}
