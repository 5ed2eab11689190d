//! What a person asks for, noted down; [`decide`](super::decide) acts on it.

use std::time::Duration;

use super::action::Action;
use super::backoff::{pause, spread};
use super::clock::Now;
use super::event::{Refused, Verb};
use super::observed::{KILL_AGAIN, Observed};
use super::phase::{Asked, Phase, Rest, Run, StopWhy};
use super::record::{Held, Record};
use crate::manifest::model::{Container, Reload};
use crate::manifest::scalar::{Name, Signal};

impl Observed {
    pub(super) fn verb(&mut self, name: &Name, verb: Verb, now: &Now) -> Result<(), Refused> {
        let exists = self.record(name).is_some();
        if let Verb::Create { id } = verb {
            if exists {
                return Err(Refused::Exists);
            }
            self.create(name, id, now);
            let held = Some(Held { since: now.wall, signal: None, timeout: None });
            self.edit(name, |record| record.held = held);
            return Ok(());
        }
        if !exists {
            return Err(Refused::Unknown);
        }
        if self.shutdown.is_some() && matches!(verb, Verb::Start | Verb::Restart { .. }) {
            return Err(Refused::ShuttingDown);
        }
        match verb {
            Verb::Create { .. } => {}
            Verb::Amend(manifest) => {
                self.edit(name, |record| record.last_good = Some(manifest));
            }
            Verb::Start => {
                // What it wants is started together with it, where it is there.
                let wanted = self.record(name).and_then(|record| record.manifest());
                let wanted = wanted.map(|manifest| manifest.wants.clone()).unwrap_or_default();
                let wanted: Vec<Name> = wanted.iter().map(|name| self.meant(name)).collect();
                for name in wanted.iter().chain([name]) {
                    self.edit(name, |record| release(record, now));
                }
            }
            Verb::Restart { signal, timeout } => {
                self.edit(name, |record| {
                    release(record, now);
                    if let Phase::Running(run) = &mut record.phase {
                        run.asked = Some(Asked::Restart { signal, timeout });
                    }
                });
            }
            Verb::Stop { signal, timeout } => {
                // A job that is done is not undone by it.
                let finished = |record: &Record| {
                    let done = Rest::Finished;
                    matches!(&record.phase, Phase::Exited(rest) if *rest == done)
                        || matches!(record.phase, Phase::Exited(Rest::Skipped { .. }))
                };
                if self.record(name).is_some_and(finished) {
                    return Err(Refused::NotRunning);
                }
                self.edit(name, |record| {
                    record.held = Some(Held { since: now.wall, signal, timeout });
                    record.demanded = false;
                    // It is stopping already: at most it gets less time.
                    if let Phase::Stopping { deadline, escalated: false, .. } = &mut record.phase
                        && let Some(timeout) = timeout
                    {
                        let sooner = now.mono.checked_add(timeout);
                        *deadline = match (*deadline, sooner) {
                            (Some(a), Some(b)) => Some(a.min(b)),
                            (a, b) => a.or(b),
                        };
                    }
                });
            }
            Verb::Kill(signal) => self.kill(name, signal, now)?,
            Verb::Reload => self.reload(name)?,
            Verb::Pause => self.freeze(name, true)?,
            Verb::Unpause => {
                self.freeze(name, false)?;
                self.time_anew(name, now);
            }
            Verb::Remove { force } => {
                if force {
                    self.forced.insert(name.clone());
                }
                self.dirty.insert(name.clone());
            }
        }
        Ok(())
    }

    fn running(&self, name: &Name) -> Result<(u64, &Run), Refused> {
        match self.record(name).map(|record| (record.incarnation, &record.phase)) {
            Some((incarnation, Phase::Running(run) | Phase::Stopping { run, .. })) => {
                Ok((incarnation, run))
            }
            _ => Err(Refused::NotRunning),
        }
    }

    fn kill(&mut self, name: &Name, signal: Signal, now: &Now) -> Result<(), Refused> {
        let (incarnation, run) = self.running(name)?;
        let run = run.clone();
        if signal != Signal::KILL {
            let ends = self
                .record(name)
                .and_then(|record| Some(record.stop_signal(&record.applied.as_ref()?.stop)))
                .unwrap_or(Signal::TERM);
            if signal == ends {
                self.edit(name, |record| {
                    if let Phase::Running(run) = &mut record.phase {
                        run.asked = Some(Asked::End);
                    }
                });
            }
            self.queue.push(Action::Signal { name: name.clone(), incarnation, signal });
            return Ok(());
        }
        self.edit(name, |record| {
            record.held = Some(Held { since: now.wall, signal: None, timeout: None });
            record.phase = Phase::Stopping {
                run,
                why: StopWhy::ByHand,
                signal,
                deadline: Some(now.mono.saturating_add(KILL_AGAIN)),
                escalated: true,
            };
        });
        self.queue.push(Action::KillAll { name: name.clone(), incarnation });
        Ok(())
    }

