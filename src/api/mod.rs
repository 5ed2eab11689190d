//! HTTP on unix sockets, and over TLS where it is wanted: the Docker Engine API where it has a route, `/berth/` for
//! the rest. What comes from a client is hostile: heads and bodies are bounded, a
//! slow reader slows only itself, nobody can make another wait.
//!
//! Called by the engine's start, on its thread; talks to the loop through
//! [`Handle`] alone. Knows nothing of the kernel.

mod attach;
mod body;
mod clone;
mod containers;
pub mod create;
mod endpoints;
mod events;
mod exec;
mod files;
mod filters;
mod hijack;
mod images;
mod inspect;
mod list;
mod login;
mod logs;
mod loose;
mod model;
mod names;
mod networks;
mod own;
mod plain;
mod readonly;
mod respond;
mod route;
mod seats;
mod serve;
mod settings;
mod settled;
mod stats;
mod system;
pub mod tls;
mod top;
mod transfer;
mod turns;
mod unix;
mod update;
mod usage;
mod volumes;
mod wait;
mod websocket;

pub(crate) use body::reader_of;
pub use hijack::DetachKeys;
pub use model::{age, command_line, status as status_sentence};

pub use serve::{Access, serve};
