//! What the captures and readers of one engine share.

use super::{Capture, Fifos, Follower, From, Position, Query, Reader, cut, follow};
use crate::manifest::model::Log;
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};

/// What the engine is told of a log, once each time it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Writing fails: the output waits in the FIFO, and the container with it.
    Stalled {
        /// The log's folder.
        dir: PathBuf,
        /// What the system said.
        error: String,
    },
    /// Writing works again.
    Resumed {
        /// The log's folder.
        dir: PathBuf,
    },
    /// A rotated file could not be compressed or an old one not be removed.
    Untidy {
        /// The log's folder.
        dir: PathBuf,
        /// What the system said.
        error: String,
    },
}

/// What wakes those who follow a log.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pulse {
    pub ended: bool,
}

/// How far a follower has come: the log waits for it a while before it removes what
/// the follower has not read.
#[derive(Debug)]
pub(super) struct Progress {
    pub seq: u64,
    pub at: Instant,
    given_up: bool,
    /// The last of the container's runs that had ended before this follower came; none if
    /// it goes on over their ends.
    pub ended: Option<u64>,
    /// Where the first run after that one ended.
    pub end: Option<Position>,
}

/// A follower that took nothing for so long is not waited for any more, ever: it may
/// slow its container down, but not stop it.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many files a follower may be behind without being waited for.
const BEHIND: u32 = 2;

/// All logs of an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    warnings: mpsc::UnboundedSender<Warning>,
    pulses: Mutex<HashMap<PathBuf, watch::Sender<Pulse>>>,
    followers: Mutex<HashMap<PathBuf, Vec<Weak<Mutex<Progress>>>>>,
    scratch: Mutex<Option<Scratch>>,
    compressing: Semaphore,
}

impl Logs {
    /// Logs that report to `warnings`; that nobody listens is well.
    pub fn new(warnings: mpsc::UnboundedSender<Warning>) -> Logs {
        Logs(Arc::new(Shared {
            warnings,
            pulses: Mutex::default(),
            followers: Mutex::default(),
            scratch: Mutex::default(),
            compressing: Semaphore::new(1),
        }))
    }

    /// Captures what comes out of FIFOs (their read ends) into `dir`, going on
    /// where an earlier capture of the same folder stopped. Followers of an ended
    /// log go on too. One capture a folder at a time: the caller's business.
    ///
    /// # Errors
    /// The folder can't be made, or a FIFO not be watched. A full disk isn't one: that
    /// is told as a [`Warning`].
    pub fn capture(&self, dir: PathBuf, fifos: Fifos, settings: Log) -> io::Result<Capture> {
        self.pulse(&dir).send_modify(|pulse| pulse.ended = false);
        Capture::start(self.clone(), dir, fifos, settings)
    }

    /// Reads the log of `dir`, which may not be there (yet).
    pub fn read(&self, dir: &Path, query: Query) -> Reader {
        Reader::new(dir.to_owned(), query, self.pulse(dir).subscribe())
    }

