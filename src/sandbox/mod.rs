//! Descriptors and a plan to a process: the fixed sequence from clone3(2) to
//! execve(2).
//!
//! The engine writes a [`plan::Plan`] as a flat tape ([`tape`]) into a memfd; the
//! keeper maps it and clones; only the child reads it, front to back, and does
//! what it says ([`child`], `root`, `payload`). Whatever fails is written to the launch's status
//! file ([`status`]) with its step, so that a launch is explained even when the
//! engine died meanwhile. Container init ([`init`]) is what stays as PID 1.
//!
//! Invariant: from clone3 to execve nothing allocates, locks or panics.
//! Knows nothing of manifests, images or HTTP.

pub mod apart;
pub mod child;
pub mod init;
mod payload;
pub mod plan;
mod root;
pub mod status;
pub mod tape;
