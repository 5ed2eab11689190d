//! Named networks: what was chosen for each, kept on disk, and those that are made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::resolvers::{Resolver, network_tags};
use super::{State, told};
use crate::manifest::model::NetworkFile;
use crate::network::NetworkSpec;
use crate::network::disk::{self, Lasting};
use crate::network::dns::Zone;
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
    pub resolver: Option<Resolver>,
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
    // No other Berth writes here, and this one does not yet.
    for dir in [dir, &dir.join("leases")] {
        disk::sweep(dir);
    }
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
                let aside = disk::set_aside(&path);
                problems.push(format!("reading the network {}: {why}; {aside}", path.display()));
            }
        }
    }
    (known, problems)
}

fn save(path: &Path, known: &Known) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(known)?;
        text.push(b'\n');
        disk::replace(path, &text, 0o600, Lasting::Disk)
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
        // Who is on it keeps their addresses, whatever the host got meanwhile.
        let stands = self.up.contains_key(name)
            || match (&mut self.kernel, &before) {
                (Some(kernel), Some(before)) => kernel.host.is_whole(before).unwrap_or(false),
                _ => false,
            };
        let usable =
            |net: ipnet::IpNet| free_of(net, &taken) && (stands || free_of(net, &host_taken));
        let chosen_before =
            before.as_ref().map(|spec| spec.subnet).filter(|net| usable((*net).into()));
        let subnet = match (file.subnet, chosen_before) {
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
            (true, None) => before
                .as_ref()
                .and_then(|spec| spec.subnet6)
                .filter(|net| usable((*net).into()))
                .or_else(|| {
                    let all = [taken.as_slice(), host_taken.as_slice()].concat();
                    choose_subnet6(&self.instance, name, &all)
                }),
        };
        let mut spec = NetworkSpec::bridge(name, subnet, subnet6);
        spec.driver = file.driver;
        spec.range = file.ip_range.map(|range| range.trunc());
        spec.reserved = file.reserved.clone();
        // A host without IPv6 has none of it.
        spec.reserved.retain(|_, address| address.is_ipv4() || spec.subnet6.is_some());
        spec.gateway = file.gateway.unwrap_or(spec.gateway);
        spec.range6 = file.ip_range6.map(|range| range.trunc()).filter(|_| spec.subnet6.is_some());
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
        self.kernel()?.host.check(&spec).map_err(told)
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
        match self.settled(name) {
            Ok(spec) => self.raise_as(&spec),
            Err(error) => match self.standing(name) {
                Some(before) => {
                    tracing::error!("{error}; it stays as it is");
                    self.raise_as(&before)
                }
                None => Err(error),
            },
        }
    }

    /// A network that an engine before us made, as that made it, if it stands: who runs
    /// on it keeps it, whatever its file says by now.
    fn standing(&mut self, name: &str) -> Option<NetworkSpec> {
        let before = self.known.get(name).filter(|_| self.recovering)?.spec.clone();
        let kernel = self.kernel.as_mut()?;
        kernel.host.is_whole(&before).unwrap_or(false).then_some(before)
    }

    /// A network as its file wants it, which nothing is in the way of.
    fn settled(&mut self, name: &str) -> Result<NetworkSpec, String> {
        let file = self.file_of(name).ok_or_else(|| match self.broken.contains(name) {
            true => format!("the manifest of the network {name} is wrong"),
            false => format!(
                "there is no network {name}; declare it in {name}.network.toml, or make it with \
                 `berth network create {name}`"
            ),
        })?;
        let spec = self.complete(name, &file)?;
        let host = &mut self.kernel()?.host;
        if !host.is_whole(&spec).map_err(told)? {
            host.check(&spec).map_err(told)?;
            // What is there of it has other addresses.
            host.remove(&spec).map_err(told)?;
        }
        Ok(spec)
    }

    /// The same for one whose every detail is settled.
    pub(super) fn raise_as(&mut self, spec: &NetworkSpec) -> Result<(), String> {
        let name = &spec.name;
        self.remember(spec)?;
        let leases = self.load_leases(name)?;
        let changes = self.kernel()?.host.ensure(spec).map_err(told)?;
        for change in changes {
            tracing::info!("for the network {name}: {change}");
        }
        let (zone, receiver) = watch::channel(Arc::default());
        let resolver = match spec.driver {
            Driver::Bridge => self.resolver(spec, receiver),
            Driver::Macvlan | Driver::Ipvlan => None,
        };
        self.up.insert(name.clone(), Up { spec: spec.clone(), leases, zone, resolver });
        Ok(())
    }

    /// What the edited file of a network that stands asks for, if that is anything new.
    fn changed(&mut self, name: &str, file: &NetworkFile) -> Result<Option<NetworkSpec>, String> {
        let spec = self.complete(name, file)?;
        let Some(now) = self.up.get(name).map(|up| &up.spec).filter(|now| **now != spec) else {
            return Ok(None);
        };
        // Its own ranges are not in its way.
        let same_place = |other: &NetworkSpec| {
            (other.driver, &other.parent, other.subnet, other.subnet6)
                == (spec.driver, &spec.parent, spec.subnet, spec.subnet6)
        };
        if !same_place(now) {
            self.kernel()?.host.check(&spec).map_err(told)?;
        }
        Ok(Some(spec))
    }

    /// Takes a network that nobody is on any more away. `for_good`: its addresses and
    /// its subnet, too.
    pub(super) fn lower(&mut self, name: &str, for_good: bool) {
        if let Some(up) = self.up.remove(name) {
            self.let_go(network_tags(name));
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

    /// Reads a network's leases. A torn file is set aside and told of: its containers get
    /// addresses anew, but for those that run, which are asked for theirs.
    fn load_leases(&self, name: &str) -> Result<Leases, String> {
        let path = leases_file(&self.state_dir, name);
        match ipam::load(&path).map_err(told)? {
            ipam::Read::Leases(leases) => Ok(leases),
            ipam::Read::Torn(why) => {
                let aside = disk::set_aside(&path);
                tracing::error!("reading the leases {}: {why}; {aside}", path.display());
                Ok(Leases::default())
            }
        }
    }

    /// Writes a network's leases down, and only then believes in them.
    pub(super) fn commit_leases(&mut self, name: &str, leases: Leases) -> Result<(), String> {
        ipam::save(&leases_file(&self.state_dir, name), &leases).map_err(told)?;
        if let Some(up) = self.up.get_mut(name) {
            up.leases = leases;
        }
        Ok(())
    }

    /// Changes the leases of every network, made or not.
    pub(super) fn each_leases(&mut self, mut change: impl FnMut(&mut Leases) -> bool) {
        for name in self.known.keys().cloned().collect::<Vec<_>>() {
            let leases = match self.up.get(&name) {
                Some(up) => Ok(up.leases.clone()),
                None => self.load_leases(&name),
            };
            let outcome = leases.and_then(|mut leases| match change(&mut leases) {
                true => self.commit_leases(&name, leases),
                false => Ok(()),
            });
            if let Err(error) = outcome {
                tracing::error!("{error}");
            }
        }
    }

    /// See [`super::Networks::declare`]. A network that changed is made anew under its
    /// containers; one that is declared no more goes when nobody is on it.
    pub(super) fn declare(
        &mut self,
        files: BTreeMap<String, Arc<NetworkFile>>,
        broken: BTreeSet<String>,
    ) {
        if files == self.declared && broken == self.broken {
            return;
        }
        (self.declared, self.broken) = (files, broken);
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
            match self.changed(&name, &file) {
                Ok(Some(spec)) => self.make_anew(&spec),
                Ok(None) => {}
                Err(error) => tracing::error!("{error}; it stays as it is"),
            }
        }
        self.sweep_networks();
    }

    /// Removes networks that nothing declares and nobody is on. A file that is wrong
    /// declares one all the same.
    pub(super) fn sweep_networks(&mut self) {
        // Who is on them is not known yet.
        if self.recovering {
            return;
        }
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|name| self.file_of(name).is_none() && !self.broken.contains(*name))
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
