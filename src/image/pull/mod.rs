//! Pulls: from a registry into the store.
//!
//! For each layer bytes go from the connection to one thread that hashes and writes
//! them, and from there to another that decompresses, hashes and unpacks: all at
//! once, with bounded queues between. A layer that is being fetched by somebody else,
//! here or in another process, is waited for; one that broke off is gone on with.

mod fetch;
mod policy;
mod receive;

pub use policy::Policy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::document::{CONFIG_MAX, Descriptor, Document, Manifest, media};
use super::progress::{Reporter, Sink, Status};
use super::registry::{Client, Fetched};
use super::store::{Claim, Image, Lease, Partial, Store, UnpackedLayer};
use super::{Digest, Error, ImageConfig, Kind, Platform, Reference};
use fetch::Taker;
use receive::Receiver;

/// How many layers are downloaded at a time, as Docker does.
pub const PARALLEL: usize = 3;
/// How many pieces of a download may wait for the disk.
const QUEUE: usize = 32;
/// How often is looked whether another's download has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Brings images into a store. Clones share the bound on parallel downloads.
#[derive(Clone)]
pub struct Puller {
    store: Store,
    client: Client,
    slots: Arc<Semaphore>,
}

impl Puller {
    /// Downloads `parallel` layers at a time, over all pulls.
    pub fn new(store: Store, client: Client, parallel: usize) -> Puller {
        Puller { store, client, slots: Arc::new(Semaphore::new(parallel.max(1))) }
    }

    /// The same, to registries as somebody else.
    pub fn with_client(&self, client: Client) -> Puller {
        Puller { client, ..self.clone() }
    }

    /// The image with its layers unpacked, pulled if `policy` says so. What is pinned
    /// by a digest and is there is never asked for. A layer that is not unpacked is
    /// unpacked from its blob.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the image is not there and may not be pulled, or as
    /// [`Puller::pull`].
    pub async fn ensure(
        &self,
        name: &Reference,
        policy: Policy,
        platform: Option<&Platform>,
        sink: &Sink,
    ) -> Result<Image, Error> {
        let always = policy == Policy::Always && name.digest().is_none();
        if !always {
            let wanted = name.clone();
            let found = self.blocking(move |store| store.find(&wanted)).await;
            let fits = |image: &Image| {
                platform.is_none_or(|want| want.fit(&image.config.platform()).is_some())
            };
            match found {
                Ok(Some(image)) if fits(&image) => match self.unpack_missing(&image).await {
                    Ok(()) => return Ok(image),
                    Err(e) if policy == Policy::Never => return Err(e),
                    Err(e) => tracing::warn!("{name} is damaged and pulled again: {e}"),
                },
                Ok(_) if policy == Policy::Never => {
                    let name = name.familiar();
                    return Err(Error::new(
                        Kind::NotFound,
                        format!("no such image: {name}, and it may not be pulled (`never`)"),
                    ));
                }
                Ok(_) => {}
                Err(e) if policy == Policy::Never => return Err(e),
                Err(e) => tracing::warn!("{name} is damaged and pulled again: {e}"),
            }
        }
        self.pull(name, platform, sink).await
    }

    /// Unpacks the layers of an image that are not.
    ///
    /// # Errors
    /// If a blob is missing or damaged.
    pub async fn unpack_missing(&self, image: &Image) -> Result<(), Error> {
        let image = image.clone();
        self.blocking(move |store| store.unpack_missing(&image)).await
    }

    /// Pulls an image: its manifest is asked for in any case, its blobs if they are
    /// missing.
    ///
    /// # Errors
    /// With the kind that tells why: no such image, no permission, damaged content,
    /// an unreachable registry. What was downloaded stays for the next try.
    pub async fn pull(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        sink: &Sink,
    ) -> Result<Image, Error> {
        self.pull_named(name, platform, sink)
            .await
            .map_err(|e| e.context(format_args!("pulling {}", name.familiar())))
    }

