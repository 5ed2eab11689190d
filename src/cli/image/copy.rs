//! `cp`: files between here and a container, with Docker's rules of what a destination
//! means. Here as there names are resolved below a root that is held open; what a
//! container sends can't lead out of the directory that was named.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::args::Cp;
use super::transfer::{good, write_out};
use crate::cli::client::{Client, encode, read_from, written};
use crate::cli::{Failure, Result};
use crate::rootfs::copy::{self, Into};

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Container { name: String, path: String },
    Here(PathBuf),
    Stream,
}

impl Side {
    /// `NAME:PATH`; what begins with `/` or `.` is a path of here, as with Docker.
    fn of(text: &str) -> Side {
        if text == "-" {
            return Side::Stream;
        }
        let here = text.starts_with('/') || text.starts_with('.');
        match text.split_once(':') {
            Some((name, path)) if !here && !name.is_empty() => {
                Side::Container { name: name.to_owned(), path: rooted(path) }
            }
            _ => Side::Here(PathBuf::from(text)),
        }
    }
}

/// Paths of containers begin at their root.
fn rooted(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

pub async fn copy(client: &Client, args: &Cp) -> Result {
    match (Side::of(&args.source), Side::of(&args.destination)) {
        (Side::Container { name, path }, Side::Stream) => {
            if std::io::stdout().is_terminal() {
                return Err("a tar is not printed on a terminal; redirect it".into());
            }
            let path = followed(client, &name, path, args.follow_link).await?;
            let body = good(client.request(Method::GET, &archive(&name, &path)).await?).await?;
            write_out(body, None).await?;
        }
        (Side::Container { name, path }, Side::Here(to)) => {
            let path = followed(client, &name, path, args.follow_link).await?;
            out_of(client, &name, &path, &to, args.archive).await?;
        }
        (Side::Here(from), Side::Container { name, path }) => {
            let from = match args.follow_link {
                true => from.canonicalize().map_err(|e| format!("{}: {e}", from.display()))?,
                false => from,
            };
            into(client, &from, &name, path, args.archive).await?;
        }
        (Side::Stream, Side::Container { name, path }) => {
            if std::io::stdin().is_terminal() {
                return Err("a tar is read from standard input, which is a terminal".into());
            }
            let body = read_from(std::io::stdin())?;
            let query = archive(&name, &path) + "&noOverwriteDirNonDir=1";
            let answer = client.send_stream(Method::PUT, &query, &[], body).await?;
            drop(good(answer).await?);
        }
        (Side::Container { name, path }, Side::Container { name: other, path: to }) => {
            let path = followed(client, &name, path, args.follow_link).await?;
            between(client, (&name, &path), (&other, to)).await?;
        }
        _ => return Err("must specify at least one container source: NAME:PATH".into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn archive(name: &str, path: &str) -> String {
    format!("/containers/{}/archive?path={}", encode(name), encode(path))
}

/// What a path of a container is.
struct Stat {
    directory: bool,
    /// Where a link leads.
    target: Option<String>,
}

async fn stat(client: &Client, name: &str, path: &str) -> Result<Option<Stat>> {
    let answer = client.request(Method::HEAD, &archive(name, path)).await?;
    let status = answer.status();
    let text = answer.headers().get("x-docker-container-path-stat").cloned();
    drop(answer.into_body().collect().await);
    let Some(text) = text else {
        if status == StatusCode::NOT_FOUND {
            // No container, or no such file in it?
            client.ask(Method::GET, &format!("/containers/{}/json", encode(name))).await?;
            return Ok(None);
        }
        // The answer to HEAD has no words.
        let answer = client.request(Method::GET, &archive(name, path)).await?;
        return good(answer).await.map(|_| None);
    };
    let stat: Value = serde_json::from_slice(&STANDARD.decode(text.as_bytes())?)?;
    // Go's os.ModeDir and os.ModeSymlink.
    let mode = stat["mode"].as_u64().unwrap_or(0);
    let target = stat["linkTarget"].as_str().filter(|_| mode & 1 << 27 != 0);
    Ok(Some(Stat { directory: mode & 1 << 31 != 0, target: target.map(str::to_owned) }))
}

async fn followed(client: &Client, name: &str, path: String, follow: bool) -> Result<String> {
    if !follow {
        return Ok(path);
    }
    let found = stat(client, name, &path).await?;
    Ok(found.and_then(|stat| stat.target).unwrap_or(path))
}

/// Where something goes: into which directory, and under which name if not its own.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    directory: PathBuf,
    name: Option<Vec<u8>>,
}

/// Docker's rules (docker, archive/copy.go). `there`: whether the destination exists,
/// and whether it is a directory.
fn place(to: &Path, there: Option<bool>, is_directory: bool) -> Result<Place> {
    let text = to.as_os_str().as_encoded_bytes();
    let wants_directory = text.ends_with(b"/") || text.ends_with(b"/.") || text == b".";
    match there {
        Some(true) => Ok(Place { directory: to.to_owned(), name: None }),
        Some(false) if is_directory => {
            Err(Failure(format!("cannot copy a directory onto the file {}", to.display())))
        }
        Some(false) if wants_directory => {
            Err(Failure(format!("{} is not a directory", to.display())))
        }
        None if wants_directory && !is_directory => {
            Err(Failure(format!("no such directory: {}", to.display())))
        }
        _ => {
            let directory = to.parent().filter(|parent| *parent != Path::new(""));
            let name = to.file_name().ok_or_else(|| format!("{} has no name", to.display()))?;
            Ok(Place {
                directory: directory.unwrap_or(Path::new(".")).to_owned(),
                name: Some(name.as_encoded_bytes().to_vec()),
            })
        }
    }
}

/// The root of the paths of here.
fn root() -> Result<OwnedFd> {
    Ok(File::open("/").map_err(|error| format!("opening /: {error}"))?.into())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    // Not std::path::absolute: a `/.` at the end says something.
    Ok(std::env::current_dir().map_err(|e| format!("the working directory: {e}"))?.join(path))
}

async fn into(client: &Client, from: &Path, name: &str, to: String, keep: bool) -> Result<()> {
    let found = copy::find(root()?.as_fd(), &absolute(from)?)?;
    let is_directory =
        rustix::fs::FileType::from_raw_mode(found.stat().mode) == rustix::fs::FileType::Directory;
    let place = place_in(client, name, to, is_directory).await?;
    let owner = (!keep).then_some((0, 0));
    let body = written(move |out| {
        found.write_as(place.name.as_deref(), owner, out).map_err(std::io::Error::other)
    })?;
    let directory = place.directory.display().to_string();
    let query = archive(name, &directory) + "&noOverwriteDirNonDir=1";
    let answer = client.send_stream(Method::PUT, &query, &[], body).await?;
    good(answer).await.map(drop)
}

/// Where something goes in a container.
async fn place_in(
    client: &Client,
    name: &str,
    mut to: String,
    is_directory: bool,
) -> Result<Place> {
    let mut there = stat(client, name, &to).await?;
    if let Some(target) = there.as_ref().and_then(|stat| stat.target.clone()) {
        there = stat(client, name, &target).await?;
        to = target;
    }
    place(Path::new(&to), there.map(|stat| stat.directory), is_directory)
}

/// What of a container is copied: it must be there.
async fn source(client: &Client, name: &str, path: &str) -> Result<Stat> {
    let found = stat(client, name, path).await?;
    found.ok_or_else(|| Failure(format!("Could not find the file {path} in container {name}")))
}

/// The first name in the archive of a path: `.` where its contents alone are meant.
fn own_name(path: &str) -> Vec<u8> {
    let name = match path.ends_with("/.") || path == "/" {
        true => None,
        false => Path::new(path).file_name(),
    };
    name.map_or_else(|| b".".to_vec(), |name| name.as_encoded_bytes().to_vec())
}

/// From one container into another, through here; owners are kept.
async fn between(client: &Client, from: (&str, &str), to: (&str, String)) -> Result<()> {
    let ((name, path), (other, to)) = (from, to);
    let found = source(client, name, path).await?;
    let place = place_in(client, other, to, found.directory).await?;
    let mut query = archive(other, &place.directory.display().to_string());
    query += "&noOverwriteDirNonDir=1";
    if let Some(new) = place.name {
        let [own, new] = [own_name(path), new].map(|name| encode(&String::from_utf8_lossy(&name)));
        query += &format!("&rename-from={own}&rename-to={new}");
    }
    let body = good(client.request(Method::GET, &archive(name, path)).await?).await?;
    let body = body.map_err(std::io::Error::other).boxed_unsync();
    let answer = client.send_stream(Method::PUT, &query, &[], body).await?;
    good(answer).await.map(drop)
}

async fn out_of(client: &Client, name: &str, path: &str, to: &Path, keep: bool) -> Result<()> {
    let found = source(client, name, path).await?;
    let there = std::fs::metadata(to).ok().map(|meta| meta.is_dir());
    let place = place(to, there, found.directory)?;
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = Into {
        keep_kinds: true,
        owner: (!keep).then_some(user),
        rename: place.name.map(|name| (own_name(path), name)),
        ..Into::default()
    };
    let body = good(client.request(Method::GET, &archive(name, path)).await?).await?;
    let mut reader = crate::api::reader_of(body.into_data_stream());
    let (root, directory) = (root()?, absolute(&place.directory)?);
    let copied = tokio::task::spawn_blocking(move || {
        copy::copy_in(root.as_fd(), &directory, &mut reader, &options)
    });
    copied.await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_as_docker_tells_them() {
        let container = |name: &str, path: &str| Side::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(Side::of("web:/etc"), container("web", "/etc"));
        assert_eq!(Side::of("web:etc/x:y"), container("web", "/etc/x:y"));
        assert_eq!(Side::of("./web:x"), Side::Here("./web:x".into()));
        assert_eq!(Side::of("/a:b"), Side::Here("/a:b".into()));
        assert_eq!(Side::of("-"), Side::Stream);
        assert_eq!(Side::of("file"), Side::Here("file".into()));
        assert_eq!((own_name("/a/b"), own_name("/a/b/.")), (b"b".to_vec(), b".".to_vec()));
        assert_eq!((own_name("/"), own_name("/a/")), (b".".to_vec(), b"a".to_vec()));
    }

    #[test]
    fn a_destination_means_what_it_means_to_docker() {
        let placed = |to: &str, there, directory| place(Path::new(to), there, directory).ok();
        let at = |directory: &str, name: Option<&str>| {
            Some(Place {
                directory: directory.into(),
                name: name.map(|name| name.as_bytes().to_vec()),
            })
        };
        assert_eq!(placed("/d", Some(true), false), at("/d", None));
        assert_eq!(placed("/d", Some(true), true), at("/d", None));
        assert_eq!(placed("/f", Some(false), false), at("/", Some("f")));
        assert_eq!(placed("/f", Some(false), true), None);
        assert_eq!(placed("/a/new", None, true), at("/a", Some("new")));
        assert_eq!(placed("/a/new/", None, true), at("/a", Some("new")));
        assert_eq!(placed("/a/new/", None, false), None);
        assert_eq!(placed("new", None, false), at(".", Some("new")));
    }
}
