//! What concerns services of a machine: being ready, watchdogs, conditions, times.

use std::time::Duration;

use super::clock::Now;
use super::desired::Desired;
use super::observed::Observed;
use super::record::{HealthStatus, Phase, Record, Rest, StopWhy, Timing};
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::manifest::service::Kind;

/// Later than anything: a schedule that never comes again.
const NEVER: Duration = Duration::MAX;

impl Observed {
    /// When a run that begins now is stopped if it is not ready.
    pub(super) fn ready_by(&self, name: &Name, now: &Now) -> Option<Duration> {
        let manifest = self.record(name)?.applied.as_ref()?;
        now.mono.checked_add(manifest.ready_within()?)
    }

    /// It says that it is ready; perhaps before its launch was told of.
    pub(super) fn is_ready(&mut self, name: Name, incarnation: u64, now: &Now) {
        let Some(record) = self.record(&name).filter(|r| r.incarnation == incarnation) else {
            return;
        };
        match &record.phase {
            Phase::Launching { .. } => drop(self.early.insert((name, incarnation))),
            Phase::Running(run) if run.ready.is_none() => {
                self.edit(&name, |record| {
                    if let Phase::Running(run) = &mut record.phase {
                        run.ready = Some(now.mono);
                    }
                    record.note_ready(now);
                });
            }
            _ => {}
        }
    }

    /// The watchdog of a container begins its time anew, if it has one and runs.
    pub(super) fn feed(&mut self, name: &Name, now: &Now) {
        let due = self.record(name).and_then(|record| {
            let period = record.manifest()?.watchdog?;
            matches!(record.phase, Phase::Running(_)).then(|| now.mono.saturating_add(period))
        });
        self.watch(name, due);
    }

    pub(super) fn watch(&mut self, name: &Name, due: Option<Duration>) {
        if let Some(before) = self.watched.remove(name) {
            self.watches.remove(&(before, name.clone()));
        }
        if let Some(due) = due {
            self.watched.insert(name.clone(), due);
            self.watches.insert((due, name.clone()));
        }
    }

    /// What a container that runs did not do in time.
    pub(super) fn failing(&self, record: &Record, now: &Now) -> Option<StopWhy> {
        let Phase::Running(run) = &record.phase else { return None };
        // Who is frozen can't say anything.
        if run.paused {
            return None;
        }
        if run.ready_by.is_some_and(|by| by <= now.mono) {
            return Some(StopWhy::NotReady);
        }
        let watched = self.watched.get(&record.name);
        watched.is_some_and(|by| *by <= now.mono).then_some(StopWhy::Watchdog)
    }

    pub(super) fn skipped(&mut self, name: &Name, incarnation: u64, unmet: String) {
        let Some(record) = self.record(name).filter(|r| r.incarnation == incarnation) else {
            return;
        };
        if matches!(record.phase, Phase::Launching { .. }) {
            self.unconfirmed.remove(name);
            self.set_phase(name, Phase::Exited(Rest::Skipped { unmet }));
        }
    }

    /// All that waits for a time of the calendar is reckoned again.
    pub(super) fn clock_set(&mut self) {
        let waiting: Vec<Name> = self
            .records()
            .filter(|record| matches!(record.phase, Phase::Scheduled { .. }))
            .filter(|record| record.manifest().is_some_and(|m| m.schedule.is_some()))
            .map(|record| record.name.clone())
            .collect();
        for name in waiting {
            self.set_phase(&name, Phase::Exited(Rest::Stopped { why: StopWhy::Restart }));
        }
    }
}

impl Record {
    /// The timing of this launch, if it is the boot's first.
    pub(super) fn timing_of(&mut self, incarnation: u64) -> Option<&mut Timing> {
        self.timing.as_mut().filter(|timing| timing.incarnation == incarnation)
    }

    /// Whether others that wait for it may go on, as far as the run itself says.
    pub fn is_ready(&self) -> bool {
        let Phase::Running(run) = &self.phase else { return false };
        let manifest = self.applied.as_deref();
        let told = run.ready.is_some() || !manifest.is_some_and(Container::tells_when_ready);
        let oneshot = manifest.is_some_and(|m| m.kind == Kind::Oneshot && !m.is_timed());
        told && !oneshot && matches!(run.health, None | Some(HealthStatus::Healthy))
    }

    /// After a change: one that is ready has no deadline any more.
    pub(super) fn note_ready(&mut self, now: &Now) {
        if self.is_ready() {
            if let Phase::Running(run) = &mut self.phase {
                run.ready_by = None;
            }
            let incarnation = self.incarnation;
            if let Some(timing) = self.timing_of(incarnation) {
                timing.ready.get_or_insert(now.mono);
            }
        }
    }
}

/// When a container that is run at times is run next.
pub(super) fn next_run(
    desired: &Desired,
    record: &Record,
    manifest: &Container,
    now: &Now,
) -> Phase {
    // A clock that was set back makes no time lie in the future of the last one.
    let last = record.last_run.map(|last| last.min(now.wall));
    let due = match (&manifest.schedule, manifest.every) {
        (Some(schedule), _) => {
            let after = last.filter(|_| manifest.catch_up).unwrap_or(now.wall);
            schedule.next(after, &desired.zone)
        }
        (None, Some(every)) => {
            let every = i64::try_from(every.as_nanos()).unwrap_or(i64::MAX).max(1);
            let next = last.unwrap_or(now.wall).checked_add(every);
            next.map(|next| match next >= now.wall || manifest.catch_up {
                true => next,
                // Those that passed are passed over, and the rhythm is kept.
                false => {
                    let passed = now.wall.saturating_sub(next) / every + 1;
                    next.saturating_add(passed.saturating_mul(every))
                }
            })
        }
        (None, None) => None,
    };
    let Some(due) = due else { return Phase::Scheduled { until: NEVER, due: i64::MAX } };
    let left = Duration::from_nanos(due.saturating_sub(now.wall).max(0).unsigned_abs());
    Phase::Scheduled { until: now.mono.saturating_add(left), due: due.max(now.wall) }
}
