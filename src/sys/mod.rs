//! Thin safe wrappers of the system calls that `rustix` and `nix` lack. With the
//! child's side of `sandbox`, the only room with `unsafe`; every block has its
//! reason. Knows nothing of containers.

pub mod mount_attr;
pub mod process;
pub mod readiness;
pub mod signals;
