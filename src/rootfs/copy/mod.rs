//! Copying into and out of a root, as tar streams: what `docker cp` asks of the
//! daemon (`HEAD`, `GET` and `PUT /containers/{id}/archive`).
//!
//! The container may run and may be hostile: it can swap any name for a link at any
//! time. So the root is a descriptor, paths are resolved by the kernel as if it were
//! `/`, the file that was found is pinned by its descriptor, and everything below it
//! is reached name by name from there.

mod into;
mod out;

#[cfg(test)]
mod tests;

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

pub use crate::archive::{Devices, Error, Limits};
pub use into::{Copied, Into, copy_in};
pub use out::{Found, Stat, find};

/// A rename in the root makes the kernel give up a lookup with EAGAIN, openat2(2).
const ATTEMPTS: usize = 64;

/// Opens a path as the container would, without effect on what is there.
fn locate(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::OsStr::from_bytes(path);
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..ATTEMPTS {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => last = Errno::AGAIN,
            answer => return answer,
        }
    }
    Err(last)
}
