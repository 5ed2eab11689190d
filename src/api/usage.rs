//! What uses how much disk (`/system/df`, `/berth/df`), and whether the images are
//! whole. Counted when somebody asks, and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::images::{described, refused};
use super::respond::{Answer, failure, json as as_json};
use super::route::Query;
use super::turns::{LONG, LOOKS};
use crate::engine::garbage::pins;
use crate::engine::handle::{Handle, View};
use crate::engine::images::blocking;
use crate::image::store::{Usage, disk_of, disk_of_each};
use crate::image::{Error, Kind};

/// The bytes of everything, shared parts once.
struct Counted {
    images: Usage,
    /// Of each container: its own files, and its log.
    containers: Vec<(u64, u64)>,
    /// Of each volume, with its name.
    volumes: Vec<(String, u64)>,
    /// What is being removed.
    trash: u64,
    /// All that is below the state directory and the logs.
    total: u64,
    disk_free: u64,
    disk_size: u64,
}

async fn count(handle: &Handle, views: &[View]) -> Result<Counted, Error> {
    let store = handle.images.store().await?;
    let (paths, volumes) = (handle.paths.clone(), handle.volumes.clone());
    let names: Vec<_> = views.iter().map(|view| (view.id.clone(), view.kept.clone())).collect();
    let look = LOOKS.turn().await.with(move || {
        let state = paths.state_dir();
        let known = volumes.list().unwrap_or_default();
        // Each file is looked at once: what lies in these folders has one owner each.
        let [roots, kept] = ["roots", "volumes"].map(|name| disk_of_each(&state.join(name)));
        let logs = disk_of_each(&paths.logs_dir());
        let of = |sizes: &BTreeMap<OsString, u64>, name: &str| {
            sizes.get(OsStr::new(name)).copied().unwrap_or(0)
        };
        let rest = disk_of_each_but(&state, &["roots", "volumes", "trash"]);
        let trash = disk_of(&state.join("trash"));
        let total = [&roots, &kept, &logs].into_iter().flat_map(BTreeMap::values).sum::<u64>()
            + rest
            + trash;
        let volumes = known.into_iter().map(|volume| {
            let size = of(&kept, &volume.name);
            (volume.name, size)
        });
        let volumes = volumes.collect();
        let containers = names.iter().map(|(id, name)| (of(&roots, id), of(&logs, name))).collect();
        let disk = rustix::fs::statvfs(&state).map_err(|errno| {
            Error::new(Kind::System, format!("looking at the disk of {}: {errno}", state.display()))
        })?;
        Ok(Counted {
            images: store.usage()?,
            containers,
            volumes,
            trash,
            total,
            disk_free: disk.f_bfree.saturating_mul(disk.f_frsize),
            disk_size: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    });
    blocking(look).await
}

/// The bytes of a directory's entries, but for those of these names.
fn disk_of_each_but(directory: &Path, others: &[&str]) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| !others.iter().any(|name| entry.file_name() == *name))
        .map(|entry| disk_of(&entry.path()))
        .sum()
}

fn users<'v>(views: &'v [View], volume: &'v str) -> impl Iterator<Item = &'v View> {
    views.iter().filter(move |view| {
        let mut mounts = view.manifest.mounts.iter().chain(&view.anonymous);
        mounts.any(|mount| mount.source.as_deref() == Some(volume))
    })
}

/// What `/system/df` can be asked for by itself.
const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// `/system/df`, as Docker's clients read it; of the types that they name, if they name any.
pub async fn df(handle: &Handle, query: &Query) -> Answer {
    // Before API 1.42 there was no choice.
    let asked = if query.is_before((1, 42)) { Vec::new() } else { query.all("type") };
    if let Some(unknown) = asked.iter().find(|kind| !TYPES.contains(&kind.as_str())) {
        let why = format!("unknown object type: {unknown}");
        return failure(StatusCode::BAD_REQUEST, &why);
    }
    let wants = |kind: &str| asked.is_empty() || asked.iter().any(|one| one == kind);
    let now = std::time::SystemTime::now();
    let views = handle.list().await;
    let counted = match count(handle, &views).await {
        Ok(counted) => counted,
        Err(error) => return refused(&error),
    };
    let images: Vec<Value> =
        counted.images.images.iter().map(|image| described(image, &views, true, query)).collect();
    let bases = super::list::Bases::of(handle, &views).await;
    let containers: Vec<Value> = views
        .iter()
        .zip(&counted.containers)
        .map(|(view, (size, _))| {
            let summary = bases.summary(handle, view, now);
            let mut value = serde_json::to_value(summary).unwrap_or_default();
            value["SizeRw"] = json!(size);
            let layers = view.image.as_ref().and_then(|id| {
                let mut images = counted.images.images.iter();
                images.find(|image| image.listed.image.id.to_string() == *id)
            });
            value["SizeRootFs"] = json!(size + layers.map_or(0, |image| image.size));
            value
        })
        .collect();
    let mut volumes = super::volumes::all(handle, &views);
    for volume in &mut volumes {
        let name = volume["Name"].as_str().unwrap_or_default();
        let size = counted.volumes.iter().find(|(of, _)| of == name).map(|(_, size)| *size);
        if let Some(size) = size {
            volume["UsageData"]["Size"] = json!(size);
        }
    }
    let list = |kind: &str, list: Vec<Value>| wants(kind).then_some(list);
    let layers = counted.images.layers + counted.images.blobs;
    as_json(&json!({
        "LayersSize": if wants("image") { layers } else { 0 },
        "Images": list("image", images),
        "Containers": list("container", containers),
        "Volumes": list("volume", volumes),
        "BuildCache": list("build-cache", Vec::new()),
    }))
}

