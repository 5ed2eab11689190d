//! From an order to a launch that is ready: the image first, which may have to be
//! pulled, then everything else.

use std::sync::Arc;

use super::prepare::{self, Order};
use super::reconcile::{Event, Image};
use super::run::{Effect, Engine};
use crate::manifest::model::Container;
use crate::manifest::scalar::Name;

impl Engine {
    /// Finds the image of a launch, which may have to be pulled first.
    pub(super) fn fetch(&mut self, mut order: Box<Order>, named: String, has: Option<Image>) {
        let (images, effects) = (self.workshop.images.clone(), self.effects.clone());
        let (name, policy) = (order.name.clone(), order.manifest.pull);
        let incarnation = order.incarnation;
        let task = tokio::task::spawn_local(async move {
            let silent = crate::image::progress::silent();
            let result = match super::images::archive(&order.manifest) {
                Some(path) => images.root_of_archive(path).await,
                None => images.root(&named, has.as_ref(), policy, &silent).await.map(Some),
            };
            let result = result.map(|image| {
                let id = image.as_ref().map(|image| &image.image.id);
                // Changes of other files mean nothing: the container begins anew.
                if let Some(has) = has.filter(|has| Some(&has.id) != id) {
                    tracing::info!("{}: {named} is not what it was ({})", order.name, has.id);
                    order.renew = true;
                    images.changed();
                }
                order.image = image;
            });
            let _ = effects.send(Effect::Fetched { order, result });
        });
        if let Ok(name) = name.parse::<Name>() {
            self.fetches.insert(name, (incarnation, task.abort_handle()));
        }
    }

    /// The image of a launch is there, or can't be had.
    pub(super) fn fetched(&mut self, order: Box<Order>, result: Result<(), String>) {
        let Ok(name) = order.name.parse::<Name>() else { return };
        let incarnation = order.incarnation;
        // One that was given up has failed already, whatever came of it meanwhile.
        if self.fetches.get(&name).is_none_or(|(of, _)| *of != incarnation) {
            return;
        }
        self.fetches.remove(&name);
        match result {
            Ok(()) => {
                if let Some(root) = &order.image {
                    let image = root.image.clone();
                    self.apply(Event::ImageChosen { name, incarnation, image });
                }
                self.make_ready(order);
            }
            Err(error) => {
                self.apply(Event::LaunchFailed { name, incarnation, code: 125, error });
            }
        }
    }

    /// Looks whether the conditions of a launch hold, on a thread that a file system which
    /// hangs may keep.
    pub(super) fn look_at_conditions(
        &mut self,
        name: Name,
        incarnation: u64,
        renew: bool,
        manifest: Arc<Container>,
    ) {
        let (of, effects) = (name.clone(), self.effects.clone());
        let task = tokio::task::spawn_local(async move {
            let looked = tokio::task::spawn_blocking(move || super::notify::unmet(&manifest));
            let unmet = looked.await.unwrap_or_else(|_| Some("looking at it failed".to_owned()));
            let _ = effects.send(Effect::Looked { name: of, incarnation, renew, unmet });
        });
        self.fetches.insert(name, (incarnation, task.abort_handle()));
    }

    /// Whether the conditions of a launch hold is known.
    pub(super) fn looked(
        &mut self,
        name: Name,
        incarnation: u64,
        renew: bool,
        unmet: Option<String>,
    ) {
        if self.fetches.get(&name).is_none_or(|(of, _)| *of != incarnation) {
            return;
        }
        self.fetches.remove(&name);
        match unmet {
            Some(unmet) => {
                self.turn_away(&name);
                self.apply(Event::Skipped { name, incarnation, unmet });
            }
            None => self.launch_at_last(name, incarnation, renew),
        }
    }

    /// Gives up the pulls of containers that are no longer to run.
    pub(super) fn end_unwanted_fetches(&mut self) {
        let Engine { fetches, observed, effects, .. } = self;
        fetches.retain(|name, (incarnation, task)| {
            if observed.wants(name) {
                return true;
            }
            task.abort();
            let error = "it was not to run any more before its launch was ready".to_owned();
            let (name, incarnation) = (name.clone(), *incarnation);
            let failed = Event::LaunchFailed { name, incarnation, code: 125, error };
            let _ = effects.send(Effect::Event(failed));
            false
        });
    }

    /// Makes everything else of a launch ready.
    pub(super) fn make_ready(&mut self, mut order: Box<Order>) {
        let Ok(name) = order.name.parse::<Name>() else { return };
        order.kept = std::mem::take(&mut self.lives.entry(name.clone()).or_default().kept);
        let incarnation = order.incarnation;
        let (workshop, effects) = (self.workshop.clone(), self.effects.clone());
        let work = move || {
            let (kept, result) = prepare::prepare(&workshop, *order);
            let prepared = Effect::Prepared {
                name,
                incarnation,
                kept: Box::new(kept),
                result: result.map(Box::new),
            };
            let _ = effects.send(prepared);
            workshop.pool.refill();
        };
        // Some at a time: hundreds at once would only wait for each other in the kernel,
        // each with its memory and descriptors.
        match Arc::clone(&self.preparing).try_acquire_owned() {
            Ok(turn) => drop(tokio::task::spawn_blocking(move || {
                work();
                drop(turn);
            })),
            Err(_) => {
                let preparing = Arc::clone(&self.preparing);
                tokio::task::spawn_local(async move {
                    // It is never closed.
                    let turn = preparing.acquire_owned().await;
                    let _ = tokio::task::spawn_blocking(work).await;
                    drop(turn);
                });
            }
        }
    }
}
