//! `pull`, `push`, `save`, `load`, `import`: images that come and go.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::json;

use super::args::{ArchiveFormat, Import, Load, Pull, Push, Save};
use super::progress::{Ended, Shown, follow};
use crate::cli::client::{Body, Client, encode, message, read_from, whole};
use crate::cli::{Failure, Result, print};
use crate::image::Reference;
use crate::image::registry::{Credentials, Login};

/// An engine that was killed is back long before that.
const PATIENCE: Duration = Duration::from_secs(10);

/// The header with the caller's login to a registry: it may not be root's.
async fn login_header(registry: &str) -> Result<Vec<(&'static str, String)>> {
    let login = Credentials::of_docker().get(registry).await?;
    Ok(login.map(|login| ("x-registry-auth", as_header(&login, registry))).into_iter().collect())
}

/// A login as `X-Registry-Auth` has it (Docker Engine API, "Authentication").
pub(super) fn as_header(login: &Login, registry: &str) -> String {
    URL_SAFE.encode(as_json(login, registry).to_string())
}

/// A login as the API's `AuthConfig`.
pub(super) fn as_json(login: &Login, registry: &str) -> serde_json::Value {
    match login {
        Login::Password { user, password } => {
            json!({ "username": user, "password": password, "serveraddress": registry })
        }
        Login::Identity(token) => json!({ "identitytoken": token, "serveraddress": registry }),
    }
}

/// The body of a good answer; the message of a bad one is the error.
pub(super) async fn good(answer: Response<Incoming>) -> Result<Incoming> {
    let status = answer.status();
    let body = answer.into_body();
    if status.is_success() {
        return Ok(body);
    }
    Err(Failure(message(&body.collect().await?.to_bytes())))
}

