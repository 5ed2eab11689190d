//! `/containers/…`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use serde_json::json;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::respond::{Answer, created, failure, json as as_json, no_content, refused, stream};
use super::route::Query;
use super::{body, create, images, inspect, model, names, volumes};
use crate::engine::handle::{Event, Handle, Refusal, View};
use crate::engine::reconcile::Verb;
use crate::manifest::scalar::{Name, Signal};

pub async fn list(handle: &Handle, query: &Query) -> Answer {
    let filters = match query.filters() {
        Ok(filters) => filters,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    if let Some(unknown) = filters.keys().find(|key| !FILTERS.contains(&key.as_str())) {
        return failure(StatusCode::BAD_REQUEST, &format!("invalid filter '{unknown}'"));
    }
    let limit = query.get("limit").and_then(|limit| limit.parse::<usize>().ok()).filter(|n| *n > 0);
    let all = query.is_on("all")
        || limit.is_some()
        || ["status", "exited"].iter().any(|key| filters.contains_key(*key));
    let fits = |view: &View| {
        filters.iter().all(|(key, values)| {
            values.is_empty() || values.iter().any(|value| matches(view, key, value))
        })
    };
    let now = SystemTime::now();
    let mut views = handle.list().await;
    views.retain(|view| !view.id.is_empty() && (all || model::is_running(view)) && fits(view));
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
    let list: Vec<_> = views.iter().map(|view| model::summary(view, now)).collect();
    as_json(&list)
}

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

fn matches(view: &View, key: &str, value: &str) -> bool {
    match key {
        "id" => view.id.starts_with(value),
        "name" => view.name.as_str().contains(value.trim_start_matches('/')),
        "status" => view.state == value,
        "exited" => {
            !model::is_running(view) && view.exit_code.is_some_and(|code| code.to_string() == value)
        }
        "health" => view.health.as_deref().unwrap_or("none") == value,
        "label" => match value.split_once('=') {
            Some((name, value)) => view.manifest.labels.get(name).is_some_and(|v| v == value),
            None => view.manifest.labels.contains_key(value),
        },
        "ancestor" => {
            let image = model::image(view);
            image == value || image.split(':').next() == Some(value)
        }
        "network" => view.manifest.network_mode().to_string() == value,
        "volume" => view.manifest.mounts.iter().any(|mount| {
            mount.source.as_deref() == Some(value) || mount.target.to_str() == Some(value)
        }),
        "publish" | "expose" => {
            let wanted =
                if value.contains('/') { value.to_owned() } else { format!("{value}/tcp") };
            inspect::port_bindings(&view.manifest).contains_key(&wanted)
        }
        "is-task" => !matches!(value, "true" | "1"),
        _ => true,
    }
}

pub async fn inspect(handle: &Handle, which: &str) -> Answer {
    match handle.find(which).await {
        Ok(view) => {
            let log = handle.paths.log_dir(view.name.as_str()).join("current.log");
            let upper = crate::rootfs::Writable::at(&handle.paths.state_dir(), &view.id);
            let places = inspect::Places {
                log: log.display().to_string(),
                upper: upper
                    .map(|writable| writable.upper().display().to_string())
                    .unwrap_or_default(),
            };
            as_json(&inspect::inspect(&view, &base(handle, &view).await, &places))
        }
        Err(refusal) => refused(refusal),
    }
}

/// What the image of a container says.
async fn base(handle: &Handle, view: &View) -> inspect::Base {
    let Some(image) = &view.manifest.image else {
        return inspect::Base::default();
    };
    match images::find(handle, image).await {
        Ok(image) => {
            inspect::Base { id: image.id.to_string(), process: image.config.config.clone() }
        }
        Err(_) => inspect::Base::default(),
    }
}

fn signal(query: &Query) -> Result<Option<Signal>, String> {
    query
        .get("signal")
        .map(|text| text.parse().map_err(|error: String| format!("invalid signal: {error}")))
        .transpose()
}

/// Docker's `t`: seconds, negative for ever.
fn timeout(query: &Query) -> Result<Option<Duration>, String> {
    match query.get("t").map(str::parse::<i64>) {
        None => Ok(None),
        Some(Ok(seconds)) if seconds < 0 => Ok(Some(Duration::MAX)),
        Some(Ok(seconds)) => Ok(Some(Duration::from_secs(seconds.unsigned_abs()))),
        Some(Err(_)) => Err("t is a number of seconds".to_owned()),
    }
}

pub async fn act(handle: &Handle, which: &str, verb: &str, query: &Query) -> Answer {
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let asked = (|| {
        Ok::<_, String>(Some(match verb {
            "start" => Verb::Start,
            "stop" => Verb::Stop { signal: signal(query)?, timeout: timeout(query)? },
            "restart" => Verb::Restart { timeout: timeout(query)? },
            "kill" => Verb::Kill(signal(query)?.unwrap_or(Signal::KILL)),
            "pause" => Verb::Pause,
            "unpause" => Verb::Unpause,
            _ => return Ok(None),
        }))
    })();
    let verb = match asked {
        Ok(Some(verb)) => verb,
        Ok(None) => return failure(StatusCode::NOT_FOUND, "page not found"),
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    match order(handle, &view, verb).await {
        Ok(()) => no_content(),
        Err(refusal) => refused(refusal),
    }
}

/// Orders and waits until it is so, as Docker's daemon does.
pub async fn order(handle: &Handle, view: &View, verb: Verb) -> Result<(), Refusal> {
    let name = &view.name;
    // One that is removed at its end is not before the outcome was seen here.
    let _attached = matches!(verb, Verb::Start).then(|| handle.attached.enter(name));
    match &verb {
        Verb::Start if model::is_running(view) => return Err(Refusal::AlreadySo),
        // A person's stop is also told to what only waits to be started again.
        Verb::Stop { .. } if view.stopped_by_hand && !model::is_running(view) => {
            return Err(Refusal::AlreadySo);
        }
        _ => {}
    }
    let before = (view.pid, view.finished);
    match (handle.act(name, verb.clone()).await, &verb) {
        (Ok(()), _) => {}
        (Err(Refusal::Conflict(_)), Verb::Stop { .. }) => return Err(Refusal::AlreadySo),
        (Err(refusal), _) => return Err(refusal),
    }
    match verb {
        Verb::Start | Verb::Restart { .. } => {
            let reached = handle
                .wait_until(name, |view| {
                    let is_new = (view.pid, view.finished) != before;
                    let ended = matches!(view.state.as_str(), "exited" | "restarting" | "dead");
                    is_new && (view.state == "running" || ended)
                        || view.detail.as_ref().is_some_and(|_| {
                            view.state == "created" && view.pid == 0 && is_blocked(view)
                        })
                })
                .await;
            match reached.and_then(|view| view.error.filter(|_| view.state != "running")) {
                Some(error) => Err(Refusal::Failed(error)),
                None => Ok(()),
            }
        }
        Verb::Stop { .. } => {
            handle.wait_until(name, |view| view.pid == 0 && !is_alive(view)).await;
            Ok(())
        }
        Verb::Remove { .. } => {
            handle.wait_until(name, |_| false).await;
            Ok(())
        }
        Verb::Kill(Signal::KILL) => {
            handle.wait_until(name, |view| view.pid != before.0).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn is_alive(view: &View) -> bool {
    matches!(view.state.as_str(), "running" | "paused" | "restarting")
}

/// It waits for another container; its start may take for ever.
fn is_blocked(view: &View) -> bool {
    view.detail.as_deref().is_some_and(|detail| !detail.contains("starting"))
}

pub async fn remove(handle: &Handle, which: &str, query: &Query) -> Answer {
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let force = query.is_on("force");
    if (model::is_running(&view) || view.state == "restarting") && !force && is_ours(handle, &view)
    {
        return failure(
            StatusCode::CONFLICT,
            &format!(
                "cannot remove container \"/{}\": container is {}: stop the container before \
                 removing or force remove",
                view.name, view.state
            ),
        );
    }
    match order(handle, &view, Verb::Remove { force }).await {
        Ok(()) => {
            if query.is_on("v") || view.manifest.auto_remove {
                volumes::remove_anonymous(handle, &view).await;
            }
            no_content()
        }
        Err(refusal) => refused(refusal),
    }
}

/// Whether a client made it, or nothing declares it any more.
fn is_ours(handle: &Handle, view: &View) -> bool {
    let created = handle.paths.created_dir();
    view.source.as_ref().is_none_or(|source| source.starts_with(created))
}

pub async fn create(handle: &Handle, query: &Query, body: Incoming) -> Answer {
    let asked = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    match make(handle, query.get("name"), asked).await {
        Ok((id, warnings)) => created(&json!({ "Id": id, "Warnings": warnings })),
        Err(refusal) => refused(refusal),
    }
}

async fn make(
    handle: &Handle,
    name: Option<&str>,
    asked: serde_json::Value,
) -> Result<(String, Vec<String>), Refusal> {
    let asked = create::parse(asked).map_err(Refusal::Invalid)?;
    let name = name.map(|name| name.trim_start_matches('/'));
    let named = name.map(|text| {
        text.parse::<Name>().map_err(|error| {
            Refusal::Invalid(format!(
                "Invalid container name ({text}), only [a-z0-9][a-z0-9_.-] are allowed: {error}"
            ))
        })
    });
    let named = named.transpose()?;
    let size =
        super::exec::size(asked.host_config.as_ref().and_then(|host| host.console_size.as_ref()));
    let views = handle.list().await;
    let lookup = |which: &str| {
        let view = views.iter().find(|view| {
            view.name.as_str() == which || !which.is_empty() && view.id.starts_with(which)
        })?;
        let mut manifest = view.manifest.clone();
        manifest.mounts.extend(view.anonymous.clone());
        Some((view.name.to_string(), manifest))
    };
    let mut anonymous = || crate::engine::exec::random_id().unwrap_or_default();
    let mut surroundings = create::Surroundings { container: &lookup, volume: &mut anonymous };
    let made = create::manifest(asked, &mut surroundings).map_err(Refusal::Invalid)?;
    if let Some(image) = &made.container.image {
        // The client pulls it when it reads this.
        let missing = |_| Refusal::NotFound(format!("No such image: {}", with_tag(image)));
        images::find(handle, image).await.map_err(missing)?;
    }
    let name = match named {
        Some(name) => name,
        None => names::unused(|name| views.iter().any(|view| view.name.as_str() == name))
            .parse()
            .map_err(Refusal::Failed)?,
    };
    let id = handle.create(&name, made.container).await?;
    if let Some(size) = size {
        handle.resize(&name, size).await?;
    }
    Ok((id, made.warnings))
}

/// As Docker names an image that it has not: with its tag.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

pub async fn update(handle: &Handle, which: &str, body: Incoming) -> Answer {
    let asked: bollard_stubs::models::HostConfig = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let updated = async {
        let view = handle.find(which).await?;
        let mut manifest = view.manifest.clone();
        create::resources(&asked, &mut manifest).map_err(Refusal::Invalid)?;
        if asked.restart_policy.as_ref().is_some_and(|policy| policy.name.is_some()) {
            manifest.restart.policy =
                create::policy(asked.restart_policy).map_err(Refusal::Invalid)?;
        }
        handle.change(&view.name, manifest).await
    };
    match updated.await {
        Ok(()) => as_json(&json!({ "Warnings": [] })),
        Err(refusal) => refused(refusal),
    }
}

pub async fn rename(handle: &Handle, which: &str, query: &Query) -> Answer {
    let renamed = async {
        let view = handle.find(which).await?;
        let to = query.get("name").unwrap_or_default().trim_start_matches('/');
        let to: Name = to.parse().map_err(Refusal::Invalid)?;
        handle.rename(&view.name, &to).await
    };
    match renamed.await {
        Ok(()) => no_content(),
        Err(refusal) => refused(refusal),
    }
}

/// Removes all that clients made and that do not run.
pub async fn prune(handle: &Handle, query: &Query) -> Answer {
    let filters = match query.filters() {
        Ok(filters) => filters,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let now = SystemTime::now();
    let before = filters.get("until").and_then(|values| values.first());
    let before = match before.map(|text| super::logs::parse_time(text, now)).transpose() {
        Ok(before) => before,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let mut removed = Vec::new();
    for view in handle.list().await {
        let rests = matches!(view.state.as_str(), "created" | "exited" | "dead");
        let fits = |key: &str, is: bool| {
            filters.get(key).is_none_or(|values| {
                values.iter().all(|value| matches(&view, "label", value) == is)
            })
        };
        if rests
            && is_ours(handle, &view)
            && before.is_none_or(|before| view.created < before)
            && fits("label", true)
            && fits("label!", false)
            && order(handle, &view, Verb::Remove { force: false }).await.is_ok()
        {
            removed.push(view.id);
        }
    }
    as_json(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": 0 }))
}

pub async fn wait(handle: &Handle, which: &str, query: &Query) -> Answer {
    // Before the look at it: no end can fall between.
    let (_, mut events) = handle.events.subscribe(u64::MAX);
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let condition = query.get("condition").unwrap_or("not-running").to_owned();
    if !matches!(condition.as_str(), "not-running" | "next-exit" | "removed") {
        return failure(StatusCode::BAD_REQUEST, &format!("invalid condition: {condition:?}"));
    }
    let handle = handle.clone();
    // The head goes out at once: a client starts the container only when it is
    // waited for.
    stream("application/json", move |pieces| async move {
        let (code, error) = match condition == "not-running" && !is_alive(&view) {
            true => (i64::from(view.exit_code.unwrap_or(0)), view.error.clone()),
            false => match ends(&handle, &view, &condition, &mut events).await {
                Some(end) => end,
                None => return,
            },
        };
        let mut answer = json!({ "StatusCode": code });
        if let Some(error) = error {
            answer["Error"] = json!({ "Message": error });
        }
        let _ = pieces.send(Bytes::from(format!("{answer}\n"))).await;
    })
}

/// Waits until a container has ended as the condition says: its exit status and what
/// kept it from running. None when Berth itself ends.
async fn ends(
    handle: &Handle,
    view: &View,
    condition: &str,
    events: &mut Receiver<Arc<Event>>,
) -> Option<(i64, Option<String>)> {
    let (mut code, mut error) = (i64::from(view.exit_code.unwrap_or(0)), None);
    loop {
        let event = match events.recv().await {
            Ok(event) if event.id == view.id => event,
            Ok(_) => continue,
            // This client was too slow for some of them: it looks again.
            Err(RecvError::Lagged(_)) => match handle.find(&view.id).await {
                Ok(now) if condition == "not-running" && !is_alive(&now) => {
                    return Some((i64::from(now.exit_code.unwrap_or(0)), now.error));
                }
                Ok(_) => continue,
                Err(_) => return Some((code, error)),
            },
            Err(RecvError::Closed) => return None,
        };
        match event.action.as_str() {
            "die" => {
                let said = event.attributes.get("exitCode");
                code = said.and_then(|code| code.parse().ok()).unwrap_or(code);
                error = event.attributes.get("error").cloned();
                let over = match condition {
                    "next-exit" => true,
                    "removed" => false,
                    // Its policy may start it again.
                    _ => {
                        let now = handle.wait_until(&view.name, |now| now.pid == 0).await;
                        now.is_none_or(|now| !is_alive(&now))
                    }
                };
                if over {
                    return Some((code, error));
                }
            }
            "destroy" => return Some((code, error)),
            _ => {}
        }
    }
}

/// Docker's interval of a stats stream.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

pub async fn stats(handle: &Handle, which: &str, query: &Query) -> Answer {
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let go_on = query.get("stream").is_none() || query.is_on("stream");
    let at_once = query.is_on("one-shot");
    let handle = handle.clone();
    let online = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    stream("application/json", move |pieces| async move {
        let mut before = None;
        if !go_on && !at_once {
            before = reading(&handle, &view).await;
            if before.is_some() {
                tokio::time::sleep(STATS_INTERVAL).await;
            }
        }
        loop {
            let now = reading(&handle, &view).await;
            let value = model::stats(&view, before.as_ref(), now.as_ref(), online);
            if pieces.send(Bytes::from(format!("{value}\n"))).await.is_err() || !go_on {
                return;
            }
            before = now;
            tokio::time::sleep(STATS_INTERVAL).await;
            if handle.find(&view.id).await.is_err() {
                return;
            }
        }
    })
}

async fn reading(handle: &Handle, view: &View) -> Option<model::Reading> {
    let now = handle.find(&view.id).await.ok().filter(model::is_running)?;
    let stats = handle.stats(&now.name).await.ok()?;
    Some(model::Reading { stats, system: system_cpu(), time: SystemTime::now() })
}

/// Processor time of the whole machine in nanoseconds (proc_stat(5)).
fn system_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: u64 =
        line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}
