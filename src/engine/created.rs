//! Containers that clients made: each is a manifest file in a directory of its own, so
//! that there is one desired set for all. What a person wrote elsewhere is never
//! touched here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::handle::{Cloned, Edit, Refusal};
use super::reconcile::{Event, Phase, Record, Verb};
use super::run::{Effect, Engine, wall};
use super::volumes;
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::rootfs::Duplicate;

/// How long a container that is to be removed at its end waits for clients that
/// still read what it printed.
const READERS: Duration = Duration::from_secs(30);

impl Engine {
    /// The manifest that a client made of a container of this name.
    pub(super) fn created_file(&self, called: &Name) -> PathBuf {
        self.workshop.paths.created_dir().join(format!("{called}.toml"))
    }

    /// Whether a client made it, and not a person's manifest.
    pub(super) fn is_created(&self, name: &Name) -> bool {
        let dir = self.workshop.paths.created_dir();
        self.sources.get(name).is_some_and(|source| source.starts_with(dir))
    }

    /// Makes a container known without starting it; gives its id.
    pub(super) fn create(&mut self, name: &Name, container: &Container) -> Result<String, Refusal> {
        let id = super::exec::random_id()
            .map_err(|error| Refusal::Failed(format!("making an id: {error}")))?;
        self.create_as(&id, name, container, None)?;
        Ok(id)
    }

    /// The same for one whose files lie under its id already, with the image that they
    /// are changes of.
    pub(super) fn create_as(
        &mut self,
        id: &str,
        name: &Name,
        container: &Container,
        image: Option<super::reconcile::Image>,
    ) -> Result<(), Refusal> {
        self.check_new(name, container)?;
        let desired = &self.desired;
        self.observed.release_claims(|kept| desired.declares(kept));
        let (file, name) =
            (self.created_file(name), &self.observed.claim(name, |kept| desired.declares(kept)));
        // The record first: a manifest without one would be started by whoever reads
        // it after a crash.
        let verb = Verb::Create { id: Some(id.to_owned()) };
        let created = Event::Verb { name: name.clone(), verb };
        self.observed.apply(created, &self.now()).map_err(|why| self.refused(name, why))?;
        let incarnation = self.observed.record(name).map_or(0, |record| record.incarnation);
        if let Some(image) = image {
            let chosen =
                Event::ImageChosen { name: name.clone(), incarnation, image: Box::new(image) };
            let _ = self.observed.apply(chosen, &self.now());
        }
        if let Some(record) = self.observed.record(name)
            && let Err(error) = self.store.save(record)
        {
            tracing::error!("{error}");
        }
        let written = write(&file, container);
        self.reload();
        if let Err(error) = written {
            return Err(Refusal::Failed(error));
        }
        self.tell(name, "create", [("", String::new())]);
        Ok(())
    }

    /// Makes a container known that has the files of another. Its volumes get their names
    /// in the same turn as it: nobody sees them without it, and takes them for unused.
    pub(super) fn create_clone(&mut self, cloned: Cloned) -> Result<(), Refusal> {
        let Cloned { name, id, container, image, changes, volumes: copies } = cloned;
        self.check_new(&name, &container)?;
        let mut named = Vec::new();
        let mut made = Ok(());
        for copy in copies {
            match copy.publish() {
                Ok(volume) => named.push(volume.name),
                Err(error) => made = Err(Refusal::Failed(error.to_string())),
            }
        }
        let made = made.and_then(|()| self.create_as(&id, &name, &container, image));
        match &made {
            Ok(()) => changes.into_iter().for_each(Duplicate::keep),
            Err(_) => {
                for volume in named {
                    if let Err(error) = self.workshop.volumes.remove(&volume) {
                        tracing::warn!("{error}");
                    }
                }
            }
        }
        made
    }

    /// Whether a container can be made: its name is free, and it makes sense.
    fn check_new(&self, name: &Name, container: &Container) -> Result<(), Refusal> {
        self.check_free(name)?;
        check(container)
    }

