//! From a tar to the store, as a stream: entries may come in any order and are read
//! once.
//!
//! No entry is ever written under a name of the archive's: content goes into blobs by
//! its digest, names only into a map.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::{Component, Path};

use super::DockerImage;
use crate::image::commit::enter_manifest;
use crate::image::compression::{Compression, Decoder};
use crate::image::document::{
    CONFIG_MAX, Descriptor, Index, LAYERS_MAX, MANIFEST_MAX, Manifest, media,
};
use crate::image::store::{Image, LAYER_MAX, Lease, Store};
use crate::image::{Digest, Error, ImageConfig, Kind, Reference};

/// The most entries that are read.
const ENTRIES_MAX: usize = 100_000;
/// How many links are followed to a file.
const LINKS_MAX: usize = 16;

/// One image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// The names that it got.
    pub names: Vec<Reference>,
}

/// Loads all images of an archive, compressed or not.
///
/// # Errors
/// If it is neither a docker-archive nor an OCI archive, or if something in it is
/// damaged or missing; images before that are loaded.
pub fn load(store: &Store, archive: impl Read + Send) -> Result<Vec<Loaded>, Error> {
    let lease = store.lease()?;
    let decoder = Decoder::new(archive, LAYER_MAX).map_err(unread)?;
    let content = Content::read(store, &lease, decoder)?;
    let images = match (&content.index, &content.docker) {
        (Some(index), docker) => {
            content.load_oci(store, &lease, index, docker.as_deref().unwrap_or_default())?
        }
        (None, Some(docker)) => content.load_docker(store, &lease, docker)?,
        (None, None) => {
            return Err(Error::invalid(
                "the archive has neither manifest.json (docker-archive) nor index.json (OCI \
                 archive); a plain root file system is taken by `berth import`",
            ));
        }
    };
    store.settle_soon();
    Ok(images)
}

/// What an archive holds.
#[derive(Default)]
struct Content {
    /// Files by their paths, as blobs.
    blobs: HashMap<String, (Digest, u64)>,
    /// Links by their paths.
    links: HashMap<String, String>,
    index: Option<Index>,
    docker: Option<Vec<DockerImage>>,
}

