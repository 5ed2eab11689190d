//! The loop: what happens goes into the reconciler, what it decides is written
//! down, then done. The only place that acts, on one thread; what takes long runs
//! on others and comes back as an [`Effect`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::adopt::same_process;
use super::flight::Flight;
use super::handle::{Attachments, Events, Handle, Request};
use super::heard::Asked;
use super::link::Link;
use super::live::{Live, Process};
use super::networks::Wishes;
use super::prepare::{Kept, Order, Ready, Workshop};
use super::reconcile::{self, Decision, Desired, Event, Now, Observed, Phase, Shutdown};
use super::store::Store;
use crate::keeper::protocol::{Fds, Kind, Message};
use crate::logs::Logs;
use crate::manifest::model::{Container, Health, NetworkFile};
use crate::manifest::scalar::{Name, Signal};
use crate::manifest::watch::{Changes, Watch};
use crate::manifest::{Loaded, Loader};
use crate::sandbox::plan::Plan;
use crate::sandbox::status::Status;

/// What came of something that was done elsewhere.
#[derive(Debug)]
pub(super) enum Effect {
    /// A launch is ready for the keeper, or can't be made.
    Prepared { name: Name, incarnation: u64, kept: Box<Kept>, result: Result<Box<Ready>, String> },
    /// What speaks against a launch, if anything does.
    Looked { name: Name, incarnation: u64, renew: bool, unmet: Option<String> },
    /// A launch takes long to be made ready.
    Overdue { name: Name, incarnation: u64 },
    /// The image of a launch is there, or can't be had.
    Fetched { order: Box<Order>, result: Result<BTreeMap<String, String>, String> },
    /// A command for inside a container is ready, or can't be made.
    CommandReady { name: Name, result: Result<Box<Ready>, String>, purpose: Purpose },
    /// A container's health is to be looked at.
    Probe { name: Name, incarnation: u64, health: Box<Health>, asked: Asked },
    /// A container says something of itself; `done` when it is written down.
    Said { name: Name, incarnation: u64, text: String, done: oneshot::Sender<()> },
    /// Nobody waits for a command's answer any more.
    Abandoned,
    /// The error pipe of a launch closed.
    PipeClosed { key: u64, status: Status },
    /// Every process of a container was killed, as far as that could be.
    Killed { name: Name, incarnation: u64, error: Option<String> },
    /// A container that is to be removed at its end has been read by all.
    RemoveEnded { id: String },
    /// A change of a running container was made, or could not be.
    Changed { name: Name, key: u64, to: Arc<Container>, result: Result<(), String> },
    /// Something for the reconciler.
    Event(Event),
    /// Of a container, to be told to whoever reads the log.
    Problem { name: Name, what: String },
    /// The keeper is to hold this under a tag, or to let it go.
    Hold { tag: String, fd: Option<OwnedFd> },
    /// Nobody has this volume any more: the keeper is to unmount it.
    Unmount { volume: String },
    /// A network was made anew under these containers.
    Moved(Vec<String>),
    /// A socket that a container's clients are awaited at could not be held: once more.
    HoldAgain(Name),
    /// Containers that rest may be kept under their names again.
    SettleNames,
    /// What bears a former name of a container is to bear the new one: once more.
    FinishRenames,
    /// What was made of networks is removed: all is stopped.
    TornDown,
    /// The durable records may be brought up to date.
    CatchUp,
    /// Perhaps nothing was launched for a while: what that took may be given back.
    Rest,
}

/// What a command inside a container is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A health check.
    Probe(Asked),
    /// `signals.reload`: nobody waits for its end.
    Reload,
    /// An exec of a client, by its id.
    Exec(String),
}

/// A launch in the air.
#[derive(Debug)]
pub(super) struct InFlight {
    pub name: Name,
    pub incarnation: u64,
    pub flight: Flight,
    pub plan: Option<Plan>,
    /// A command inside a container, not a container, and what it is for.
    pub command: Option<Purpose>,
    /// A command's process.
    pub process: Option<Process>,
}

impl InFlight {
    /// A container's that was launched before this engine.
    pub(super) fn adopted(name: Name, incarnation: u64, flight: Flight) -> Self {
        InFlight { name, incarnation, flight, plan: None, command: None, process: None }
    }
}

