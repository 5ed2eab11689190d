//! The engine's start: the keeper's word, the records, the manifests, the API,
//! then the loop.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::adopt::Told;
use super::handle::{Attachments, Events};
use super::images::Images;
use super::link::Link;
use super::namespaces::Pool;
use super::networks::Networks;
use super::paths::Paths;
use super::prepare::{Filters, Workshop};
use super::reconcile::{Desired, Event, Observed, Verb};
use super::run::{Effect, Engine, handle, monotonic, suspended, wall};
use super::store::Store;
use crate::api::Access;
use crate::cgroup::{Hierarchy, Parent};
use crate::keeper::protocol::{Kind, Message, Tag};
use crate::keeper::run::ENGINE_FD;
use crate::logs::{Logs, Warning};
use crate::manifest::Loader;
use crate::manifest::scalar::Name;
use crate::manifest::watch::Watch;
use crate::rootfs::Volumes;

/// The name under which the keeper holds the API's socket.
const API: &str = "api";
/// The same of the socket for looking only.
const READ_ONLY: &str = "api-read-only";

/// How many launches are prepared at a time.
const PREPARING: usize = 64;

/// What the engine is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where things are.
    pub paths: Paths,
    /// Where manifests are, in place of the usual folders.
    pub dirs: Vec<PathBuf>,
    /// Shows the containers' lines on standard output.
    pub echo: bool,
    /// Serves the API over TCP, too.
    pub tcp: Option<Tcp>,
    /// Everything ends with this container, with its exit status.
    pub main: Option<Name>,
}

/// Where the API is served over TCP, and the PEM files of its TLS.
#[derive(Debug, Clone)]
pub struct Tcp {
    /// Address and port.
    pub address: SocketAddr,
    /// Whose certificates clients must have.
    pub ca: PathBuf,
    /// The server's certificates.
    pub cert: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

/// Runs the engine until the keeper is gone or everything is finished.
pub fn run(options: Options) -> io::Result<()> {
    crate::sys::process::one_arena();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, start(options))?;
    // Threads that still work (removing, compressing) are not waited for: what
    // they do can be done again.
    runtime.shutdown_background();
    Ok(())
}

