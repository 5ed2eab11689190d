//! Images: references, the store, registries, archives, commits.
//!
//! The store ([`Store`]) is an OCI image layout on disk with unpacked layers beside
//! it; [`registry::Client`] speaks the distribution protocol; [`pull`] and [`push`]
//! move images between the two, [`archive`] between the store and tar files.
//!
//! Invariants: nothing enters the store before its digest and its size are checked;
//! the store is whole at any instant, whatever is killed; what a registry or an
//! archive says is bounded before it is read and checked before it is believed.
//!
//! Called by the engine. It knows nothing of containers, manifests of Berth, or
//! the API. The store's calls block (disk, locks): use a thread that may.

pub mod archive;
pub mod changes;
pub mod commit;
pub mod compression;
pub mod config;
pub mod digest;
pub mod document;
mod error;

pub mod history;
pub mod layer;
pub mod platform;
pub mod progress;

pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;

pub mod store;

#[cfg(test)]
mod tests;

pub use config::ImageConfig;
pub use digest::Digest;
pub use error::{Error, Kind};
pub use platform::Platform;
pub use reference::Reference;
pub use store::Store;
