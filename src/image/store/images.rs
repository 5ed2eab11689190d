//! Images: found by name, id or digest; named, renamed and removed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Lease, Pins, Store};
use crate::image::document::{CONFIG_MAX, Descriptor, Document, MANIFEST_MAX, Manifest};
use crate::image::{Digest, Error, ImageConfig, Kind, Platform, Reference};

/// One image, read and checked.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id: the configuration's digest, as Docker has it.
    pub id: Digest,
    /// What the index points to.
    pub descriptor: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its configuration.
    pub config: ImageConfig,
}

impl Image {
    /// The diff ids of its layers, the lowest first.
    pub fn layers(&self) -> &[Digest] {
        &self.config.rootfs.diff_ids
    }
}

/// An image and what it is called.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The image.
    pub image: Image,
    /// Its names with tags.
    pub names: Vec<Reference>,
    /// Its names with the digests that registries know it by.
    pub digests: Vec<Reference>,
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<Reference>,
    /// Images that are gone, by their ids; what only they had is collected next.
    pub images: Vec<Digest>,
}

impl Store {
    /// Reads the image that a descriptor means; of an index, that of this machine's
    /// platform.
    ///
    /// # Errors
    /// If a part is missing or damaged.
    pub fn image(&self, descriptor: &Descriptor) -> Result<Image, Error> {
        let bytes = self.read_blob(descriptor.digest, MANIFEST_MAX)?;
        let manifest = match Document::parse(&bytes, Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let chosen = index.select(&Platform::host())?.clone();
                let bytes = self.read_blob(chosen.digest, MANIFEST_MAX)?;
                let Document::Manifest(manifest) =
                    Document::parse(&bytes, Some(&chosen.media_type))?
                else {
                    return Err(Error::corrupt("an index within an index is not an image"));
                };
                return self.with_config(chosen, manifest);
            }
        };
        self.with_config(descriptor.clone(), manifest)
    }

    fn with_config(&self, descriptor: Descriptor, manifest: Manifest) -> Result<Image, Error> {
        let config = ImageConfig::parse(&self.read_blob(manifest.config.digest, CONFIG_MAX)?)?;
        config.check(&manifest)?;
        Ok(Image { id: manifest.config.digest, descriptor, manifest, config })
    }

    /// Enters an image whose blobs are in the store, kept by `lease`, under a name
    /// or none. `source` is the digest that its registry knows it by, if that is
    /// not the manifest's. Layers that are not unpacked are, from their blobs. An
    /// image that had the name stays, without it.
    ///
    /// # Errors
    /// If a blob of it is missing, or the disk refuses.
    pub fn enter(
        &self,
        _lease: &Lease,
        descriptor: &Descriptor,
        name: Option<&Reference>,
        source: Option<Digest>,
    ) -> Result<Image, Error> {
        let image = self.image(descriptor)?;
        for blob in image.manifest.blobs() {
            if !self.has_blob(blob.digest, blob.size)? {
                return Err(Error::corrupt(format!("the image's blob {} is missing", blob.digest)));
            }
        }
        // What is in the index can be run.
        self.unpack_missing(&image)?;
        let entry = Entry::new(descriptor.clone(), name, source);
        self.change_index(|entries| {
            set(entries, entry);
            Ok(())
        })?;
        Ok(image)
    }

    /// Gives an image one more name; an image that had it stays, without it.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<(), Error> {
        self.change_index(|entries| {
            let entry = entries
                .iter()
                .find(|entry| entry.descriptor.digest == image.descriptor.digest)
                .ok_or_else(|| absent(&image.id.to_string()))?;
            let same_repository = entry.name().is_some_and(|n| n.name() == name.name());
            let source = same_repository.then(|| entry.source());
            let entry = Entry::new(image.descriptor.clone(), Some(name), source);
            set(entries, entry);
            Ok(())
        })
    }

    /// An image without a name is needed by nobody who made it: it may go.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn supersede(&self, image: &Image) -> Result<(), Error> {
        self.change_index(|entries| {
            for entry in entries.iter_mut() {
                if entry.descriptor.digest == image.descriptor.digest && !entry.is_named() {
                    *entry = entry.clone().without_name();
                }
            }
            Ok(())
        })
    }

    /// An image that lost its name, or whoever made it, is needed again: it stays.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn want_again(&self, image: &Image) -> Result<(), Error> {
        let is_it = |entry: &Entry| entry.descriptor.digest == image.descriptor.digest;
        if !self.read_index()?.iter().any(|entry| is_it(entry) && entry.superseded().is_some()) {
            return Ok(());
        }
        self.change_index(|entries| {
            entries.iter_mut().filter(|entry| is_it(entry)).for_each(Entry::want_again);
            Ok(())
        })
    }

    /// All images. What can't be read is left out; [`Store::verify`] says why.
    ///
    /// # Errors
    /// If the index can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut listed: BTreeMap<Digest, Listed> = BTreeMap::new();
        for entry in self.read_index()? {
            let image = match self.image(&entry.descriptor) {
                Ok(image) => image,
                Err(e) => {
                    tracing::warn!("an image is damaged: {e}");
                    continue;
                }
            };
            let known = listed.entry(image.id).or_insert_with(|| Listed {
                image,
                names: Vec::new(),
                digests: Vec::new(),
            });
            if let Some(name) = entry.name() {
                let pinned = name.with_digest(name.digest().unwrap_or(entry.source()));
                if !known.digests.contains(&pinned) {
                    known.digests.push(pinned);
                }
                if name.tag().is_some() {
                    known.names.push(name);
                }
            }
        }
        Ok(listed.into_values().collect())
    }

    /// The image with this name. A digest is met by the manifest's own digest and by
    /// that of the index it came from.
    ///
    /// # Errors
    /// If the index can't be read, or the image is damaged.
    pub fn find(&self, name: &Reference) -> Result<Option<Image>, Error> {
        let entries = self.read_index()?;
        let Some(entry) = entries.iter().find(|entry| answers(entry, name)) else {
            return Ok(None);
        };
        self.image(&entry.descriptor).map(Some).map_err(|e| e.context(name.familiar()))
    }

    /// The image that a person means: a name, an id or its beginning, a digest.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Conflict`] if several ids begin so.
    pub fn resolve(&self, text: &str) -> Result<Image, Error> {
        if let Ok(name) = text.parse::<Reference>()
            && let Some(image) = self.find(&name)?
        {
            return Ok(image);
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(is_hex) {
            return Err(absent(text));
        }
        let mut found: BTreeMap<Digest, Image> = BTreeMap::new();
        for entry in self.read_index()? {
            let Ok(image) = self.image(&entry.descriptor) else {
                continue;
            };
            let begins = |digest: Digest| digest.hex().starts_with(prefix);
            let whole =
                prefix.len() == 64 && (begins(entry.source()) || begins(image.descriptor.digest));
            if begins(image.id) || whole {
                found.insert(image.id, image);
            }
        }
        match found.len() {
            0 => Err(absent(text)),
            1 => found.into_values().next().ok_or_else(|| absent(text)),
            n => Err(Error::new(
                Kind::Conflict,
                format!("{n} images' ids begin with {prefix}; give more of its digits"),
            )),
        }
    }

    /// Takes a name away. With its last name the image goes, unless `pins` hold it:
    /// then it stays without a name.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such name.
    pub fn untag(&self, name: &Reference, pins: &Pins) -> Result<Removed, Error> {
        let id = self.find(name).ok().flatten().map(|image| image.id);
        self.change_index(|entries| {
            let wanted = name.canonical();
            let at = entries
                .iter()
                .position(|entry| entry.name().as_ref() == Some(&wanted))
                .or_else(|| entries.iter().position(|entry| answers(entry, name)))
                .ok_or_else(|| absent(&name.familiar()))?;
            let mut removed = Removed::default();
            let entry = entries.remove(at);
            removed.untagged.extend(entry.name());
            let others = entries.iter().any(|e| e.descriptor.digest == entry.descriptor.digest);
            if !others {
                match id {
                    Some(id) if pins.images.contains(&id) => entries.push(entry.without_name()),
                    Some(id) => removed.images.push(id),
                    None => {}
                }
            }
            Ok(removed)
        })
    }

    /// Removes an image with all its names.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if `pins` hold it, or if it has names in several
    /// repositories and `force` is not given.
    pub fn remove(&self, image: &Image, pins: &Pins, force: bool) -> Result<Removed, Error> {
        let short = image.id.short();
        if pins.images.contains(&image.id) {
            return Err(Error::new(
                Kind::Conflict,
                format!("the image {short} is in use by a container; remove that first"),
            ));
        }
        self.change_index(|entries| {
            let is_it = |entry: &Entry| entry.descriptor.digest == image.descriptor.digest;
            let names: Vec<Reference> =
                entries.iter().filter(|e| is_it(e)).filter_map(Entry::name).collect();
            let repositories: BTreeSet<String> = names.iter().map(Reference::name).collect();
            if repositories.len() > 1 && !force {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "the image {short} has names in several repositories; remove them one by \
                         one, or use --force"
                    ),
                ));
            }
            if !entries.iter().any(is_it) {
                return Err(absent(&short));
            }
            entries.retain(|entry| !is_it(entry));
            Ok(Removed { untagged: names, images: vec![image.id] })
        })
    }
}

