//! The images on disk: an OCI image layout (image-spec, image-layout.md) and what
//! is unpacked from it.
//!
//! ```text
//! STATE/images/             the layout: oci-layout, index.json, blobs/sha256/HEX
//! STATE/layers/sha256/HEX/  an unpacked layer by its diff id, or by its chain id if it
//!                           takes something from those below: fs/ and layer.json
//! STATE/layers/staging/     layers being unpacked
//! STATE/image-work/         lock, partial/ (downloads by digest), tmp/, leases/, damaged/,
//!                           imports/ (which archive is which image)
//! STATE/trash/              what is being deleted (of the room `rootfs`)
//! ```
//!
//! Invariants, whatever is killed when:
//! - A blob has its name only once its digest and length are verified and it is on
//!   disk; an unpacked layer only once it is complete.
//! - `index.json` is replaced as a whole, under the lock `image-work/lock`, which
//!   all processes that write here take (flock(2); the kernel drops it with its
//!   holder).
//! - What the index, a lease or a caller's pin reaches is never collected. A pull
//!   names what it will rely on in its lease *before* it looks whether that is
//!   there; a collection holds the lock from marking to the last deletion.
//! - What a dead process left in `tmp`, `staging` and `leases` is known by its
//!   missing lock, and swept at the next start.
//!
//! All calls block. A `Store` is cheap to clone; several in several processes may
//! be open on one folder.

mod blobs;
mod collect;
mod images;
mod index;
mod layers;
mod lease;
mod lock;
mod measure;
mod partial;
mod reserve;
mod unpack;
mod usage;
mod verify;

#[cfg(test)]
mod tests;

pub use blobs::StagedBlob;
pub use collect::{Collected, Keep, Pins, Untagged};
pub use images::{Image, Listed, Removed};
pub use index::Entry;
pub use layers::{Made, Marker, StagedLayer};
pub use lease::Lease;
pub use measure::{disk_of, disk_of_each};
pub use partial::{Claim, Partial};
pub use unpack::{UnpackedLayer, Unpacker};
pub use usage::{ImageUsage, Usage};
pub use verify::Damage;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Digest, Error, layer};
use lock::Lock;

/// How many bytes one layer may hold when decompressed, unless told otherwise:
/// 256 GiB, more than disks of this time give to images.
pub const LAYER_MAX: u64 = 256 << 30;

/// The images of one state directory.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    state: PathBuf,
    limits: layer::Limits,
    layer_max: u64,
}

impl Store {
    /// Opens the store below `state`, makes what is missing, and sweeps what a
    /// crash left. An index that can't be read is set aside and begun anew.
    ///
    /// # Errors
    /// If the disk refuses, or another's layout of an unknown version lies there.
    pub fn open(state: &Path) -> Result<Store, Error> {
        Store::open_with(state, layer::Limits::default(), LAYER_MAX)
    }

