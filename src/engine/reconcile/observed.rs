//! What is known of the world: the records, and what can be rebuilt from them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::action::Action;
use super::adoption::reboot;
use super::backoff::spread;
use super::clock::Now;
use super::deadlines::Deadlines;
use super::desired::Shutdown;
use super::event::{Event, Refused};
use super::graph::{self, Graph};
pub use super::judge::Block;
use super::judge::{Node, Outlook};
use super::names::Names;
use super::phase::{Half, How, Phase, StopWhy};
use super::record::Record;
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;

/// After this time what should be dead gets SIGKILL once more.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(10);

/// Everything that was observed. Only the records are persisted.
#[derive(Debug)]
pub struct Observed {
    seed: u64,
    pub(super) records: BTreeMap<Name, Record>,
    /// What those of these ids are kept under.
    ids: BTreeMap<String, Name>,
    /// At start-up: recorded as living, and not yet told of.
    pub(super) unconfirmed: BTreeSet<Name>,
    pub(super) adopting: bool,
    /// Incarnations that should not be: killed, and nothing launched beside them.
    pub(super) strays: BTreeMap<Name, BTreeSet<u64>>,
    pub(super) nodes: BTreeMap<Name, Node>,
    pub(super) names: Names,
    pub(super) graph: Graph,
    pub(super) dirty: BTreeSet<Name>,
    pub(super) all_dirty: bool,
    pub(super) unsaved: BTreeSet<Name>,
    pub(super) forgotten: BTreeSet<Name>,
    pub(super) queue: Vec<Action>,
    /// What their phases say.
    pub(super) timers: Deadlines,
    /// By when those with a watchdog must say that they are well. Not persisted: a new
    /// engine gives each its whole time once more.
    pub(super) watches: Deadlines,
    pub(super) alive: BTreeSet<Name>,
    /// Live changes under way or refused: tried once for each version of a manifest.
    pub(super) live: BTreeMap<Name, Live>,
    /// `rm -f`: no stop signal.
    pub(super) forced: BTreeSet<Name>,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) finished: bool,
}

/// A live change that was ordered.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) to: Arc<Container>,
    pub(super) incarnation: u64,
}

impl Observed {
    /// Begins with the records that were read from the disk. What lives is told next
    /// ([`Event::Adopted`], [`Event::Exited`], …), then [`Event::AdoptionDone`].
    /// `seed` makes ids; it is random.
    pub fn restore(records: impl IntoIterator<Item = Record>, seed: u64, now: &Now) -> Observed {
        let mut observed = Observed {
            seed,
            records: BTreeMap::new(),
            ids: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            adopting: true,
            strays: BTreeMap::new(),
            nodes: BTreeMap::new(),
            names: Names::default(),
            graph: Graph::default(),
            dirty: BTreeSet::new(),
            all_dirty: true,
            unsaved: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            queue: Vec::new(),
            timers: Deadlines::default(),
            watches: Deadlines::default(),
            alive: BTreeSet::new(),
            live: BTreeMap::new(),
            forced: BTreeSet::new(),
            shutdown: None,
            finished: false,
        };
        let records: Vec<Record> = records.into_iter().collect();
        for record in &records {
            observed.note_name(record);
        }
        for mut record in records {
            let name = record.name.clone();
            let rebooted = record.boot_id != now.boot_id;
            if rebooted {
                reboot(&mut record, now);
            }
            observed.insert(record);
            if rebooted {
                observed.unsaved.insert(name);
            }
        }
        observed.redraw();
        observed.unconfirmed = observed.alive.clone();
        observed
    }

    /// The record of a container.
    pub fn record(&self, name: &Name) -> Option<&Record> {
        self.records.get(name)
    }

    /// The records of those whose id begins so.
    pub fn of_id<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Record> {
        let from = self.ids.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let all = from.take_while(move |(id, _)| id.starts_with(prefix));
        all.filter_map(|(_, name)| self.records.get(name))
    }

    /// All records, by what they are kept under.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Why a container that should run has not been launched yet.
    pub fn block(&self, name: &Name) -> Option<&Block> {
        self.nodes.get(name)?.block.as_ref()
    }

