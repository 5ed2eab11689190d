//! Images that come and go: pull, push, load, save, import, with Docker's stream of
//! progress.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::body;
use super::events::tell;
use super::images::{find, refused, with_tag};
use super::respond::{Answer, failure, stream};
use super::route::Query;
use super::turns::{INCOMING, OUTGOING};
use crate::engine::handle::Handle;
use crate::engine::images::{Images, blocking};
use crate::image::archive::{self, Format, Import};
use crate::image::progress::{Event, Sink, Status};
use crate::image::push::{self, Options};
use crate::image::registry::Login;
use crate::image::store::Store;
use crate::image::{Error, Kind, Platform, Reference};

/// An event in Docker's words.
fn line(event: &Event) -> Value {
    let mut line = json!({ "status": event.status.text() });
    if let Some(layer) = &event.layer {
        line["id"] = json!(layer);
        line["progressDetail"] = json!({});
        let counted = matches!(event.status, Status::Downloading | Status::Pushing)
            || matches!(event.status, Status::Extracting) && event.current > 0;
        if counted {
            line["progressDetail"] = json!({ "current": event.current, "total": event.total });
            line["progress"] = json!(bar(event.current, event.total));
        }
    }
    if let Status::Resolving(_, which) = &event.status {
        line["id"] = json!(which);
    }
    line
}

/// The bar that Docker's old clients print as it comes.
fn bar(current: u64, total: Option<u64>) -> String {
    let current_text = bytesize::ByteSize(current).display().si().to_string();
    let Some(total) = total.filter(|total| *total > 0) else { return current_text };
    let done = (current.min(total) * 50 / total) as usize;
    let total = bytesize::ByteSize(total).display().si();
    format!("[{}>{}] {current_text}/{total}", "=".repeat(done), " ".repeat(50 - done.min(50)))
}

fn error_line(error: &Error) -> Value {
    let message = error.to_string();
    json!({ "errorDetail": { "message": message }, "error": message })
}

/// Runs `work` and tells its progress. What fails before there is any is answered with
/// a status of its own, as Docker does.
async fn told<F>(work: impl FnOnce(Sink) -> F) -> Answer
where
    F: Future<Output = Result<Vec<Value>, Error>> + 'static,
{
    let (sender, mut events) = mpsc::unbounded_channel();
    let sink: Sink = Arc::new(move |event| {
        let _ = sender.send(event);
    });
    let mut working = Box::pin(work(sink));
    let mut early = Vec::new();
    let ended = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => {
                let begun = event.layer.is_some();
                early.push(line(&event));
                if begun {
                    break None;
                }
            }
            result = &mut working => break Some(result),
        }
    };
    if let Some(Err(error)) = &ended {
        return refused(error);
    }
    stream("application/json", move |pieces| async move {
        let piece = |value: &Value| Bytes::from(format!("{value}\r\n"));
        for value in &early {
            if pieces.send(piece(value)).await.is_err() {
                return;
            }
        }
        let result = match ended {
            Some(result) => result,
            None => loop {
                tokio::select! {
                    biased;
                    Some(event) = events.recv() => {
                        if pieces.send(piece(&line(&event))).await.is_err() {
                            return;
                        }
                    }
                    result = &mut working => break result,
                }
            },
        };
        while let Ok(event) = events.try_recv() {
            let _ = pieces.send(piece(&line(&event))).await;
        }
        match result {
            Ok(last) => {
                for value in &last {
                    let _ = pieces.send(piece(value)).await;
                }
            }
            Err(error) => drop(pieces.send(piece(&error_line(&error))).await),
        }
    })
}

/// The login of the header `X-Registry-Auth`: base64 of JSON (Docker Engine API,
/// "Authentication"). An empty one says nothing.
pub fn login(head: &Parts) -> Result<Option<Login>, String> {
    let Some(text) = head.headers.get("x-registry-auth").and_then(|v| v.to_str().ok()) else {
        return Ok(None);
    };
    let wrong = || "X-Registry-Auth is no base64 of JSON".to_owned();
    // With either alphabet, padded or not: clients differ.
    let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    Ok(login_of(&value))
}

