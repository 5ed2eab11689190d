//! Blobs: verified content by its digest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::lock::try_exclusive;
use super::{Lease, Store, sync_parent};
use crate::image::digest::Hasher;
use crate::image::{Digest, Error, Kind};

impl Store {
    /// Where the blob lies, or would.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Whether the blob is there with its `size`. One of another size is damaged
    /// (only a verified length gets the name): it is set aside, so that the next
    /// pull brings it anew.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn has_blob(&self, digest: Digest, size: u64) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() == size => Ok(true),
            Ok(_) => {
                tracing::warn!("the blob {digest} is damaged: it has not {size} bytes");
                self.set_aside(&path)?;
                Ok(false)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not there.
    pub fn open_blob(&self, digest: Digest) -> Result<File, Error> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                Kind::NotFound,
                format!("the store lacks the blob {digest}; pull its image again"),
            ),
            _ => Error::io("read", &path, e),
        })
    }

    /// Reads a blob of at most `max` bytes and verifies it.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::TooLarge`], or [`Kind::Corrupt`] if it is not
    /// what its name says.
    pub fn read_blob(&self, digest: Digest, max: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", &self.blob_path(digest), e))?;
        if bytes.len() as u64 > max {
            return Err(Error::new(
                Kind::TooLarge,
                format!("the blob {digest} has more than {max} bytes"),
            ));
        }
        if Digest::of(&bytes) != digest {
            return Err(Error::corrupt(format!(
                "the blob {digest} is damaged on disk; `berth verify` sets it aside, then pull its \
                 image again"
            )));
        }
        Ok(bytes)
    }

    /// Puts small content into the store, and gives its digest; no effect if it is
    /// there.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn put(&self, lease: &Lease, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        lease.add(&[digest])?;
        if !self.has_blob(digest, bytes.len() as u64)? {
            let mut staged = self.stage_blob()?;
            staged.write_all(bytes).map_err(|e| Error::io("write", &staged.path(), e))?;
            staged.finish(lease)?;
        }
        Ok(digest)
    }

    /// A blob whose digest is not known yet.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn stage_blob(&self) -> Result<StagedBlob, Error> {
        // Shared, so that no sweep comes between its making and its lock.
        let _lock = self.lock_shared()?;
        let dir = self.work("tmp");
        let file = tempfile::Builder::new()
            .prefix("blob-")
            .tempfile_in(&dir)
            .map_err(|e| Error::io("make a file in", &dir, e))?;
        try_exclusive(file.as_file());
        Ok(StagedBlob { store: self.clone(), file, hasher: Hasher::default() })
    }

    /// Gives a verified, complete file its place among the blobs: on disk first,
    /// then by its name.
    pub(super) fn publish(&self, file: &File, from: &Path, digest: Digest) -> Result<(), Error> {
        let fail = |e| Error::io("write to disk", from, e);
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        let to = self.blob_path(digest);
        fs::rename(from, &to).map_err(|e| Error::io("put in place", &to, e))?;
        sync_parent(&to)
    }
}

/// A blob being written; it vanishes unless it is finished.
pub struct StagedBlob {
    store: Store,
    file: tempfile::NamedTempFile,
    hasher: Hasher,
}

impl StagedBlob {
    /// Where it lies until it is finished.
    pub fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// How many bytes were written.
    pub fn size(&self) -> u64 {
        self.hasher.length()
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish().0
    }

    /// Enters it into the store, kept by `lease`, and gives digest and size.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self, lease: &Lease) -> Result<(Digest, u64), Error> {
        let (digest, size) = self.hasher.finish();
        lease.add(&[digest])?;
        if !self.store.has_blob(digest, size)? {
            let (file, path) =
                self.file.keep().map_err(|e| Error::io("keep", e.file.path(), e.error))?;
            self.store.publish(&file, &path, digest)?;
        }
        Ok((digest, size))
    }
}

impl Write for StagedBlob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
