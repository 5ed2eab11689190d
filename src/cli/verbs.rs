//! Commands that order something, for one or several containers.

use std::path::PathBuf;
use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::args::{Format, Update};
use super::client::{Client, encode, message};
use super::{Failure, Result, print, request};

/// Orders the same of each; says the name of each for which it was done. One that
/// fails keeps no other from being tried.
async fn for_each(
    names: &[String],
    mut order: impl AsyncFnMut(&str) -> Result<Option<String>>,
) -> Result {
    let mut failed = Vec::new();
    for name in names {
        match order(name).await {
            Ok(Some(said)) => print(&format!("{said}\n"))?,
            Ok(None) => print(&format!("{name}\n"))?,
            Err(Failure(message)) => failed.push(message),
        }
    }
    match failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure(failed.join("\nberth: "))),
    }
}

pub async fn each(
    client: &Client,
    names: &[String],
    verb: &str,
    query: &[(&str, Option<String>)],
) -> Result {
    let query: Vec<String> = query
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))))
        .collect();
    for_each(names, async |name| {
        let path = format!("/containers/{}/{verb}?{}", encode(name), query.join("&"));
        client.ask(Method::POST, &path).await.map(|_| None)
    })
    .await
}

pub async fn reload(client: &Client, names: &[String]) -> Result {
    for_each(names, async |name| {
        let path = format!("/berth/containers/{}/reload", encode(name));
        client.ask(Method::POST, &path).await.map(|_| None)
    })
    .await
}

pub async fn update(client: &Client, args: &Update) -> Result {
    let body = request::limits(&args.limits)?;
    for_each(&args.names, async |name| {
        let path = format!("/containers/{}/update", encode(name));
        let (status, body) = client.post(&path, &body).await?;
        match status.is_success() {
            true => Ok(None),
            false => Err(Failure(message(&body))),
        }
    })
    .await
}

pub async fn rename(client: &Client, name: &str, to: &str) -> Result {
    let path = format!("/containers/{}/rename?name={}", encode(name), encode(to));
    client.ask(Method::POST, &path).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn remove(client: &Client, names: &[String], force: bool, volumes: bool) -> Result {
    for_each(names, async |name| {
        let (force, volumes) = (u8::from(force), u8::from(volumes));
        let path = format!("/containers/{}?force={force}&v={volumes}", encode(name));
        client.ask(Method::DELETE, &path).await.map(|_| None)
    })
    .await
}

pub async fn wait(client: &Client, names: &[String]) -> Result {
    for_each(names, async |name| {
        let path = format!("/containers/{}/wait", encode(name));
        let (_, body) = client.ask(Method::POST, &path).await?;
        let answer: Value = serde_json::from_slice(&body)?;
        Ok(Some(answer["StatusCode"].to_string()))
    })
    .await
}

pub async fn reexec(client: &Client) -> Result {
    client.ask(Method::POST, "/berth/reexec").await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn plan(client: &Client, dirs: Vec<PathBuf>, format: Format) -> Result {
    let mut absolute = Vec::new();
    for dir in dirs {
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        absolute.push(dir.display().to_string());
    }
    let path = format!("/berth/plan?dirs={}", encode(&absolute.join("\n")));
    let changes: Vec<Value> = client.get(&path).await?;
    print_plan(&changes, format)
}

/// Prints a plan; the exit status says whether anything would change.
pub fn print_plan(changes: &[Value], format: Format) -> Result {
    let changes: Vec<&Value> = changes.iter().filter(|change| change["kind"] != "none").collect();
    match format {
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&changes)?))?,
        Format::Text if changes.is_empty() => print("nothing would change\n")?,
        Format::Text => {
            let mut text = String::new();
            for change in &changes {
                let word = |key: &str| change[key].as_str().unwrap_or_default().to_owned();
                let kind = word("kind");
                let sign = match kind.as_str() {
                    "create" | "start" => "\x1b[32m+",
                    "stop" => "\x1b[31m-",
                    "change-in-place" => "\x1b[33m~",
                    _ => "\x1b[33m!",
                };
                text += &format!("{sign} {:<16} {}\x1b[0m  {}\n", kind, word("name"), word("why"));
            }
            print(&text)?;
        }
    }
    Ok(ExitCode::from(if changes.is_empty() { 0 } else { 2 }))
}