/// A login in the API's `AuthConfig`.
pub fn login_of(value: &Value) -> Option<Login> {
    let text = |key: &str| value[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match (text("identitytoken"), text("username"), text("password")) {
        (Some(token), _, _) => Some(Login::Identity(token)),
        (None, Some(user), Some(password)) => Some(Login::Password { user, password }),
        _ => None,
    }
}

fn platform(query: &Query) -> Result<Option<Platform>, Error> {
    query.get("platform").map(str::parse).transpose()
}

pub async fn create(handle: &Handle, head: &Parts, query: &Query, body: Incoming) -> Answer {
    match query.get("fromImage") {
        Some(image) => pull(handle, head, image, query).await,
        None => match query.get("fromSrc") {
            Some(source) => import(handle, source, query, body).await,
            None => failure(hyper::StatusCode::BAD_REQUEST, "there is no fromImage and no fromSrc"),
        },
    }
}

async fn pull(handle: &Handle, head: &Parts, image: &str, query: &Query) -> Answer {
    let login = match login(head) {
        Ok(login) => login,
        Err(message) => return failure(hyper::StatusCode::BAD_REQUEST, &message),
    };
    let asked = with_tag(image, query.get("tag")).and_then(|name| Ok((name, platform(query)?)));
    let (name, platform) = match asked {
        Ok(asked) => asked,
        Err(error) => return refused(&error),
    };
    let (handle, images) = (handle.clone(), handle.images.clone());
    told(move |sink| async move {
        let mut puller = images.puller().await?;
        if let Some(login) = login {
            puller = puller.with_client(images.client()?.with_login(name.registry(), login));
        }
        let pulled = puller.pull(&name, platform.as_ref(), &sink).await.map(|_| Vec::new());
        let pulled = pulled.map_err(|error| not_pulled(error, &name));
        images.changed();
        if pulled.is_ok() {
            let name = name.familiar();
            tell(&handle, ("image", "pull"), (&name, &name), []);
        }
        pulled
    })
    .await
}

/// Docker's words for an image that its registry has not or does not give: clients look
/// for them.
fn not_pulled(error: Error, name: &Reference) -> Error {
    let (words, kind) = match error.kind() {
        Kind::NotFound => (
            format!(
                "manifest for {} not found: manifest unknown: the repository does not exist or \
                 has no such tag",
                name.familiar()
            ),
            Kind::NotFound,
        ),
        Kind::Denied if error.to_string().to_ascii_lowercase().contains("denied") => (
            format!(
                "pull access denied for {}, repository does not exist or may require 'docker \
                 login'",
                name.familiar_name()
            ),
            Kind::NotFound,
        ),
        _ => return error,
    };
    Error::new(kind, format!("{words}: {error}"))
}

pub async fn push(handle: &Handle, head: &Parts, image: &str, query: &Query) -> Answer {
    let login = match login(head) {
        Ok(login) => login,
        Err(message) => return failure(hyper::StatusCode::BAD_REQUEST, &message),
    };
    let name = match with_tag(image, query.get("tag")) {
        Ok(name) => name,
        Err(error) => return refused(&error),
    };
    if let Err(error) = find(handle, &name.to_string()).await {
        return refused(&error);
    }
    let chunk = query.get("chunk").and_then(|size| size.parse().ok());
    let (handle, images) = (handle.clone(), handle.images.clone());
    told(move |sink| async move {
        let mut client = images.client()?;
        if let Some(login) = login {
            client = client.with_login(name.registry(), login);
        }
        let store = images.store().await?;
        let digest = push::push(&store, &client, &name, Options { chunk }, &sink).await?;
        let pushed = name.familiar();
        tell(&handle, ("image", "push"), (&pushed, &pushed), []);
        let tag = name.tag().unwrap_or("latest");
        Ok(vec![
            json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest.to_string() } }),
        ])
    })
    .await
}

