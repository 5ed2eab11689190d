//! What is to be done: the reconciler's answer.

use std::sync::Arc;
use std::time::Duration;

use crate::manifest::model::Container;
use crate::manifest::scalar::{Name, Signal};

/// What a decision asks for. To be carried out in this order: write `save`, remove
/// `forget`, perform `actions` in their order, and call again at `wake_at` or with
/// the next event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The records that changed: written down before any action is performed, and
    /// before the keeper is told that an exit is known.
    pub save: Vec<Name>,
    /// The records that are no more: their files are removed.
    pub forget: Vec<Name>,
    /// What to do.
    pub actions: Vec<Action>,
    /// When to decide again if nothing happens before, on the monotonic clock.
    pub wake_at: Option<Duration>,
}

/// One thing to do. Where an outcome matters it comes back as an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Launch what the record's `applied` says: answered by `Launched` or
    /// `LaunchFailed`, exactly once.
    Launch {
        /// Which container.
        name: Name,
        /// The number of this launch.
        incarnation: u64,
        /// Throw the writable layer away first.
        renew: bool,
    },
    /// A signal to the payload. Nothing answers; if it has ended, that is an event.
    Signal {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
        /// Which signal.
        signal: Signal,
    },
    /// SIGKILL to every process of this incarnation, frozen or not: answered by
    /// `CgroupEmptied` when none is left, at once if there was none. May come again.
    KillAll {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// Freeze all of it.
    Freeze {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// Thaw all of it.
    Thaw {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
    },
    /// Bring the running container in line with `Desired` in these keys, all of
    /// which can change in place: answered by `LiveApplied`. May come twice.
    ApplyLive {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
        /// `resources.memory`, `log.max-size`, …
        keys: Vec<String>,
        /// What it is to be like.
        to: Arc<Container>,
    },
    /// Run this command inside the container.
    ReloadExec {
        /// Which container.
        name: Name,
        /// Which run.
        incarnation: u64,
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// Remove its root, cgroup and runtime files: answered by `Discarded`. May come
    /// twice; what is gone already is no error.
    Discard {
        /// Which container.
        name: Name,
    },
    /// Nothing runs any more: end. Comes once.
    Finish,
}
