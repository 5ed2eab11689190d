//! What happened: everything the reconciler learns between two decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::phase::{HealthStatus, How};
use super::record::Image;
use crate::manifest::model::Container;
use crate::manifest::scalar::{Name, Signal};

/// Something that happened. Of an event that speaks of an incarnation that is
/// neither the latest nor a stray, nothing is believed.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// These manifests are new, edited, broken, mended or gone in `Desired`.
    ManifestsChanged(BTreeSet<Name>),
    /// At start-up: the keeper (or the kernel) says that processes of this incarnation
    /// live. `Exited` follows if its payload is not among them; an end that the keeper
    /// still holds is told as `Exited` and `CgroupEmptied` alone.
    Adopted(Adopted),
    /// At start-up: all that lives was told. What is recorded as living and was not
    /// told of is gone. Nothing is decided before this event.
    AdoptionDone,
    /// What the root of this launch is made of.
    ImageChosen {
        /// Which container.
        name: Name,
        /// Which launch.
        incarnation: u64,
        /// The image.
        image: Box<Image>,
    },
    /// The images that this launch has mounted, by what the manifest calls them.
    ImagesMounted {
        /// Which container.
        name: Name,
        /// Which launch.
        incarnation: u64,
        /// Their ids.
        images: BTreeMap<String, String>,
    },
    /// The payload runs: execve(2) succeeded.
    Launched {
        /// Which container.
        name: Name,
        /// Which launch.
        incarnation: u64,
        /// Its process on the host.
        pid: u32,
    },
    /// The launch came to nothing, and nothing is left of it.
    LaunchFailed {
        /// Which container.
        name: Name,
        /// Which launch.
        incarnation: u64,
        /// 125 set-up, 126 not executable, 127 not found.
        code: i32,
        /// Which step, which path, which errno, in one sentence.
        error: String,
    },
    /// The payload ended. Processes of the container may be left.
    Exited {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
        /// How it ended.
        how: How,
    },
    /// No process of this incarnation is left. Also the answer to every
    /// [`Action::KillAll`](super::Action::KillAll), once that is so.
    CgroupEmptied {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// Every process of it is gone, and nobody knows how its payload ended.
    Gone {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// Its health check has something new to say.
    HealthChanged {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
        /// What it says.
        health: HealthStatus,
    },
    /// It says that it is ready.
    Ready {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// It says that it is well, as its watchdog wants to hear.
    Alive {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// It was not launched: one of its conditions does not hold.
    Skipped {
        /// Which container.
        name: Name,
        /// Which launch.
        incarnation: u64,
        /// Which condition, in a sentence.
        unmet: String,
    },
    /// It was found frozen, whoever did that: it could not say anything.
    StoodStill {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// The machine was suspended for so long. Told before anything else of the time after.
    Slept {
        /// How long.
        by: Duration,
    },
    /// The wall clock was set: times of a calendar are elsewhere now.
    ClockSet,
    /// The outcome of [`Action::ApplyLive`](super::Action::ApplyLive).
    LiveApplied {
        /// Which container.
        name: Name,
        /// Which version of its manifest.
        to: Arc<Container>,
        /// Why not, if it was not.
        result: Result<(), String>,
    },
    /// The outcome of [`Action::Discard`](super::Action::Discard).
    Discarded {
        /// Which container.
        name: Name,
        /// What is left and why, if something is.
        result: Result<(), String>,
    },
    /// Somebody connects to a container that is started on demand.
    Demanded {
        /// Which container.
        name: Name,
    },
    /// Nobody was connected to it for as long as its manifest says.
    Idle {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// The supervisor received a signal that may be one of `signals.forward`.
    SignalReceived(Signal),
    /// A person wants something of a container.
    Verb {
        /// Which container.
        name: Name,
        /// What.
        verb: Verb,
    },
}

/// What lives, as the keeper's table or the kernel tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    /// Which container.
    pub name: Name,
    /// Which launch.
    pub incarnation: u64,
    /// Its process on the host.
    pub pid: u32,
    /// Since when it runs, on the monotonic clock.
    pub started: Duration,
    /// The same in Unix nanoseconds.
    pub started_wall: i64,
    /// Its cgroup is frozen.
    pub frozen: bool,
    /// The id that it was launched with, if that is known.
    pub id: Option<String>,
}

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Make it known and hold it until `Start` (Docker's create). Given together with
    /// the new manifest, before the next decision.
    Create {
        /// Its Docker id, if it has been told to somebody already.
        id: Option<String>,
    },
    /// The manifest is about to be this one. Unlike an edit by a person it starts
    /// nothing that was stopped.
    Amend(std::sync::Arc<crate::manifest::model::Container>),
    /// Run, now.
    Start,
    /// Stop, and stay stopped.
    Stop {
        /// Instead of the manifest's.
        signal: Option<Signal>,
        /// Instead of the manifest's; `Duration::MAX` waits for ever.
        timeout: Option<Duration>,
    },
    /// Stop if it runs, then run.
    Restart {
        /// Instead of the manifest's stop signal.
        signal: Option<Signal>,
        /// Instead of the manifest's stop timeout.
        timeout: Option<Duration>,
    },
    /// A signal to the payload. SIGKILL goes to all of it, and it stays stopped; so
    /// it does if it ends by its stop signal.
    Kill(Signal),
    /// What `signals.reload` says.
    Reload,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Unpause,
    /// `rm`: its manifest has been deleted. Ignored while any file declares it.
    Remove {
        /// SIGKILL instead of a stop.
        force: bool,
    },
}

/// Why a verb was refused: nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such container.
    Unknown,
    /// There is one of that name already.
    Exists,
    /// It does not run.
    NotRunning,
    /// It runs.
    Running,
    /// It is frozen already, or it is not.
    PausedAlready,
    /// See [`Refused::PausedAlready`].
    NotPaused,
    /// It is frozen, and nothing can be run in it.
    Paused,
    /// Its manifest has no `signals.reload`.
    NoReload,
    /// Berth is ending.
    ShuttingDown,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refused::Unknown => "there is no such container",
            Refused::Exists => "there is a container of that name already",
            Refused::NotRunning => "it is not running",
            Refused::Running => "it is running; stop it first",
            Refused::PausedAlready => "it is already paused",
            Refused::NotPaused => "it is not paused",
            Refused::Paused => "it is paused; unpause it first",
            Refused::NoReload => {
                "its manifest does not say how it reloads; add signals.reload = \"SIGHUP\", or \
                 signals.reload = { exec = [...] }"
            }
            Refused::ShuttingDown => "berth is shutting down",
        })
    }
}

impl std::error::Error for Refused {}