async fn start(options: Options) -> io::Result<()> {
    let socket = crate::sys::process::inherited(ENGINE_FD)
        .ok_or_else(|| io::Error::other("the engine is started by `berth up` alone"))?;
    let mut link = Link::new(socket)?;
    let paths = Arc::new(options.paths);
    link.send(Message::new(Kind::Hello), Vec::new());
    let (told, mut held) = listen(&mut link).await?;

    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default();
    let mut store = Store::open(paths.records_dir(), paths.run_dir().join("records"))?;
    let mut loaded = store.load(&boot_id);
    let doubles = super::rename::forget_doubles(&mut loaded.records, &mut store, &paths);
    for problem in &loaded.problems {
        tracing::error!("{problem}");
    }
    // Files of a container whose record can't be read are not nobody's.
    for file in &loaded.aside {
        tracing::warn!(
            "{} was set aside: nothing is removed for being unused until you remove it, too",
            file.display()
        );
    }
    let sure = loaded.problems.is_empty() && loaded.aside.is_empty();
    let found = Hierarchy::detect().and_then(|hierarchy| hierarchy.parent(&paths.cgroup_name()));
    let parent = found.unwrap_or_else(|error| {
        // As an entrypoint of somebody else's container there are none to write to.
        tracing::warn!("{error}; going on without cgroups: no limits, no statistics");
        Parent::none()
    });
    let (effects, effects_receiver) = mpsc::unbounded_channel();
    let volumes =
        Volumes::open(&paths.state_dir()).map_err(|error| io::Error::other(error.to_string()))?;
    let workshop = Workshop {
        paths: Arc::clone(&paths),
        parent: Arc::new(parent),
        pool: Pool::default(),
        volumes: Arc::new(volumes),
        images: Images::new(Arc::clone(&paths)),
        networks: Networks::new(&paths, effects.clone()),
        filters: Filters::default(),
    };

    for dir in [paths.created_dir(), paths.execs_dir()] {
        super::created::sweep(&dir);
    }
    let dirs = paths.sources(options.dirs);
    let now = super::reconcile::Now { mono: monotonic(), wall: wall(), boot_id: boot_id.clone() };
    let seed = now.mono.as_nanos() as u64 ^ now.wall.unsigned_abs();
    let events = Events::default();
    let (warnings, log_warnings) = mpsc::unbounded_channel();
    let logs = Logs::new(warnings);
    tokio::task::spawn_local(tell_warnings(log_warnings));
    tokio::task::spawn_local(watch_clock(effects.clone()));
    let mut engine = Engine {
        link,
        store,
        events: events.clone(),
        logs: logs.clone(),
        desired: Desired { zone: local_zone(), main: options.main, ..Desired::default() },
        observed: Observed::restore(loaded.records, seed, &now),
        sources: BTreeMap::new(),
        network_sources: BTreeMap::new(),
        declared_networks: BTreeMap::new(),
        broken_networks: std::collections::BTreeSet::new(),
        lives: HashMap::new(),
        flights: HashMap::new(),
        fetches: HashMap::new(),
        preparing: Arc::new(tokio::sync::Semaphore::new(PREPARING)),
        attached: Attachments::default(),
        sockets: HashMap::new(),
        execs: super::exec::Execs::load(&paths.execs_dir()),
        effects,
        loader: Loader::new(dirs),
        boot_id,
        // Above every key of an engine before us: those of one boot only grow.
        next_key: monotonic().as_nanos() as u64,
        acknowledge: Vec::new(),
        heard: Vec::new(),
        finished: false,
        disk_problem: None,
        catching_up: false,
        settling: false,
        prepared_at: now.mono,
        rest_is_near: false,
        echo: options.echo.then(super::echo::Echo::default),
        began: monotonic(),
        slept: suspended(),
        code: 0,
        workshop,
    };

    // A new order, and not an engine that takes the place of another.
    let anew = !held.contains_key(API);
    let mut listener = |tag: &str, path: PathBuf, mode: u32| match held.remove(tag) {
        Some(held) => Ok(UnixListener::from(held)),
        None => {
            let listener = bind(&path, mode)?;
            let copy = OwnedFd::from(listener.try_clone()?);
            let tag = Tag::new(tag).unwrap_or(Tag::EMPTY);
            engine.link.send(Message { tag, ..Message::new(Kind::Hold) }, vec![copy]);
            Ok::<_, io::Error>(listener)
        }
    };
    let full = listener(API, paths.socket(), 0o660)?;
    let looking = listener(READ_ONLY, paths.read_only_socket(), 0o666)?;
    let (handle, requests) = handle(&engine.workshop, &events, &logs, &engine.attached, sure);

    let watch = Watch::new(engine.loader.dirs().to_vec())?;
    engine.finish_settling(doubles);
    engine.finish_renames();
    let loaded = engine.loader.load();
    engine.manifests(loaded);
    let resolvers = held.extract_if(|tag, _| tag.starts_with("n/")).collect();
    engine.take_sockets(&mut held);
    engine.take_volumes(&mut held);
    if engine.desired.containers.is_empty() || !engine.desired.broken.is_empty() {
        // It may be the login itself that can't run.
        engine.link.send(Message::new(Kind::Rescue), Vec::new());
    }
    engine.take_held(held);
    engine.adopt(told);
    engine.settle_names();
    if anew {
        engine.begin_main();
    }
    engine.recover_networks(resolvers, sure).await;
    engine.recover_sockets();
    if sure {
        let keep = engine.observed.records().map(|record| record.id.clone()).collect();
        match crate::rootfs::sweep(&paths.state_dir(), &keep) {
            Ok(gone) => {
                for id in gone {
                    tracing::info!("the files of {id}, which is no container any more, are gone");
                }
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let tidying = handle.clone();
    tokio::task::spawn_local(super::garbage::tidy(tidying));
    let pool = engine.workshop.pool.clone();
    tokio::task::spawn_blocking(move || pool.refill());
    for (listener, access) in [(full, Access::Full), (looking, Access::ReadOnly)] {
        listener.set_nonblocking(true)?;
        let handle = handle.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = crate::api::serve(listener, handle, access).await {
                tracing::error!("the API can't be served: {error}");
            }
        });
    }
    if let Some(tcp) = options.tcp {
        // Containers don't depend on it: without it the engine goes on.
        tokio::task::spawn_local(async move {
            if let Err(error) = crate::api::tls::listen(&tcp, handle).await {
                tracing::error!("the API can't be served at {}: {error}", tcp.address);
            }
        });
    }
    tell_supervisor();
    engine.run(effects_receiver, requests, watch).await
}

impl Engine {
    /// `up --main` was asked for: whatever became of it before, it runs now, unless it does
    /// already.
    fn begin_main(&mut self) {
        let Some(main) = self.desired.main.as_ref() else { return };
        let name = self.observed.meant(main);
        let known = self.observed.record(&name);
        let good = known.is_some_and(|record| record.last_good.is_some());
        match self.desired.broken.get(&name) {
            Some(_) if !good => {
                tracing::error!("without {main} there is nothing to do");
                self.end_all(125);
            }
            _ => self.apply(Event::Verb { name, verb: Verb::Start }),
        }
    }
}

/// Says when the wall clock is set: a timer that never runs out, and that the kernel
/// cancels then (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
async fn watch_clock(effects: mpsc::UnboundedSender<Effect>) {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let Ok(timer) = timerfd_create(TimerfdClockId::Realtime, flags) else { return };
    let Ok(timer) = crate::sys::readiness::watch(timer, tokio::io::Interest::READABLE) else {
        return;
    };
    let never = Timespec { tv_sec: i64::from(i32::MAX) << 16, tv_nsec: 0 };
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let set = Itimerspec { it_interval: none, it_value: never };
        if timerfd_settime(timer.get_ref(), flags, &set).is_err() {
            return;
        }
        let Ok(mut guard) = timer.readable().await else { return };
        let mut bytes = [0u8; 8];
        match rustix::io::read(timer.get_ref(), &mut bytes[..]) {
            Err(rustix::io::Errno::CANCELED) => {
                guard.clear_ready();
                if effects.send(Effect::Event(Event::ClockSet)).is_err() {
                    return;
                }
            }
            _ => guard.clear_ready(),
        }
    }
}

