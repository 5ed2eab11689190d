//! The decision: first all that changed is judged until nothing changes any more,
//! then each container that was touched takes its next step, and so on until there
//! is nothing left to do at this instant.
//!
//! Judging ends because what a judgement looks at lies along edges without cycles;
//! stepping ends because each step brings a container nearer to what it is to be.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::action::{Action, Decision};
use super::backoff::{pause, spread};
use super::change::Change;
use super::clock::Now;
use super::desired::Desired;
use super::judge::{Force, block, in_force, judge};
use super::observed::{KILL_AGAIN, Live, Observed};
use super::phase::{Asked, Phase, Rest, StopWhy};
use super::record::{Joined, Record, Timing};
use crate::manifest::model::{Container, Start};
use crate::manifest::scalar::{Name, Signal};
use crate::manifest::service::Kind;
use crate::manifest::variants::RestartPolicy;

/// Decides what to do now. What it decides is in the records when it returns, and
/// [`Decision::save`] names those that are to be written down first.
///
/// The cost depends on what changed and on its neighbours, not on how many
/// containers there are, but after a change of the dependencies: that looks at all
/// containers that have any.
pub fn decide(desired: &Desired, observed: &mut Observed, now: &Now) -> Decision {
    if observed.is_adopting() {
        return Decision::default();
    }
    wake(desired, observed, now);
    let mut touched = BTreeSet::new();
    loop {
        settle(desired, observed, now, &mut touched);
        if touched.is_empty() {
            break;
        }
        for name in std::mem::take(&mut touched) {
            step(desired, observed, &name, now);
        }
    }
    if desired.shutdown.is_some() && observed.alive.is_empty() && observed.strays.is_empty() {
        if !observed.finished {
            observed.queue.push(Action::Finish);
        }
        observed.finished = true;
    }
    let save = std::mem::take(&mut observed.unsaved);
    let forget = std::mem::take(&mut observed.forgotten);
    Decision {
        forget: forget.into_iter().filter(|name| !save.contains(name)).collect(),
        save: save.into_iter().collect(),
        actions: std::mem::take(&mut observed.queue),
        wake_at: [&observed.timers, &observed.watches]
            .into_iter()
            .filter_map(|timers| timers.next(now.mono))
            .filter(|at| *at < std::time::Duration::MAX)
            .min(),
    }
}

/// Everything that has to be looked at: what is due, and all where all is concerned.
fn wake(desired: &Desired, observed: &mut Observed, now: &Now) {
    for timers in [&mut observed.timers, &mut observed.watches] {
        while let Some(name) = timers.take_due(now.mono) {
            observed.dirty.insert(name);
        }
    }
    let ending = observed.shutdown != desired.shutdown;
    observed.shutdown = desired.shutdown;
    if std::mem::take(&mut observed.all_dirty) || ending {
        let known: Vec<Name> = observed.records().map(|record| record.name.clone()).collect();
        observed.dirty.extend(known);
        observed.dirty.extend(desired.containers.keys().cloned());
    }
}

/// Judges all that is dirty, and what that concerns, until nothing changes.
fn settle(desired: &Desired, observed: &mut Observed, now: &Now, touched: &mut BTreeSet<Name>) {
    for name in observed.dirty.clone() {
        accept(desired, observed, &name, now);
    }
    let closing = observed.graph.settle();
    observed.dirty.extend(closing);
    while let Some(name) = observed.dirty.pop_first() {
        let Some(record) = observed.record(&name) else {
            continue;
        };
        let node = judge(desired, observed, record);
        let same = observed.nodes.get(&name).is_some_and(|old| old.means_the_same(&node));
        observed.nodes.insert(name.clone(), node);
        if !same {
            let neighbours = observed.graph.neighbours(&name);
            observed.dirty.extend(neighbours);
        }
        touched.insert(name);
    }
}

