//! A container whose processes stand still while its files are read.
//!
//! Only the cgroup knows of it, no record: an engine that dies meanwhile is followed by
//! one that finds the container frozen without being paused, and lets it go on
//! (`reconcile/adoption.rs`). So whatever is killed when, nothing stays frozen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;

/// Longer than any process in the kernel's hands takes to stop; one that hangs there
/// (an NFS server that is gone) never does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stands still until this is dropped.
#[derive(Debug)]
pub struct Standstill(Arc<Cgroup>);

impl Standstill {
    /// Freezes all of it and waits until the last process has stopped. What is paused,
    /// or is meanwhile, stays so. Blocks.
    ///
    /// # Errors
    /// In one sentence; then it goes on.
    pub fn of(cgroup: Arc<Cgroup>) -> Result<Standstill, String> {
        cgroup.hold_still().map_err(|error| error.to_string())?;
        let standstill = Standstill(cgroup);
        let begun = Instant::now();
        while !standstill.0.is_still() {
            if begun.elapsed() > PATIENCE {
                return Err(format!(
                    "its processes did not stand still within {} seconds; try --pause=false",
                    PATIENCE.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(standstill)
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        if let Err(error) = self.0.let_go() {
            tracing::error!("a container stays frozen: {error}");
        }
    }
}
