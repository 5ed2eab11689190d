//! From an order to a launch that is ready: the image first, which may have to be
//! pulled, then everything else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::images::Images;
use super::prepare::{self, Order};
use super::reconcile::{Event, Image, Phase};
use super::run::{Effect, Engine};
use crate::image::pull::Policy;
use crate::manifest::model::{Container, MountKind};
use crate::manifest::scalar::Name;

/// A launch that takes longer to be made ready waits for something that may never come.
const OVERDUE: Duration = Duration::from_secs(30);

/// What a container was made of at an earlier launch.
#[derive(Debug)]
pub(super) struct Has {
    /// Its own image.
    pub image: Option<Image>,
    /// The ids of those that it had mounted, by what the manifest calls them.
    pub mounted: BTreeMap<String, String>,
}

/// Of each image that a container has mounted the id and the layers, by what the manifest
/// calls it; once launched it keeps those that it had, as with its own.
async fn mounts(
    images: &Images,
    manifest: &Container,
    had: &BTreeMap<String, String>,
    policy: Policy,
) -> Result<BTreeMap<String, (String, Vec<PathBuf>)>, String> {
    let mut found = BTreeMap::new();
    let silent = crate::image::progress::silent();
    for mount in manifest.mounts.iter().filter(|mount| mount.kind() == MountKind::Image) {
        let Some(named) = &mount.source else { continue };
        let kept = match had.get(named) {
            Some(id) => images.stored(id).await.ok(),
            None => None,
        };
        let root = match kept {
            Some(root) => root,
            None => images.root(named, None, policy, &silent).await?,
        };
        found.insert(named.clone(), (root.image.id, root.layers));
    }
    Ok(found)
}

impl Engine {
    /// Finds the image of a launch, which may have to be pulled first.
    pub(super) fn fetch(&mut self, mut order: Box<Order>, has: Has) {
        let (images, effects) = (self.workshop.images.clone(), self.effects.clone());
        let (name, policy) = (order.name.clone(), order.manifest.pull);
        let incarnation = order.incarnation;
        let task = tokio::task::spawn_local(async move {
            let silent = crate::image::progress::silent();
            let Has { image: has, mounted } = has;
            let mounted = mounts(&images, &order.manifest, &mounted, policy).await;
            let named = super::images::named(&order.manifest).unwrap_or_default();
            let result = match (super::images::archive(&order.manifest), mounted) {
                (_, Err(error)) => Err(error),
                (Some(path), Ok(mounted)) => {
                    images.root_of_archive(path).await.map(|root| (root, mounted))
                }
                (None, Ok(mounted)) if named.is_empty() => Ok((None, mounted)),
                (None, Ok(mounted)) => {
                    let root = images.root(&named, has.as_ref(), policy, &silent).await;
                    root.map(|root| (Some(root), mounted))
                }
            };
            let result = result.map(|(image, mounted)| {
                let id = image.as_ref().map(|image| &image.image.id);
                // Changes of other files mean nothing: the container begins anew.
                if let Some(has) = has.filter(|has| Some(&has.id) != id) {
                    tracing::info!("{}: {named} is not what it was ({})", order.called, has.id);
                    order.renew = true;
                    images.changed();
                }
                order.image = image;
                let ids = mounted.iter().map(|(name, (id, _))| (name.clone(), id.clone()));
                let ids = ids.collect();
                order.mounted =
                    mounted.into_iter().map(|(name, (_, layers))| (name, layers)).collect();
                ids
            });
            let _ = effects.send(Effect::Fetched { order, result });
        });
        if let Ok(name) = name.parse::<Name>() {
            self.fetches.insert(name, (incarnation, task.abort_handle()));
        }
    }

    /// The image of a launch is there, or can't be had.
    pub(super) fn fetched(
        &mut self,
        order: Box<Order>,
        result: Result<BTreeMap<String, String>, String>,
    ) {
        let Ok(name) = order.name.parse::<Name>() else { return };
        let incarnation = order.incarnation;
        // One that was given up has failed already, whatever came of it meanwhile.
        if self.fetches.get(&name).is_none_or(|(of, _)| *of != incarnation) {
            return;
        }
        self.fetches.remove(&name);
        match result {
            Ok(images) => {
                let of = name.clone();
                self.apply(Event::ImagesMounted { name: of, incarnation, images });
                if let Some(root) = &order.image {
                    let image = Box::new(root.image.clone());
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

    /// The system holds a launch up, perhaps for ever: from now on it is given up as soon as
    /// it is not wanted any more.
    pub(super) fn overdue(&mut self, name: Name, incarnation: u64) {
        tracing::warn!(
            "{}: its launch has been made ready for {OVERDUE:?}: a file system or a program that \
             it needs does not answer; `berth stop` gives it up",
            self.observed.called(&name)
        );
        let nothing = tokio::task::spawn_local(std::future::ready(())).abort_handle();
        self.fetches.insert(name, (incarnation, nothing));
    }

    /// Whether a launch is still wanted that is ready, or can't be made.
    pub(super) fn is_awaited(&mut self, name: &Name, incarnation: u64) -> bool {
        if let Some(overdue) = self.lives.get_mut(name).and_then(|live| live.overdue.take()) {
            overdue.abort();
        }
        if self.fetches.get(name).is_some_and(|(of, _)| *of == incarnation) {
            self.fetches.remove(name);
        }
        self.observed.record(name).is_some_and(|record| {
            record.incarnation == incarnation && matches!(record.phase, Phase::Launching { .. })
        })
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
        let (late, effects) = (name.clone(), self.effects.clone());
        let overdue = tokio::task::spawn_local(async move {
            tokio::time::sleep(OVERDUE).await;
            let _ = effects.send(Effect::Overdue { name: late, incarnation });
        });
        self.lives.entry(name.clone()).or_default().overdue = Some(overdue.abort_handle());
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
