//! How much disk what takes; shared parts counted once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Listed, Store, list, list_digests};
use crate::image::{Digest, Error};

/// Disk usage, in bytes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Of each image.
    pub images: Vec<ImageUsage>,
    /// All blobs.
    pub blobs: u64,
    /// All unpacked layers.
    pub layers: u64,
    /// Blobs and layers that no image has.
    pub unreferenced: u64,
    /// Downloads that are not finished.
    pub partial: u64,
    /// What is being made, or was left by a crash since the start.
    pub temporary: u64,
    /// What was set aside as damaged.
    pub damaged: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.blobs + self.layers + self.partial + self.temporary + self.damaged
    }
}

/// One image's share.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image and its names.
    pub listed: Listed,
    /// Blobs and unpacked layers of it, in bytes.
    pub size: u64,
    /// Those of them that no other image has: what its removal frees.
    pub unique: u64,
}

impl Store {
    /// What takes how much.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn usage(&self) -> Result<Usage, Error> {
        let mut parts: BTreeMap<(Part, Digest), u64> = BTreeMap::new();
        for (digest, path) in list_digests(&self.blobs())? {
            parts.insert((Part::Blob, digest), disk(&path));
        }
        for (name, path) in list_digests(&self.layers())? {
            // The folder itself, and its marker, too.
            let size = self.layer_marker(name).map_or(0, |marker| marker.disk);
            parts.insert((Part::Layer, name), size + disk(&path) + disk(&path.join("fs")));
        }
        let images = self.list()?;
        let mut holders: BTreeMap<(Part, Digest), u32> = BTreeMap::new();
        let of = |listed: &Listed| {
            let image = &listed.image;
            let mut own: Vec<(Part, Digest)> =
                image.manifest.blobs().map(|blob| (Part::Blob, blob.digest)).collect();
            own.push((Part::Blob, image.descriptor.digest));
            own.extend(self.layer_names(image).into_iter().map(|name| (Part::Layer, name)));
            own.sort();
            own.dedup();
            own
        };
        for listed in &images {
            for part in of(listed) {
                *holders.entry(part).or_default() += 1;
            }
        }
        let mut usage = Usage {
            partial: sum(&self.work("partial"))?,
            temporary: sum(&self.work("tmp"))?,
            damaged: sum(&self.work("damaged"))?,
            ..Usage::default()
        };
        for path in list(&self.staging())? {
            // A layer being unpacked grows and goes while it is counted.
            usage.temporary += super::measure::measure(&path).map_or(0, |tree| tree.disk);
        }
        for (part, size) in &parts {
            match part.0 {
                Part::Blob => usage.blobs += size,
                Part::Layer => usage.layers += size,
            }
            if !holders.contains_key(part) {
                usage.unreferenced += size;
            }
        }
        for listed in images {
            let own = of(&listed);
            let size = |part: &(Part, Digest)| parts.get(part).copied().unwrap_or(0);
            usage.images.push(ImageUsage {
                size: own.iter().map(size).sum(),
                unique: own.iter().filter(|part| holders.get(part) == Some(&1)).map(size).sum(),
                listed,
            });
        }
        Ok(usage)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Blob,
    Layer,
}

fn disk(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn sum(dir: &Path) -> Result<u64, Error> {
    Ok(list(dir)?.iter().map(|path| disk(path)).sum())
}
