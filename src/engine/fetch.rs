//! From an order to a launch that is ready: the image first, which may have to be
//! pulled, then everything else.

use super::prepare::{self, Order};
use super::reconcile::{Event, Image};
use super::run::{Effect, Engine};
use crate::manifest::scalar::Name;

impl Engine {
    /// Finds the image of a launch, which may have to be pulled first.
    pub(super) fn fetch(&mut self, mut order: Box<Order>, named: String, has: Option<Image>) {
        let (images, effects) = (self.workshop.images.clone(), self.effects.clone());
        let (name, policy) = (order.name.clone(), order.manifest.pull);
        let task = tokio::task::spawn_local(async move {
            let silent = crate::image::progress::silent();
            let result = images.root(&named, has.as_ref(), policy, &silent).await;
            let result = result.map(|image| order.image = Some(image));
            let _ = effects.send(Effect::Fetched { order, result });
        });
        if let Ok(name) = name.parse::<Name>() {
            self.lives.entry(name).or_default().fetching = Some(task.abort_handle());
        }
    }

    /// The image of a launch is there, or can't be had.
    pub(super) fn fetched(&mut self, order: Box<Order>, result: Result<(), String>) {
        let Ok(name) = order.name.parse::<Name>() else { return };
        let incarnation = order.incarnation;
        let live = self.lives.entry(name.clone()).or_default();
        live.fetching = None;
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

    /// Gives up the pulls of containers that are no longer to run.
    pub(super) fn end_unwanted_fetches(&mut self) {
        for (name, live) in &mut self.lives {
            if live.fetching.is_none() || self.observed.wants(name) {
                continue;
            }
            if let Some(task) = live.fetching.take() {
                task.abort();
            }
            let Some(incarnation) = self.observed.record(name).map(|r| r.incarnation) else {
                continue;
            };
            let error = "it was not to run any more before its image was there".to_owned();
            let failed = Event::LaunchFailed { name: name.clone(), incarnation, code: 125, error };
            let _ = self.effects.send(Effect::Event(failed));
        }
    }

    /// Makes everything else of a launch ready.
    pub(super) fn make_ready(&mut self, mut order: Box<Order>) {
        let Ok(name) = order.name.parse::<Name>() else { return };
        order.kept = std::mem::take(&mut self.lives.entry(name.clone()).or_default().kept);
        let incarnation = order.incarnation;
        let (workshop, effects) = (self.workshop.clone(), self.effects.clone());
        tokio::task::spawn_blocking(move || {
            let (kept, result) = prepare::prepare(&workshop, *order);
            let prepared = Effect::Prepared {
                name,
                incarnation,
                kept: Box::new(kept),
                result: result.map(Box::new),
            };
            let _ = effects.send(prepared);
            workshop.pool.refill();
        });
    }
}
