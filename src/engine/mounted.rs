//! The file systems that volumes are instead of folders, while containers use them: held
//! by the keeper over our death, and let go of when nobody has them any more.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::reconcile::{Phase, Record};
use super::run::{Effect, Engine, wall};
use super::volumes;
use crate::image::Digest;
use crate::keeper::protocol::{Kind, Message, Tag};
use crate::manifest::model::MountKind;
use crate::manifest::scalar::Name;

/// The tags of those that the keeper holds begin so.
const TAG: &str = "v/";

/// A volume's name can be longer than a tag.
fn tag(volume: &str) -> String {
    format!("{TAG}{}", Digest::of(volume.as_bytes()).hex())
}

/// Whether a container that has this volume needs it now, or soon again.
fn uses(record: &Record, volume: &str) -> bool {
    let is_used = match record.phase {
        Phase::Launching { .. }
        | Phase::Running(_)
        | Phase::Stopping { .. }
        | Phase::Ending { .. }
        | Phase::Ended { .. }
        | Phase::Backoff { .. } => true,
        Phase::Created
        | Phase::Exited(_)
        | Phase::Scheduled { .. }
        | Phase::Removing { .. }
        | Phase::Dead { .. } => false,
    };
    is_used
        && record.applied.as_ref().is_some_and(|manifest| {
            let mut mounts = manifest.mounts.iter();
            mounts.any(|mount| {
                mount.kind() == MountKind::Volume && mount.source.as_deref() == Some(volume)
            })
        })
}

impl Engine {
    /// Those that an engine before us had are those of their volumes again.
    pub(super) fn take_volumes(&mut self, held: &mut HashMap<String, OwnedFd>) {
        let mut held: HashMap<String, OwnedFd> =
            held.extract_if(|tag, _| tag.starts_with(TAG)).collect();
        if held.is_empty() {
            return;
        }
        for volume in self.workshop.volumes.list().unwrap_or_default() {
            if let Some(namespace) = held.remove(&tag(&volume.name)) {
                self.workshop.volumes.take_back(&volume, namespace);
            }
        }
        for (tag, namespace) in held {
            drop(namespace);
            self.unmount(&tag);
        }
    }

    /// Says which volumes were made for a launch.
    pub(super) fn tell_volumes(&self) {
        for name in self.workshop.volumes.newly_made() {
            self.events.publish(volumes::event(wall(), "create", &name));
        }
    }

    /// Has the keeper hold what was mounted for a launch, before that is begun.
    pub(super) fn hold_volumes(&mut self) -> Result<(), String> {
        let observed = &self.observed;
        // Or a client only looked into a container that does not run.
        let is_used = |volume: &str| observed.records().any(|record| uses(record, volume));
        for (volume, namespace) in self.workshop.volumes.to_hold(is_used) {
            let tag = tag(&volume);
            // An earlier one of that name is let go of beside the keeper's loop.
            self.unmount(&tag);
            self.hold(&tag, Some(&namespace))?;
        }
        Ok(())
    }

    /// The keeper has the last descriptor of a volume's file system, and lets it go, unless
    /// that was mounted anew meanwhile.
    pub(super) fn volume_unused(&mut self, volume: &str) {
        if !self.workshop.volumes.is_mounted(volume) {
            self.unmount(&tag(volume));
        }
    }

    fn unmount(&mut self, tag: &str) {
        let tag = Tag::new(tag).unwrap_or(Tag::EMPTY);
        self.link.send(Message { tag, ..Message::new(Kind::ReleaseApart) }, Vec::new());
    }

    /// These containers changed: what none has any more is unmounted.
    pub(super) fn unmount_volumes(&mut self, changed: &[Name]) {
        if changed.is_empty() {
            return;
        }
        let observed = &self.observed;
        let is_used = |volume: &str| observed.records().any(|record| uses(record, volume));
        for (volume, unused) in self.workshop.volumes.unused(is_used) {
            let effects = self.effects.clone();
            tokio::task::spawn_blocking(move || {
                // Ours first: whoever has the last one waits for the file system, and that
                // is to be a child of the keeper's.
                drop(unused);
                let _ = effects.send(Effect::Unmount { volume });
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::engine::reconcile::Rest;
    use crate::manifest::model::Container;

    /// Who is removed, or can't be, does not need its volumes any more; who failed to begin
    /// and is tried again does.
    #[test]
    fn a_volume_is_used_by_whoever_lives_or_comes_back() {
        let text = "[[mount]]\nsource = \"v\"\ntarget = \"/v\"";
        let manifest: Container = toml::from_str(text).unwrap();
        let mut record = Record::new("c".parse().unwrap(), "id".into(), 0, "b".into());
        record.applied = Some(Arc::new(manifest));
        let zero = Duration::ZERO;
        for (phase, is_used) in [
            (Phase::Created, false),
            (Phase::Launching { since: zero, ready: false }, true),
            (Phase::Ended { why: None }, true),
            (Phase::Backoff { until: zero, attempt: 1 }, true),
            (Phase::Exited(Rest::Finished), false),
            (Phase::Removing { tried: 0 }, false),
            (Phase::Dead { error: String::new(), until: zero, tried: 1 }, false),
        ] {
            record.phase = phase;
            assert_eq!(uses(&record, "v"), is_used, "{:?}", record.phase);
            assert!(!uses(&record, "w"));
        }
    }
}
