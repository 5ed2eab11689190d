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
use super::phase::Phase;
use super::record::Record;
use crate::manifest::model::Container;
use crate::manifest::scalar::{NAME_MAX, Name};

/// What those are kept under that are not kept under their name. Nobody is called as two,
/// nobody is kept under two.
#[derive(Debug, Default)]
pub(super) struct Names {
    kept: BTreeMap<Name, Name>,
    called: BTreeMap<Name, Name>,
}

impl Names {
    /// What the container of this name is, or would be, kept under; nothing if that is
    /// taken by one of another name.
    fn kept_under(&self, called: &Name) -> Option<Name> {
        let taken = || self.called.contains_key(called);
        self.kept.get(called).cloned().or_else(|| (!taken()).then(|| called.clone()))
    }

    /// One that is kept under `kept` is called so from now on.
    fn note(&mut self, called: &Name, kept: &Name) {
        self.drop_kept(kept);
        if let Some(other) = self.kept.remove(called) {
            self.called.remove(&other);
        }
        if called != kept {
            self.kept.insert(called.clone(), kept.clone());
            self.called.insert(kept.clone(), called.clone());
        }
    }

    fn drop_kept(&mut self, kept: &Name) {
        if let Some(called) = self.called.remove(kept) {
            self.kept.remove(&called);
        }
    }
}

impl Observed {
    /// What a container is kept under, by its name; nothing if there is and can be none.
    pub fn kept_under(&self, called: &Name) -> Option<Name> {
        self.names.kept_under(called)
    }

    /// The name of a container, by what it is kept under.
    pub fn called(&self, kept: &Name) -> Name {
        self.names.called.get(kept).cloned().unwrap_or_else(|| kept.meant())
    }

    /// Whom a manifest means by a name: what that one is kept under, or what nobody is.
    pub fn meant(&self, called: &Name) -> Name {
        self.names.kept_under(called).unwrap_or_else(|| called.nobody())
    }

    /// What a container is to be kept under that is, or will be, known by this name.
    /// `is_taken`: what others are to be kept under of whom there is no record yet.
    pub fn claim(&mut self, called: &Name, is_taken: impl Fn(&Name) -> bool) -> Name {
        if let Some(kept) = self.kept_under(called) {
            return kept;
        }
        let is_free = |name: &Name| {
            !is_taken(name)
                && !self.records.contains_key(name)
                && !self.names.called.contains_key(name)
        };
        let Some(kept) = (1..).filter_map(|n| numbered(called, n)).find(is_free) else {
            return called.clone();
        };
        self.names.note(called, &kept);
        self.redraw();
        kept
    }

    /// Forgets what was claimed for those of whom there is neither a record nor a manifest.
    pub fn release_claims(&mut self, is_declared: impl Fn(&Name) -> bool) {
        let gone = |kept: &&Name| !self.records.contains_key(*kept) && !is_declared(kept);
        let gone: Vec<Name> = self.names.called.keys().filter(gone).cloned().collect();
        for kept in &gone {
            self.names.drop_kept(kept);
        }
        if !gone.is_empty() {
            self.redraw();
        }
    }

    /// What the record of a container will be once it is called otherwise, whether it runs
    /// or not. It says which name it had until [`Observed::renamed`]: its manifest may still
    /// bear that. What its manifest says from then on is what `change` makes of it.
    ///
    /// # Errors
    /// There is none, or one of the new name is there.
    pub fn as_called(
        &self,
        name: &Name,
        to: &Name,
        change: impl Fn(&Container) -> Option<Container>,
    ) -> Result<Record, Refused> {
        if self.kept_under(to).is_some_and(|kept| kept != *name && self.record(&kept).is_some()) {
            return Err(Refused::Exists);
        }
        let mut record = self.record(name).ok_or(Refused::Unknown)?.clone();
        record.renamed_from = Some(record.called().clone());
        record.called = (to != name).then(|| to.clone());
        rewrite(&mut record, change);
        Ok(record)
    }

    /// Takes over what [`Observed::as_called`] gave.
    pub fn call(&mut self, record: Record) {
        self.note_name(&record);
        let name = record.name.clone();
        self.edit(&name, |before| *before = record);
        self.redraw();
    }