/// `/berth/df`: all that Berth has on disk, so that the parts make the whole.
pub async fn own(handle: &Handle) -> Answer {
    let views = handle.list().await;
    let (counted, pins) = match (count(handle, &views).await, pins(handle).await) {
        (Ok(counted), Ok(pins)) => (counted, pins),
        (Err(error), _) | (_, Err(error)) => return refused(&error),
    };
    let images = &counted.images;
    let used =
        |image: &&crate::image::store::ImageUsage| pins.images.contains(&image.listed.image.id);
    let idle: u64 = images.images.iter().filter(|image| !used(image)).map(|i| i.unique).sum();
    let rows: u64 = counted.containers.iter().map(|(root, _)| root).sum();
    let rests = |view: &View| matches!(view.state.as_str(), "created" | "exited" | "dead");
    let resting: u64 = views
        .iter()
        .zip(&counted.containers)
        .filter(|(view, _)| rests(view))
        .map(|(_, (root, _))| root)
        .sum();
    let logs: u64 = counted.containers.iter().map(|(_, log)| log).sum();
    let volumes: u64 = counted.volumes.iter().map(|(_, size)| size).sum();
    let is_used = |name: &str| users(&views, name).next().is_some();
    let unused: u64 = counted.volumes.iter().filter(|(n, _)| !is_used(n)).map(|(_, s)| s).sum();
    let parts = images.total() + rows + logs + volumes + counted.trash;
    let kind = |name: &str, total: Option<usize>, active: Option<usize>, size, reclaimable| {
        json!({ "type": name, "total": total, "active": active, "size": size,
                "reclaimable": reclaimable })
    };
    let running = views.iter().filter(|view| view.pid > 0).count();
    as_json(&json!({
        "kinds": [
            kind("Images", Some(images.images.len()), Some(images.images.iter().filter(used).count()),
                 images.blobs + images.layers, idle + images.unreferenced),
            kind("Unfinished downloads", None, None, images.partial, images.partial),
            kind("Being made", None, None, images.temporary, 0),
            kind("Damaged", None, None, images.damaged, images.damaged),
            kind("Containers", Some(views.len()), Some(running), rows, resting),
            kind("Logs", None, None, logs, 0),
            kind("Volumes", Some(counted.volumes.len()),
                 Some(counted.volumes.iter().filter(|(name, _)| is_used(name)).count()),
                 volumes, unused),
            kind("Being removed", None, None, counted.trash, counted.trash),
            kind("Records and folders", None, None, counted.total.saturating_sub(parts), 0),
        ],
        "total": counted.total.max(parts),
        "disk-free": counted.disk_free,
        "disk-size": counted.disk_size,
        "images": images.images.iter().map(|image| {
            let listed = &image.listed;
            let id = listed.image.id.to_string();
            json!({
                "name": listed.names.iter().chain(&listed.digests).next().map(|n| n.familiar()),
                "users": views.iter().filter(|view| view.image.as_ref() == Some(&id)).count(),
                "id": id,
                "size": image.size,
                "unique": image.unique,
            })
        }).collect::<Vec<_>>(),
        "containers": views.iter().zip(&counted.containers).map(|(view, (size, log))| json!({
            "name": view.name, "id": view.id, "size": size + log, "unique": size + log,
        })).collect::<Vec<_>>(),
        "volumes": counted.volumes.iter().map(|(name, size)| json!({
            "name": name, "id": "", "size": size, "unique": size,
            "users": users(&views, name).count(),
        })).collect::<Vec<_>>(),
    }))
}

/// `/berth/images/verify`: a sentence for each thing that is damaged.
pub async fn verify(handle: &Handle, query: &Query) -> Answer {
    let checked = async {
        let (store, pins) = (handle.images.store().await?, pins(handle).await?);
        let repair = query.is_on("repair");
        // Only what really is mounted: a layer that no container runs on can be made anew.
        let running: BTreeSet<String> = handle
            .list()
            .await
            .into_iter()
            .filter(|view| view.pid > 0)
            .flat_map(|view| view.image.into_iter().chain(view.mounted))
            .collect();
        let work = LONG.turn().await.with(move || {
            let mut mounted = Some(BTreeSet::new());
            for id in pins.images.iter().filter(|id| running.contains(&id.to_string())) {
                match (store.resolve(&id.to_string()), &mut mounted) {
                    (Ok(image), Some(mounted)) => mounted.extend(store.layer_names(&image)),
                    _ => mounted = None,
                }
            }
            store.verify(repair, mounted.as_ref())
        });
        blocking(work).await
    };
    match checked.await {
        Ok(damages) => as_json(&damages.iter().map(ToString::to_string).collect::<Vec<_>>()),
        Err(error) if error.kind() == Kind::System => {
            failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
        }
        Err(error) => refused(&error),
    }
}
