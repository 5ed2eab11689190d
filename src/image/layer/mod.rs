//! Layers: tar to directory.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// Bounds of one layer.
#[derive(Debug, Clone, Default)]
pub struct Limits {}

/// What was unpacked.
#[derive(Debug, Clone)]
pub struct Unpacked {}

/// Why a layer can't be unpacked.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Unpacks an uncompressed tar into `target`.
///
/// # Errors
/// If the archive or the disk is at fault.
pub fn unpack(reader: &mut dyn Read, target: &Path, _limits: &Limits) -> Result<Unpacked, Error> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_overwrite(true);
    archive.unpack(target).map_err(|e| Error(format!("cannot unpack the layer: {e}")))?;
    Ok(Unpacked {})
}
