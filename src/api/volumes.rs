//! `/volumes/…`: named volumes, as Docker's types have them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bollard_stubs::models::VolumeCreateRequest;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::events::tell;
use super::respond::{Answer, created, failure, json as as_json, no_content, refused};
use super::route::Query;
use super::{body, filters};
use crate::engine::handle::{Handle, View, hide_options};
use crate::engine::volumes::is_anonymous;
use crate::manifest::model::{Mount, MountKind};
use crate::rootfs::{self, Asked, Volume};

/// Its labels: as with Docker's daemon one says that nobody has named it.
fn labels(volume: &Volume) -> BTreeMap<String, String> {
    let mut labels = volume.labels.clone();
    if is_anonymous(&volume.name) {
        labels.entry("com.docker.volume.anonymous".to_owned()).or_default();
    }
    labels
}

fn described(handle: &Handle, volume: &Volume) -> Value {
    let data = handle.volumes.data(&volume.name).unwrap_or_default();
    let mut options = volume.options.clone();
    if handle.hides_secrets {
        hide_options(&mut options);
    }
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": data.display().to_string(),
        "CreatedAt": volume.created,
        "Labels": labels(volume),
        "Options": options,
        "Scope": "local",
    })
}

/// Makes the volumes that a new container names, as Docker's daemon does: its client may
/// look at them before it starts. `labels` are by the places of the mounts. What an image puts into them comes with the first launch.
pub async fn make_named(
    handle: &Handle,
    mounts: Vec<Mount>,
    labels: BTreeMap<PathBuf, BTreeMap<String, String>>,
) -> Result<(), String> {
    let volumes = std::sync::Arc::clone(&handle.volumes);
    // Each is written to disk before it is there, which may take a while.
    let make = move || {
        let mut made = Vec::new();
        for mount in mounts.into_iter().filter(|mount| mount.kind() == MountKind::Volume) {
            let Some(name) = mount.source else { continue };
            if volumes.get(&name).is_ok() {
                continue;
            }
            let labels = labels.get(&mount.target).cloned().unwrap_or_default();
            let asked = Asked { labels, options: mount.options };
            if let Err(error) = volumes.create_as(&name, asked) {
                return (made, Err(error.to_string()));
            }
            made.push(name);
        }
        (made, Ok(()))
    };
    let (made, outcome) = tokio::task::spawn_blocking(make).await.map_err(|e| e.to_string())?;
    for name in &made {
        tell(handle, ("volume", "create"), (name, name), [("driver", "local")]);
    }
    outcome
}

/// Where a volume's files are on the host.
pub fn place(handle: &Handle, name: &str) -> String {
    handle.volumes.data(name).map(|path| path.display().to_string()).unwrap_or_default()
}

/// Which containers use each volume.
fn users(views: &[View]) -> BTreeMap<String, Vec<String>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for view in views {
        let mounts = view.manifest.mounts.iter().chain(&view.anonymous);
        for mount in mounts.filter(|m| m.kind() == MountKind::Volume) {
            if let Some(name) = &mount.source {
                users.entry(name.clone()).or_default().push(view.id.clone());
            }
        }
    }
    users
}

/// All volumes with how many containers use them, as `/system/df` has them.
pub fn all(handle: &Handle, views: &[View]) -> Vec<Value> {
    let users = users(views);
    let volumes = handle.volumes.list().unwrap_or_default();
    volumes
        .iter()
        .map(|volume| {
            let mut value = described(handle, volume);
            let count = users.get(&volume.name).map_or(0, Vec::len);
            value["UsageData"] = json!({ "Size": -1, "RefCount": count });
            value
        })
        .collect()
}

