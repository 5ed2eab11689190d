//! From a compressed layer to its directory, while it still arrives.
//!
//! A thread decompresses, digests and unpacks what is pushed to it. Nothing it made
//! counts until [`UnpackedLayer::finish`]: its caller first verifies the blob.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{Buf, Bytes};

use super::layers::Made;
use super::{Image, Lease, StagedLayer, Store};
use crate::image::compression::{Compression, Decoder};
use crate::image::digest::HashingReader;
use crate::image::document::Manifest;
use crate::image::{Digest, Error, ImageConfig, Kind, layer};

/// How many pieces may wait: with pieces of a network's read at most some megabytes.
const QUEUE: usize = 64;

/// Told how many compressed bytes were unpacked so far.
pub type OnUnpack = Box<dyn FnMut(u64) + Send>;

/// A layer unpacked but not yet in the store.
pub struct UnpackedLayer {
    staged: StagedLayer,
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The length of its tar, in bytes.
    pub tar_size: u64,
    /// How its blob is compressed.
    pub compression: Compression,
    /// What the unpacker tells of it.
    pub unpacked: layer::Unpacked,
}

impl UnpackedLayer {
    /// Checks that it is the layer that its image's configuration means.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is not.
    pub fn check(&self, diff_id: Digest) -> Result<(), Error> {
        if self.diff_id == diff_id {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "a layer has the diff id {}, but the image's configuration says {diff_id}",
            self.diff_id
        )))
    }

    /// Whether it takes something from the layers below it, and so must wait for them.
    pub fn depends(&self) -> bool {
        !self.unpacked.below.is_empty()
    }

    /// Gives the layer its place in the store, kept by `lease`. One that depends on
    /// the layers below it (`lowers`, the topmost first) is completed from them, and
    /// named by its chain id.
    ///
    /// # Errors
    /// If a hard link leads to what no layer has, or the disk refuses.
    pub fn finish(self, chain_id: Digest, lowers: &[PathBuf], lease: &Lease) -> Result<(), Error> {
        let depends = self.depends();
        if depends {
            let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
            layer::settle(&self.staged.fs(), &self.unpacked.below, &lowers)
                .map_err(|e| Error::caused(kind_of(&e), e.to_string(), e))?;
        }
        let made = Made {
            diff_id: self.diff_id,
            chain_id: depends.then_some(chain_id),
            tar_size: self.tar_size,
            opaque: self.unpacked.opaque,
        };
        self.staged.finish(made, lease)
    }
}

impl Store {
    /// Unpacks a layer's blob from a reader, beside the store's layers.
    ///
    /// # Errors
    /// If the archive is damaged, hostile or too large, or the disk refuses.
    pub fn unpack(&self, blob: impl Read + Send) -> Result<UnpackedLayer, Error> {
        let staged = self.stage_layer()?;
        let torn = |e: io::Error| match e.kind() {
            io::ErrorKind::FileTooLarge => Error::caused(Kind::TooLarge, e.to_string(), e),
            io::ErrorKind::ConnectionAborted => Error::caused(Kind::System, e.to_string(), e),
            _ => Error::corrupt(format!("the layer can't be decompressed: {e}")),
        };
        let decoder = Decoder::new(blob, self.inner.layer_max).map_err(torn)?;
        let compression = decoder.compression();
        let mut tar = HashingReader::new(decoder);
        let unpacked = layer::unpack(&mut tar, &staged.fs(), &self.inner.limits).map_err(|e| {
            // The unpacker sees only that reading failed.
            match tar.inner().exceeded() {
                Some(bound) => torn(bound),
                None => Error::caused(kind_of(&e), e.to_string(), e),
            }
        })?;
        let (diff_id, tar_size) = tar.finish().map_err(torn)?;
        Ok(UnpackedLayer { staged, diff_id, tar_size, compression, unpacked })
    }

    /// Unpacks a layer whose blob is in the store, verifying the blob on the way. A
    /// damaged blob is set aside.
    ///
    /// # Errors
    /// As [`Store::unpack`]; also if the blob is damaged, or the layer is not
    /// `diff_id`.
    pub fn unpack_blob(&self, blob: Digest, diff_id: Digest) -> Result<UnpackedLayer, Error> {
        let mut source = HashingReader::new(self.open_blob(blob)?);
        let unpacked = self.unpack(&mut source);
        let path = self.blob_path(blob);
        let (found, _) = source.finish().map_err(|e| Error::io("read", &path, e))?;
        if found != blob {
            self.set_aside(&path)?;
            return Err(Error::corrupt(format!(
                "the blob {blob} is damaged; pull its image again"
            )));
        }
        let unpacked =
            unpacked.map_err(|e| e.context(format_args!("the layer {}", blob.short())))?;
        unpacked.check(diff_id)?;
        Ok(unpacked)
    }