/// Whether an entry is what `name` asks for.
fn answers(entry: &Entry, name: &Reference) -> bool {
    let Some(own) = entry.name() else {
        return false;
    };
    match name.digest() {
        None => own == *name,
        Some(digest) => {
            own.name() == name.name()
                && (own.digest() == Some(digest)
                    || entry.descriptor.digest == digest
                    || entry.source() == digest)
        }
    }
}

/// Puts an entry in: its name is taken from whoever has it.
fn set(entries: &mut Vec<Entry>, new: Entry) {
    let digest = new.descriptor.digest;
    if let Some(name) = new.name() {
        let (had, mut kept): (Vec<Entry>, Vec<Entry>) =
            entries.drain(..).partition(|entry| entry.name().as_ref() == Some(&name));
        for entry in had {
            let other = entry.descriptor.digest;
            if other != digest && !kept.iter().any(|e| e.descriptor.digest == other) {
                kept.push(entry.without_name());
            }
        }
        // A named image needs no nameless entry.
        kept.retain(|entry| entry.is_named() || entry.descriptor.digest != digest);
        *entries = kept;
    } else if let Some(entry) = entries.iter_mut().find(|entry| entry.descriptor.digest == digest) {
        entry.want_again();
        return;
    }
    entries.push(new);
}

fn absent(what: &str) -> Error {
    Error::new(Kind::NotFound, format!("no such image: {what}; `berth images` lists those here"))
}