    /// What those that wait for a container may expect: `ready`, `pending`, `failed`, or
    /// `stopped` where nobody wants it to run.
    pub fn outlook(&self, name: &Name) -> &'static str {
        let Some(node) = self.nodes.get(name) else { return "pending" };
        let again = self.record(name).is_some_and(|record| {
            matches!(record.phase, Phase::Backoff { .. }) && !record.is_crash_loop()
        });
        match (&node.down, node.outlook) {
            (_, Outlook::Ready) => "ready",
            (_, Outlook::Pending) => "pending",
            (Some(StopWhy::ByHand | StopWhy::Removed | StopWhy::Shutdown), _) => "stopped",
            _ if again => "pending",
            _ => "failed",
        }
    }

    /// Whether a container is to run, in the incarnation that it has.
    pub fn wants(&self, name: &Name) -> bool {
        self.shutdown.is_none() && self.nodes.get(name).is_some_and(|node| node.down.is_none())
    }

    /// Whether it is still being told what lives; nothing is decided until then.
    pub fn is_adopting(&self) -> bool {
        self.adopting
    }

    /// Takes note of what happened. Only a [`Event::Verb`] can be refused.
    pub fn apply(&mut self, event: Event, now: &Now) -> Result<(), Refused> {
        match event {
            Event::ManifestsChanged(names) => self.dirty.extend(names),
            Event::Adopted(adopted) => self.adopt(adopted, now),
            Event::AdoptionDone => self.adoption_done(now),
            Event::ImageChosen { name, incarnation, image } => {
                // Before its first launch, too: files may lie upon that image already.
                let current = self.record(&name).filter(|record| {
                    record.incarnation == incarnation
                        && (record.phase.is_alive() || record.image.is_none())
                });
                if current.is_some_and(|record| record.image.as_ref() != Some(&*image)) {
                    self.edit(&name, |record| record.image = Some(*image));
                }
            }
            Event::ImagesMounted { name, incarnation, images } => {
                let current = self.record(&name).filter(|record| record.incarnation == incarnation);
                if current.is_some_and(|record| record.mounted != images) {
                    self.edit(&name, |record| record.mounted = images);
                }
            }
            Event::Launched { name, incarnation, pid } => {
                self.launched(&name, incarnation, pid, now);
            }
            Event::LaunchFailed { name, incarnation, code, error } => {
                self.launch_failed(&name, incarnation, code, error, now);
            }
            Event::Exited { name, incarnation, how } => {
                self.overtake(&name, incarnation, now);
                if let Some(run) = self.ending(&name, incarnation, now) {
                    self.unconfirmed.remove(&name);
                    self.half(&name, run, Half::Exit(how), now);
                }
            }
            Event::CgroupEmptied { name, incarnation } => {
                self.stray_gone(&name, incarnation);
                if let Some(run) = self.ending(&name, incarnation, now) {
                    self.half(&name, run, Half::Emptied, now);
                }
            }
            Event::Gone { name, incarnation } => {
                self.stray_gone(&name, incarnation);
                if let Some((run, why)) = self.ending(&name, incarnation, now) {
                    self.unconfirmed.remove(&name);
                    let known = self.records.get(&name).and_then(|record| match record.phase {
                        Phase::Ending { half: Half::Exit(how), .. } => Some(how),
                        _ => None,
                    });
                    self.ended(&name, run, why, known.unwrap_or(How::UNKNOWN), now);
                }
            }
            Event::HealthChanged { name, incarnation, health } => {
                self.health(&name, incarnation, health, now);
            }
            Event::Ready { name, incarnation } => self.is_ready(name, incarnation, now),
            Event::Alive { name, incarnation } => {
                if self.is_current(&name, incarnation).is_some() {
                    self.feed(&name, now);
                }
            }
            Event::Skipped { name, incarnation, unmet } => {
                self.skipped(&name, incarnation, unmet);
            }
            Event::StoodStill { name, incarnation } => {
                if self.is_current(&name, incarnation).is_some() {
                    self.time_anew(&name, now);
                }
            }
            Event::Slept { by } => self.slept(by),
            Event::ClockSet => self.clock_set(now),
            Event::LiveApplied { name, to, result } => self.live_applied(&name, &to, result),
            Event::Discarded { name, result } => self.discarded(&name, result, now),
            Event::Demanded { name } => {
                if self.record(&name).is_some_and(|record| !record.demanded) {
                    self.edit(&name, |record| super::verb::demand(record, now));
                }
            }
            Event::Idle { name, incarnation } => {
                if self.is_current(&name, incarnation).is_some() {
                    self.edit(&name, |record| record.demanded = false);
                }
            }
            Event::SignalReceived(signal) => self.forward(signal),
            Event::Verb { name, verb } => return self.verb(&name, verb, now),
        }
        Ok(())
    }

    /// A new record, held or not.
    pub(super) fn create(&mut self, name: &Name, id: Option<String>, now: &Now) {
        let id = id.unwrap_or_else(|| self.new_id(name, now));
        let mut record = Record::new(name.clone(), id, now.wall, now.boot_id.clone());
        record.called = Some(self.called(name)).filter(|called| called != name);
        self.forgotten.remove(name);
        self.unsaved.insert(name.clone());
        self.insert(record);
    }

    fn new_id(&self, name: &Name, now: &Now) -> String {
        let first = spread(name.as_str(), self.seed ^ now.wall as u64 ^ now.mono.as_nanos() as u64);
        (0..4).map(|i| format!("{:016x}", spread(name.as_str(), first.wrapping_add(i)))).collect()
    }

    pub(super) fn insert(&mut self, record: Record) {
        let name = record.name.clone();
        self.timers.set(&name, record.phase.deadline());
        if record.phase.is_alive() {
            self.alive.insert(name.clone());
        }
        self.dirty.insert(name.clone());
        self.ids.insert(record.id.clone(), name.clone());
        self.records.insert(name, record);
    }

    /// The only way a record changes: timers, the set of the living and what has to
    /// be saved follow.
    pub(super) fn edit<R>(
        &mut self,
        name: &Name,
        change: impl FnOnce(&mut Record) -> R,
    ) -> Option<R> {
        let record = self.records.get_mut(name)?;
        let result = change(record);
        self.timers.set(name, record.phase.deadline());
        if record.phase.is_alive() {
            self.alive.insert(name.clone());
        } else {
            self.alive.remove(name);
        }
        if !matches!(record.phase, Phase::Running(_)) {
            self.watches.set(name, None);
        }
        self.unsaved.insert(name.clone());
        self.dirty.insert(name.clone());
        Some(result)
    }

    /// Its edges are drawn anew: all at either end, before and after, are concerned.
    pub(super) fn draw(&mut self, name: &Name, manifest: Option<&Container>) {
        self.dirty.extend(self.graph.neighbours(name));
        let edges = manifest.map(|manifest| graph::edges(name, manifest, |to| self.meant(to)));
        self.graph.set(name, edges.unwrap_or_default());
        self.dirty.extend(self.graph.neighbours(name));
    }

    /// The same manifest, read again: one copy of it is enough.
    pub(super) fn share(&mut self, name: &Name, manifest: &Arc<Container>) {
        let Some(record) = self.records.get_mut(name) else {
            return;
        };
        for copy in [&mut record.last_good, &mut record.applied].into_iter().flatten() {
            if copy == manifest {
                *copy = manifest.clone();
            }
        }
    }

    pub(super) fn set_phase(&mut self, name: &Name, phase: Phase) {
        self.edit(name, |record| record.phase = phase);
    }

    pub(super) fn is_current(&self, name: &Name, incarnation: u64) -> Option<&Record> {
        self.records
            .get(name)
            .filter(|record| record.incarnation == incarnation && record.phase.is_alive())
    }

    /// The incarnation should not be: kill it, and launch nothing until it is gone.
    pub(super) fn stray(&mut self, name: &Name, incarnation: u64) {
        self.strays.entry(name.clone()).or_default().insert(incarnation);
        self.dirty.insert(name.clone());
        self.queue.push(Action::KillAll { name: name.clone(), incarnation });
    }

    pub(super) fn stray_gone(&mut self, name: &Name, incarnation: u64) {
        if let Some(strays) = self.strays.get_mut(name) {
            strays.remove(&incarnation);
            if strays.is_empty() {
                self.strays.remove(name);
            }
            self.dirty.insert(name.clone());
        }
    }

    pub(super) fn forget(&mut self, name: &Name) {
        if let Some(record) = self.records.remove(name) {
            self.ids.remove(&record.id);
        }
        self.timers.set(name, None);
        self.watches.set(name, None);
        self.draw(name, None);
        self.nodes.remove(name);
        self.live.remove(name);
        self.forced.remove(name);
        self.unsaved.remove(name);
        self.forgotten.insert(name.clone());
        self.dirty.insert(name.clone());
    }
}