/// A root file system's tar as an image; from the body (`-`) or from a URL.
async fn import(handle: &Handle, source: &str, query: &Query, body: Incoming) -> Answer {
    let name = match query.get("repo").map(|repo| with_tag(repo, query.get("tag"))).transpose() {
        Ok(name) => name,
        Err(error) => return refused(&error),
    };
    let platform = match platform(query) {
        Ok(platform) => platform.unwrap_or_else(Platform::host),
        Err(error) => return refused(&error),
    };
    let (changes, message) = (query.all("changes"), query.get("message").map(str::to_owned));
    let (handle, images) = (handle.clone(), handle.images.clone());
    let reader = match source {
        "-" => body::reader(body),
        url => match download(&images, url).await {
            Ok(reader) => reader,
            Err(error) => return refused(&error),
        },
    };
    told(move |_| async move {
        let store = images.store().await?;
        let reader = reader.begun().await;
        let work = INCOMING.turn().await.with(move || {
            let created = super::model::timestamp(SystemTime::now());
            let import = Import {
                name: name.as_ref(),
                changes: &changes,
                message: message.as_deref(),
                platform,
                created: &created,
            };
            archive::import(&store, reader, &import)
        });
        let image = blocking(work).await?;
        images.changed();
        let id = image.id.to_string();
        tell(&handle, ("image", "import"), (&id, &id), []);
        Ok(vec![json!({ "status": id })])
    })
    .await
}

async fn download(images: &Images, url: &str) -> Result<body::Reader, Error> {
    let bytes = images.client()?.download(url).await?;
    Ok(body::reader_of(bytes))
}

pub async fn load(handle: &Handle, _query: &Query, body: Incoming) -> Answer {
    let (handle, images) = (handle.clone(), handle.images.clone());
    let reader = body::reader(body);
    told(move |_| async move {
        let store = images.store().await?;
        let reader = reader.begun().await;
        let work = INCOMING.turn().await.with(move || archive::load(&store, reader));
        let loaded = match blocking(work).await {
            Ok(loaded) => loaded,
            // As Docker's daemon, a bad archive is told in the stream: clients look there.
            Err(error) => return Ok(vec![error_line(&error)]),
        };
        images.changed();
        let lines = loaded.into_iter().flat_map(|loaded| {
            let id = loaded.image.id.to_string();
            tell(&handle, ("image", "load"), (&id, &id), []);
            match loaded.names.is_empty() {
                true => vec![format!("Loaded image ID: {id}\n")],
                false => loaded
                    .names
                    .iter()
                    .map(|name| format!("Loaded image: {}\n", name.familiar()))
                    .collect(),
            }
        });
        Ok(lines.map(|text| json!({ "stream": text })).collect())
    })
    .await
}

/// A repository's name without a tag stands for all of its tags.
fn of_repository(store: &Store, name: &str) -> Result<Vec<String>, Error> {
    let Ok(wanted) = name.parse::<Reference>() else { return Ok(Vec::new()) };
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        return Ok(Vec::new());
    }
    let listed = store.list()?;
    let names = listed.iter().flat_map(|listed| &listed.names);
    let same = names.filter(|one| one.name() == wanted.name() && one.tag().is_some());
    Ok(same.map(Reference::familiar).collect())
}

/// Docker's archive for everybody, or one of the two formats alone.
pub async fn save(handle: &Handle, names: Vec<String>, query: &Query) -> Result<Answer, Error> {
    let format = match query.get("format") {
        None => Format::Both,
        Some("oci") => Format::Oci,
        Some("docker") => Format::Docker,
        Some(other) => {
            let why = format!("there is no format {other:?}; there are oci and docker");
            return Err(Error::new(crate::image::Kind::Invalid, why));
        }
    };
    let store = handle.images.store().await?;
    // What is not there is told with a status, before the archive begins.
    let finding = store.clone();
    let find = move || {
        let mut found = Vec::new();
        for name in names {
            let all = of_repository(&finding, &name)?;
            match all.is_empty() {
                true => {
                    finding.resolve(&name)?;
                    found.push(name);
                }
                false => found.extend(all),
            }
        }
        Ok(found)
    };
    let names = blocking(find).await?;
    let turn = OUTGOING.turn().await;
    let write = move |out: &mut dyn std::io::Write| archive::save(&store, &names, format, out);
    Ok(body::written("application/x-tar", turn, write))
}
