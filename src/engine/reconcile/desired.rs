//! What the manifests say, as the loader read them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::manifest::model::Container;
use crate::manifest::scalar::Name;

/// What ought to be. Containers of a directory that vanished stay in
/// `containers`: the loader knows the difference from a deleted file.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Every manifest that parsed and validated.
    pub containers: BTreeMap<Name, Arc<Container>>,
    /// What is declared but wrong, and why. Its last good version stays in force;
    /// where `containers` has the name too, that is the version in force.
    pub broken: BTreeMap<Name, String>,
    /// Set once Berth is to end.
    pub shutdown: Option<Shutdown>,
    /// The time zone that schedules are meant in.
    pub zone: jiff::tz::TimeZone,
    /// The container that all others are there for: a policy `always` does not start it
    /// again.
    pub main: Option<Name>,
}

impl Default for Desired {
    fn default() -> Self {
        Desired {
            containers: BTreeMap::new(),
            broken: BTreeMap::new(),
            shutdown: None,
            zone: jiff::tz::TimeZone::UTC,
            main: None,
        }
    }
}

/// How Berth is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// The second signal: no more waiting for stop timeouts.
    pub hurry: bool,
}

impl Desired {
    /// Takes what a full scan found, and returns the names that differ: what
    /// [`Event::ManifestsChanged`](super::Event::ManifestsChanged) wants to know.
    pub fn replace(
        &mut self,
        containers: BTreeMap<Name, Arc<Container>>,
        broken: BTreeMap<Name, String>,
    ) -> BTreeSet<Name> {
        let mut changed = BTreeSet::new();
        for (name, container) in &containers {
            if self.containers.get(name) != Some(container) {
                changed.insert(name.clone());
            }
        }
        for (name, why) in &broken {
            if self.broken.get(name) != Some(why) {
                changed.insert(name.clone());
            }
        }
        let gone = |name: &&Name| !containers.contains_key(*name) && !broken.contains_key(*name);
        changed.extend(self.containers.keys().filter(gone).cloned());
        let mended = |name: &&Name| !broken.contains_key(*name);
        changed.extend(self.broken.keys().filter(mended).cloned());
        self.containers = containers;
        self.broken = broken;
        changed
    }

    /// Whether any file declares this name, well or badly.
    pub fn declares(&self, name: &Name) -> bool {
        self.containers.contains_key(name) || self.broken.contains_key(name)
    }
}
