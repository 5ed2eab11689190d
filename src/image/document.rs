//! The documents that tie an image together: manifests and indexes, of OCI and of
//! Docker (OCI image-spec manifest.md, image-index.md; distribution,
//! manifest-v2-2.md). They are kept as the bytes they came as; these types read
//! what Berth needs of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Error, Kind, Platform};

/// The greatest manifest or index, in bytes, as registries have it.
pub const MANIFEST_MAX: u64 = 4 << 20;
/// The greatest image configuration, in bytes.
pub const CONFIG_MAX: u64 = 8 << 20;
/// The most layers of an image: overlayfs takes at most 500 lower directories.
pub const LAYERS_MAX: usize = 500;

/// The media types that are read and written.
pub mod media {
    /// An OCI manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An OCI layer, uncompressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// An OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// An OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// A Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// What points to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is; see [`media`].
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// For which platform it is, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Notes; in the layout's index the image's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// One image for one platform: its configuration and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own type; OCI lets it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration's blob.
    pub config: Descriptor,
    /// The layers' blobs, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A new OCI manifest.
    pub fn oci(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: Some(media::OCI_MANIFEST.to_owned()),
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// Manifests of one image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The document's own type; OCI lets it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The manifest that serves `wanted` best; of equals the first.
    ///
    /// # Errors
    /// If none does, naming those that there are.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, Error> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for manifest in &self.manifests {
            let fit = match &manifest.platform {
                Some(platform) => wanted.fit(platform),
                // What says no platform serves only if nothing else does.
                None => Some(0),
            };
            if let Some(fit) = fit
                && best.is_none_or(|(than, _)| fit > than)
            {
                best = Some((fit, manifest));
            }
        }
        best.map(|(_, manifest)| manifest).ok_or_else(|| {
            let offered: Vec<String> = self
                .manifests
                .iter()
                .filter_map(|m| m.platform.as_ref())
                .filter(|p| p.os != "unknown")
                .take(40)
                .map(Platform::to_string)
                .collect();
            Error::new(
                Kind::NotFound,
                format!("no image for {wanted}; there is {}", offered.join(", ")),
            )
        })
    }
}

/// Either document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Reads a document. Which it is says its own `mediaType`, else `content_type`,
    /// else its shape.
    ///
    /// # Errors
    /// If it is neither, if its own type and its shape disagree (a manifest that
    /// is also an index means two things, CVE-2021-41190), or if it is too large.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, Error> {
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the manifest has {} bytes; at most {MANIFEST_MAX} are read", bytes.len()),
            ));
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            schema_version: u32,
            media_type: Option<String>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let unread = |e: serde_json::Error| {
            Error::corrupt(format!("the manifest can't be read as JSON: {e}"))
        };
        let shape: Shape = serde_json::from_slice(bytes).map_err(unread)?;
        if shape.schema_version == 1 {
            return Err(Error::corrupt(
                "the manifest is in Docker's first form, schema 1, which Docker itself gave up: \
                 push the image again with a tool of this decade",
            ));
        }
        let is_manifest = shape.config.is_some() || shape.layers.is_some();
        let is_index = shape.manifests.is_some();
        let own = shape.media_type.as_deref();
        let said = own.or(content_type.map(|t| t.split(';').next().unwrap_or(t).trim()));
        let said_index = said.map(|t| t == media::OCI_INDEX || t == media::DOCKER_LIST);
        let said_manifest = said.map(|t| t == media::OCI_MANIFEST || t == media::DOCKER_MANIFEST);
        let two_minds = (is_manifest && (is_index || said_index == Some(true)))
            || (is_index && said_manifest == Some(true));
        if two_minds {
            return Err(Error::corrupt(
                "the document is a manifest and an index at once; it is not to be trusted",
            ));
        }
        if is_index {
            return Ok(Document::Index(serde_json::from_slice(bytes).map_err(unread)?));
        }
        if !is_manifest {
            return Err(Error::corrupt("the document is neither a manifest nor an index"));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unread)?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the image has {} layers; at most {LAYERS_MAX}", manifest.layers.len()),
            ));
        }
        if manifest.config.size > CONFIG_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "the image's configuration has {} bytes; at most {CONFIG_MAX} are read",
                    manifest.config.size
                ),
            ));
        }
        Ok(Document::Manifest(manifest))
    }

    /// The media type to say to others: its own, or what its shape means.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(m) => m.media_type.as_deref().unwrap_or(media::OCI_MANIFEST),
            Document::Index(i) => i.media_type.as_deref().unwrap_or(media::OCI_INDEX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: Option<&str>, n: u8) -> Descriptor {
        let mut d = Descriptor::new(media::OCI_MANIFEST, Digest::of(&[n]), 1);
        d.platform = platform.map(|p| p.parse().unwrap());
        d
    }

    #[test]
    fn a_document_of_two_minds_is_refused() {
        let d = r#"{"mediaType":"a","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}"#;
        let both = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[]}}"#);
        assert!(Document::parse(both.as_bytes(), None).is_err());
        let manifest = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#);
        assert!(Document::parse(manifest.as_bytes(), Some(media::OCI_INDEX)).is_err());
        assert!(Document::parse(manifest.as_bytes(), Some("text/plain")).is_ok());
        for bad in ["", "{}", "[]", r#"{"schemaVersion":1,"fsLayers":[]}"#, r#"{"layers":7}"#] {
            assert!(Document::parse(bad.as_bytes(), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_platform_is_selected() {
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![
                descriptor(Some("unknown/unknown"), 1),
                descriptor(Some("linux/arm64"), 2),
                descriptor(Some("linux/amd64"), 3),
            ],
            annotations: BTreeMap::new(),
        };
        let amd = index.select(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(amd.digest, Digest::of(&[3]));
        let error = index.select(&"linux/s390x".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.to_string().contains("linux/arm64, linux/amd64"), "{error}");
    }
}
