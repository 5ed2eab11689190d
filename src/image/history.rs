//! How an image came to be.

use std::collections::BTreeMap;

use super::Digest;
use super::config::History;
use super::store::{Image, Store};

/// One step, as `docker history` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What the configuration says of it.
    pub history: History,
    /// The layer it made, by its diff id.
    pub layer: Option<Digest>,
    /// The bytes of that layer's files; 0 if it made none or is not unpacked.
    pub size: u64,
}

/// The steps, the newest first. An image whose history tells of fewer layers than
/// it has, or of more, is shown with all its layers nonetheless.
pub fn history(store: &Store, image: &Image) -> Vec<Step> {
    let chain_ids: BTreeMap<Digest, Digest> =
        image.layers().iter().copied().zip(image.config.rootfs.chain_ids()).collect();
    let size = |diff_id: Digest| {
        let chain_id = chain_ids.get(&diff_id).copied().unwrap_or(diff_id);
        store.layer(diff_id, chain_id).map_or(0, |marker| marker.bytes)
    };
    let mut layers = image.layers().iter().copied();
    let mut steps: Vec<Step> = image
        .config
        .history
        .iter()
        .map(|history| {
            let layer = if history.empty_layer { None } else { layers.next() };
            Step { history: history.clone(), layer, size: layer.map_or(0, size) }
        })
        .collect();
    steps.extend(layers.map(|layer| Step {
        history: History::default(),
        layer: Some(layer),
        size: size(layer),
    }));
    steps.reverse();
    steps
}
