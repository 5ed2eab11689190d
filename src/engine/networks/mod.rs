//! The containers' networks: which there are, who is on them, what is published. The
//! kernel's side is in [`crate::network`]; here it is kept in line with manifests and
//! launches.
//!
//! One state behind one lock, which is held while the kernel is spoken to: the
//! methods block, and are called from threads that may. What the engine's loop tells
//! goes through one queue ([`Networks::later`]), so that nothing older overtakes what
//! is newer. What others look at ([`Networks::seen`]) is a picture that is replaced as
//! a whole.
//!
//! Nothing is made before the first container needs it. What is made is noted by the
//! folder `networks` of the run directory, so that an engine that starts knows
//! whether one before it may have left something.

mod etc;
mod flows;
mod join;
mod known;
mod plugins;
mod publish;
mod recover;
mod resolvers;
mod seen;
mod watching;
mod wishes;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use self::join::Joined;
use self::known::{Known, Up};
use self::plugins::Plugins;
use self::recover::Removed;
use self::watching::Watching;
pub(super) use self::wishes::Wishes;
use super::paths::Paths;
use super::run::Effect;
use crate::manifest::model::{Container, NetworkFile, NetworkMode};
use crate::network::Instance;
use crate::network::dns::Upstream;
use crate::network::firewall::Firewall;
use crate::network::host::Host;
use crate::network::link::Traffic;

pub use etc::Etc;
pub use recover::Running;
pub use seen::{EndpointView, NetworkView, PortView, Seen};

/// What a container's launch, or a change of its manifest, asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What it is kept under.
    pub name: &'a str,
    /// Its name.
    pub called: &'a str,
    /// Its Docker id.
    pub id: &'a str,
    /// Which launch.
    pub incarnation: u64,
    /// What its manifest says.
    pub manifest: &'a Container,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// Make its interfaces anew whatever is there: the container may have changed them.
    pub anew: bool,
}

/// All networks of one Berth. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks {
    state: Arc<Mutex<State>>,
    /// Held by whoever settles the firewall's rules, before the state.
    turn: Arc<Mutex<()>>,
    seen: Arc<Mutex<Arc<Seen>>>,
    plugins: Arc<Plugins>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Containers that are kept under other names than the state knows of: from, to, id.
    renames: Arc<Mutex<Vec<(String, String, String)>>>,
    /// What manifests fix that the state does not know of.
    wishes: Arc<Mutex<Option<Wishes>>>,
    /// Somebody is about to look for what of others' rules is in the way of containers.
    looks: Arc<AtomicBool>,
}

/// Something to be done in its turn, on a thread that may block.
type Job = Box<dyn FnOnce(&Networks) + Send>;

async fn work(networks: Networks, mut jobs: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = jobs.recv().await {
        let networks = networks.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || job(&networks)).await {
            tracing::error!("changing the networks: {error}");
        }
    }
}

#[derive(Debug)]
struct State {
    instance: Instance,
    /// One file a network and one for its leases: outlives a boot.
    state_dir: PathBuf,
    /// Free ports that were chosen, a file a container.
    run_dir: PathBuf,
    declared: BTreeMap<String, Arc<NetworkFile>>,
    /// Networks whose file is wrong.
    broken: BTreeSet<String>,
    known: BTreeMap<String, Known>,
    kernel: Option<Kernel>,
    up: BTreeMap<String, Up>,
    joined: BTreeMap<String, Joined>,
    /// Counts what the firewall must know of, and how far it does.
    generation: u64,
    settled: u64,
    watching: Watching,
    wishes: Wishes,
    /// Until it is known who runs: containers are brought in as an engine before us left
    /// them.
    recovering: bool,
    /// Sockets of resolvers that the keeper held for us.
    held: HashMap<String, OwnedFd>,
    upstream: Arc<Upstream>,
    runtime: tokio::runtime::Handle,
    effects: mpsc::UnboundedSender<Effect>,
}

/// The kernel's networking, once it is needed.
#[derive(Debug)]
struct Kernel {
    host: Host,
    firewall: Firewall,
    admission: Option<u32>,
    flows: flows::Flows,
}