    /// All that bore the former name bears the new one.
    pub fn renamed(&mut self, name: &Name) {
        self.edit(name, |record| record.renamed_from = None);
    }

    /// A manifest says the same in other words, and so does what is known of it.
    pub fn rewrite(&mut self, name: &Name, change: impl Fn(&Container) -> Option<Container>) {
        let manifest = self.edit(name, |record| {
            rewrite(record, change);
            record.last_good.clone()
        });
        if let Some(manifest) = manifest {
            self.draw(name, manifest.as_deref());
        }
    }

    /// Those that rest and could be kept under their name again: what they are kept under,
    /// and their name.
    pub fn to_settle(&self) -> Vec<(Name, Name)> {
        let rests = |kept: &Name| {
            let phase = self.record(kept).map(|record| &record.phase);
            matches!(phase, Some(Phase::Created | Phase::Exited(_)))
                && !self.strays.contains_key(kept)
        };
        let is_free = |called: &Name| {
            !self.records.contains_key(called) && !self.names.called.contains_key(called)
        };
        let all = self.names.kept.iter().filter(|(called, kept)| rests(kept) && is_free(called));
        all.map(|(called, kept)| (kept.clone(), called.clone())).collect()
    }

    /// What the record of one of [`Observed::to_settle`] will be.
    pub fn as_settled(&self, name: &Name, to: &Name) -> Option<Record> {
        self.record(name).map(|record| Record { name: to.clone(), called: None, ..record.clone() })
    }

    /// Keeps one of [`Observed::to_settle`] under its name; all else of it stays. Edges are
    /// to be drawn anew after that.
    pub fn settle(&mut self, name: &Name, to: &Name) {
        let Some(record) = self.as_settled(name, to) else { return };
        let manifest = record.last_good.clone();
        self.names.drop_kept(name);
        self.forget(name);
        self.forgotten.remove(to);
        self.unsaved.insert(to.clone());
        self.insert(record);
        self.draw(to, manifest.as_deref());
        let joins = |record: &&Record| record.joined.iter().any(|of| of.name == *name);
        let joins: Vec<Name> =
            self.records.values().filter(joins).map(|record| record.name.clone()).collect();
        for other in joins {
            self.edit(&other, |record| {
                for joined in record.joined.iter_mut().filter(|of| of.name == *name) {
                    joined.name = to.clone();
                }
            });
        }
    }

    /// A record is there: it says what it is called.
    pub(super) fn note_name(&mut self, record: &Record) {
        self.names.note(record.called(), &record.name);
    }

    /// Names mean others than before: all edges are drawn anew.
    pub fn redraw(&mut self) {
        let edges = |record: &Record| record.last_good.clone().or_else(|| record.applied.clone());
        let all: Vec<_> = self.records.values().map(|r| (r.name.clone(), edges(r))).collect();
        for (name, manifest) in all {
            self.draw(&name, manifest.as_deref());
        }
        self.all_dirty = true;
    }
}

fn rewrite(record: &mut Record, change: impl Fn(&Container) -> Option<Container>) {
    for manifest in [&mut record.applied, &mut record.last_good].into_iter().flatten() {
        if let Some(other) = change(manifest) {
            *manifest = Arc::new(other);
        }
    }
}

