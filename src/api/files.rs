//! The files of containers: `/containers/{id}/changes`, `export`, `archive`, and
//! `/commit`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard_stubs::models::ContainerConfig;
use flate2::write::GzEncoder;
use hyper::body::Incoming;
use hyper::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::body;
use super::images::{refused as image_refused, with_tag};
use super::model::timestamp;
use super::respond::{Answer, created, failure, json as as_json, no_content, refused};
use super::route::Query;
use super::turns::{INCOMING, LONG, LOOKS, OUTGOING};
use crate::engine::files::{Entrance, Files};
use crate::engine::handle::{Handle, Refusal, View};
use crate::engine::images::{self, blocking};
use crate::image::commit::{Commit, NewLayer, commit};
use crate::image::compression::Compression;
use crate::image::{Error, Kind, Platform, Reference};
use crate::rootfs::copy::{self, Into};

/// Where what is asked about lies, or the answer that says why not.
async fn files(handle: &Handle, which: &str) -> Result<(View, Files), Refusal> {
    let view = handle.find(which).await?;
    let files = handle.files(view.which()).await?;
    Ok((view, files))
}

/// Runs what blocks.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Refusal> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(error.to_string())).map_err(Refusal::Failed)
}

pub async fn changes(handle: &Handle, which: &str) -> Answer {
    let (_, files) = match files(handle, which).await {
        Ok(found) => found,
        Err(refusal) => return refused(refusal),
    };
    match on_thread(LOOKS.turn().await.with(move || files.changes())).await {
        Ok(changes) => {
            let list: Vec<Value> = changes
                .iter()
                .map(|change| json!({ "Path": change.path, "Kind": change.kind as u8 }))
                .collect();
            as_json(&super::respond::unless_empty(list))
        }
        Err(refusal) => refused(refusal),
    }
}

pub async fn export(handle: &Handle, which: &str) -> Answer {
    match files(handle, which).await {
        Ok((_, files)) => {
            let turn = OUTGOING.turn().await;
            body::written("application/octet-stream", turn, move |out| files.export(out))
        }
        Err(refusal) => refused(refusal),
    }
}

/// `HEAD`, `GET` and `PUT /containers/{id}/archive`.
pub async fn archive(
    handle: &Handle,
    which: &str,
    method: &Method,
    query: &Query,
    body: Incoming,
) -> Answer {
    let Some(path) = query.get("path").map(PathBuf::from) else {
        return failure(StatusCode::BAD_REQUEST, "the parameter path is missing");
    };
    let found = async {
        let view = handle.find(which).await?;
        let files = handle.files_to_enter(view.which()).await?;
        Ok::<_, Refusal>((view, files))
    };
    let (view, files) = match found.await {
        Ok(found) => found,
        Err(refusal) => return refused(refusal),
    };
    if *method == Method::PUT {
        return put(which, view, files, path, query, body).await;
    }
    let (asked, which) = (path.clone(), which.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let entrance = files.entrance(&asked).map_err(Refusal::Failed)?;
        let found = copy::find(entrance.root.as_fd(), &entrance.path);
        found.map(|found| (found, entrance.ids)).map_err(|error| not_there(&error, &asked, &which))
    })
    .await;
    let (found, ids) = match found {
        Ok(Ok(found)) => found,
        Ok(Err(refusal)) => return refused(refusal),
        Err(error) => return refused(Refusal::Failed(error.to_string())),
    };
    let stat = found.stat();
    let text = json!({
        "name": String::from_utf8_lossy(&stat.name),
        "size": stat.size,
        "mode": stat.go_mode(),
        "mtime": mtime(stat.mtime),
        "linkTarget": stat.link_target.clone().unwrap_or_default(),
    });
    let mut answer = match *method == Method::HEAD {
        true => no_content(),
        false => {
            let turn = OUTGOING.turn().await;
            body::written("application/x-tar", turn, move |out| found.write_to(out, ids))
        }
    };
    *answer.status_mut() = StatusCode::OK;
    if let Ok(text) = header::HeaderValue::from_str(&STANDARD.encode(text.to_string())) {
        answer.headers_mut().insert("x-docker-container-path-stat", text);
    }
    answer
}

fn mtime(time: crate::archive::Time) -> String {
    jiff::Timestamp::new(time.seconds, i32::try_from(time.nanoseconds).unwrap_or(0))
        .map_or_else(|_| String::new(), |time| format!("{time:.9}"))
}

/// In the words that clients look for; the container as the client named it.
fn not_there(error: &copy::Error, path: &Path, which: &str) -> Refusal {
    match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::NotFound(format!(
            "Could not find the file {} in container {}",
            path.display(),
            which
        )),
        std::io::ErrorKind::NotADirectory => {
            let shown = path.display();
            Refusal::Invalid(format!("{shown}: extraction point is not a directory"))
        }
        // The archive is the client's, and so is the path.
        std::io::ErrorKind::InvalidData
        | std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::InvalidInput
        | std::io::ErrorKind::InvalidFilename => Refusal::Invalid(error.to_string()),
        std::io::ErrorKind::ReadOnlyFilesystem => {
            Refusal::Failed(format!("mounted volume is marked read-only: {error}"))
        }
        _ => Refusal::Failed(error.to_string()),
    }
}

