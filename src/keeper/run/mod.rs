//! The keeper's loop. It waits on: the signal pipe, the engine's socket, the
//! pidfds of adopted processes, and a timer only while the engine is down.

mod engine;
mod machine;
mod replace;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use rustix::time::{ClockId, clock_gettime};

use super::duty::{Duty, LAUNCHED, Pulse, Watchdog};
use super::ending::Ending;
use super::launch::{Born, Launches, Order};
use super::outbox::Outbox;
use super::protocol::{self, Fds, Kind, Message, Received};
use super::say::say;
use super::table::{Process, State, Table};
use crate::sandbox::apart;
use crate::sandbox::init::end_of;
use crate::sys::process::Arguments;
use crate::sys::signals::{self, Caught};

pub use self::engine::ENGINE_FD;
pub use self::replace::{RESUME, resumed_table};

/// The first pause before a dead engine is started again; doubled up to
/// [`MAX_PAUSE`] while it dies young.
const MIN_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// An engine that lived as long as this was well.
const WELL: Duration = Duration::from_secs(10);

/// How the keeper is told what to do; all of it is made before the loop begins.
#[derive(Debug)]
pub struct Settings {
    /// The binary, as it is to be executed for the engine and for `reexec`.
    pub binary: CString,
    /// The engine's arguments, the program's name first.
    pub engine_argv: Vec<CString>,
    /// The keeper's own arguments, for `reexec`.
    pub keeper_argv: Vec<CString>,
    /// The environment of both.
    pub environment: Vec<CString>,
    /// What it owes beside that.
    pub duty: Duty,
}

/// How a keeper ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub code: i32,
    /// How the machine is to go down, if it is init and was told so.
    pub ending: Option<Ending>,
    /// The hardware's watchdog, which is to be fed until the machine is down.
    pub watchdog: Option<Watchdog>,
    /// The shell on the console, if there is one.
    pub rescuer: Option<i32>,
}

/// The engine, as the keeper sees it.
#[derive(Debug)]
enum Engine {
    Running { pid: i32, socket: OwnedFd, since: Duration },
    Down { until: Duration },
}

#[derive(Debug)]
pub(crate) struct Keeper {
    settings: Settings,
    table: Table,
    engine: Engine,
    pause: Duration,
    caught: Caught,
    epoll: OwnedFd,
    launches: Launches,
    arguments: Arguments,
    outbox: Outbox,
    finish: Option<i32>,
    pulse: Pulse,
    /// When the watchdog is fed next.
    feed: Duration,
    /// How often in a row the engine died young.
    young: u32,
    /// Since when it is what it is.
    begun: Duration,
}

/// Every signal that a program may catch and that asks something of it.
fn signals_to_catch() -> Vec<i32> {
    let mut signals = vec![
        libc::SIGCHLD,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
        libc::SIGPWR,
        libc::SIGALRM,
    ];
    signals.extend(34..=64);
    signals
}

/// Runs until the engine says `Finish`; gives the exit status. `table` is that
/// of an earlier self, or empty.
pub fn run(settings: Settings, mut table: Table) -> std::io::Result<Finished> {
    table.orders.rescuer = table.orders.rescuer.or(settings.duty.rescuer);
    // Containers whose keeper step died would go to init; they come to us.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let caught = Caught::new(&signals_to_catch())?;
    // What an earlier self, or the boot, had no time for comes now.
    signals::restore(0);
    // The usual one waits for a console that takes nothing.
    std::panic::set_hook(Box::new(|panic| say!("berth: {panic}")));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watched = |process: &&Process| process.adopted && process.state == State::Running;
    for process in table.processes.iter().filter(watched) {
        watch(&epoll, process.pidfd.as_fd());
    }
    let mut keeper = Keeper {
        settings,
        table,
        engine: Engine::Down { until: Duration::ZERO },
        pause: MIN_PAUSE,
        caught,
        epoll,
        launches: Launches::new()?,
        arguments: Arguments::own(),
        outbox: Outbox::default(),
        finish: None,
        pulse: Pulse::default(),
        feed: Duration::ZERO,
        young: 0,
        begun: now(),
    };
    for button in &keeper.settings.duty.buttons {
        let data = epoll::EventData::new_u64(BUTTON);
        let _ = epoll::add(&keeper.epoll, button, data, epoll::EventFlags::IN);
    }
    loop {
        // A panic is a bug. Whoever is init must not end by it: it begins anew, with
        // the same children and descriptors.
        let turn = std::panic::AssertUnwindSafe(|| keeper.turn());
        if std::panic::catch_unwind(turn).is_err() {
            let anew = std::panic::AssertUnwindSafe(|| keeper.begin_anew());
            if std::panic::catch_unwind(anew).is_err() {
                std::thread::sleep(MAX_PAUSE);
            }
        }
        if let Some(code) = keeper.finish {
            let ending = keeper.table.orders.going.map(|going| going.ending);
            let watchdog = keeper.settings.duty.watchdog.take();
            let rescuer = keeper.table.orders.rescuer;
            if ending.is_some() {
                // A file system that does not answer must not keep the machine up.
                std::mem::forget(std::mem::take(&mut keeper.table.held));
            }
            return Ok(Finished { code, ending, watchdog, rescuer });
        }
    }
}

