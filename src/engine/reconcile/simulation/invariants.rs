//! What must hold: after every decision, and once all is quiet. Written from what a
//! user was promised, not from how the reconciler does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::*;
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::manifest::service::Kind;

/// What the simulation itself remembers of what people and files asked for.
#[derive(Default)]
pub struct Promises {
    /// Stopped by hand, and none of the three causes to start it since.
    pub held: BTreeSet<Name>,
    /// `restart` was asked for.
    pub restart: BTreeSet<Name>,
    /// The manifest of each latest launch, by id.
    pub launched_as: BTreeMap<String, Arc<Container>>,
    /// The manifests have a cycle: order can't be kept, all else must be.
    pub cyclic: bool,
}

pub fn in_force(desired: &Desired, record: &Record) -> Option<Arc<Container>> {
    match desired.containers.get(&record.name) {
        Some(container) => Some(container.clone()),
        None if desired.broken.contains_key(&record.name) => record.last_good.clone(),
        None => None,
    }
}

/// Whom a container can't be without.
pub fn needs(container: &Container) -> Vec<Name> {
    let mut needs = container.requires.clone();
    needs.extend(container.joined());
    needs
}

/// The manifest without what changes in place.
fn fixed(container: &Container) -> Container {
    let default = Container::default();
    Container {
        resources: default.resources,
        restart: default.restart,
        log: default.log,
        stop: default.stop,
        health: default.health,
        signals: default.signals,
        labels: default.labels,
        after: default.after,
        requires: default.requires,
        wants: default.wants,
        conflicts: default.conflicts,
        ..container.clone()
    }
}

pub fn ready(record: &Record) -> bool {
    match &record.phase {
        Phase::Running(run) => {
            let manifest = record.applied.as_ref();
            let said = run.ready.is_some()
                || !manifest.is_some_and(|manifest| manifest.tells_when_ready());
            let done = manifest
                .is_none_or(|manifest| manifest.kind != Kind::Oneshot || manifest.is_timed());
            said && done && matches!(run.health, None | Some(HealthStatus::Healthy))
        }
        Phase::Exited(Rest::Finished) => {
            record.last_exit.as_ref().is_some_and(|exit| exit.status.is_success())
        }
        Phase::Exited(Rest::Skipped { .. }) => true,
        _ => false,
    }
}

/// Whether `on` is ready, through targets.
fn is_ready(desired: &Desired, observed: &Observed, on: &Name, depth: u32) -> bool {
    let Some(record) = observed.record(on) else { return false };
    if in_force(desired, record).is_some_and(|manifest| manifest.is_timed()) {
        return record.held.is_none();
    }
    match in_force(desired, record).filter(|m| m.is_target() && !record.phase.is_alive()) {
        Some(target) => {
            depth > 9 || needs(&target).iter().all(|to| is_ready(desired, observed, to, depth + 1))
        }
        None => ready(record),
    }
}

pub type Records = BTreeMap<Name, Record>;

/// After one decision: `before` are the records as they were when it was made.
pub fn after_decision(
    before: &Records,
    decision: &Decision,
    desired: &Desired,
    observed: &Observed,
    promises: &mut Promises,
    now: &Now,
) {
    if let Some(at) = decision.wake_at {
        assert!(at > now.mono, "it wants to be woken in the past: idle would not be idle");
    }
    for action in &decision.actions {
        if let Action::Launch { name, .. } = action {
            let record = observed.record(name).unwrap();
            let manifest = in_force(desired, record).expect("launched without a manifest");
            assert!(!manifest.is_target(), "{name} is a target and launched");
            if let Some(Record { phase: Phase::Scheduled { until, .. }, last_good, .. }) =
                before.get(name)
                && last_good.as_ref() == Some(&manifest)
            {
                assert!(*until <= now.mono, "{name} is run before its time");
            }
        }
        if let Action::Launch { name, incarnation, renew } = action {
            let record = observed.record(name).unwrap();
            assert!(decision.save.contains(name), "{name} is launched and not saved");
            assert!(desired.shutdown.is_none(), "{name} is launched in a shutdown");
            assert!(!promises.held.contains(name), "{name} is launched, but stopped by hand");
            assert_eq!(*incarnation, record.incarnation);
            let manifest = in_force(desired, record).expect("launched without a manifest");
            assert_eq!(record.applied.as_ref(), Some(&manifest));
            if let Some(old) = promises.launched_as.get(&record.id)
                && fixed(old) != fixed(&manifest)
            {
                assert!(renew, "{name} was replaced and keeps its writable layer");
            }
            promises.launched_as.insert(record.id.clone(), manifest.clone());
            promises.restart.remove(name);
            if let Some(Record { phase: Phase::Backoff { until, .. }, last_good, .. }) =
                before.get(name)
                && last_good.as_ref() == Some(&manifest)
            {
                assert!(*until <= now.mono, "{name} is launched before its pause is over");
            }
            if !promises.cyclic {
                for on in needs(&manifest).iter().filter(|on| *on != name) {
                    let ready = is_ready(desired, observed, on, 0);
                    assert!(ready, "{name} is launched before {on} is ready");
                }
            }
            for with in &manifest.conflicts {
                let other = observed.record(with);
                assert!(
                    with == name || !other.is_some_and(|other| other.phase.is_alive()),
                    "{name} is launched beside {with}"
                );
            }
        }
    }
    for record in observed.records() {
        let Some(old) = before.get(&record.name).filter(|old| old.id == record.id) else {
            continue;
        };
        let name = &record.name;
        assert!(record.restarts >= old.restarts, "{name}: restarts are forgotten");
        assert!(record.incarnation >= old.incarnation, "{name}: incarnations go backwards");
        if old != record {
            assert!(decision.save.contains(name), "{name} changed and is not saved");
        }
        if let (Phase::Backoff { until, .. }, true) = (&record.phase, old.phase != record.phase) {
            let restart = in_force(desired, record).map(|m| m.restart.clone()).unwrap_or_default();
            let pause = until.saturating_sub(now.mono);
            assert!(
                pause >= restart.backoff && pause <= restart.max_backoff.max(restart.backoff),
                "{name}: a pause of {pause:?}"
            );
        }
        if let (Phase::Running(_), Phase::Stopping { why, .. }) = (&old.phase, &record.phase) {
            stopped_for_a_cause(record, why, desired, observed, promises);
            if !promises.cyclic && !why.is_its_fault() {
                stopped_in_order(record, before, desired);
            }
        }
    }
}

