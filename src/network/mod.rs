//! Networks: bridges and containers' interfaces, addresses, the firewall, names and
//! published ports.
//!
//! Pure: [`spec`], [`ipam`], the firewall's plan, [`dns::answer`], [`files`]. At the
//! rim: the kernel through netlink, a resolver's sockets, CNI plugins. What enters is
//! plain data of networks and containers; it knows nothing of manifests, records or
//! processes. Called by the engine, on threads that may block, and by nobody else.
//!
//! Whatever touches the kernel acts on the network namespace in which its socket was
//! opened, so a test gives it one of its own.

mod addresses;
pub mod bridges;
pub mod cni;
pub mod disk;
pub mod dns;
pub mod error;
pub mod files;
pub mod firewall;
pub mod forward;
pub mod host;
pub mod ipam;
pub mod link;
mod listener;
pub mod names;
mod netlink;
pub mod netns;
pub mod ports;
pub mod spec;
pub mod sysctl;

pub use error::{Error, Result};
pub use names::{Instance, Mac};
pub use spec::NetworkSpec;

#[cfg(test)]
mod tests;
