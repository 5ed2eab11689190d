//! What becomes of one run: launched or not, ended by halves, healthy or not, removed.

use std::sync::Arc;

use super::clock::Now;
use super::observed::{KILL_AGAIN, Live, Observed};
use super::phase::{Asked, Half, HealthStatus, How, Phase, Rest, Run, StopWhy};
use super::record::{Exit, ExitStatus, Held, Joined, Record};
use crate::manifest::model::{Container, Restart};
use crate::manifest::scalar::{Name, Signal};

impl Observed {
    /// What the health check of a new run begins with.
    pub(super) fn first_health(&self, name: &Name) -> Option<HealthStatus> {
        self.records.get(name)?.health_check().map(|_| HealthStatus::Starting)
    }

    pub(super) fn launched(&mut self, name: &Name, incarnation: u64, pid: u32, now: &Now) {
        let Some(record) = self.is_current(name, incarnation) else {
            self.stray(name, incarnation);
            return;
        };
        match record.phase {
            Phase::Launching { ready: early, .. } => {
                let health = self.first_health(name);
                let ready_by = self.ready_by(name, now).filter(|_| !early);
                self.edit(name, |record| {
                    record.renew = false;
                    if let Some(timing) = record.timing_of(incarnation) {
                        timing.started = Some(now.mono);
                    }
                    record.phase = Phase::Running(Run {
                        pid,
                        started: now.mono,
                        started_wall: now.wall,
                        health,
                        well_since: health.is_none().then_some(now.mono),
                        paused: false,
                        asked: None,
                        ready: early.then_some(now.mono),
                        ready_by,
                    });
                    record.note_ready(now);
                });
                self.feed(name, now);
            }
            // Its end was told before its beginning.
            Phase::Ending { .. } => {
                self.edit(name, |record| {
                    record.renew = false;
                    if let Phase::Ending { run, .. } = &mut record.phase {
                        run.pid = pid;
                    }
                });
            }
            _ => {}
        }
    }

    pub(super) fn launch_failed(
        &mut self,
        name: &Name,
        incarnation: u64,
        code: i32,
        error: String,
        now: &Now,
    ) {
        self.stray_gone(name, incarnation);
        let Some(record) = self.is_current(name, incarnation) else {
            return;
        };
        if !matches!(record.phase, Phase::Launching { .. } | Phase::Ending { .. }) {
            return;
        }
        self.unconfirmed.remove(name);
        self.edit(name, |record| {
            record.last_exit = Some(Exit {
                incarnation,
                status: ExitStatus::Code(code),
                oom_killed: false,
                started: None,
                finished: now.wall,
                error: Some(error),
            });
            record.streak = record.streak.saturating_add(1);
            record.phase = Phase::Ended { why: None };
        });
    }

    /// The run that an end speaks of, and why it was asked to end, if it was.
    pub(super) fn ending(
        &self,
        name: &Name,
        incarnation: u64,
        now: &Now,
    ) -> Option<(Run, Option<StopWhy>)> {
        let record = self.is_current(name, incarnation)?;
        Some(match &record.phase {
            // Its end is told before its beginning, or the engine died in between.
            Phase::Launching { since, .. } => (
                Run {
                    pid: 0,
                    started: *since,
                    started_wall: now.wall,
                    health: None,
                    well_since: None,
                    paused: false,
                    asked: None,
                    ready: None,
                    ready_by: None,
                },
                None,
            ),
            Phase::Running(run) => (run.clone(), None),
            Phase::Stopping { run, why, .. } => (run.clone(), Some(why.clone())),
            Phase::Ending { run, why, .. } => (run.clone(), why.clone()),
            _ => return None,
        })
    }

    /// One of the two signs of an end.
    pub(super) fn half(
        &mut self,
        name: &Name,
        (run, why): (Run, Option<StopWhy>),
        half: Half,
        now: &Now,
    ) {
        let earlier = self.records.get(name).and_then(|record| match &record.phase {
            Phase::Ending { half, .. } => Some(half.clone()),
            _ => None,
        });
        match (earlier, half) {
            (Some(Half::Emptied), Half::Exit(how)) | (Some(Half::Exit(how)), Half::Emptied) => {
                self.ended(name, run, why, how, now);
            }
            // The same sign again.
            (Some(_), _) => {}
            (None, half) => {
                // Due at once: decide sends the SIGKILL that sweeps up what is left,
                // unless the other sign has come by then.
                let deadline = match half {
                    Half::Exit(_) => now.mono,
                    Half::Emptied => now.mono.saturating_add(KILL_AGAIN),
                };
                self.set_phase(name, Phase::Ending { run, why, half, deadline });
            }
        }
    }

