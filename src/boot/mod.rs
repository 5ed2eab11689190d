//! What PID 1 owes the machine: the first mounts, what a boot does ([`plan`], data
//! from [`config`], the kernel's command line and /etc/fstab), handing over to the
//! keeper, and going down in order.
//!
//! PID 1 itself ([`init`]) only mounts what is fixed, forks, waits and executes:
//! whatever reads what a person wrote or may hang runs in a child of it
//! ([`steps`], [`down`]), whose panic or hang costs a step and not the machine.
//! Knows nothing of manifests, images or HTTP.

pub mod cmdline;
pub mod config;
mod console;
mod down;
pub mod fstab;
mod init;
pub mod mere;
pub mod plan;
mod steps;

pub use down::at_once;
pub use init::{is_init, main, plan_of_this_machine};
