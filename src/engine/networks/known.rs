//! Named networks: what was chosen for each, kept on disk, and those that are made.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{State, told};
use crate::engine::run::Effect;
use crate::manifest::model::NetworkFile;
use crate::network::NetworkSpec;
use crate::network::dns::{self, Zone};
use crate::network::ipam::{self, Leases};
use crate::network::spec::{DEFAULT_NETWORK, Driver, Taken, choose_subnet, choose_subnet6};

/// The version of the file's form.
const VERSION: u32 = 1;

/// A network as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Known {
    version: u32,
    /// Its Docker id.
    pub id: String,
    /// When it was first known, in Unix nanoseconds.
    pub created: i64,
    /// What was chosen.
    pub spec: NetworkSpec,
}

/// A network that is made.
#[derive(Debug)]
pub(super) struct Up {
    pub spec: NetworkSpec,
    pub leases: Leases,
    pub zone: watch::Sender<Arc<Zone>>,
    /// Its resolver, if one can listen at its gateway.
    pub resolver: Option<tokio::task::AbortHandle>,
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(resolver) = &self.resolver {
            resolver.abort();
        }
    }
}

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.json"))
}

fn leases_file(dir: &Path, name: &str) -> PathBuf {
    // No network's own file: their names have no such ending twice.
    dir.join("leases").join(format!("{name}.json"))
}

/// All networks on disk, and which files can't be read.
pub(super) fn load_all(dir: &Path) -> (BTreeMap<String, Known>, Vec<String>) {
    let (mut known, mut problems) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
            continue;
        };
        let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Known>(&bytes)?));
        match read {
            Ok(one) if one.version == VERSION && one.spec.name == name => {
                known.insert(name.to_owned(), one);
            }
            other => {
                let why = match other {
                    Err(error) => error.to_string(),
                    Ok(one) => format!("it is of {} and version {}", one.spec.name, one.version),
                };
                // Its subnet is chosen anew; a person can still look at it.
                let aside = path.with_extension("json.bad");
                let moved = fs::rename(&path, &aside);
                problems.push(format!(
                    "reading the network {}: {why}; {}",
                    path.display(),
                    match moved {
                        Ok(()) => format!("it is set aside as {}", aside.display()),
                        Err(error) => format!("it can't be set aside: {error}"),
                    }
                ));
            }
        }
    }
    (known, problems)
}

fn save(path: &Path, known: &Known) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        let mut file = tempfile::Builder::new().prefix(".network").tempfile_in(dir)?;
        serde_json::to_writer_pretty(&mut file, known)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| format!("saving the network {}: {error}", path.display()))
}

impl State {
    /// The manifest of a network; the default one needs none.
    pub(super) fn file_of(&self, name: &str) -> Option<Arc<NetworkFile>> {
        let declared = self.declared.get(name).cloned();
        declared.or_else(|| (name == DEFAULT_NETWORK).then(Arc::default))
    }