    /// It has ended, completely.
    pub(super) fn ended(
        &mut self,
        name: &Name,
        run: Run,
        why: Option<StopWhy>,
        how: How,
        now: &Now,
    ) {
        let How { status, oom, at } = how;
        self.live.remove(name);
        let why = why.or_else(|| {
            let asked = run.asked.is_some();
            let owner = self.owner_of_processes(name).filter(|_| !asked && goes_along(&how))?;
            let ended = self.records.get(&owner.name).is_none_or(|record| {
                record.incarnation != owner.incarnation
                    || matches!(record.phase, Phase::Ending { .. })
                    || !record.phase.is_alive()
            });
            ended.then_some(StopWhy::Dependency { on: owner.name })
        });
        self.edit(name, |record| {
            record.last_exit = Some(Exit {
                incarnation: record.incarnation,
                status,
                oom_killed: oom,
                started: Some(run.started_wall),
                finished: at.unwrap_or(now.wall),
                error: why.as_ref().and_then(fault),
            });
            if let Some(timing) = record.timing_of(record.incarnation) {
                timing.ended = Some(now.mono);
                if status.is_success() {
                    timing.ready.get_or_insert(now.mono);
                }
            }
            let why = why.or(match run.asked {
                Some(Asked::Restart { .. }) => Some(StopWhy::Restart),
                Some(Asked::End) => {
                    record.held = Some(Held { since: now.wall, signal: None, timeout: None });
                    Some(StopWhy::ByHand)
                }
                None => None,
            });
            let reset_after = record.restart().reset_after;
            if run.well_since.is_some_and(|since| now.mono.saturating_sub(since) >= reset_after) {
                record.streak = 0;
            }
            if why.as_ref().is_none_or(StopWhy::is_its_fault) {
                record.streak = record.streak.saturating_add(1);
            }
            record.phase = Phase::Ended { why };
        });
        self.take_guests_along(name);
    }

    /// Whose processes the latest incarnation of a container is one of.
    fn owner_of_processes(&self, name: &Name) -> Option<Joined> {
        let record = self.records.get(name)?;
        let owner = self.meant(record.applied.as_ref()?.namespaces.pid.owner()?);
        record.joined.iter().find(|joined| joined.name == owner).cloned()
    }

    /// With the first of its processes the kernel ends all that a container has, also those
    /// of its guests; that they ended is told first. It was no doing of theirs, and they come
    /// back with it.
    fn take_guests_along(&mut self, owner: &Name) {
        let Some(record) = self.records.get(owner) else { return };
        let Some(end) = record.last_exit.as_ref().map(|exit| exit.finished) else { return };
        let incarnation = record.incarnation;
        let guests: Vec<Name> = self
            .graph
            .back(owner, None)
            .filter(|(guest, edge)| {
                let of = self.owner_of_processes(guest);
                edge.joins
                    && of.is_some_and(|of| of.name == *owner && of.incarnation == incarnation)
            })
            .filter(|(guest, _)| {
                let Some(record) = self.records.get(*guest) else { return false };
                let rests = matches!(
                    record.phase,
                    Phase::Ended { why: None }
                        | Phase::Backoff { .. }
                        | Phase::Exited(Rest::Finished)
                );
                let along = record.last_exit.as_ref().is_some_and(|exit| {
                    exit.incarnation == record.incarnation
                        && exit.status == ExitStatus::Signal(Signal::KILL)
                        && !exit.oom_killed
                        && exit.finished.saturating_add(ALONG) >= end
                });
                rests && along && record.held.is_none()
            })
            .map(|(guest, _)| guest.clone())
            .collect();
        for guest in guests {
            let why = StopWhy::Dependency { on: owner.clone() };
            self.edit(&guest, |record| {
                record.streak = record.streak.saturating_sub(1);
                record.phase = match record.phase {
                    Phase::Ended { .. } => Phase::Ended { why: Some(why) },
                    _ => Phase::Exited(Rest::Stopped { why }),
                };
            });
        }
    }

    pub(super) fn health(
        &mut self,
        name: &Name,
        incarnation: u64,
        health: HealthStatus,
        now: &Now,
    ) {
        let Some(record) = self.is_current(name, incarnation) else {
            return;
        };
        if !matches!(&record.phase, Phase::Running(run) if run.health != Some(health)) {
            return;
        }
        self.edit(name, |record| {
            if let Phase::Running(run) = &mut record.phase {
                run.health = Some(health);
                run.well_since = match health {
                    HealthStatus::Healthy => run.well_since.or(Some(now.mono)),
                    HealthStatus::Starting | HealthStatus::Unhealthy => None,
                };
            }
            record.note_ready(now);
        });
    }

    pub(super) fn live_applied(
        &mut self,
        name: &Name,
        of: &Arc<Container>,
        result: Result<(), String>,
    ) {
        // What came of an earlier version says nothing of this one.
        let Some(Live { to, incarnation }) = self.live.get(name).filter(|live| live.to == *of)
        else {
            return;
        };
        let (to, incarnation) = (to.clone(), *incarnation);
        if self.is_current(name, incarnation).is_none() {
            self.live.remove(name);
            return;
        }
        match result {
            Ok(()) => {
                self.live.remove(name);
                self.edit(name, |record| {
                    // A health check that came or went begins anew.
                    let had = record.health_check().is_some();
                    record.live_error = None;
                    record.applied = Some(to);
                    let has = record.health_check().is_some();
                    if let Phase::Running(run) = &mut record.phase
                        && had != has
                    {
                        run.health = has.then_some(HealthStatus::Starting);
                    }
                });
            }
            // It stays in `live`: tried again with the next version only.
            Err(error) => {
                self.edit(name, |record| record.live_error = Some(error));
            }
        }
    }

