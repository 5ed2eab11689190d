//! `/images/…`: what is in the store, its names, and what goes.

mod wanted;

use std::collections::BTreeSet;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::events::tell;
use super::respond::{Answer, created_empty, failure, json as as_json};
use super::route::Query;
use super::transfer;
use super::turns::LOOKS;
use crate::engine::garbage::pins;
use crate::engine::handle::Handle;
use crate::engine::images::blocking;
use crate::image::commit::PARENT;
use crate::image::store::{Image, Keep, Removed};
use crate::image::{Error, Kind, Platform, Reference};
use wanted::{Wanted, born, born_exactly, reference_fits};

/// An error of the image room in Docker's form.
pub fn refused(error: &Error) -> Answer {
    let text = error.to_string();
    // Docker's daemon begins it so, and clients look for that before they pull.
    match text.strip_prefix("no such image") {
        Some(rest) => failure(status(error), &format!("No such image{rest}")),
        None => failure(status(error), &text),
    }
}

/// Docker's status for it.
pub fn status(error: &Error) -> StatusCode {
    match error.kind() {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Answers what begins with `/images`.
pub async fn dispatch(
    handle: &Handle,
    head: &Parts,
    parts: &[&str],
    query: &Query,
    body: Incoming,
) -> Answer {
    let (get, post) = (head.method == Method::GET, head.method == Method::POST);
    let delete = head.method == Method::DELETE;
    let answer = match parts {
        ["json"] if get => list(handle, query).await,
        ["create"] if post => Ok(transfer::create(handle, head, query, body).await),
        ["load"] if post => Ok(transfer::load(handle, query, body).await),
        ["get"] if get => transfer::save(handle, query.all("names"), query).await,
        ["prune"] if post => prune(handle, query).await,
        ["search"] if get => {
            let why = "Berth does not search registries; pull an image by its name";
            return failure(StatusCode::NOT_IMPLEMENTED, why);
        }
        // An image's name has slashes of its own.
        [name @ .., "json"] if get => inspect(handle, &name.join("/"), query).await,
        [name @ .., "history"] if get => history(handle, &name.join("/"), query).await,
        [name @ .., "get"] if get => transfer::save(handle, vec![name.join("/")], query).await,
        [name @ .., "tag"] if post => tag(handle, &name.join("/"), query).await,
        [name @ .., "push"] if post => {
            Ok(transfer::push(handle, head, &name.join("/"), query).await)
        }
        name if delete && !name.is_empty() => remove(handle, &name.join("/"), query).await,
        _ => return failure(StatusCode::NOT_FOUND, "page not found"),
    };
    answer.unwrap_or_else(|error| refused(&error))
}

/// The image that a person means, as the API names it.
pub async fn find(handle: &Handle, name: &str) -> Result<Image, Error> {
    let store = handle.images.store().await?;
    let name = name.to_owned();
    blocking(move || store.resolve(&name)).await
}

/// What `/images/json` says of one image.
pub fn described(
    usage: &crate::image::store::ImageUsage,
    views: &[crate::engine::handle::View],
    with_shared: bool,
    query: &Query,
) -> Value {
    let (listed, id) = (&usage.listed, usage.listed.image.id.to_string());
    let containers = views.iter().filter(|view| view.image.as_ref() == Some(&id)).count();
    let mut told = json!({
        "Id": id,
        "ParentId": "",
        "RepoTags": names(&listed.names),
        "RepoDigests": names(&listed.digests),
        "Created": born(&listed.image.config),
        "Size": usage.size,
        "SharedSize": if with_shared { (usage.size - usage.unique) as i64 } else { -1 },
        "Labels": listed.image.config.config.labels,
        "Containers": containers,
    });
    // The same as the size, and gone since API 1.44.
    if query.is_before((1, 44)) {
        told["VirtualSize"] = json!(usage.size);
    }
    told
}

async fn list(handle: &Handle, query: &Query) -> Result<Answer, Error> {
    let known = ["before", "dangling", "label", "reference", "since", "until"];
    let asked = query.filters_among(&known).and_then(Wanted::of);
    let wanted = match asked {
        Ok(wanted) => wanted,
        Err(answer) => return Ok(*answer),
    };
    let store = handle.images.store().await?;
    let views = handle.list().await;
    let look = LOOKS.turn().await.with(move || store.usage());
    let usage = blocking(look).await?;
    // Made before the one and after the other.
    let (mut before, mut since) = (i128::MAX, i128::MIN);
    for (key, is_until) in [("before", true), ("since", false)] {
        for name in wanted.filters.get(key).into_iter().flatten() {
            let born = born_exactly(&find(handle, name).await?.config);
            match is_until {
                true => before = before.min(born),
                false => since = since.max(born),
            }
        }
    }
    let references: Vec<String> =
        wanted.filters.get("reference").into_iter().flatten().cloned().collect();
    let mut images: Vec<Value> = Vec::new();
    for image in &usage.images {
        let listed = &image.listed;
        let named = references.is_empty()
            || references
                .iter()
                .any(|want| listed.names.iter().any(|name| reference_fits(name, want)));
        let born = born_exactly(&listed.image.config);
        let between = (since == i128::MIN || born > since) && born < before;
        if !named || !wanted.fits(listed) || !between {
            continue;
        }
        let mut one = described(image, &views, query.is_on("shared-size"), query);
        if !references.is_empty() {
            // Of its names only those that were asked for.
            let asked =
                |name: &&Reference| references.iter().any(|want| reference_fits(name, want));
            let fitting: Vec<_> = listed.names.iter().filter(asked).cloned().collect();
            one["RepoTags"] = json!(names(&fitting));
        }
        images.push(one);
    }
    images.sort_by_key(|image| std::cmp::Reverse(image["Created"].as_i64()));
    Ok(as_json(&images))
}

fn names(references: &[Reference]) -> Vec<String> {
    references.iter().map(Reference::familiar).collect()
}

/// The image that a person means, for the platform that the client asks about.
async fn find_for(handle: &Handle, name: &str, query: &Query) -> Result<Image, Error> {
    let image = find(handle, name).await?;
    let Some(text) = query.get("platform") else { return Ok(image) };
    let asked: Platform = serde_json::from_str(text)
        .map_err(|error| Error::new(Kind::Invalid, format!("failed to parse platform: {error}")))?;
    let of = image.config.platform();
    match asked.fit(&of) {
        Some(_) => Ok(image),
        None => Err(Error::new(
            Kind::NotFound,
            format!(
                "image with reference {name} was found but its platform ({of}) does not match the \
                 specified platform ({asked})"
            ),
        )),
    }
}

async fn inspect(handle: &Handle, name: &str, query: &Query) -> Result<Answer, Error> {
    if query.is_on("manifests") && query.get("platform").is_some() {
        let why = "conflicting options: manifests and platform options cannot both be set";
        return Err(Error::new(Kind::Invalid, why));
    }
    let image = find_for(handle, name, query).await?;
    let store = handle.images.store().await?;
    let look = LOOKS.turn().await.with(move || store.usage());
    let usage = blocking(look).await?;
    let found = usage.images.iter().find(|usage| usage.listed.image.id == image.id);
    let size = found.map_or(0, |usage| usage.size);
    let (tags, digests) = found
        .map(|usage| (names(&usage.listed.names), names(&usage.listed.digests)))
        .unwrap_or_default();
    let config = &image.config;
    let process = &config.config;
    // As with Docker's daemon, a base counts that is here.
    let parent = config.other.get(PARENT).and_then(Value::as_str).unwrap_or_default();
    let is_here = usage.images.iter().any(|one| one.listed.image.id.to_string() == parent);
    let parent = if is_here { parent } else { "" };
    let mut value = json!({
        "Id": image.id.to_string(),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": parent,
        "Comment": config.history.last().and_then(|h| h.comment.clone()).unwrap_or_default(),
        "Created": config.created.clone().unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned()),
        "DockerVersion": "",
        "Author": config.author.clone().unwrap_or_default(),
        "Config": serde_json::to_value(process).unwrap_or_default(),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": size,
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
    });
    if let Some(variant) = &config.variant {
        value["Variant"] = json!(variant);
    }
    if query.is_before((1, 44)) {
        value["VirtualSize"] = json!(size);
    }
    if !query.is_before((1, 48)) {
        value["Descriptor"] = json!(image.descriptor);
    }
    // Clients read these without asking whether they are there.
    for (key, usual) in [
        ("User", json!("")),
        ("Env", Value::Null),
        ("Cmd", Value::Null),
        ("Entrypoint", Value::Null),
        ("Labels", Value::Null),
        ("Volumes", Value::Null),
        ("WorkingDir", json!("")),
        ("OnBuild", Value::Null),
    ] {
        let config = &mut value["Config"];
        if config.get(key).is_none() {
            config[key] = usual;
        }
    }
    // Of a container, and always empty, but there before API 1.50.
    for (key, usual) in [("Hostname", ""), ("Domainname", ""), ("Image", "")] {
        if query.is_before((1, 50)) {
            value["Config"][key] = json!(usual);
        }
    }
    for key in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
        if query.is_before((1, 50)) {
            value["Config"][key] = json!(false);
        }
    }
    // Gone from Docker's API since 1.45; Compose 1.29 fails without it.
    value["ContainerConfig"] = value["Config"].clone();
    value["Container"] = json!("");
    Ok(as_json(&value))
}

