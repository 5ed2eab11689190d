//! What a set of manifests would change, told beforehand: the pure part of
//! `berth plan`. It judges by the same comparison as the reconciler, so that what it
//! foretells is what happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::reconcile::{Change as Difference, Desired, Observed, Phase, Record, Rest};
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::manifest::variants::NetworkMode;

/// What would become of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Which container.
    pub name: Name,
    /// What would happen.
    pub kind: Kind,
    /// The keys of its manifest that differ.
    pub keys: Vec<String>,
    /// Why, in one sentence.
    pub why: String,
}

/// What would happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is new, and launched.
    Create,
    /// It goes on running, with other settings.
    ChangeInPlace,
    /// It is stopped, and launched with a fresh writable layer.
    Replace,
    /// It is stopped and launched again as it is, because of another container.
    Restart,
    /// It does not run, and is launched.
    Start,
    /// It is stopped, and what is left of it removed.
    Stop,
    /// Nothing.
    None,
}

/// What `desired` would change: one entry for each container that is declared or
/// known, by name. Who is desired is so under what they are kept under.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Change> {
    let known = observed.records().map(|record| &record.name);
    let names: BTreeSet<&Name> =
        known.chain(desired.containers.keys()).chain(desired.broken.keys()).collect();
    let mut changes: BTreeMap<&Name, Change> =
        names.into_iter().map(|name| (name, alone(desired, observed.record(name), name))).collect();
    let mut interrupted: Vec<Name> = changes
        .values()
        .filter(|change| matches!(change.kind, Kind::Replace | Kind::Stop))
        .map(|change| change.name.clone())
        .collect();
    let needed_by = needed_by(desired, observed);
    while let Some(name) = interrupted.pop() {
        for by in needed_by.get(&name).into_iter().flatten() {
            let runs = observed.record(by).is_some_and(|record| record.phase.is_alive());
            if let Some(change) = changes.get_mut(by)
                && runs
                && matches!(change.kind, Kind::None | Kind::ChangeInPlace)
            {
                change.kind = Kind::Restart;
                change.why = format!("it needs {name}, which is interrupted");
                interrupted.push(by.clone());
            }
        }
    }
    // What people know it by.
    let called = |change: Change| Change { name: observed.called(&change.name), ..change };
    changes.into_values().map(called).collect()
}

/// What its own manifest does to a container.
fn alone(desired: &Desired, record: Option<&Record>, name: &Name) -> Change {
    let (kind, keys, why) = match (desired.containers.get(name), record) {
        (None, _) if desired.broken.contains_key(name) => {
            let error = desired.broken.get(name).map(String::as_str).unwrap_or_default();
            (Kind::None, vec![], format!("its manifest is broken and changes nothing: {error}"))
        }
        (None, _) => (Kind::Stop, vec![], "no manifest declares it any more".to_owned()),
        (Some(_), None) => (Kind::Create, vec![], "it is new".to_owned()),
        (Some(new), Some(record)) => edited(new, record),
    };
    Change { name: name.clone(), kind, keys, why }
}

fn edited(new: &Arc<Container>, record: &Record) -> (Kind, Vec<String>, String) {
    let alive = record.phase.is_alive();
    let old = match alive {
        true => record.applied.as_ref().or(record.last_good.as_ref()),
        false => record.last_good.as_ref().or(record.applied.as_ref()),
    };
    let difference = old.map_or(Difference::None, |old| Difference::between(old, new));
    match (alive, difference) {
        (true, Difference::InPlace { keys }) => {
            (Kind::ChangeInPlace, keys, "these keys change while it runs".to_owned())
        }
        (true, Difference::Replace { keys }) => {
            (Kind::Replace, keys, "these keys need a new incarnation".to_owned())
        }
        (true, Difference::None) => (Kind::None, vec![], "it runs as declared".to_owned()),
        (false, Difference::InPlace { keys } | Difference::Replace { keys }) => {
            (Kind::Start, keys, "an edit starts it again".to_owned())
        }
        (false, Difference::None) if record.held.is_some() => {
            (Kind::None, vec![], "it was stopped by hand".to_owned())
        }
        (false, Difference::None) => match record.phase {
            Phase::Exited(Rest::Finished) => {
                (Kind::None, vec![], "it has ended, and its policy leaves it so".to_owned())
            }
            _ => (Kind::Start, vec![], "it is to run, and does not yet".to_owned()),
        },
    }
}

/// Who is interrupted when a container is.
fn needed_by(desired: &Desired, observed: &Observed) -> BTreeMap<Name, BTreeSet<Name>> {
    let mut needed_by: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
    for record in observed.records() {
        let manifest = desired.containers.get(&record.name).or(record.last_good.as_ref());
        let Some(manifest) = manifest else { continue };
        for on in &manifest.requires {
            needed_by.entry(observed.meant(on)).or_default().insert(record.name.clone());
        }
        if let NetworkMode::Container(on) = manifest.network_mode() {
            needed_by.entry(observed.meant(&on)).or_default().insert(record.name.clone());
        }
    }
    needed_by
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::reconcile::{Event, Now, decide};
    use crate::manifest::scalar::Size;
    use std::time::Duration;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn kinds(desired: &Desired, observed: &Observed) -> Vec<(String, Kind, Vec<String>)> {
        plan(desired, observed)
            .into_iter()
            .map(|change| (change.name.to_string(), change.kind, change.keys))
            .collect()
    }

    #[test]
    fn each_edit_is_foretold_by_its_cost() {
        let now = Now { mono: Duration::ZERO, wall: 0, boot_id: "b".into() };
        let mut desired = Desired::default();
        for who in ["db", "gone", "job", "web"] {
            let mut container = Container::default();
            if who == "web" {
                container.requires = vec![name("db")];
            }
            desired.containers.insert(name(who), Arc::new(container));
        }
        let mut observed = Observed::restore([], 1, &now);
        assert!(plan(&desired, &observed).iter().all(|change| change.kind == Kind::Create));
        observed.apply(Event::AdoptionDone, &now).unwrap();
        decide(&desired, &mut observed, &now);
        for who in ["db", "gone", "job", "web"] {
            let event = Event::Launched { name: name(who), incarnation: 1, pid: 9 };
            decide(&desired, &mut observed, &now);
            observed.apply(event, &now).unwrap();
        }
        decide(&desired, &mut observed, &now);
        observed
            .apply(Event::Launched { name: name("web"), incarnation: 1, pid: 9 }, &now)
            .unwrap();
        assert!(plan(&desired, &observed).iter().all(|change| change.kind == Kind::None));

        let mut db = Container { command: vec!["x".into()], ..Container::default() };
        db.resources.memory = Some(Size(1));
        desired.containers.insert(name("db"), Arc::new(db));
        desired.containers.remove(&name("gone"));
        let mut job = Container::default();
        job.resources.pids = Some(7);
        desired.containers.insert(name("job"), Arc::new(job));
        assert_eq!(
            kinds(&desired, &observed),
            [
                ("db".into(), Kind::Replace, vec!["command".into()]),
                ("gone".into(), Kind::Stop, vec![]),
                ("job".into(), Kind::ChangeInPlace, vec!["resources.pids".into()]),
                ("web".into(), Kind::Restart, vec![]),
            ]
        );
        desired.containers.remove(&name("job"));
        desired.broken.insert(name("job"), "line 1".into());
        assert_eq!(kinds(&desired, &observed)[2], ("job".into(), Kind::None, vec![]));
    }
}