    pub(super) fn check_free(&self, name: &Name) -> Result<(), Refusal> {
        if name.as_str().ends_with(".network") {
            return Err(Refusal::Invalid(format!(
                "Invalid container name ({name}): a manifest of that name declares a network"
            )));
        }
        if let Some(other) = self.observed.records().find(|r| r.renamed_from.as_ref() == Some(name))
        {
            return Err(Refusal::Conflict(format!(
                "Conflict. {} had the name \"/{name}\", and manifests that have it can't be \
                 written; make room on the disk",
                other.called()
            )));
        }
        let Some(kept) = self.observed.kept_under(name) else { return Ok(()) };
        let by = match (self.observed.record(&kept), self.desired.declares(&kept)) {
            (Some(record), _) => format!("container \"{}\"", record.id),
            (None, true) => {
                let file = self.sources.get(&kept).map(|file| file.display().to_string());
                format!("the manifest {}", file.unwrap_or_default())
            }
            (None, false) => return Ok(()),
        };
        Err(Refusal::Conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by {by}. \
             You have to remove (or rename) that container to be able to reuse that name."
        )))
    }

    pub(super) fn reload(&mut self) {
        let loaded = self.loader.load();
        self.manifests(loaded);
    }

    /// Removes the manifest that a client made, and orders the removal of the rest.
    pub(super) fn remove_created(&mut self, name: &Name, force: bool) -> Result<(), Refusal> {
        let path = self.created_file(&self.observed.called(name));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let why = format!("removing {}: {error}", path.display());
                return Err(Refusal::Failed(why));
            }
            _ => {}
        }
        let _ = sync_dir(&path);
        self.reload();
        let verb = Verb::Remove { force };
        self.observed
            .apply(Event::Verb { name: name.clone(), verb }, &self.now())
            .map_err(|why| self.refused(name, why))
    }

    /// Writes another version of a manifest that a client made.
    pub(super) fn change_created(&mut self, name: &Name, edit: Edit) -> Result<Container, Refusal> {
        if !self.is_created(name) {
            let file = self.sources.get(name).map(|file| file.display().to_string());
            return Err(Refusal::Conflict(format!(
                "{} is declared in {}; edit that file",
                self.observed.called(name),
                file.unwrap_or_default()
            )));
        }
        let before = self.desired.containers.get(name);
        let before = before.ok_or_else(|| {
            let called = self.observed.called(name);
            Refusal::Conflict(format!("the manifest of {called} can't be read; see `berth status`"))
        })?;
        let container = edit.0(before)?;
        check(&container)?;
        self.amend(name, &container)?;
        let written = write(&self.created_file(&self.observed.called(name)), &container);
        self.reload();
        written.map(|()| container).map_err(Refusal::Failed)
    }

    fn amend(&mut self, name: &Name, container: &Container) -> Result<(), Refusal> {
        let verb = Verb::Amend(Arc::new(container.clone()));
        self.observed
            .apply(Event::Verb { name: name.clone(), verb }, &self.now())
            .map_err(|why| self.refused(name, why))
    }

    /// These containers changed: one that came to its end and is to be removed then,
    /// is, once its clients have read all. `grace` is for those that are to come back
    /// after an engine's death.
    pub(super) fn remove_ended(&self, names: &[Name], grace: Duration) {
        for name in names {
            let Some(record) = self.observed.record(name) else { continue };
            let wanted = record.applied.as_ref().is_some_and(|manifest| manifest.auto_remove);
            if !wanted || !matches!(record.phase, Phase::Exited(_)) || !self.is_created(name) {
                continue;
            }
            let attached = self.attached.clone();
            let (id, effects) = (record.id.clone(), self.effects.clone());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(grace).await;
                let read = async {
                    while attached.any(&id) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let _ = tokio::time::timeout(READERS, read).await;
                let _ = effects.send(Effect::RemoveEnded { id });
            });
        }
    }

    /// See [`Engine::remove_ended`].
    pub(super) fn remove_if_ended(&mut self, id: &str) {
        let rests = |one: &&Record| one.id == id && matches!(one.phase, Phase::Exited(_));
        let rests = self.observed.records().find(rests);
        let Some(name) = &rests.map(|record| record.name.clone()) else { return };
        let nameless = self.nameless_volumes(name);
        if let Err(refusal) = self.remove_created(name, false) {
            let called = self.observed.called(name);
            tracing::warn!("removing {called}, which has ended: {refusal:?}");
            return;
        }
        let (volumes, events) = (Arc::clone(&self.workshop.volumes), self.events.clone());
        tokio::task::spawn_blocking(move || {
            for name in nameless {
                match volumes.remove(&name) {
                    Ok(true) => events.publish(volumes::event(wall(), "destroy", &name)),
                    Ok(false) => {}
                    Err(error) => tracing::warn!("{error}"),
                }
            }
        });
    }

    /// The volumes without a name that only this container uses.
    fn nameless_volumes(&self, name: &Name) -> Vec<String> {
        let of = |record: &super::reconcile::Record| -> Vec<String> {
            let manifest = record.applied.clone().or_else(|| record.last_good.clone());
            let Some(manifest) = manifest else { return Vec::new() };
            let wanted = record.image.as_ref().map_or(&[][..], |image| &image.volumes);
            let more = volumes::of_image(&record.id, &manifest, wanted);
            let sources = manifest.mounts.iter().chain(&more).filter_map(|m| m.source.clone());
            sources.filter(|source| volumes::is_anonymous(source)).collect()
        };
        let others: Vec<String> =
            self.observed.records().filter(|record| record.name != *name).flat_map(of).collect();
        let own = self.observed.record(name).map(of).unwrap_or_default();
        own.into_iter().filter(|volume| !others.contains(volume)).collect()
    }
}

/// What the manifest's reader would object to.
fn check(container: &Container) -> Result<(), Refusal> {
    let objections = crate::manifest::objections(container);
    if !objections.is_empty() {
        return Err(Refusal::Invalid(objections.join("; ")));
    }
    crate::manifest::to_toml(container).map(drop).map_err(Refusal::Invalid)
}

pub(super) fn sync_dir(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

pub(super) fn write(path: &Path, container: &Container) -> Result<(), String> {
    write_text(path, &crate::manifest::to_toml(container)?)
}

/// Removes what an engine that died left half written in a folder of files of ours.
pub(super) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whole or not at all, and on the disk when this returns.
pub(super) fn write_text(path: &Path, text: &str) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("writing {}: {error}", path.display());
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(fail)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    sync_dir(path).map_err(fail)
}
