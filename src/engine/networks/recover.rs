//! After a crash, and after others' changes: what is missing is made again, what
//! belongs to nobody is removed.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{Kernel, State, Wanted, told};
use crate::engine::run::Effect;
use crate::manifest::model::{Container, NetworkMode};
use crate::network::disk;
use crate::network::spec::Driver;

/// A container that runs, found by an engine that starts.
#[derive(Debug)]
pub struct Running {
    /// What it is kept under.
    pub name: String,
    /// Its name.
    pub called: String,
    /// Its Docker id.
    pub id: String,
    /// Which launch.
    pub incarnation: u64,
    /// What it was launched with.
    pub manifest: Arc<Container>,
    /// Its network namespace.
    pub netns: OwnedFd,
}

impl Running {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            name: &self.name,
            called: &self.called,
            id: &self.id,
            incarnation: self.incarnation,
            manifest: &self.manifest,
            netns: self.netns.as_fd(),
            anew: false,
        }
    }
}

/// What somebody removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// A bridge, a container's interface, or an end of the pair that admits connections.
    Link,
    /// Something of our tables.
    Rules,
    /// Perhaps nothing: more changed at once than could be listened to.
    Unheard,
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Removed::Link => "an interface of ours",
            Removed::Rules => "rules of ours",
            Removed::Unheard => "what was not heard of",
        })
    }
}

impl State {
    /// See [`super::Networks::recover`].
    pub(super) fn recover(
        &mut self,
        running: Vec<Running>,
        known: &dyn Fn(&str) -> bool,
        held: HashMap<String, OwnedFd>,
    ) {
        self.held = held;
        // Without it nothing was made since the machine was booted.
        if self.run_dir.is_dir() {
            match self.open() {
                Ok(()) => self.recover_from_kernel(&running, known),
                Err(error) => tracing::error!("{error}"),
            }
        }
        for tag in self.held.drain().map(|(tag, _)| tag) {
            let _ = self.effects.send(Effect::Hold { tag, fd: None });
        }
        self.recovering = false;
        self.sweep_networks();
    }

    fn recover_from_kernel(&mut self, all: &[Running], known: &dyn Fn(&str) -> bool) {
        let is_bridged = |one: &&Running| one.manifest.network_mode() == NetworkMode::Bridge;
        let running: Vec<&Running> = all.iter().filter(is_bridged).collect();
        let mut places: Vec<(String, String)> = Vec::new();
        for one in &running {
            let members = one.manifest.network.members();
            places.extend(members.into_iter().map(|member| (one.name.clone(), member.name)));
        }
        let networks: Vec<String> = places.iter().map(|(_, network)| network.clone()).collect();
        let Some(kernel) = &mut self.kernel else { return };
        let swept = kernel.host.sweep(
            networks.iter().map(String::as_str),
            places.iter().map(|(container, network)| (container.as_str(), network.as_str())),
        );
        match swept {
            Ok(swept) if !swept.is_empty() => {
                tracing::info!("removed interfaces that belonged to nobody: {}", swept.join(", "));
            }
            Ok(_) => {}
            Err(error) => tracing::error!("{error}"),
        }
        self.each_leases(|leases| !leases.release_unknown(known).is_empty());
        self.forget_ports(&running);
        // What can't be raised is told of by the containers that need it.
        for network in networks.iter().collect::<BTreeSet<_>>() {
            let _ = self.raise(network);
        }
        // An address that is in use and noted nowhere is given to nobody else.
        let wanted = running.iter().map(|one| one.wanted());
        let (first, rest): (Vec<_>, Vec<_>) = wanted.partition(|one| self.has_unnoted(one));
        for wanted in first.iter().chain(&rest) {
            if let Err(error) = self.join(wanted) {
                tracing::error!("{}: {error}", wanted.called);
            }
        }
        if all.is_empty() {
            self.tear_down();
        } else if let Err(error) = self.apply() {
            tracing::error!("{error}");
        }
    }