/// Never a stop, and so never a restart, without a cause.
fn stopped_for_a_cause(
    record: &Record,
    why: &StopWhy,
    desired: &Desired,
    observed: &Observed,
    promises: &Promises,
) {
    let name = &record.name;
    let manifest = in_force(desired, record);
    let ok = match why {
        StopWhy::ByHand => record.held.is_some(),
        StopWhy::Removed => !desired.declares(name),
        StopWhy::Shutdown => desired.shutdown.is_some(),
        StopWhy::Restart => promises.restart.contains(name),
        StopWhy::Edited { .. } => match (promises.launched_as.get(&record.id), &manifest) {
            (Some(old), Some(new)) => fixed(old) != fixed(new),
            _ => false,
        },
        StopWhy::Dependency { on } => {
            manifest.is_some_and(|m| needs(&m).contains(on))
                && observed.nodes.get(on).is_some_and(|node| node.down.is_some())
        }
        StopWhy::Network { of } => {
            let joined = record.joined.iter().find(|joined| joined.name == *of);
            observed.record(of).is_some_and(|owner| {
                joined.is_some_and(|joined| owner.incarnation != joined.incarnation)
            })
        }
        StopWhy::Conflict { with } => {
            manifest.is_some_and(|m| m.conflicts.contains(with))
                && observed.record(with).is_some_and(|other| other.phase.is_alive())
        }
        StopWhy::NotReady => !ready(record) && manifest.is_some_and(|m| m.ready_within().is_some()),
        StopWhy::Watchdog => record.applied.as_ref().is_some_and(|m| m.watchdog.is_some()),
        StopWhy::Lost | StopWhy::Idle => false,
    };
    assert!(ok, "{name} is stopped without a cause; it says {why:?}");
}

/// Those that need it have ended before.
fn stopped_in_order(record: &Record, before: &Records, desired: &Desired) {
    for other in before.values() {
        let needs_it = in_force(desired, other)
            .or_else(|| other.applied.clone())
            .is_some_and(|manifest| needs(&manifest).contains(&record.name));
        assert!(
            other.name == record.name || !needs_it || !other.phase.is_alive(),
            "{} is stopped while {} needs it",
            record.name,
            other.name
        );
    }
}

/// Once faults have stopped and time has passed: the machine is as the manifests say.
pub fn converged(desired: &Desired, observed: &Observed, promises: &Promises) {
    for (name, manifest) in &desired.containers {
        let record = observed.record(name).unwrap_or_else(|| panic!("{name} is not known"));
        assert_eq!(record.last_good.as_ref(), Some(manifest), "{name}: not the latest manifest");
    }
    for record in observed.records() {
        let name = &record.name;
        assert!(desired.declares(name), "{name} is still known");
        let Some(manifest) = in_force(desired, record) else {
            continue;
        };
        if record.held.is_some() || promises.held.contains(name) {
            assert!(!record.phase.is_alive(), "{name} runs, but was stopped by hand");
            continue;
        }
        if manifest.is_target() && !record.phase.is_alive() {
            continue;
        }
        if let Phase::Running(_) = record.phase {
            let applied = record.applied.as_ref().unwrap();
            assert_eq!(fixed(applied), fixed(&manifest), "{name} runs an old manifest");
            assert!(record.live_error.is_some() || *applied == manifest, "{name}: not in line");
            continue;
        }
        if record.phase == Phase::Exited(Rest::Finished) {
            use crate::manifest::variants::RestartPolicy::{No, OnFailure};
            let policy = manifest.restart.policy;
            let done = manifest.kind == Kind::Oneshot && ready(record);
            assert!(done || matches!(policy, No | OnFailure { .. }), "{name} is given up");
            continue;
        }
        if manifest.is_timed() && matches!(record.phase, Phase::Scheduled { .. }) {
            continue;
        }
        // Killed again and again by its watchdog, or done every time it is run.
        let restless = manifest.watchdog.is_some() || manifest.kind != Kind::Service;
        if matches!(record.phase, Phase::Exited(Rest::Skipped { .. })) || restless {
            continue;
        }
        let unmet = |on: &Name| !is_ready(desired, observed, on, 0);
        let nothing_to_join = manifest.joined().iter().any(|of| {
            !observed.record(of).is_some_and(|owner| matches!(owner.phase, Phase::Running(_)))
        });
        let rival = observed.records().any(|other| {
            let theirs = in_force(desired, other).is_some_and(|m| m.conflicts.contains(name));
            other.phase.is_alive() && (theirs || manifest.conflicts.contains(&other.name))
        });
        assert!(
            promises.cyclic || nothing_to_join || rival || needs(&manifest).iter().any(unmet),
            "{name} does not run, and nothing speaks against it: {:?} {:?}",
            record.phase,
            observed.block(name)
        );
    }
}