async fn history(handle: &Handle, name: &str, query: &Query) -> Result<Answer, Error> {
    let image = find_for(handle, name, query).await?;
    let store = handle.images.store().await?;
    let id = image.id;
    let (steps, listed) =
        blocking(move || Ok((crate::image::history::history(&store, &image), store.list()?)))
            .await?;
    let tags = listed.iter().find(|l| l.image.id == id).map(|l| names(&l.names));
    let lines: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(at, step)| {
            let of = &step.history;
            let created = of.created.as_deref().unwrap_or_default();
            json!({
                "Id": if at == 0 { id.to_string() } else { "<missing>".to_owned() },
                "Created": created.parse::<jiff::Timestamp>().map_or(0, |t| t.as_second()),
                "CreatedBy": of.created_by.clone().unwrap_or_default(),
                "Tags": if at == 0 { json!(tags.clone().unwrap_or_default()) } else { Value::Null },
                "Size": step.size,
                "Comment": of.comment.clone().unwrap_or_default(),
            })
        })
        .collect();
    Ok(as_json(&lines))
}

async fn tag(handle: &Handle, name: &str, query: &Query) -> Result<Answer, Error> {
    let image = find(handle, name).await?;
    let Some(repository) = query.get("repo") else {
        return Ok(failure(StatusCode::BAD_REQUEST, "the parameter repo is missing"));
    };
    let name = with_tag(repository, query.get("tag"))?;
    if name.familiar_name() == "sha256" {
        return Err(Error::new(
            Kind::Invalid,
            "refusing to create an ambiguous tag using digest algorithm as name",
        ));
    }
    let store = handle.images.store().await?;
    let (id, told) = (image.id.to_string(), name.familiar());
    blocking(move || store.tag(&image, &name)).await?;
    tell(handle, ("image", "tag"), (&id, &told), []);
    Ok(created_empty())
}

