//! The engine: what is desired against what is observed, and the actions that
//! bring one to the other. [`reconcile`] decides and [`plan`] foretells; both are
//! pure. The loop around them ([`run`]) is the only place that acts.

mod act;
mod adopt;
mod answer;
mod attachments;
mod changes;
mod command;
mod created;
mod discard;
mod echo;
mod events;
pub mod exec;
pub mod failure;
mod fetch;
pub mod files;
pub mod flight;
pub mod garbage;
pub mod handle;
mod heard;
pub mod images;
pub mod link;
mod live;
mod mounted;
mod namespaces;
mod net;
pub mod networks;
mod notify;
mod output;
pub mod paths;
pub mod plan;
pub mod prepare;
mod probe;
pub mod reconcile;
mod rename;
mod run;
mod sockets;
mod standstill;
pub mod start;
pub mod store;
pub mod terminal;
pub mod view;
pub mod volumes;
