//! `export`, `diff`, `commit`, `clone`: the files of a container as a whole.

use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::args::{CloneArgs, Commit, Export};
use super::transfer::{good, refuse_terminal, write_out};
use crate::cli::client::{Client, encode, message};
use crate::cli::{Failure, Result, print};

pub async fn export(client: &Client, args: &Export) -> Result {
    refuse_terminal(args.output.as_deref(), "a tar")?;
    let path = format!("/containers/{}/export", encode(&args.name));
    let body = good(client.request(Method::GET, &path).await?).await?;
    write_out(body, args.output.as_deref()).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn diff(client: &Client, name: &str) -> Result {
    let path = format!("/containers/{}/changes", encode(name));
    let changes: Option<Vec<Value>> = client.get(&path).await?;
    let mut text = String::new();
    for change in changes.unwrap_or_default() {
        let letter = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            _ => 'D',
        };
        let path = change["Path"].as_str().unwrap_or_default();
        // A name of a container's making has an end of its own line.
        let path = crate::cli::printable::plain(path);
        text += &format!("{letter} {path}\n");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub async fn commit(client: &Client, args: &Commit) -> Result {
    let mut path = format!("/commit?container={}&pause={}", encode(&args.name), args.pause);
    if let Some(image) = &args.image {
        path += &format!("&repo={}", encode(image));
    }
    for (key, value) in [("author", &args.author), ("comment", &args.message)] {
        if let Some(value) = value {
            path += &format!("&{key}={}", encode(value));
        }
    }
    for change in &args.change {
        path += &format!("&changes={}", encode(change));
    }
    let made = posted(client, &path).await?;
    print(&format!("{}\n", made["Id"].as_str().unwrap_or_default()))?;
    Ok(ExitCode::SUCCESS)
}

async fn posted(client: &Client, path: &str) -> Result<Value> {
    let (status, body) = client.post(path, &json!({})).await?;
    match status.is_success() {
        true if status == StatusCode::NO_CONTENT => Ok(Value::Null),
        true => Ok(serde_json::from_slice(&body)?),
        false => Err(Failure(message(&body))),
    }
}

pub async fn clone(client: &Client, args: &CloneArgs) -> Result {
    let mut path = format!("/berth/containers/{}/clone?pause={}", encode(&args.name), args.pause);
    if let Some(new) = &args.new {
        path += &format!("&name={}", encode(new));
    }
    let made = posted(client, &path).await?;
    let id = made["Id"].as_str().unwrap_or_default();
    if args.start {
        client.ask(Method::POST, &format!("/containers/{id}/start")).await?;
    }
    print(&format!("{id}\n"))?;
    Ok(ExitCode::SUCCESS)
}