pub async fn list(handle: &Handle, query: &Query) -> Answer {
    let asked = query.filters_among(&["dangling", "driver", "label", "name"]);
    let asked = asked.and_then(|filters| Ok((filters::is_on(&filters, "dangling")?, filters)));
    let (dangling, filters) = match asked {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let users = users(&handle.list().await);
    let volumes = match handle.volumes.list() {
        Ok(volumes) => volumes,
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let names = filters::Patterns::of(&filters, "name");
    let fits = |volume: &Volume| {
        let any = |key: &str, is: &dyn Fn(&str) -> bool| {
            filters.get(key).is_none_or(|all| all.is_empty() || all.iter().any(|one| is(one)))
        };
        dangling.is_none_or(|dangling| users.contains_key(&volume.name) != dangling)
            && names.fit(&volume.name)
            && any("driver", &|driver| driver == "local")
            && filters::labels_fit(&filters, &labels(volume))
    };
    let volumes: Vec<_> =
        volumes.iter().filter(|volume| fits(volume)).map(|v| described(handle, v)).collect();
    as_json(&json!({ "Volumes": volumes, "Warnings": [] }))
}

pub async fn create(handle: &Handle, body: Incoming) -> Answer {
    let asked: VolumeCreateRequest = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    if let Some(driver) = asked.driver.filter(|driver| !driver.is_empty() && driver != "local") {
        let message = format!(
            "create {}: error looking up volume plugin {driver}: plugin \"{driver}\" not found",
            asked.name.unwrap_or_default()
        );
        return failure(StatusCode::NOT_FOUND, &message);
    }
    let options: rootfs::Options = asked.driver_opts.unwrap_or_default().into_iter().collect();
    let name = match asked.name.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => match crate::engine::exec::random_id() {
            Ok(id) => id,
            Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
    };
    if let Err(why) = rootfs::check_options(&options) {
        return failure(StatusCode::BAD_REQUEST, &format!("create {name}: {why}"));
    }
    let labels = asked.labels.unwrap_or_default().into_iter().collect();
    let (volumes, asked) = (handle.volumes.clone(), Asked { labels, options });
    // It is written to disk before it is there, which may take a while.
    let made = tokio::task::spawn_blocking(move || volumes.create_as(&name, asked)).await;
    let made = match made {
        Ok(made) => made,
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    match made {
        Ok(volume) => {
            let by = [("driver", "local")];
            tell(handle, ("volume", "create"), (&volume.name, &volume.name), by);
            created(&described(handle, &volume))
        }
        Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

pub fn inspect(handle: &Handle, name: &str) -> Answer {
    match handle.volumes.get(name) {
        Ok(volume) => as_json(&described(handle, &volume)),
        Err(_) => missing(name),
    }
}

fn missing(name: &str) -> Answer {
    failure(StatusCode::NOT_FOUND, &format!("get {name}: no such volume"))
}

pub async fn remove(handle: &Handle, name: &str, query: &Query) -> Answer {
    let views = match handle.users().await {
        Ok(views) => views,
        Err(refusal) => return refused(refusal),
    };
    if let Some(users) = users(&views).get(name) {
        let message = format!("remove {name}: volume is in use - [{}]", users.join(", "));
        return failure(StatusCode::CONFLICT, &message);
    }
    match handle.volumes.remove(name) {
        Ok(true) => {
            tell(handle, ("volume", "destroy"), (name, name), [("driver", "local")]);
            no_content()
        }
        Ok(false) if query.is_on("force") => no_content(),
        Ok(false) => missing(name),
        Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

pub async fn prune(handle: &Handle, query: &Query) -> Answer {
    let asked = query.filters_among(&["all", "label", "label!"]);
    let asked = asked.and_then(|filters| Ok((filters::is_on(&filters, "all")?, filters)));
    let (all, filters) = match asked {
        Ok((all, filters)) => (all.unwrap_or(false), filters),
        Err(answer) => return *answer,
    };
    // The volumes first: one that is made with a container after that is not seen here.
    let volumes = handle.volumes.list().unwrap_or_default();
    let users = match handle.users().await {
        Ok(views) => users(&views),
        Err(refusal) => return refused(refusal),
    };
    // Before that version there was no difference.
    let all = all || query.is_before((1, 42));
    let mut removed = Vec::new();
    for volume in volumes {
        let unused = !users.contains_key(&volume.name);
        // Since API 1.42 a name that a person gave is spared.
        if unused
            && (all || is_anonymous(&volume.name))
            && filters::labels_fit(&filters, &labels(&volume))
            && handle.volumes.remove(&volume.name).unwrap_or(false)
        {
            tell(handle, ("volume", "destroy"), (&volume.name, &volume.name), []);
            removed.push(volume.name);
        }
    }
    as_json(&json!({ "VolumesDeleted": removed, "SpaceReclaimed": 0 }))
}

/// The volumes without a name that only this container, which is gone, has used.
pub async fn remove_anonymous(handle: &Handle, gone: &View) {
    let others = match handle.users().await {
        Ok(views) => users(&views),
        Err(refusal) => return tracing::warn!("{}", refusal.text()),
    };
    let mounts = gone.manifest.mounts.iter().chain(&gone.anonymous);
    for mount in mounts.filter(|m| m.kind() == MountKind::Volume) {
        let nameless = mount.source.as_ref().filter(|name| is_anonymous(name));
        let Some(name) = nameless.filter(|name| !others.contains_key(*name)) else { continue };
        match handle.volumes.remove(name) {
            Ok(true) => tell(handle, ("volume", "destroy"), (name, name), [("driver", "local")]),
            Ok(false) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
}