/// Takes the manifest in force into the record: a new one makes the container known,
/// an edited one takes back what a person or its policy had decided before.
fn accept(desired: &Desired, observed: &mut Observed, name: &Name, now: &Now) {
    if observed.record(name).is_none() {
        if !desired.containers.contains_key(name) || desired.shutdown.is_some() {
            return;
        }
        observed.create(name, None, now);
    }
    let Some(record) = observed.record(name) else {
        return;
    };
    let Force::Manifest(manifest) = in_force(desired, record) else {
        return;
    };
    if matches!(record.phase, Phase::Removing { .. } | Phase::Dead { .. }) {
        return;
    }
    let manifest = manifest.clone();
    if record.applied.is_none() && record.phase.is_alive() {
        // Adopted without a record: what lives is taken for what is declared.
        let applied = Some(manifest.clone());
        observed.edit(name, |record| record.applied = applied);
    }
    let Some(record) = observed.record(name) else {
        return;
    };
    if let Some(old) = &record.last_good {
        if Arc::ptr_eq(old, &manifest) {
            return;
        }
        if *old == manifest {
            observed.share(name, &manifest);
            return;
        }
    }
    observed.draw(name, Some(&manifest));
    observed.edit(name, |record| take(record, manifest));
}

fn take(record: &mut Record, manifest: Arc<Container>) {
    if let Some(old) = record.last_good.replace(manifest.clone()) {
        let keys = match Change::between(&old, &manifest) {
            Change::None => return,
            Change::InPlace { keys } | Change::Replace { keys } => keys,
        };
        record.held = None;
        record.streak = 0;
        if let Phase::Exited(Rest::Finished | Rest::Skipped { .. })
        | Phase::Backoff { .. }
        | Phase::Scheduled { .. } = record.phase
        {
            record.phase = Phase::Exited(Rest::Stopped { why: StopWhy::Edited { keys } });
        }
    }
}

/// One container's next step.
fn step(desired: &Desired, observed: &mut Observed, name: &Name, now: &Now) {
    let Some(record) = observed.record(name) else {
        return;
    };
    let Some(node) = observed.nodes.get(name) else {
        return;
    };
    let incarnation = record.incarnation;
    let hurry = desired.shutdown.is_some_and(|shutdown| shutdown.hurry);
    let force = in_force(desired, record);
    let forced = hurry || (observed.forced.contains(name) && matches!(force, Force::Gone));
    match (&record.phase, node.down.clone()) {
        (Phase::Ended { why }, down) => {
            let why = down.filter(|_| why.is_none()).or(why.clone());
            let phase = after_the_end(desired, record, why, now);
            // Whom clients start waits for the next one, as it did for the first.
            let waits = phase == Phase::Exited(Rest::Finished)
                && record.last_good.as_ref().is_some_and(|last| last.start == Start::OnDemand);
            observed.edit(name, |record| {
                record.phase = phase;
                record.demanded &= !waits;
            });
        }
        (Phase::Created | Phase::Exited(_) | Phase::Scheduled { .. }, Some(StopWhy::Removed))
            if matches!(force, Force::Gone) && !observed.strays.contains_key(name) =>
        {
            observed.set_phase(name, Phase::Removing { tried: 0 });
            observed.queue.push(Action::Discard { name: name.clone() });
        }
        (Phase::Backoff { .. } | Phase::Scheduled { .. }, Some(why)) => {
            observed.set_phase(name, Phase::Exited(Rest::Stopped { why }));
        }
        (Phase::Backoff { until, .. } | Phase::Scheduled { until, .. }, None)
            if *until > now.mono => {}
        (
            Phase::Created
            | Phase::Exited(Rest::Stopped { .. } | Rest::Boot | Rest::Skipped { .. }),
            None,
        ) if matches!(&force, Force::Manifest(manifest) if manifest.is_timed()) => {
            if let Force::Manifest(manifest) = force {
                let phase = super::service::next_run(desired, record, manifest, now);
                observed.set_phase(name, phase);
            }
        }
        (
            Phase::Created
            | Phase::Exited(Rest::Stopped { .. } | Rest::Boot)
            | Phase::Backoff { .. }
            | Phase::Scheduled { .. },
            None,
        ) => {
            if let Force::Manifest(manifest) = force {
                let manifest = manifest.clone();
                launch(observed, name, &manifest, now);
            }
        }
        (Phase::Running(_), Some(why)) => {
            if held_up(observed, name) {
                return;
            }
            stop(desired, observed, name, why, forced, now);
        }
        (Phase::Running(_), None) if observed.failing(record, now).is_some() => {
            if let Some(why) = observed.failing(record, now) {
                stop(desired, observed, name, why, forced, now);
            }
        }
        (Phase::Running(_), None) => {
            if let Force::Manifest(manifest) = force {
                let manifest = manifest.clone();
                change_in_place(observed, name, &manifest);
            }
        }
        (Phase::Stopping { deadline, escalated, .. }, _)
            if deadline.is_some_and(|at| at <= now.mono) || (forced && !escalated) =>
        {
            observed.edit(name, |record| {
                if let Phase::Stopping { deadline, escalated, .. } = &mut record.phase {
                    *escalated = true;
                    *deadline = Some(now.mono.saturating_add(KILL_AGAIN));
                }
            });
            observed.queue.push(Action::KillAll { name: name.clone(), incarnation });
        }
        (Phase::Ending { deadline, .. }, _) if *deadline <= now.mono => {
            observed.edit(name, |record| {
                if let Phase::Ending { deadline, .. } = &mut record.phase {
                    *deadline = now.mono.saturating_add(KILL_AGAIN);
                }
            });
            observed.queue.push(Action::KillAll { name: name.clone(), incarnation });
        }
        (Phase::Dead { until, tried, .. }, _) if *until <= now.mono => {
            let tried = *tried;
            observed.set_phase(name, Phase::Removing { tried });
            observed.queue.push(Action::Discard { name: name.clone() });
        }
        _ => {}
    }
}