/// A name with a number.
fn numbered(called: &Name, number: u32) -> Option<Name> {
    let number = number.to_string();
    let fits = NAME_MAX - number.len() - 1;
    let stem = called.as_str().get(..fits).unwrap_or(called.as_str());
    format!("{stem}.{number}").parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::reconcile::{Desired, Event, Joined, Now, decide};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn call(observed: &mut Observed, kept: &str, to: &str) -> Result<(), Refused> {
        let record = observed.as_called(&name(kept), &name(to), |_| None)?;
        observed.call(record);
        Ok(())
    }

    fn claim(observed: &mut Observed, called: &str) -> Name {
        observed.claim(&name(called), |_| false)
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
        call(&mut observed, "web", "old").unwrap();
        assert_eq!(observed.kept_under(&name("old")), Some(name("web")));
        assert_eq!(observed.kept_under(&name("web")), None);
        assert_eq!(observed.called(&name("web")), name("old"));
        assert_eq!(observed.record(&name("web")).unwrap().renamed_from, Some(name("web")));
        assert_eq!(observed.to_settle(), []);

        let kept = claim(&mut observed, "web");
        assert_eq!(kept, name("web.1"));
        assert_eq!(claim(&mut observed, "web"), kept);
        assert_eq!(observed.called(&kept), name("web"));
        // What has a number by itself is told apart.
        assert_eq!(observed.kept_under(&kept), None);
        assert_eq!(observed.claim(&kept, |_| false), name("web.1.1"));
        // What somebody else is about to be kept under is not given away.
        assert_eq!(observed.claim(&name("web"), |_| true), kept);
        observed.release_claims(|declared| *declared == kept);
        assert_eq!(observed.kept_under(&name("web")), Some(kept));
        observed.release_claims(|_| false);
        assert_eq!(observed.kept_under(&name("web")), None);
        let taken = |one: &Name| *one == name("web.1");
        assert_eq!(observed.claim(&name("web"), taken), name("web.2"));

        call(&mut observed, "web", "web.old").unwrap();
        assert_eq!(observed.kept_under(&name("old")), Some(name("old")));
        assert_eq!(call(&mut observed, "gone", "x"), Err(Refused::Unknown));
    }

    #[test]
    fn there_and_back_is_as_before() {
        let (_, mut observed) = running(&["a", "b"]);
        assert_eq!(call(&mut observed, "a", "b"), Err(Refused::Exists));
        call(&mut observed, "a", "c").unwrap();
        call(&mut observed, "b", "a").unwrap();
        assert_eq!(observed.called(&name("b")), name("a"));
        assert_eq!(call(&mut observed, "a", "a"), Err(Refused::Exists));
        call(&mut observed, "b", "b").unwrap();
        call(&mut observed, "a", "a").unwrap();
        assert_eq!(observed.record(&name("a")).unwrap().called, None);
        assert!(observed.names.kept.is_empty());
    }

    #[test]
    fn what_rests_is_kept_under_its_name_again() {
        let mut record = Record::new(name("web"), "1".into(), 0, "b".into());
        record.called = Some(name("old"));
        let mut other = Record::new(name("web.1"), "2".into(), 0, "b".into());
        other.called = Some(name("web"));
        let mut observed = Observed::restore([record, other], 1, &now());
        let mut sidecar = Record::new(name("sidecar"), "3".into(), 0, "b".into());
        sidecar.joined = vec![Joined { name: name("web"), incarnation: 1 }];
        observed.insert(sidecar);
        assert_eq!(observed.to_settle(), [(name("web"), name("old"))]);
        observed.settle(&name("web"), &name("old"));
        assert_eq!(observed.to_settle(), [(name("web.1"), name("web"))]);
        let joined = observed.record(&name("sidecar")).unwrap().joined.clone();
        assert_eq!(joined, [Joined { name: name("old"), incarnation: 1 }]);
        observed.settle(&name("web.1"), &name("web"));
        assert!(observed.to_settle().is_empty() && observed.names.kept.is_empty());
        let ids = |of: &str| observed.record(&name(of)).unwrap().id.clone();
        assert_eq!((ids("old"), ids("web")), ("1".into(), "2".into()));
    }

    #[test]
    fn who_requires_a_name_means_whoever_has_it() {
        let (mut desired, mut observed) = running(&["web"]);
        call(&mut observed, "web", "old").unwrap();
        let needs =
            |on: &str| Arc::new(Container { requires: vec![name(on)], ..Container::default() });
        desired.containers.insert(name("x"), needs("old"));
        desired.containers.insert(name("y"), needs("web"));
        observed.apply(Event::ManifestsChanged([name("x"), name("y")].into()), &now()).unwrap();
        decide(&desired, &mut observed, &now());
        assert_eq!(observed.block(&name("x")), None);
        assert!(observed.block(&name("y")).is_some());
        // It comes, and is launched.
        let kept = claim(&mut observed, "web");
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
        let long = name(&"a".repeat(NAME_MAX));
        assert_eq!(numbered(&long, 10).unwrap().as_str().len(), NAME_MAX);
    }
}