    /// What others have, but this network.
    fn taken_by_others(&self, name: &str) -> Vec<Taken> {
        let made = self.up.values().map(|up| &up.spec);
        let others = self.known.values().map(|known| &known.spec).chain(made);
        others
            .filter(|spec| spec.name != name && spec.driver == Driver::Bridge)
            .flat_map(|spec| {
                let by = format!("the network {}", spec.name);
                spec.subnets().map(move |net| Taken { net, by: by.clone() }).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Fills in what a file does not say: what was chosen before, if it still is free.
    fn complete(&mut self, name: &str, file: &NetworkFile) -> Result<NetworkSpec, String> {
        let mut taken = self.taken_by_others(name);
        let before = self.known.get(name).map(|known| known.spec.clone());
        let before = before.filter(|before| before.driver == file.driver);
        let fail = |why: String| format!("the network {name} can't be made: {why}");
        // A subnet that a person wrote is compared with the host's by `Host::ensure`,
        // which names who has it.
        let host_taken = match &mut self.kernel {
            Some(kernel) => kernel.host.taken().map_err(told)?,
            None => Vec::new(),
        };
        let free_of = |net: ipnet::IpNet, all: &[Taken]| {
            !all.iter().any(|taken| taken.net.contains(&net) || net.contains(&taken.net))
        };
        let chosen_before = before.as_ref().map(|spec| spec.subnet);
        let usable =
            |net: ipnet::Ipv4Net| free_of(net.into(), &taken) && free_of(net.into(), &host_taken);
        let subnet = match (file.subnet, chosen_before.filter(|net| usable(*net))) {
            (Some(subnet), _) => subnet,
            (None, Some(subnet)) => subnet,
            (None, None) => {
                let all = [taken.as_slice(), host_taken.as_slice()].concat();
                choose_subnet(&self.instance, name, &all)
                    .ok_or_else(|| fail("no private subnet is free; write one".to_owned()))?
            }
        };
        // Without it on the host an address would lead nowhere.
        let has_ipv6 = crate::network::sysctl::has_ipv6();
        let subnet6 = match (file.ipv6 && file.driver == Driver::Bridge, file.subnet6) {
            _ if !has_ipv6 => None,
            (_, Some(subnet)) => Some(subnet),
            (false, None) => None,
            (true, None) => before.as_ref().and_then(|spec| spec.subnet6).or_else(|| {
                let all = [taken.as_slice(), host_taken.as_slice()].concat();
                choose_subnet6(&self.instance, name, &all)
            }),
        };
        let mut spec = NetworkSpec::bridge(name, subnet, subnet6);
        spec.driver = file.driver;
        spec.gateway = file.gateway.unwrap_or(spec.gateway);
        spec.gateway6 = file.gateway6.filter(|_| spec.subnet6.is_some());
        spec.internal = file.internal;
        spec.isolated = file.isolated;
        spec.mtu = file.mtu;
        spec.parent = file.parent.clone();
        if let Some(problem) = spec.problems().into_iter().next() {
            return Err(fail(problem));
        }
        taken.retain(|taken| !taken.by.is_empty());
        if let Some(taken) = spec.overlap(&taken) {
            return Err(fail(format!(
                "{} overlaps {} of {}; choose another subnet, or none: a free one is found then",
                spec.subnet, taken.net, taken.by
            )));
        }
        Ok(spec)
    }

    /// See [`super::Networks::check`].
    pub(super) fn check(&mut self, name: &str, file: &NetworkFile) -> Result<(), String> {
        self.open()?;
        let spec = self.complete(name, file)?;
        let taken = self.kernel()?.host.taken().map_err(told)?;
        match spec.overlap(&taken) {
            Some(taken) => Err(format!(
                "the network {name} can't be made: {} overlaps {}; choose another subnet, or \
                 none: a free one is found then",
                spec.subnet, taken.by
            )),
            None => Ok(()),
        }
    }

    /// See [`super::Networks::settle`].
    pub(super) fn settle(&mut self, name: &str) -> Result<(), String> {
        let file = self.file_of(name).ok_or_else(|| format!("there is no network {name}"))?;
        let spec = self.complete(name, &file)?;
        self.remember(&spec)
    }

    /// Notes what was chosen, if that is new.
    fn remember(&mut self, spec: &NetworkSpec) -> Result<(), String> {
        let before = self.known.get(&spec.name);
        if before.is_some_and(|known| known.spec == *spec) {
            return Ok(());
        }
        let known = Known {
            version: VERSION,
            id: match before {
                Some(known) => known.id.clone(),
                None if spec.name == DEFAULT_NETWORK => self.instance.id(&spec.name),
                None => crate::engine::exec::random_id()
                    .map_err(|error| format!("making an id: {error}"))?,
            },
            created: before.map_or_else(crate::engine::run::wall, |known| known.created),
            spec: spec.clone(),
        };
        save(&file(&self.state_dir, &spec.name), &known)?;
        self.known.insert(spec.name.clone(), known);
        Ok(())
    }

    /// Makes a network that a container needs: its bridge and its resolver.
    pub(super) fn raise(&mut self, name: &str) -> Result<(), String> {
        if self.up.contains_key(name) {
            return Ok(());
        }
        let file = self.file_of(name).ok_or_else(|| {
            format!(
                "there is no network {name}; declare it in {name}.network.toml, or make it with \
                 `berth network create {name}`"
            )
        })?;
        let spec = self.complete(name, &file)?;
        self.remember(&spec)?;
        let leases = ipam::load(&leases_file(&self.state_dir, name)).map_err(told)?;
        let changes = self.kernel()?.host.ensure(&spec).map_err(told)?;
        for change in changes {
            tracing::info!("for the network {name}: {change}");
        }
        let (zone, receiver) = watch::channel(Arc::default());
        let resolver = match spec.driver {
            Driver::Bridge => self.resolver(&spec, receiver),
            Driver::Macvlan | Driver::Ipvlan => None,
        };
        self.up.insert(name.to_owned(), Up { spec, leases, zone, resolver });
        Ok(())
    }

    /// Serves a network's names at its gateway. A host where that can't be runs its
    /// containers all the same.
    fn resolver(
        &mut self,
        spec: &NetworkSpec,
        zone: watch::Receiver<Arc<Zone>>,
    ) -> Option<tokio::task::AbortHandle> {
        let at = SocketAddr::new(IpAddr::V4(spec.gateway), 53);
        let tags = [format!("n/{}/u", spec.name), format!("n/{}/t", spec.name)];
        let held = tags.each_ref().map(|tag| self.held.remove(tag));
        let sockets = match held {
            [Some(udp), Some(tcp)] if is_bound(&udp, at) => Ok([udp, tcp]),
            _ => bind(at),
        };
        let serve = |sockets: [OwnedFd; 2]| -> io::Result<tokio::task::AbortHandle> {
            for (tag, socket) in tags.iter().zip(&sockets) {
                // The keeper holds them: a query that comes while there is no engine
                // waits in the socket for the next one.
                let fd = Some(socket.try_clone()?);
                let _ = self.effects.send(Effect::Hold { tag: tag.clone(), fd });
            }
            let _entered = self.runtime.enter();
            let [udp, tcp] = sockets;
            let sockets = dns::Sockets::of(udp, tcp)?;
            let upstream = Arc::clone(&self.upstream);
            Ok(self.runtime.spawn(dns::serve(sockets, zone, upstream)).abort_handle())
        };
        sockets
            .and_then(serve)
            .inspect_err(|error| {
                tracing::warn!(
                    "names of the network {} are not served at {at}: {error}; does another \
                     resolver listen on all addresses?",
                    spec.name
                );
            })
            .ok()
    }

    /// Takes a network that nobody is on any more away. `for_good`: its addresses and
    /// its subnet, too.
    pub(super) fn lower(&mut self, name: &str, for_good: bool) {
        if let Some(up) = self.up.remove(name) {
            for tag in [format!("n/{name}/u"), format!("n/{name}/t")] {
                let _ = self.effects.send(Effect::Hold { tag, fd: None });
            }
            if let Some(kernel) = &mut self.kernel
                && let Err(error) = kernel.host.remove(&up.spec)
            {
                tracing::warn!("{error}");
            }
        }
        if for_good && self.known.remove(name).is_some() {
            for path in [file(&self.state_dir, name), leases_file(&self.state_dir, name)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!("removing {}: {error}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Writes a network's leases down.
    pub(super) fn save_leases(&self, name: &str) -> Result<(), String> {
        match self.up.get(name) {
            Some(up) => ipam::save(&leases_file(&self.state_dir, name), &up.leases).map_err(told),
            None => Ok(()),
        }
    }

    /// Changes the leases of every network, made or not.
    pub(super) fn each_leases(&mut self, mut change: impl FnMut(&mut Leases) -> bool) {
        for name in self.known.keys().cloned().collect::<Vec<_>>() {
            let path = leases_file(&self.state_dir, &name);
            let outcome = match self.up.get_mut(&name) {
                Some(up) => match change(&mut up.leases) {
                    true => ipam::save(&path, &up.leases),
                    false => Ok(()),
                },
                None => ipam::load(&path).and_then(|mut leases| match change(&mut leases) {
                    true => ipam::save(&path, &leases),
                    false => Ok(()),
                }),
            };
            if let Err(error) = outcome {
                tracing::error!("{error}");
            }
        }
    }

    /// See [`super::Networks::declare`]. A network that changed is made anew under its
    /// containers; one that is declared no more goes when nobody is on it.
    pub(super) fn declare(&mut self, files: BTreeMap<String, Arc<NetworkFile>>) {
        if files == self.declared {
            return;
        }
        self.declared = files;
        // Who looks at it before its first use sees what it will be.
        for name in self.declared.keys().cloned().collect::<Vec<_>>() {
            if !self.known.contains_key(&name)
                && let Err(error) = self.settle(&name)
            {
                tracing::error!("{error}");
            }
        }
        for name in self.up.keys().cloned().collect::<Vec<_>>() {
            let Some(file) = self.file_of(&name) else { continue };
            let changed = match (self.complete(&name, &file), self.up.get(&name)) {
                (Ok(spec), Some(up)) => spec != up.spec,
                (Err(error), _) => {
                    tracing::error!("{error}; it stays as it is");
                    false
                }
                _ => false,
            };
            if changed {
                self.make_anew(&name);
            }
        }
        self.sweep_networks();
    }

    /// Removes networks that nothing declares and nobody is on.
    pub(super) fn sweep_networks(&mut self) {
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|name| self.file_of(name).is_none())
            .filter(|name| !self.joined.values().any(|joined| joined.is_on(name)))
            .cloned()
            .collect();
        for name in &gone {
            self.lower(name, true);
        }
        if !gone.is_empty()
            && let Err(error) = self.apply()
        {
            tracing::error!("{error}");
        }
    }
}

fn bind(at: SocketAddr) -> io::Result<[OwnedFd; 2]> {
    Ok([UdpSocket::bind(at)?.into(), TcpListener::bind(at)?.into()])
}

fn is_bound(socket: &OwnedFd, at: SocketAddr) -> bool {
    let bound = rustix::net::getsockname(socket.as_fd()).ok();
    bound.and_then(|bound| SocketAddr::try_from(bound).ok()) == Some(at)
}
