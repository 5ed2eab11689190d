//! Pushes: from the store to a registry.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use super::document::{Descriptor, MANIFEST_MAX};
use super::progress::{Reporter, Sink, Status};
use super::registry::{Client, Upload, Uploaded};
use super::store::{Image, Store};
use super::{Digest, Error, Kind, Reference};

/// How many blobs are sent at a time, as Docker does.
const PARALLEL: usize = 5;

/// How an image is pushed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The greatest piece of a blob that is sent at once, in bytes; `None` sends
    /// blobs whole, unless the registry asks for pieces.
    pub chunk: Option<u64>,
}

/// Sends the image that `name` means to the registry that it names, and gives the
/// digest it has there. Blobs that the registry has, in this or in another of its
/// repositories that this store knows, are not sent.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such image; [`Kind::Denied`]; what the registry
/// complains of.
pub async fn push(
    store: &Store,
    client: &Client,
    name: &Reference,
    options: Options,
    sink: &Sink,
) -> Result<Digest, Error> {
    push_named(store, client, name, options, sink)
        .await
        .map_err(|e| e.context(format_args!("pushing {}", name.familiar())))
}

async fn push_named(
    store: &Store,
    client: &Client,
    name: &Reference,
    options: Options,
    sink: &Sink,
) -> Result<Digest, Error> {
    let reporter = Reporter::new(sink, None);
    reporter
        .tell(Status::Note(format!("The push refers to repository [{}]", name.familiar_name())));
    let (held, wanted) = (store.clone(), name.clone());
    let prepared = tokio::task::spawn_blocking(move || prepare(&held, &wanted));
    let (lease, image, bytes, others) = prepared
        .await
        .unwrap_or_else(|e| Err(Error::caused(Kind::System, "work on the store panicked", e)))?;
    let slots = Semaphore::new(PARALLEL);
    let mut blobs: Vec<Descriptor> = image.manifest.layers.clone();
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup_by_key(|blob| blob.digest);
    let send = |blob: Descriptor| {
        let (slots, others) = (&slots, &others);
        async move {
            let Ok(_slot) = slots.acquire().await else {
                return Err(Error::new(Kind::System, "the push was ended"));
            };
            let mut reporter = Reporter::new(sink, Some(blob.digest.short()));
            let path = store.blob_path(blob.digest);
            let upload = Upload {
                name,
                blob: &blob,
                path: &path,
                mount_from: others.first(),
                chunk: options.chunk,
            };
            let outcome = client.upload(&upload, &mut reporter).await?;
            reporter.tell(match outcome {
                Uploaded::Had => Status::AlreadyThere,
                Uploaded::Mounted => Status::Mounted(
                    others.first().map(Reference::familiar_name).unwrap_or_default(),
                ),
                Uploaded::Sent => Status::Pushed,
            });
            Ok(())
        }
    };
    let mut sending: FuturesUnordered<_> = blobs.into_iter().map(&send).collect();
    while let Some(sent) = sending.next().await {
        sent?;
    }
    drop(sending);
    // The configuration last of the blobs, the manifest last of all: what a registry
    // shows is complete.
    send(image.manifest.config.clone()).await?;
    let media_type = &image.descriptor.media_type;
    client.put_manifest(name, media_type, &bytes, &reporter).await?;
    drop(lease);
    Ok(image.descriptor.digest)
}

type Prepared = (super::store::Lease, Image, Vec<u8>, Vec<Reference>);

/// What is to be sent, kept from collection, and by which other names of the same
/// registry it goes.
fn prepare(store: &Store, name: &Reference) -> Result<Prepared, Error> {
    let lease = store.lease()?;
    let image = store.resolve(&name.to_string())?;
    let mut kept = vec![image.descriptor.digest];
    kept.extend(image.manifest.blobs().map(|blob| blob.digest));
    lease.add(&kept)?;
    for blob in image.manifest.blobs() {
        if !store.has_blob(blob.digest, blob.size)? {
            return Err(Error::corrupt(format!(
                "the store lacks the blob {}; pull the image again first",
                blob.digest
            )));
        }
    }
    let bytes = store.read_blob(image.descriptor.digest, MANIFEST_MAX)?;
    let others = store
        .list()?
        .into_iter()
        .filter(|listed| listed.image.id == image.id)
        .flat_map(|listed| listed.names.into_iter().chain(listed.digests))
        .filter(|other| {
            other.registry() == name.registry() && other.repository() != name.repository()
        })
        .collect();
    Ok((lease, image, bytes, others))
}
