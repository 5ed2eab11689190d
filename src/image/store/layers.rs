//! Unpacked layers: one directory for each diff id, shared by all images. A layer that
//! takes something from those below it (hard links to their files, directories without
//! an entry of their own) is another on other layers: it is named by its chain id.
//!
//! A layer gets its name by a rename once it is complete, but is not forced to disk
//! then: that would cost each pull the disk's whole queue. Its marker says in which
//! boot it was made. [`Store::settle`] writes everything to disk and says so; a
//! layer of an earlier boot without that word is dropped at start, and unpacked
//! again from its blob.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::lock::{Lock, try_exclusive};
use super::measure::measure;
use super::{Image, Lease, Store, list_digests, sync_parent};
use crate::image::{Digest, Error, Kind};

/// What `layer.json` beside a layer's `fs` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The format's version: 1.
    pub version: u32,
    /// The layer's digest before compression.
    pub diff_id: Digest,
    /// The length of its tar in bytes.
    pub tar_size: u64,
    /// How many names it holds.
    pub entries: u64,
    /// The bytes of its regular files.
    pub bytes: u64,
    /// The bytes it takes on disk.
    pub disk: u64,
    /// Its name, if it takes something from the layers below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<Digest>,
    /// Whether it hides all layers below it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opaque: bool,
    /// The boot in which it was unpacked.
    boot: String,
}

impl Marker {
    /// The layer's name in the store.
    pub fn name(&self) -> Digest {
        self.chain_id.unwrap_or(self.diff_id)
    }
}

const VERSION: u32 = 1;
const MARKER: &str = "layer.json";
/// Beside the marker: the layer is on disk whole.
const SETTLED: &str = "settled";

impl Store {
    /// The directory of the unpacked layer with this name.
    pub fn layer_path(&self, name: Digest) -> Option<PathBuf> {
        let path = self.layers().join(name.hex()).join("fs");
        path.is_dir().then_some(path)
    }

    /// What is said of the unpacked layer with this name; `None` if it is not there or
    /// its marker can't be read.
    pub fn layer_marker(&self, name: Digest) -> Option<Marker> {
        read_marker(&self.layers().join(name.hex())).filter(|marker| {
            marker.version == VERSION && marker.chain_id.unwrap_or(marker.diff_id) == name
        })
    }

    /// A layer at its place in an image, if it is unpacked: by its chain id, or by its
    /// diff id if it is the same on whatever it lies.
    pub fn layer(&self, diff_id: Digest, chain_id: Digest) -> Option<Marker> {
        let own = || self.layer_marker(chain_id).filter(|_| self.layer_path(chain_id).is_some());
        let shared = || {
            let alone = |marker: &Marker| marker.chain_id.is_none();
            self.layer_marker(diff_id).filter(alone).filter(|_| self.layer_path(diff_id).is_some())
        };
        shared().or_else(own)
    }

    /// The directories of an image for an overlay, the topmost first: those that a layer
    /// hides as a whole are left out, as overlayfs does not look for that.
    ///
    /// # Errors
    /// If one of them is not unpacked.
    pub fn root_layers(&self, image: &Image) -> Result<Vec<PathBuf>, Error> {
        let rootfs = &image.config.rootfs;
        let mut layers = Vec::new();
        for (diff_id, chain_id) in rootfs.diff_ids.iter().zip(rootfs.chain_ids()).rev() {
            let marker = self.layer(*diff_id, chain_id).ok_or_else(|| {
                Error::corrupt(format!("the layer {diff_id} is not unpacked; pull the image again"))
            })?;
            layers.push(self.layers().join(marker.name().hex()).join("fs"));
            if marker.opaque {
                break;
            }
        }
        Ok(layers)
    }

    /// The names of an image's layers that are unpacked.
    pub fn layer_names(&self, image: &Image) -> Vec<Digest> {
        let rootfs = &image.config.rootfs;
        let both = rootfs.diff_ids.iter().zip(rootfs.chain_ids());
        both.filter_map(|(diff_id, chain_id)| Some(self.layer(*diff_id, chain_id)?.name()))
            .collect()
    }

