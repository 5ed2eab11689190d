//! Descriptors whose readiness the engine waits for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor (epoll(7)); it should be non-blocking.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, which `AsyncFd` does after
    // it has deregistered it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Tells when a connection has ended in both directions (epoll(7), EPOLLHUP): the other
/// side is gone, or broke it off. That it only sends nothing more is not told.
#[derive(Debug)]
pub struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// Watches a copy of a socket's descriptor, for the socket itself has its own watch.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // Not for reading: that would ask for EPOLLRDHUP, too, the end of one direction.
        Ok(Hangup(watch(socket.try_clone_to_owned()?, Interest::PRIORITY)?))
    }

    /// Returns when it has ended.
    pub async fn wait(&self) {
        while let Ok(mut guard) = self.0.ready(Interest::PRIORITY).await {
            if guard.ready().is_read_closed() {
                return;
            }
            // Urgent data, which nobody here wants.
            guard.clear_ready();
        }
    }
}

/// What the other end of a unix socket has not read yet, 0 when it has read all
/// (unix(7), SIOCOUTQ; the kernel counts its own overhead with it).
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[tokio::test]
    async fn a_half_closed_connection_has_not_ended_and_one_that_was_left_has() {
        let (ours, its) = std::os::unix::net::UnixStream::pair().unwrap();
        let hangup = Hangup::of(ours.as_fd()).unwrap();
        let told = |within| tokio::time::timeout(Duration::from_millis(within), hangup.wait());
        assert!(told(20).await.is_err());
        its.shutdown(Shutdown::Write).unwrap();
        assert!(told(20).await.is_err());
        drop(its);
        assert!(told(5000).await.is_ok());
        // Also to who asks later.
        assert!(told(5000).await.is_ok());
    }
}
