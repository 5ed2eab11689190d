//! The end of a container: nothing of it stays, but for its record, which goes last.

use std::sync::Arc;

use super::prepare::{Kept, Workshop};
use super::reconcile::Event;
use super::run::{Effect, Engine};
use crate::cgroup::Cgroup;
use crate::manifest::scalar::Name;

impl Engine {
    pub(super) fn discard(&mut self, name: Name) {
        self.execs.forget_container(&name);
        let live = self.lives.remove(&name).unwrap_or_default();
        self.release_output(&name);
        if let Some(first) = live.reserved {
            self.workshop.pool.give_back(first);
        }
        // What another record stands for, too, is not discarded with this one.
        let is_anothers =
            |id: &String| self.observed.records().any(|one| one.id == *id && one.name != name);
        let id = self.observed.record(&name).map(|record| record.id.clone());
        let id = id.filter(|id| !is_anothers(id));
        let (workshop, effects) = (self.workshop.clone(), self.effects.clone());
        self.logs.forget(&workshop.paths.log_dir(name.as_str()));
        drop(live.capture);
        tokio::task::spawn_blocking(move || {
            let result = discard(&workshop, &name, id.as_deref(), live.kept);
            workshop.images.changed();
            let _ = effects.send(Effect::Event(Event::Discarded { name, result }));
        });
    }
}

/// All that a container has on disk and in the kernel, but for its record.
fn discard(workshop: &Workshop, name: &Name, id: Option<&str>, kept: Kept) -> Result<(), String> {
    workshop.networks.forget(name.as_str());
    // The mounts and namespaces first: what they hold can't be removed.
    let Kept { cgroup, .. } = kept;
    let cgroup = match cgroup {
        Some(cgroup) => Some(cgroup),
        None => Cgroup::open_existing(&workshop.parent, name.as_str())
            .map_err(|error| error.to_string())?
            .map(Arc::new),
    };
    if let Some(cgroup) = cgroup {
        cgroup.remove().map_err(|error| error.to_string())?;
    }
    let paths = &workshop.paths;
    if let Some(id) = id {
        let writable = crate::rootfs::Writable::at(&paths.state_dir(), id)
            .map_err(|error| error.to_string())?;
        crate::rootfs::discard(&writable).map_err(|error| error.to_string())?;
        let _ = crate::rootfs::empty_trash(&paths.state_dir());
    }
    let name = name.as_str();
    for dir in [paths.container_run_dir(name), paths.etc_dir(name), paths.log_dir(name)] {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("removing {}: {error}", dir.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
