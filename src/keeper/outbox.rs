//! What the keeper has to say to the engine, in order. The engine may be slow, or
//! stopped: nothing is lost by that, and the keeper never waits for it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::protocol::{self, Kind, Message};
use super::table::{HELD, PROCESSES, Table};

/// A start and an end of every process, and something beside them.
const ROOM: usize = 2 * PROCESSES + HELD + 1024;
/// Signals are not piled up beyond this: who repeats one wants it heard, not counted.
const ROOM_FOR_SIGNALS: usize = 1024;

/// Messages that the socket has not taken yet. Its memory is taken at the start.
#[derive(Debug)]
pub struct Outbox(VecDeque<Message>);

impl Default for Outbox {
    fn default() -> Self {
        Outbox(VecDeque::with_capacity(ROOM))
    }
}

impl Outbox {
    /// Whether something waits.
    pub fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }

    /// Puts a message behind the others. One for which there is no room is dropped;
    /// ends of processes are in the table, and told to the next engine.
    pub fn push(&mut self, message: Message) {
        let room = if message.kind == Kind::Signal { ROOM_FOR_SIGNALS } else { ROOM };
        if self.0.len() < room {
            self.0.push_back(message);
        }
    }

    /// Sends as much as the socket takes now. The descriptor that goes with a message
    /// comes from the table.
    pub fn send(&mut self, socket: BorrowedFd<'_>, table: &Table) {
        while let Some(message) = self.0.front() {
            let fd = match message.kind {
                Kind::Launched | Kind::Process => {
                    table.by_key(message.key).map(|p| p.pidfd.as_fd())
                }
                Kind::Held => table.held_at(message.key, message.tag),
                _ => None,
            };
            match protocol::send(socket, message, fd.as_slice()) {
                Err(Errno::AGAIN) => return,
                // An engine that is gone shows by its end.
                _ => drop(self.0.pop_front()),
            }
        }
        // Back to its beginning: otherwise it would touch all of its room in time.
        self.0.clear();
    }

    /// The engine has ended: what it was not told, the next one is told otherwise.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
