//! Images as tar files: `save`, `load` and `import`.
//!
//! What is saved is an OCI archive and a docker-archive at once, as Docker 25 and
//! later write it: an OCI layout with a `manifest.json` beside it that points into
//! its blobs. Both kinds are loaded, also the older docker-archive with a folder for
//! each layer.

mod import;
mod load;
mod local;
mod save;

pub use import::{Import, import};
pub use load::{Loaded, load};
pub use local::import_file;
pub use save::{Format, save};

use serde::{Deserialize, Serialize};

/// One image in `manifest.json` (docker, image/tarexport).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}