    async fn pull_named(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        sink: &Sink,
    ) -> Result<Image, Error> {
        let reporter = Reporter::new(sink, None);
        reporter.tell(Status::Resolving(name.repository().to_owned(), name.selector()));
        let lease = Arc::new(self.blocking(|store| store.lease()).await?);
        let asked = self.client.manifest(name, &reporter).await?;
        let (fetched, manifest) = self.choose(name, &asked, platform, &reporter).await?;
        let descriptor = Descriptor {
            platform: None,
            ..Descriptor::new(
                manifest.media_type.as_deref().unwrap_or(media::OCI_MANIFEST),
                fetched.digest,
                fetched.bytes.len() as u64,
            )
        };
        let bytes = fetched.bytes;
        let all: Vec<Digest> = manifest.blobs().map(|blob| blob.digest).collect();
        let held = lease.clone();
        self.blocking(move |store| {
            held.add(&all)?;
            store.put(&held, &bytes)
        })
        .await?;
        let config = self.config(name, &manifest, &lease, &reporter).await?;
        let mut descriptor = descriptor;
        descriptor.platform = Some(config.platform());
        let names = config.rootfs.names();
        let held = lease.clone();
        self.blocking(move |_| held.add(&names)).await?;

        let mut layers: FuturesUnordered<_> = unique(&manifest, &config)
            .into_iter()
            .map(|wanted| self.layer(name, wanted, &lease, sink))
            .collect();
        let mut waiting = BTreeMap::new();
        while let Some(done) = layers.next().await {
            waiting.extend(done?.map(|unpacked| (unpacked.diff_id, unpacked)));
        }
        drop(layers);
        if !waiting.is_empty() {
            let lease = lease.clone();
            self.blocking(move |store| store.complete(&manifest, &config, waiting, &lease)).await?;
        }

        let (named, source) = (name.clone(), asked.digest);
        let before = self.blocking({
            let name = name.clone();
            move |store| store.find(&name)
        });
        let before = before.await.ok().flatten().map(|image| image.descriptor.digest);
        let image = self
            .blocking(move |store| store.enter(&lease, &descriptor, Some(&named), Some(source)))
            .await?;
        self.store.settle_soon();
        reporter.tell(Status::Note(format!("Digest: {source}")));
        let outcome = match before == Some(image.descriptor.digest) {
            true => "Image is up to date for",
            false => "Downloaded newer image for",
        };
        reporter.tell(Status::Note(format!("Status: {outcome} {}", name.familiar())));
        Ok(image)
    }

    /// The manifest for the platform: what was fetched, or of an index its choice.
    async fn choose(
        &self,
        name: &Reference,
        asked: &Fetched,
        platform: Option<&Platform>,
        reporter: &Reporter,
    ) -> Result<(Fetched, Manifest), Error> {
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        match Document::parse(&asked.bytes, asked.media_type.as_deref())? {
            Document::Manifest(manifest) => Ok((asked.clone(), manifest)),
            Document::Index(index) => {
                let chosen = index.select(wanted)?;
                let fetched =
                    self.client.manifest(&name.with_digest(chosen.digest), reporter).await?;
                if fetched.bytes.len() as u64 != chosen.size {
                    return Err(Error::corrupt(format!(
                        "the manifest {} has {} bytes, its index says {}",
                        chosen.digest,
                        fetched.bytes.len(),
                        chosen.size
                    )));
                }
                match Document::parse(&fetched.bytes, fetched.media_type.as_deref())? {
                    Document::Manifest(manifest) => Ok((fetched, manifest)),
                    Document::Index(_) => {
                        Err(Error::corrupt("an index within an index is not an image"))
                    }
                }
            }
        }
    }

    async fn config(
        &self,
        name: &Reference,
        manifest: &Manifest,
        lease: &Arc<Lease>,
        reporter: &Reporter,
    ) -> Result<ImageConfig, Error> {
        let blob = manifest.config.clone();
        let here = blob.clone();
        let known = self.blocking(move |store| match store.has_blob(here.digest, here.size)? {
            // A damaged one is fetched anew.
            true => Ok(store.read_blob(here.digest, CONFIG_MAX).ok()),
            false => Ok(None),
        });
        let bytes = match known.await? {
            Some(bytes) => bytes,
            None => {
                let bytes = self.client.config(name, manifest, reporter).await?;
                let (kept, lease) = (bytes.clone(), lease.clone());
                self.blocking(move |store| store.put(&lease, &kept)).await?;
                bytes
            }
        };
        let config = ImageConfig::parse(&bytes)?;
        config.check(manifest)?;
        Ok(config)
    }

