//! Files to desired containers: the model, TOML and KDL readers, drop-ins,
//! templates, watching and diagnostics. What enters is what a person wrote and is
//! hostile until checked; what leaves is a [`model::Container`] that means the
//! same in whichever language it was written. Knows nothing of the kernel's
//! processes or of what runs.

pub mod model;
pub mod scalar;
pub mod variants;
mod load;
pub mod watch;
pub use load::*;
