//! `/containers/…`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::json;

use super::respond::{Answer, created, failure, json as as_json, no_content, refused};
use super::route::Query;
use super::{body, create, endpoints, images, inspect, model, names, volumes};
use crate::engine::handle::{Handle, Refusal, View};
use crate::engine::reconcile::Verb;
use crate::image::{Platform, Reference};
use crate::manifest::model::{Mount, MountKind, NetworkMode};
use crate::manifest::scalar::{Name, Signal};

pub async fn inspect(handle: &Handle, which: &str, query: &Query) -> Answer {
    match handle.find(which).await {
        Ok(view) => {
            let log = handle.paths.log_dir(&view.kept).join("current.log");
            let upper = crate::rootfs::Writable::at(&handle.paths.state_dir(), &view.id);
            let mounts = view.manifest.mounts.iter().chain(&view.anonymous);
            let volumes = mounts.filter_map(|mount| mount.source.as_ref());
            let places = inspect::Places {
                volumes: volumes.map(|name| (name.clone(), volumes::place(handle, name))).collect(),
                log: log.display().to_string(),
                upper: upper
                    .map(|writable| writable.upper().display().to_string())
                    .unwrap_or_default(),
            };
            let mut told = inspect::inspect(&view, &base(handle, &view).await, &places);
            for key in ["NetworkMode", "PidMode", "IpcMode"] {
                // By its id, as with Docker: clients compare it with what they would ask for.
                let mode = &mut told["HostConfig"][key];
                let other = mode.as_str().and_then(|mode| mode.strip_prefix("container:"));
                if let Some(other) = other.map(str::to_owned)
                    && let Ok(other) = handle.find(&other).await
                {
                    *mode = json!(format!("container:{}", other.id));
                }
            }
            if query.is_on("size") {
                let sizes = super::list::sizes(handle, &view).await;
                told["SizeRw"] = json!(sizes.own);
                told["SizeRootFs"] = json!(sizes.all);
            }
            as_json(&told)
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
            let mut process = image.config.config.clone();
            if handle.hides_secrets {
                process.env.clear();
            }
            inspect::Base { id: image.id.to_string(), process }
        }
        Err(_) => inspect::Base::default(),
    }
}

