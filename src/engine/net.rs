//! The engine's loop and the networks: what it tells them, and when.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::handle::Refusal;
use super::networks::{Etc, Running, Wanted};
use super::reconcile::Phase;
use super::run::Engine;
use crate::manifest::model::{Container, NetworkFile, NetworkMode};
use crate::manifest::scalar::Name;
use crate::manifest::{NetworkDefinition, Problem};

/// A change of a running container's network, to be made on a thread that may block.
pub(super) type NetworkChange = Box<dyn FnOnce() -> Result<(), String> + Send>;

impl Engine {
    /// Whoever rests is on no network: its ports are free, its interfaces go.
    pub(super) fn leave_networks(&self, changed: &[Name]) {
        for name in changed {
            let Some(record) = self.observed.record(name) else { continue };
            let rests = matches!(
                record.phase,
                Phase::Exited(_) | Phase::Dead { .. } | Phase::Removing { .. }
            );
            if !rests {
                continue;
            }
            let by_cni = record
                .applied
                .as_ref()
                .is_some_and(|manifest| matches!(manifest.network_mode(), NetworkMode::Cni(_)));
            let seen = self.workshop.networks.seen();
            if by_cni || seen.containers.contains_key(name.as_str()) {
                let networks = self.workshop.networks.clone();
                let (name, incarnation) = (name.clone(), record.incarnation);
                let id = record.id.clone();
                match by_cni {
                    // Others' programs, which keep nobody else waiting.
                    true => {
                        tokio::task::spawn_blocking(move || {
                            networks.leave_cni(name.as_str(), &id, incarnation);
                        });
                    }
                    false => networks.later(move |all| all.leave(name.as_str(), &id, incarnation)),
                }
            }
        }
    }

    /// A container came up, or is down between two launches.
    pub(super) fn names_answered(&self, name: &Name, incarnation: u64, runs: bool) {
        let networks = self.workshop.networks.clone();
        if let Some(record) = self.observed.record(name)
            && networks.seen().containers.contains_key(name.as_str())
        {
            let (name, id, called) = (name.clone(), record.id.clone(), record.called().clone());
            networks.later(move |all| {
                all.set_running(name.as_str(), &id, incarnation, runs);
                // It may have got another name while it was made ready.
                all.call(name.as_str(), called.as_str(), &id);
            });
        }
    }

    /// A network was made anew under these containers: what their files say of it is
    /// written anew.
    pub(super) fn rewrite_files(&self, names: Vec<String>) {
        for name in names {
            let Ok(name) = name.parse::<Name>() else { continue };
            let Some(record) = self.observed.record(&name) else { continue };
            let Some(manifest) = record.applied.as_ref() else { continue };
            let manifest = self.with_host_name(manifest);
            let (id, dir) = (record.id.clone(), self.workshop.paths.etc_dir(name.as_str()));
            let called = record.called().clone();
            self.workshop.networks.later(move |networks| {
                let Some(etc) = networks.etc(name.as_str(), &id, &manifest) else { return };
                if let Err(error) = etc.rewrite(&dir) {
                    tracing::error!("{called}: writing into {}: {error}", dir.display());
                }
            });
        }
    }

    /// Takes over what the manifests say of networks. A broken one stays as it was.
    pub(super) fn networks_declared(
        &mut self,
        networks: BTreeMap<String, NetworkDefinition>,
        broken: BTreeMap<String, Problem>,
    ) {
        let mut declared = BTreeMap::new();
        let before = std::mem::take(&mut self.declared_networks);
        self.network_sources.clear();
        self.broken_networks = broken.keys().cloned().collect();
        for (name, problem) in broken {
            self.network_sources.insert(name.clone(), problem.file);
            if let Some(good) = before.get(&name) {
                declared.insert(name, Arc::clone(good));
            }
        }
        for (name, definition) in networks {
            self.network_sources.insert(name.clone(), definition.source);
            declared.insert(name, definition.network);
        }
        self.declared_networks = declared.clone();
        let broken = self.broken_networks.clone();
        self.workshop.networks.later(move |networks| networks.declare(declared, broken));
    }

    /// What a live change of a container's manifest means for its network. `in_doubt`: it
    /// may not have what was written down last.
    pub(super) fn network_change(
        &self,
        name: &Name,
        manifest: &Arc<Container>,
        in_doubt: bool,
    ) -> Option<NetworkChange> {
        let record = self.observed.record(name)?;
        let process = self.lives.get(name)?.process.as_ref()?;
        let before = record.applied.as_ref()?;
        let apart = |manifest: &Container| {
            matches!(manifest.network_mode(), NetworkMode::Bridge | NetworkMode::None)
        };
        let is_same = before.network == manifest.network && !in_doubt;
        if !apart(manifest) || !apart(before) || is_same {
            return None;
        }
        let networks = self.workshop.networks.clone();
        let dir = self.workshop.paths.etc_dir(name.as_str());
        let (name, id, incarnation) = (name.clone(), record.id.clone(), record.incarnation);
        let called = record.called().clone();
        let (pid, manifest) = (process.pid, self.with_host_name(manifest));
        // Now, while the number is its own.
        let path = format!("/proc/{pid}/ns/net");
        let netns = File::open(&path).map_err(|error| format!("opening {path}: {error}"));
        Some(Box::new(move || {
            let netns = netns?;
            let etc = match manifest.network_mode() {
                NetworkMode::Bridge => networks.join(Wanted {
                    name: name.as_str(),
                    called: called.as_str(),
                    id: &id,
                    incarnation,
                    manifest: &manifest,
                    netns: netns.as_fd(),
                    anew: false,
                })?,
                _ => {
                    networks.leave(name.as_str(), &id, incarnation);
                    Etc::of(called.as_str(), &manifest, &[], None, None)
                }
            };
            etc.rewrite(&dir).map_err(|error| format!("writing into {}: {error}", dir.display()))
        }))
    }

