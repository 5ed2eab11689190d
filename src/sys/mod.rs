//! Thin safe wrappers of the system calls that `nix` and `rustix` lack.
//!
//! The only room with `unsafe`, but for the child's side of `sandbox`. Nothing
//! here decides anything: one call, one function, its errno as an `io::Error`.
//! It knows nothing of containers, manifests or files of ours.

pub mod bpf;
pub mod deaf;
pub mod machine;
pub mod mount;
pub mod pause;
pub mod process;
pub mod readiness;
pub mod rights;
pub mod signals;
pub mod userns;
