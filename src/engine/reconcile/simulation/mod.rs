//! Random histories of a machine, each from a seed, with a virtual clock: manifests
//! edited, broken, deleted and restored; people at work; payloads that die, ignore
//! signals or leave processes behind; launches that fail; the engine dying at any
//! instant; reboots; the wall clock jumping. After every decision the promises of
//! [`invariants`] are checked, and at the end that the machine is as the manifests
//! say. A failure prints its seed; `BERTH_SEED=…` runs that one alone and tells its
//! story; `BERTH_HISTORIES=…` runs more of them.

mod invariants;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use self::invariants::{Promises, Records, after_decision, converged};
use self::world::{Random, World};
use super::*;
use crate::manifest::model::{Container, Health, Restart, Sharing, Stop};
use crate::manifest::scalar::{Name, Signal};
use crate::manifest::service::Kind;
use crate::manifest::variants::{NetworkMode, RestartPolicy};

/// How many histories one run of the tests looks at.
const HISTORIES: u64 = 400;

struct History {
    world: World,
    desired: Desired,
    observed: Observed,
    promises: Promises,
    names: Vec<Name>,
    /// Exits that the engine was told of since it last saved.
    told: Vec<(Name, u64)>,
    wake_at: Option<Duration>,
    version: u32,
    /// None when nobody listens: telling takes longer than the history.
    story: Option<Vec<String>>,
}

/// Prints what happened when a check fails.
impl Drop for History {
    fn drop(&mut self) {
        if let (true, Some(story)) = (std::thread::panicking(), &self.story) {
            let from = story.len().saturating_sub(60);
            eprintln!("{}", story[from..].join("\n"));
        }
    }
}

impl History {
    fn new(seed: u64, told: bool) -> History {
        let mut world = World::new(seed);
        let cyclic = world.random.one_in(10);
        let observed = Observed::restore([], world.random.next(), &world.now());
        let mut history = History {
            world,
            desired: Desired::default(),
            observed,
            promises: Promises { cyclic, ..Promises::default() },
            names: ["a", "b", "c", "d", "e"].map(|name| name.parse().unwrap()).to_vec(),
            told: Vec::new(),
            wake_at: None,
            version: 0,
            story: told.then(Vec::new),
        };
        history.apply(Event::AdoptionDone);
        history
    }