impl Networks {
    /// Reads what is known of networks; touches nothing. Called within the runtime of
    /// the engine.
    pub(super) fn new(paths: &Paths, effects: mpsc::UnboundedSender<Effect>) -> Networks {
        let state_dir = paths.state_dir().join("networks");
        let (known, problems) = known::load_all(&state_dir);
        for problem in problems {
            tracing::error!("{problem}");
        }
        let state = State {
            instance: Instance::of_root(&paths.root().to_string_lossy()),
            state_dir,
            run_dir: paths.run_dir().join("networks"),
            declared: BTreeMap::new(),
            broken: BTreeSet::new(),
            known,
            kernel: None,
            up: BTreeMap::new(),
            joined: BTreeMap::new(),
            generation: 0,
            settled: 0,
            watching: Watching::default(),
            wishes: Wishes::default(),
            recovering: true,
            held: HashMap::new(),
            upstream: Arc::new(Upstream::of_file("/etc/resolv.conf")),
            runtime: tokio::runtime::Handle::current(),
            effects,
        };
        let plugins = Arc::new(Plugins::new(paths.cni_dir(), state.run_dir.clone()));
        let seen = Arc::new(Mutex::new(Arc::new(state.picture())));
        let (jobs, queue) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(state));
        let networks = Networks {
            state,
            turn: Arc::default(),
            seen,
            plugins,
            jobs,
            renames: Arc::default(),
            wishes: Arc::default(),
            looks: Arc::default(),
        };
        tokio::spawn(work(networks.clone(), queue));
        networks
    }

    /// Has this done when all is done that was asked for before.
    pub(super) fn later(&self, job: impl FnOnce(&Networks) + Send + 'static) {
        // The queue is there for as long as the engine's runtime.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does something to the state that nobody sees.
    fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A panic in between leaves nothing that the next call would not put right.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let renames =
            std::mem::take(&mut *self.renames.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, to, id) in renames {
            state.rename(&name, &to, &id);
        }
        if let Some(wishes) = self.wishes.lock().unwrap_or_else(PoisonError::into_inner).take() {
            state.wishes = wishes;
        }
        work(&mut state)
    }

    /// What is there, as of the last change.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something to the state and takes a new picture of it.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        self.locked(|state| {
            let result = work(state);
            let picture = Arc::new(state.picture());
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = picture;
            result
        })
    }

    /// Brings a container onto its networks, publishes its ports, and says what its
    /// files are to say. What is so already stays as it is.
    ///
    /// # Errors
    /// What can't be had, in one sentence. A container that was on no network before
    /// is on none then.
    pub fn join(&self, wanted: Wanted<'_>) -> Result<Etc, String> {
        let (was_joined, joined, generation) = self.with(|state| {
            let was_joined = state.joined.contains_key(wanted.name);
            (was_joined, state.join(&wanted), state.generation)
        });
        let settled = self.settle_rules(generation);
        let joined = joined.and_then(|etc| settled.map(|()| etc));
        if joined.is_err() && !was_joined {
            self.leave(wanted.name, wanted.id, wanted.incarnation);
        }
        self.start_watching();
        joined
    }

    /// Waits until the firewall knows of a change. A transaction takes the kernel
    /// milliseconds, whatever is in it: one is made for all that came meanwhile.
    fn settle_rules(&self, generation: u64) -> Result<(), String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.locked(|state| match state.settled >= generation {
            true => Ok(()),
            false => state.apply(),
        })
    }

    /// Has CNI plugins bring a container onto a network; gives its addresses.
    ///
    /// # Errors
    /// The list is missing or wrong, or a plugin refuses.
    pub fn join_cni(&self, wanted: Wanted<'_>, list: &str) -> Result<Vec<IpAddr>, String> {
        self.plugins.join(&wanted, list)
    }

    /// Has plugins take back what they gave a container that rests. It may take long: to
    /// be called beside the queue.
    pub(super) fn leave_cni(&self, name: &str, id: &str, incarnation: u64) {
        self.plugins.leave(name, id, incarnation);
    }

    /// Takes a container that rests off its networks, unless it was launched again
    /// meanwhile, or is another one by now. It keeps its addresses.
    pub fn leave(&self, name: &str, id: &str, incarnation: u64) {
        self.with(|state| state.leave(name, id, incarnation));
    }

    /// A container is no more: its addresses are free.
    pub fn forget(&self, name: &str) {
        self.plugins.forget(name);
        self.with(|state| state.forget(name));
    }

    /// A container is found by this name from now on.
    pub fn call(&self, name: &str, called: &str, id: &str) {
        self.with(|state| state.call(name, called, id));
    }

    /// A container has another name, whether it is on networks or not: links to it lead to
    /// it still.
    pub fn follow(&self, from: &str, to: &str) {
        self.with(|state| state.follow(from, to));
    }

    /// A container that does not run is kept under another name, before anything else is
    /// done from now on.
    pub fn rename(&self, name: &str, to: &str, id: &str) {
        let renamed = (name.to_owned(), to.to_owned(), id.to_owned());
        self.renames.lock().unwrap_or_else(PoisonError::into_inner).push(renamed);
        let (before, of) = (name.to_owned(), id.to_owned());
        self.later(move |networks| {
            networks.with(|_| ());
            let (networks, runtime) = (networks.clone(), networks.runtime());
            runtime.spawn_blocking(move || networks.leave_cni(&before, &of, u64::MAX));
        });
    }

    fn runtime(&self) -> tokio::runtime::Handle {
        self.locked(|state| state.runtime.clone())
    }

    /// Whether a container's names are answered: not while it is down between two
    /// launches.
    pub fn set_running(&self, name: &str, id: &str, incarnation: u64, runs: bool) {
        self.with(|state| state.set_running(name, id, incarnation, runs));
    }

    /// What the files of a container say by now, if it is on networks.
    pub(super) fn etc(&self, name: &str, id: &str, manifest: &Container) -> Option<Etc> {
        self.locked(|state| {
            let joined = state.joined.get(name).filter(|joined| joined.id == id)?;
            Some(state.etc(name, manifest, &joined.endpoints))
        })
    }

    /// The manifests fix these addresses now: nobody else is given one as long as there are
    /// others, whoever is launched first.
    pub fn wish(&self, wishes: Wishes) {
        *self.wishes.lock().unwrap_or_else(PoisonError::into_inner) = Some(wishes);
    }

    /// The manifests declare these networks now; those in `broken` can't be read.
    pub fn declare(&self, files: BTreeMap<String, Arc<NetworkFile>>, broken: BTreeSet<String>) {
        self.with(|state| state.declare(files, broken));
    }

    /// Finds a good network for a file before it is declared.
    ///
    /// # Errors
    /// It overlaps another, or there is no free subnet.
    pub fn check(&self, name: &str, file: &NetworkFile) -> Result<(), String> {
        self.with(|state| state.check(name, file))
    }

    /// Chooses what the file of a declared network leaves open, and keeps it.
    ///
    /// # Errors
    /// There is nothing free, or the disk's.
    pub fn settle(&self, name: &str) -> Result<(), String> {
        self.with(|state| state.settle(name))
    }

    /// After the start: makes good what an engine before left, for these containers
    /// that run; `known` are all that there are.
    pub(super) fn recover(
        &self,
        running: Vec<Running>,
        known: &dyn Fn(&str) -> bool,
        held: HashMap<String, OwnedFd>,
    ) {
        // Who has something of plugins and does not run; as of now, for a launch may
        // come while they work.
        let runs_by_plugins = |name: &str| {
            running.iter().any(|one| {
                one.name == name && matches!(one.manifest.network_mode(), NetworkMode::Cni(_))
            })
        };
        let mut left = self.plugins.all();
        left.retain(|(name, ..)| !runs_by_plugins(name));
        let runtime = self.locked(|state| state.runtime.clone());
        self.with(|state| state.recover(running, known, held));
        self.start_watching();
        if !left.is_empty() {
            let networks = self.clone();
            runtime.spawn_blocking(move || {
                for (name, id, incarnation) in left {
                    networks.leave_cni(&name, &id, incarnation);
                }
            });
        }
    }

    /// Puts back what somebody removed.
    fn repair(&self, what: Removed) {
        self.with(|state| state.repair(what));
    }

    /// Removes everything that was made.
    pub fn tear_down(&self) {
        for (name, ..) in self.plugins.all() {
            self.plugins.forget(&name);
        }
        self.with(State::tear_down);
    }

    /// What a container's interfaces counted.
    pub fn traffic(&self, name: &str) -> Vec<(String, Traffic)> {
        let netns =
            self.locked(|state| state.joined.get(name).map(|joined| Arc::clone(&joined.netns)));
        let traffic = netns.map(|netns| crate::network::host::traffic(netns.as_fd()));
        traffic.and_then(Result::ok).unwrap_or_default()
    }
}

impl State {
    /// Opens the kernel's networking, at the first need.
    fn open(&mut self) -> Result<(), String> {
        if self.kernel.is_some() {
            return Ok(());
        }
        let why = |error: crate::network::Error| {
            format!(
                "network.mode = \"bridge\" can't be had: {error}; \"none\" and \"host\" need \
                 nothing of the kernel"
            )
        };
        let host = Host::open(self.instance.clone()).map_err(why)?;
        let firewall = Firewall::open().map_err(why)?;
        std::fs::create_dir_all(&self.run_dir)
            .map_err(|error| format!("making the folder {}: {error}", self.run_dir.display()))?;
        self.kernel = Some(Kernel { host, firewall, admission: None, flows: Default::default() });
        Ok(())
    }

    fn kernel(&mut self) -> Result<&mut Kernel, String> {
        self.kernel.as_mut().ok_or_else(|| "the kernel's networking is not open".to_owned())
    }
}

fn told(error: crate::network::Error) -> String {
    error.to_string()
}
