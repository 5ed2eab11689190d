//! The keeper: parent of every container and of the engine. It launches, reaps,
//! records every exit until the engine has acknowledged it, holds descriptors
//! that must outlive the engine, and restarts the engine.
//!
//! Single-threaded, no async, no network; it parses nothing that a user wrote: of
//! a launch it reads three words ([`crate::sandbox::child::Head`]). It must not
//! fail: its memory is taken at the start and bounded ([`table`]), its loop
//! ([`run`]) neither allocates nor panics. Knows nothing of manifests, images,
//! HTTP or what a key or tag of the engine means.

pub mod duty;
pub mod ending;
pub mod launch;
pub mod outbox;
pub mod process;
pub mod protocol;
pub mod run;
pub mod say;
pub mod start;
pub mod table;
