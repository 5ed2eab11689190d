//! The engine begins: what the records say against what the keeper and the kernel
//! say lives. Whatever instant the one before died at, the two together tell which
//! orders were carried out, and those that may not have been are given again.

use super::action::Action;
use super::clock::Now;
use super::event::Adopted;
use super::observed::{KILL_AGAIN, Observed};
use super::phase::{Half, How, Phase, Run, StopWhy};
use super::record::{Exit, ExitStatus, Record};
use crate::manifest::scalar::Name;
use crate::manifest::variants::RestartPolicy;

impl Observed {
    pub(super) fn adopt(&mut self, adopted: Adopted, now: &Now) {
        let Adopted { name, incarnation, pid, started, started_wall, frozen, id } = adopted;
        if !self.records.contains_key(&name) {
            self.create(&name, id, now);
        }
        let Some(record) = self.records.get(&name) else {
            return;
        };
        let run = Run {
            pid,
            started,
            started_wall,
            health: None,
            well_since: Some(started),
            paused: frozen,
            asked: None,
            ready: None,
            ready_by: None,
        };
        let known = record.incarnation;
        if incarnation > known {
            // The record is older than what lives: it could not be written.
            if record.phase.is_alive() {
                self.stray(&name, known);
            }
            self.unconfirmed.remove(&name);
            // What it said of itself nobody heard: it is taken for ready.
            let run = Run { ready: Some(started), ..run };
            self.edit(&name, |record| {
                record.incarnation = incarnation;
                record.boot_id = now.boot_id.clone();
                // With what it was launched nobody knows: taken for what is declared.
                record.applied = None;
                record.phase = Phase::Running(run);
            });
            return;
        }
        if incarnation < known || !record.phase.is_alive() {
            self.stray(&name, incarnation);
            return;
        }
        self.unconfirmed.remove(&name);
        if let Phase::Launching { ready: early, .. } = record.phase {
            let ready_by = self.ready_by(&name, now).filter(|_| !early);
            let ready = early.then_some(started);
            let run = Run { health: self.first_health(&name), ready, ready_by, ..run };
            let run = Run { well_since: run.health.is_none().then_some(started), ..run };
            self.edit(&name, |record| {
                record.renew = false;
                record.phase = Phase::Running(run);
            });
        } else if let Some(run) = record.phase.run()
            && run.paused != frozen
        {
            let of = name.clone();
            self.queue.push(match run.paused {
                true => Action::Freeze { name: of, incarnation },
                false => Action::Thaw { name: of, incarnation },
            });
        }
        self.feed(&name, now);
    }

    /// At start-up: an end of an incarnation that the record does not know yet, for
    /// it could not be written. All before it are gone.
    pub(super) fn overtake(&mut self, name: &Name, incarnation: u64, now: &Now) {
        let newer = |record: &&Record| record.incarnation < incarnation;
        if self.adopting && self.records.get(name).filter(newer).is_some() {
            self.edit(name, |record| {
                record.incarnation = incarnation;
                record.boot_id = now.boot_id.clone();
                record.phase = Phase::Launching { since: now.mono, ready: false };
            });
        }
    }

    pub(super) fn adoption_done(&mut self, now: &Now) {
        self.adopting = false;
        self.all_dirty = true;
        for name in std::mem::take(&mut self.unconfirmed) {
            let Some(record) = self.records.get(&name) else {
                continue;
            };
            let incarnation = record.incarnation;
            match record.phase.clone() {
                // The engine died between the order and the launch.
                Phase::Launching { .. } => {
                    self.set_phase(&name, Phase::Ended { why: Some(StopWhy::Lost) });
                    self.stray(&name, incarnation);
                }
                Phase::Running(run) => self.vanished(&name, run, None, now),
                Phase::Stopping { run, why, .. } => self.vanished(&name, run, Some(why), now),
                Phase::Ending { run, why, half: Half::Emptied, .. } => {
                    self.ended(&name, run, why, How::UNKNOWN, now);
                }
                _ => {}
            }
        }
        // What was ordered may not have been done.
        let mut again = Vec::new();
        for record in self.records.values() {
            let (name, incarnation) = (record.name.clone(), record.incarnation);
            match &record.phase {
                Phase::Stopping { escalated: false, signal, .. } => {
                    again.push(Action::Signal { name, incarnation, signal: *signal });
                }
                Phase::Stopping { .. } | Phase::Ending { .. } => {
                    again.push(Action::KillAll { name, incarnation });
                }
                Phase::Removing { .. } => again.push(Action::Discard { name }),
                _ => {}
            }
        }
        self.queue.extend(again);
    }

