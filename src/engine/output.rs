//! The FIFOs of a container's output, and who keeps them: what is in one is lost with the
//! last who has it open (fifo(7)). While a container runs it has them open itself, and the
//! keeper holds them for the time after, so an engine may die when it likes. When the
//! keeper was killed too, container init waits at its end until they have been read
//! (`sandbox/init.rs`); it knows that by a lock that keeper and engine have together.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};

use super::live::{Live, STUCK};
use super::paths::doing;
use super::reconcile::Phase;
use super::run::Engine;
use super::terminal::Pump;
use crate::logs::Fifos;
use crate::manifest::scalar::Name;

/// Their names in a container's run folder, and in the tags under which the keeper holds
/// them: standard output, standard error, and what much output goes through on its way
/// from the first to the log.
pub const NAMES: [&str; 3] = ["stdout", "stderr", "between"];

/// The engine's ends of them.
#[derive(Debug)]
pub struct Output([OwnedFd; 3]);

impl Output {
    /// Opens those that lie in a run folder; none is waited for.
    ///
    /// # Errors
    /// One is not there, or is no FIFO.
    pub fn open(run_dir: &Path) -> Result<Self, String> {
        let [stdout, stderr, between] = paths(run_dir);
        // One that an older Berth launched has no such FIFO.
        drop(open_fifo(&between, (0, 0))?);
        Ok(Output([open(&stdout)?, open(&stderr)?, open(&between)?]))
    }

    /// Tells container init that somebody reads: one lock on one descriptor, which the
    /// keeper has too. On the one between, for a payload has and may lock the others.
    fn lock(&self) {
        // Refused for the moment in which init looks, it is tried again at the next launch.
        let _ = flock(&self.0[2], FlockOperation::NonBlockingLockShared);
    }

    /// Those that a keeper held.
    pub fn held(fds: [OwnedFd; 3]) -> Self {
        Output(fds)
    }

    /// Whether they are what lies in a run folder: somebody may have emptied it.
    pub fn are_in(&self, run_dir: &Path) -> bool {
        paths(run_dir).iter().zip(&self.0).all(|(path, fifo)| {
            let there = rustix::fs::lstat(path).map(|there| (there.st_dev, there.st_ino));
            there.is_ok() && there == rustix::fs::fstat(fifo).map(|own| (own.st_dev, own.st_ino))
        })
    }