    /// A place to unpack a layer in; it vanishes unless it is finished.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn stage_layer(&self) -> Result<StagedLayer, Error> {
        let _lock = self.lock_shared()?;
        let staging = self.staging();
        let fail = |e| Error::io("make a folder in", &staging, e);
        let path =
            tempfile::Builder::new().prefix("layer-").tempdir_in(&staging).map_err(fail)?.keep();
        let hold = File::open(&path).map_err(fail)?;
        try_exclusive(&hold);
        let staged = StagedLayer { store: self.clone(), path, _hold: hold };
        super::make_dir(&staged.fs(), 0o755)?;
        Ok(staged)
    }

    /// Writes unpacked layers to disk and marks them so. To be called after a pull,
    /// by who has time.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn settle(&self) -> Result<(), Error> {
        let unsettled: Vec<PathBuf> = list_digests(&self.layers())?
            .into_iter()
            .map(|(_, path)| path)
            .filter(|path| !path.join(SETTLED).exists())
            .collect();
        if unsettled.is_empty() {
            return Ok(());
        }
        let layers = self.layers();
        let disk = File::open(&layers).map_err(|e| Error::io("open", &layers, e))?;
        syncfs(&disk).map_err(|e| Error::io("write to disk", &layers, e.into()))?;
        for path in unsettled {
            match File::create(path.join(SETTLED)) {
                // A layer may have been collected meanwhile.
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("mark", &path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// As [`Store::settle`], on a thread of its own. A failure is only logged: the
    /// layers can be unpacked again.
    pub fn settle_soon(&self) {
        let store = self.clone();
        let settle = move || {
            if let Err(e) = store.settle() {
                tracing::warn!("{e}; after a power cut layers will be unpacked again");
            }
        };
        if let Err(e) = std::thread::Builder::new().name("settle".to_owned()).spawn(settle) {
            tracing::warn!("cannot start a thread to write layers to disk: {e}");
        }
    }

    /// Drops layers of an earlier boot that may not have reached the disk whole,
    /// and those without a marker.
    pub(super) fn drop_layers_of_a_lost_boot(&self, _lock: &Lock) -> Result<(), Error> {
        let boot = boot_id();
        for (name, path) in list_digests(&self.layers())? {
            let whole = match self.layer_marker(name) {
                Some(marker) => marker.boot == boot || path.join(SETTLED).exists(),
                // What can't be read now may be whole, and mounted.
                None => {
                    fs::read(path.join(MARKER)).is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
                }
            };
            if !whole {
                tracing::info!("the layer {name} may be torn; it will be unpacked again");
                self.throw_away(&path)?;
            }
        }
        Ok(())
    }

    /// Takes a layer away; its deletion is [`Store::empty_trash`]'s.
    pub(super) fn discard_layer(&self, name: Digest) -> Result<(), Error> {
        self.throw_away(&self.layers().join(name.hex()))
    }
}

fn read_marker(path: &Path) -> Option<Marker> {
    serde_json::from_slice(&fs::read(path.join(MARKER)).ok()?).ok()
}

/// The kernel's name for this boot (random(4)).
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// What a complete layer is.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// Its name, if it takes something from the layers below it.
    pub chain_id: Option<Digest>,
    /// The length of its tar, in bytes.
    pub tar_size: u64,
    /// Whether it hides all layers below it.
    pub opaque: bool,
}

/// A layer being unpacked.
pub struct StagedLayer {
    store: Store,
    path: PathBuf,
    /// Locked: tells a sweep that somebody works here.
    _hold: File,
}

impl StagedLayer {
    /// The directory that becomes the layer.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Gives the complete layer its name, kept by `lease`. If the layer is there
    /// already, that one stays.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self, made: Made, lease: &Lease) -> Result<(), Error> {
        let tree = measure(&self.fs())?;
        let marker = Marker {
            version: VERSION,
            diff_id: made.diff_id,
            tar_size: made.tar_size,
            entries: tree.entries,
            bytes: tree.bytes,
            disk: tree.disk,
            chain_id: made.chain_id,
            opaque: made.opaque,
            boot: boot_id(),
        };
        let name = marker.name();
        let path = self.path.join(MARKER);
        let text = serde_json::to_vec(&marker)
            .map_err(|e| Error::caused(Kind::System, format!("cannot write the marker: {e}"), e))?;
        fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
        lease.add(&[name])?;
        let to = self.store.layers().join(name.hex());
        match renameat_with(CWD, &self.path, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => sync_parent(&to),
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(Error::io("put in place", &to, e.into())),
        }
    }
}

impl Drop for StagedLayer {
    fn drop(&mut self) {
        // After a successful finish there is nothing at this path any more.
        if let Err(e) = self.store.throw_away(&self.path).and_then(|()| self.store.empty_trash()) {
            tracing::warn!("{e}; it is swept at the next start");
        }
    }
}
