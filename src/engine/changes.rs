//! Changes of a container that runs: limits and networks, in place.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::reconcile::Event;
use super::run::{Effect, Engine};
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;

/// The changes of one container, made one after the other: a limit can take the kernel long.
/// Of those that are asked for meanwhile the newest counts.
#[derive(Debug, Default)]
pub struct Changes {
    /// The one that is being made.
    under_way: Option<u64>,
    /// What it is to be after that.
    next: Option<Arc<Container>>,
    /// An earlier one failed, or nobody was told of it.
    in_doubt: bool,
}

/// What an end of a change means.
#[derive(Debug, PartialEq)]
enum Ended {
    /// Nothing: it is of a container that is no more.
    Nothing,
    /// This one is to be made, and the outcome of the earlier one is of no interest.
    Next(Arc<Container>),
    /// The container is as was asked last, or can't be so.
    Last,
}

impl Changes {
    /// Gives a change back if it can be made now.
    fn ask(&mut self, manifest: Arc<Container>) -> Option<Arc<Container>> {
        match self.under_way {
            None => Some(manifest),
            Some(_) => {
                self.next = Some(manifest);
                None
            }
        }
    }

    /// One is made from now on. Whether it is unknown how the container is.
    fn begin(&mut self, key: u64) -> bool {
        self.under_way = Some(key);
        self.in_doubt
    }

    fn ended(&mut self, key: u64, is_good: bool) -> Ended {
        if self.under_way != Some(key) {
            return Ended::Nothing;
        }
        self.under_way = None;
        self.in_doubt = !is_good || self.next.is_some();
        self.next.take().map_or(Ended::Last, Ended::Next)
    }

    /// Whether one is being made.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// A launch makes everything as it is to be.
    pub fn launched(&mut self) {
        self.next = None;
    }
}

/// Something that the engine is told when this is dropped, also by a panic: nobody is to wait
/// for it in vain.
pub(super) struct Telling {
    effects: UnboundedSender<Effect>,
    effect: Option<Effect>,
}

impl Telling {
    pub(super) fn new(effects: &UnboundedSender<Effect>, effect: Effect) -> Self {
        Telling { effects: effects.clone(), effect: Some(effect) }
    }

    /// Tells something else.
    fn instead(mut self, effect: Effect) {
        self.effect = Some(effect);
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(effect) = self.effect.take() {
            let _ = self.effects.send(effect);
        }
    }
}

impl Engine {
    pub(super) fn apply_live(&mut self, name: Name) {
        let Some(manifest) = self.desired.containers.get(&name).cloned() else {
            return;
        };
        let Some(live) = self.lives.get_mut(&name) else {
            return;
        };
        if let Some(capture) = &live.capture {
            capture.set(manifest.log.clone());
        }
        if let Some(manifest) = live.changes.ask(manifest) {
            self.change(name, manifest);
        }
    }

    fn change(&mut self, name: Name, manifest: Arc<Container>) {
        let key = self.key();
        let Some(live) = self.lives.get_mut(&name) else {
            return;
        };
        let in_doubt = live.changes.begin(key);
        let cgroup = live.cgroup();
        let network = self.network_change(&name, &manifest, in_doubt);
        let networks = self.workshop.networks.clone();
        let to = Arc::clone(&manifest);
        let changed =
            move |result| Effect::Changed { name: name.clone(), key, to: to.clone(), result };
        let bug = Err("a bug ended the change before it was made; the log tells more".to_owned());
        let told = Telling::new(&self.effects, changed(bug));
        tokio::task::spawn_blocking(move || {
            let limited = match cgroup {
                Some(cgroup) => {
                    cgroup.apply(&manifest.resources).map(drop).map_err(|e| e.to_string())
                }
                None => Ok(()),
            };
            let Some(network) = network else {
                return told.instead(changed(limited));
            };
            // Only this in turn with what changes the networks: a limit keeps no other
            // container waiting.
            networks.later(move |_| {
                let connected = network();
                told.instead(changed(limited.and(connected)));
            });
        });
    }

    /// A change was made, or could not be.
    pub(super) fn changed(
        &mut self,
        name: Name,
        key: u64,
        to: Arc<Container>,
        result: Result<(), String>,
    ) {
        let is_good = result.is_ok();
        let Some(live) = self.lives.get_mut(&name) else {
            return;
        };
        match live.changes.ended(key, is_good) {
            Ended::Nothing => {}
            Ended::Next(manifest) => self.change(name, manifest),
            Ended::Last => {
                self.apply(Event::LiveApplied { name: name.clone(), to, result });
                if let Some(incarnation) = self.observed.record(&name).map(|r| r.incarnation)
                    && is_good
                {
                    self.watch_health(&name, incarnation);
                    self.watch_idle(&name, incarnation);
                    self.names_answered(&name, incarnation, true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_changes_that_wait_the_newest_is_made_and_told() {
        let manifest = || Arc::new(Container::default());
        let (first, second, third) = (manifest(), manifest(), manifest());
        let mut changes = Changes::default();
        assert!(changes.ask(first).is_some());
        assert!(!changes.begin(1));
        assert!(changes.ask(second).is_none() && changes.ask(third.clone()).is_none());
        assert_eq!(changes.ended(7, true), Ended::Nothing, "of somebody who is gone");
        match changes.ended(1, true) {
            Ended::Next(next) => assert!(Arc::ptr_eq(&next, &third)),
            other => panic!("{other:?}"),
        }
        assert!(changes.begin(2), "nobody was told of the first");
        assert_eq!(changes.ended(2, false), Ended::Last);
        assert!(changes.begin(3), "who knows how far it came");
        assert_eq!(changes.ended(3, true), Ended::Last);
        assert!(!changes.begin(4));
        changes.ask(manifest());
        changes.launched();
        assert_eq!(changes.ended(4, true), Ended::Last);
    }

    #[test]
    fn a_panic_is_told_too() {
        let (effects, mut told) = tokio::sync::mpsc::unbounded_channel();
        let telling = Telling::new(&effects, Effect::TornDown);
        let job = std::panic::AssertUnwindSafe(move || {
            let _telling = telling;
            panic!("a bug");
        });
        assert!(std::panic::catch_unwind(job).is_err());
        assert!(matches!(told.try_recv(), Ok(Effect::TornDown)));
        Telling::new(&effects, Effect::TornDown).instead(Effect::Rest);
        assert!(matches!(told.try_recv(), Ok(Effect::Rest)));
        assert!(told.try_recv().is_err());
    }
}
