//! What the engine holds in memory of a container: descriptors and the like. All
//! of it can be found again after `kill -9`; nothing here is the truth.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::prepare::Kept;
use crate::cgroup::Cgroup;
use crate::logs::Capture;

/// A process of a container that the keeper watches.
#[derive(Debug)]
pub struct Process {
    /// The keeper's key.
    pub key: u64,
    /// Which launch it is.
    pub incarnation: u64,
    /// It by descriptor.
    pub pidfd: OwnedFd,
    /// Its id on the host.
    pub pid: i32,
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
    /// How many processes of it the kernel had ended for memory at its launch.
    pub oom_kills: u64,
    /// The range of ids of an adopted container whose namespaces we don't hold.
    pub reserved: Option<u32>,
}

impl Live {
    /// Its cgroup, if it has one.
    pub fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.kept.cgroup.clone()
    }

    /// The process of an incarnation, if that is what runs.
    pub fn running(&self, incarnation: u64) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.incarnation == incarnation)
    }
}
