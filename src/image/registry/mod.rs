//! Registries: the OCI distribution protocol (distribution-spec 1.1) and Docker's
//! version 2, which is the same with older media types.
//!
//! [`Client`] asks; [`Settings`] (`registries.toml`) says how each registry is to be
//! reached; [`Credentials`] (Docker's `config.json`) as whom. What comes back is
//! bounded and checked: a manifest's digest here, a blob's by the store.
//!
//! Invariants: credentials go only to the registry they are for and to the token
//! service that it names; never over plain HTTP if the registry itself is reached by
//! TLS; never along a redirect to another host.

mod auth;
mod blobs;
mod client;
mod credentials;
mod download;
mod endpoint;
mod manifests;
mod retry;
mod settings;
mod upload;

pub use blobs::BlobStream;
pub use client::Client;
pub use credentials::{Credentials, Login};
pub use manifests::Fetched;
pub use retry::Retry;
pub use settings::{RegistrySettings, Settings};
pub use upload::{Upload, Uploaded};
