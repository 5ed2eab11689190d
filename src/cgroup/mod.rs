//! Placeholder until the room is merged.

use serde::{Deserialize, Serialize};

/// Statistics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {}
