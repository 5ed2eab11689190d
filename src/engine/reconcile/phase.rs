//! Where a container is in its life: what each state carries is known in no other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::ExitStatus;
use crate::manifest::scalar::{Name, Signal};

/// Where a container is in its life. Times are [`Now::mono`](super::Now::mono) of
/// the record's boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Phase {
    /// Known, and never launched.
    Created,
    /// A launch was ordered, and its outcome is not known.
    Launching {
        /// When it was ordered.
        since: Duration,
        /// It has said that it is ready already.
        #[serde(default)]
        ready: bool,
    },
    /// Its payload runs.
    Running(Run),
    /// It was asked to end.
    Stopping {
        /// The run that is to end.
        run: Run,
        /// Why.
        why: StopWhy,
        /// How it was asked.
        signal: Signal,
        /// When every process of it gets SIGKILL (again); never without one.
        deadline: Option<Duration>,
        /// SIGKILL was ordered already.
        escalated: bool,
    },
    /// One of the two signs of its end is there, the other is awaited.
    Ending {
        /// The run that ended.
        run: Run,
        /// Why it was asked to end, if it was.
        why: Option<StopWhy>,
        /// The sign that is there.
        half: Half,
        /// When what is left of it gets SIGKILL again.
        deadline: Duration,
    },
    /// It ended or failed to begin, and what becomes of it is decided next.
    Ended {
        /// Why it was asked to end, if it was; else its restart policy decides.
        why: Option<StopWhy>,
    },
    /// It waits to be launched again.
    Backoff {
        /// Not before then.
        until: Duration,
        /// Which attempt in a row that will be.
        attempt: u32,
    },
    /// It is run at a time.
    Scheduled {
        /// Not before then.
        until: Duration,
        /// The same in Unix nanoseconds.
        due: i64,
    },
    /// It does not run.
    Exited(Rest),
    /// All that is left of it is being removed.
    Removing {
        /// How often it was tried before.
        tried: u32,
    },
    /// It could not be removed; tried again.
    Dead {
        /// Why not.
        error: String,
        /// When it is tried again.
        until: Duration,
        /// How often it was tried.
        tried: u32,
    },
}

/// A payload that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// The process that the keeper started, as the host sees it.
    pub pid: u32,
    /// Since when it runs.
    pub started: Duration,
    /// The same for people, in Unix nanoseconds.
    pub started_wall: i64,
    /// What its health check says; none if it has none.
    pub health: Option<HealthStatus>,
    /// Since when it is well: since `started` without a health check.
    pub well_since: Option<Duration>,
    /// It is frozen.
    pub paused: bool,
    /// What a person asked of it and is still to come.
    pub asked: Option<Asked>,
    /// Since when it is ready, if it says so itself.
    #[serde(default)]
    pub ready: Option<Duration>,
    /// When it is stopped if it is not ready by then.
    #[serde(default)]
    pub ready_by: Option<Duration>,
}

/// What a person asked of a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// `restart`, with a stop signal and timeout instead of the manifest's.
    Restart {
        /// Instead of the manifest's.
        #[serde(default)]
        signal: Option<Signal>,
        /// Instead of the manifest's.
        timeout: Option<Duration>,
    },
    /// `kill` with the stop signal: if it ends by it, it was stopped by hand.
    End,
}

/// What a health check says (Docker's words).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// Nothing yet.
    Starting,
    /// It is well.
    Healthy,
    /// Too many probes in a row failed.
    Unhealthy,
}

/// The first of the two signs of an end. A container has ended when its payload's
/// exit is known and no process of it is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Half {
    /// The payload's exit is known.
    Exit(How),
    /// Its cgroup is empty.
    Emptied,
}

/// How a payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct How {
    /// Its exit status.
    pub status: ExitStatus,
    /// The kernel ended a process of it for memory.
    pub oom: bool,
    /// When, in Unix nanoseconds, if that was written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
}

impl How {
    /// Nobody knows.
    pub const UNKNOWN: How = How { status: ExitStatus::Unknown, oom: false, at: None };
}

/// Why a container was asked to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "cause")]
pub enum StopWhy {
    /// A person stopped or killed it.
    ByHand,
    /// A person restarts it.
    Restart,
    /// Its manifest was deleted.
    Removed,
    /// Its manifest changed in these keys.
    Edited {
        /// `image`, `security.userns`, …
        keys: Vec<String>,
    },
    /// What it requires stops.
    Dependency {
        /// The one that stops.
        on: Name,
    },
    /// The container of whose namespaces it joined one has a new one.
    Network {
        /// The owner of the namespace.
        of: Name,
    },
    /// Nobody is connected to it; it starts when somebody is.
    Idle,
    /// It can't run at the same time as another, which runs.
    Conflict {
        /// The other.
        with: Name,
    },
    /// Berth ends.
    Shutdown,
    /// The engine died between the order to launch and the launch.
    Lost,
    /// It took too long to be ready.
    NotReady,
    /// It did not say in time that it is well.
    Watchdog,
}

impl StopWhy {
    /// Whether it was ended for what it did not do: its restart policy decides, as
    /// after an end by itself.
    pub fn is_its_fault(&self) -> bool {
        matches!(self, StopWhy::NotReady | StopWhy::Watchdog)
    }
}

/// Why a container that does not run does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "after")]
pub enum Rest {
    /// It ended and its policy does not start it again: until a start by hand, an
    /// edit, or the next boot.
    Finished,
    /// It was asked to end. It is launched as soon as nothing speaks against it.
    Stopped {
        /// Why it was.
        why: StopWhy,
    },
    /// The machine was booted anew.
    Boot,
    /// One of its conditions did not hold: as good as if it had ended well.
    Skipped {
        /// Which one.
        unmet: String,
    },
}

/// A container's state in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Never launched, or its first launch is under way.
    Created,
    /// Its payload runs.
    Running,
    /// It is frozen.
    Paused,
    /// It waits to be launched again.
    Restarting,
    /// What is left of it is being removed.
    Removing,
    /// It does not run.
    Exited,
    /// It could not be removed.
    Dead,
}

impl Phase {
    /// Where a container stands that was in this phase when the machine went down.
    pub fn after_boot(&self) -> Phase {
        match self {
            Phase::Created => Phase::Created,
            Phase::Removing { .. } | Phase::Dead { .. } => Phase::Removing { tried: 0 },
            _ => Phase::Exited(Rest::Boot),
        }
    }

    /// Whether a process of the container may exist.
    pub fn is_alive(&self) -> bool {
        matches!(
            self,
            Phase::Launching { .. }
                | Phase::Running(_)
                | Phase::Stopping { .. }
                | Phase::Ending { .. }
        )
    }

    /// The run, from its launch until its end is complete.
    pub fn run(&self) -> Option<&Run> {
        match self {
            Phase::Running(run) | Phase::Stopping { run, .. } | Phase::Ending { run, .. } => {
                Some(run)
            }
            _ => None,
        }
    }

    /// When something must be done by itself.
    pub fn deadline(&self) -> Option<Duration> {
        match self {
            Phase::Stopping { deadline, .. } => *deadline,
            Phase::Ending { deadline, .. } => Some(*deadline),
            Phase::Backoff { until, .. }
            | Phase::Dead { until, .. }
            | Phase::Scheduled { until, .. } => Some(*until),
            Phase::Running(run) => run.ready_by,
            _ => None,
        }
    }
}