    /// Nobody told of it. Its payload is gone; whether all of it is, the answer to
    /// SIGKILL will tell.
    fn vanished(&mut self, name: &Name, run: Run, why: Option<StopWhy>, now: &Now) {
        let half = Half::Exit(How::UNKNOWN);
        let deadline = now.mono.saturating_add(KILL_AGAIN);
        self.set_phase(name, Phase::Ending { run, why, half, deadline });
    }
}

/// The machine was booted anew: nothing lives, and most of what was, counts no more.
pub(super) fn reboot(record: &mut Record, now: &Now) {
    if record.phase.is_alive() {
        record.last_exit = Some(match &record.phase {
            Phase::Ending { run, half: Half::Exit(how), .. } => Exit {
                incarnation: record.incarnation,
                status: how.status,
                oom_killed: how.oom,
                started: Some(run.started_wall),
                finished: how.at.unwrap_or(now.wall),
                error: None,
            },
            phase => Exit {
                incarnation: record.incarnation,
                status: ExitStatus::Unknown,
                oom_killed: false,
                started: phase.run().map(|run| run.started_wall),
                finished: now.wall,
                error: None,
            },
        });
    }
    let created = record.phase == Phase::Created;
    // What was created and never started was not stopped either.
    if !created && record.restart().policy != RestartPolicy::UnlessStopped {
        record.held = None;
    }
    record.streak = 0;
    record.timing = None;
    record.joined.clear();
    record.live_error = None;
    record.boot_id = now.boot_id.clone();
    record.phase = record.phase.after_boot();
    record.demanded = false;
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::manifest::model::Container;
    use std::sync::Arc;
    use std::time::Duration;

    fn adopted(name: &Name, incarnation: u64) -> Event {
        Event::Adopted(Adopted {
            name: name.clone(),
            incarnation,
            pid: 7,
            started: Duration::ZERO,
            started_wall: 0,
            frozen: false,
            id: None,
        })
    }

    /// The record of 4 could not be written, and 3 lives on beside it.
    #[test]
    fn nothing_is_launched_beside_a_stray() {
        let now = Now { mono: Duration::from_secs(9), wall: 0, boot_id: "b".into() };
        let name: Name = "web".parse().unwrap();
        let mut record = Record::new(name.clone(), "0".repeat(64), 0, "b".into());
        record.incarnation = 3;
        record.last_good = Some(Arc::new(Container::default()));
        record.applied = record.last_good.clone();
        record.phase = Phase::Launching { since: Duration::ZERO, ready: false };
        let mut desired = Desired::default();
        desired.containers.insert(name.clone(), Arc::new(Container::default()));

        let mut observed = Observed::restore([record], 1, &now);
        for event in [adopted(&name, 4), adopted(&name, 3), Event::AdoptionDone] {
            observed.apply(event, &now).unwrap();
        }
        let kill = Action::KillAll { name: name.clone(), incarnation: 3 };
        let actions = decide(&desired, &mut observed, &now).actions;
        assert!(actions.iter().all(|action| *action == kill) && !actions.is_empty());
        assert_eq!(observed.record(&name).unwrap().incarnation, 4);

        observed.apply(Event::Gone { name: name.clone(), incarnation: 4 }, &now).unwrap();
        decide(&desired, &mut observed, &now);
        let later = Now { mono: Duration::from_secs(99), ..now };
        assert_eq!(decide(&desired, &mut observed, &later).actions, []);
        assert_eq!(observed.block(&name), Some(&Block::Stray));

        let emptied = Event::CgroupEmptied { name: name.clone(), incarnation: 3 };
        observed.apply(emptied, &later).unwrap();
        let launch = Action::Launch { name, incarnation: 5, renew: false };
        assert_eq!(decide(&desired, &mut observed, &later).actions, [launch]);
    }
}
