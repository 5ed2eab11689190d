//! Everything is read and hashed again, and what is damaged is told.

use std::collections::BTreeSet;
use std::fmt;

use super::measure::{Tree, measure};
use super::{Store, list_digests};
use crate::image::digest::HashingReader;
use crate::image::document::{CONFIG_MAX, Document, MANIFEST_MAX};
use crate::image::{Digest, Error, ImageConfig};

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A blob's content is not what its name says. It is set aside.
    Blob {
        /// Its name.
        digest: Digest,
        /// What it is.
        found: String,
    },
    /// A blob that an image needs is not there.
    Missing {
        /// The blob.
        digest: Digest,
        /// The image, by name or digest.
        image: String,
    },
    /// A document of an image can't be read.
    Document {
        /// The document.
        digest: Digest,
        /// The image, by name or digest.
        image: String,
        /// Why not.
        why: String,
    },
    /// An unpacked layer lost or gained something. It is thrown away, unless a
    /// container holds it.
    Layer {
        /// Its diff id.
        diff_id: Digest,
        /// What differs.
        why: String,
    },
    /// A layer of an image is not unpacked. The next start or pull unpacks it.
    NotUnpacked {
        /// Its diff id.
        diff_id: Digest,
        /// The image, by name or digest.
        image: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Blob { digest, found } => {
                write!(f, "the blob {digest} is damaged ({found}); pull its image again")
            }
            Damage::Missing { digest, image } => {
                write!(f, "{image}: the blob {digest} is missing; pull the image again")
            }
            Damage::Document { digest, image, why } => {
                write!(f, "{image}: {digest}: {why}; pull the image again")
            }
            Damage::Layer { diff_id, why } => {
                write!(f, "the unpacked layer {diff_id} is damaged: {why}; pull its image again")
            }
            Damage::NotUnpacked { diff_id, image } => {
                write!(f, "{image}: the layer {diff_id} is not unpacked; pull the image again")
            }
        }
    }
}

impl Store {
    /// Re-reads every blob and counts every layer. With `repair`, what is damaged is
    /// moved out of the way, so that the next pull brings it anew; layers in
    /// `mounted` (by their names) stay, a container runs on them. `None`: any may be.
    ///
    /// # Errors
    /// If the disk refuses, or the index can't be read.
    pub fn verify(
        &self,
        repair: bool,
        mounted: Option<&BTreeSet<Digest>>,
    ) -> Result<Vec<Damage>, Error> {
        let mut damages = Vec::new();
        let mut bad = BTreeSet::new();
        for (digest, path) in list_digests(&self.blobs())? {
            let Ok(file) = self.open_blob(digest) else {
                // Collected meanwhile; if it is needed, it is missed below.
                continue;
            };
            let found = match HashingReader::new(file).finish() {
                Ok((found, _)) if found == digest => continue,
                Ok((found, size)) => format!("its {size} bytes have the digest {found}"),
                Err(e) => e.to_string(),
            };
            if repair {
                self.set_aside(&path)?;
            }
            bad.insert(digest);
            damages.push(Damage::Blob { digest, found });
        }
        self.verify_layers(repair, mounted, &mut damages)?;
        for entry in self.read_index()? {
            let image = entry
                .name()
                .map_or_else(|| entry.descriptor.digest.to_string(), |name| name.familiar());
            self.verify_document(entry.descriptor.digest, &image, &bad, 0, &mut damages);
        }
        Ok(damages)
    }

    fn verify_layers(
        &self,
        repair: bool,
        mounted: Option<&BTreeSet<Digest>>,
        damages: &mut Vec<Damage>,
    ) -> Result<(), Error> {
        for (diff_id, path) in list_digests(&self.layers())? {
            let why = match self.layer_marker(diff_id) {
                None => "its marker can't be read".to_owned(),
                Some(marker) => match measure(&path.join("fs")) {
                    Ok(Tree { entries, bytes, .. })
                        if (entries, bytes) == (marker.entries, marker.bytes) =>
                    {
                        continue;
                    }
                    Ok(tree) => format!(
                        "it holds {} names and {} bytes instead of {} and {}",
                        tree.entries, tree.bytes, marker.entries, marker.bytes
                    ),
                    // Collected meanwhile.
                    Err(_) if !path.exists() => continue,
                    Err(e) => e.to_string(),
                },
            };
            if repair && mounted.is_some_and(|mounted| !mounted.contains(&diff_id)) {
                self.discard_layer(diff_id)?;
            }
            damages.push(Damage::Layer { diff_id, why });
        }
        self.empty_trash()
    }

    fn verify_document(
        &self,
        digest: Digest,
        image: &str,
        bad: &BTreeSet<Digest>,
        depth: u32,
        damages: &mut Vec<Damage>,
    ) {
        let image_name = || image.to_owned();
        if bad.contains(&digest) {
            return;
        }
        if !self.blob_path(digest).exists() {
            // Of a foreign index only some platforms may be there (image-layout.md).
            if depth == 0 {
                damages.push(Damage::Missing { digest, image: image_name() });
            }
            return;
        }
        let document =
            self.read_blob(digest, MANIFEST_MAX).and_then(|bytes| Document::parse(&bytes, None));
        let manifest = match document {
            Ok(Document::Manifest(manifest)) => manifest,
            Ok(Document::Index(index)) if depth < 4 => {
                for manifest in index.manifests {
                    self.verify_document(manifest.digest, image, bad, depth + 1, damages);
                }
                return;
            }
            Ok(Document::Index(_)) => return,
            Err(e) => {
                damages.push(Damage::Document { digest, image: image_name(), why: e.to_string() });
                return;
            }
        };
        for blob in manifest.blobs() {
            let here = std::fs::metadata(self.blob_path(blob.digest));
            match here {
                Ok(meta) if meta.len() == blob.size || bad.contains(&blob.digest) => {}
                Ok(meta) => damages.push(Damage::Document {
                    digest,
                    image: image_name(),
                    why: format!(
                        "says {} bytes of {}, which has {}",
                        blob.size,
                        blob.digest,
                        meta.len()
                    ),
                }),
                Err(_) => {
                    if !bad.contains(&blob.digest) {
                        damages.push(Damage::Missing { digest: blob.digest, image: image_name() });
                    }
                }
            }
        }
        let config = self
            .read_blob(manifest.config.digest, CONFIG_MAX)
            .and_then(|bytes| ImageConfig::parse(&bytes))
            .and_then(|config| config.check(&manifest).map(|()| config));
        match config {
            Ok(config) => {
                let chain_ids = config.rootfs.chain_ids();
                for (diff_id, chain_id) in config.rootfs.diff_ids.into_iter().zip(chain_ids) {
                    if self.layer(diff_id, chain_id).is_none() {
                        damages.push(Damage::NotUnpacked { diff_id, image: image_name() });
                    }
                }
            }
            // A missing or damaged blob was told already.
            Err(e) if e.kind() == crate::image::Kind::NotFound => {}
            Err(_) if bad.contains(&manifest.config.digest) => {}
            Err(e) => damages.push(Damage::Document {
                digest: manifest.config.digest,
                image: image_name(),
                why: e.to_string(),
            }),
        }
    }
}
