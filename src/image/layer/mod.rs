//! Layers: archives to directories that overlayfs takes as lower layers, and upper
//! directories back to archives.
//!
//! [`unpack`] applies one layer without the layers below it, so that all layers of
//! an image are unpacked at the same time; what it could not know without them it
//! says in [`Below`], and [`settle`] makes up for it. [`changes`] and [`pack`] read
//! a container's upper directory.
//!
//! Invariants: what lies on disk is owned as the container sees it; deletions are in
//! overlayfs's form there (a character device 0/0, `trusted.overlay.opaque`) and in
//! OCI's form in archives (`.wh.NAME`, `.wh..wh..opq`); no archive can bring
//! overlayfs's own attributes or forge a deletion as a device. Nothing is synced
//! but by [`sync`]; the caller hashes what it reads, and makes the directory visible
//! by a rename when it has seen digest and size.
//!
//! Called by the image store, from threads that may block, as root.

mod below;
mod changes;
mod lowers;
mod pack;
mod points;
mod unpack;

#[cfg(test)]
mod tests;

pub use crate::archive::{Devices, Error, Limits};
pub use below::{Below, settle};
pub use changes::{Change, ChangeKind, changes};
pub use pack::{Packed, pack, pack_tree};
pub use points::Points;
pub use unpack::{Unpacked, sync, unpack};

/// What a deletion's name begins with, OCI image-spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
/// The name that says that nothing of lower layers is seen in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs's own files began with; they mean nothing to anybody else.
const AUFS: &[u8] = b".wh..wh.";

/// Overlayfs's mark of a directory that hides what lower layers have there.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// A directory as a file to look at.
fn open(path: &std::path::Path) -> Result<crate::archive::Node, Error> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .and_then(crate::archive::Node::of)
        .map_err(|e| Error::system("open", path, e))
}