    async fn layer(
        &self,
        name: &Reference,
        wanted: Wanted,
        lease: &Arc<Lease>,
        sink: &Sink,
    ) -> Result<Option<UnpackedLayer>, Error> {
        let Wanted { blob, diff_id, chain_id } = &wanted;
        let (diff_id, chain_id) = (*diff_id, *chain_id);
        let reporter = Reporter::new(sink, Some(blob.digest.short()));
        reporter.tell(Status::Waiting);
        let mut fresh = false;
        loop {
            let (digest, size) = (blob.digest, blob.size);
            let looked = self.blocking(move |store| {
                let here = |store: &Store| {
                    Ok::<_, Error>((
                        store.has_blob(digest, size)?,
                        store.layer(diff_id, chain_id).is_some(),
                    ))
                };
                if here(store)? == (true, true) {
                    return Ok((true, true, None));
                }
                let claim = store.claim(digest, size)?;
                // Whoever had the claim may have finished since.
                let (has_blob, has_layer) = here(store)?;
                Ok((has_blob, has_layer, Some(claim)))
            });
            let partial = match looked.await? {
                (true, true, None) => {
                    reporter.tell(Status::Exists);
                    return Ok(None);
                }
                (_, _, None | Some(Claim::Busy)) => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                (true, true, Some(Claim::Yours(partial))) => {
                    self.blocking(move |_| partial.release()).await?;
                    reporter.tell(Status::Exists);
                    return Ok(None);
                }
                (true, false, Some(Claim::Yours(partial))) => {
                    reporter.tell(Status::Extracting);
                    let lease = lease.clone();
                    let unpacked = self.blocking(move |store| {
                        let unpacked = store.unpack_blob(digest, diff_id);
                        let done = unpacked.and_then(|unpacked| match unpacked.depends() {
                            true => Ok(Some(unpacked)),
                            false => unpacked.finish(chain_id, &[], &lease).map(|()| None),
                        });
                        partial.release()?;
                        // A blob that was damaged is away now, and is fetched again.
                        match done {
                            Err(_) if !store.has_blob(digest, size)? => Ok(None),
                            done => done.map(Some),
                        }
                    });
                    if let Some(waiting) = unpacked.await? {
                        reporter.tell(Status::Complete);
                        return Ok(waiting);
                    }
                    continue;
                }
                (false, _, Some(Claim::Yours(partial))) => partial,
            };
            let (resumed, outcome) = self.download(name, &wanted, partial, lease, sink).await;
            match outcome {
                // What an earlier pull left may be what is wrong: once from the start.
                Err(e) if e.kind() == Kind::Corrupt && resumed && !fresh => fresh = true,
                outcome => return outcome,
            }
        }
    }

    /// Fetches and unpacks a layer; tells also whether it went on with an earlier
    /// fetch.
    async fn download(
        &self,
        name: &Reference,
        wanted: &Wanted,
        partial: Partial,
        lease: &Arc<Lease>,
        sink: &Sink,
    ) -> (bool, Result<Option<UnpackedLayer>, Error>) {
        let blob = &wanted.blob;
        let Ok(slot) = self.slots.acquire().await else {
            return (false, Err(Error::new(Kind::System, "the pulls were ended")));
        };
        let (pieces, queue) = mpsc::channel(QUEUE);
        let (tell_offset, offset) = oneshot::channel();
        let receiver = Receiver {
            store: self.store.clone(),
            lease: lease.clone(),
            diff_id: wanted.diff_id,
            chain_id: wanted.chain_id,
            sink: sink.clone(),
            layer: blob.digest.short(),
            size: blob.size,
        };
        let worker =
            tokio::task::spawn_blocking(move || receiver.receive(partial, queue, tell_offset));
        let mut resumed = false;
        let mut fetched = Ok(());
        if let Ok(offset) = offset.await {
            resumed = offset > 0;
            let mut reporter = Reporter::new(sink, Some(blob.digest.short()));
            reporter.count(Status::Downloading, offset, Some(blob.size));
            let counter = Reporter::new(sink, Some(blob.digest.short()));
            let mut taker =
                Taker::Queue { pieces: pieces.clone(), counter, done: offset, size: blob.size };
            fetched = self.client.fetch(name, blob, offset, &reporter, &mut taker).await;
            if fetched.is_ok() {
                // An empty piece is the end. If nobody listens, the worker says why.
                let _ = pieces.send(Bytes::new()).await;
            }
        }
        drop(pieces);
        // The next download may begin while this one is still being unpacked.
        drop(slot);
        let worked = worker
            .await
            .unwrap_or_else(|e| Err(Error::caused(Kind::System, "the download panicked", e)));
        (resumed, fetched.and(worked))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or_else(|e| Err(Error::caused(Kind::System, "work on the store panicked", e)))
    }
}

/// A layer that an image needs.
struct Wanted {
    blob: Descriptor,
    diff_id: Digest,
    chain_id: Digest,
}

/// The layers, each once: an image may have one twice.
fn unique(manifest: &Manifest, config: &ImageConfig) -> Vec<Wanted> {
    let mut seen = std::collections::BTreeSet::new();
    let places = config.rootfs.diff_ids.iter().copied().zip(config.rootfs.chain_ids());
    manifest
        .layers
        .iter()
        .cloned()
        .zip(places)
        .map(|(blob, (diff_id, chain_id))| Wanted { blob, diff_id, chain_id })
        .filter(|wanted| seen.insert(wanted.blob.digest))
        .collect()
}
