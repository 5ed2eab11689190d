//! What the engine holds in memory of a container: descriptors and the like. All
//! of it can be found again after `kill -9`; nothing here is the truth.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::changes::Changes;
use super::prepare::{Ends, Kept, Signs};
use super::probe::Probes;
use super::terminal::{Pump, Size};
use crate::cgroup::Cgroup;
use crate::logs::Capture;

/// A process of a container that the keeper watches.
#[derive(Debug)]
pub struct Process {
    /// Which launch it is.
    pub incarnation: u64,
    /// It by descriptor.
    pub pidfd: OwnedFd,
    /// Its id on the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot; 0 where that could not be told.
    pub start: u64,
}

/// A container's side in the engine.
#[derive(Debug, Default)]
pub struct Live {
    /// What it keeps between launches; taken while one is prepared.
    pub kept: Kept,
    /// Its payload's supervisor.
    pub process: Option<Process>,
    /// Moves its output to its log.
    pub capture: Option<Capture>,
    /// The task that looks after its health.
    pub probing: Option<tokio::task::AbortHandle>,
    /// What its health checks said last.
    pub probes: Arc<Mutex<Probes>>,
    /// Kills that are under way: while there is one, nothing may be born in the
    /// cgroup, for it would be killed too.
    pub kills: u32,
    /// Its FIFOs, to see whether all was moved.
    pub fifos: Option<[OwnedFd; 2]>,
    /// Its terminal or the way to its standard input, if it has one.
    pub ends: Ends,
    /// Where it says how it is.
    pub signs: Signs,
    /// The tasks that listen to it.
    pub listening: Vec<tokio::task::AbortHandle>,
    /// What it last said of itself (sd_notify(3), `STATUS=`).
    pub said: Option<String>,
    /// Moves what its terminal prints to its log.
    pub pump: Option<Pump>,
    /// The size that its terminal has, or will have.
    pub size: Size,
    /// How many processes of it the kernel had ended for memory at its launch.
    pub oom_kills: u64,
    /// Changes of it while it runs.
    pub changes: Changes,
    /// The range of ids of an adopted container whose namespaces we don't hold.
    pub reserved: Option<u32>,
}

impl Live {
    /// Its cgroup, if it has one.
    pub fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.kept.cgroup.clone()
    }

    /// What its health checks said last.
    pub fn probes(&self) -> Probes {
        self.probes.lock().map(|probes| probes.clone()).unwrap_or_default()
    }

    /// Copies of its FIFOs, if something waits in them.
    pub fn written_to(&self) -> Option<[OwnedFd; 2]> {
        let [stdout, stderr] = self.fifos.as_ref()?;
        if waiting(stdout) == 0 && waiting(stderr) == 0 {
            return None;
        }
        self.copy_fifos()
    }

    /// Copies of its FIFOs.
    pub fn copy_fifos(&self) -> Option<[OwnedFd; 2]> {
        let [stdout, stderr] = self.fifos.as_ref()?;
        Some([stdout.try_clone().ok()?, stderr.try_clone().ok()?])
    }

    /// The process of an incarnation, if that is what runs.
    pub fn running(&self, incarnation: u64) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.incarnation == incarnation)
    }
}

/// How many bytes wait in a FIFO.
fn waiting(fifo: &OwnedFd) -> u64 {
    rustix::io::ioctl_fionread(fifo).unwrap_or(0)
}

/// So long nothing may move, before a log that can't be written is left behind.
pub const STUCK: Duration = Duration::from_millis(200);
/// The same while a client is attached, which the log may be waiting for (longer than
/// the log's own patience).
pub const SLOW_READER: Duration = Duration::from_secs(12);

/// Waits until what is in the FIFOs was moved to the log. The last moments of a
/// container only: nothing waits here while it runs.
pub async fn moved(fifos: &[OwnedFd; 2], patience: Duration) {
    let mut before = u64::MAX;
    let mut since = Instant::now();
    loop {
        let left = fifos.iter().map(waiting).sum();
        if left == 0 {
            return;
        }
        if left < before {
            (before, since) = (left, Instant::now());
        } else if since.elapsed() > patience {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
