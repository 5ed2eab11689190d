//! New images from a base and one more layer.

use super::changes;
use super::compression::Compression;
use super::config::{History, ImageConfig, Process};
use super::document::{Descriptor, Manifest, media};
use super::store::{Image, Lease, Store};
use super::{Digest, Error, Platform, Reference};

/// A layer whose blob is in the store.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// The digest of its tar.
    pub diff_id: Digest,
}

/// Where the configuration of a committed image has the id of its base (Docker's image
/// specification, v1).
pub const PARENT: &str = "parent";

/// What is made into an image.
#[derive(Debug, Clone)]
pub struct Commit<'a> {
    /// The image that the layer lies upon; none for an imported root.
    pub base: Option<&'a Image>,
    /// The new layer; none if only the configuration changes.
    pub layer: Option<NewLayer>,
    /// How the container ran: its own settings over the base's. `None` takes the
    /// base's.
    pub process: Option<Process>,
    /// Dockerfile instructions that change it (see [`changes::apply`]).
    pub changes: &'a [String],
    /// For which platform, without a base.
    pub platform: Platform,
    /// By whom.
    pub author: Option<&'a str>,
    /// A note.
    pub message: Option<&'a str>,
    /// By what command, as the history shows it.
    pub created_by: Option<&'a str>,
    /// When, RFC 3339; the same content with the same time gives the same digest.
    pub created: &'a str,
    /// The image's name.
    pub name: Option<&'a Reference>,
}

/// Makes the image and enters it. `lease` must hold the layer's blob.
///
/// # Errors
/// If a change is malformed, a blob is missing, or the disk refuses.
pub fn commit(store: &Store, lease: &Lease, commit: &Commit<'_>) -> Result<Image, Error> {
    let config = configuration(commit)?;
    let mut layers = commit.base.map(|base| base.manifest.layers.clone()).unwrap_or_default();
    // The base may lose its name meanwhile; its parts are the new image's, too.
    let mut parts: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    if let Some(layer) = &commit.layer {
        let media_type = layer.compression.layer_media_type();
        layers.push(Descriptor::new(media_type, layer.digest, layer.size));
        parts.push(layer.digest);
    }
    parts.extend(config.rootfs.names());
    for layer in &mut layers {
        // One manifest, one family of names: those of Docker become OCI's.
        layer.media_type = oci_layer(&layer.media_type).to_owned();
    }
    lease.add(&parts)?;
    let bytes = config.to_bytes();
    let digest = store.put(lease, &bytes)?;
    let described = Descriptor::new(media::OCI_CONFIG, digest, bytes.len() as u64);
    enter_manifest(store, lease, Manifest::oci(described, layers), &config, commit.name)
}

/// The configuration of the image: the digest of its bytes is the image's id.
///
/// # Errors
/// If a change is malformed.
pub(super) fn configuration(commit: &Commit<'_>) -> Result<ImageConfig, Error> {
    let mut config = match commit.base {
        Some(base) => base.config.clone(),
        None => ImageConfig {
            os: commit.platform.os.clone(),
            architecture: commit.platform.architecture.clone(),
            variant: commit.platform.variant.clone(),
            ..ImageConfig::default()
        },
    };
    // What Docker notes of the container that made the base is not true any more.
    for stale in ["container", "container_config", "docker_version", "id", "parent"] {
        config.other.shift_remove(stale);
    }
    if let Some(base) = commit.base {
        config.other.insert(PARENT.to_owned(), base.id.to_string().into());
    }
    if let Some(process) = &commit.process {
        config.config = process.clone();
    }
    changes::apply(&mut config.config, commit.changes)?;
    config.created = Some(commit.created.to_owned());
    config.author = commit.author.map(str::to_owned);
    complete_history(&mut config);
    config.history.push(History {
        created: Some(commit.created.to_owned()),
        created_by: commit.created_by.map(str::to_owned),
        author: commit.author.map(str::to_owned),
        comment: commit.message.map(str::to_owned),
        empty_layer: commit.layer.is_none(),
    });
    config.rootfs.diff_ids.extend(commit.layer.as_ref().map(|layer| layer.diff_id));
    Ok(config)
}

/// Enters the manifest of an image whose other blobs are there.
pub(super) fn enter_manifest(
    store: &Store,
    lease: &Lease,
    manifest: Manifest,
    config: &ImageConfig,
    name: Option<&Reference>,
) -> Result<Image, Error> {
    config.check(&manifest)?;
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| Error::invalid(format!("cannot write the manifest: {e}")))?;
    let digest = store.put(lease, &bytes)?;
    let mut descriptor = Descriptor::new(media::OCI_MANIFEST, digest, bytes.len() as u64);
    descriptor.platform = Some(config.platform());
    store.enter(lease, &descriptor, name, None)
}

/// A step for each layer that the history does not tell of, so that the steps that
/// follow are told of their own layers.
fn complete_history(config: &mut ImageConfig) {
    let told = config.history.iter().filter(|step| !step.empty_layer).count();
    let untold = config.rootfs.diff_ids.len().saturating_sub(told);
    config.history.extend(std::iter::repeat_n(History::default(), untold));
}

/// OCI's name of a layer's media type.
fn oci_layer(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => media::OCI_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => media::OCI_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => media::OCI_LAYER_ZSTD,
        other => other,
    }
}