async fn put(
    which: &str,
    view: View,
    files: Files,
    path: PathBuf,
    query: &Query,
    body: Incoming,
) -> Answer {
    if view.manifest.security.read_only {
        let why = "container rootfs is marked read-only";
        return failure(StatusCode::FORBIDDEN, why);
    }
    let keep_kinds = query.is_on("noOverwriteDirNonDir");
    let as_user = query.is_on("copyUIDGID");
    // Ours: a copy between two containers has no client that could write the name.
    let rename = query.get("rename-from").zip(query.get("rename-to"));
    if rename.is_some_and(|(_, to)| to.contains('/') || [".", ".."].contains(&to)) {
        return failure(StatusCode::BAD_REQUEST, "rename-to is one name, without a slash");
    }
    let which = which.to_owned();
    let rename = rename.map(|(from, to)| (from.as_bytes().to_vec(), to.as_bytes().to_vec()));
    let reader = body::reader(body).begun().await;
    let work = INCOMING.turn().await.with(move || {
        let Entrance { root, path: inside, ids } =
            files.entrance(&path).map_err(Refusal::Failed)?;
        let owner = match as_user {
            // Where nobody is named, what the archive says: so Compose gives secrets to whom
            // its file names.
            true => files.user(root.as_fd()).map_err(Refusal::Failed)?,
            false => None,
        };
        let options = Into { keep_kinds, owner, ids, rename, ..Into::default() };
        let mut decoder = crate::image::compression::Decoder::new(reader, u64::MAX)
            .map_err(|error| Refusal::Invalid(format!("reading the archive: {error}")))?;
        copy::copy_in(root.as_fd(), &inside, &mut decoder, &options)
            .map_err(|error| not_there(&error, &path, &which))
    });
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(_)) => {
            let mut answer = no_content();
            *answer.status_mut() = StatusCode::OK;
            answer
        }
        Ok(Err(refusal)) => refused(refusal),
        Err(error) => refused(Refusal::Failed(error.to_string())),
    }
}

pub async fn make_image(handle: &Handle, query: &Query, body: Incoming) -> Answer {
    let Some(which) = query.get("container") else {
        return failure(StatusCode::BAD_REQUEST, "the parameter container is missing");
    };
    let mut config: Value = match body::read(body).await {
        Ok(config) => config,
        Err(answer) => return *answer,
    };
    super::loose::rename::<ContainerConfig>(&mut config);
    let (view, files) = match files(handle, which).await {
        Ok(found) => found,
        Err(refusal) => return refused(refusal),
    };
    let name = query.get("repo").map(|repo| with_tag(repo, query.get("tag"))).transpose();
    let name = match name {
        Ok(name) => name,
        Err(error) => return image_refused(&error),
    };
    let pause = pauses(query);
    let (author, message) =
        (query.get("author").map(str::to_owned), query.get("comment").map(str::to_owned));
    // Some clients send one text with a line for each.
    let changes = query.all("changes");
    let lines = changes.iter().flat_map(|text| text.lines());
    let changes = lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    let made = Making { files, config, name, author, message, changes, pause };
    match made.image(handle, &view).await {
        Ok(id) => created(&json!({ "Id": id })),
        Err(error) => image_refused(&error),
    }
}

struct Making {
    files: Files,
    config: Value,
    name: Option<Reference>,
    author: Option<String>,
    message: Option<String>,
    changes: Vec<String>,
    pause: bool,
}

/// As Docker: the container stands still meanwhile, unless said otherwise.
fn pauses(query: &Query) -> bool {
    query.get("pause").is_none() || query.is_on("pause")
}

impl Making {
    async fn image(self, handle: &Handle, view: &View) -> Result<String, Error> {
        let store = handle.images.store().await?;
        let (base, command) = (view.image.clone(), super::model::command_line(view));
        let manifest = view.manifest.clone();
        let work = LONG.turn().await.with(move || {
            let base = match (base, &manifest.image, images::archive(&manifest)) {
                (Some(id), _, _) => Some(store.resolve(&id)?),
                // Not launched yet: what it would be launched from.
                (None, Some(name), _) => Some(store.resolve(name)?),
                (None, None, Some(path)) => crate::image::archive::import_file(&store, path)?,
                (None, None, None) => None,
            };
            let lease = store.lease()?;
            let staged = store.stage_blob()?;
            let mut zipped = GzEncoder::new(staged, flate2::Compression::new(GZIP_LEVEL));
            let failed = |error: String| Error::new(Kind::System, error);
            let standstill =
                if self.pause { self.files.stand_still().map_err(failed)? } else { None };
            let packed = self.files.pack(&mut zipped).map_err(failed)?;
            drop(standstill);
            let staged = zipped
                .finish()
                .map_err(|error| Error::new(Kind::System, format!("writing the layer: {error}")))?;
            let (digest, size) = staged.finish(&lease)?;
            let diff_id = packed.diff_id.parse()?;
            let layer = NewLayer { digest, size, compression: Compression::Gzip, diff_id };
            let usual = base.as_ref().map(|base| base.config.config.clone()).unwrap_or_default();
            let process = super::settings::process(usual, &manifest, &self.config)?;
            let created = timestamp(SystemTime::now());
            let image = commit(
                &store,
                &lease,
                &Commit {
                    base: base.as_ref(),
                    layer: Some(layer),
                    process: Some(process),
                    changes: &self.changes,
                    platform: Platform::host(),
                    author: self.author.as_deref(),
                    message: self.message.as_deref(),
                    created_by: Some(&command),
                    created: &created,
                    name: self.name.as_ref(),
                },
            )?;
            Ok(image.id.to_string())
        });
        blocking(work).await
    }
}

/// Fast, and within a few per cent of the size that more work would give.
const GZIP_LEVEL: u32 = 4;
