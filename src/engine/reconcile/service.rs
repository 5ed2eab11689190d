//! What concerns services of a machine: being ready, watchdogs, conditions, times.

use std::time::Duration;

use super::clock::Now;
use super::desired::Desired;
use super::observed::Observed;
use super::phase::{HealthStatus, Phase, Rest, StopWhy};
use super::record::{Record, Timing};
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::manifest::service::Kind;

/// Later than anything: a schedule that never comes again.
const NEVER: Duration = Duration::MAX;
/// By so much (three hours, in nanoseconds) a clock is set back that was about right.
const SET_BACK: i64 = 3 * 3600 * 1_000_000_000;

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
            Phase::Launching { ready: false, .. } => {
                self.edit(&name, |record| {
                    if let Phase::Launching { ready, .. } = &mut record.phase {
                        *ready = true;
                    }
                });
            }
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
        self.watches.set(name, due);
    }

    /// It stood still and could not say anything: all that it has to say in time, it may
    /// say as late as at the beginning.
    pub(super) fn time_anew(&mut self, name: &Name, now: &Now) {
        let anew = self.ready_by(name, now);
        let waits = |record: &Record| matches!(&record.phase, Phase::Running(run) if run.ready_by.is_some());
        if self.record(name).is_some_and(waits) {
            self.edit(name, |record| {
                if let Phase::Running(run) = &mut record.phase {
                    run.ready_by = anew;
                }
            });
        }
        self.feed(name, now);
    }

    /// The machine was suspended. Nobody could do anything in that time.
    pub(super) fn slept(&mut self, by: Duration) {
        let later = |at: &mut Duration| *at = at.saturating_add(by);
        for name in self.alive.clone() {
            if let Some(mut due) = self.watches.get(&name) {
                later(&mut due);
                self.watches.set(&name, Some(due));
            }
            if self.timers.get(&name).is_some() {
                self.edit(&name, |record| match &mut record.phase {
                    Phase::Running(run) => run.ready_by.iter_mut().for_each(later),
                    Phase::Stopping { deadline, .. } => deadline.iter_mut().for_each(later),
                    Phase::Ending { deadline, .. } => later(deadline),
                    _ => {}
                });
            }
        }
    }

    /// Those that are about to be stopped for what they did not do in time.
    pub fn late(&self, now: &Now) -> Vec<(Name, u64)> {
        let due = self.timers.due(now.mono).chain(self.watches.due(now.mono));
        due.filter_map(|name| self.record(name))
            .filter(|record| self.failing(record, now).is_some())
            .map(|record| (record.name.clone(), record.incarnation))
            .collect()
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
        let watched = self.watches.get(&record.name);
        watched.is_some_and(|by| by <= now.mono).then_some(StopWhy::Watchdog)
    }

    pub(super) fn skipped(&mut self, name: &Name, incarnation: u64, unmet: String) {
        let Some(record) = self.record(name).filter(|r| r.incarnation == incarnation) else {
            return;
        };
        if matches!(record.phase, Phase::Launching { .. }) {
            self.unconfirmed.remove(name);
            self.edit(name, |record| {
                record.phase = Phase::Exited(Rest::Skipped { unmet });
                // Whom clients start waits for the next one.
                record.demanded = false;
            });
        }
    }

    /// All that waits for a time of the calendar is reckoned again. What is due, and only
    /// waits for others, stays so.
    pub(super) fn clock_set(&mut self, now: &Now) {
        let waits =
            |phase: &Phase| matches!(phase, Phase::Scheduled { until, .. } if *until > now.mono);
        let waiting: Vec<Name> = self
            .records()
            .filter(|record| waits(&record.phase))
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
            // As with cron: a clock that was set back a little comes to a time again that
            // was served; one that was set back by more was wrong.
            let served = record.last_run.filter(|last| last.saturating_sub(now.wall) < SET_BACK);
            schedule.next(served.map_or(after, |served| after.max(served)), &desired.zone)
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

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use std::sync::Arc;

    const HOUR: i64 = 3600 * 1_000_000_000;

    fn at(seconds: u64, wall: i64) -> Now {
        Now { mono: Duration::from_secs(seconds), wall, boot_id: "b".into() }
    }

    fn declared(manifest: &str) -> (Desired, Name) {
        let name: Name = "web".parse().unwrap();
        let mut desired = Desired::default();
        let container: Container = toml::from_str(manifest).unwrap();
        desired.containers.insert(name.clone(), Arc::new(container));
        (desired, name)
    }

    fn begun(desired: &Desired, now: &Now) -> Observed {
        let mut observed = Observed::restore([], 1, now);
        observed.apply(Event::AdoptionDone, now).unwrap();
        decide(desired, &mut observed, now);
        observed
    }

    fn tell(desired: &Desired, observed: &mut Observed, event: Event, now: &Now) -> Vec<Action> {
        observed.apply(event, now).unwrap();
        decide(desired, observed, now).actions
    }

    fn launched(name: &Name, incarnation: u64) -> Event {
        Event::Launched { name: name.clone(), incarnation, pid: 7 }
    }

    fn ended(name: &Name, incarnation: u64, code: i32) -> [Event; 2] {
        let (name, status) = (name.clone(), ExitStatus::Code(code));
        let exited =
            Event::Exited { name: name.clone(), incarnation, how: How { status, ..How::UNKNOWN } };
        [exited, Event::CgroupEmptied { name, incarnation }]
    }

    /// Whatever kept it from speaking: it is not stopped for that.
    #[test]
    fn who_stood_still_gets_its_time_anew() {
        let (desired, name) =
            declared("type = \"notify\"\nready = { timeout = \"30s\" }\nwatchdog = \"10s\"");
        let pause = |verb| Event::Verb { name: name.clone(), verb };
        let still = Event::StoodStill { name: name.clone(), incarnation: 1 };
        let slept = Event::Slept { by: Duration::from_secs(1000) };
        let ways = [
            vec![(5, pause(Verb::Pause)), (1000, pause(Verb::Unpause))],
            vec![(1000, still)],
            vec![(1005, slept)],
        ];
        for way in ways {
            let mut observed = begun(&desired, &at(1, 0));
            tell(&desired, &mut observed, launched(&name, 1), &at(1, 0));
            let mut last = 0;
            for (second, event) in way {
                let actions = tell(&desired, &mut observed, event, &at(second, 0));
                assert!(
                    !actions.iter().any(|action| matches!(action, Action::Signal { .. })),
                    "{actions:?}"
                );
                last = second;
            }
            assert_eq!(decide(&desired, &mut observed, &at(last + 5, 0)).actions, []);
            assert_eq!(observed.late(&at(last + 11, 0)), [(name.clone(), 1)]);
            let actions = decide(&desired, &mut observed, &at(last + 11, 0)).actions;
            assert!(matches!(&actions[..], [Action::Signal { .. }]), "{actions:?}");
        }
    }

    /// A stop that a suspend falls into: its timeout is one of time that can be used.
    #[test]
    fn a_stop_timeout_does_not_run_out_in_a_suspend() {
        let (desired, name) = declared("stop = { timeout = \"10s\" }");
        let mut observed = begun(&desired, &at(1, 0));
        tell(&desired, &mut observed, launched(&name, 1), &at(1, 0));
        let stop = Verb::Stop { signal: None, timeout: None };
        let stop = Event::Verb { name: name.clone(), verb: stop };
        tell(&desired, &mut observed, stop, &at(2, 0));
        let slept = Event::Slept { by: Duration::from_secs(500) };
        assert_eq!(tell(&desired, &mut observed, slept, &at(504, 0)), []);
        let kill = Action::KillAll { name, incarnation: 1 };
        assert_eq!(decide(&desired, &mut observed, &at(512, 0)).actions, [kill]);
    }

    /// It is said before its launch is told of, and the engine dies in between.
    #[test]
    fn ready_before_it_is_known_to_run_is_written_down() {
        let (desired, name) = declared("type = \"notify\"");
        let mut observed = begun(&desired, &at(1, 0));
        let ready = Event::Ready { name: name.clone(), incarnation: 1 };
        observed.apply(ready, &at(1, 0)).unwrap();
        let saved = decide(&desired, &mut observed, &at(1, 0)).save;
        assert!(saved.contains(&name), "{saved:?}");
        let record = observed.record(&name).unwrap().clone();
        let mut next = Observed::restore([record], 1, &at(2, 0));
        let adopted = Adopted {
            name: name.clone(),
            incarnation: 1,
            pid: 7,
            started: Duration::from_secs(1),
            started_wall: 0,
            frozen: false,
            id: None,
        };
        next.apply(Event::Adopted(adopted), &at(2, 0)).unwrap();
        for mut observed in [observed, next] {
            let _ = observed.apply(launched(&name, 1), &at(2, 0));
            assert!(observed.record(&name).unwrap().is_ready());
            assert_eq!(observed.record(&name).unwrap().phase.deadline(), None);
        }
    }

    #[test]
    fn a_clock_that_is_set_makes_no_run_twice_and_loses_none() {
        let (mut desired, name) = declared("schedule = \"*-*-* 03:00\"\nrequires = [\"db\"]");
        let db: Name = "db".parse().unwrap();
        desired.containers.insert(db.clone(), Arc::new(Container::default()));
        let now = |hours: i64, seconds: u64| at(seconds, hours * HOUR);
        let mut observed = begun(&desired, &now(2, 0));
        // It is due, and waits for one that is not there yet.
        decide(&desired, &mut observed, &now(3, 3600));
        assert_eq!(tell(&desired, &mut observed, Event::ClockSet, &now(4, 3601)), []);
        let actions = tell(&desired, &mut observed, launched(&db, 1), &now(4, 3602));
        let launch = Action::Launch { name: name.clone(), incarnation: 1, renew: false };
        assert_eq!(actions, [launch]);
        tell(&desired, &mut observed, launched(&name, 1), &now(4, 3602));
        for event in ended(&name, 1, 0) {
            tell(&desired, &mut observed, event, &now(4, 3603));
        }
        let due = |observed: &Observed| match observed.record(&name).unwrap().phase {
            Phase::Scheduled { due, .. } => due / HOUR,
            _ => panic!("{:?}", observed.record(&name)),
        };
        assert_eq!(due(&observed), 27);
        // Set back over the time at which it ran: not again today.
        tell(&desired, &mut observed, Event::ClockSet, &now(2, 3604));
        assert_eq!(due(&observed), 27);
        // Set back by a day: it was wrong before.
        tell(&desired, &mut observed, Event::ClockSet, &now(-22, 3605));
        assert_eq!(due(&observed), -21);
    }

    /// `up --main`: its end is that of all, unless its policy says on-failure.
    #[test]
    fn the_main_container_is_not_started_again_by_always() {
        for (policy, again) in
            [("always", false), ("unless-stopped", false), ("on-failure:1", true)]
        {
            let (mut desired, name) = declared(&format!("restart = \"{policy}\""));
            desired.main = Some(name.clone());
            let mut observed = begun(&desired, &at(1, 0));
            for event in [launched(&name, 1)].into_iter().chain(ended(&name, 1, 3)) {
                tell(&desired, &mut observed, event, &at(2, 0));
            }
            let phase = &observed.record(&name).unwrap().phase;
            assert_eq!(matches!(phase, Phase::Backoff { .. }), again, "{policy}: {phase:?}");
            assert_eq!(*phase == Phase::Exited(Rest::Finished), !again, "{policy}");
        }
    }
}