/// Whoever started Berth may wait for this (sd_notify(3), `Type=notify`).
fn tell_supervisor() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let told = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", PathBuf::from(&path)).map(drop));
    if let Err(error) = told {
        tracing::warn!("telling {} that Berth is ready: {error}", path.to_string_lossy());
    }
}

/// The machine's time zone (localtime(5)); UTC where there is none.
pub fn local_zone() -> jiff::tz::TimeZone {
    let zone = std::fs::read("/etc/localtime")
        .ok()
        .and_then(|bytes| jiff::tz::TimeZone::tzif("localtime", &bytes).ok());
    zone.unwrap_or(jiff::tz::TimeZone::UTC)
}

/// Says once what keeps logs from being written, and once that it is over.
async fn tell_warnings(mut warnings: mpsc::UnboundedReceiver<Warning>) {
    while let Some(warning) = warnings.recv().await {
        match warning {
            Warning::Stalled { dir, error } => {
                tracing::error!("writing {}: {error}; its container waits", dir.display());
            }
            Warning::Resumed { dir } => tracing::info!("{} is written again", dir.display()),
            Warning::Untidy { dir, error } => tracing::warn!("tidying {}: {error}", dir.display()),
        }
    }
}

type Held = HashMap<String, OwnedFd>;

/// Everything that the keeper has.
async fn listen(link: &mut Link) -> io::Result<(Vec<Told>, Held)> {
    let (mut told, mut held) = (Vec::new(), Held::new());
    loop {
        let gone = || io::Error::other("the keeper is gone");
        let (message, mut fds) = link.receive().await?.ok_or_else(gone)?;
        match (message.kind, fds.take(0)) {
            (Kind::Process, Some(pidfd)) => told.push(Told { message, pidfd }),
            (Kind::Held, Some(fd)) => {
                held.insert(message.tag.as_str().to_owned(), fd);
            }
            (Kind::Told, _) => return Ok((told, held)),
            _ => {}
        }
    }
}

/// Makes a socket of the API: root's, and of the group `berth` if there is one.
fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // Ours alone: the keeper's lock says that no other Berth has this folder.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let group = std::fs::read("/etc/group").ok().and_then(|groups| {
        crate::spec::users::resolve(b"", &groups, "0:berth", &[]).ok().map(|user| user.gid)
    });
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