/// What becomes of a container that has ended: its restart policy, unless it was
/// asked to end.
fn after_the_end(desired: &Desired, record: &Record, why: Option<StopWhy>, now: &Now) -> Phase {
    let fault = why.as_ref().is_some_and(StopWhy::is_its_fault);
    if let Some(why) = why.filter(|why| !why.is_its_fault()) {
        return Phase::Exited(Rest::Stopped { why });
    }
    let restart = record.restart();
    let manifest = record.last_good.as_deref().or(record.applied.as_deref());
    let timed = manifest.filter(|manifest| manifest.is_timed());
    let oneshot = manifest.is_some_and(|manifest| manifest.kind == Kind::Oneshot);
    let success = !fault && record.last_exit.as_ref().is_some_and(|exit| exit.status.is_success());
    let is_main = desired.main.as_ref() == Some(record.called());
    let again = match restart.policy {
        RestartPolicy::No => false,
        // Its end is that of all; whoever started Berth decides whether it begins again.
        RestartPolicy::Always | RestartPolicy::UnlessStopped if is_main => false,
        RestartPolicy::OnFailure { max } => !success && max.is_none_or(|max| record.streak <= max),
        RestartPolicy::Always | RestartPolicy::UnlessStopped if timed.is_some() => false,
        // Once is enough, but once it has to be.
        RestartPolicy::Always | RestartPolicy::UnlessStopped => !(oneshot && success),
    };
    if let Some(manifest) = timed.filter(|_| !again) {
        return super::service::next_run(desired, record, manifest, now);
    }
    if !again {
        return Phase::Exited(Rest::Finished);
    }
    let attempt = record.streak.max(1);
    let jitter = spread(&record.id, record.incarnation);
    let until = now.mono.saturating_add(pause(&restart, attempt, jitter));
    Phase::Backoff { until, attempt }
}

fn launch(observed: &mut Observed, name: &Name, manifest: &Arc<Container>, now: &Now) {
    if manifest.is_target() {
        return;
    }
    // Looked at again, for a rival may have been launched in this very decision.
    if let Some(block) = block(observed, name) {
        if let Some(node) = observed.nodes.get_mut(name)
            && node.block.as_ref() != Some(&block)
        {
            node.block = Some(block);
            observed.dirty.insert(name.clone());
        }
        return;
    }
    let runs = |owner: Name| {
        let owner = observed.meant(&owner);
        let incarnation = observed.nodes.get(&owner)?.runs?;
        Some(Joined { name: owner, incarnation })
    };
    let joined = manifest.joined().into_iter().filter_map(runs).collect();
    observed.live.remove(name);
    let order = observed.edit(name, |record| {
        let replaced = record
            .applied
            .as_ref()
            .is_some_and(|old| matches!(Change::between(old, manifest), Change::Replace { .. }));
        if let Phase::Backoff { .. } = record.phase {
            record.restarts += 1;
        }
        record.renew |= replaced;
        record.incarnation += 1;
        record.applied = Some(manifest.clone());
        record.joined = joined;
        record.live_error = None;
        record.boot_id = now.boot_id.clone();
        if manifest.is_timed() {
            // A clock that lags behind comes to this time once more.
            let due = match record.phase {
                Phase::Scheduled { due, .. } => due,
                _ => now.wall,
            };
            record.last_run = Some(now.wall.max(due));
        }
        if record.timing.is_none() {
            let incarnation = record.incarnation;
            record.timing = Some(Timing { incarnation, ordered: now.mono, ..Timing::default() });
        }
        record.phase = Phase::Launching { since: now.mono, ready: false };
        Action::Launch {
            name: record.name.clone(),
            incarnation: record.incarnation,
            renew: record.renew,
        }
    });
    observed.queue.extend(order);
}

