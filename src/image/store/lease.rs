//! Leases: what a pull, a load or a commit in progress relies on.
//!
//! A file of digests, locked by whoever works. It keeps blobs and layers from being
//! collected; a lease whose holder died is known by its missing lock.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use super::lock::{Lock, try_exclusive};
use super::{Store, list, remove_file};
use crate::image::{Digest, Error};

/// Keeps what it names, until it is dropped.
pub struct Lease {
    store: Store,
    file: File,
    path: PathBuf,
}

impl Store {
    /// An empty lease.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn lease(&self) -> Result<Lease, Error> {
        let _lock = self.lock_shared()?;
        let dir = self.work("leases");
        let temporary = tempfile::Builder::new()
            .prefix("lease-")
            .tempfile_in(&dir)
            .map_err(|e| Error::io("make a lease in", &dir, e))?;
        let (file, path) =
            temporary.keep().map_err(|e| Error::io("make a lease in", &dir, e.error))?;
        try_exclusive(&file);
        Ok(Lease { store: self.clone(), file, path })
    }

    /// What live leases name; those of the dead are removed. Under the exclusive
    /// lock.
    pub(super) fn leased(&self, _lock: &Lock) -> Result<BTreeSet<Digest>, Error> {
        let mut leased = BTreeSet::new();
        for path in list(&self.work("leases"))? {
            if Lock::is_free(&path) {
                remove_file(&path)?;
                continue;
            }
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("read", &path, e)),
            };
            leased.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok()));
        }
        Ok(leased)
    }
}

impl Lease {
    /// Names more. To be called *before* looking whether they are there: a
    /// collection either sees the name or has ended.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn add(&self, digests: &[Digest]) -> Result<(), Error> {
        let text: String = digests.iter().map(|digest| format!("{digest}\n")).collect();
        let _lock = self.store.lock_shared()?;
        (&self.file).write_all(text.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(e) = remove_file(&self.path) {
            // The lock goes with the descriptor; the next collection removes it.
            tracing::debug!("{e}");
        }
    }
}