/// `repo` and `tag` as one name.
///
/// # Errors
/// If one of them is malformed.
pub fn with_tag(repository: &str, tag: Option<&str>) -> Result<Reference, Error> {
    let named = || {
        let repository: Reference = repository.parse()?;
        match tag {
            Some(tag) if tag.starts_with("sha256:") => Ok(repository.with_digest(tag.parse()?)),
            Some(tag) => repository.with_tag(tag),
            None => Ok(repository),
        }
    };
    // The beginning is what clients of Docker's API look for.
    named().map_err(|error: Error| {
        Error::new(error.kind(), format!("invalid reference format: {error}"))
    })
}

fn removed(removed: &Removed) -> Vec<Value> {
    let untagged = removed.untagged.iter().map(|name| json!({ "Untagged": name.familiar() }));
    untagged.chain(removed.images.iter().map(|id| json!({ "Deleted": id.to_string() }))).collect()
}

fn tell_removed(handle: &Handle, gone: &Removed) {
    for name in &gone.untagged {
        let name = name.familiar();
        tell(handle, ("image", "untag"), (&name, &name), []);
    }
    for id in &gone.images {
        let id = id.to_string();
        tell(handle, ("image", "delete"), (&id, &id), []);
    }
}

async fn remove(handle: &Handle, name: &str, query: &Query) -> Result<Answer, Error> {
    let (store, pins) = (handle.images.store().await?, pins(handle).await?);
    let (name, force) = (name.to_owned(), query.is_on("force"));
    let views = handle.list().await;
    let gone = blocking(move || {
        let image = match store.resolve(&name) {
            Ok(image) => image,
            // A damaged one can't be told by its id, but has its names.
            Err(error) => {
                let reference = name.parse::<Reference>().ok();
                let gone = reference.and_then(|name| store.untag(&name, &pins).ok());
                return gone.ok_or(error);
            }
        };
        let by_name = name.parse::<Reference>().ok().filter(|reference| {
            !image.id.hex().starts_with(name.trim_start_matches("sha256:"))
                && store.find(reference).ok().flatten().is_some()
        });
        let listed = store.list()?;
        let names = listed.iter().find(|l| l.image.id == image.id).map_or(0, |l| l.names.len());
        // The last name of an image that a container is made of: only by force, as Docker.
        let id = image.id.to_string();
        // One that has not mounted it yet, but is to.
        let names_it =
            |named: &String| store.resolve(named).is_ok_and(|other| other.id == image.id);
        let user = views.iter().find(|view| {
            view.image.as_ref() == Some(&id)
                || view.mounted.contains(&id)
                || view.to_mount.iter().any(names_it)
        });
        if let (Some(user), true) = (user, names < 2 || by_name.is_none()) {
            let running = user.pid > 0;
            if running || !force {
                let message = format!(
                    "conflict: unable to remove repository reference {name:?} (must force) - \
                     container {} is using its referenced image {}",
                    user.name,
                    image.id.short()
                );
                return Err(Error::new(Kind::Conflict, message));
            }
        }
        let gone = match by_name {
            Some(reference) => store.untag(&reference, &pins)?,
            None => store.remove(&image, &pins, force)?,
        };
        // Its blobs and layers, too, as far as nothing else has them.
        let young = std::time::Duration::ZERO;
        if let Err(error) = store.collect(&pins, Keep { young, ..Keep::default() }) {
            // The image is gone nonetheless; what it had goes when that is possible.
            tracing::warn!("removing {}: {error}", name);
        }
        Ok(gone)
    })
    .await?;
    tell_removed(handle, &gone);
    Ok(as_json(&removed(&gone)))
}

