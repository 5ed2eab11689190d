//! What the reconciler asks for, done.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::changes::Telling;
use super::failure::{refusal, sentence};
use super::flight::{Flight, Outcome};
use super::live::Process;
use super::prepare::{self, Ends, Job, Kept, Order, Other, Ready, Shared, status_path};
use super::reconcile::{Action, Event, ExitStatus, How};
use super::run::{Effect, Engine, InFlight, Purpose, REST, monotonic};
use crate::cgroup::Cgroup;
use crate::keeper::protocol::{Kind, Message, Tag};
use crate::manifest::model::{Container, NetworkMode, Sharing};
use crate::manifest::scalar::{Name, Signal};
use crate::sandbox::status::{self, End, Status};
use crate::spec::hostname_of;
use crate::sys::signals;

impl Engine {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Launch { name, incarnation, renew } => self.launch(name, incarnation, renew),
            Action::Signal { name, incarnation, signal } => {
                if let Some(process) = self.lives.get(&name).and_then(|l| l.running(incarnation))
                    && let Err(error) = signals::send(process.pidfd.as_fd(), signal.0)
                    && error.raw_os_error() != Some(libc::ESRCH)
                {
                    self.warn(&name, &format!("sending {signal}: {error}"));
                }
            }
            Action::KillAll { name, incarnation } => self.kill_all(name, incarnation),
            Action::Freeze { name, .. } => {
                // Nobody looks after the health of what stands still.
                self.unwatch_health(&name);
                self.with_cgroup(&name, "freezing", Cgroup::freeze);
            }
            Action::Thaw { name, incarnation } => {
                self.with_cgroup(&name, "thawing", Cgroup::thaw);
                self.watch_health(&name, incarnation);
            }
            Action::ApplyLive { name, .. } => self.apply_live(name),
            Action::ReloadExec { name, incarnation, command } => {
                let job = Job { command, ..Job::default() };
                self.command(name, incarnation, job, Purpose::Reload);
            }
            Action::Discard { name } => self.discard(name),
            Action::Finish => {
                if let Err(error) = self.store.catch_up() {
                    tracing::error!("{error}");
                }
                self.lives.clear();
                let told = Telling::new(&self.effects, Effect::TornDown);
                // Plugins and the kernel may take long; the keeper hears from us meanwhile.
                self.workshop.networks.later(move |networks| {
                    let _told = told;
                    networks.tear_down();
                });
            }
        }
    }

    /// The networks are gone, the last thing of ours that is there.
    pub(super) fn torn_down(&mut self) {
        for name in Cgroup::list(&self.workshop.parent).unwrap_or_default() {
            if let Ok(Some(cgroup)) = Cgroup::open_existing(&self.workshop.parent, &name)
                && let Err(error) = cgroup.remove()
            {
                tracing::warn!("{error}");
            }
        }
        self.workshop.parent.remove();
        let finish = Message { code: self.code, ..Message::new(Kind::Finish) };
        self.link.send(finish, Vec::new());
        self.finished = true;
    }

    pub(super) fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn launch(&mut self, name: Name, incarnation: u64, renew: bool) {
        let Some(record) = self.observed.record(&name) else {
            return;
        };
        let Some(manifest) = record.applied.clone() else {
            return;
        };
        if super::notify::has_conditions(&manifest) {
            self.look_at_conditions(name, incarnation, renew, manifest);
        } else {
            self.launch_at_last(name, incarnation, renew);
        }
    }

    /// Its conditions hold, if it has any.
    pub(super) fn launch_at_last(&mut self, name: Name, incarnation: u64, renew: bool) {
        let Some(record) = self.observed.record(&name) else {
            return;
        };
        let Some(manifest) = record.applied.clone() else {
            return;
        };
        let id = record.id.clone();
        let image = record
            .image
            .clone()
            .filter(|image| !renew && super::images::named(&manifest) == Some(image.name.clone()));
        let mounted = match renew {
            true => BTreeMap::new(),
            false => record.mounted.clone(),
        };
        let had_mounted = !record.mounted.is_empty();
        let network = match manifest.network_mode() {
            NetworkMode::Container(other) => self.network_of(&self.observed.meant(&other)),
            _ => None,
        };
        if let Err(unheld) = self.hold_sockets(&name, &manifest) {
            let effects = self.effects.clone();
            tokio::task::spawn_blocking(move || {
                let error = unheld.explain();
                let failed = Event::LaunchFailed { name, incarnation, code: 125, error };
                let _ = effects.send(Effect::Event(failed));
            });
            return;
        }
        let sockets = self.sockets_of(&name);
        let others = self.others_of(&manifest);
        let live = self.lives.entry(name.clone()).or_default();
        live.process = None;
        live.changes.launched();
        if let Some(first) = live.reserved.take() {
            self.workshop.pool.give_back(first);
        }
        let order = Box::new(Order {
            name: name.to_string(),
            called: self.observed.called(&name).to_string(),
            id,
            incarnation,
            manifest,
            renew,
            network,
            others,
            sockets,
            image: None,
            mounted: BTreeMap::new(),
            kept: Kept::default(),
            size: live.size,
        });
        let has = super::fetch::Has { image, mounted };
        match super::images::named(&order.manifest).is_some() || order.manifest.mounts_images() {
            false => {
                if had_mounted {
                    // It has none any more.
                    let images = BTreeMap::new();
                    self.apply_later(Event::ImagesMounted { name, incarnation, images });
                }
                self.make_ready(order);
            }
            true => self.fetch(order, has),
        }
    }

    /// The containers that run of those some of whose namespaces it shares, by the names that
    /// its manifest has for them.
    fn others_of(&self, manifest: &Container) -> BTreeMap<Name, Other> {
        let other = |name: &Name| {
            let kept = self.observed.meant(name);
            let process = self.lives.get(&kept)?.process.as_ref()?;
            Some(Other {
                pidfd: process.pidfd.try_clone().ok()?,
                pid: process.pid,
                hostname: self.host_name_of(&kept)?,
            })
        };
        let owners = manifest.namespaces.owners();
        owners.filter_map(|name| Some((name.clone(), other(name)?))).collect()
    }

    /// The host name of a container, which may be that of another one.
    fn host_name_of(&self, name: &Name) -> Option<String> {
        let (mut name, mut seen) = (name.clone(), BTreeSet::new());
        while seen.insert(name.clone()) {
            let record = self.observed.record(&name)?;
            let manifest = record.applied.as_ref()?;
            match &manifest.namespaces.uts {
                Sharing::Container(owner) => name = self.observed.meant(owner),
                Sharing::Host => {
                    return Some(rustix::system::uname().nodename().to_string_lossy().into_owned());
                }
                Sharing::Private => {
                    let own = manifest.hostname.clone();
                    return Some(own.unwrap_or_else(|| hostname_of(record.called().as_str())));
                }
            }
        }
        None
    }

    /// The manifest of a container that runs, with the host name that it shares.
    pub(super) fn with_host_name(&self, manifest: &Arc<Container>) -> Arc<Container> {
        let owner = manifest.namespaces.uts.owner().map(|owner| self.observed.meant(owner));
        prepare::with_host_name(manifest, owner.and_then(|owner| self.host_name_of(&owner)))
    }

    fn network_of(&self, owner: &Name) -> Option<Shared> {
        let pid = self.lives.get(owner)?.process.as_ref()?.pid;
        let net = std::fs::File::open(format!("/proc/{pid}/ns/net")).ok()?.into();
        Some(Shared { net, of: owner.to_string() })
    }

    pub(super) fn prepared(
        &mut self,
        name: Name,
        incarnation: u64,
        kept: Kept,
        result: Result<Box<Ready>, String>,
    ) {
        if !self.is_awaited(&name, incarnation) {
            // It was given up. What it took is let go of beside the loop.
            tokio::task::spawn_blocking(move || drop((kept, result)));
            return;
        }
        self.prepared_at = monotonic();
        self.tell_volumes();
        if !std::mem::replace(&mut self.rest_is_near, true) {
            self.later(REST, Effect::Rest);
        }
        let live = self.lives.entry(name.clone()).or_default();
        live.oom_kills = kept.cgroup.as_deref().map_or(0, Cgroup::oom_kills);
        live.kept = kept;
        let mut ready = match result {
            Ok(ready) => ready,
            Err(error) => {
                self.apply(Event::LaunchFailed { name, incarnation, code: 125, error });
                return;
            }
        };
        let held = self.hold_volumes();
        if let Err(error) =
            held.and_then(|()| self.hold_ends(&name, std::mem::take(&mut ready.ends)))
        {
            self.apply(Event::LaunchFailed { name, incarnation, code: 125, error });
            return;
        }
        let signs = std::mem::take(&mut ready.signs);
        if let Err(error) = self.take_signs(&name, incarnation, signs) {
            self.apply(Event::LaunchFailed { name, incarnation, code: 125, error });
            return;
        }
        for warning in &ready.warnings {
            self.warn(&name, warning);
        }
        self.forget_other_output(&name);
        if let Err(error) = self.capture(&name) {
            self.apply(Event::LaunchFailed { name, incarnation, code: 125, error });
            return;
        }
        self.take_off(name, incarnation, *ready, None);
    }

    /// A container's terminal and standard input outlive us: the keeper holds them.
    fn hold_ends(&mut self, name: &Name, ends: Ends) -> Result<(), String> {
        let live = self.lives.entry(name.clone()).or_default();
        live.pump = None;
        let before = std::mem::take(&mut live.ends);
        for (kind, end, before) in
            [('t', &ends.terminal, before.terminal), ('i', &ends.stdin, before.stdin)]
        {
            if end.is_some() || before.is_some() {
                self.hold(&format!("{kind}/{name}"), end.as_ref())?;
            }
        }
        self.lives.entry(name.clone()).or_default().ends = ends;
        Ok(())
    }

    /// Has the keeper hold a descriptor under a tag, in place of an earlier one.
    pub(super) fn hold(&mut self, tag: &str, fd: Option<&OwnedFd>) -> Result<(), String> {
        let tag = Tag::new(tag).ok_or_else(|| format!("{tag} is too long for a tag"))?;
        let (kind, fds) = match fd {
            Some(fd) => {
                let copy = fd.try_clone().map_err(|error| format!("dup: {error}"))?;
                (Kind::Hold, vec![copy])
            }
            None => (Kind::Release, Vec::new()),
        };
        self.link.send(Message { tag, ..Message::new(kind) }, fds);
        Ok(())
    }

    /// Hands a launch to the keeper and waits for its error pipe.
    pub(super) fn take_off(
        &mut self,
        name: Name,
        incarnation: u64,
        ready: Ready,
        command: Option<Purpose>,
    ) {
        let is_command = command.is_some();
        let key = self.key();
        let tag = match &command {
            None => format!("c/{name}/{incarnation}"),
            Some(Purpose::Exec(id)) => format!("e/{id}"),
            Some(Purpose::Probe(_) | Purpose::Reload) => format!("x/{name}/{incarnation}"),
        };
        let tag = Tag::new(&tag).unwrap_or(Tag::EMPTY);
        let status = if is_command { None } else { Some(self.status_path(&name, incarnation)) };
        let Ready { fds, error_pipe, plan, .. } = ready;
        self.link.send(Message { key, tag, ..Message::new(Kind::Launch) }, fds);
        self.flights.insert(
            key,
            InFlight {
                name,
                incarnation,
                flight: Flight::default(),
                plan: Some(plan),
                command,
                process: None,
            },
        );
        let effects = self.effects.clone();
        tokio::task::spawn_local(async move {
            let text = read_to_end(error_pipe).await;
            // The pipe has the failure alone; the file has all, if it can be read.
            let status = match status.and_then(|path| std::fs::read_to_string(path).ok()) {
                Some(whole) => status::parse(&whole),
                None => status::parse(&text),
            };
            let _ = effects.send(Effect::PipeClosed { key, status });
        });
    }

    pub(super) fn status_path(&self, name: &Name, incarnation: u64) -> std::path::PathBuf {
        status_path(&self.workshop.paths.container_run_dir(name.as_str()), incarnation)
    }

    /// The keeper has cloned: from now on it can be signalled.
    pub(super) fn cloned(&mut self, key: u64, pid: i32, start: u64, pidfd: OwnedFd) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        let process = Process { incarnation: flight.incarnation, pidfd, pid, start };
        if flight.command.is_some() {
            flight.process = Some(process);
            self.end_abandoned();
        } else {
            self.lives.entry(flight.name.clone()).or_default().process = Some(process);
        }
    }

    /// There was no descriptor left for a process: what can't be signalled must not run
    /// on, and its restart policy tries again.
    pub(super) fn out_of_reach(&mut self, key: u64) {
        let Some(flight) = self.flights.get(&key) else { return };
        let (name, incarnation) = (flight.name.clone(), flight.incarnation);
        tracing::error!(
            "{}: no descriptor left to hold its process by; it is ended. Raise Berth's `nofile` \
             limit",
            self.observed.called(&name)
        );
        if flight.command.is_none() {
            self.kill_all(name, incarnation);
        }
    }

    /// Tells the reconciler what became of a launch.
    pub(super) fn outcomes(&mut self, key: u64, outcomes: Vec<Outcome>) {
        let Some(flight) = self.flights.get(&key) else {
            return;
        };
        let (name, incarnation) = (flight.name.clone(), flight.incarnation);
        let is_command = flight.command.is_some();
        for outcome in outcomes {
            match outcome {
                _ if is_command => self.command_outcome(&name, key, outcome),
                Outcome::Launched { pid } => {
                    if let Some(flight) = self.flights.get_mut(&key) {
                        flight.plan = None;
                    }
                    self.apply(Event::Launched { name: name.clone(), incarnation, pid });
                    self.watch_health(&name, incarnation);
                    self.names_answered(&name, incarnation, true);
                    self.watch_idle(&name, incarnation);
                    self.watch_port(&name, incarnation);
                }
                Outcome::Failed { status, errno } => {
                    let plan = self.flights.get(&key).and_then(|flight| flight.plan.as_ref());
                    let (code, error) = match (&status.failure, errno) {
                        (Some(failure), _) => (failure.exit_code(), sentence(failure, plan)),
                        (None, Some(errno)) => (125, refusal(errno)),
                        (None, None) => (125, "it ended before it was executed".to_owned()),
                    };
                    self.gone(&name, incarnation);
                    let _ = std::fs::remove_file(self.status_path(&name, incarnation));
                    self.apply(Event::LaunchFailed {
                        name: name.clone(),
                        incarnation,
                        code,
                        error,
                    });
                }
                Outcome::Ended(end) => self.ended(&name, incarnation, end),
            }
        }
        if self.flights.get(&key).is_some_and(|flight| flight.flight.is_over()) {
            self.flights.remove(&key);
        }
    }

    fn gone(&mut self, name: &Name, incarnation: u64) {
        if let Some(live) = self.lives.get_mut(name)
            && live.running(incarnation).is_some()
        {
            live.process = None;
        }
    }

    /// The payload ended. What it left in its cgroup is waited for.
    pub(super) fn ended(&mut self, name: &Name, incarnation: u64, end: Option<End>) {
        let path = self.status_path(name, incarnation);
        let written = read_status(&path).end;
        let at = written.and_then(|(_, at)| i64::try_from(at).ok());
        let _ = std::fs::remove_file(&path);
        // Container init knows best; it is PID 1 and can't end by a signal.
        let status = match written.map(|(end, _)| end).or(end) {
            Some(End::Exit(code)) => ExitStatus::Code(code),
            Some(End::Signal(signal)) => ExitStatus::Signal(Signal(signal)),
            None => ExitStatus::Unknown,
        };
        self.kill_group(name, incarnation);
        self.gone(name, incarnation);
        self.names_answered(name, incarnation, false);
        self.stop_listening(name);
        let live = self.lives.entry(name.clone()).or_default();
        let cgroup = live.cgroup();
        let oom = cgroup.as_deref().is_some_and(|cgroup| cgroup.oom_kills() > live.oom_kills);
        let how = How { status, oom, at };
        self.apply(Event::Exited { name: name.clone(), incarnation, how });
        self.await_empty(name.clone(), incarnation);
    }

    /// Tells the reconciler when nobody is left, and all that they wrote is in the
    /// log: who sees the container ended can read its last line.
    fn await_empty(&mut self, name: Name, incarnation: u64) {
        let id = self.observed.record(&name).map(|record| record.id.clone()).unwrap_or_default();
        let live = self.lives.entry(name.clone()).or_default();
        if live.kills > 0 {
            // The end of the last kill comes back here.
            return;
        }
        let emptied = Event::CgroupEmptied { name: name.clone(), incarnation };
        let cgroup = live.cgroup().filter(|cgroup| cgroup.is_populated());
        let written_to = live.output.as_ref().is_some_and(|output| output.waiting() > 0);
        // Not taken: that somebody waits for it already does not mean that it is over. What
        // sweeps up the last processes comes here once more.
        let pump = live.pump.clone().filter(|pump| !pump.is_over());
        let patience = match self.attached.any(&id) {
            true => super::live::SLOW_READER,
            false => super::live::STUCK,
        };
        let output = live.output.as_ref().filter(|_| written_to || pump.is_some());
        let output = output.and_then(|output| output.copy().ok());
        let ends = std::mem::take(&mut live.ends);
        let (has_terminal, has_stdin) = (ends.terminal.is_some(), ends.stdin.is_some());
        for (kind, held) in [('t', has_terminal), ('i', has_stdin)] {
            if held {
                let _ = self.hold(&format!("{kind}/{name}"), None);
            }
        }
        if cgroup.is_none() && output.is_none() && pump.is_none() {
            self.apply(emptied);
            return;
        }
        let effects = self.effects.clone();
        tokio::task::spawn_local(async move {
            if let Some(cgroup) = cgroup
                && let Err(error) = cgroup.wait_empty().await
            {
                let _ = effects.send(Effect::Problem { name, what: error.to_string() });
            }
            if let Some(pump) = pump {
                pump.finish(patience).await;
            }
            if let Some(output) = output {
                output.moved(patience).await;
            }
            let _ = effects.send(Effect::Event(emptied));
        });
    }

    fn kill_all(&mut self, name: Name, incarnation: u64) {
        self.kill_group(&name, incarnation);
        let live = self.lives.entry(name.clone()).or_default();
        let Some(cgroup) = live.cgroup() else {
            self.apply_later(Event::CgroupEmptied { name, incarnation });
            return;
        };
        live.kills += 1;
        let effects = self.effects.clone();
        tokio::task::spawn_blocking(move || {
            let error = cgroup.kill().err().map(|error| error.to_string());
            let _ = effects.send(Effect::Killed { name, incarnation, error });
        });
    }

    /// Where there are no cgroups: the process group that the payload is the leader of
    /// is all that can be told to be its own.
    fn kill_group(&self, name: &Name, incarnation: u64) {
        let running = self.lives.get(name).and_then(|live| live.running(incarnation));
        if let Some(process) = running.filter(|_| !self.workshop.parent.has_groups()) {
            process.end_group();
        }
    }

    pub(super) fn killed(&mut self, name: Name, incarnation: u64, error: Option<String>) {
        if let Some(error) = error {
            self.warn(&name, &format!("killing it: {error}"));
        }
        let live = self.lives.entry(name.clone()).or_default();
        live.kills = live.kills.saturating_sub(1);
        self.await_empty(name, incarnation);
    }

    pub(super) fn apply_later(&self, event: Event) {
        let _ = self.effects.send(Effect::Event(event));
    }

    fn with_cgroup<E: std::fmt::Display + 'static>(
        &self,
        name: &Name,
        doing: &'static str,
        act: fn(&Cgroup) -> Result<(), E>,
    ) {
        let Some(cgroup) = self.lives.get(name).and_then(super::live::Live::cgroup) else {
            return;
        };
        let (name, effects) = (name.clone(), self.effects.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = act(&cgroup) {
                let what = format!("{doing} it: {error}");
                let _ = effects.send(Effect::Problem { name, what });
            }
        });
    }
}

/// Reads a status file; one that is not there says nothing.
pub(super) fn read_status(path: &Path) -> Status {
    std::fs::read_to_string(path).map(|text| status::parse(&text)).unwrap_or_default()
}

/// What a child wrote into its error pipe, at its end.
async fn read_to_end(pipe: OwnedFd) -> String {
    let mut text = String::new();
    let _ = rustix::io::ioctl_fionbio(&pipe, true);
    let Ok(pipe) = crate::sys::readiness::watch(pipe, tokio::io::Interest::READABLE) else {
        return text;
    };
    loop {
        let Ok(mut guard) = pipe.readable().await else {
            return text;
        };
        let mut bytes = [0u8; 256];
        match rustix::io::read(pipe.get_ref(), &mut bytes[..]) {
            Ok(0) => return text,
            Ok(len) => {
                let _ = (&bytes[..len]).read_to_string(&mut text);
            }
            Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
            Err(_) => return text,
        }
    }
}
