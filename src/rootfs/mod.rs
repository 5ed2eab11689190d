//! Root filesystems as detached mounts, volumes, and what is done in them from
//! outside.
//!
//! [`prepare`] makes a copy-on-write root out of read-only layers, a directory or a
//! view of the host's own files, and gives it as descriptors that the sandbox's
//! child moves into place. Nothing here is ever attached to the host's mount table,
//! so a crash leaves no mount behind: what stays are directories below the state
//! directory, which [`discard`] removes and [`sweep`] finds.
//!
//! Invariants: a layer, a `rootfs` directory and the host are never written to;
//! what lies on disk is owned as the container sees it ([`Ids`] says when not); the
//! folder above it is 0700 and root's, so nobody on the host reaches a
//! set-user-ID file in it; a path inside a root is only resolved by the kernel
//! (`RESOLVE_IN_ROOT`).
//!
//! Called by the engine, from threads that may block, as root. It knows nothing of
//! manifests, processes, cgroups or networks.

mod assemble;
mod backing;
pub mod copy;
mod cover;
mod duplicate;
mod error;
mod host;
mod inside;
pub mod mountinfo;
mod overlay;
mod prepare;
mod seed;
mod thread;
mod trash;
mod view;
mod volume;
mod writable;

#[cfg(test)]
mod tests;

pub use crate::sys::userns::{IdRange, userns_and_netns, userns_with_range};
pub use assemble::{Inside, assemble, with_part};
pub use backing::{Options, Unused, check_options};
pub use duplicate::Duplicate;
pub use error::Error;
pub use inside::{ensure_dir_in_root, ensure_file_in_root, read_in_root};
pub use prepare::{
    IdMap, Ids, Lower, Mounts, Root, Submount, TMPFS, clone_inside, clone_of_host, image_view,
    prepare, read_only_clone, read_only_view,
};
pub(crate) use trash::throw_away;
pub use trash::{discard, empty_trash, sweep};
pub use volume::{Asked, Bind, Source, Unnamed, Volume, Volumes, is_volume_name};
pub use writable::Writable;