    /// Unpacks the layers of an image that are not unpacked.
    ///
    /// # Errors
    /// If a blob is missing or damaged.
    pub fn unpack_missing(&self, image: &Image) -> Result<(), Error> {
        let chain_ids = image.config.rootfs.chain_ids();
        let mut places = image.layers().iter().zip(&chain_ids);
        if places.all(|(diff_id, chain_id)| self.layer(*diff_id, *chain_id).is_some()) {
            return Ok(());
        }
        let lease = self.lease()?;
        let done = self.complete(&image.manifest, &image.config, BTreeMap::new(), &lease);
        self.settle_soon();
        done
    }

    /// Unpacks the layers of an image that are not unpacked, the lowest first; `waiting`
    /// are those that were unpacked already but wait for the ones below, by diff id.
    ///
    /// # Errors
    /// If a blob is missing or damaged.
    pub fn complete(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        mut waiting: BTreeMap<Digest, UnpackedLayer>,
        lease: &Lease,
    ) -> Result<(), Error> {
        let mut below: Vec<PathBuf> = Vec::new();
        let chain_ids = config.rootfs.chain_ids();
        let places = config.rootfs.diff_ids.iter().zip(chain_ids);
        for (blob, (diff_id, chain_id)) in manifest.layers.iter().zip(places) {
            lease.add(&[blob.digest, *diff_id, chain_id])?;
            let marker = match self.layer(*diff_id, chain_id) {
                Some(marker) => marker,
                None => {
                    let unpacked = match waiting.remove(diff_id) {
                        Some(unpacked) => unpacked,
                        None => self.unpack_blob(blob.digest, *diff_id)?,
                    };
                    let lowers: Vec<PathBuf> = below.iter().rev().cloned().collect();
                    unpacked.finish(chain_id, &lowers, lease).map_err(|e| {
                        e.context(format_args!("the layer {}", blob.digest.short()))
                    })?;
                    self.layer(*diff_id, chain_id).ok_or_else(|| {
                        Error::new(Kind::System, format!("the layer {diff_id} is gone again"))
                    })?
                }
            };
            if marker.opaque {
                below.clear();
            }
            below.extend(self.layer_path(marker.name()));
        }
        Ok(())
    }

    /// Starts a thread that unpacks what is pushed to it.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn unpacker(&self, on_unpack: OnUnpack) -> Result<Unpacker, Error> {
        let (pieces, queue) = sync_channel(QUEUE);
        let store = self.clone();
        let thread = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || {
                store.unpack(Queue { queue, piece: Bytes::new(), ended: false, read: 0, on_unpack })
            })
            .map_err(|e| {
                Error::caused(Kind::System, format!("cannot start a thread to unpack: {e}"), e)
            })?;
        Ok(Unpacker { pieces: Some(pieces), thread: Some(thread) })
    }
}

/// Whether the archive or this machine is at fault.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> Kind {
    let ours = [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EIO, libc::EMFILE, libc::ENFILE];
    let mut at = Some(error);
    while let Some(error) = at {
        let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if number.is_some_and(|number| ours.contains(&number)) {
            return Kind::System;
        }
        at = error.source();
    }
    Kind::Corrupt
}

/// The pushing end. Dropped unfinished, it waits until the thread has given up and
/// cleaned up.
pub struct Unpacker {
    pieces: Option<SyncSender<Bytes>>,
    thread: Option<JoinHandle<Result<UnpackedLayer, Error>>>,
}

impl Unpacker {
    /// Hands over the next bytes; waits while the thread is behind. False if the
    /// thread has ended: [`Unpacker::finish`] says why.
    pub fn push(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok())
    }

    /// Says that all was pushed, and waits for the layer.
    ///
    /// # Errors
    /// As [`Store::unpack`].
    pub fn finish(mut self) -> Result<UnpackedLayer, Error> {
        if let Some(pieces) = &self.pieces {
            // An empty piece is the end; a closed queue alone would be a torn stream.
            let _ = pieces.send(Bytes::new());
        }
        self.join()
            .unwrap_or_else(|| Err(Error::new(Kind::System, "the unpacking thread panicked")))
    }

    fn join(&mut self) -> Option<Result<UnpackedLayer, Error>> {
        self.pieces = None;
        self.thread.take()?.join().ok()
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        self.join();
    }
}

struct Queue {
    queue: Receiver<Bytes>,
    piece: Bytes,
    ended: bool,
    read: u64,
    on_unpack: OnUnpack,
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            self.piece = self.queue.recv().map_err(|_| {
                io::Error::new(io::ErrorKind::ConnectionAborted, "the download was given up")
            })?;
            self.ended = self.piece.is_empty();
            (self.on_unpack)(self.read);
        }
        let n = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        self.read += n as u64;
        Ok(n)
    }
}
