//! Garbage: what nothing refers to goes.
//!
//! Mark and sweep under the exclusive lock. A crash in the middle leaves garbage,
//! never a hole: the index is written before anything is deleted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::lock::Lock;
use super::{Entry, Store, list, list_digests, remove_file};
use crate::image::document::{CONFIG_MAX, Document, MANIFEST_MAX};
use crate::image::{Digest, Error, ImageConfig, Kind};

/// What the caller's containers hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// Images by their ids: they stay, if need be without a name.
    pub images: BTreeSet<Digest>,
    /// Unpacked layers by their names: mounted, whatever the index says.
    pub layers: BTreeSet<Digest>,
    /// Why it is not known what else is held; then nothing is collected.
    pub unknown: Vec<String>,
}

impl Pins {
    /// Whether all that is held is known.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Error> {
        match self.unknown.as_slice() {
            [] => Ok(()),
            why => {
                let why = why.join("; ");
                Err(Error::corrupt(format!("no layer and no blob is removed: {why}")))
            }
        }
    }
}

/// What a collection spares.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Which images without a name stay.
    pub untagged: Untagged,
    /// Blobs younger than this stay: other tools write blobs first, the index then.
    pub young: Duration,
    /// Unfinished downloads younger than this stay, to be gone on with.
    pub partial: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Keep {
            untagged: Untagged::All,
            young: Duration::from_secs(3600),
            partial: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Which images without a name a collection spares, beside those that are pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untagged {
    /// All.
    All,
    /// Those that never had a name, and those that lost it within this time.
    Lost(Duration),
    /// None.
    None,
}

impl Keep {
    /// What nobody asked to be removed and nobody needs: time enough to think better of
    /// a name that went to another image.
    pub fn by_itself() -> Keep {
        Keep { untagged: Untagged::Lost(Duration::from_secs(24 * 3600)), ..Keep::default() }
    }

    /// Nothing that can go: what a person wants who asks for the space.
    pub fn nothing() -> Keep {
        Keep { untagged: Untagged::None, young: Duration::ZERO, partial: Duration::ZERO }
    }
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests of nameless images.
    pub images: Vec<Digest>,
    /// How many blobs.
    pub blobs: u64,
    /// How many unpacked layers.
    pub layers: u64,
    /// Bytes of all, as far as they are known.
    pub bytes: u64,
}

impl Store {
    /// Removes what neither the index nor a live lease nor `pins` reach.
    ///
    /// # Errors
    /// If it is not known what is held, or something can't be read now: then nothing is
    /// gone. If the disk refuses; then less is gone, and nothing that is needed.
    pub fn collect(&self, pins: &Pins, keep: Keep) -> Result<Collected, Error> {
        pins.check()?;
        let mut collected = Collected::default();
        {
            let lock = self.lock_exclusive()?;
            let leased = self.leased(&lock)?;
            let entries = self.read_index()?;
            let entries = match keep.untagged {
                Untagged::All => entries,
                which => {
                    self.drop_untagged(&lock, which, entries, pins, &leased, &mut collected)?
                }
            };
            let mut marked = leased;
            marked.extend(&pins.layers);
            for entry in &entries {
                self.mark(entry.descriptor.digest, &mut marked, 0)?;
            }
            self.sweep_blobs(&marked, keep.young, &mut collected)?;
            for (name, _) in list_digests(&self.layers())? {
                if !marked.contains(&name) {
                    collected.bytes += self.layer_marker(name).map_or(0, |m| m.disk);
                    collected.layers += 1;
                    self.discard_layer(name)?;
                }
            }
            self.sweep_partials(keep.partial, &mut collected)?;
            self.sweep_import_stamps()?;
            for path in list(&self.work("damaged"))? {
                collected.bytes += size(&path);
                remove_file(&path)?;
            }
        }
        self.empty_trash()?;
        self.reserve();
        Ok(collected)
    }

    fn drop_untagged(
        &self,
        lock: &Lock,
        which: Untagged,
        entries: Vec<Entry>,
        pins: &Pins,
        leased: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) -> Result<Vec<Entry>, Error> {
        let before = entries.len();
        let (kept, gone): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| {
            let pinned = || match self.image(&entry.descriptor) {
                Ok(image) => pins.images.contains(&image.id),
                // What can't be read now may be whole, and what is damaged may be what
                // a container runs from, unless none does.
                Err(error) => error.kind() == Kind::System || !pins.images.is_empty(),
            };
            let stays = match which {
                Untagged::All => true,
                Untagged::Lost(age) => entry.superseded().is_none_or(|since| !is_past(since, age)),
                Untagged::None => false,
            };
            stays || entry.is_named() || leased.contains(&entry.descriptor.digest) || pinned()
        });
        collected.images.extend(gone.iter().map(|entry| entry.descriptor.digest));
        if kept.len() != before {
            self.write_index(lock, &kept)?;
        }
        Ok(kept)
    }

    /// Marks a manifest or index and all below it. What is damaged or not there marks
    /// itself alone: what it needed can't be known, and comes again with the next pull.
    ///
    /// # Errors
    /// If something that may be whole can't be read now.
    fn mark(&self, digest: Digest, marked: &mut BTreeSet<Digest>, depth: u32) -> Result<(), Error> {
        marked.insert(digest);
        let Some(bytes) = whole(self.read_blob(digest, MANIFEST_MAX))? else { return Ok(()) };
        match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => {
                marked.extend(manifest.blobs().map(|blob| blob.digest));
                let config = whole(self.read_blob(manifest.config.digest, CONFIG_MAX))?;
                if let Some(Ok(config)) = config.map(|bytes| ImageConfig::parse(&bytes)) {
                    marked.extend(config.rootfs.names());
                }
            }
            // Indexes in indexes are OCI's; ever deeper ones are an attack.
            Ok(Document::Index(index)) if depth < 4 => {
                for manifest in index.manifests {
                    self.mark(manifest.digest, marked, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn sweep_blobs(
        &self,
        marked: &BTreeSet<Digest>,
        young: Duration,
        collected: &mut Collected,
    ) -> Result<(), Error> {
        for (digest, path) in list_digests(&self.blobs())? {
            if !marked.contains(&digest) && is_older(&path, young) {
                collected.bytes += size(&path);
                collected.blobs += 1;
                remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn sweep_partials(&self, age: Duration, collected: &mut Collected) -> Result<(), Error> {
        for path in list(&self.work("partial"))? {
            if !is_older(&path, age) {
                continue;
            }
            // Held until it is gone: who claims it now sees that it is another file.
            if let Some(_hold) = Lock::try_file(&path)? {
                collected.bytes += size(&path);
                remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// What was read; `None` of what is damaged or not there.
fn whole(read: Result<Vec<u8>, Error>) -> Result<Option<Vec<u8>>, Error> {
    match read {
        Err(error) if error.kind() == Kind::System => Err(error),
        read => Ok(read.ok()),
    }
}

fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.len())
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|then| is_past(then, age))
}

/// A time in the future (the clock was set) is not past, unless no age is asked for.
fn is_past(then: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(then).is_ok_and(|past| past >= age) || age.is_zero()
}
