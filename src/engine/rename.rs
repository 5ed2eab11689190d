//! Another name for a container that a client made, whether it runs or not.
//!
//! First what it is called: its record says so, then its manifest and all others that
//! clients made bear the new name; an engine that died in between does the rest
//! ([`Engine::finish_renames`]). What it is kept under follows once it rests
//! ([`Engine::settle_names`]).

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::created::{sync_dir, write};
use super::handle::Refusal;
use super::paths::Paths;
use super::reconcile::Record;
use super::run::{DISK_RETRY, Effect, Engine};
use super::store::Store;
use crate::cgroup::Cgroup;
use crate::manifest::model::{Container, Isolation, Sharing};
use crate::manifest::scalar::Name;
use crate::spec;

/// After this time those that came to rest may be kept under their names again.
const SETTLE: Duration = Duration::from_secs(2);
/// So many at a time: each has to be on disk before the next.
const AT_ONCE: usize = 16;

impl Engine {
    /// Gives a container another name; answers when its networks know it by that.
    pub(super) fn rename(
        &mut self,
        name: &Name,
        to: &Name,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        let from = self.observed.called(name);
        if let Err(refusal) = self.call(name, to) {
            let _ = answer.send(Err(refusal));
            return;
        }
        self.finish_renames();
        self.reload();
        if self.may_settle(name) && self.observed.to_settle().iter().any(|(kept, _)| kept == name) {
            self.settle_name(name, to);
            self.observed.redraw();
            self.reload();
        }
        let kept = self.observed.meant(to);
        self.tell(&kept, "rename", [("oldName", format!("/{from}"))]);
        let id = self.observed.record(&kept).map(|record| record.id.clone()).unwrap_or_default();
        let to = to.clone();
        self.workshop.networks.later(move |all| {
            all.follow(from.as_str(), to.as_str());
            all.call(kept.as_str(), to.as_str(), &id);
            let _ = answer.send(Ok(()));
        });
    }

    /// What it is called, in its record and by its manifest's file, or nowhere.
    fn call(&mut self, name: &Name, to: &Name) -> Result<(), Refusal> {
        self.check_free(to)?;
        let from = self.observed.called(name);
        let missing = || Refusal::NotFound(format!("No such container: {from}"));
        let before = self.observed.record(name).ok_or_else(missing)?.clone();
        if !self.is_created(name) {
            let why = format!("{from} is declared by a manifest; rename that file");
            return Err(Refusal::Conflict(why));
        }
        if let Some(earlier) = &before.renamed_from {
            return Err(Refusal::Conflict(format!(
                "{from} was {earlier}, and manifests that say so can't be written; make room on \
                 the disk"
            )));
        }
        if let Some(file) = self.names_it(name, &from) {
            return Err(Refusal::Conflict(format!(
                "{file} needs {from} by that name; edit it first"
            )));
        }
        let keeps_hostname = |manifest: &Container| match before.phase.is_alive() {
            true => with_hostname(manifest, &from),
            false => None,
        };
        let called = self
            .observed
            .as_called(name, to, keeps_hostname)
            .map_err(|refused| Refusal::Conflict(format!("Container {from}: {refused}")))?;
        let renamed = self.store.save(&called).map_err(|error| error.to_string());
        let renamed = renamed.and_then(|()| self.rename_file(&from, to));
        if let Err(error) = renamed {
            // All stays as it was.
            if let Err(error) = self.store.save(&before) {
                tracing::error!("{error}");
            }
            return Err(Refusal::Failed(error));
        }
        self.observed.call(called);
        Ok(())
    }

    /// The file that a person wrote and that names a container, if there is one.
    fn names_it(&self, name: &Name, called: &Name) -> Option<String> {
        // Of a broken one the last good version is in force.
        let last_good = |record: &Record| Some((record.name.clone(), record.last_good.clone()?));
        let known = self.observed.records().filter_map(last_good);
        let declared = self.desired.containers.iter();
        let declared = declared.map(|(name, manifest)| (name.clone(), Arc::clone(manifest)));
        let mut all = declared.chain(known);
        let (other, _) = all.find(|(other, manifest)| {
            manifest.refers_to(called) && other != name && !self.is_created(other)
        })?;
        self.sources.get(&other).map(|file| file.display().to_string())
    }