pub(super) struct Engine {
    pub workshop: Workshop,
    pub link: Link,
    pub store: Store,
    pub events: Events,
    pub logs: Logs,
    pub desired: Desired,
    pub observed: Observed,
    pub sources: BTreeMap<Name, PathBuf>,
    /// The files that declare networks.
    pub network_sources: BTreeMap<String, PathBuf>,
    /// What they say; a broken one as it was before.
    pub declared_networks: BTreeMap<String, Arc<NetworkFile>>,
    /// Networks whose file is wrong.
    pub broken_networks: std::collections::BTreeSet<String>,
    pub lives: HashMap<Name, Live>,
    pub flights: HashMap<u64, InFlight>,
    /// Launches that wait for a look at their conditions, or for their image: which, and
    /// the task that does it.
    pub fetches: HashMap<Name, (u64, tokio::task::AbortHandle)>,
    /// Sockets that are held for containers.
    pub sockets: HashMap<Name, super::sockets::Sockets>,
    /// Turns for preparing a launch.
    pub preparing: Arc<tokio::sync::Semaphore>,
    pub execs: super::exec::Execs,
    pub attached: Attachments,
    pub effects: mpsc::UnboundedSender<Effect>,
    pub loader: Loader,
    pub boot_id: String,
    pub next_key: u64,
    /// Keys whose end is in the records that are written next.
    pub acknowledge: Vec<u64>,
    /// Whose words are in the records that are written next.
    pub heard: Vec<oneshot::Sender<()>>,
    pub finished: bool,
    /// The last complaint about a disk, said once until it is over.
    pub disk_problem: Option<String>,
    pub catching_up: bool,
    /// [`Effect::SettleNames`] will come.
    pub settling: bool,
    /// When a launch was last prepared, by the monotonic clock.
    pub prepared_at: Duration,
    /// [`Effect::Rest`] will come.
    pub rest_is_near: bool,
    pub echo: Option<super::echo::Echo>,
    /// When this engine began, by the monotonic clock.
    pub began: Duration,
    /// How long the machine has been suspended since its boot, as far as is known.
    pub slept: Duration,
    /// What the keeper ends with.
    pub code: i32,
}

/// The two clocks.
pub(super) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// How long the machine has been suspended since its boot.
pub(super) fn suspended() -> Duration {
    let with = monotonic();
    let without = clock_gettime(ClockId::Monotonic);
    let nanos = u32::try_from(without.tv_nsec).unwrap_or(0);
    with.saturating_sub(Duration::new(without.tv_sec.unsigned_abs(), nanos))
}

/// Nanoseconds since 1970.
pub(super) fn wall() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

impl Engine {
    pub(super) fn now(&self) -> Now {
        Now { mono: monotonic(), wall: wall(), boot_id: self.boot_id.clone() }
    }