/// Asks and shows the stream. What can be repeated goes on over the engine's death.
async fn streamed(
    client: &Client,
    path: &str,
    headers: &[(&str, String)],
    shown: &mut Shown,
) -> Result<()> {
    let mut broken_since: Option<Instant> = None;
    loop {
        let before = shown.events();
        let asked = client.send_stream(Method::POST, path, headers, whole("")).await;
        let ended = match asked {
            Ok(answer) => follow(good(answer).await?, shown).await?,
            Err(Failure(why)) if broken_since.is_some() => Ended::Broken(why),
            Err(error) => return Err(error),
        };
        match ended {
            Ended::Well => return Ok(()),
            Ended::Broken(why) => {
                // An engine that told something was back since.
                if shown.events() > before {
                    broken_since = None;
                }
                let since = *broken_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(Failure(format!("the engine went away: {why}")));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

pub async fn pull(client: &Client, args: &Pull) -> Result {
    let mut shown = Shown::new(args.quiet);
    let name = pull_with(client, args, &mut shown).await?;
    print(&format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Pulls an image; gives its whole name.
pub async fn pull_with(client: &Client, args: &Pull, shown: &mut Shown) -> Result<String> {
    let name: Reference = args.image.parse()?;
    let mut path = format!("/images/create?fromImage={}", encode(&name.to_string()));
    if let Some(platform) = &args.platform {
        path += &format!("&platform={}", encode(platform));
    }
    let headers = login_header(name.registry()).await?;
    streamed(client, &path, &headers, shown).await?;
    Ok(name.to_string())
}

pub async fn push(client: &Client, args: &Push) -> Result {
    let name: Reference = args.image.parse()?;
    if name.digest().is_some() {
        return Err("an image is pushed by a name with a tag, not by its digest".into());
    }
    // Slashes of the name are part of the path.
    let mut path = format!("/images/{}/push", encode(&name.to_string()).replace("%2F", "/"));
    if let Some(chunk) = args.chunk {
        path += &format!("?chunk={chunk}");
    }
    let headers = login_header(name.registry()).await?;
    let mut shown = Shown::new(args.quiet);
    streamed(client, &path, &headers, &mut shown).await?;
    if args.quiet {
        print(&format!("{name}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes an answer to a file, which gets its name when it is whole, or to standard
/// output.
pub(super) async fn write_out(mut body: Incoming, output: Option<&Path>) -> Result<()> {
    let fail = |path: &Path, error: std::io::Error| {
        Failure(format!("writing {}: {error}", path.display()))
    };
    let Some(path) = output else {
        let mut out = std::io::stdout().lock();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                match out.write_all(&data) {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                        std::process::exit(0)
                    }
                    result => result?,
                }
            }
        }
        return Ok(out.flush()?);
    };
    // A device or a pipe is written as it is.
    let is_special = path.metadata().is_ok_and(|meta| !meta.is_file());
    if is_special {
        let mut out = File::options().write(true).open(path).map_err(|e| fail(path, e))?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                out.write_all(&data).map_err(|e| fail(path, e))?;
            }
        }
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut out = tempfile::Builder::new()
        .prefix(".berth-")
        .tempfile_in(folder)
        .map_err(|e| fail(path, e))?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            out.write_all(&data).map_err(|e| fail(path, e))?;
        }
    }
    out.as_file().sync_all().map_err(|e| fail(path, e))?;
    out.persist(path).map_err(|e| fail(path, e.error))?;
    Ok(())
}

/// Binary data on a terminal helps nobody.
pub(super) fn refuse_terminal(output: Option<&Path>, what: &str) -> Result<()> {
    if output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure(format!(
            "{what} is not printed on a terminal; use the -o flag or redirect"
        )));
    }
    Ok(())
}

pub async fn save(client: &Client, args: &Save) -> Result {
    refuse_terminal(args.output.as_deref(), "an archive")?;
    let mut query: Vec<String> =
        args.images.iter().map(|image| format!("names={}", encode(image))).collect();
    query.extend(args.format.map(|format| match format {
        ArchiveFormat::Oci => "format=oci".to_owned(),
        ArchiveFormat::Docker => "format=docker".to_owned(),
    }));
    let path = format!("/images/get?{}", query.join("&"));
    let body = good(client.request(Method::GET, &path).await?).await?;
    write_out(body, args.output.as_deref()).await?;
    Ok(ExitCode::SUCCESS)
}

/// A file, or standard input, as a body.
fn source(path: Option<&Path>) -> Result<Body> {
    match path {
        Some(path) => {
            let file =
                File::open(path).map_err(|error| format!("opening {}: {error}", path.display()))?;
            read_from(file)
        }
        None => read_from(std::io::stdin()),
    }
}

pub async fn load(client: &Client, args: &Load) -> Result {
    if args.input.is_none() && std::io::stdin().is_terminal() {
        return Err("requested load from stdin, but stdin is empty; use -i FILE or `<`".into());
    }
    let body = source(args.input.as_deref())?;
    let headers = [("content-type", "application/x-tar".to_owned())];
    let answer = client.send_stream(Method::POST, "/images/load", &headers, body).await?;
    finish(follow(good(answer).await?, &mut Shown::new(false)).await?)
}

fn finish(ended: Ended) -> Result {
    match ended {
        Ended::Well => Ok(ExitCode::SUCCESS),
        Ended::Broken(why) => Err(Failure(format!("the engine went away: {why}"))),
    }
}

pub async fn import(client: &Client, args: &Import) -> Result {
    let mut query = Vec::new();
    if let Some(name) = &args.name {
        query.push(format!("repo={}", encode(name)));
    }
    query.extend(args.change.iter().map(|change| format!("changes={}", encode(change))));
    if let Some(message) = &args.message {
        query.push(format!("message={}", encode(message)));
    }
    if let Some(platform) = &args.platform {
        query.push(format!("platform={}", encode(platform)));
    }
    let is_url = ["http://", "https://"].iter().any(|scheme| args.source.starts_with(scheme));
    let body = match args.source.as_str() {
        url if is_url => {
            query.push(format!("fromSrc={}", encode(url)));
            whole("")
        }
        "-" => source(None)?,
        path => source(Some(Path::new(path)))?,
    };
    if !is_url {
        query.push("fromSrc=-".to_owned());
    }
    let path = format!("/images/create?{}", query.join("&"));
    let answer = client.send_stream(Method::POST, &path, &[], body).await?;
    finish(follow(good(answer).await?, &mut Shown::new(false)).await?)
}