    /// At the start: networks of containers that run are made whole, what a dead engine
    /// left is removed. `sure`: there is a record of every container.
    pub(super) async fn recover_networks(&mut self, held: HashMap<String, OwnedFd>, sure: bool) {
        let mut running = Vec::new();
        let mut known = Vec::new();
        for record in self.observed.records() {
            known.push(record.name.to_string());
            let Some(manifest) = record.applied.as_ref() else { continue };
            let manifest = self.with_host_name(manifest);
            let Some(process) = self.lives.get(&record.name).and_then(|l| l.process.as_ref())
            else {
                continue;
            };
            if !matches!(manifest.network_mode(), NetworkMode::Bridge | NetworkMode::Cni(_)) {
                continue;
            }
            match File::open(format!("/proc/{}/ns/net", process.pid)) {
                Ok(netns) => running.push(Running {
                    name: record.name.to_string(),
                    called: record.called().to_string(),
                    id: record.id.clone(),
                    incarnation: record.incarnation,
                    manifest,
                    netns: netns.into(),
                }),
                Err(error) => self.warn(&record.name, &format!("its network namespace: {error}")),
            }
        }
        let etc = self.workshop.paths.etc_dir("");
        let (done, recovered) = oneshot::channel();
        self.workshop.networks.later(move |networks| {
            let is_known = |name: &str| !sure || known.iter().any(|one| one == name);
            networks.recover(running, &is_known, held);
            for entry in std::fs::read_dir(&etc).into_iter().flatten().flatten() {
                if !entry.file_name().to_str().is_some_and(is_known) {
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
            let _ = done.send(());
        });
        if recovered.await.is_err() {
            tracing::error!("the networks could not be recovered");
        }
    }

    /// Makes a network known; answers when it is declared.
    pub(super) fn create_network(
        &mut self,
        name: &str,
        file: &NetworkFile,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        // Another client may have been quicker since it was looked.
        if let Some(source) = self.network_sources.get(name) {
            let file = source.display();
            let why = format!("network with name {name} already exists: {file} declares it");
            let _ = answer.send(Err(Refusal::Conflict(why)));
            return;
        }
        let path = self.workshop.paths.created_dir().join(format!("{name}.network.toml"));
        let written = crate::manifest::network_to_toml(file)
            .and_then(|text| super::created::write_text(&path, &text));
        self.reload();
        // What that means for the networks is in the queue before us.
        let name = name.to_owned();
        self.workshop.networks.later(move |networks| {
            let made = written.and_then(|()| networks.settle(&name));
            if made.is_err() {
                // Another one took its subnet in between: no file is left that declares
                // what is not there. That it went is seen by whoever watches the folder.
                let _ = std::fs::remove_file(&path);
            }
            let _ = answer.send(made.map_err(Refusal::Failed));
        });
    }

    /// Removes a network that a client made and that nobody uses.
    pub(super) fn remove_network(
        &mut self,
        name: &str,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        if let Err(refusal) = self.remove_network_file(name) {
            let _ = answer.send(Err(refusal));
            return;
        }
        self.reload();
        self.workshop.networks.later(move |_| {
            let _ = answer.send(Ok(()));
        });
    }

    fn remove_network_file(&self, name: &str) -> Result<(), Refusal> {
        let path = self.workshop.paths.created_dir().join(format!("{name}.network.toml"));
        match self.network_sources.get(name) {
            Some(source) if *source == path => {}
            Some(source) => {
                return Err(Refusal::Conflict(format!(
                    "the network {name} is declared in {}; remove that file",
                    source.display()
                )));
            }
            None => return Err(Refusal::NotFound(format!("network {name} not found"))),
        }
        let users: Vec<String> = self
            .desired
            .containers
            .iter()
            .filter(|(_, manifest)| {
                manifest.network_mode() == NetworkMode::Bridge
                    && manifest.network.members().iter().any(|member| member.name == name)
            })
            .map(|(name, _)| self.observed.called(name).to_string())
            .collect();
        if !users.is_empty() {
            return Err(Refusal::Forbidden(format!(
                "error while removing network: network {name} has active endpoints: {}",
                users.join(", ")
            )));
        }
        std::fs::remove_file(&path)
            .map_err(|error| Refusal::Failed(format!("removing {}: {error}", path.display())))?;
        let _ = super::created::sync_dir(&path);
        Ok(())
    }
}
