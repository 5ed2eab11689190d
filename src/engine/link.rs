//! The engine's end of the socket to the keeper.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::keeper::protocol::{self, Fds, Message, Received};

/// A message and the descriptors beside it, waiting for room in the socket.
type Outgoing = (Message, Vec<OwnedFd>);

/// The socket. Messages that do not fit wait in order; nothing is ever dropped.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
}

impl Link {
    /// Over the descriptor that the keeper gave.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Link {
            socket: crate::sys::readiness::watch(
                socket,
                tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE,
            )?,
            outgoing: VecDeque::new(),
        })
    }

    /// Sends, or queues what the socket does not take now ([`Link::flush`]).
    pub fn send(&mut self, message: Message, fds: Vec<OwnedFd>) {
        self.outgoing.push_back((message, fds));
        self.send_queued();
    }

    /// Whether something waits to be sent.
    pub fn is_behind(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn send_queued(&mut self) -> bool {
        while let Some((message, fds)) = self.outgoing.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match protocol::send(self.socket.get_ref(), message, &borrowed) {
                Err(Errno::AGAIN) => return false,
                // A keeper that is gone shows on the receiving side.
                _ => {
                    self.outgoing.pop_front();
                }
            }
        }
        true
    }

    /// Waits for room and sends what waits.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.is_behind() {
            self.socket.writable().await?.clear_ready();
            self.send_queued();
        }
        Ok(())
    }

    /// The next message. `None` when the keeper is gone.
    pub async fn receive(&mut self) -> io::Result<Option<(Message, Fds)>> {
        loop {
            // What waits to be sent goes out while we wait: the keeper could be
            // waiting for us in turn.
            if self.is_behind() {
                tokio::select! {
                    readable = self.socket.readable() => drop(readable?),
                    writable = self.socket.writable() => {
                        writable?.clear_ready();
                        self.send_queued();
                    }
                }
            }
            let mut guard = self.socket.readable().await?;
            let mut fds = Fds::default();
            match protocol::receive(self.socket.get_ref(), &mut fds) {
                Ok(Received::Message(message)) => return Ok(Some((message, fds))),
                Ok(Received::Unknown) => {}
                Ok(Received::Closed) | Err(Errno::CONNRESET) => return Ok(None),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