fn signal(query: &Query) -> Result<Option<Signal>, String> {
    query
        .get("signal")
        .map(|text| text.parse().map_err(|_: String| format!("invalid signal: {text}")))
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

/// A container by name or id. Of one whose payload has ended the whole end is waited for:
/// who acts on the event of it must not be told that it runs.
async fn found(handle: &Handle, which: &str) -> Result<View, Refusal> {
    let view = handle.find(which).await?;
    if view.ending.is_none() {
        return Ok(view);
    }
    handle.wait_until(&view.id, |now| now.ended != view.ended).await;
    handle.find(&view.id).await
}

pub async fn act(handle: &Handle, which: &str, verb: &str, query: &Query) -> Answer {
    // What is left of one that is ending may still be stopped.
    let view = match verb {
        "start" => found(handle, which).await,
        _ => handle.find(which).await,
    };
    let view = match view {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let asked = (|| {
        Ok::<_, String>(Some(match verb {
            "start" => Verb::Start,
            "stop" => Verb::Stop { signal: signal(query)?, timeout: timeout(query)? },
            "restart" => Verb::Restart { signal: signal(query)?, timeout: timeout(query)? },
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
    let (which, id) = (view.which(), view.id.as_str());
    // One that is removed at its end is not before the outcome was seen here.
    let _attached = matches!(verb, Verb::Start).then(|| handle.attached.enter(id));
    match &verb {
        Verb::Start if view.state == "paused" => {
            let why = "cannot start a paused container, try unpause instead";
            return Err(Refusal::Conflict(why.to_owned()));
        }
        Verb::Start if model::is_running(view) => return Err(Refusal::AlreadySo),
        Verb::Start | Verb::Restart { .. } => {
            let there = missing_network(handle, view);
            let there = match is_ours(handle, view) {
                true => there.and(not_running(handle, view).await),
                false => there,
            };
            if let Err(refusal) = there {
                // It will have no end at which it could be removed: a client waits for that.
                if view.manifest.auto_remove && !model::is_running(view) && is_ours(handle, view) {
                    let _ = handle.act(which, Verb::Remove { force: false }).await;
                }
                return Err(refusal);
            }
        }
        // A person's stop is also told to what only waits to be started again.
        Verb::Stop { .. } if view.stopped_by_hand && !model::is_running(view) => {
            return Err(Refusal::AlreadySo);
        }
        _ => {}
    }
    let before = (view.pid, view.finished);
    match (handle.act(which, verb.clone()).await, &verb) {
        (Ok(()), _) => {}
        (Err(Refusal::Conflict(_)), Verb::Stop { .. }) => return Err(Refusal::AlreadySo),
        (Err(refusal), _) => return Err(refusal),
    }
    match verb {
        Verb::Start | Verb::Restart { .. } => {
            let reached = handle
                .wait_until(id, |view| {
                    let is_new = (view.pid, view.finished) != before;
                    let ended = matches!(view.state.as_str(), "exited" | "restarting" | "dead");
                    is_new && (view.state == "running" || ended)
                        || view.detail.as_ref().is_some_and(|_| {
                            view.state == "created" && view.pid == 0 && is_blocked(view)
                        })
                })
                .await;
            match reached.and_then(|view| view.error.filter(|_| view.state != "running")) {
                Some(error) => {
                    // Whoever ordered it is told; what no person declared is not tried
                    // again behind their back, as with Docker's daemon.
                    if is_ours(handle, view) {
                        let hold = Verb::Stop { signal: None, timeout: Some(Duration::ZERO) };
                        let _ = handle.act(which, hold).await;
                    }
                    // What can't be executed is no fault of the machine.
                    Err(match error.starts_with("executing the program") {
                        true => Refusal::Invalid(error),
                        false => Refusal::Failed(error),
                    })
                }
                None => Ok(()),
            }
        }
        Verb::Stop { .. } => {
            handle.wait_until(id, |view| view.pid == 0 && !is_alive(view)).await;
            Ok(())
        }
        Verb::Remove { .. } => {
            handle.wait_until(id, |_| false).await;
            Ok(())
        }
        Verb::Kill(Signal::KILL) => {
            handle.wait_until(id, |view| view.pid != before.0).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Refuses where a container is to be on a network that is not there.
fn missing_network(handle: &Handle, view: &View) -> Result<(), Refusal> {
    if view.manifest.network_mode() != NetworkMode::Bridge {
        return Ok(());
    }
    let seen = handle.networks.seen();
    let members = view.manifest.network.members();
    match members.iter().find(|member| !seen.networks.contains_key(&member.name)) {
        Some(member) => Err(Refusal::NotFound(format!("network {} not found", member.name))),
        None => Ok(()),
    }
}

/// Refuses, in Docker's words, where another container whose namespaces it shares does not
/// run. What a person declared waits for it instead.
async fn not_running(handle: &Handle, view: &View) -> Result<(), Refusal> {
    let manifest = &view.manifest;
    let shared = &manifest.namespaces;
    let network = match manifest.network_mode() {
        NetworkMode::Container(owner) => Some(owner),
        _ => None,
    };
    let owners = [("network", network.as_ref()), ("IPC", shared.ipc.owner())];
    for (what, owner) in
        owners.into_iter().chain([("PID", shared.pid.owner()), ("UTS", shared.uts.owner())])
    {
        let Some(owner) = owner else { continue };
        let other = handle.find(owner.as_str()).await?;
        let why = match (other.state.as_str(), what) {
            ("running" | "paused", _) => continue,
            ("restarting", _) => {
                format!("Container {} is restarting, wait until the container is running", other.id)
            }
            (_, "network") => {
                format!("cannot join network of a non running container: {}", other.id)
            }
            _ => format!(
                "can't join {what} of container {owner}: container {} is not running",
                other.id
            ),
        };
        return Err(Refusal::Conflict(why));
    }
    Ok(())
}

pub(super) fn is_alive(view: &View) -> bool {
    matches!(view.state.as_str(), "running" | "paused" | "restarting")
}

/// It waits for another container; its start may take for ever.
fn is_blocked(view: &View) -> bool {
    view.detail.as_deref().is_some_and(|detail| !detail.contains("starting"))
}

pub async fn remove(handle: &Handle, which: &str, query: &Query) -> Answer {
    let force = query.is_on("force");
    let view = if force { handle.find(which).await } else { found(handle, which).await };
    let view = match view {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    if query.is_on("link") {
        let why = "a link is named by its container: DELETE /containers/NAME/ALIAS?link=1 (docker rm \
                   --link NAME/ALIAS)";
        return failure(StatusCode::BAD_REQUEST, why);
    }
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

/// Takes a legacy link away: the container no longer knows the other one by that name.
pub async fn remove_link(handle: &Handle, which: &str, alias: &str) -> Answer {
    let alias = alias.to_owned();
    let changed = async {
        let view = handle.find(which).await?;
        handle
            .change(view.which(), move |manifest| {
                create::without_link(manifest, &alias)
                    .ok_or_else(|| Refusal::NotFound(format!("No such link: {alias}")))
            })
            .await
    };
    match changed.await {
        Ok(_) => no_content(),
        Err(refusal) => refused(refusal),
    }
}

/// Whether a client made it, or nothing declares it any more.
pub(super) fn is_ours(handle: &Handle, view: &View) -> bool {
    let created = handle.paths.created_dir();
    view.source.as_ref().is_none_or(|source| source.starts_with(created))
}

pub async fn create(handle: &Handle, query: &Query, body: Incoming) -> Answer {
    let asked = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let platform = match query.get("platform").filter(|text| !text.is_empty()) {
        Some(text) => match text.parse::<Platform>() {
            Ok(platform) => Some(platform),
            Err(error) => return images::refused(&error),
        },
        None => None,
    };
    match make(handle, query.get("name"), platform, asked).await {
        Ok((id, warnings)) => created(&json!({ "Id": id, "Warnings": warnings })),
        Err(refusal) => refused(refusal),
    }
}

async fn make(
    handle: &Handle,
    name: Option<&str>,
    platform: Option<Platform>,
    mut asked: serde_json::Value,
) -> Result<(String, Vec<String>), Refusal> {
    create::to_their_place(&mut asked);
    let said = asked.clone();
    let asked = create::parse(asked).map_err(Refusal::Invalid)?;
    let name = name.map(|name| name.trim_start_matches('/'));
    let named = name.map(|text| text.parse::<Name>().map_err(|error| wrong_name(text, &error)));
    let named = named.transpose()?;
    let size =
        super::exec::size(asked.host_config.as_ref().and_then(|host| host.console_size.as_ref()));
    let views = handle.list().await;
    let one = |which: &str| {
        views.iter().find(|view| {
            view.name.as_str() == which || !which.is_empty() && view.id.starts_with(which)
        })
    };
    let name = match named {
        Some(name) => name,
        None => names::unused(|name| views.iter().any(|view| view.name.as_str() == name))
            .parse()
            .map_err(Refusal::Failed)?,
    };
    let mut linked = HashMap::new();
    let links = asked.host_config.iter().flat_map(|host| host.links.iter().flatten());
    for which in links.filter_map(|link| link.trim_start_matches('/').split(':').next()) {
        if let Some(view) = one(which) {
            linked.insert(view.name.to_string(), base(handle, view).await.process);
        }
    }
    let image = |which: &str| linked.get(which).cloned().unwrap_or_default();
    let address = |which: &str| Some(one(which)?.endpoints.first()?.address.into());
    let lookup = |which: &str| {
        let view = one(which)?;
        let mut manifest = view.manifest.clone();
        manifest.mounts.extend(view.anonymous.clone());
        Some((view.name.to_string(), manifest))
    };
    let mut anonymous = || crate::engine::exec::random_id().unwrap_or_default();
    let mut surroundings = create::Surroundings {
        name: name.as_str(),
        image: &image,
        container: &lookup,
        network: &|which| super::networks::named(handle, which),
        address: &address,
        processors: crate::sys::process::processors(),
        volume: &mut anonymous,
    };
    let publish_all =
        asked.host_config.as_ref().is_some_and(|host| host.publish_all_ports == Some(true));
    let asked_health = asked.healthcheck.clone();
    let mut made = create::manifest(asked, &mut surroundings).map_err(Refusal::Invalid)?;
    endpoints::hardware_address(&said, &mut made.container).map_err(Refusal::Invalid)?;
    made.container.docker = create::remembered(&said, &made.container);
    let host = said["HostConfig"].clone();
    let mounted = made.container.mounts.clone();
    tokio::task::spawn_blocking(move || bind_sources(&host, &mounted))
        .await
        .map_err(|error| Refusal::Failed(error.to_string()))??;
    if let Some(image) = made.container.image.clone() {
        // The client pulls it when it reads this.
        let is_id = image.starts_with("sha256:") && !image.contains('@');
        if !is_id && let Err(error) = image.parse::<Reference>() {
            return Err(Refusal::Invalid(format!("invalid reference format: {error}")));
        }
        let missing = |_| Refusal::NotFound(format!("No such image: {}", with_tag(&image)));
        let named = with_tag(&image);
        let image = images::find(handle, &image).await.map_err(missing)?;
        let of = image.config.platform();
        if let Some(asked) = platform.filter(|asked| asked.fit(&of).is_none()) {
            // As well: its client then pulls the other one.
            return Err(Refusal::NotFound(format!(
                "image with reference {named} was found but its platform ({of}) does not match \
                 the specified platform ({asked})"
            )));
        }
        let own = image.config.config.healthcheck.as_ref();
        if let Some(health) =
            create::health_of_image(asked_health.as_ref(), own).map_err(Refusal::Invalid)?
        {
            made.container.health = Some(health);
        }
        if publish_all && made.container.network_mode() == NetworkMode::Bridge {
            endpoints::publish_all(&image.config.config.exposed_ports, &mut made.container)
                .map_err(Refusal::Invalid)?;
        }
    }
    for mount in made.container.mounts.iter().filter(|mount| mount.kind() == MountKind::Image) {
        let named = mount.source.as_deref().unwrap_or_default();
        // Not 404: Docker's command would look for the container's own image.
        let missing = |_| Refusal::Invalid(format!("No such image: {}", with_tag(named)));
        images::find(handle, named).await.map_err(missing)?;
    }
    let mounts = made.container.mounts.clone();
    let id = handle.create(&name, made.container).await?;
    if let Err(why) = volumes::make_named(handle, mounts, volume_labels(&said)).await {
        // Its launch will say so, too.
        made.warnings.push(why);
    }
    if let Some(size) = size {
        handle.resize(&id, size).await?;
    }
    Ok((id, made.warnings))
}

/// What is to be written on volumes that are made with a container, by their places in it.
fn volume_labels(said: &serde_json::Value) -> BTreeMap<PathBuf, BTreeMap<String, String>> {
    let mounts = said["HostConfig"]["Mounts"].as_array().into_iter().flatten();
    let labels = |mount: &serde_json::Value| {
        let labels = mount["VolumeOptions"]["Labels"].clone();
        Some((mount["Target"].as_str()?.into(), serde_json::from_value(labels).ok()?))
    };
    mounts.filter_map(labels).collect()
}

/// Docker's words, and then what is wrong with it.
fn wrong_name(name: &str, why: &str) -> Refusal {
    Refusal::Invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed: {why}"
    ))
}

/// As with Docker's daemon a path in `Binds` is made where it is not there yet, one in
/// `Mounts` must be there.
fn bind_sources(host: &serde_json::Value, mounts: &[Mount]) -> Result<(), Refusal> {
    let typed = host["Mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    for mount in mounts.iter().filter(|mount| mount.kind() == MountKind::Bind) {
        let Some(source) = mount.source.as_ref().map(Path::new) else { continue };
        if source.symlink_metadata().is_ok() {
            continue;
        }
        let is_of = |typed: &&serde_json::Value| {
            typed["Target"].as_str().is_some_and(|target| create::plain(target) == mount.target)
        };
        let of = typed.iter().find(is_of);
        let shown = source.display();
        if of.is_some_and(|typed| typed["BindOptions"]["CreateMountpoint"] != true) {
            return Err(Refusal::Invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {shown}"
            )));
        }
        std::fs::create_dir_all(source).map_err(|error| {
            Refusal::Failed(format!(
                "error while creating mount source path '{shown}': mkdir {shown}: {error}"
            ))
        })?;
    }
    Ok(())
}

/// As Docker names an image that it has not: with its tag.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

pub async fn rename(handle: &Handle, which: &str, query: &Query) -> Answer {
    let renamed = async {
        let view = handle.find(which).await?;
        let to = query.get("name").unwrap_or_default().trim_start_matches('/');
        if to.is_empty() {
            return Err(Refusal::Invalid("Neither old nor new names may be empty".to_owned()));
        }
        let to: Name = to.parse().map_err(|error: String| wrong_name(to, &error))?;
        if to == view.name {
            return Err(Refusal::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        handle.rename(view.which(), &to).await
    };
    match renamed.await {
        Ok(()) => no_content(),
        Err(refusal) => refused(refusal),
    }
}