    /// The loop itself. Ends when the keeper is gone or was told to finish.
    pub(super) async fn run(
        mut self,
        mut effects: mpsc::UnboundedReceiver<Effect>,
        mut requests: mpsc::Receiver<Request>,
        mut watch: Watch,
    ) -> std::io::Result<()> {
        let mut wake_at = self.decide();
        let all: Vec<Name> = self.observed.records().map(|record| record.name.clone()).collect();
        self.remove_ended(&all, COME_BACK);
        self.unmount_volumes(&all);
        loop {
            let timer = async {
                match wake_at {
                    Some(at) => {
                        let left = at.saturating_sub(monotonic());
                        tokio::time::sleep_until(Instant::now() + left).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.link.receive() => match message? {
                    Some((message, fds)) => self.heard(message, fds),
                    // Without a keeper nobody can be launched or reaped: another
                    // one will adopt what lives.
                    None => {
                        self.hear_last_words().await;
                        return Ok(());
                    }
                },
                Some(effect) = effects.recv() => self.effect(effect),
                Some(request) = requests.recv() => self.answer(request),
                changes = watch.changed() => {
                    let reloaded = match changes? {
                        Changes::Files(files) => self.loader.reload(&files),
                        Changes::All => None,
                    };
                    let loaded = reloaded.unwrap_or_else(|| {
                        watch.refresh();
                        self.loader.load()
                    });
                    self.manifests(loaded);
                }
                () = timer => {}
            }
            // What else is there already is decided together.
            while let Ok(effect) = effects.try_recv() {
                self.effect(effect);
            }
            wake_at = self.decide();
            // Otherwise what waits goes out beside receiving: the keeper may wait for
            // us to read, and gives a message up after a while.
            if self.finished {
                self.link.flush().await?;
                return Ok(());
            }
        }
    }

    /// Takes over what the manifests say.
    pub(super) fn manifests(&mut self, loaded: Loaded) {
        let mut containers = BTreeMap::new();
        self.sources.clear();
        let names: BTreeSet<Name> =
            loaded.containers.keys().chain(loaded.broken.keys()).cloned().collect();
        for name in &names {
            self.observed.claim(name, |kept| names.contains(kept));
        }
        for (name, definition) in loaded.containers {
            let name = self.observed.meant(&name);
            self.sources.insert(name.clone(), definition.source);
            containers.insert(name, definition.container);
        }
        let mut broken = BTreeMap::new();
        for (name, problem) in loaded.broken {
            let name = self.observed.meant(&name);
            self.sources.insert(name.clone(), problem.file.clone());
            broken.insert(name, problem.to_string());
        }
        // What is wrong with a container that has a name is told by `publish_error`.
        for problem in loaded.problems.iter().map(ToString::to_string) {
            if !broken.values().any(|told| *told == problem) {
                tracing::warn!("{problem}");
            }
        }
        self.networks_declared(loaded.networks, loaded.broken_networks);
        let before = self.desired.broken.clone();
        let changed = self.desired.replace(containers, broken);
        self.workshop.networks.wish(Wishes::new(&self.desired.containers));
        let desired = &self.desired;
        self.observed.release_claims(|kept| desired.declares(kept));
        for (name, error) in &self.desired.broken {
            if before.get(name) != Some(error) {
                self.publish_error(name, error);
            }
        }
        self.apply(Event::ManifestsChanged(changed));
    }

    /// Gives an event to the reconciler.
    pub(super) fn apply(&mut self, event: Event) {
        self.note_sleep();
        let now = self.now();
        self.announce(&event);
        let _ = self.observed.apply(event, &now);
    }

    /// Decides, writes down, acts. Gives the time of the next decision.
    pub(super) fn decide(&mut self) -> Option<Duration> {
        self.note_sleep();
        let now = self.now();
        for (name, incarnation) in self.observed.late(&now) {
            let cgroup = self.lives.get(&name).and_then(Live::cgroup);
            if cgroup.is_some_and(|cgroup| cgroup.is_frozen()) {
                self.apply(Event::StoodStill { name, incarnation });
            }
        }
        let Decision { save, forget, actions, wake_at } =
            reconcile::decide(&self.desired, &mut self.observed, &now);
        let mut problem = None;
        for name in &save {
            if let Some(record) = self.observed.record(name)
                && let Err(error) = self.store.save(record)
            {
                problem = Some(error.to_string());
            }
        }
        for name in &forget {
            self.lives.remove(name);
            if let Err(error) = self.store.forget(name) {
                problem = Some(error.to_string());
            }
        }
        // What could not be written once is in order only when it has been.
        if problem.is_some() || !self.store.is_behind() {
            self.note_disk(problem);
        }
        self.end_followers(&save);
        self.leave_networks(&save);
        self.rest_sockets(&save);
        self.rest_output(&save);
        self.remove_ended(&save, (self.began + COME_BACK).saturating_sub(monotonic()));
        self.unmount_volumes(&[save.as_slice(), &forget].concat());
        for key in std::mem::take(&mut self.acknowledge) {
            self.link.send(Message { key, ..Message::new(Kind::Acknowledge) }, Vec::new());
        }
        self.answer_heard();
        self.end_with_main();
        if self.store.is_behind() && !self.catching_up {
            // Counts are written a little later, several at once.
            self.catching_up = true;
            self.later(CATCH_UP, Effect::CatchUp);
        }
        self.end_unwanted_fetches();
        let changed = !save.is_empty() || !forget.is_empty();
        if changed {
            self.settle_names_soon();
        }
        for action in actions {
            self.act(action);
        }
        if changed {
            self.events.changed();
        }
        wake_at
    }

    /// The container that all others are there for has ended.
    fn end_with_main(&mut self) {
        let Some(main) = self.desired.main.as_ref() else { return };
        let Some(record) = self.observed.record(&self.observed.meant(main)) else {
            return;
        };
        let code = match &record.phase {
            Phase::Exited(reconcile::Rest::Finished) => {
                record.last_exit.as_ref().map_or(0, |exit| exit.status.code())
            }
            // As good as if it had ended well.
            Phase::Exited(reconcile::Rest::Skipped { .. }) => 0,
            _ => return,
        };
        self.end_all(code);
    }

    /// Ends everything, with this exit status.
    pub(super) fn end_all(&mut self, code: i32) {
        if self.desired.shutdown.is_none() {
            self.code = code;
            self.desired.shutdown = Some(Shutdown { hurry: false });
            // What that asks for is decided next.
            self.apply_later(Event::ManifestsChanged(std::collections::BTreeSet::new()));
        }
    }

    /// The machine may have been suspended: the clock that everything is timed by went on.
    fn note_sleep(&mut self) {
        let by = suspended().saturating_sub(self.slept);
        if by >= SLEEP {
            self.slept += by;
            let now = self.now();
            let _ = self.observed.apply(Event::Slept { by }, &now);
        }
    }

    /// Whoever follows the log of a container that came to rest has seen all; who follows
    /// one run of it, when that has ended.
    fn end_followers(&self, changed: &[Name]) {
        for name in changed {
            let Some(record) = self.observed.record(name) else { continue };
            let log_dir = self.workshop.paths.log_dir(name.as_str());
            if let Some(exit) = &record.last_exit {
                self.logs.run_ended(&log_dir, exit.incarnation);
            }
            if matches!(record.phase, Phase::Exited(_) | Phase::Dead { .. }) {
                self.logs.ended(&log_dir);
            }
        }
    }

    /// A full disk is said once, and once more when there is room again.
    fn note_disk(&mut self, problem: Option<String>) {
        match (&problem, &self.disk_problem) {
            (Some(problem), None) => {
                tracing::error!("{problem}; containers go on, it is tried again");
            }
            (None, Some(_)) => tracing::info!("records can be written again"),
            _ => {}
        }
        self.disk_problem = problem;
    }

    pub(super) fn later(&self, pause: Duration, effect: Effect) {
        let effects = self.effects.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            let _ = effects.send(effect);
        });
    }

