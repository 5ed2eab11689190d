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
use super::run::{Effect, Engine};
use super::store::Store;
use crate::manifest::model::{Container, Isolation};
use crate::manifest::scalar::Name;
use crate::spec;

/// So long after it came to rest a container is kept under its name again.
const SETTLE: Duration = Duration::from_secs(2);

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
        self.settle_names();
        let kept = self.observed.meant(to);
        self.tell(&kept, "rename", [("oldName", format!("/{from}"))]);
        let id = self.observed.record(&kept).map(|record| record.id.clone()).unwrap_or_default();
        let to = to.clone();
        self.workshop.networks.later(move |all| {
            all.call(kept.as_str(), to.as_str(), &id);
            let _ = answer.send(Ok(()));
        });
    }

    /// What it is called, everywhere or nowhere.
    fn call(&mut self, name: &Name, to: &Name) -> Result<(), Refusal> {
        self.check_free(to)?;
        let from = self.observed.called(name);
        if !self.is_created(name) {
            let why = format!("{from} is declared by a manifest; rename that file");
            return Err(Refusal::Conflict(why));
        }
        if !self.desired.containers.contains_key(name) {
            return Err(Refusal::NotFound(format!("No such container: {from}")));
        }
        let mut others = self.desired.containers.iter();
        if let Some((other, _)) = others.find(|(other, manifest)| {
            manifest.refers_to(&from) && *other != name && !self.is_created(other)
        }) {
            let file = self.sources.get(other).map(|file| file.display().to_string());
            return Err(Refusal::Conflict(format!(
                "{} needs {from} by that name; edit it first",
                file.unwrap_or_default()
            )));
        }
        self.observed
            .call(name, to)
            .map_err(|refused| Refusal::Conflict(format!("Container {from}: {refused}")))?;
        let record = self.observed.record(name).map_or(Ok(()), |record| self.store.save(record));
        let renamed = record.map_err(|error| error.to_string()).and_then(|()| {
            let (from, to) = (self.created_file(&from), self.created_file(to));
            fs::rename(&from, &to).map_err(|error| {
                format!("renaming {} to {}: {error}", from.display(), to.display())
            })
        });
        if let Err(error) = renamed {
            // All is as before, on disk with the next decision.
            let _ = self.observed.call(name, &from);
            self.observed.renamed(name);
            return Err(Refusal::Failed(error));
        }
        self.finish_rename(name, &from, to);
        self.reload();
        Ok(())
    }

    /// Has all that clients made bear a container's new name, and notes that it does.
    fn finish_rename(&mut self, name: &Name, from: &Name, to: &Name) {
        let (before, file) = (self.created_file(from), self.created_file(to));
        if !file.exists()
            && let Err(error) = fs::rename(&before, &file)
        {
            tracing::error!("renaming {} to {}: {error}", before.display(), file.display());
            return;
        }
        let _ = sync_dir(&file);
        let runs = self.observed.record(name).is_some_and(|record| record.phase.is_alive());
        let all = self.observed.records();
        let all: Vec<_> = all.map(|r| (r.name.clone(), r.last_good.clone())).collect();
        for (kept, manifest) in all {
            let change = |manifest: &Container| match kept == *name {
                true if !runs => None,
                true => with_hostname(manifest, from),
                false => manifest.referring(from, to),
            };
            let file = self.created_file(&self.observed.called(&kept));
            let changed = manifest.and_then(|manifest| change(&manifest));
            let Some(changed) = changed.filter(|_| file.exists()) else { continue };
            // The file first: what the record says tells whether it is still to be written.
            if let Err(error) = write(&file, &changed) {
                tracing::error!("{error}");
                return;
            }
            self.observed.rewrite(&kept, change);
            if let Some(record) = self.observed.record(&kept)
                && let Err(error) = self.store.save(record)
            {
                tracing::error!("{error}");
            }
        }
        self.observed.renamed(name);
        if let Some(record) = self.observed.record(name)
            && let Err(error) = self.store.save(record)
        {
            tracing::error!("{error}");
        }
    }

    /// After a new start: what an engine that died had begun.
    pub(super) fn finish_renames(&mut self) {
        let begun = |record: &Record| {
            let from = record.renamed_from.clone()?;
            Some((record.name.clone(), from, record.called().clone()))
        };
        let begun: Vec<_> = self.observed.records().filter_map(begun).collect();
        for (name, from, to) in begun {
            self.finish_rename(&name, &from, &to);
        }
    }

    /// Those that rest by now are kept under their names again.
    pub(super) fn settle_names(&mut self) {
        let all = self.observed.to_settle();
        if all.is_empty() {
            return;
        }
        for (name, to) in all {
            if !self.is_read(&name) {
                self.settle_name(&name, &to);
            }
        }
        self.reload();
    }

    /// Whether somebody reads its log still, or what it printed last is not in there yet.
    fn is_read(&self, name: &Name) -> bool {
        let output = self.lives.get(name).and_then(|live| live.output.as_ref());
        output.is_some_and(|output| output.waiting() > 0)
            || self.logs.is_read(&self.workshop.paths.log_dir(name.as_str()))
    }

    /// After a change: one that rests may be kept under its name before long, when those
    /// who read what it printed last have done so.
    pub(super) fn settle_names_soon(&mut self) {
        if !self.settling && !self.observed.to_settle().is_empty() {
            self.settling = true;
            self.later(SETTLE, Effect::SettleNames);
        }
    }

    fn settle_name(&mut self, name: &Name, to: &Name) {
        // Two records of one container are no harm: see [`forget_doubles`].
        if let Err(refused) = self.observed.settle(name, to) {
            tracing::error!("keeping {name} under {to}: {refused}");
            return;
        }
        if let Some(record) = self.observed.record(to)
            && let Err(error) = self.store.save(record)
        {
            tracing::error!("{error}");
        }
        let paths = Arc::clone(&self.workshop.paths);
        if let Some(mut live) = self.lives.remove(name) {
            // What bears the old name is made anew at the next launch; namespaces and
            // root go along.
            live.capture = None;
            live.output = None;
            self.release_output(name);
            if let Some(cgroup) = live.kept.cgroup.take()
                && let Err(error) = cgroup.remove()
            {
                tracing::warn!("{error}");
            }
            self.lives.insert(to.clone(), live);
        }
        let (before, after) = (name.clone(), to.clone());
        let id = self.observed.record(to).map(|record| record.id.clone()).unwrap_or_default();
        self.workshop.networks.later(move |all| all.rename(before.as_str(), after.as_str(), &id));
        self.rename_sockets(name, to);
        self.execs.rename(name, to);
        self.logs.forget(&paths.log_dir(name.as_str()));
        let _ = fs::rename(paths.log_dir(name.as_str()), paths.log_dir(to.as_str()));
        for dir in [paths.container_run_dir(name.as_str()), paths.etc_dir(name.as_str())] {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// A container that runs keeps the host name that it has.
fn with_hostname(manifest: &Container, from: &Name) -> Option<Container> {
    let open = manifest.isolation == Isolation::Full && manifest.hostname.is_none();
    let hostname = Some(spec::hostname_of(from.as_str()));
    open.then(|| Container { hostname, ..manifest.clone() })
}

/// An engine that died while a container that rested came to be kept under another name
/// left two records of it: the one that is kept under its name stays, of an older Berth's
/// the one that has a manifest. What the other stands for is not discarded, for it is the
/// same.
pub(super) fn forget_doubles(records: &mut Vec<Record>, store: &mut Store, paths: &Paths) {
    let has_manifest = |name: &Name| paths.created_dir().join(format!("{name}.toml")).exists();
    for (left, name) in doubles(records, has_manifest) {
        records.retain(|record| record.name != left);
        let _ = fs::rename(paths.log_dir(left.as_str()), paths.log_dir(name.as_str()));
        if let Err(error) = store.forget(&left) {
            tracing::error!("{error}");
        }
    }
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
