//! `/containers/json` and `/containers/prune`: containers by filters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use bollard_stubs::models::ContainerSummary;
use hyper::StatusCode;
use serde_json::json;

use super::containers::{is_alive, is_ours, order};
use super::respond::{Answer, failure, json as as_json, refused};
use super::route::Query;
use super::turns::LOOKS;
use super::{endpoints, filters, model, volumes};
use crate::engine::handle::{Handle, View};
use crate::engine::images::blocking;
use crate::engine::reconcile::Verb;
use crate::image::Reference;
use crate::image::config::Process;
use crate::image::store::disk_of;
use crate::rootfs::Writable;

/// What is told of a container's image.
struct Base {
    id: String,
    process: Process,
}

/// The images that containers name, and those that they are of, by name and by id.
pub struct Bases(BTreeMap<String, Base>);

impl Bases {
    /// Those of these containers.
    pub async fn of(handle: &Handle, views: &[View]) -> Bases {
        Bases(bases(handle, views).await)
    }

    fn named(&self, view: &View) -> Option<&Base> {
        view.manifest.image.as_ref().and_then(|name| self.0.get(name))
    }

    /// What the image of a container says.
    fn process(&self, view: &View) -> Option<&Process> {
        let of = view.image.as_ref().and_then(|id| self.0.get(id));
        of.or_else(|| self.named(view)).map(|base| &base.process)
    }

    /// One line of `docker ps`.
    pub fn summary(&self, handle: &Handle, view: &View, now: SystemTime) -> ContainerSummary {
        let mut summary = model::summary(view, now);
        let named = self.named(view);
        let id = view.image.clone().or_else(|| named.map(|base| base.id.clone()));
        let base = self.process(view);
        summary.labels = Some(labels(view, base).into_iter().collect());
        if let Some(base) = base {
            summary.command = Some(model::quoted(&model::words(view, base)));
        }
        if view.manifest.image.is_some() && named.map(|base| &base.id) != id.as_ref() {
            // The name means another image now, or none.
            summary.image = id.clone().or(summary.image);
        }
        summary.image_id = id;
        let exposed = base.map(|base| base.exposed_ports.as_slice()).unwrap_or_default();
        summary.ports = Some(endpoints::summary(view, exposed));
        summary.mounts = Some(model::mounts(view, &|name| volumes::place(handle, name)));
        summary
    }
}

async fn bases(handle: &Handle, views: &[View]) -> BTreeMap<String, Base> {
    let names: BTreeSet<String> = views
        .iter()
        .flat_map(|view| [&view.image, &view.manifest.image])
        .flatten()
        .cloned()
        .collect();
    if names.is_empty() {
        return BTreeMap::new();
    }
    let Ok(store) = handle.images.store().await else { return BTreeMap::new() };
    // All images once, whatever containers there are: everybody on the machine may ask.
    let look = LOOKS.turn().await.with(move || {
        let mut by_name = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        for listed in store.list()? {
            let id = listed.image.id.to_string();
            let named = listed.names.iter().chain(&listed.digests);
            by_name.extend(named.map(|name| (name.to_string(), id.clone())));
            by_id.insert(id, listed.image.config.config);
        }
        let found = names.into_iter().filter_map(|name| {
            let full = name.parse::<Reference>().map(|full| full.to_string());
            let id = full.ok().and_then(|full| by_name.get(&full)).cloned();
            let begins =
                id.unwrap_or_else(|| format!("sha256:{}", name.trim_start_matches("sha256:")));
            let (id, process) = by_id.range(begins.clone()..).next()?;
            let is_it = id.starts_with(&begins);
            is_it.then(|| (name, Base { id: id.clone(), process: process.clone() }))
        });
        Ok(found.collect())
    });
    blocking(look).await.unwrap_or_default()
}

/// Bytes on disk.
pub struct Sizes {
    /// What the container has written itself.
    pub own: i64,
    /// The same with its image's layers.
    pub all: i64,
}

/// Counts what a container takes.
pub async fn sizes(handle: &Handle, view: &View) -> Sizes {
    let upper = Writable::at(&handle.paths.state_dir(), &view.id).map(|root| root.upper());
    let layers = match view.image.as_ref().or(view.manifest.image.as_ref()) {
        Some(image) => handle.images.stored(image).await.map(|root| root.layers),
        None => Ok(Vec::new()),
    };
    let look = LOOKS.turn().await.with(move || {
        let own = upper.map_or(0, |upper| disk_of(&upper));
        let layers = layers.unwrap_or_default();
        (own, own + layers.iter().map(|layer| disk_of(layer)).sum::<u64>())
    });
    let (own, all) = tokio::task::spawn_blocking(look).await.unwrap_or((0, 0));
    let bytes = |count| i64::try_from(count).unwrap_or(i64::MAX);
    Sizes { own: bytes(own), all: bytes(all) }
}

