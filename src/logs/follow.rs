//! A log's bytes as they were written, without regard to lines: what a client sees
//! that is attached to a container. It is read from the log and not from the
//! container, so several see the same, and the engine's death loses nothing. A client
//! that is slower than its container slows that down, once the log would otherwise
//! remove what it has not read; one that stands still is left behind.

use super::Stream;
use super::layout;
use super::read::{Segment, open_from};
use super::registry::{Progress, Pulse};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest that is kept.
    Beginning,
    /// With what comes from now on.
    Now,
    /// With a place that [`Follower::position`] told earlier; from now on if its file
    /// is not as it was.
    At(Position),
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The number of the file.
    pub seq: u64,
    /// The offset in it.
    pub offset: u64,
}

impl Position {
    /// By how many bytes a later place is beyond this one; all where that is in another file.
    fn is_passed_by(self, later: Position) -> u64 {
        match self.seq == later.seq {
            true => later.offset.saturating_sub(self.offset),
            false if later > self => u64::MAX,
            false => 0,
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.seq, self.offset)
    }
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('.')
            .and_then(|(seq, offset)| Some((seq.parse().ok()?, offset.parse().ok()?)));
        parsed
            .map(|(seq, offset)| Position { seq, offset })
            .ok_or_else(|| format!("{text:?} is not a place in a log: write FILE.OFFSET"))
    }
}

/// Where a log ends now.
pub(super) fn end_of(dir: &Path) -> io::Result<Position> {
    let newest = layout::scan(dir)?.segments.last_key_value().map(|(seq, _)| *seq);
    let segment = newest.map(|seq| open_from(dir, seq)).transpose()?.flatten();
    let Some(mut segment) = segment else { return Ok(Position { seq: 0, offset: 0 }) };
    segment.seek_end()?;
    Ok(match segment.plain() {
        Some(_) => Position { seq: segment.seq(), offset: segment.offset() },
        // Nothing is added to a compressed one.
        None => Position { seq: segment.seq() + 1, offset: 0 },
    })
}

/// Bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Who wrote them; never [`Stream::Filler`].
    pub stream: Stream,
    /// They.
    pub bytes: Vec<u8>,
}

enum State {
    In(Segment),
    Before(u64),
}

/// Hands out bytes as they come; made by [`super::Logs::follow`].
pub struct Follower {
    dir: PathBuf,
    pulse: watch::Receiver<Pulse>,
    state: State,
    progress: Arc<Mutex<Progress>>,
}

impl Follower {
    pub(super) fn new(
        dir: PathBuf,
        pulse: watch::Receiver<Pulse>,
        from: From,
        progress: Arc<Mutex<Progress>>,
    ) -> io::Result<Follower> {
        let state = match from {
            From::Beginning => State::Before(0),
            // What follows that place, whatever number it will have.
            From::At(position) if position.offset == 0 => State::Before(position.seq),
            From::At(position) => match open_from(&dir, position.seq)? {
                None => State::Before(position.seq),
                Some(mut segment) => {
                    if segment.seq() != position.seq || segment.plain().is_none() {
                        return Follower::new(dir, pulse, From::Now, progress);
                    }
                    segment.seek(position.offset);
                    State::In(segment)
                }
            },
            From::Now => match layout::scan(&dir)?.segments.last_key_value() {
                None => State::Before(0),
                Some((seq, _)) => match open_from(&dir, *seq)? {
                    Some(mut segment) => {
                        segment.seek_end()?;
                        State::In(segment)
                    }
                    None => State::Before(*seq),
                },
            },
        };
        // Where nothing is yet, the first file will be it.
        let seq = match &state {
            State::In(segment) => segment.seq(),
            State::Before(_) => {
                layout::scan(&dir)?.segments.last_key_value().map_or(1, |(seq, _)| *seq)
            }
        };
        let follower = Follower { dir, pulse, state, progress };
        follower.progressed(seq);
        Ok(follower)
    }

    /// The same that comes to its end when the first of the container's runs does that
    /// had not `ended` when it came: see [`super::Logs::run_ended`].
    #[must_use]
    pub fn for_one_run(self, ended: u64) -> Self {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
        self
    }

    /// Where it comes to its end, if that is known.
    fn end(&self) -> Option<Position> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).end
    }

    fn progressed(&self, seq: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.seq = seq;
        progress.at = Instant::now();
    }

    /// The place of the next bytes.
    pub fn position(&self) -> Position {
        match &self.state {
            State::In(segment) => Position { seq: segment.seq(), offset: segment.offset() },
            State::Before(seq) => Position { seq: *seq, offset: 0 },
        }
    }

    /// The next bytes that are there already.
    ///
    /// # Errors
    /// A file can't be read, or what comes next was removed by the log's limits before
    /// it was read: then bytes would be missing.
    pub fn take(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let run = match &mut self.state {
                State::Before(from) => match open_from(&self.dir, *from)? {
                    None => return Ok(None),
                    Some(segment) => {
                        self.state = State::In(segment);
                        continue;
                    }
                },
                State::In(segment) => match segment.next()? {
                    Some(run) => run,
                    None => {
                        let seq = segment.seq();
                        let Some(next) = open_from(&self.dir, seq + 1)? else {
                            return Ok(None);
                        };
                        // What was written between the look at the end and the rotation.
                        if let Some(run) = segment.next()? {
                            run
                        } else if next.seq() == seq + 1 {
                            self.state = State::In(next);
                            continue;
                        } else {
                            return Err(io::Error::other(
                                "the log was rotated faster than it was read; raise log.max-size \
                                 or log.max-files, or read faster",
                            ));
                        }
                    }
                },
            };
            self.progressed(self.position().seq);
            if run.stream != Stream::Filler {
                return Ok(Some(Piece { stream: run.stream, bytes: run.bytes }));
            }
        }
    }

    /// The next bytes; none when the container has ended and all was read. Safe to drop
    /// half-way, as `select!` does.
    ///
    /// # Errors
    /// See [`Follower::take`].
    pub async fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            // Asked before looking: what is written before the end is seen.
            let ended = self.pulse.borrow_and_update().ended;
            let end = self.end();
            if end.is_some_and(|end| self.position() >= end) {
                return Ok(None);
            }
            if let Some(mut piece) = self.take()? {
                tokio::task::coop::consume_budget().await;
                // Looked at again: the run that it was to be of may have ended, and the
                // next one have begun, between that look and this.
                let beyond = self.end().map_or(0, |end| end.is_passed_by(self.position()));
                let len =
                    usize::try_from(beyond).map_or(0, |n| piece.bytes.len().saturating_sub(n));
                piece.bytes.truncate(len);
                return Ok(Some(piece).filter(|piece| !piece.bytes.is_empty()));
            }
            if ended || end.is_some() || self.pulse.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}
