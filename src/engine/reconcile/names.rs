//! Containers that got another name while they ran.
//!
//! What a container is *kept under* ([`Record::name`](super::Record::name): its record, its
//! folders, its cgroup, the keeper's tags, its leases) can't change under something that
//! runs. So only what people call it does, and once it rests it is moved to be kept under
//! that name. Until then somebody else may be called as it is kept under, and is kept under
//! a name with a number.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::Refused;
use super::observed::Observed;
use super::record::{Phase, Record};
use crate::manifest::model::Container;
use crate::manifest::scalar::{NAME_MAX, Name};

/// What those are kept under that are not kept under their name. Nobody is called as two,
/// nobody is kept under two.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<Name, Name>);

impl Names {
    /// What the container of this name is, or would be, kept under; nothing if that is
    /// taken by one of another name.
    fn kept_under(&self, called: &Name) -> Option<Name> {
        let taken = || self.0.values().any(|kept| kept == called);
        self.0.get(called).cloned().or_else(|| (!taken()).then(|| called.clone()))
    }

    fn called(&self, kept: &Name) -> Option<&Name> {
        self.0.iter().find(|(_, other)| *other == kept).map(|(called, _)| called)
    }

    /// The first name with a number that nothing is kept under.
    fn free(&self, called: &Name, is_taken: impl Fn(&Name) -> bool) -> Name {
        let numbered = |number: u32| {
            let number = number.to_string();
            let fits = NAME_MAX - number.len() - 1;
            let stem = called.as_str().get(..fits).unwrap_or(called.as_str());
            format!("{stem}.{number}").parse().ok()
        };
        let is_free = |name: &Name| !is_taken(name) && self.called(name).is_none();
        (1..).filter_map(numbered).find(is_free).unwrap_or_else(|| called.clone())
    }
}

impl Observed {
    /// What a container is kept under, by its name; nothing if there is and can be none.
    pub fn kept_under(&self, called: &Name) -> Option<Name> {
        self.names.kept_under(called)
    }

    /// The name of a container, by what it is kept under.
    pub fn called(&self, kept: &Name) -> Name {
        self.names.called(kept).unwrap_or(kept).clone()
    }

    /// Whom a manifest means by a name. Nobody is kept under what is told, if there is none.
    pub fn meant(&self, called: &Name) -> Name {
        self.names.kept_under(called).unwrap_or_else(|| self.free(called))
    }

    fn free(&self, called: &Name) -> Name {
        self.names.free(called, |name| self.records.contains_key(name))
    }

    /// What a container is to be kept under that is, or will be, known by this name.
    pub fn claim(&mut self, called: &Name) -> Name {
        if let Some(kept) = self.kept_under(called) {
            return kept;
        }
        let kept = self.free(called);
        self.names.0.insert(called.clone(), kept.clone());
        self.redraw();
        kept
    }

    /// Forgets what was claimed for containers that never came to be.
    pub fn release_claims(&mut self, declared: impl Fn(&Name) -> bool) {
        let records = &self.records;
        self.names.0.retain(|called, kept| records.contains_key(kept) || declared(called));
    }

    /// Gives a container another name, whether it runs or not. The record says which name
    /// it had until [`Observed::renamed`]: its manifest may still bear that.
    ///
    /// # Errors
    /// There is none, or one of the new name is there.
    pub fn call(&mut self, name: &Name, to: &Name) -> Result<(), Refused> {
        if self.kept_under(to).is_some_and(|kept| kept != *name && self.record(&kept).is_some()) {
            return Err(Refused::Exists);
        }
        let from = self.called(name);
        let called = (to != name).then(|| to.clone());
        self.edit(name, |record| {
            record.called.clone_from(&called);
            record.renamed_from = Some(from.clone());
        })
        .ok_or(Refused::Unknown)?;
        self.names.0.remove(&from);
        self.names.0.extend(called.map(|called| (called, name.clone())));
        self.redraw();
        Ok(())
    }

    /// All that bore the former name bears the new one.
    pub fn renamed(&mut self, name: &Name) {
        self.edit(name, |record| record.renamed_from = None);
    }