    fn rename_file(&self, from: &Name, to: &Name) -> Result<(), String> {
        let (from, to) = (self.created_file(from), self.created_file(to));
        fs::rename(&from, &to)
            .and_then(|()| sync_dir(&to))
            .map_err(|error| format!("renaming {} to {}: {error}", from.display(), to.display()))
    }

    /// Has all that clients made bear the new names of those that were given one, also
    /// what an engine that died had begun.
    pub(super) fn finish_renames(&mut self) {
        let begun = self.observed.records().filter(|record| record.renamed_from.is_some());
        let begun: Vec<Record> = begun.cloned().collect();
        for record in begun {
            if let Err(error) = self.finish_rename(&record) {
                tracing::error!("{error}; it is tried again");
                self.later(DISK_RETRY, Effect::FinishRenames);
                return;
            }
        }
    }

    fn finish_rename(&mut self, record: &Record) -> Result<(), String> {
        let (name, to) = (&record.name, record.called());
        let Some(from) = &record.renamed_from else { return Ok(()) };
        let file = self.created_file(to);
        if !file.exists() {
            self.rename_file(from, to)?;
        }
        if let Some(manifest) = &record.last_good {
            write(&file, manifest)?;
        }
        let all = self.observed.records().filter(|other| other.name != *name);
        let change = |manifest: &Container| manifest.referring(from, to);
        let changed = |other: &Record| {
            Some((other.name.clone(), other.called().clone(), change(other.last_good.as_deref()?)?))
        };
        let all: Vec<_> = all.filter_map(changed).collect();
        for (other, called, manifest) in all {
            let file = self.created_file(&called);
            if !file.exists() {
                continue;
            }
            // The file first: the record tells whether it is still to be written.
            write(&file, &manifest)?;
            self.observed.rewrite(&other, change);
            if let Some(record) = self.observed.record(&other) {
                self.store.save(record).map_err(|error| error.to_string())?;
            }
        }
        self.observed.renamed(name);
        match self.observed.record(name) {
            Some(record) => self.store.save(record).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Those that rest by now are kept under their names again, some at a time.
    pub(super) fn settle_names(&mut self) {
        let all = self.observed.to_settle();
        let ready = all.iter().filter(|(name, _)| self.may_settle(name)).take(AT_ONCE);
        let ready: Vec<_> = ready.cloned().collect();
        for (name, to) in &ready {
            self.settle_name(name, to);
        }
        if !ready.is_empty() {
            self.observed.redraw();
            self.reload();
        }
        self.settle_names_soon();
    }

    /// Nothing of it is under way, and nobody reads its log.
    fn may_settle(&self, name: &Name) -> bool {
        let is_busy = self.lives.get(name).is_some_and(|live| {
            let unread = live.output.as_ref().is_some_and(|output| output.waiting() > 0);
            live.kills > 0 || live.changes.is_under_way() || unread
        });
        let flies = || self.flights.values().any(|flight| flight.name == *name);
        let is_read = || self.logs.is_read(&self.workshop.paths.log_dir(name.as_str()));
        !(is_busy || flies() || is_read())
    }

    /// Looks before long which of those that rest are ready to be kept under their names.
    pub(super) fn settle_names_soon(&mut self) {
        if !self.settling && !self.observed.to_settle().is_empty() {
            self.settling = true;
            self.later(SETTLE, Effect::SettleNames);
        }
    }

    fn settle_name(&mut self, name: &Name, to: &Name) {
        // What has the old name goes before that is anybody else's.
        let live = self.lives.get_mut(name).and_then(|live| live.kept.cgroup.take());
        let cgroup = match live {
            Some(cgroup) => Ok(Some(cgroup)),
            None => Cgroup::open_existing(&self.workshop.parent, name.as_str())
                .map(|found| found.map(Arc::new)),
        };
        let removed = cgroup.and_then(|found| match found {
            Some(cgroup) => cgroup.remove(),
            None => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!("{error}");
            return;
        }
        let Some(record) = self.observed.as_settled(name, to) else { return };
        // Two records of one container are no harm ([`forget_doubles`]); none is.
        if let Err(error) = self.store.save(&record) {
            tracing::error!("{error}");
            return;
        }
        self.observed.settle(name, to);
        let paths = Arc::clone(&self.workshop.paths);
        if let Some(mut live) = self.lives.remove(name) {
            // Namespaces and root go along; the rest is made anew at the next launch.
            live.capture = None;
            live.output = None;
            self.release_output(name);
            self.lives.insert(to.clone(), live);
        }
        self.workshop.networks.rename(name.as_str(), to.as_str(), &record.id);
        self.rename_sockets(name, to);
        self.execs.rename(name, to);
        self.logs.forget(&paths.log_dir(name.as_str()));
        let _ = fs::rename(paths.log_dir(name.as_str()), paths.log_dir(to.as_str()));
        for dir in [paths.container_run_dir(name.as_str()), paths.etc_dir(name.as_str())] {
            let _ = fs::remove_dir_all(dir);
        }
    }

    /// What an engine that died while it did that had not come to.
    pub(super) fn finish_settling(&mut self, doubles: Vec<(Name, Name)>) {
        for (left, name) in doubles {
            let id = self.observed.record(&name).map(|record| record.id.clone());
            self.workshop.networks.rename(left.as_str(), name.as_str(), &id.unwrap_or_default());
            self.execs.rename(&left, &name);
        }
    }
}

/// A container that runs keeps the host name that it has.
fn with_hostname(manifest: &Container, from: &Name) -> Option<Container> {
    let open = manifest.isolation == Isolation::Full
        && manifest.hostname.is_none()
        && manifest.namespaces.uts == Sharing::Private;
    let hostname = Some(spec::hostname_of(from.as_str()));
    open.then(|| Container { hostname, ..manifest.clone() })
}

/// An engine that died while a container that rested came to be kept under another name
/// left two records of it: the one that is kept under its name stays, of an older Berth's
/// the one that has a manifest. What the other stands for is not discarded, for it is the
/// same.
pub(super) fn forget_doubles(
    records: &mut Vec<Record>,
    store: &mut Store,
    paths: &Paths,
) -> Vec<(Name, Name)> {
    let has_manifest = |name: &Name| paths.created_dir().join(format!("{name}.toml")).exists();
    let doubles = doubles(records, has_manifest);
    for (left, name) in &doubles {
        records.retain(|record| record.name != *left);
        let _ = fs::rename(paths.log_dir(left.as_str()), paths.log_dir(name.as_str()));
        if let Err(error) = store.forget(left) {
            tracing::error!("{error}");
        }
    }
    doubles
}

/// Of each two records of one container the name of the one that goes, and of the one
/// that stays.
fn doubles(records: &[Record], has_manifest: impl Fn(&Name) -> bool) -> Vec<(Name, Name)> {
    let rank = |record: &Record| (has_manifest(record.called()), record.called.is_none());
    let mut by_id: HashMap<&str, &Record> = HashMap::new();
    let mut gone = Vec::new();
    for record in records {
        let Some(other) = by_id.insert(&record.id, record) else { continue };
        let (left, stays) = match rank(record) > rank(other) {
            true => (other, record),
            false => (record, other),
        };
        by_id.insert(&record.id, stays);
        gone.push((left.name.clone(), stays.name.clone()));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_container_with_two_records_the_one_under_its_name_stays() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let record = |text: &str, id: &str| Record::new(name(text), id.into(), 0, "boot".into());
        let old = Record { called: Some(name("b")), ..record("a", "1") };
        let (new, other) = (record("b", "1"), record("c", "2"));
        for records in [[old.clone(), new.clone(), other.clone()], [new, other, old]] {
            assert_eq!(doubles(&records, |_| true), [(name("a"), name("b"))]);
            let plain = records.map(|record| Record { called: None, ..record });
            for (with, without) in [("a", "b"), ("b", "a")] {
                let gone = doubles(&plain, |one| one.as_str() == with);
                assert_eq!(gone, [(name(without), name(with))]);
            }
        }
    }
}