/// Whether one that has to end before this one still lives.
fn held_up(observed: &mut Observed, name: &Name) -> bool {
    let from = observed.nodes.get(name).and_then(|node| node.held_up_by.clone());
    let lives = |(by, edge): (&Name, super::graph::Edge)| {
        let node = observed.nodes.get(by)?;
        let goes = edge.needs() || (edge.orders() && node.down.is_some());
        (goes && node.alive).then(|| by.clone())
    };
    // From the last one on: those before it have ended, and nothing begins meanwhile.
    let by = observed
        .graph
        .back(name, from.as_ref())
        .find_map(lives)
        .or_else(|| observed.graph.back(name, None).find_map(lives));
    let held_up = by.is_some();
    if let Some(node) = observed.nodes.get_mut(name) {
        node.held_up_by = by;
    }
    held_up
}

fn stop(
    desired: &Desired,
    observed: &mut Observed,
    name: &Name,
    why: StopWhy,
    forced: bool,
    now: &Now,
) {
    let Some(record) = observed.record(name) else {
        return;
    };
    let Phase::Running(run) = &record.phase else {
        return;
    };
    let mut run = run.clone();
    let incarnation = record.incarnation;
    let settings = match in_force(desired, record) {
        Force::Manifest(manifest) => manifest.stop.clone(),
        _ => record.applied.as_ref().map(|manifest| manifest.stop.clone()).unwrap_or_default(),
    };
    let mut signal = record.stop_signal(&settings);
    let mut timeout = settings.timeout;
    if let (StopWhy::ByHand, Some(held)) = (&why, &record.held) {
        signal = held.signal.unwrap_or(signal);
        timeout = held.timeout.unwrap_or(timeout);
    }
    if let (StopWhy::Restart, Some(Asked::Restart { signal: with, timeout: within })) =
        (&why, run.asked)
    {
        signal = with.unwrap_or(signal);
        timeout = within.unwrap_or(timeout);
    }
    if why == StopWhy::Watchdog {
        // As systemd does it: who hangs leaves a core to look at.
        signal = Signal(libc::SIGABRT);
    }
    let escalated = forced || timeout.is_zero() || signal == Signal::KILL;
    let thaw = run.paused && !escalated;
    run.paused &= escalated;
    let deadline = match escalated {
        true => now.mono.checked_add(KILL_AGAIN),
        false => now.mono.checked_add(timeout),
    };
    observed.set_phase(name, Phase::Stopping { run, why, signal, deadline, escalated });
    let name = name.clone();
    if escalated {
        observed.queue.push(Action::KillAll { name, incarnation });
    } else {
        observed.queue.push(Action::Signal { name: name.clone(), incarnation, signal });
        // A frozen payload takes the signal when it is thawed.
        observed.queue.extend(thaw.then_some(Action::Thaw { name, incarnation }));
    }
}