    /// A manifest says the same in other words, and so does what is known of it.
    pub fn rewrite(&mut self, name: &Name, change: impl Fn(&Container) -> Option<Container>) {
        self.edit(name, |record| {
            for manifest in [&mut record.applied, &mut record.last_good].into_iter().flatten() {
                if let Some(other) = change(manifest) {
                    *manifest = Arc::new(other);
                }
            }
        });
        self.redraw();
    }

    /// Those that rest and could be kept under their name again: what they are kept under,
    /// and their name.
    pub fn to_settle(&self) -> Vec<(Name, Name)> {
        let rests = |kept: &Name| {
            let phase = self.record(kept).map(|record| &record.phase);
            matches!(phase, Some(Phase::Created | Phase::Exited(_)))
        };
        let is_free = |called: &Name| {
            !self.records.contains_key(called) && self.names.called(called).is_none()
        };
        let all = self.names.0.iter().filter(|(called, kept)| rests(kept) && is_free(called));
        all.map(|(called, kept)| (kept.clone(), called.clone())).collect()
    }

    /// Keeps a container that does not run under another name; all else of it stays.
    ///
    /// # Errors
    /// There is none, something is kept under that name, or it runs.
    pub fn settle(&mut self, name: &Name, to: &Name) -> Result<(), Refused> {
        if self.record(to).is_some() {
            return Err(Refused::Exists);
        }
        let record = self.record(name).ok_or(Refused::Unknown)?;
        if !matches!(record.phase, Phase::Created | Phase::Exited(_)) {
            return Err(Refused::Running);
        }
        let mut record = record.clone();
        let called = self.called(name);
        record.name = to.clone();
        record.called = (called != *to).then(|| called.clone());
        let manifest = record.last_good.clone();
        self.forget(name);
        self.forgotten.remove(to);
        self.unsaved.insert(to.clone());
        self.note_name(&record);
        self.insert(record);
        self.draw(to, manifest.as_deref());
        self.redraw();
        Ok(())
    }

    /// A record is there: it says what it is called.
    pub(super) fn note_name(&mut self, record: &Record) {
        self.names.0.retain(|_, kept| *kept != record.name);
        let called = record.called.clone();
        self.names.0.extend(called.map(|called| (called, record.name.clone())));
    }

    /// The record of this is gone.
    pub(super) fn drop_name(&mut self, kept: &Name) {
        let before = self.names.0.len();
        self.names.0.retain(|_, other| other != kept);
        if self.names.0.len() != before {
            self.redraw();
        }
    }

