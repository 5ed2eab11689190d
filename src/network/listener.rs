//! A netlink socket that hears of changes in one of the kernel's groups.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rtnetlink::sys::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::{Error, Result};

/// How long the messages of one change take to come; and as long a storm of messages is
/// let go on before it is looked at again.
const SETTLE: Duration = Duration::from_millis(3);
/// How many bytes of messages may wait.
const ROOM: usize = 4 << 20;
/// So many messages are read at once: others have work, too.
const AT_ONCE: usize = 256;

/// The socket, and what its changes are called in an error.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    what: &'static str,
}

impl Listener {
    /// Listens to groups (netlink(7)) in the calling thread's network namespace; within
    /// a tokio runtime.
    ///
    /// # Errors
    /// What the system said of the socket; `what` names the changes.
    pub fn open(protocol: isize, groups: &[u32], what: &'static str) -> Result<Listener> {
        let open = || -> io::Result<AsyncFd<OwnedFd>> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            socket.set_non_blocking(true)?;
            // A change of a thousand ports is told of one by one. Without the right to it
            // some are lost, and that is noticed.
            let _ = nix::sys::socket::setsockopt(
                &socket.as_fd(),
                nix::sys::socket::sockopt::RcvBufForce,
                &ROOM,
            );
            let fd = rustix::io::fcntl_dupfd_cloexec(&socket, 0)?;
            crate::sys::readiness::watch(fd, Interest::READABLE)
        };
        let socket = open().map_err(|error| Error::new("listen to", what, error))?;
        Ok(Listener { socket, what })
    }

    /// Waits until `matters` says so of messages that came. Messages that were lost
    /// because there were too many count as such; it is asked of no bytes then.
    ///
    /// # Errors
    /// What the system said of the socket.
    pub async fn wait_for(&mut self, mut matters: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let failed = |error| Error::new("hear of", self.what, error);
        loop {
            drop(self.socket.readable().await.map_err(failed)?);
            let found = self.drain(&mut matters).map_err(failed)?;
            // One change is told in many messages; one answer is enough for them.
            tokio::time::sleep(SETTLE).await;
            if found {
                self.drain(&mut matters).map_err(failed)?;
                return Ok(());
            }
        }
    }

    /// Reads what is there; says whether something of it matters.
    fn drain(&self, matters: &mut impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
        let mut bytes = vec![0; 64 * 1024];
        let mut found = false;
        for _ in 0..AT_ONCE {
            let fd = self.socket.get_ref();
            match self.socket.try_io(Interest::READABLE, |_| Ok(rustix::io::read(fd, &mut bytes)?))
            {
                Ok(length) => found |= matters(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    matters(&[]);
                    found = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
