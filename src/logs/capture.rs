//! From two FIFOs to the log: when to look, how long to pause, what to do when the disk
//! is full. One task a container; asleep, it costs two registrations and no timer.

use super::cut::{Cut, cut};
use super::rate::{Admit, admit, refill};
use super::registry::{Logs, Pulse, Warning, max_size};
use super::writer::Writer;
use super::{Stream, compress, layout};
use crate::manifest::model::Log;
use crate::sys::pause::Pause;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// After data that came this soon after other data, more is let gather.
const HOT: Duration = Duration::from_millis(4);
const GATHER: Duration = Duration::from_millis(1);
/// The same for a container that would fill its FIFO in that time and have to wait.
const GATHER_FAST: Duration = Duration::from_micros(200);
const FAST: u64 = PIPE / 4;
/// How often it is looked whether a client has read on.
const AWAITED: Duration = Duration::from_millis(5);
const PIPE: u64 = 64 << 10;
const LARGE_PIPE: u64 = 1 << 20;
/// So much goes on from FIFO to FIFO first, which holds the writer up for a moment only: a
/// FIFO is locked while it is spliced into a file.
const MANY: u64 = PIPE;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How long dropped bytes are counted before a note tells of them.
const NOTE_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Control {
    settings: Log,
    keeps: bool,
    drain: bool,
}

/// The read ends of what a container writes into.
#[derive(Debug)]
pub struct Fifos {
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// Where much of its output is on its way from the first to a file.
    pub between: OwnedFd,
}

/// A running capture. Dropped without [`Capture::drain`], it leaves what it has not
/// moved yet in the FIFOs, for the next one.
#[derive(Debug)]
pub struct Capture {
    control: watch::Sender<Control>,
    task: JoinHandle<()>,
}

impl Capture {
    /// See [`Logs::capture`].
    pub(super) fn start(
        logs: Logs,
        dir: PathBuf,
        fifos: Fifos,
        settings: Log,
    ) -> io::Result<Capture> {
        let Fifos { stdout, stderr, between } = fifos;
        let fifos = [Fifo::new(stdout, Stream::Stdout)?, Fifo::new(stderr, Stream::Stderr)?];
        let between = Fifo::new(between, Stream::Stdout)?;
        let control = Control { settings, keeps: false, drain: false };
        let (control, receiver) = watch::channel(control);
        let pump = Pump {
            pulse: logs.pulse(&dir),
            logs,
            dir,
            fifos,
            between,
            ahead: None,
            control: receiver,
            writer: None,
            floor: 0,
            stalled: None,
            moved_at: None,
            pause: None,
            awaiting: false,
            limit: Limit::default(),
            tidying: None,
            tidy_again: Arc::default(),
        };
        let task = tokio::spawn(pump.run());
        Ok(Capture { control, task })
    }

    /// Other settings, from now on.
    pub fn set(&self, settings: Log) {
        self.control.send_modify(|c| c.settings = settings);
    }

    /// Whether somebody who lives as long as the container keeps the FIFO between open, so
    /// that nothing is lost which is on its way when we are killed.
    pub fn keeps(&self, keeps: bool) {
        self.control.send_if_modified(|c| std::mem::replace(&mut c.keeps, keeps) != keeps);
    }

    /// The container has ended: moves what is still in the FIFOs, then stops. While the
    /// disk is full this waits for room.
    pub async fn drain(mut self) {
        self.control.send_modify(|c| c.drain = true);
        // The task is never aborted while we hold it, and what it panicked of is in
        // the engine's own log.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Fifo {
    fd: Arc<OwnedFd>,
    stream: Stream,
    crowded: u8,
}

impl Fifo {
    /// Opens the FIFO anew, read-write: so it has a writer always, and epoll never
    /// reports a hang-up that would wake us for ever.
    fn new(fd: OwnedFd, stream: Stream) -> io::Result<Fifo> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| {
            let e = io::Error::from(e);
            io::Error::new(
                e.kind(),
                format!("opening a container's {stream:?} FIFO by {path}: {e}"),
            )
        })?;
        Ok(Fifo { fd: Arc::new(fd), stream, crowded: 0 })
    }

    fn waiting(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.fd)?)
    }

    fn capacity(&self) -> u64 {
        if self.crowded >= 2 { LARGE_PIPE } else { PIPE }
    }

    /// A container that fills its FIFO time and again gets a larger one.
    fn grow_if_crowded(&mut self, waiting: u64) {
        if self.crowded < 2 && waiting >= PIPE / 4 * 3 {
            self.crowded += 1;
            if self.crowded == 2 {
                // Refused (a limit of the machine's), it works as it is.
                let _ = rustix::pipe::fcntl_setpipe_size(&self.fd, LARGE_PIPE as usize);
            }
        }
    }

    /// Moves what waits into another FIFO, without a copy; how much it was.
    fn shift(&self, to: &Fifo, count: u64) -> io::Result<u64> {
        let flags = rustix::pipe::SpliceFlags::NONBLOCK;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        match rustix::pipe::splice(&self.fd, None, &to.fd, None, count, flags) {
            Ok(moved) => Ok(moved as u64),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }
}

