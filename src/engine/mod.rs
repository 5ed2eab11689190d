//! The engine: what is desired against what is observed, and the actions that
//! bring one to the other. [`reconcile`] decides and [`plan`] foretells; both are
//! pure. The loop around them is the only place that acts.

pub mod handle;
pub mod paths;
pub mod plan;
pub mod reconcile;
pub mod link;
pub mod store;
pub mod flight;
pub mod view;