/// What a container can be.
const STATES: [&str; 7] =
    ["created", "dead", "exited", "paused", "removing", "restarting", "running"];

/// The filters of the API; another one is an error.
const FILTERS: [&str; 16] = [
    "ancestor",
    "annotation",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

pub async fn list(handle: &Handle, query: &Query) -> Answer {
    let filters = match query.filters_among(&FILTERS) {
        Ok(filters) => filters,
        Err(answer) => return *answer,
    };
    let limit = match query.get("limit").map(str::parse::<i64>).transpose() {
        // None, and what is below it, is no limit.
        Ok(limit) => limit.and_then(|limit| usize::try_from(limit).ok()).filter(|n| *n > 0),
        Err(_) => return failure(StatusCode::BAD_REQUEST, "limit is a number of containers"),
    };
    if let Err(message) = sound(&filters) {
        return failure(StatusCode::BAD_REQUEST, &message);
    }
    let wrong =
        filters.get("status").into_iter().flatten().find(|one| !STATES.contains(&one.as_str()));
    if let Some(state) = wrong {
        return failure(StatusCode::BAD_REQUEST, &format!("invalid filter 'status={state}'"));
    }
    let all = query.is_on("all")
        || limit.is_some()
        || ["status", "exited"].iter().any(|key| filters.contains_key(*key));
    let (names, ids) =
        (filters::Patterns::of(&filters, "name"), filters::Patterns::of(&filters, "id"));
    let mut views = handle.list().await;
    views.retain(|view| !view.id.is_empty() && (all || is_alive(view)));
    let bases = Bases::of(handle, &views).await;
    let fits = |view: &View| {
        let base = bases.process(view);
        filters.iter().all(|(key, values)| {
            values.is_empty()
                || match key.as_str() {
                    "name" => {
                        let name = view.name.as_str();
                        names.fit(name) || names.fit(&format!("/{name}"))
                    }
                    "id" => ids.fit(&view.id),
                    // A container has several labels, so all that are asked for count.
                    "label" | "annotation" => values.iter().all(|v| matches(view, base, key, v)),
                    _ => values.iter().any(|value| matches(view, base, key, value)),
                }
        })
    };
    let now = SystemTime::now();
    views.retain(|view| fits(view));
    let asked = filters.get("ancestor").map(Vec::as_slice).unwrap_or_default();
    if !asked.is_empty() {
        let ancestors = Ancestors::of(handle, asked, &views).await;
        views.retain(|view| ancestors.fit(view, asked));
    }
    views.sort_by_key(|view| std::cmp::Reverse(view.created));
    for (key, later) in [("since", true), ("before", false)] {
        for which in filters.get(key).into_iter().flatten() {
            let other = match handle.find(which).await {
                Ok(other) => other,
                Err(refusal) => return refused(refusal),
            };
            views.retain(|view| view.id != other.id && (view.created > other.created) == later);
        }
    }
    views.truncate(limit.unwrap_or(usize::MAX));
    let mut list = Vec::with_capacity(views.len());
    for view in &views {
        let mut summary = bases.summary(handle, view, now);
        if query.is_on("size") {
            let sizes = sizes(handle, view).await;
            (summary.size_rw, summary.size_root_fs) = (Some(sizes.own), Some(sizes.all));
        }
        list.push(summary);
    }
    as_json(&list)
}

/// The images that `ancestor` means: those that are named, and those that were made of them.
struct Ancestors(BTreeSet<String>);

impl Ancestors {
    /// A name is meant before an id that begins like it.
    async fn of(handle: &Handle, asked: &[String], views: &[View]) -> Ancestors {
        let Ok(store) = handle.images.store().await else { return Ancestors(BTreeSet::new()) };
        let asked = asked.to_vec();
        let used: BTreeSet<String> = views.iter().filter_map(|view| view.image.clone()).collect();
        let look = LOOKS.turn().await.with(move || {
            let layers = |image: &crate::image::store::Image| image.config.rootfs.diff_ids.clone();
            let named: Vec<_> = asked.iter().filter_map(|one| store.resolve(one).ok()).collect();
            let found = used.into_iter().filter(|id| {
                named.iter().any(|image| image.id.to_string() == *id)
                    || store.resolve(id).is_ok_and(|of| {
                        let of = layers(&of);
                        named
                            .iter()
                            .map(layers)
                            .any(|from| !from.is_empty() && of.starts_with(&from))
                    })
            });
            Ok(found.collect())
        });
        Ancestors(blocking(look).await.unwrap_or_default())
    }

    fn fit(&self, view: &View, asked: &[String]) -> bool {
        match &view.image {
            Some(id) => self.0.contains(id),
            // It has not chosen one yet.
            None => asked.contains(&model::image(view)),
        }
    }
}

/// Whether values are such that something could fit, in Docker's words.
fn sound(filters: &filters::Filters) -> Result<(), String> {
    let values = |key: &'static str| filters.get(key).into_iter().flatten().map(move |v| (key, v));
    let is_port = |text: &str| {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u16>().ok();
        matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
            && matches!(protocol, "tcp" | "udp" | "sctp")
    };
    let known = |key: &str, value: &str| match key {
        "exited" => value.parse::<i64>().is_ok(),
        "health" => matches!(value, "none" | "starting" | "healthy" | "unhealthy"),
        "is-task" => matches!(value, "true" | "false" | "1" | "0"),
        "publish" | "expose" => is_port(value),
        _ => true,
    };
    let keys = ["exited", "health", "is-task", "publish", "expose"];
    let wrong = keys.into_iter().flat_map(values).find(|(key, value)| !known(key, value));
    match wrong {
        Some((key, value)) => Err(format!("invalid filter '{key}={value}'")),
        None => Ok(()),
    }
}

/// The labels of a container: its image's, and its own.
fn labels(view: &View, base: Option<&Process>) -> BTreeMap<String, String> {
    let mut labels = base.map(|base| base.labels.clone()).unwrap_or_default();
    labels.extend(view.manifest.labels.clone());
    labels
}

fn matches(view: &View, base: Option<&Process>, key: &str, value: &str) -> bool {
    match key {
        "status" => view.state == value,
        "exited" => {
            !model::is_running(view) && view.exit_code.is_some_and(|code| code.to_string() == value)
        }
        "health" => model::health(view, base).unwrap_or("none") == value,
        "label" => filters::labelled(&labels(view, base), value),
        "network" => {
            endpoints::networks(view).contains_key(value)
                || view.endpoints.iter().any(|place| place.network_id.starts_with(value))
        }
        "volume" => view.manifest.mounts.iter().chain(&view.anonymous).any(|mount| {
            mount.source.as_deref() == Some(value) || mount.target.to_str() == Some(value)
        }),
        "publish" | "expose" => {
            let wanted = |port: &str, protocol: &str| in_range(value, port, protocol);
            let published = endpoints::published_pairs(&view.manifest);
            let of_image = base.map(|base| base.exposed_ports.clone()).unwrap_or_default();
            let said = endpoints::said_exposed(&view.manifest);
            let exposed = [of_image, said].concat();
            published.iter().any(|(host, inside)| {
                let (inside, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
                wanted(inside, protocol) || key == "publish" && wanted(host, protocol)
            }) || key == "expose"
                && exposed.iter().any(|port| {
                    let (port, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                    wanted(port, protocol)
                })
        }
        "is-task" => !matches!(value, "true" | "1"),
        _ => true,
    }
}

/// Whether a port is in `80`, `80/udp` or `80-90/tcp`.
fn in_range(range: &str, port: &str, protocol: &str) -> bool {
    let (range, wanted) = range.split_once('/').unwrap_or((range, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok();
    match (number(first), number(last), number(port)) {
        (Some(first), Some(last), Some(port)) => {
            wanted == protocol && (first..=last).contains(&port)
        }
        _ => false,
    }
}

/// Removes all that clients made and that do not run.
pub async fn prune(handle: &Handle, query: &Query) -> Answer {
    let asked = query.filters_among(&["label", "label!", "until"]);
    let now = SystemTime::now();
    let asked = asked.and_then(|filters| Ok((filters::until(&filters, now)?, filters)));
    let (before, filters) = match asked {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let (mut removed, mut freed) = (Vec::new(), 0);
    for view in handle.list().await {
        let rests = matches!(view.state.as_str(), "created" | "exited" | "dead");
        if rests
            && is_ours(handle, &view)
            && before.is_none_or(|before| view.created < before)
            && filters::labels_fit(&filters, &view.manifest.labels)
        {
            let size = sizes(handle, &view).await.own;
            if order(handle, &view, Verb::Remove { force: false }).await.is_ok() {
                freed += size;
                removed.push(view.id);
            }
        }
    }
    let removed = super::respond::unless_empty(removed);
    as_json(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": freed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_alone_and_in_ranges() {
        assert!(in_range("80", "80", "tcp") && in_range("80-90/udp", "85", "udp"));
        assert!(!in_range("80", "80", "udp") && !in_range("80-90", "91", "tcp"));
        assert!(!in_range("x", "80", "tcp") && !in_range("80", "", "tcp"));
    }
}