    /// Follows the bytes of the log of `dir`, which may not be there yet.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn follow(&self, dir: &Path, from: From) -> io::Result<Follower> {
        let progress =
            Progress { seq: u64::MAX, at: Instant::now(), given_up: false, ended: None, end: None };
        let progress = Arc::new(Mutex::new(progress));
        let follower =
            Follower::new(dir.to_owned(), self.pulse(dir).subscribe(), from, progress.clone())?;
        let mut followers = lock(&self.0.followers);
        followers.retain(|_, of| {
            of.retain(|follower| follower.strong_count() > 0);
            !of.is_empty()
        });
        followers.entry(dir.to_owned()).or_default().push(Arc::downgrade(&progress));
        Ok(follower)
    }

    /// Whether a rotation, after which `seq` is the newest whole file, has to wait for
    /// a follower that would miss something by it.
    pub(super) fn is_awaited(&self, dir: &Path, seq: u64, max_files: u32) -> bool {
        let mut followers = lock(&self.0.followers);
        let Some(of) = followers.get_mut(dir) else {
            return false;
        };
        of.retain(|follower| follower.strong_count() > 0);
        of.iter().filter_map(Weak::upgrade).any(|progress| {
            let mut progress = lock(&progress);
            let late = seq.saturating_sub(progress.seq) > u64::from(max_files.min(BEHIND));
            if late && progress.at.elapsed() > PATIENCE {
                progress.given_up = true;
            }
            late && !progress.given_up
        })
    }

    /// Says that a container's run of this number has ended, and that all it printed is in
    /// the log. To be called before the next one begins.
    pub fn run_ended(&self, dir: &Path, run: u64) {
        let followers = lock(&self.0.followers).get(dir).cloned().unwrap_or_default();
        let mut place = None;
        for progress in followers.iter().filter_map(Weak::upgrade) {
            let mut progress = lock(&progress);
            if progress.end.is_none() && progress.ended.is_some_and(|ended| ended < run) {
                // Where that can't be looked up it reads on: better too much than a part.
                let end = place.get_or_insert_with(|| follow::end_of(dir));
                progress.end = end.as_ref().ok().copied();
            }
        }
        if place.is_some() {
            self.pulse(dir).send_modify(|_| {});
        }
    }

    /// Says that nothing more comes (until the next capture): followers end when
    /// they have read all. To be called after [`Capture::drain`].
    pub fn ended(&self, dir: &Path) {
        self.pulse(dir).send_modify(|pulse| pulse.ended = true);
    }

    /// Says that a log whose capture goes on is written again.
    pub fn resumed(&self, dir: &Path) {
        self.pulse(dir).send_modify(|pulse| pulse.ended = false);
    }

    /// Whether somebody reads the log of `dir`, or waits for what comes.
    pub fn is_read(&self, dir: &Path) -> bool {
        lock(&self.0.pulses).get(dir).is_some_and(|pulse| pulse.receiver_count() > 0)
    }

    /// Forgets a log that was removed; its followers end.
    pub fn forget(&self, dir: &Path) {
        self.ended(dir);
        lock(&self.0.pulses).remove(dir);
    }

    pub(super) fn pulse(&self, dir: &Path) -> watch::Sender<Pulse> {
        let mut pulses = lock(&self.0.pulses);
        if let Some(sender) = pulses.get(dir) {
            return sender.clone();
        }
        let sender = watch::Sender::new(Pulse::default());
        pulses.insert(dir.to_owned(), sender.clone());
        sender
    }

    pub(super) fn warn(&self, warning: Warning) {
        // Nobody listening is the caller's choice.
        let _ = self.0.warnings.send(warning);
    }

    /// One compression at a time in an engine: logs must not take the machine's cores.
    pub(super) fn compressing(&self) -> &Semaphore {
        &self.0.compressing
    }

    /// Looks at what waits in `fifo` without taking it, up to [`PEEK`] bytes.
    pub(super) fn peek<T>(&self, fifo: impl AsFd, look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let mut slot = lock(&self.0.scratch);
        // Taken out: a scratch pipe that failed half-way is not put back.
        let mut scratch = match slot.take() {
            Some(scratch) => scratch,
            None => Scratch::new()?,
        };
        let seen = scratch.fill(fifo)?;
        let out = look(scratch.buffer.get(..seen).unwrap_or_default());
        *slot = Some(scratch);
        Ok(out)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that [`Logs::peek`] shows at most.
pub(super) const PEEK: usize = 64 << 10;

/// A pipe of our own that `tee(2)` copies into: pages are shared, the FIFO keeps them.
#[derive(Debug)]
struct Scratch {
    source: std::io::PipeReader,
    sink: std::io::PipeWriter,
    buffer: Vec<u8>,
}

impl Scratch {
    fn new() -> io::Result<Scratch> {
        let (source, sink) = std::io::pipe()?;
        Ok(Scratch { source, sink, buffer: vec![0; PEEK] })
    }

    fn fill(&mut self, fifo: impl AsFd) -> io::Result<usize> {
        let flags = rustix::pipe::SpliceFlags::NONBLOCK;
        let n = match rustix::pipe::tee(fifo, &self.sink, PEEK, flags) {
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN) => 0,
            Err(e) => return Err(e.into()),
        };
        let into = self.buffer.get_mut(..n).unwrap_or_default();
        self.source.read_exact(into)?;
        Ok(n)
    }
}

/// The settings in the terms of this room: a limit of 0 is one of 1.
pub(super) fn max_size(settings: &Log) -> u64 {
    settings.max_size.0.clamp(1, u64::MAX - cut::hard_limit(0) * 32)
}