    fn note(&mut self, what: impl std::fmt::Debug) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>10.3}  {what:?}", self.world.mono.as_secs_f64()));
        }
    }

    fn records(&self) -> Records {
        self.observed.records().map(|record| (record.name.clone(), record.clone())).collect()
    }

    fn apply(&mut self, event: Event) -> bool {
        self.note(&event);
        if let Event::Exited { name, incarnation, .. } = &event {
            self.told.push((name.clone(), *incarnation));
        }
        let now = self.world.now();
        self.observed.apply(event, &now).is_ok()
    }

    /// One decision, carried out; in wild times the engine may die anywhere in it.
    /// Returns whether there was anything to do.
    fn turn(&mut self) -> bool {
        let now = self.world.now();
        let before = self.records();
        let decision = decide(&self.desired, &mut self.observed, &now);
        for action in &decision.actions {
            self.note(("do", action));
        }
        after_decision(&before, &decision, &self.desired, &self.observed, &mut self.promises, &now);
        let again = decide(&self.desired, &mut self.observed, &now);
        assert!(
            again.actions.is_empty() && again.save.is_empty() && again.wake_at == decision.wake_at,
            "deciding again without an event changes something: {again:?}"
        );
        self.wake_at = decision.wake_at;
        let steps = decision.save.len() + decision.forget.len() + decision.actions.len() + 1;
        let dies_at = match self.world.wild && self.world.random.one_in(40) {
            true => self.world.random.below(steps as u64 + 1) as usize,
            false => usize::MAX,
        };
        let mut step = 0;
        let mut lives = || {
            step += 1;
            step <= dies_at
        };
        for name in &decision.save {
            if lives() {
                self.world.disk.insert(name.clone(), self.observed.record(name).unwrap().clone());
            }
        }
        for name in &decision.forget {
            if lives() {
                self.world.disk.remove(name);
            }
        }
        if lives() {
            for key in self.told.drain(..) {
                if let Some(process) = self.world.processes.get_mut(&key) {
                    process.acknowledged = true;
                }
            }
            self.world.processes.retain(|_, process| process.lives() || !process.acknowledged);
        }
        for action in &decision.actions {
            if lives() {
                self.world.perform(action);
            }
        }
        if dies_at != usize::MAX {
            self.engine_dies();
            return true;
        }
        !decision.actions.is_empty() || !decision.save.is_empty()
    }

    fn engine_dies(&mut self) {
        self.note("the engine dies");
        self.world.engine_died();
        if self.world.random.one_in(20)
            && let Some(name) = self.desired.containers.keys().next().cloned()
        {
            self.note(("the record is torn", &name));
            // What lives is then taken for what is declared.
            if let Some(record) = self.world.disk.remove(&name)
                && let Some(declared) = self.desired.containers.get(&name)
            {
                self.promises.launched_as.insert(record.id, declared.clone());
            }
        }
        self.engine_starts();
    }

    fn engine_starts(&mut self) {
        // As they are on the disk: through JSON.
        let records: Vec<Record> = self
            .world
            .disk
            .values()
            .map(|record| {
                let json = serde_json::to_string(record).unwrap();
                let back: Record = serde_json::from_str(&json).unwrap();
                assert_eq!(&back, record);
                back
            })
            .collect();
        // What was asked of the dead engine may be lost, and what was lost is no promise.
        let holds = |name: &Name| records.iter().any(|r| r.name == *name && r.held.is_some());
        self.promises.held.retain(holds);
        self.told.clear();
        let now = self.world.now();
        self.observed = Observed::restore(records, self.world.random.next(), &now);
        for event in self.world.hand_back() {
            self.apply(event);
        }
        self.quiet();
    }

    /// Everything that is due at this instant.
    fn quiet(&mut self) {
        for _ in 0..500 {
            let told = self.world.happen();
            let events = !told.is_empty();
            for event in told {
                self.apply(event);
                if self.world.random.one_in(3) {
                    self.turn();
                }
            }
            if !self.turn() && !events {
                return;
            }
        }
        panic!("it never comes to rest at one instant");
    }

    /// Time passes, up to `most`, from one thing that happens to the next.
    fn pass(&mut self, most: Duration) {
        let end = self.world.mono + most;
        loop {
            let due = self.world.due.iter().map(|(at, _)| *at).min();
            let next = due.into_iter().chain(self.wake_at).min().map_or(end, |at| at.min(end));
            let boot = self.world.boot;
            self.world.pass(next.saturating_sub(self.world.mono));
            self.quiet();
            if self.world.boot != boot || self.world.mono >= end {
                return;
            }
        }
    }

    fn container(&mut self, name: &Name) -> Container {
        let index = self.names.iter().position(|n| n == name).unwrap();
        let names = self.names.clone();
        let random = &mut self.world.random;
        let cyclic = self.promises.cyclic;
        let some = |chance: u64, random: &mut Random| -> Vec<Name> {
            let from = if cyclic { &names[..] } else { &names[..index] };
            from.iter().filter(|_| random.one_in(chance)).cloned().collect()
        };
        let mut container =
            Container { requires: some(5, random), after: some(4, random), ..Container::default() };
        if random.one_in(8)
            && let Some(owner) = some(2, random).pop()
        {
            container.network.mode = Some(NetworkMode::Container(owner));
        }
        if random.one_in(8)
            && let Some(owner) = some(2, random).pop()
        {
            container.namespaces.pid = Sharing::Container(owner);
        }
        if random.one_in(8) {
            container.conflicts = vec![random.pick(&self.names).clone()];
        }
        container.restart = Restart {
            policy: *random.pick(&[
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::UnlessStopped,
                RestartPolicy::No,
                RestartPolicy::OnFailure { max: None },
                RestartPolicy::OnFailure { max: Some(2) },
            ]),
            backoff: Duration::from_millis(*random.pick(&[0, 1, 100, 3000])),
            max_backoff: Duration::from_millis(*random.pick(&[50, 1000, 30_000])),
            reset_after: Duration::from_secs(20),
        };
        let timeout = Duration::from_millis(*random.pick(&[0, 500, 3000, 10_000]));
        container.stop = Stop { signal: None, timeout };
        if random.one_in(4) {
            container.health = Some(Health::default());
        }
        match random.below(9) {
            0 => container.kind = Kind::Oneshot,
            1 | 2 => {
                container.kind = Kind::Notify;
                container.ready.timeout = *random.pick(&[
                    None,
                    Some(Duration::from_secs(1)),
                    Some(Duration::from_secs(9)),
                ]);
            }
            3 => container.every = Some(Duration::from_secs(*random.pick(&[1, 7, 400]))),
            4 => container.schedule = random.pick(&["*:0/1", "*:*:0/7", "daily"]).parse().ok(),
            5 if !(container.requires.is_empty() && container.after.is_empty()) => {
                container.kind = Kind::Target;
                container.network.mode = None;
                container.conflicts = Vec::new();
            }
            _ => {}
        }
        container.catch_up = container.is_timed() && random.one_in(2);
        if random.one_in(8) && container.kind != Kind::Target {
            container.watchdog = Some(Duration::from_secs(*random.pick(&[1, 600])));
        }
        if random.one_in(8) {
            container.if_exists = vec!["/etc/something".to_owned()];
        }
        container
    }

    /// A new version of a manifest: of what changes in place, of all else, or both.
    fn edit(&mut self, name: &Name) {
        self.version += 1;
        let version = self.version.to_string();
        let old = self.desired.containers.get(name).cloned();
        let mut container = match old {
            Some(old) if !self.world.random.one_in(4) => (*old).clone(),
            _ => self.container(name),
        };
        match self.world.random.below(3) {
            0 => container.command = vec![version],
            1 => drop(container.labels.insert("version".into(), version)),
            _ => container.resources.pids = Some(u64::from(self.version)),
        }
        self.desired.broken.remove(name);
        self.desired.containers.insert(name.clone(), Arc::new(container));
        self.promises.held.remove(name);
        self.changed(name);
    }

    fn changed(&mut self, name: &Name) {
        self.apply(Event::ManifestsChanged([name.clone()].into()));
    }

    /// A bad manifest changes nothing.
    fn break_manifest(&mut self, name: &Name) {
        self.quiet();
        let before = self.records();
        self.desired.containers.remove(name);
        self.desired.broken.insert(name.clone(), "line 1: a '=' is missing".into());
        self.changed(name);
        let now = self.world.now();
        let decision = decide(&self.desired, &mut self.observed, &now);
        assert_eq!((&decision.actions, &decision.save), (&vec![], &vec![]), "{name} is broken");
        assert_eq!(before, self.records());
    }

    fn verb(&mut self, name: &Name) {
        let random = &mut self.world.random;
        let timeout = *random.pick(&[None, Some(Duration::ZERO), Some(Duration::from_secs(2))]);
        let verb = match random.below(8) {
            0 | 1 => Verb::Start,
            2 | 3 => Verb::Stop { signal: None, timeout },
            4 => Verb::Restart { signal: None, timeout },
            5 => Verb::Kill(*random.pick(&[Signal::KILL, Signal::TERM, Signal::HUP])),
            6 => *Box::new(random.pick(&[Verb::Pause, Verb::Unpause]).clone()),
            _ => Verb::Remove { force: random.one_in(2) },
        };
        if !self.apply(Event::Verb { name: name.clone(), verb: verb.clone() }) {
            return;
        }
        match verb {
            Verb::Start => drop(self.promises.held.remove(name)),
            Verb::Restart { .. } => {
                self.promises.held.remove(name);
                self.promises.restart.insert(name.clone());
            }
            Verb::Stop { .. } | Verb::Kill(Signal::KILL) => {
                self.promises.held.insert(name.clone());
            }
            _ => {}
        }
    }

    fn living(&mut self) -> Option<(Name, u64)> {
        let living: Vec<_> = self
            .world
            .processes
            .iter()
            .filter(|(_, process)| process.exit.is_none() && !process.frozen)
            .map(|(key, _)| key.clone())
            .collect();
        (!living.is_empty()).then(|| self.world.random.pick(&living).clone())
    }

    fn something(&mut self) {
        let names = self.names.clone();
        let name = self.world.random.pick(&names).clone();
        match self.world.random.below(24) {
            0..=3 => self.edit(&name),
            4 => self.break_manifest(&name),
            5 => {
                self.note(("the manifest is deleted", &name));
                self.desired.containers.remove(&name);
                self.desired.broken.remove(&name);
                self.promises.held.remove(&name);
                self.changed(&name);
            }
            6..=9 => self.verb(&name),
            10..=14 => {
                if let Some((name, incarnation)) = self.living() {
                    let status = *self.world.random.pick(&[
                        ExitStatus::Code(0),
                        ExitStatus::Code(1),
                        ExitStatus::Signal(Signal(11)),
                    ]);
                    self.world.die(&name, incarnation, status);
                }
            }
            15 => {
                if let Some((name, incarnation)) = self.living() {
                    let statuses = [HealthStatus::Healthy, HealthStatus::Unhealthy];
                    let health = *self.world.random.pick(&statuses);
                    self.apply(Event::HealthChanged { name, incarnation, health });
                }
            }
            16 => self.engine_dies(),
            17 if self.world.random.one_in(4) => {
                self.note("the machine is booted anew");
                self.world.reboot();
                let keeps = |name: &Name| {
                    let record = self.world.disk.get(name);
                    record.is_some_and(|record| {
                        let policy = record.last_good.as_ref().map(|m| m.restart.policy);
                        policy == Some(RestartPolicy::UnlessStopped)
                    })
                };
                self.promises.held.retain(keeps);
                self.engine_starts();
            }
            18 => {
                let jump = self.world.random.next() as i64 >> 12;
                self.world.wall = self.world.wall.wrapping_add(jump);
                self.apply(Event::ClockSet);
            }
            19 => {
                if let Some((name, incarnation)) = self.living() {
                    self.apply(Event::Ready { name, incarnation });
                }
            }
            20 => {
                if let Some((name, incarnation)) = self.living() {
                    self.apply(Event::Alive { name, incarnation });
                }
            }
            21 => {
                if let Some((name, incarnation)) = self.living() {
                    self.apply(Event::StoodStill { name, incarnation });
                }
            }
            22 => {
                self.note("the machine sleeps");
                let by = Duration::from_secs(self.world.random.below(100_000));
                self.world.pass(by);
                self.apply(Event::Slept { by });
            }
            _ => {}
        }
        self.quiet();
        let most = *self.world.random.pick(&[0, 10, 500, 5000, 60_000]);
        let most = self.world.random.below(most + 1);
        self.pass(Duration::from_millis(most));
    }

    /// All goes well from now on.
    fn calm(&mut self) {
        self.note("calm");
        self.world.wild = false;
        // Who has a watchdog of a second is killed again and again now: nobody is there
        // to speak for it.
        for _ in 0..40 {
            self.pass(Duration::from_secs(60));
            let running: Vec<_> = self
                .observed
                .records()
                .filter(|record| matches!(record.phase, Phase::Running(_)))
                .map(|record| (record.name.clone(), record.incarnation))
                .collect();
            for (name, incarnation) in running {
                let oneshot = |record: &Record| {
                    record.applied.as_ref().is_some_and(|m| m.kind == Kind::Oneshot)
                };
                if self.observed.record(&name).is_some_and(oneshot) {
                    self.world.die(&name, incarnation, ExitStatus::Code(0));
                    continue;
                }
                self.apply(Event::Ready { name: name.clone(), incarnation });
                self.apply(Event::Alive { name, incarnation });
            }
            let unwell: Vec<_> = self
                .observed
                .records()
                .filter(|record| matches!(&record.phase, Phase::Running(run) if !matches!(run.health, None | Some(HealthStatus::Healthy))))
                .map(|record| (record.name.clone(), record.incarnation))
                .collect();
            for (name, incarnation) in unwell {
                let health = HealthStatus::Healthy;
                self.apply(Event::HealthChanged { name, incarnation, health });
            }
            self.quiet();
        }
        converged(&self.desired, &self.observed, &self.promises);
        let waits = self.observed.records().any(|record| {
            let manifest = record.manifest();
            manifest.is_some_and(|m| m.is_timed() || m.watchdog.is_some())
                || matches!(&record.phase, Phase::Running(run) if run.ready_by.is_some())
        });
        assert!(waits || self.wake_at.is_none(), "it is woken for nothing");
        let known: BTreeMap<_, _> = self.records();
        assert_eq!(known, self.world.disk, "the disk does not say what is known");
    }

    fn shut_down(&mut self) {
        self.note("shutdown");
        self.desired.shutdown = Some(Shutdown { hurry: false });
        self.quiet();
        if self.world.random.one_in(3) {
            self.desired.shutdown = Some(Shutdown { hurry: true });
            self.quiet();
        }
        self.pass(Duration::from_secs(120));
        assert!(self.world.finished, "the shutdown does not come to an end");
        assert!(self.world.processes.values().all(|process| !process.lives()));
    }
}

fn history(seed: u64, told: bool) {
    let mut history = History::new(seed, told);
    let first = history.names.clone();
    for name in &first {
        if !history.world.random.one_in(4) {
            history.edit(name);
        }
    }
    history.quiet();
    for _ in 0..40 {
        history.something();
    }
    if history.world.random.one_in(4) {
        // In the midst of everything.
        history.world.wild = false;
    } else {
        history.calm();
    }
    history.shut_down();
}

#[test]
fn every_history_keeps_its_promises() {
    let number =
        |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("BERTH_SEED") {
        history(seed, true);
        return;
    }
    let histories = number("BERTH_HISTORIES").unwrap_or(HISTORIES);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || {
                for seed in (thread..histories).step_by(2) {
                    let result = std::panic::catch_unwind(|| history(seed, false));
                    assert!(result.is_ok(), "run it alone with BERTH_SEED={seed}");
                }
            });
        }
    });
}