    /// By name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &OwnedFd)> {
        NAMES.into_iter().zip(&self.0)
    }

    /// Copies for the log.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn fifos(&self) -> Result<Fifos, String> {
        let Output([stdout, stderr, between]) = self.copy()?;
        Ok(Fifos { stdout, stderr, between })
    }

    /// A copy of the first, to write into.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn stdout(&self) -> Result<OwnedFd, String> {
        self.0[0].try_clone().map_err(|error| format!("dup: {error}"))
    }

    /// All of them once more.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn copy(&self) -> Result<Self, String> {
        let [a, b, c] = &self.0;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| format!("dup: {error}"));
        Ok(Output([copy(a)?, copy(b)?, copy(c)?]))
    }

    /// How many bytes wait in them.
    pub fn waiting(&self) -> u64 {
        self.0.iter().map(|fifo| rustix::io::ioctl_fionread(fifo).unwrap_or(0)).sum()
    }

    /// Waits until what is in them was moved to the log, or nothing moves for so long. The
    /// last moments of a container only: nothing waits here while it runs.
    pub async fn moved(&self, patience: Duration) {
        let mut before = u64::MAX;
        let mut since = Instant::now();
        loop {
            let left = self.waiting();
            if left == 0 {
                return;
            }
            if left < before {
                (before, since) = (left, Instant::now());
            } else if since.elapsed() > patience {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Engine {
    /// Moves a container's output to its log from now on.
    pub(super) fn capture(&mut self, name: &Name) -> Result<(), String> {
        let manifest = self.observed.record(name).and_then(|record| record.applied.clone());
        let settings = manifest.as_ref().map(|manifest| manifest.log.clone()).unwrap_or_default();
        let keeps = manifest.is_some_and(|manifest| self.workshop.has_init(&manifest));
        let paths = Arc::clone(&self.workshop.paths);
        let log_dir = paths.log_dir(name.as_str());
        let live = self.lives.entry(name.clone()).or_default();
        if live.output.is_none() {
            let output = Output::open(&paths.container_run_dir(name.as_str()))?;
            for (of, fifo) in output.all() {
                self.hold(&format!("{of}/{name}"), Some(fifo))?;
            }
            self.lives.entry(name.clone()).or_default().output = Some(output);
        }
        let live = self.lives.entry(name.clone()).or_default();
        let Some(output) = &live.output else { return Ok(()) };
        output.lock();
        if let (Some(terminal), None) = (&live.ends.terminal, &live.pump) {
            let master = terminal.try_clone().map_err(|error| format!("dup: {error}"))?;
            let pump = Pump::start(master, output.stdout()?);
            let pump = pump.map_err(|error| format!("watching its terminal: {error}"))?;
            live.pump = Some(Arc::new(pump));
        }
        if let Some(capture) = &live.capture {
            self.logs.resumed(&log_dir);
            capture.keeps(keeps);
            capture.set(settings);
            return Ok(());
        }
        let capture = self
            .logs
            .capture(log_dir, output.fifos()?, settings)
            .map_err(|error| format!("starting its log: {error}"))?;
        capture.keeps(keeps);
        live.capture = Some(capture);
        if let Some(echo) = &self.echo {
            echo.follow(name, self.observed.called(name), &self.logs, &paths);
        }
        Ok(())
    }

    /// Takes the FIFOs of each container back, if the keeper has all of them.
    pub(super) fn take_output(&mut self, held: &mut HashMap<String, OwnedFd>) {
        let names: Vec<Name> = self.observed.records().map(|record| record.name.clone()).collect();
        for name in names {
            let [stdout, stderr, between] = NAMES.map(|of| held.remove(&format!("{of}/{name}")));
            if let (Some(stdout), Some(stderr), Some(between)) = (stdout, stderr, between) {
                self.lives.entry(name).or_default().output =
                    Some(Output::held([stdout, stderr, between]));
            }
        }
    }

    /// Somebody may have emptied the run folder: what was launched just now writes into
    /// others than we read.
    pub(super) fn forget_other_output(&mut self, name: &Name) {
        let run_dir = self.workshop.paths.container_run_dir(name.as_str());
        let live = self.lives.entry(name.clone()).or_default();
        if live.output.as_ref().is_some_and(|output| !output.are_in(&run_dir)) {
            live.output = None;
            live.capture = None;
        }
    }

    /// Of containers that came to rest nothing is kept open.
    pub(super) fn rest_output(&mut self, changed: &[Name]) {
        for name in changed {
            let rests = self.observed.record(name).is_some_and(|record| {
                matches!(record.phase, Phase::Exited(_) | Phase::Dead { .. })
            });
            let Some(live) = self.lives.get_mut(name) else { continue };
            // With a disk that is full something may wait still.
            let is_read = live.output.as_ref().is_some_and(|output| output.waiting() == 0);
            if rests && is_read && live.pump.as_ref().is_none_or(|pump| pump.is_over()) {
                live.pump = None;
                live.output = None;
                live.capture = None;
                self.release_output(name);
            }
        }
    }

    /// The keeper is gone, and with us what is in FIFOs of containers that have ended.
    pub(super) async fn hear_last_words(&self) {
        let all = self.lives.values().filter_map(|live| live.output.as_ref());
        let waiting: Vec<_> = all.filter(|output| output.waiting() > 0).collect();
        let moved = waiting.iter().map(|output| output.moved(STUCK));
        futures_util::future::join_all(moved).await;
    }

    /// What was written while no engine was there, by containers that have ended.
    pub(super) fn read_last_words(&mut self) {
        let unread = |live: &Live| {
            live.capture.is_none() && live.output.as_ref().is_some_and(|o| o.waiting() > 0)
        };
        let names: Vec<_> =
            self.lives.iter().filter(|(_, l)| unread(l)).map(|(n, _)| n.clone()).collect();
        for name in names {
            if let Err(error) = self.capture(&name) {
                tracing::error!("{}: {error}", self.observed.called(&name));
            }
        }
    }

    /// The FIFOs of a container that is no more, or has another name.
    pub(super) fn release_output(&mut self, name: &Name) {
        for of in NAMES {
            let _ = self.hold(&format!("{of}/{name}"), None);
        }
    }
}

/// Where they are.
pub fn paths(run_dir: &Path) -> [PathBuf; 3] {
    NAMES.map(|name| run_dir.join(name))
}

/// One of them for a payload, made if it is missing, owned by the payload's user so that it
/// can open `/dev/stdout` again. Opened for reading and writing: a payload never sees
/// EPIPE, whoever reads, or nobody (fifo(7)).
///
/// # Errors
/// It can't be made or opened, or something else is there.
pub fn open_fifo(path: &Path, owner: (u32, u32)) -> Result<OwnedFd, String> {
    match mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(doing("making the FIFO", path)(errno.into())),
    }
    let fifo = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(doing("opening the FIFO", path))?;
    let meta = fifo.metadata().map_err(doing("looking at", path))?;
    if !meta.file_type().is_fifo() {
        return Err(format!("{} is not a FIFO; remove it", path.display()));
    }
    std::os::unix::fs::fchown(&fifo, Some(owner.0), Some(owner.1))
        .map_err(doing("giving to the container", path))?;
    Ok(fifo.into())
}

/// One of them to read from. Open for writing too, so that between two incarnations there
/// is no end of file, which epoll(7) would report for ever.
fn open(path: &Path) -> Result<OwnedFd, String> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)
        .map(OwnedFd::from)
        .map_err(doing("opening", path))
}