    /// Removes what is noted of the ports of containers that do not run. What plugins
    /// gave is taken back by them alone ([`super::plugins`]).
    fn forget_ports(&self, running: &[&Running]) {
        disk::sweep(&self.run_dir);
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let of = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if of.is_some_and(|name| !running.iter().any(|one| one.name == name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// See [`super::Networks::repair`].
    pub(super) fn repair(&mut self, what: Removed) {
        let Some(kernel) = &mut self.kernel else { return };
        let mut repaired = Vec::new();
        for (name, up) in &self.up {
            let whole = kernel.host.is_whole(&up.spec).unwrap_or(false);
            if whole || up.spec.driver != Driver::Bridge {
                continue;
            }
            if let Err(error) = kernel.host.ensure(&up.spec) {
                tracing::error!("{error}");
                continue;
            }
            for (container, joined) in &self.joined {
                if joined.is_on(name)
                    && let Err(error) = kernel.host.reattach(&up.spec, container)
                {
                    tracing::error!("{error}");
                }
            }
            repaired.push(format!("the bridge of the network {name}"));
        }
        self.repair_ports(&mut repaired);
        let Some(kernel) = &mut self.kernel else { return };
        let (sending, _) = self.instance.admission();
        let found = kernel.host.links().find(&sending);
        if kernel.admission.is_some() && found.is_ok_and(|link| link.is_none()) {
            kernel.admission = None;
            repaired.push("the pair that admits connections".to_owned());
        }
        // What we removed ourselves is heard of, too.
        if repaired.is_empty() && what == Removed::Link {
            return;
        }
        // A change of elements alone does not show whether the table is still there.
        let restored = kernel.firewall.restore().map_err(told);
        let applied = self.apply();
        match restored.and(applied) {
            Ok(()) if what == Removed::Unheard && repaired.is_empty() => {
                tracing::debug!("too many changes at once; the firewall's tables are made anew");
            }
            Ok(()) => {
                repaired.push("the firewall's tables".to_owned());
                tracing::warn!("somebody removed {what}; put back: {}", repaired.join(", "));
            }
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Whether one of these is the host's end of a container's interface, and not there.
    pub(super) fn misses_port(&mut self, names: &[String]) -> bool {
        let wanted: Vec<String> = self
            .joined
            .iter()
            .flat_map(|(container, joined)| {
                joined.endpoints.iter().map(|place| self.instance.port(container, &place.network))
            })
            .filter(|port| names.contains(port))
            .collect();
        let Some(kernel) = &mut self.kernel else { return false };
        let links = kernel.host.links();
        wanted.iter().any(|port| links.find(port).is_ok_and(|link| link.is_none()))
    }

    /// Makes containers' interfaces on bridges that are missing; says which.
    fn repair_ports(&mut self, repaired: &mut Vec<String>) {
        let Some(kernel) = &mut self.kernel else { return };
        let there: BTreeSet<String> = match kernel.host.links().all() {
            Ok(links) => links.into_iter().map(|link| link.name).collect(),
            Err(error) => return tracing::error!("{error}"),
        };
        let mut missing = Vec::new();
        for (container, joined) in &self.joined {
            for place in &joined.endpoints {
                let up = self.up.get(&place.network);
                let is_bridged = up.is_some_and(|up| up.spec.driver == Driver::Bridge);
                if is_bridged && !there.contains(&self.instance.port(container, &place.network)) {
                    missing.push((container.clone(), place.clone(), Arc::clone(&joined.netns)));
                }
            }
        }
        for (container, place, netns) in missing {
            match self.make_place(&container, &place, netns.as_fd()) {
                Ok(()) => {
                    repaired.push(format!("the interface {} of {container}", place.interface))
                }
                Err(error) => tracing::error!("{container}: {error}"),
            }
        }
    }

    /// See [`super::Networks::tear_down`].
    pub(super) fn tear_down(&mut self) {
        for name in self.joined.keys().cloned().collect::<Vec<_>>() {
            self.take_off(&name);
        }
        for name in self.up.keys().cloned().collect::<Vec<_>>() {
            self.lower(&name, false);
        }
        let Some(Kernel { mut host, mut firewall, .. }) = self.kernel.take() else { return };
        let outcomes = [
            firewall.remove(&self.instance),
            host.remove_admission().map(drop),
            host.sweep([], []).map(drop),
        ];
        let all_gone = outcomes.iter().all(Result::is_ok);
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::warn!("{error}");
        }
        if all_gone {
            self.forget_ports(&[]);
            // It stays while there is something that plugins have to take back.
            let _ = fs::remove_dir(&self.run_dir);
        }
    }
}
