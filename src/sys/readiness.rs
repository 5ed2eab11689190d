//! Descriptors whose readiness the engine waits for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor (epoll(7)); it should be non-blocking.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, which `AsyncFd` does after
    // it has deregistered it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