fn discard(fifo: &OwnedFd, mut count: usize) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while count > 0 {
        let part = count.min(buffer.len());
        match rustix::io::read(fifo, &mut buffer[..part]) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => break,
            Ok(n) => count -= n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// What `log.rate-limit` needs to remember.
#[derive(Debug, Default)]
struct Limit {
    tokens: u64,
    filled: Option<Instant>,
    dropped: [u64; 2],
    skipping: [bool; 2],
    note_at: Option<Instant>,
}

#[derive(Debug)]
struct Pump {
    logs: Logs,
    dir: PathBuf,
    fifos: [Fifo; 2],
    /// What is in it came before all that is in the first.
    between: Fifo,
    /// What had come into the first when the last pass was over, if that used the one
    /// between.
    ahead: Option<u64>,
    control: watch::Receiver<Control>,
    pulse: watch::Sender<Pulse>,
    writer: Option<Writer>,
    floor: u64,
    stalled: Option<Duration>,
    moved_at: Option<Instant>,
    /// For one that writes fast; none at rest.
    pause: Option<Pause>,
    /// A client has to read before there can be another file.
    awaiting: bool,
    limit: Limit,
    tidying: Option<JoinHandle<()>>,
    tidy_again: Arc<AtomicBool>,
}

enum Woken {
    Look,
    Gone,
}

impl Pump {
    async fn run(mut self) {
        self.tidy();
        loop {
            let control = self.control.borrow_and_update().clone();
            let outcome = self.pass(&control).and_then(|moved| {
                if control.drain && moved == 0 {
                    self.note(&control.settings)?;
                }
                Ok(moved)
            });
            let woken = match outcome {
                Ok(0) if control.drain => {
                    self.resumed();
                    return;
                }
                Ok(0) => match self.wait(&control.settings).await {
                    Ok(woken) => woken,
                    Err(e) => self.stall(e).await,
                },
                Ok(moved) => {
                    self.resumed();
                    if std::mem::take(&mut self.awaiting) {
                        sleep(AWAITED).await;
                    }
                    self.gather(moved, control.drain).await;
                    Woken::Look
                }
                Err(e) => self.stall(e).await,
            };
            if matches!(woken, Woken::Gone) {
                return;
            }
        }
    }

    /// Moves what waits now; how much it was, dropped bytes included.
    fn pass(&mut self, control: &Control) -> io::Result<u64> {
        let settings = &control.settings;
        if self.writer.is_none() {
            self.open()?;
        }
        let between = self.between.waiting()?;
        let waiting = [self.fifos[0].waiting()?, self.fifos[1].waiting()?];
        self.rotate_if_old(settings)?;
        if self.limit.note_at.is_some_and(|at| at <= Instant::now()) {
            self.note(settings)?;
        }
        let all = between + waiting.iter().sum::<u64>();
        if all == 0 {
            return Ok(0);
        }
        if !self.writer()?.intact()? {
            self.renew(Writer::replace)?;
        }
        let outcome = (0..2).try_for_each(|at| {
            self.fifos[at].grow_if_crowded(waiting[at]);
            match at {
                0 => self.advance_stdout(between, waiting[0], control),
                _ => self.advance(self.fifos[at].fd.clone(), at, waiting[at], settings),
            }
        });
        self.pulse.send_modify(|_| {});
        outcome?;
        Ok(all)
    }

    /// What is between first; of what comes after it much goes the same way.
    fn advance_stdout(&mut self, between: u64, waiting: u64, control: &Control) -> io::Result<()> {
        self.ahead = None;
        let many = control.keeps && waiting >= MANY && control.settings.rate_limit.is_none();
        let mut left = between;
        if left == 0 && many {
            if self.between.crowded == 0 {
                self.between.crowded = 2;
                let _ = rustix::pipe::fcntl_setpipe_size(&self.between.fd, LARGE_PIPE as usize);
            }
            left = self.fifos[0].shift(&self.between, waiting)?;
        }
        if left == 0 {
            return self.advance(self.fifos[0].fd.clone(), 0, waiting, &control.settings);
        }
        self.advance(self.between.fd.clone(), 0, left, &control.settings)?;
        self.ahead = Some(self.fifos[0].waiting()?);
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        self.writer = None;
        let writer = Writer::open(&self.dir, self.floor)?;
        self.floor = self.floor.max(writer.seq());
        self.writer = Some(writer);
        Ok(())
    }

    fn writer(&mut self) -> io::Result<&mut Writer> {
        let dir = &self.dir;
        self.writer
            .as_mut()
            .ok_or_else(|| io::Error::other(format!("the log {} isn't open", dir.display())))
    }

    fn advance(
        &mut self,
        fd: Arc<OwnedFd>,
        at: usize,
        waiting: u64,
        settings: &Log,
    ) -> io::Result<()> {
        let stream = self.fifos[at].stream;
        let max = max_size(settings);
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX);
        while left > 0 {
            let mut count = left;
            if let Some(rate) = settings.rate_limit {
                match self.admitted(&fd, at, left, rate.0)? {
                    Admit::Pass(0) => break,
                    Admit::Pass(n) => count = n,
                    Admit::Drop { count, inside } => {
                        discard(&fd, count)?;
                        self.limit.skipping[at] = inside;
                        self.limit.dropped[at] += count as u64;
                        let due = Instant::now() + NOTE_AFTER;
                        self.limit.note_at.get_or_insert(due);
                        left -= count.min(left);
                        continue;
                    }
                }
                if self.limit.dropped[at] > 0 {
                    self.note(settings)?;
                }
            }
            let writer = self.writer()?;
            let (size, closed) = (writer.size(), writer.closed());
            if size.saturating_add(count as u64) > max {
                let decided = self.logs.peek(&fd, |bytes| {
                    let bytes = bytes.get(..count).unwrap_or(bytes);
                    (!bytes.is_empty()).then(|| cut(bytes, size, max, closed))
                })?;
                match decided {
                    None => break,
                    Some(Cut::Take(n)) => count = n,
                    Some(Cut::Rotate) => {
                        let seq = self.writer()?.seq();
                        if self.logs.is_awaited(&self.dir, seq, settings.max_files) {
                            self.awaiting = true;
                            break;
                        }
                        self.rotate(settings)?;
                        continue;
                    }
                }
            }
            let moved = self.writer()?.splice(stream, &fd, count)?;
            if moved == 0 {
                break;
            }
            self.limit.tokens = self.limit.tokens.saturating_sub(moved as u64);
            left -= moved.min(left);
        }
        Ok(())
    }

    fn admitted(&mut self, fd: &OwnedFd, at: usize, left: usize, rate: u64) -> io::Result<Admit> {
        let now = Instant::now();
        let limit = &mut self.limit;
        limit.tokens = match limit.filled {
            Some(filled) => refill(limit.tokens, rate, now - filled),
            None => rate,
        };
        limit.filled = Some(now);
        let (tokens, skipping) = (limit.tokens, limit.skipping[at]);
        self.logs.peek(fd, |bytes| {
            let bytes = bytes.get(..left).unwrap_or(bytes);
            admit(bytes, tokens, skipping)
        })
    }

    /// Tells in the log what was dropped since the last note.
    fn note(&mut self, settings: &Log) -> io::Result<()> {
        let dropped = self.limit.dropped;
        if dropped != [0, 0] {
            let rate = settings.rate_limit.map_or(0, |rate| rate.0);
            let text = format!(
                "[berth: dropped {} bytes of stdout and {} of stderr: log.rate-limit is {rate} bytes a second]\n",
                dropped[0], dropped[1]
            );
            let cut = [dropped[0] > 0, dropped[1] > 0];
            self.writer()?.note(&text, cut)?;
            self.limit.dropped = [0, 0];
            self.pulse.send_modify(|_| {});
        }
        self.limit.note_at = None;
        Ok(())
    }

    /// How long until the file is too old; none when age doesn't matter now. Inside a
    /// line it doesn't: the line's end will bring us here again.
    fn until_old(&self, settings: &Log) -> Option<Duration> {
        let writer = self.writer.as_ref()?;
        let age = settings.max_age?;
        if writer.size() == 0 || !writer.closed() {
            return None;
        }
        let due = writer.born().checked_add(age)?;
        Some(due.duration_since(SystemTime::now()).unwrap_or_default())
    }

    fn rotate_if_old(&mut self, settings: &Log) -> io::Result<()> {
        if self.until_old(settings) == Some(Duration::ZERO) {
            self.rotate(settings)?;
        }
        Ok(())
    }

    fn rotate(&mut self, settings: &Log) -> io::Result<()> {
        self.renew(Writer::rotate)?;
        self.pulse.send_modify(|_| {});
        if let Err(e) = layout::prune(&self.dir, settings.max_files) {
            self.logs.warn(Warning::Untidy { dir: self.dir.clone(), error: e.to_string() });
        }
        self.tidy();
        Ok(())
    }

    /// Another file. Where that fails there is no writer, and the next pass opens one.
    fn renew(&mut self, how: fn(Writer) -> io::Result<Writer>) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            // Not more: after a failed rename `current.log` still has this number's index.
            self.floor = writer.seq();
            let next = how(writer)?;
            self.floor = next.seq();
            self.writer = Some(next);
        }
        Ok(())
    }

    /// Compression and retention, beside us; never two at once for a folder.
    fn tidy(&mut self) {
        self.tidy_again.store(true, Ordering::Release);
        if self.tidying.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        let (logs, dir) = (self.logs.clone(), self.dir.clone());
        let (again, control) = (self.tidy_again.clone(), self.control.clone());
        self.tidying = Some(tokio::spawn(async move {
            while again.swap(false, Ordering::AcqRel) {
                let Ok(_turn) = logs.compressing().acquire().await else {
                    return;
                };
                let (keep, compress) = {
                    let control = control.borrow();
                    (control.settings.max_files, control.settings.compress)
                };
                let folder = dir.clone();
                let work = move || compress::tidy(&folder, keep, compress);
                let error = match tokio::task::spawn_blocking(work).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(e)) => e.to_string(),
                    Err(e) => e.to_string(),
                };
                let dir = dir.clone();
                logs.warn(Warning::Untidy { dir, error });
            }
        }));
    }

    /// Sleeps until there is something to do.
    async fn wait(&mut self, settings: &Log) -> io::Result<Woken> {
        let now = Instant::now();
        self.pause = None;
        if self.between.crowded > 0 {
            // The burst is over; what pipes may have is counted for each user (pipe(7)).
            self.between.crowded = 0;
            let _ = rustix::pipe::fcntl_setpipe_size(&self.between.fd, PIPE as usize);
        }
        let old = self.until_old(settings).and_then(|d| now.checked_add(d));
        let deadline = [old, self.limit.note_at].into_iter().flatten().min();
        // Registered only while we sleep: in a burst each write would wake us. What
        // came before the registration is reported by it.
        let watch = |fifo: &Fifo| Receiver::from_owned_fd_unchecked(fifo.fd.try_clone()?);
        let (stdout, stderr) = (watch(&self.fifos[0])?, watch(&self.fifos[1])?);
        tokio::select! {
            ready = stdout.readable() => { ready?; }
            ready = stderr.readable() => { ready?; }
            changed = self.control.changed() => {
                if changed.is_err() {
                    return Ok(Woken::Gone);
                }
            }
            () = async { sleep_until(deadline.unwrap_or(now)).await }, if deadline.is_some() => {}
        }
        Ok(Woken::Look)
    }

    /// Lets more come together when much comes; the first of a burst never waits.
    async fn gather(&mut self, moved: u64, drain: bool) {
        let now = Instant::now();
        let hot = self.moved_at.is_some_and(|at| now - at < HOT);
        self.moved_at = Some(now);
        let most = self.fifos[0].capacity().max(self.fifos[1].capacity());
        // While it was written, what comes next may have gathered already.
        let enough = self.ahead.map_or(moved >= most / 2, |ahead| ahead >= most / 4);
        if drain || enough || !hot {
            tokio::task::yield_now().await;
            return;
        }
        if moved >= FAST {
            if self.pause.is_none() {
                self.pause = Pause::new().ok();
            }
            if let Some(pause) = &self.pause
                && pause.pass(GATHER_FAST).await.is_ok()
            {
                return;
            }
        }
        sleep(GATHER).await;
    }

    /// Writing failed: says so once, and tries again later and later.
    async fn stall(&mut self, error: io::Error) -> Woken {
        // Opened anew, it is as after a kill: whatever went wrong half-way is put right.
        self.writer = None;
        if self.stalled.is_none() {
            self.logs.warn(Warning::Stalled { dir: self.dir.clone(), error: error.to_string() });
        }
        let pause = self.stalled.unwrap_or(FIRST_RETRY);
        self.stalled = Some((pause * 2).min(LAST_RETRY));
        tokio::select! {
            () = sleep(pause) => Woken::Look,
            changed = self.control.changed() => match changed {
                Ok(()) => Woken::Look,
                Err(_) => Woken::Gone,
            },
        }
    }

    fn resumed(&mut self) {
        if self.stalled.take().is_some() {
            self.logs.warn(Warning::Resumed { dir: self.dir.clone() });
        }
    }
}
