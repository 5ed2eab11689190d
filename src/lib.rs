//! Berth: a declarative, manifest-driven supervisor and container engine.
//!
//! `ARCHITECTURE.md` is the map: one manifest's way from file to process, and what
//! each room must never know.

pub mod api;
pub mod archive;
pub mod boot;
pub mod cgroup;
pub mod cli;
pub mod engine;
pub mod image;
pub mod keeper;
pub mod logs;
pub mod manifest;
pub mod network;
pub mod rootfs;
pub mod sandbox;
pub mod spec;
pub mod sys;
