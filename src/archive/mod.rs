//! Tar archives as streams, and the files that they describe.
//!
//! [`Reader`] and [`Writer`] turn bytes into entries and back; [`Node`] and [`walk`]
//! look at files, [`make`] makes them, [`Dirs`] finds the directory that an entry
//! belongs into. Layers (`image::layer`) and copying in and out of containers
//! (`rootfs::copy`) are made of these.
//!
//! Invariants: an archive is hostile, so whatever is kept of it is bounded by
//! [`Limits`] and nothing in it names a place outside the root that the caller gave;
//! the tree is hostile too and may change meanwhile, so a file is looked at through
//! a descriptor and never by a path a second time. Nothing here is synced to disk.
//!
//! Why not the crate `tar` alone: it keeps long names and PAX headers of any size in
//! memory, does not know sparse files in PAX form, takes data where Go's reader (the
//! one that all registries' users have) sees none, and its writer has names in GNU's
//! form and no PAX times.
//!
//! It knows nothing of images, layers, overlays or containers.

mod dirs;
mod entry;
mod error;
mod header;
mod limits;
pub(crate) mod make;
mod node;
mod pack;
mod pax;
mod reader;
mod sparse;
mod walk;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use dirs::{Dirs, Missing, components, is_whiteout, join};
pub use entry::{Entry, Kind, Time};
pub use error::Error;
pub use limits::{Devices, Limits};
pub use node::Node;
pub(crate) use node::is_overlay_xattr;
pub use pack::Packer;
pub use reader::{Chunk, Reader};
pub use walk::{Step, Visit, walk};
pub use writer::Writer;