    fn reload(&mut self, name: &Name) -> Result<(), Refused> {
        let (incarnation, run) = self.running(name)?;
        let paused = run.paused;
        let container = self.record(name).and_then(|r| r.last_good.as_ref().or(r.applied.as_ref()));
        let reload = container.and_then(|container| container.signals.reload.clone());
        let name = name.clone();
        self.queue.push(match reload.ok_or(Refused::NoReload)? {
            Reload::Signal(signal) => Action::Signal { name, incarnation, signal },
            Reload::Exec { .. } if paused => return Err(Refused::Paused),
            Reload::Exec { exec } => Action::ReloadExec { name, incarnation, command: exec },
        });
        Ok(())
    }

    fn freeze(&mut self, name: &Name, freeze: bool) -> Result<(), Refused> {
        let record = self.record(name).ok_or(Refused::Unknown)?;
        let Phase::Running(run) = &record.phase else {
            return Err(Refused::NotRunning);
        };
        let incarnation = record.incarnation;
        match (run.paused, freeze) {
            (true, true) => return Err(Refused::PausedAlready),
            (false, false) => return Err(Refused::NotPaused),
            _ => {}
        }
        self.edit(name, |record| {
            if let Phase::Running(run) = &mut record.phase {
                run.paused = freeze;
            }
        });
        let name = name.clone();
        self.queue.push(match freeze {
            true => Action::Freeze { name, incarnation },
            false => Action::Thaw { name, incarnation },
        });
        Ok(())
    }

    /// A signal that the supervisor received goes to all that want it.
    pub(super) fn forward(&mut self, signal: Signal) {
        let mut actions = Vec::new();
        for name in &self.alive {
            let Some(record) = self.record(name) else {
                continue;
            };
            let manifest = record.last_good.as_ref().or(record.applied.as_ref());
            if matches!(record.phase, Phase::Running(_))
                && manifest.is_some_and(|container| container.signals.forward.contains(&signal))
            {
                let incarnation = record.incarnation;
                actions.push(Action::Signal { name: name.clone(), incarnation, signal });
            }
        }
        self.queue.extend(actions);
    }
}

/// Somebody connects: it is to run, unless a person stopped it. One that ended by itself a
/// moment ago, perhaps without having taken the connection, gets the pause that its policy
/// would have made: the same client must not start it over and over. Whoever found its
/// conditions unmet was turned away, so this is another one.
pub(super) fn demand(record: &mut Record, now: &Now) {
    record.demanded = true;
    if matches!(record.phase, Phase::Exited(Rest::Skipped { .. })) {
        record.phase = Phase::Exited(Rest::Stopped { why: StopWhy::Idle });
    }
    if record.phase != Phase::Exited(Rest::Finished) {
        return;
    }
    let (failed, since) = match &record.last_exit {
        Some(exit) => (!exit.status.is_success(), now.wall.saturating_sub(exit.finished)),
        None => (false, i64::MAX),
    };
    let attempt = if failed { record.streak.max(1) } else { 1 };
    let pause = pause(&record.restart(), attempt, spread(&record.id, record.incarnation));
    let left = pause.saturating_sub(Duration::from_nanos(since.max(0).unsigned_abs()));
    record.phase = match left.is_zero() {
        true => Phase::Exited(Rest::Stopped { why: StopWhy::Idle }),
        false => Phase::Backoff { until: now.mono.saturating_add(left), attempt },
    };
}

/// Nothing that a person or its policy decided speaks against a launch any more.
pub(super) fn release(record: &mut Record, now: &Now) {
    record.held = None;
    record.demanded = true;
    record.streak = 0;
    // What is run at times is run now, beside them.
    let resting = !record.phase.is_alive()
        && !matches!(record.phase, Phase::Removing { .. } | Phase::Dead { .. });
    if resting && record.manifest().is_some_and(Container::is_timed) {
        record.phase = Phase::Scheduled { until: now.mono, due: now.wall };
        return;
    }
    match &mut record.phase {
        Phase::Exited(Rest::Finished | Rest::Skipped { .. }) | Phase::Backoff { .. } => {
            record.phase = Phase::Exited(Rest::Stopped { why: StopWhy::Restart });
        }
        Phase::Running(run) if run.asked == Some(Asked::End) => run.asked = None,
        _ => {}
    }
}
