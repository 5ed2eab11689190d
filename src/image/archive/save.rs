//! From the store to a tar.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use super::DockerImage;
use crate::image::document::{Descriptor, Index, media};
use crate::image::store::{Image, Store};
use crate::image::{Digest, Error, Kind, Reference};

/// For whom an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For readers of either format.
    #[default]
    Both,
    /// An OCI image layout alone.
    Oci,
    /// A docker-archive alone.
    Docker,
}

/// Writes images, named as a person names them, into one archive. Names among them
/// are kept; what is given by its id has none. The same images give the same bytes.
///
/// # Errors
/// If there is no such image, a blob is damaged, or `out` can't be written.
pub fn save(store: &Store, names: &[String], format: Format, out: impl Write) -> Result<(), Error> {
    let lease = store.lease()?;
    let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
    for text in names {
        let image = store.resolve(text)?;
        let name = text.parse::<Reference>().ok();
        let name = match name {
            Some(name) if store.find(&name)?.is_some() => Some(name),
            _ => None,
        };
        match images.iter_mut().find(|(known, _)| known.id == image.id) {
            Some((_, names)) => names.extend(name),
            None => images.push((image, name.into_iter().collect())),
        }
    }
    for (image, _) in &images {
        let mut parts: Vec<Digest> = image.manifest.blobs().map(|blob| blob.digest).collect();
        parts.push(image.descriptor.digest);
        lease.add(&parts)?;
    }
    let mut tar = tar::Builder::new(out);
    if format != Format::Docker {
        document(&mut tar, "oci-layout", &serde_json::json!({"imageLayoutVersion": "1.0.0"}))?;
        document(&mut tar, "index.json", &index(&images))?;
    }
    if format != Format::Oci {
        document(&mut tar, "manifest.json", &docker(&images))?;
    }
    let mut written = BTreeSet::new();
    for (image, _) in &images {
        let descriptor = [&image.descriptor];
        for blob in descriptor.into_iter().chain(image.manifest.blobs()) {
            if written.insert(blob.digest) {
                append(store, &mut tar, blob)?;
            }
        }
    }
    tar.into_inner().and_then(|mut out| out.flush()).map_err(failed)
}

fn index(images: &[(Image, Vec<Reference>)]) -> Index {
    let mut manifests = Vec::new();
    for (image, names) in images {
        let mut plain = image.descriptor.clone();
        plain.annotations.clear();
        if names.is_empty() {
            manifests.push(plain.clone());
        }
        for name in names {
            let mut named = plain.clone();
            // As Docker writes it: a name of the tag alone, and the whole one beside it.
            if let Some(tag) = name.tag() {
                let mut say = |key: &str, value: String| {
                    named.annotations.insert(key.to_owned(), value);
                };
                say("org.opencontainers.image.ref.name", tag.to_owned());
                say("io.containerd.image.name", name.to_string());
            }
            manifests.push(named);
        }
    }
    Index {
        schema_version: 2,
        media_type: Some(media::OCI_INDEX.to_owned()),
        manifests,
        annotations: Default::default(),
    }
}

fn docker(images: &[(Image, Vec<Reference>)]) -> Vec<DockerImage> {
    images
        .iter()
        .map(|(image, names)| DockerImage {
            config: path(image.id),
            repo_tags: Some(
                names.iter().filter(|n| n.tag().is_some()).map(Reference::familiar).collect(),
            ),
            layers: image.manifest.layers.iter().map(|layer| path(layer.digest)).collect(),
        })
        .collect()
}

fn path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

fn document(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Error::caused(Kind::System, format!("cannot write {name}: {e}"), e))?;
    tar.append_data(&mut header(bytes.len() as u64), name, &bytes[..]).map_err(failed)
}

fn append(
    store: &Store,
    tar: &mut tar::Builder<impl Write>,
    blob: &Descriptor,
) -> Result<(), Error> {
    if !store.has_blob(blob.digest, blob.size)? {
        return Err(Error::corrupt(format!(
            "the store lacks the blob {}; pull its image again",
            blob.digest
        )));
    }
    let mut hashed =
        crate::image::digest::HashingReader::new(store.open_blob(blob.digest)?.take(blob.size));
    tar.append_data(&mut header(blob.size), path(blob.digest), &mut hashed).map_err(failed)?;
    let (found, _) = hashed.finish().map_err(failed)?;
    if found != blob.digest {
        return Err(Error::corrupt(format!(
            "the blob {} is damaged on disk; the archive must not be used",
            blob.digest
        )));
    }
    Ok(())
}

fn failed(e: io::Error) -> Error {
    Error::caused(Kind::System, format!("cannot write the archive: {e}"), e)
}
