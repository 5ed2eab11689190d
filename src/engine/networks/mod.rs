//! The containers' networks: which there are, who is on them, what is published. The
//! kernel's side is in [`crate::network`]; here it is kept in line with manifests and
//! launches.
//!
//! One state behind one lock, which is held while the kernel is spoken to: the
//! methods block, and are called from threads that may. What others look at
//! ([`Networks::seen`]) is a picture that is replaced as a whole.
//!
//! Nothing is made before the first container needs it. What is made is noted by the
//! folder `networks` of the run directory, so that an engine that starts knows
//! whether one before it may have left something.

mod etc;
mod join;
mod known;
mod plugins;
mod publish;
mod recover;
mod seen;
mod zones;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use self::join::Joined;
use self::known::{Known, Up};
use self::recover::Removed;
use super::paths::Paths;
use super::run::Effect;
use crate::manifest::model::{Container, NetworkFile};
use crate::network::dns::Upstream;
use crate::network::firewall::Firewall;
use crate::network::host::Host;
use crate::network::link::Traffic;
use crate::network::{Instance, bridges, firewall};

pub use etc::Etc;
pub use recover::Running;
pub use seen::{EndpointView, NetworkView, PortView, Seen};

/// What a container's launch, or a change of its manifest, asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a str,
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
    /// What the manifests declare, until it is taken over.
    announced: Arc<Mutex<Declared>>,
}

/// Networks by their names, as manifests declare them.
type Declared = BTreeMap<String, Arc<NetworkFile>>;

#[derive(Debug)]
struct State {
    instance: Instance,
    /// One file a network and one for its leases: outlives a boot.
    state_dir: PathBuf,
    /// Free ports that were chosen, a file a container.
    run_dir: PathBuf,
    /// Where CNI's configuration lists are.
    cni_dir: PathBuf,
    declared: BTreeMap<String, Arc<NetworkFile>>,
    known: BTreeMap<String, Known>,
    kernel: Option<Kernel>,
    up: BTreeMap<String, Up>,
    joined: BTreeMap<String, Joined>,
    /// Counts what the firewall must know of, and how far it does.
    generation: u64,
    settled: u64,
    /// Whether others' changes are listened to.
    watched: bool,
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
            cni_dir: paths.cni_dir(),
            declared: BTreeMap::new(),
            known,
            kernel: None,
            up: BTreeMap::new(),
            joined: BTreeMap::new(),
            generation: 0,
            settled: 0,
            watched: false,
            held: HashMap::new(),
            upstream: Arc::new(Upstream::of_file("/etc/resolv.conf")),
            runtime: tokio::runtime::Handle::current(),
            effects,
        };
        let seen = Arc::new(Mutex::new(Arc::new(state.picture())));
        let state = Arc::new(Mutex::new(state));
        Networks { state, turn: Arc::default(), seen, announced: Arc::default() }
    }

    /// What is there, as of the last change.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something to the state and takes a new picture of it.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A panic in between leaves nothing that the next call would not put right.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let picture = Arc::new(state.picture());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = picture;
        result
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
            self.leave(wanted.name, wanted.incarnation);
        }
        self.start_watching();
        joined
    }

    /// Waits until the firewall knows of a change. A transaction takes the kernel
    /// milliseconds, whatever is in it: one is made for all that came meanwhile.
    fn settle_rules(&self, generation: u64) -> Result<(), String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.settled >= generation {
            true => Ok(()),
            false => state.apply(),
        }
    }

    /// The first one to need the kernel has opened it: from then on changes by others
    /// are listened to.
    fn start_watching(&self) {
        let missing = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = !state.watched && !state.up.is_empty();
            match &state.kernel {
                Some(kernel) if is_due => {
                    let _entered = state.runtime.enter();
                    let rules = firewall::watch::Watcher::open(&state.instance, &kernel.firewall);
                    let bridges = bridges::Watcher::open(&state.instance);
                    let runtime = state.runtime.clone();
                    drop(_entered);
                    state.watched = true;
                    Some((rules, bridges, runtime))
                }
                _ => None,
            }
        };
        let Some((rules, bridges, runtime)) = missing else { return };
        let repair = |what: Removed, networks: Networks| async move {
            let done = tokio::task::spawn_blocking(move || networks.repair(what)).await;
            if let Err(error) = done {
                tracing::error!("repairing {what}: {error}");
            }
        };
        match rules {
            Ok(mut watcher) => {
                let networks = self.clone();
                runtime.spawn(async move {
                    while watcher.removed().await.is_ok() {
                        repair(Removed::Rules, networks.clone()).await;
                    }
                });
            }
            Err(error) => tracing::warn!("{error}"),
        }
        match bridges {
            Ok(mut watcher) => {
                let networks = self.clone();
                runtime.spawn(async move {
                    while watcher.removed().await.is_ok() {
                        repair(Removed::Link, networks.clone()).await;
                    }
                });
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Takes a container that rests off its networks, unless it was launched again
    /// meanwhile. It keeps its addresses.
    pub fn leave(&self, name: &str, incarnation: u64) {
        self.with(|state| state.leave(name, incarnation));
    }

    /// A container is no more: its addresses are free.
    pub fn forget(&self, name: &str) {
        self.with(|state| state.forget(name));
    }

    /// A container has another name; it does not run.
    pub fn rename(&self, name: &str, to: &str) {
        self.with(|state| state.rename(name, to));
    }

    /// Whether a container's names are answered: not while it is down between two
    /// launches.
    pub fn set_running(&self, name: &str, incarnation: u64, runs: bool) {
        self.with(|state| state.set_running(name, incarnation, runs));
    }

    /// The manifests declare these networks now: [`Networks::declare`] takes them over.
    pub(super) fn announce(&self, files: Declared) {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    /// Takes over what was announced last. Threads that do so pass each other, so what
    /// one was started for is no older than what is taken.
    pub(super) fn declare(&self) {
        self.with(|state| {
            let files = self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
            state.declare(files);
        });
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
        self.with(|state| state.recover(running, known, held));
        self.start_watching();
    }

    /// Puts back what somebody removed.
    fn repair(&self, what: Removed) {
        self.with(|state| state.repair(what));
    }

    /// Removes everything that was made.
    pub fn tear_down(&self) {
        self.with(State::tear_down);
    }

    /// What a container's interfaces counted.
    pub fn traffic(&self, name: &str) -> Vec<(String, Traffic)> {
        let netns = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.joined.get(name).map(|joined| Arc::clone(&joined.netns))
        };
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
        self.kernel = Some(Kernel { host, firewall, admission: None });
        Ok(())
    }

    fn kernel(&mut self) -> Result<&mut Kernel, String> {
        self.kernel.as_mut().ok_or_else(|| "the kernel's networking is not open".to_owned())
    }
}

fn told(error: crate::network::Error) -> String {
    error.to_string()
}
