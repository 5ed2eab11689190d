//! Berth: a declarative, manifest-driven supervisor and container engine.
//!
//! `ARCHITECTURE.md` is the map: one manifest's way from file to process, and what
//! each room must never know.

pub mod logs;
pub mod manifest;
