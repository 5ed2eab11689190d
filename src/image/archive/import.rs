//! A root file system's tar as an image of one layer.

use std::io::{self, Read, Write};

use crate::image::commit::{Commit, NewLayer, commit};
use crate::image::store::{Image, StagedBlob, Store};
use crate::image::{Error, Kind, Platform, Reference};

/// What is imported as what.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    /// The image's name.
    pub name: Option<&'a Reference>,
    /// Dockerfile instructions for its configuration.
    pub changes: &'a [String],
    /// A note.
    pub message: Option<&'a str>,
    /// For which platform it is.
    pub platform: Platform,
    /// When, RFC 3339.
    pub created: &'a str,
}

/// Makes an image of a tar, plain or compressed, while it is read. The layer's blob
/// is the tar as it came.
///
/// # Errors
/// If the tar is damaged, hostile or too large, a change is malformed, or the disk
/// refuses.
pub fn import(
    store: &Store,
    archive: impl Read + Send,
    import: &Import<'_>,
) -> Result<Image, Error> {
    let lease = store.lease()?;
    let mut tee = Tee { from: archive, into: store.stage_blob()? };
    let unpacked = store.unpack(&mut tee)?;
    // What a decompressor did not need to read is part of the blob nonetheless.
    io::copy(&mut tee, &mut io::sink())
        .map_err(|e| Error::caused(Kind::System, format!("cannot read the archive: {e}"), e))?;
    let (digest, size) = tee.into.finish(&lease)?;
    let layer =
        NewLayer { digest, size, compression: unpacked.compression, diff_id: unpacked.diff_id };
    let diff_id = unpacked.diff_id;
    unpacked.finish(diff_id, &[], &lease)?;
    let image = commit(store, &lease, &import.of(layer))?;
    store.settle_soon();
    Ok(image)
}

impl<'a> Import<'a> {
    /// The image that it becomes with this layer.
    pub(super) fn of(&self, layer: NewLayer) -> Commit<'a> {
        Commit {
            base: None,
            layer: Some(layer),
            process: None,
            changes: self.changes,
            platform: self.platform.clone(),
            author: None,
            message: self.message,
            created_by: None,
            created: self.created,
            name: self.name,
        }
    }
}

/// A reader that keeps what goes by.
struct Tee<R> {
    from: R,
    into: StagedBlob,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.into.write_all(&buffer[..n])?;
        Ok(n)
    }
}