    /// As [`Store::open`], with bounds for what layers may hold; `layer_max` in
    /// bytes of one layer's tar.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(state: &Path, limits: layer::Limits, layer_max: u64) -> Result<Store, Error> {
        let store = Store { inner: Arc::new(Inner { state: state.to_owned(), limits, layer_max }) };
        for (path, mode) in [
            (state.to_owned(), 0o755),
            (store.layout(), 0o700),
            (store.blobs(), 0o700),
            // 0700: it holds set-user-ID files of anyone's making.
            (store.layers(), 0o700),
            (store.staging(), 0o700),
            (store.work("partial"), 0o700),
            (store.work("tmp"), 0o700),
            (store.work("leases"), 0o700),
            (store.work("damaged"), 0o700),
            (store.work("imports"), 0o700),
        ] {
            make_dir(&path, mode)?;
        }
        let lock = store.lock_exclusive()?;
        store.found(&lock)?;
        store.sweep(&lock)?;
        store.reserve();
        Ok(store)
    }

    /// The OCI layout's folder: what `skopeo … oci:FOLDER:REFERENCE` reads.
    pub fn layout(&self) -> PathBuf {
        self.inner.state.join("images")
    }

    fn blobs(&self) -> PathBuf {
        self.layout().join("blobs/sha256")
    }

    fn layers(&self) -> PathBuf {
        self.inner.state.join("layers/sha256")
    }

    fn staging(&self) -> PathBuf {
        self.inner.state.join("layers/staging")
    }

    pub(in crate::image) fn work(&self, name: &str) -> PathBuf {
        self.inner.state.join("image-work").join(name)
    }

    fn lock_exclusive(&self) -> Result<Lock, Error> {
        Lock::exclusive(&self.work("lock"))
    }

    fn lock_shared(&self) -> Result<Lock, Error> {
        Lock::shared(&self.work("lock"))
    }

    /// Writes `oci-layout` and an empty index where they are missing.
    fn found(&self, lock: &Lock) -> Result<(), Error> {
        const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
        let path = self.layout().join("oci-layout");
        match fs::read(&path) {
            Ok(text) => {
                let version = serde_json::from_slice::<serde_json::Value>(&text)
                    .ok()
                    .and_then(|v| v["imageLayoutVersion"].as_str().map(str::to_owned));
                match version.as_deref() {
                    Some(version) if version.starts_with("1.") => {}
                    // Torn: our own write is atomic, but others write here too.
                    None => self.replace(&path, VERSION.as_bytes())?,
                    Some(other) => {
                        return Err(Error::corrupt(format!(
                            "{} is of version {other:?}; Berth knows 1.0.0",
                            path.display()
                        )));
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.replace(&path, VERSION.as_bytes())?;
            }
            Err(e) => return Err(Error::io("read", &path, e)),
        }
        if let Err(e) = self.read_index() {
            let path = self.index_path();
            match e.kind() {
                super::Kind::NotFound => {}
                super::Kind::System => return Err(e),
                _ => {
                    tracing::error!("{e}; it is set aside, the images must be pulled again");
                    self.set_aside(&path)?;
                }
            }
            self.write_index(lock, &[])?;
        }
        Ok(())
    }

    /// Removes what dead processes left half done.
    fn sweep(&self, lock: &Lock) -> Result<(), Error> {
        for name in ["tmp", "leases"] {
            for path in list(&self.work(name))? {
                if Lock::is_free(&path) {
                    remove_file(&path)?;
                }
            }
        }
        for path in list(&self.staging())? {
            if Lock::is_free(&path) {
                self.throw_away(&path)?;
            }
        }
        self.drop_layers_of_a_lost_boot(lock)?;
        self.empty_trash()
    }

    fn throw_away(&self, path: &Path) -> Result<(), Error> {
        crate::rootfs::throw_away(&self.inner.state, path)
            .map(drop)
            .map_err(|e| Error::caused(super::Kind::System, e.to_string(), e))
    }

    /// Deletes what was thrown away; may take long.
    fn empty_trash(&self) -> Result<(), Error> {
        crate::rootfs::empty_trash(&self.inner.state)
            .map_err(|e| Error::caused(super::Kind::System, e.to_string(), e))
    }

    /// Moves a damaged file out of the way, under a name that says which it was.
    fn set_aside(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = self.work("damaged").join(name);
        match fs::rename(path, &to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("set aside the damaged", path, e))
            }
            _ => sync_parent(path),
        }
    }

    /// Replaces a small file atomically and durably.
    pub(in crate::image) fn replace(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        use std::io::Write;
        let fail = |e| Error::io("write", path, e);
        let mut temporary = tempfile::NamedTempFile::new_in(self.work("tmp")).map_err(fail)?;
        temporary.write_all(content).map_err(fail)?;
        temporary.as_file().sync_all().map_err(fail)?;
        // Others' tools, run by others, may read the layout where its folder lets them.
        temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(fail)?;
        temporary.persist(path).map_err(|e| fail(e.error))?;
        sync_parent(path)
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| Error::io("make", path, e))
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |e| Error::io("read", dir, e);
    fs::read_dir(dir)
        .map_err(fail)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(fail))
        .collect()
}

/// The digests that are names in `dir`, with their paths; other names are left out.
fn list_digests(dir: &Path) -> Result<Vec<(Digest, PathBuf)>, Error> {
    Ok(list(dir)?
        .into_iter()
        .filter_map(|path| {
            let digest = Digest::from_hex(path.file_name()?.to_str()?)?;
            Some((digest, path))
        })
        .collect())
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io("write to disk", parent, e))
}