/// What tells a button from a process among the events.
const BUTTON: u64 = 1;

fn watch(epoll: &OwnedFd, pidfd: BorrowedFd<'_>) {
    let data = epoll::EventData::new_u64(0);
    let _ = epoll::add(epoll, pidfd, data, epoll::EventFlags::IN);
}

/// The time since boot without that of a suspend: who slept was not late.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Keeper {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        match &self.engine {
            Engine::Running { socket, .. } => Some(socket.as_fd()),
            Engine::Down { .. } => None,
        }
    }

    fn turn(&mut self) {
        self.start_engine_when_due();
        let next = self.keep_time();
        self.wait(next);
        self.pass_signals();
        self.reap();
        self.look_at_events();
        self.listen();
        self.send();
    }

    /// Waits until something happened, or until the engine is to be started or
    /// `next` has come.
    fn wait(&self, next: Option<Duration>) {
        let until = match self.engine {
            Engine::Running { .. } => next,
            Engine::Down { until } => Some(next.map_or(until, |next| next.min(until))),
        };
        let timeout = until.map(|until| {
            let left = until.saturating_sub(now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let fixed = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let (caught, adopted) = (self.caught.as_fd(), self.epoll.as_fd());
        let _ = match self.socket() {
            Some(socket) => {
                let out = match self.outbox.is_waiting() {
                    true => PollFlags::OUT,
                    false => PollFlags::empty(),
                };
                let socket = PollFd::from_borrowed_fd(socket, PollFlags::IN | out);
                poll(&mut [fixed(caught), fixed(adopted), socket], timeout.as_ref())
            }
            None => poll(&mut [fixed(caught), fixed(adopted)], timeout.as_ref()),
        };
    }

    fn tell(&mut self, message: Message) {
        if self.socket().is_some() {
            self.outbox.push(message);
            self.send();
        }
    }

    fn send(&mut self) {
        let Keeper { engine, outbox, table, .. } = self;
        if let Engine::Running { socket, .. } = engine {
            outbox.send(socket.as_fd(), table);
        }
    }

    fn pass_signals(&mut self) {
        let mut pending = self.caught.take() & !(1 << (libc::SIGCHLD - 1));
        while pending != 0 {
            let signal = pending.trailing_zeros() as i32 + 1;
            pending &= pending - 1;
            if self.settings.duty.is_init
                && let Some(ending) = Ending::of_signal(signal)
            {
                self.go_down(ending);
                continue;
            }
            if matches!(signal, libc::SIGTERM | libc::SIGINT) {
                self.told_to_end();
            }
            self.tell(Message { code: signal, ..Message::new(Kind::Signal) });
        }
    }

    /// Asked a third time to end, the engine still has not: end without it. A
    /// container's init takes everything in its pid namespace along.
    fn told_to_end(&mut self) {
        let told = &mut self.table.orders.told_to_end;
        *told = told.saturating_add(1);
        if *told <= 2 {
            return;
        }
        say!("berth: ending every container at once, as asked three times");
        for process in &self.table.processes {
            if process.state == State::Running {
                let _ = signals::send(process.pidfd.as_fd(), libc::SIGKILL);
            }
        }
        self.finish = Some(1);
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if matches!(self.engine, Engine::Running { pid: engine, .. } if engine == pid) {
                // Its last words may be `Finish`; with the socket they would be lost.
                self.listen();
                if self.finish.is_some() {
                    return;
                }
                self.engine_ended();
                continue;
            }
            if self.table.orders.rescuer == Some(pid) {
                self.table.orders.rescuer = None;
            }
            if !self.launches.is_empty()
                && let Some((order, result)) = self.launches.reaped(pid)
            {
                self.launched(order, result);
                continue;
            }
            // Anybody else's child that was left to us is reaped and forgotten.
            if let Some(process) = self.table.running(pid).filter(|process| !process.adopted) {
                process.state = State::Exited(end_of(status));
                let message = described(process, Kind::Exited);
                self.tell(message);
            }
        }
    }

    fn look_at_events(&mut self) {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 16];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(count) = epoll::wait(&self.epoll, &mut events[..], Some(&none)) else { return };
        let events = events.get(..count).unwrap_or_default();
        if events.iter().any(|event| event.data.u64() == BUTTON) {
            self.look_at_buttons();
        }
        if events.iter().any(|event| event.data.u64() != BUTTON) {
            self.look_at_adopted();
        }
    }

    /// An adopted process is no child; its pidfd becomes readable when it ends
    /// (pidfd_open(2)), and its status file says how.
    fn look_at_adopted(&mut self) {
        let Keeper { table, engine, epoll, outbox, .. } = self;
        for process in &mut table.processes {
            if process.adopted
                && process.state == State::Running
                && super::process::has_ended(process.pidfd.as_fd())
            {
                let _ = epoll::delete(&*epoll, &process.pidfd);
                process.state = State::Exited(None);
                if matches!(engine, Engine::Running { .. }) {
                    outbox.push(described(process, Kind::Exited));
                }
            }
        }
    }

    fn listen(&mut self) {
        loop {
            let Some(socket) = self.socket() else { return };
            let mut fds = Fds::default();
            match protocol::receive(socket, &mut fds) {
                Ok(Received::Message(message)) => {
                    self.pulse.heard(now());
                    self.obey(message, fds);
                }
                Ok(Received::Unknown) => {
                    say!("berth: the engine speaks another version; passed over")
                }
                // Its end shows by SIGCHLD, too; nothing more comes from it.
                Ok(Received::Closed) | Err(Errno::AGAIN) => return,
                Err(_) => return,
            }
            if self.finish.is_some() {
                return;
            }
        }
    }

    fn obey(&mut self, message: Message, mut fds: Fds) {
        match message.kind {
            Kind::Hello => self.tell_all(),
            Kind::Launch => self.launch(message, fds),
            Kind::Adopt => {
                if let Some(pidfd) = fds.take(0).filter(|_| !self.table.is_full()) {
                    watch(&self.epoll, pidfd.as_fd());
                    let _ = self.table.add(Process {
                        key: message.key,
                        pid: message.pid,
                        start: message.start,
                        tag: message.tag,
                        pidfd,
                        state: State::Running,
                        adopted: true,
                    });
                }
            }
            Kind::Acknowledge => self.table.acknowledge(message.key),
            Kind::Hold => {
                let held = fds.take(0).map(|fd| self.table.hold(message.tag, fd));
                if !matches!(held, Some(Ok(()))) {
                    say!("{:?} can't be held: there is no room left for it", message.tag);
                }
            }
            Kind::Release => self.table.release(message.tag),
            Kind::ReleaseApart => {
                if let Some(fd) = self.table.take(message.tag)
                    && let Err(error) = apart::close(fd)
                {
                    say!(
                        "{:?} stays mounted: a process to unmount it can't be made: {error}",
                        message.tag
                    );
                }
            }
            Kind::Finish => self.finish = Some(message.code),
            Kind::Reexec => self.reexec(),
            Kind::Rescue => self.rescue(),
            Kind::Rest => crate::sys::process::let_go_of_code(),
            _ => {}
        }
    }

    fn tell_all(&mut self) {
        for process in &self.table.processes {
            self.outbox.push(described(process, Kind::Process));
        }
        for (key, held) in (0..).zip(&self.table.held) {
            self.outbox.push(Message { key, tag: held.tag, ..Message::new(Kind::Held) });
        }
        self.outbox.push(Message::new(Kind::Told));
        // Whoever was told to end and died of something else has not ended everything.
        for _ in 0..self.table.orders.told_to_end.min(2) {
            self.outbox.push(Message { code: libc::SIGTERM, ..Message::new(Kind::Signal) });
        }
        self.send();
    }

    fn launch(&mut self, message: Message, mut fds: Fds) {
        let order = Order { key: message.key, tag: message.tag };
        let begun = if fds.is_cut_off() {
            Err(Errno::MFILE)
        } else if self.table.room() <= self.launches.len() {
            Err(Errno::AGAIN)
        } else {
            self.launches.begin(order, &mut fds, self.arguments, now())
        };
        // Otherwise its first process is reaped in a moment.
        if let Some(born) = begun.transpose() {
            self.launched(order, born);
        }
    }

    fn launched(&mut self, order: Order, born: Result<Born, Errno>) {
        match born {
            Ok(born) => {
                let process = Process {
                    key: order.key,
                    pid: born.pid,
                    start: born.start,
                    tag: order.tag,
                    pidfd: born.pidfd,
                    state: State::Running,
                    adopted: false,
                };
                if let Some(rescuer) = self.table.orders.rescuer {
                    let _ = signals::kill(rescuer, LAUNCHED);
                }
                let said = described(&process, Kind::Launched);
                let _ = self.table.add(process);
                self.tell(said);
            }
            Err(errno) => {
                let refused = Message {
                    key: order.key,
                    code: errno.raw_os_error(),
                    ..Message::new(Kind::Refused)
                };
                self.tell(refused);
            }
        }
    }
}

fn described(process: &Process, kind: Kind) -> Message {
    let (ended, end) = match process.state {
        State::Running => (false, None),
        State::Exited(end) => (true, end),
    };
    Message {
        key: process.key,
        pid: process.pid,
        start: process.start,
        tag: process.tag,
        ended,
        end,
        ..Message::new(kind)
    }
}