impl Content {
    fn read(store: &Store, lease: &Lease, archive: impl Read) -> Result<Content, Error> {
        let mut content = Content::default();
        let mut archive = tar::Archive::new(archive);
        for (count, entry) in archive.entries().map_err(unread)?.enumerate() {
            if count >= ENTRIES_MAX {
                return Err(Error::new(
                    Kind::TooLarge,
                    format!("the archive has more than {ENTRIES_MAX} entries"),
                ));
            }
            let mut entry = entry.map_err(unread)?;
            let path = clean(Path::new(""), &entry.path().map_err(unread)?)?;
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name().map_err(unread)?.unwrap_or_default();
                // A symlink is relative to its folder, a hard link to the archive.
                let folder = match kind.is_symlink() {
                    true => Path::new(&path).parent().unwrap_or(Path::new("")),
                    false => Path::new(""),
                };
                let target = clean(folder, &target)?;
                content.links.insert(path, target);
            } else if kind.is_file() {
                content.take(store, lease, path, &mut entry)?;
            }
        }
        Ok(content)
    }

    fn take(
        &mut self,
        store: &Store,
        lease: &Lease,
        path: String,
        entry: &mut impl Read,
    ) -> Result<(), Error> {
        let base = path.rsplit('/').next().unwrap_or(&path);
        match path.as_str() {
            "index.json" => self.index = Some(document(&path, entry)?),
            "manifest.json" => self.docker = Some(document(&path, entry)?),
            "oci-layout" | "repositories" => {}
            // The first format's notes for each layer; nobody needs them.
            _ if base == "VERSION" || base == "json" => {}
            _ => {
                let mut staged = store.stage_blob()?;
                io::copy(entry, &mut staged).map_err(unread)?;
                let said = path.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
                if said.is_some_and(|said| said != staged.digest()) {
                    return Err(Error::corrupt(format!(
                        "{path} in the archive has the digest {}",
                        staged.digest()
                    )));
                }
                self.blobs.insert(path, staged.finish(lease)?);
            }
        }
        Ok(())
    }

    /// The blob that a path means, over links.
    fn blob(&self, path: &str) -> Result<(Digest, u64), Error> {
        let mut at = clean(Path::new(""), Path::new(path))?;
        for _ in 0..LINKS_MAX {
            if let Some(blob) = self.blobs.get(&at) {
                return Ok(*blob);
            }
            match self.links.get(&at) {
                Some(target) => at = target.clone(),
                None => break,
            }
        }
        Err(Error::corrupt(format!("the archive lacks {path:?}, which its manifest names")))
    }

    fn load_oci(
        &self,
        store: &Store,
        lease: &Lease,
        index: &Index,
        docker: &[DockerImage],
    ) -> Result<Vec<Loaded>, Error> {
        let mut loaded: BTreeMap<Digest, Loaded> = BTreeMap::new();
        for descriptor in &index.manifests {
            let mut plain: Descriptor = descriptor.clone();
            plain.annotations.clear();
            let image = prepare(store, lease, &plain)?;
            let mut names: Vec<Reference> =
                ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                    .iter()
                    .filter_map(|annotation| descriptor.annotations.get(*annotation))
                    // A tag alone names no repository.
                    .filter(|text| text.contains(['/', ':']))
                    .filter_map(|text| text.parse().ok())
                    .collect();
            for other in docker {
                if self.blob(&other.config).is_ok_and(|(digest, _)| digest == image.id) {
                    names.extend(tags(other));
                }
            }
            names.sort();
            names.dedup();
            enter(store, lease, &plain, &names)?;
            loaded
                .entry(image.id)
                .or_insert_with(|| Loaded { image, names: Vec::new() })
                .names
                .extend(names);
        }
        Ok(loaded
            .into_values()
            .map(|mut loaded| {
                loaded.names.sort();
                loaded.names.dedup();
                loaded
            })
            .collect())
    }

    fn load_docker(
        &self,
        store: &Store,
        lease: &Lease,
        docker: &[DockerImage],
    ) -> Result<Vec<Loaded>, Error> {
        let mut loaded = Vec::new();
        for image in docker {
            if image.layers.len() > LAYERS_MAX {
                return Err(Error::new(
                    Kind::TooLarge,
                    format!("an image has {} layers; at most {LAYERS_MAX}", image.layers.len()),
                ));
            }
            let (digest, size) = self.blob(&image.config)?;
            let config = ImageConfig::parse(&store.read_blob(digest, CONFIG_MAX)?)?;
            let mut layers = Vec::new();
            for path in &image.layers {
                let (digest, size) = self.blob(path)?;
                let mut start = [0; 4];
                let mut blob = store.open_blob(digest)?.take(4);
                let have = io::copy(&mut blob, &mut &mut start[..]).map_err(unread)?;
                let start = &start[..usize::try_from(have).unwrap_or(0)];
                let media_type = Compression::of(start).layer_media_type();
                layers.push(Descriptor::new(media_type, digest, size));
            }
            let manifest = Manifest::oci(Descriptor::new(media::OCI_CONFIG, digest, size), layers);
            lease.add(&config.rootfs.names())?;
            let entered = enter_manifest(store, lease, manifest, &config, None)?;
            let names = tags(image);
            for name in &names {
                store.tag(&entered, name)?;
            }
            loaded.push(Loaded { image: entered, names });
        }
        Ok(loaded)
    }
}

/// Reads and unpacks an image whose blobs are there.
fn prepare(store: &Store, lease: &Lease, descriptor: &Descriptor) -> Result<Image, Error> {
    let image = store.image(descriptor)?;
    let mut parts: Vec<Digest> = image.manifest.blobs().map(|blob| blob.digest).collect();
    parts.extend(image.config.rootfs.names());
    lease.add(&parts)?;
    store.unpack_missing(&image)?;
    Ok(image)
}

fn enter(
    store: &Store,
    lease: &Lease,
    descriptor: &Descriptor,
    names: &[Reference],
) -> Result<(), Error> {
    if names.is_empty() {
        store.enter(lease, descriptor, None, None)?;
    }
    for name in names {
        store.enter(lease, descriptor, Some(name), None)?;
    }
    Ok(())
}

fn tags(image: &DockerImage) -> Vec<Reference> {
    image.repo_tags.iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

fn document<T: serde::de::DeserializeOwned>(path: &str, entry: &mut impl Read) -> Result<T, Error> {
    let mut bytes = Vec::new();
    entry.take(MANIFEST_MAX + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(Error::new(
            Kind::TooLarge,
            format!("{path} in the archive has more than {MANIFEST_MAX} bytes"),
        ));
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::corrupt(format!("{path} in the archive can't be read: {e}")))
}

/// A path within the archive without `.` and `..`; one that leaves it is an attack,
/// or an archive of something else.
fn clean(folder: &Path, path: &Path) -> Result<String, Error> {
    let mut parts: Vec<&str> = Vec::new();
    let refuse = || {
        Error::corrupt(format!("{:?} in the archive leads out of it", path.display().to_string()))
    };
    for component in folder.components().chain(path.components()) {
        match component {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(refuse)?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop().ok_or_else(refuse)?;
            }
            Component::RootDir | Component::Prefix(_) => return Err(refuse()),
        }
    }
    Ok(parts.join("/"))
}

fn unread(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::StorageFull => {
            Error::caused(Kind::System, format!("cannot load the archive: {e}"), e)
        }
        _ => Error::corrupt(format!("the archive can't be read: {e}")),
    }
}