async fn prune(handle: &Handle, query: &Query) -> Result<Answer, Error> {
    let asked = query.filters_among(&["dangling", "label", "label!", "until"]);
    let mut wanted = match asked.and_then(Wanted::of) {
        Ok(wanted) => wanted,
        Err(answer) => return Ok(*answer),
    };
    // Without a word only those without a name; `false` is all, as with Docker.
    wanted.dangling = if wanted.dangling == Some(false) { None } else { Some(true) };
    let narrowed = wanted.until.is_some() || wanted.filters.keys().any(|k| k.starts_with("label"));
    let (store, pins) = (handle.images.store().await?, pins(handle).await?);
    let (deleted, bytes) = blocking(move || {
        pins.check()?;
        let mut deleted = Vec::new();
        if wanted.dangling.is_none() || narrowed {
            for listed in store.list()? {
                if !pins.images.contains(&listed.image.id) && wanted.fits(&listed) {
                    deleted.extend(removed(&store.remove(&listed.image, &pins, true)?));
                }
            }
        }
        // What is left of others goes, too, unless it was not meant.
        let keep = match narrowed {
            true => Keep { young: std::time::Duration::ZERO, ..Keep::default() },
            false => Keep::nothing(),
        };
        let collected = store.collect(&pins, keep)?;
        let known: BTreeSet<String> =
            deleted.iter().filter_map(|d| d["Deleted"].as_str().map(str::to_owned)).collect();
        let others = collected.images.iter().map(ToString::to_string);
        deleted.extend(others.filter(|id| !known.contains(id)).map(|id| json!({"Deleted": id})));
        Ok((deleted, collected.bytes))
    })
    .await?;
    let deleted = super::respond::unless_empty(deleted);
    Ok(as_json(&json!({ "ImagesDeleted": deleted, "SpaceReclaimed": bytes })))
}
