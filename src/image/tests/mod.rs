//! The image room against real registries, other tools, and hostile servers.

mod archives;
mod crash;
mod hostile;
mod kill;
mod registry;
pub(in crate::image) mod support;
mod tools;