    pub(super) fn discarded(&mut self, name: &Name, result: Result<(), String>, now: &Now) {
        let Some(record) = self.records.get(name) else {
            return;
        };
        let Phase::Removing { tried } = record.phase else {
            return;
        };
        let tried = tried.saturating_add(1);
        match result {
            Ok(()) => self.forget(name),
            Err(error) => {
                let pause = super::backoff::pause(&Restart::default(), tried, u64::MAX);
                let until = now.mono.saturating_add(pause);
                self.set_phase(name, Phase::Dead { error, until, tried });
            }
        }
    }
}

/// So long before its owner's end, in nanoseconds, a guest is ended along with it: of an owner
/// without an init nobody has written down when it ended.
const ALONG: i64 = 2_000_000_000;

/// Whether it may have been ended along with the first of its processes.
fn goes_along(how: &How) -> bool {
    how.status == ExitStatus::Signal(Signal::KILL) && !how.oom
}

/// What a container did not do, in a sentence.
fn fault(why: &StopWhy) -> Option<String> {
    match why {
        StopWhy::NotReady => Some("it was not ready in time".to_owned()),
        StopWhy::Watchdog => Some("it did not say in time that it is well".to_owned()),
        _ => None,
    }
}

impl Record {
    /// The restart settings in force.
    pub(super) fn restart(&self) -> Restart {
        let manifest = self.last_good.as_ref().or(self.applied.as_ref());
        manifest.map(|container| container.restart.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::*;
    use super::*;
    use crate::manifest::model::{RestartPolicy, Sharing};

    /// The kernel ends guests along with the first process of their owner, and tells of them
    /// first: they come back with it, and it is no failure of theirs. One that is killed at
    /// another time has ended by itself.
    #[test]
    fn who_shares_processes_goes_along_with_their_owner() {
        const SECOND: i64 = 1_000_000_000;
        let now = |at: i64| Now {
            mono: Duration::from_secs(1000) + Duration::from_nanos(at.unsigned_abs()),
            wall: at,
            boot_id: "b".into(),
        };
        let (owner, guest): (Name, Name) = ("owner".parse().unwrap(), "guest".parse().unwrap());
        let policy = |policy| Restart { policy, ..Restart::default() };
        let none = policy(RestartPolicy::No);
        let once = policy(RestartPolicy::OnFailure { max: Some(1) });
        // When the guest ends and when its owner does, and whether that is one end.
        for (restart, ends, owner_ends, along) in [
            (none.clone(), 0, 0, true),
            (none.clone(), SECOND / 20, 0, true),
            (none.clone(), 0, SECOND, true),
            (none.clone(), 0, 5 * SECOND, false),
            (once, 0, 0, true),
        ] {
            let mut desired = Desired::default();
            let always = policy(RestartPolicy::Always);
            let one = Container { restart: always, ..Container::default() };
            desired.containers.insert(owner.clone(), Arc::new(one));
            let mut one = Container { restart, ..Container::default() };
            one.namespaces.pid = Sharing::Container(owner.clone());
            desired.containers.insert(guest.clone(), Arc::new(one));
            let mut observed = Observed::restore([], 1, &now(0));
            observed.apply(Event::AdoptionDone, &now(0)).unwrap();
            // Both are launched, in their order.
            let launch = |observed: &mut Observed, at: i64| {
                let mut launched = Vec::new();
                for at in at.. {
                    let decision = decide(&desired, observed, &now(at));
                    for action in &decision.actions {
                        if let Action::Launch { name, incarnation, .. } = action {
                            launched.push(name.clone());
                            let (name, incarnation) = (name.clone(), *incarnation);
                            let event = Event::Launched { name, incarnation, pid: 1 };
                            observed.apply(event, &now(at)).unwrap();
                        }
                    }
                    if decision.actions.is_empty() {
                        break;
                    }
                }
                launched
            };
            assert_eq!(launch(&mut observed, 0), [owner.clone(), guest.clone()]);
            let end = |observed: &mut Observed, name: &Name, at: i64| {
                let status = ExitStatus::Signal(Signal::KILL);
                let how = How { status, oom: false, at: None };
                let (name, incarnation) = (name.clone(), 1);
                let exited = Event::Exited { name: name.clone(), incarnation, how };
                observed.apply(exited, &now(at)).unwrap();
                let emptied = Event::CgroupEmptied { name, incarnation };
                observed.apply(emptied, &now(at)).unwrap();
            };
            let mut both = [(ends, &guest), (owner_ends, &owner)];
            both.sort_by_key(|(at, _)| *at);
            for (at, name) in both {
                end(&mut observed, name, at);
                decide(&desired, &mut observed, &now(at));
            }
            let record = observed.record(&guest).unwrap();
            assert_eq!(record.streak, u32::from(!along), "{ends} {owner_ends}");
            let again = launch(&mut observed, 600 * SECOND);
            assert_eq!(again.contains(&guest), along, "{ends} {owner_ends}: {again:?}");
            assert!(again.contains(&owner));
        }
    }
}
