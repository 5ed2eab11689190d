//! What nobody needs any more goes by itself, some time after it became so: images
//! whose name another one took, blobs and layers that nothing refers to, downloads that
//! nobody went on with. What a container, a name, a pull or a manifest refers to stays.
//!
//! Nothing runs while nothing happens: a pass follows the start and each change.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Handle;
use super::images::blocking;
use crate::image::store::{Keep, Pins};
use crate::image::{Digest, Error, Kind};

/// So long after a change: several of them are one pass.
const PAUSE: Duration = Duration::from_secs(60);

/// What containers and manifests hold: none of it may go.
///
/// # Errors
/// If the store can't be opened, or it is not known which containers there are.
pub async fn pins(handle: &Handle) -> Result<Pins, Error> {
    let store = handle.images.store().await?;
    let views = handle.users().await.map_err(|refusal| Error::new(Kind::System, refusal.text()))?;
    blocking(move || {
        let mut pins = Pins::default();
        for view in views {
            // What it is made of is mounted, whatever can be read of it.
            let made_of = view.image.iter().chain(&view.mounted);
            for id in made_of.filter_map(|id| id.parse::<Digest>().ok()) {
                pins.images.insert(id);
                match store.resolve(&id.to_string()) {
                    Ok(image) => pins.layers.extend(image.config.rootfs.names()),
                    Err(error) => pins.unknown.push(format!(
                        "which layers {} is made of is not known ({error}); pull its image again, \
                         or remove the container",
                        view.name
                    )),
                }
            }
            // What it would be made of now: a name, or an id.
            for named in view.images {
                match store.resolve(&named) {
                    Ok(image) => {
                        pins.images.insert(image.id);
                        pins.layers.extend(image.config.rootfs.names());
                    }
                    Err(error) if error.kind() == Kind::System => return Err(error),
                    // Not pulled yet, or to be pulled again.
                    Err(_) => {}
                }
            }
        }
        Ok(pins)
    })
    .await
}

/// Keeps the images of this Berth tidy until the runtime ends. A Berth without images
/// does nothing, not even open its store.
pub async fn tidy(handle: Handle) {
    let changed = Arc::clone(handle.images.changes());
    let layout = handle.paths.state_dir().join("images");
    if !tokio::fs::try_exists(&layout).await.unwrap_or(false) {
        changed.notified().await;
    }
    loop {
        // Opening sweeps what a crash left.
        if let Err(error) = pass(&handle).await {
            tracing::warn!("tidying the images: {error}");
        }
        changed.notified().await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn pass(handle: &Handle) -> Result<(), Error> {
    let (store, pins) = (handle.images.store().await?, pins(handle).await?);
    let gone = blocking(move || store.collect(&pins, Keep::by_itself())).await?;
    if gone.bytes > 0 {
        tracing::info!(
            "{} images, {} blobs and {} layers that nothing referred to are gone: {}",
            gone.images.len(),
            gone.blobs,
            gone.layers,
            bytesize::ByteSize(gone.bytes)
        );
    }
    Ok(())
}