    /// Names mean others than before: all edges are drawn anew.
    pub(super) fn redraw(&mut self) {
        let edges = |record: &Record| record.last_good.clone().or_else(|| record.applied.clone());
        let all: Vec<_> = self.records.values().map(|r| (r.name.clone(), edges(r))).collect();
        for (name, manifest) in all {
            self.draw(&name, manifest.as_deref());
        }
        self.all_dirty = true;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::reconcile::{Desired, Event, Now, decide};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn now() -> Now {
        Now { mono: Duration::ZERO, wall: 0, boot_id: "b".into() }
    }

    fn running(names: &[&str]) -> (Desired, Observed) {
        let mut desired = Desired::default();
        let mut observed = Observed::restore([], 1, &now());
        observed.apply(Event::AdoptionDone, &now()).unwrap();
        for one in names {
            desired.containers.insert(name(one), Arc::new(Container::default()));
        }
        decide(&desired, &mut observed, &now());
        for one in names {
            let launched = Event::Launched { name: name(one), incarnation: 1, pid: 7 };
            observed.apply(launched, &now()).unwrap();
        }
        decide(&desired, &mut observed, &now());
        (desired, observed)
    }

    #[test]
    fn one_that_runs_is_called_otherwise_and_another_takes_its_name() {
        let (_, mut observed) = running(&["web"]);
        observed.call(&name("web"), &name("old")).unwrap();
        assert_eq!(observed.kept_under(&name("old")), Some(name("web")));
        assert_eq!(observed.kept_under(&name("web")), None);
        assert_eq!(observed.called(&name("web")), name("old"));
        assert_eq!(observed.record(&name("web")).unwrap().renamed_from, Some(name("web")));
        assert_eq!(observed.settle(&name("web"), &name("old")), Err(Refused::Running));
        assert_eq!(observed.to_settle(), []);

        let kept = observed.claim(&name("web"));
        assert_eq!(kept, name("web.1"));
        assert_eq!(observed.claim(&name("web")), kept);
        assert_eq!(observed.called(&kept), name("web"));
        // What has a number by itself is told apart.
        assert_eq!(observed.kept_under(&kept), None);
        assert_eq!(observed.claim(&kept), name("web.1.1"));
        observed.release_claims(|called| *called == name("web"));
        assert_eq!(observed.kept_under(&name("web")), Some(kept));

        observed.call(&name("web"), &name("web.old")).unwrap();
        assert_eq!(observed.kept_under(&name("old")), Some(name("old")));
        assert_eq!(observed.call(&name("gone"), &name("x")), Err(Refused::Unknown));
    }

    #[test]
    fn there_and_back_is_as_before() {
        let (_, mut observed) = running(&["a", "b"]);
        assert_eq!(observed.call(&name("a"), &name("b")), Err(Refused::Exists));
        observed.call(&name("a"), &name("c")).unwrap();
        observed.call(&name("b"), &name("a")).unwrap();
        assert_eq!(observed.called(&name("b")), name("a"));
        assert_eq!(observed.call(&name("a"), &name("a")), Err(Refused::Exists));
        observed.call(&name("b"), &name("b")).unwrap();
        observed.call(&name("a"), &name("a")).unwrap();
        assert_eq!(observed.record(&name("a")).unwrap().called, None);
        assert!(observed.names.0.is_empty());
    }

    #[test]
    fn what_rests_is_kept_under_its_name_again() {
        let mut record = Record::new(name("web"), "1".into(), 0, "b".into());
        record.called = Some(name("old"));
        let mut other = Record::new(name("web.1"), "2".into(), 0, "b".into());
        other.called = Some(name("web"));
        let mut observed = Observed::restore([record, other], 1, &now());
        assert_eq!(observed.to_settle(), [(name("web"), name("old"))]);
        observed.settle(&name("web"), &name("old")).unwrap();
        assert_eq!(observed.to_settle(), [(name("web.1"), name("web"))]);
        observed.settle(&name("web.1"), &name("web")).unwrap();
        assert!(observed.to_settle().is_empty() && observed.names.0.is_empty());
        let ids = |of: &str| observed.record(&name(of)).unwrap().id.clone();
        assert_eq!((ids("old"), ids("web")), ("1".into(), "2".into()));
    }

    #[test]
    fn who_requires_a_name_means_whoever_has_it() {
        let (mut desired, mut observed) = running(&["web"]);
        observed.call(&name("web"), &name("old")).unwrap();
        let needs =
            |on: &str| Arc::new(Container { requires: vec![name(on)], ..Container::default() });
        desired.containers.insert(name("x"), needs("old"));
        desired.containers.insert(name("y"), needs("web"));
        observed.apply(Event::ManifestsChanged([name("x"), name("y")].into()), &now()).unwrap();
        decide(&desired, &mut observed, &now());
        assert_eq!(observed.block(&name("x")), None);
        assert!(observed.block(&name("y")).is_some());
        // It comes, and is launched.
        let kept = observed.claim(&name("web"));
        desired.containers.insert(kept.clone(), Arc::new(Container::default()));
        observed.apply(Event::ManifestsChanged([kept.clone()].into()), &now()).unwrap();
        decide(&desired, &mut observed, &now());
        assert_eq!(observed.record(&kept).unwrap().called, Some(name("web")));
        observed.apply(Event::Launched { name: kept, incarnation: 1, pid: 8 }, &now()).unwrap();
        decide(&desired, &mut observed, &now());
        assert_eq!(observed.block(&name("y")), None);
    }

    #[test]
    fn a_long_name_with_a_number_is_a_name() {
        let names = Names::default();
        let long = name(&"a".repeat(NAME_MAX));
        assert_eq!(names.free(&long, |_| false).as_str().len(), NAME_MAX);
    }
}
