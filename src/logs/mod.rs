//! Logs: what a container writes to stdout and stderr, kept as plain text and read back.
//!
//! Each container has a folder. `current.log` is what is being written, bytes as the
//! container wrote them; `NNNNNNNNNNNN.log` (or `.log.zst`) are rotated files, oldest
//! first by name; `NNNNNNNNNNNN.idx` is the index of the file with that number, which
//! for `current.log` is the highest one. See [`index`] for its records.
//!
//! Invariants:
//! - Bytes go from FIFO to file by `splice(2)`: outside those two they are nowhere, so
//!   the engine can be killed between any two calls. (`log.rate-limit` reads what it drops.)
//! - An index record is written before its bytes. Its length is where the next one
//!   starts; a record with nothing behind it is overridden by the next.
//! - A rotation is one `rename(2)`. Every state that a kill can leave is one that
//!   [`writer::Writer::open`] reads as it is.
//! - A reader takes nothing from the capture: it never blocks it, and it can run
//!   without one.
//!
//! The engine calls this room, on its current-thread runtime. It must know nothing of
//! containers but a folder, two FIFOs and `manifest::model::Log`.

pub mod capture;
pub mod compress;
pub mod cut;
pub mod follow;
pub mod index;
pub mod layout;
pub mod lines;
pub mod rate;
pub mod read;
mod registry;
mod tail;
pub mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

pub use capture::{Capture, Fifos};
pub use follow::{Follower, From, Piece, Position};
pub use lines::Line;
pub use read::{Query, Reader};
pub use registry::{Logs, Warning};

/// Who wrote a stretch of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The container's standard output.
    Stdout,
    /// The container's standard error.
    Stderr,
    /// Berth: whole lines that tell what was dropped.
    Berth,
    /// A newline that Berth put where one stream interrupted a line of the other, so
    /// that the raw file is readable; no reader hands it out.
    Filler,
}

impl Stream {
    fn code(self) -> u8 {
        match self {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
            Stream::Berth => 3,
            Stream::Filler => 4,
        }
    }

    fn from_code(code: u8) -> Option<Stream> {
        [Stream::Stdout, Stream::Stderr, Stream::Berth, Stream::Filler]
            .into_iter()
            .find(|s| s.code() == code)
    }
}
