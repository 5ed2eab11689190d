//! `index.json`: which images there are, and by what names.
//!
//! Each entry is a manifest (or, if another tool wrote it, an index). The
//! annotation `org.opencontainers.image.ref.name` is the full reference, as
//! `skopeo oci:FOLDER:REFERENCE` looks for it; an image without a name has none.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::Store;
use super::lock::Lock;
use super::reserve::is_full;
use crate::image::document::{Descriptor, Index, MANIFEST_MAX, media};
use crate::image::{Digest, Error, Kind, Reference};

/// OCI's annotation for a name (image-spec, annotations.md).
const NAME: &str = "org.opencontainers.image.ref.name";
/// Our annotation: the digest under which the registry has the image, where that is
/// an index's.
const SOURCE: &str = "io.berth.source-digest";

/// Our annotation: when the image lost its name, in seconds since 1970.
const SUPERSEDED: &str = "io.berth.superseded";

/// One line of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The manifest, with its annotations.
    pub descriptor: Descriptor,
}

impl Entry {
    /// An entry for a manifest, with a name or without, and the digest that the
    /// registry knows it by.
    pub fn new(
        mut descriptor: Descriptor,
        name: Option<&Reference>,
        source: Option<Digest>,
    ) -> Entry {
        for ours in [NAME, SUPERSEDED, SOURCE] {
            descriptor.annotations.remove(ours);
        }
        if let Some(name) = name {
            descriptor.annotations.insert(NAME.to_owned(), name.canonical().to_string());
        }
        if let Some(source) = source {
            descriptor.annotations.insert(SOURCE.to_owned(), source.to_string());
        }
        Entry { descriptor }
    }

    /// The name; `None` also for names of other tools that are no references.
    pub fn name(&self) -> Option<Reference> {
        self.descriptor.annotations.get(NAME)?.parse().ok()
    }

    /// Whether it has a name of any kind.
    pub fn is_named(&self) -> bool {
        self.descriptor.annotations.contains_key(NAME)
    }

    /// The digest that its registry knows it by: an index's, or the manifest's own.
    pub fn source(&self) -> Digest {
        self.descriptor
            .annotations
            .get(SOURCE)
            .and_then(|text| text.parse().ok())
            .unwrap_or(self.descriptor.digest)
    }

    /// The same without its name, which another image has now, or nobody.
    pub(super) fn without_name(mut self) -> Entry {
        self.descriptor.annotations.remove(NAME);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        self.descriptor.annotations.insert(SUPERSEDED.to_owned(), now.to_string());
        self
    }

    /// It is needed, also without a name.
    pub(super) fn want_again(&mut self) {
        self.descriptor.annotations.remove(SUPERSEDED);
    }

    /// Since when it has lost its name; `None` if it has one, or never had.
    pub(super) fn superseded(&self) -> Option<SystemTime> {
        let seconds = self.descriptor.annotations.get(SUPERSEDED)?.parse().ok()?;
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .filter(|_| !self.is_named())
    }
}

impl Store {
    pub(super) fn index_path(&self) -> PathBuf {
        self.layout().join("index.json")
    }

    /// The entries, as they are at this instant.
    pub(super) fn read_index(&self) -> Result<Vec<Entry>, Error> {
        let path = self.index_path();
        let bytes = fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::new(Kind::NotFound, format!("{} is not there", path.display()))
            }
            _ => Error::io("read", &path, e),
        })?;
        if bytes.len() as u64 > 16 * MANIFEST_MAX {
            return Err(Error::corrupt(format!("{} is too large", path.display())));
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| {
            Error::corrupt(format!("{} can't be read as an OCI index: {e}", path.display()))
        })?;
        Ok(index.manifests.into_iter().map(|descriptor| Entry { descriptor }).collect())
    }

    pub(super) fn write_index(&self, _lock: &Lock, entries: &[Entry]) -> Result<(), Error> {
        let index = Index {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.to_owned()),
            manifests: entries.iter().map(|entry| entry.descriptor.clone()).collect(),
            annotations: Default::default(),
        };
        let text = serde_json::to_vec_pretty(&index)
            .map_err(|e| Error::caused(Kind::System, format!("cannot write the index: {e}"), e))?;
        match self.replace(&self.index_path(), &text) {
            Err(error) if is_full(&error) && self.release() => {
                self.replace(&self.index_path(), &text)
            }
            written => written,
        }
    }

    /// Changes the index under the lock; it is written only if `change` changed it.
    pub(super) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut Vec<Entry>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lock = self.lock_exclusive()?;
        let before = self.read_index()?;
        let mut entries = before.clone();
        let answer = change(&mut entries)?;
        if entries != before {
            self.write_index(&lock, &entries)?;
        }
        Ok(answer)
    }
}
