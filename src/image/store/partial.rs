//! Downloads under way: files named by the digest they are to have, so that the
//! next pull goes on where this one stopped. Whoever holds a file's lock fetches
//! it; all others wait, in this process and in any other.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::lock::Lock;
use super::{Lease, Store, remove_file};
use crate::image::digest::Hasher;
use crate::image::{Digest, Error};

/// Whether a blob may be fetched.
pub enum Claim {
    /// It is this caller's to fetch, or to unpack.
    Yours(Partial),
    /// Another fetches it: ask again soon.
    Busy,
}

/// A blob being fetched. What was written stays when it is dropped.
pub struct Partial {
    store: Store,
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    hasher: Hasher,
}

impl Store {
    /// Claims a blob for fetching or unpacking, `size` bytes long. The claim is
    /// held until the [`Partial`] is dropped.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn claim(&self, digest: Digest, size: u64) -> Result<Claim, Error> {
        let path = self.work("partial").join(digest.hex());
        Ok(match Lock::try_file(&path)? {
            Some(file) => Claim::Yours(Partial {
                store: self.clone(),
                file,
                path,
                digest,
                size,
                hasher: Hasher::default(),
            }),
            None => Claim::Busy,
        })
    }
}

impl Partial {
    /// How many bytes are there, from this fetch and earlier ones.
    pub fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// Reads what an earlier fetch left, giving the pieces to `each`; what is longer
    /// than it should be is begun anew.
    ///
    /// # Errors
    /// If the disk refuses, or those of `each`.
    pub fn resume(&mut self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
        let fail = |path: &PathBuf, e| Error::io("read", path, e);
        let length = self.file.metadata().map_err(|e| fail(&self.path, e))?.len();
        if length > self.size {
            return self.restart();
        }
        self.file.seek(SeekFrom::Start(0)).map_err(|e| fail(&self.path, e))?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = self.file.read(&mut buffer).map_err(|e| fail(&self.path, e))?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..n]);
            each(&buffer[..n]).map_err(|e| fail(&self.path, e))?;
        }
    }

    /// Throws away what is there.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.hasher = Hasher::default();
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map(drop)
            .map_err(|e| Error::io("empty", &self.path, e))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the disk refuses, or there are more bytes than there should be: then all
    /// are thrown away, nothing says which are wrong.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.hasher.length() + bytes.len() as u64 > self.size {
            self.restart()?;
            return Err(Error::corrupt(format!(
                "the blob {} is longer than the {} bytes that its manifest says",
                self.digest, self.size
            )));
        }
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Verifies length and digest of what was fetched. What is too short stays, to
    /// be gone on with.
    ///
    /// # Errors
    /// If it is not what it should be; of a wrong digest nothing is kept.
    pub fn verify(&mut self) -> Result<(), Error> {
        let (digest, size) = self.hasher.clone().finish();
        if size != self.size {
            return Err(Error::corrupt(format!(
                "the blob {} ended after {size} of {} bytes",
                self.digest, self.size
            )));
        }
        if digest != self.digest {
            self.restart()?;
            return Err(Error::corrupt(format!(
                "the content of the blob {} has the digest {digest}: it was changed on the way or \
                 in the registry",
                self.digest
            )));
        }
        Ok(())
    }

    /// Verifies the blob and enters it into the store.
    ///
    /// # Errors
    /// As [`Partial::verify`]; if the disk refuses, what was fetched stays.
    pub fn publish(mut self, lease: &Lease) -> Result<(), Error> {
        self.verify()?;
        lease.add(&[self.digest])?;
        self.store.publish(&self.file, &self.path, self.digest)
    }

    /// Lets go of a claim under which nothing was to be fetched.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn release(self) -> Result<(), Error> {
        remove_file(&self.path)
    }
}
