//! Answers to what clients ask of the engine.

use super::files::Place;
use std::os::fd::AsFd;

use super::events::bounded;
use super::handle::{Event as Told, Refusal, Request, Usage, View};
use super::live::Live;
use super::reconcile::{Event, HealthStatus, Phase, Record, Refused, Verb};
use super::run::{Engine, monotonic, wall};
use super::view::{Declared, view};
use crate::keeper::protocol::{Kind, Message};
use crate::manifest::Loader;
use crate::manifest::model::{MountKind, NetworkMode};
use crate::manifest::scalar::{Name, Signal};

impl Engine {
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::List(answer) => {
                let mut views: Vec<View> =
                    self.observed.records().map(|record| self.view(record)).collect();
                // A manifest that was never good has no record, and must be seen.
                views.extend(self.never_good());
                views.sort_by(|a, b| a.name.cmp(&b.name));
                let _ = answer.send(views);
            }
            Request::Find(which, answer) => {
                let _ = answer.send(self.find(&which));
            }
            Request::Act(which, verb, answer) => {
                let ordered = self.of(&which).and_then(|name| self.order(&name, verb));
                let _ = answer.send(ordered);
            }
            Request::Plan(dirs, answer) => {
                let dirs = match dirs.is_empty() {
                    true => self.loader.dirs().to_vec(),
                    false => self.workshop.paths.sources(dirs),
                };
                let _ = answer.send(self.plan(dirs));
            }
            Request::Processes(which, answer) => {
                let live = self.of(&which).ok().and_then(|name| self.lives.get(&name));
                let cgroup = live.and_then(Live::cgroup);
                tokio::task::spawn_blocking(move || {
                    let pids = cgroup.map(|cgroup| cgroup.procs()).unwrap_or_default();
                    let _ = answer.send(pids.into_iter().filter_map(process).collect());
                });
            }
            Request::Files(which, answer) => {
                let place = self.of(&which).and_then(|name| self.place(&name));
                let _ = answer.send(place);
            }
            Request::Choose(which, image, answer) => {
                let chosen = self.of(&which).and_then(|name| self.choose(&name, *image));
                let _ = answer.send(chosen);
            }
            Request::Rescan(answer) => {
                let loaded = self.loader.load();
                self.manifests(loaded);
                let _ = answer.send(());
            }
            Request::Create(name, container, answer) => {
                let _ = answer.send(self.create(&name, &container));
            }
            Request::Clone(cloned, answer) => {
                let _ = answer.send(self.create_clone(*cloned));
            }
            Request::Change(which, edit, answer) => {
                let changed = self.of(&which).and_then(|name| self.change_created(&name, edit));
                let _ = answer.send(changed);
            }
            Request::Rename(which, to, answer) => match self.of(&which) {
                Ok(name) => self.rename(&name, &to, answer),
                Err(refusal) => {
                    let _ = answer.send(Err(refusal));
                }
            },
            Request::CreateNetwork(name, file, answer) => {
                self.create_network(&name, &file, answer);
            }
            Request::RemoveNetwork(name, answer) => self.remove_network(&name, answer),
            Request::Exec(request) => self.answer_exec(request),
            Request::Attach(which, answer) => {
                let ends = self.of(&which).and_then(|name| self.ends(&name));
                let _ = answer.send(ends);
            }
            Request::CloseStdin(which, answer) => {
                if let Ok(name) = self.of(&which)
                    && let Some(live) = self.lives.get_mut(&name)
                    && live.ends.stdin.take().is_some()
                {
                    let _ = self.hold(&format!("i/{name}"), None);
                }
                let _ = answer.send(());
            }
            Request::Resize(which, size, answer) => {
                let resized = self.of(&which).and_then(|name| self.resize(name, size));
                let _ = answer.send(resized);
            }
            Request::Reexec(answer) => {
                self.link.send(Message::new(Kind::Reexec), Vec::new());
                let _ = answer.send(Ok(()));
            }
            Request::Stats(which, answer) => {
                let name = match self.of(&which) {
                    Ok(name) => name,
                    Err(refusal) => {
                        let _ = answer.send(Err(refusal));
                        return;
                    }
                };
                let cgroup = self.lives.get(&name).and_then(Live::cgroup);
                let called = self.observed.called(&name);
                let networks = self.workshop.networks.clone();
                tokio::task::spawn_blocking(move || {
                    let stats = match cgroup {
                        Some(cgroup) => cgroup
                            .stats()
                            .map(|stats| Usage {
                                stats,
                                networks: networks.traffic(name.as_str()).into_iter().collect(),
                            })
                            .map_err(|error| Refusal::Failed(error.to_string())),
                        None => {
                            Err(Refusal::Conflict(format!("container {called} is not running")))
                        }
                    };
                    let _ = answer.send(stats);
                });
            }
        }
    }

    /// Reads the manifests of these directories anew, beside those in force.
    fn plan(&self, dirs: Vec<std::path::PathBuf>) -> Result<Vec<super::plan::Change>, String> {
        let loaded = Loader::new(dirs).load();
        if !loaded.problems.is_empty() {
            let all: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
            return Err(all.join("\n"));
        }
        let mut desired = self.desired.clone();
        let containers = loaded
            .containers
            .into_iter()
            .map(|(name, definition)| (self.observed.meant(&name), definition.container))
            .collect();
        desired.replace(containers, std::collections::BTreeMap::new());
        Ok(super::plan::plan(&desired, &self.observed))
    }

    fn resize(&mut self, name: Name, size: super::terminal::Size) -> Result<(), Refusal> {
        let live = self.lives.entry(name).or_default();
        live.size = size;
        let resized = match &live.ends.terminal {
            Some(master) => super::terminal::resize(master.as_fd(), size),
            None => Ok(()),
        };
        resized.map_err(|errno| Refusal::Failed(format!("resizing the terminal: {errno}")))
    }

    fn ends(&self, name: &Name) -> Result<super::prepare::Ends, Refusal> {
        let ends = self.lives.get(name).map(|live| live.ends.copy()).transpose();
        ends.map(Option::unwrap_or_default)
            .map_err(|error| Refusal::Failed(format!("no descriptor is left: {error}")))
    }

    fn view(&self, record: &Record) -> View {
        let called = |name: &Name| self.observed.called(name);
        let seen = self.workshop.networks.seen();
        let (endpoints, ports) =
            seen.containers.get(record.name.as_str()).cloned().unwrap_or_default();
        let declared = Declared {
            endpoints,
            ports,
            source: self.sources.get(&record.name).cloned(),
            error: self.desired.broken.get(&record.name).cloned(),
            blocked: self
                .observed
                .block(&record.name)
                .map(|block| block.naming(called).to_string()),
            manifest: self.desired.containers.get(&record.name).map(|c| (**c).clone()),
            probes: self.lives.get(&record.name).map(Live::probes).unwrap_or_default(),
            execs: self.execs.running_in(&record.name),
            outlook: self.observed.outlook(&record.name).to_owned(),
            said: self.lives.get(&record.name).and_then(|live| live.said.clone()),
        };
        view(record, declared, monotonic(), &called)
    }

    fn never_good(&self) -> Vec<View> {
        self.desired
            .broken
            .iter()
            .filter(|(name, _)| self.observed.record(name).is_none())
            .map(|(name, error)| {
                let mut record = Record::new(name.clone(), String::new(), wall(), String::new());
                record.called = Some(self.observed.called(name));
                let declared = Declared {
                    source: self.sources.get(name).cloned(),
                    error: Some(error.clone()),
                    outlook: "failed".to_owned(),
                    ..Declared::default()
                };
                view(&record, declared, monotonic(), &|name| self.observed.called(name))
            })
            .collect()
    }

    /// What the container of this id is kept under by now; one without a record goes by its
    /// name.
    pub(super) fn of(&self, which: &str) -> Result<Name, Refusal> {
        let by_id = || self.observed.of_id(which).find(|record| record.id == which);
        if let Some(record) = by_id() {
            return Ok(record.name.clone());
        }
        let name = which.parse::<Name>().ok().and_then(|name| self.observed.kept_under(&name));
        name.ok_or_else(|| Refusal::NotFound(format!("No such container: {which}")))
    }

    /// By what it is kept under.
    pub(super) fn view_of(&self, name: &Name) -> Result<View, Refusal> {
        let record = self.observed.record(name);
        record.map(|record| self.view(record)).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &Name) -> Refusal {
        Refusal::NotFound(format!("No such container: {}", self.observed.called(name)))
    }

    /// What the reconciler has against an order, for who gave it.
    pub(super) fn refused(&self, name: &Name, why: Refused) -> Refusal {
        match why {
            Refused::Unknown => self.missing(name),
            why => Refusal::Conflict(format!("Container {}: {why}", self.observed.called(name))),
        }
    }

    /// By name, id, or the beginning of an id that only one has.
    pub(super) fn find(&self, which: &str) -> Result<View, Refusal> {
        if let Ok(name) = which.parse::<Name>() {
            let kept = self.observed.kept_under(&name);
            if let Some(record) = kept.and_then(|kept| self.observed.record(&kept)) {
                return Ok(self.view(record));
            }
            if let Some(view) = self.never_good().into_iter().find(|view| view.name == name) {
                return Ok(view);
            }
        }
        let mut found = self.observed.of_id(which);
        match (found.next().filter(|_| !which.is_empty()), found.next()) {
            (Some(record), None) => Ok(self.view(record)),
            (Some(_), Some(_)) => {
                Err(Refusal::Invalid(format!("multiple IDs found with provided prefix: {which}")))
            }
            (None, _) => Err(Refusal::NotFound(format!("No such container: {which}"))),
        }
    }

    fn order(&mut self, name: &Name, verb: Verb) -> Result<(), Refusal> {
        if let Verb::Remove { force } = verb
            && self.is_created(name)
        {
            return self.remove_created(name, force);
        }
        if let Verb::Remove { .. } = verb
            && self.desired.declares(name)
        {
            let file = self.sources.get(name).map(|file| file.display().to_string());
            return Err(Refusal::Conflict(format!(
                "{} is declared in {}; remove that file, or stop the container",
                self.observed.called(name),
                file.unwrap_or_default()
            )));
        }
        let now = self.now();
        let word = self.verb_word(name, &verb);
        match self.observed.apply(Event::Verb { name: name.clone(), verb: verb.clone() }, &now) {
            Ok(()) => {
                if let Some((action, attribute)) = word {
                    self.tell(name, action, attribute);
                }
                Ok(())
            }
            Err(why) => Err(self.refused(name, why)),
        }
    }

    /// An order in the words of Docker's events. One to stop is a signal first: that it is
    /// stopped is told once it has died.
    fn verb_word(
        &self,
        name: &Name,
        verb: &Verb,
    ) -> Option<(&'static str, [(&'static str, String); 1])> {
        let none = [("", String::new())];
        let by = |signal: Signal| ("kill", [("signal", signal.0.to_string())]);
        Some(match verb {
            Verb::Stop { signal, .. } => {
                let record = self.observed.record(name)?;
                let running = matches!(record.phase, Phase::Running(_));
                match record.applied.as_ref().filter(|_| running) {
                    Some(manifest) => by(signal.unwrap_or(record.stop_signal(&manifest.stop))),
                    None => ("stop", none),
                }
            }
            Verb::Restart { .. } => ("restart", none),
            Verb::Kill(signal) => by(*signal),
            Verb::Reload => ("reload", none),
            Verb::Pause => ("pause", none),
            Verb::Unpause => ("unpause", none),
            Verb::Create { .. } | Verb::Amend(_) | Verb::Start | Verb::Remove { .. } => {
                return None;
            }
        })
    }

    pub(super) fn tell<const N: usize>(
        &self,
        name: &Name,
        action: &str,
        attributes: [(&str, String); N],
    ) {
        let record = self.observed.record(name);
        let manifest = record.and_then(|r| r.last_good.as_ref().or(r.applied.as_ref()));
        let manifest = manifest.or_else(|| self.desired.containers.get(name));
        // As with Docker: the labels, and where the root comes from.
        let labels = manifest.map(|manifest| manifest.labels.clone()).unwrap_or_default();
        let mut known = bounded(labels);
        if let Some(manifest) = manifest {
            let root = manifest.rootfs.as_ref().map(|path| path.display().to_string());
            known.extend(manifest.image.clone().or(root).map(|image| ("image".to_owned(), image)));
        }
        self.events.publish(Told {
            time: wall().unsigned_abs(),
            kind: "container".to_owned(),
            action: action.to_owned(),
            name: self.observed.called(name).to_string(),
            id: record.map(|record| record.id.clone()).unwrap_or_default(),
            attributes: known
                .into_iter()
                .chain(attributes.into_iter().map(|(key, value)| (key.to_owned(), value)))
                .filter(|(key, _)| !key.is_empty())
                .collect(),
        });
    }

    fn place(&mut self, name: &Name) -> Result<Place, Refusal> {
        if let Some(live) = self.lives.get_mut(name)
            && live.process.is_none()
            && let Some(root) = live.kept.root.take()
        {
            // Whoever comes mounts the same directories: what the kernel remembers of the
            // kept mount would be wrong after that (overlayfs.rst, "Changes to underlying
            // filesystems"). The next launch mounts it anew. With its last mount an overlay
            // writes all of its upper file system to disk.
            tokio::task::spawn_blocking(move || drop(root));
        }
        let record = self.observed.record(name).ok_or_else(|| self.missing(name))?;
        let manifest = record.applied.clone().or_else(|| record.last_good.clone());
        let manifest = manifest.or_else(|| self.desired.containers.get(name).cloned());
        let process = self.lives.get(name).and_then(|live| live.process.as_ref());
        Ok(Place {
            id: record.id.clone(),
            pid: process.map_or(0, |process| process.pid),
            manifest: manifest.ok_or_else(|| {
                let called = record.called();
                Refusal::Conflict(format!("{called} has no good manifest yet"))
            })?,
            image: record.image.clone(),
            mounted: record.mounted.clone(),
            volumes: std::sync::Arc::clone(&self.workshop.volumes),
            cgroup: self.lives.get(name).and_then(super::live::Live::cgroup),
        })
    }

    fn choose(&mut self, name: &Name, image: super::reconcile::Image) -> Result<(), Refusal> {
        let record = self.observed.record(name).ok_or_else(|| self.missing(name))?;
        if record.image.is_some() {
            return Ok(());
        }
        let incarnation = record.incarnation;
        self.apply(Event::ImageChosen { name: name.clone(), incarnation, image: Box::new(image) });
        let record = self.observed.record(name).ok_or_else(|| self.missing(name))?;
        self.store.save(record).map_err(|error| Refusal::Failed(error.to_string()))
    }

    pub(super) fn publish_error(&self, name: &Name, error: &str) {
        tracing::warn!("{error}");
        self.tell(name, "manifest_error", [("error", error.to_owned())]);
    }

    /// Says of each network of a container, and of each volume, that it is used or no longer.
    fn tell_places(&self, name: &Name, [network, volume]: [&str; 2]) {
        let Some(record) = self.observed.record(name) else { return };
        let Some(manifest) = record.applied.as_ref().or(record.last_good.as_ref()) else { return };
        let say = |kind: &str, action: &str, name: &str, id: &str, more: &[(&str, &str)]| {
            let own = [("container", record.id.as_str())];
            let more = more.iter().chain(&own);
            let attributes = more.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            self.events.publish(Told {
                time: wall().unsigned_abs(),
                kind: kind.to_owned(),
                action: action.to_owned(),
                name: name.to_owned(),
                id: id.to_owned(),
                attributes: attributes.collect(),
            });
        };
        if manifest.network_mode() == NetworkMode::Bridge {
            let seen = self.workshop.networks.seen();
            for member in manifest.network.members() {
                let Some(view) = seen.networks.get(&member.name) else { continue };
                say("network", network, &member.name, &view.id, &[("type", view.driver())]);
            }
        }
        let wanted = record.image.as_ref().map_or(&[][..], |image| &image.volumes);
        let anonymous = super::volumes::of_image(&record.id, manifest, wanted);
        for mount in manifest.mounts.iter().chain(&anonymous) {
            let Some(source) = mount.source.as_ref() else { continue };
            if mount.kind() != MountKind::Volume {
                continue;
            }
            let target = mount.target.display().to_string();
            let rw = if mount.read_only { "false" } else { "true" };
            let all = [
                ("driver", "local"),
                ("destination", target.as_str()),
                ("read/write", rw),
                ("propagation", ""),
            ];
            let all = if volume == "mount" { &all[..] } else { &all[..1] };
            say("volume", volume, source, source, all);
        }
    }

    /// Says in Docker's words what the reconciler is about to be told.
    pub(super) fn announce(&self, event: &Event) {
        match event {
            Event::Launched { name, .. } => {
                self.tell_places(name, ["connect", "mount"]);
                self.tell(name, "start", []);
            }
            Event::LaunchFailed { name, code, error, .. } => {
                self.tell(name, "die", [("exitCode", code.to_string()), ("error", error.clone())])
            }
            Event::Exited { name, how, .. } => {
                if how.oom {
                    self.tell(name, "oom", []);
                }
                self.tell(name, "die", [("exitCode", how.status.code().to_string())]);
                self.tell_places(name, ["disconnect", "unmount"]);
                if self.observed.record(name).is_some_and(|record| record.held.is_some()) {
                    self.tell(name, "stop", []);
                }
            }
            Event::HealthChanged { name, health, .. } => {
                let word = match health {
                    HealthStatus::Starting => "health_status: starting",
                    HealthStatus::Healthy => "health_status: healthy",
                    HealthStatus::Unhealthy => "health_status: unhealthy",
                };
                self.tell(name, word, []);
            }
            Event::LiveApplied { name, result: Ok(()), .. } => self.tell(name, "update", []),
            Event::Discarded { name, result: Ok(()) } => self.tell(name, "destroy", []),
            _ => {}
        }
    }
}

/// Pid, parent, user id and command of a process (proc_pid_status(5)).
fn process(pid: i32) -> Option<[String; 4]> {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).ok();
    let status = String::from_utf8(read("status")?).ok()?;
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let cmdline = String::from_utf8_lossy(&read("cmdline")?).replace('\0', " ");
    let command = match cmdline.trim() {
        "" => field("Name:")?,
        command => command.to_owned(),
    };
    Some([pid.to_string(), field("PPid:")?, field("Uid:")?, command])
}
