//! The pure reconciler: what the manifests say against what was observed, and the
//! actions that bring one to the other. No clock, no input or output, no
//! randomness, and nothing of the kernel, images or HTTP is known here.
//!
//! The engine's loop is its only caller: event → [`Observed::apply`] → [`decide`] →
//! the records of [`Decision::save`] are written down → the actions are performed,
//! and their outcomes come back as events. Whichever instant the engine dies at,
//! the records written so far and what the keeper says lives
//! ([`Observed::restore`], [`Event::Adopted`], [`Event::AdoptionDone`]) rebuild it.
//!
//! What always holds:
//! - no launch while a process of an earlier incarnation may be alive;
//! - an incarnation's number is used once;
//! - nothing is launched during a shutdown, nor what a person stopped, but for a
//!   start by hand, an edit, or a boot;
//! - a broken manifest changes nothing;
//! - a container ends after all that requires it, and begins after what it requires.

mod action;
mod adoption;
mod backoff;
mod change;
mod clock;
mod deadlines;
mod decide;
mod desired;
mod event;
mod graph;
mod judge;
mod names;
mod observed;
mod phase;
mod record;
mod runs;
mod service;
#[cfg(test)]
mod simulation;
mod verb;

pub use action::{Action, Decision};
pub use change::Change;
pub use clock::Now;
pub use decide::decide;
pub use desired::{Desired, Shutdown};
pub use event::{Adopted, Event, Refused, Verb};
pub use observed::{Block, Observed};
pub use phase::{Asked, Half, HealthStatus, How, Phase, Rest, Run, State, StopWhy};
pub use record::{CRASH_LOOP, Exit, ExitStatus, Held, Image, Joined, OfImage, Record, Timing};