    /// Tells whoever reads the log of a container's trouble, by what it is called now.
    pub(super) fn warn(&self, name: &Name, what: &str) {
        tracing::warn!("{}: {what}", self.observed.called(name));
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Prepared { name, incarnation, kept, result } => {
                self.prepared(name, incarnation, *kept, result);
            }
            Effect::Looked { name, incarnation, renew, unmet } => {
                self.looked(name, incarnation, renew, unmet);
            }
            Effect::Overdue { name, incarnation } => self.overdue(name, incarnation),
            Effect::Fetched { order, result } => self.fetched(order, result),
            Effect::CommandReady { name, result, purpose } => {
                self.command_ready(name, result, purpose);
            }
            Effect::Probe { name, incarnation, health, asked } => {
                self.probe(name, incarnation, *health, asked);
            }
            Effect::Said { name, incarnation, text, done } => {
                self.said(&name, incarnation, &text, done);
            }
            Effect::Abandoned => self.end_abandoned(),
            Effect::TornDown => self.torn_down(),
            Effect::Unmount { volume } => self.volume_unused(&volume),
            Effect::Moved(names) => self.rewrite_files(names),
            Effect::HoldAgain(name) => self.rest_sockets(&[name]),
            Effect::PipeClosed { key, status } => {
                let outcomes = self
                    .flights
                    .get_mut(&key)
                    .map(|flight| flight.flight.pipe_closed(status))
                    .unwrap_or_default();
                self.outcomes(key, outcomes);
            }
            Effect::Killed { name, incarnation, error } => self.killed(name, incarnation, error),
            Effect::Changed { name, key, to, result } => self.changed(name, key, to, result),
            Effect::RemoveEnded { id } => self.remove_if_ended(&id),
            Effect::SettleNames => {
                self.settling = false;
                self.settle_names();
            }
            Effect::FinishRenames => self.finish_renames(),
            Effect::Event(event) => self.apply(event),
            Effect::Problem { name, what } => self.warn(&name, &what),
            Effect::Hold { tag, fd } => {
                if let Err(error) = self.hold(&tag, fd.as_ref()) {
                    tracing::warn!("{error}");
                }
            }
            Effect::Rest => match (self.prepared_at + REST).checked_sub(monotonic()) {
                Some(left) if !left.is_zero() => self.later(left, Effect::Rest),
                _ => {
                    self.rest_is_near = false;
                    crate::sys::process::trim_heap();
                    crate::sys::process::let_go_of_code();
                    self.link.send(Message::new(Kind::Rest), Vec::new());
                }
            },
            Effect::CatchUp => {
                let problem = self.store.catch_up().err().map(|error| error.to_string());
                self.catching_up = problem.is_some();
                if self.catching_up {
                    self.later(DISK_RETRY, Effect::CatchUp);
                }
                self.note_disk(problem);
            }
        }
    }

    fn heard(&mut self, message: Message, mut fds: Fds) {
        match message.kind {
            Kind::Launched => {
                match fds.take(0).or_else(|| same_process(message.pid, message.start)) {
                    Some(pidfd) => self.cloned(message.key, message.pid, message.start, pidfd),
                    None => self.out_of_reach(message.key),
                }
                let pid = message.pid.unsigned_abs();
                let outcomes = self.fly(message.key, |flight| flight.cloned(pid));
                self.outcomes(message.key, outcomes);
            }
            Kind::Refused => {
                let outcomes = self.fly(message.key, |flight| flight.refused(message.code));
                self.outcomes(message.key, outcomes);
            }
            Kind::Exited => {
                let end = message.end;
                let outcomes = self.fly(message.key, |flight| flight.ended(end));
                self.acknowledge.push(message.key);
                self.outcomes(message.key, outcomes);
            }
            Kind::Signal => self.signalled(message.code),
            Kind::Ping => self.link.send(Message::new(Kind::Pong), Vec::new()),
            Kind::NotReplaced => {
                let errno = rustix::io::Errno::from_raw_os_error(message.code);
                tracing::error!("the new binary can't be executed: {errno}");
            }
            _ => {}
        }
    }

    fn fly<T: Default>(&mut self, key: u64, told: impl FnOnce(&mut Flight) -> T) -> T {
        self.flights.get_mut(&key).map(|flight| told(&mut flight.flight)).unwrap_or_default()
    }

    /// The supervisor received a signal.
    fn signalled(&mut self, signal: i32) {
        match signal {
            libc::SIGTERM | libc::SIGINT => {
                let hurry = self.desired.shutdown.is_some();
                tracing::info!(
                    "{}",
                    if hurry { "ending everything at once" } else { "stopping everything" }
                );
                self.desired.shutdown = Some(Shutdown { hurry });
            }
            _ => self.apply(Event::SignalReceived(Signal(signal))),
        }
    }
}

/// How long clients of the engine before us may take to come back.
const COME_BACK: Duration = Duration::from_secs(2);
/// What is shorter is no suspend that anybody would notice.
const SLEEP: Duration = Duration::from_secs(1);
/// How long counts may be behind on the disk.
const CATCH_UP: Duration = Duration::from_secs(2);
/// When memory of launches is given back: not before the threads that prepared them
/// have ended, which they do after ten idle seconds.
pub(super) const REST: Duration = Duration::from_secs(12);
/// When a full disk is tried again.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(5);

/// Everything that a client of the engine needs.
pub(super) fn handle(
    workshop: &Workshop,
    events: &Events,
    logs: &Logs,
    attached: &Attachments,
    knows_all: bool,
) -> (Handle, mpsc::Receiver<Request>) {
    let (sender, requests) = mpsc::channel(256);
    let handle = Handle {
        requests: sender,
        events: events.clone(),
        logs: logs.clone(),
        paths: Arc::clone(&workshop.paths),
        volumes: Arc::clone(&workshop.volumes),
        attached: attached.clone(),
        hides_secrets: false,
        knows_all,
        images: workshop.images.clone(),
        networks: workshop.networks.clone(),
    };
    (handle, requests)
}