fn change_in_place(observed: &mut Observed, name: &Name, manifest: &Arc<Container>) {
    let Some(record) = observed.record(name) else {
        return;
    };
    let incarnation = record.incarnation;
    let Some(old) = &record.applied else { return };
    let ordered = observed.live.get(name).filter(|live| live.incarnation == incarnation);
    if Arc::ptr_eq(old, manifest) && ordered.is_none() && record.live_error.is_none() {
        return;
    }
    if ordered.is_some_and(|live| live.to == *manifest) {
        return;
    }
    let keys = match (Change::between(old, manifest), ordered) {
        (Change::InPlace { keys }, _) => keys,
        // Back to what was, from a version that was refused, by half perhaps, or is under
        // way.
        (Change::None, Some(live)) => match Change::between(&live.to, manifest) {
            Change::InPlace { keys } | Change::Replace { keys } => keys,
            Change::None => Vec::new(),
        },
        (Change::None, None) if record.live_error.is_some() => Vec::new(),
        _ => return,
    };
    // What the last version was refused for says nothing of this one.
    observed.edit(name, |record| record.live_error = None);
    observed.live.insert(name.clone(), Live { to: manifest.clone(), incarnation });
    observed.queue.push(Action::ApplyLive {
        name: name.clone(),
        incarnation,
        keys,
        to: manifest.clone(),
    });
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use std::time::Duration;

    /// A change that was refused is undone by going back; and what comes of one version
    /// is not taken for another's.
    #[test]
    fn a_live_change_that_failed_is_undone_by_going_back() {
        let now = Now { mono: Duration::from_secs(1), wall: 0, boot_id: "b".into() };
        let name: Name = "c".parse().unwrap();
        let version = |team: &str| {
            let labels = [("team".to_owned(), team.to_owned())].into();
            Arc::new(Container { labels, ..Container::default() })
        };
        let mut desired = Desired::default();
        let mut observed = Observed::restore([], 1, &now);
        observed.apply(Event::AdoptionDone, &now).unwrap();
        let mut turn = |observed: &mut Observed, version: &Arc<Container>| {
            desired.containers.insert(name.clone(), version.clone());
            let changed = Event::ManifestsChanged([name.clone()].into());
            observed.apply(changed, &now).unwrap();
            decide(&desired, observed, &now).actions
        };
        let is_live = |actions: &[Action]| matches!(actions, [Action::ApplyLive { .. }]);
        let done = |observed: &mut Observed, to: &Arc<Container>, result| {
            let event = Event::LiveApplied { name: name.clone(), to: to.clone(), result };
            observed.apply(event, &now).unwrap();
        };
        let (old, new) = (version("a"), version("b"));
        turn(&mut observed, &old);
        let event = Event::Launched { name: name.clone(), incarnation: 1, pid: 1 };
        observed.apply(event, &now).unwrap();
        assert!(turn(&mut observed, &old).is_empty());
        assert!(is_live(&turn(&mut observed, &new)));
        done(&mut observed, &new, Err("no".to_owned()));
        assert!(turn(&mut observed, &new).is_empty(), "it is tried once");
        assert!(observed.record(&name).unwrap().live_error.is_some());
        assert!(is_live(&turn(&mut observed, &old)));
        assert!(turn(&mut observed, &old).is_empty());
        // Told late.
        done(&mut observed, &new, Ok(()));
        let record = observed.record(&name).unwrap();
        assert_eq!((record.applied.as_ref(), &record.live_error), (Some(&old), &None));
        done(&mut observed, &old, Ok(()));
        assert!(turn(&mut observed, &old).is_empty());
        assert!(is_live(&turn(&mut observed, &new)));
    }

    /// Ten thousand behind one another or behind one: no recursion, no quadratic work.
    #[test]
    fn ten_thousand_start_and_stop_in_order() {
        for chain in [false, true] {
            let now = Now { mono: Duration::from_secs(1), wall: 0, boot_id: "b".into() };
            let name = |i: u32| -> Name { format!("c{i:05}").parse().unwrap() };
            let mut desired = Desired::default();
            for i in 0..10_000 {
                let on = if chain { i.max(1) - 1 } else { 0 };
                let requires = vec![name(on)];
                desired
                    .containers
                    .insert(name(i), Arc::new(Container { requires, ..Container::default() }));
            }
            let mut observed = Observed::restore([], 1, &now);
            observed.apply(Event::AdoptionDone, &now).unwrap();
            let mut order = Vec::new();
            let mut todo = decide(&desired, &mut observed, &now).actions;
            while let Some(action) = todo.pop() {
                match action {
                    Action::Launch { name, incarnation, .. } => {
                        order.push(name.clone());
                        let event = Event::Launched { name, incarnation, pid: 1 };
                        observed.apply(event, &now).unwrap();
                    }
                    Action::Signal { name, incarnation, .. } => {
                        order.push(name.clone());
                        observed.apply(Event::Gone { name, incarnation }, &now).unwrap();
                    }
                    Action::Finish => break,
                    action => panic!("{action:?}"),
                }
                todo.extend(decide(&desired, &mut observed, &now).actions);
                if order.len() == 10_000 && desired.shutdown.is_none() {
                    assert_eq!(order.first(), Some(&name(0)));
                    desired.shutdown = Some(Shutdown { hurry: false });
                    todo.extend(decide(&desired, &mut observed, &now).actions);
                }
            }
            assert_eq!(order.len(), 20_000);
            assert_eq!(order.last(), Some(&name(0)));
        }
    }
}
