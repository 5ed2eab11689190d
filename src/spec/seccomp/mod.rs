//! Seccomp: the default filter, profiles in Docker's and OCI's JSON, and the
//! compiler from either to the BPF program that seccomp(2) takes.
//!
//! A filter judges a system call by its number with a binary search over ranges,
//! so the depth is about seven comparisons. What architectures it lets through:
//! x86_64 always, 32-bit x86 where the profile lists it, by that table of its own.
//! Calls in the x32 manner (bit 30 of the number) get ENOSYS whatever the profile
//! says; a call of any other architecture ends the process, as with libseccomp.
//! Names that the tables don't know are passed over, as runc does.

mod assemble;
mod compile;
mod default;
mod profile;
mod table;
#[cfg(test)]
mod tests;

pub use compile::{Program, compile};
pub use default::default_filter;
pub use profile::read_profile;
