//! Placeholder until the planner is merged.

use serde::{Deserialize, Serialize};

/// What would change for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which container.
    pub name: crate::manifest::scalar::Name,
}
