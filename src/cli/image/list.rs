//! `images`, `history`, `tag`, `rmi`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::args::{History, Images};
use crate::api::age;
use crate::cli::args::Format;
use crate::cli::client::{Client, encode, message};
use crate::cli::list::{table, text};
use crate::cli::{Failure, Result, print};
use crate::image::Reference;

/// An image's name in a path: its slashes are the path's.
pub fn in_path(name: &str) -> String {
    encode(name).replace("%2F", "/")
}

/// As Docker shows ids: 12 digits, unless all are wanted.
fn id(text: &Value, whole: bool) -> String {
    let text = text.as_str().unwrap_or_default();
    match text.strip_prefix("sha256:") {
        Some(hex) if !whole => hex.chars().take(12).collect(),
        _ => text.to_owned(),
    }
}

/// How long ago, in Docker's words.
fn ago(seconds: i64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    match SystemTime::now().duration_since(then) {
        Ok(_) if seconds <= 0 => "N/A".to_owned(),
        Ok(past) => format!("{} ago", age(past)),
        Err(_) => "just now".to_owned(),
    }
}

pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

fn filters(args: &Images) -> Result<String> {
    let mut filters: Map<String, Value> = Map::new();
    let named = args.name.iter().map(|name| ("reference", name.as_str()));
    let said = args.filter.iter().map(|filter| {
        filter
            .split_once('=')
            .ok_or_else(|| Failure(format!("invalid filter {filter:?}; write KEY=VALUE")))
    });
    for pair in named.map(Ok).chain(said) {
        let (key, value) = pair?;
        let values = filters.entry(key).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
    Ok(match filters.is_empty() {
        true => String::new(),
        false => format!("?filters={}", encode(&Value::Object(filters).to_string())),
    })
}

pub async fn images(client: &Client, args: &Images) -> Result {
    let images: Vec<Value> = client.get(&format!("/images/json{}", filters(args)?)).await?;
    if args.format == Format::Json {
        print(&format!("{}\n", serde_json::to_string_pretty(&images)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.quiet {
        let ids: String =
            images.iter().map(|image| id(&image["Id"], args.no_trunc) + "\n").collect();
        print(&ids)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut head = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        head.insert(2, "DIGEST");
    }
    let mut table = table(&head);
    for image in &images {
        for (repository, tag, digest) in lines(image) {
            let mut row = vec![
                repository,
                tag,
                id(&image["Id"], args.no_trunc),
                ago(image["Created"].as_i64().unwrap_or(0)),
                size(image["Size"].as_u64().unwrap_or(0)),
            ];
            if args.digests {
                row.insert(2, digest);
            }
            table.add_row(row);
        }
    }
    print(&text(&table))?;
    Ok(ExitCode::SUCCESS)
}

/// Repository, tag and digest of each name of an image.
fn lines(image: &Value) -> Vec<(String, String, String)> {
    let none = || "<none>".to_owned();
    let texts = |key: &str| -> Vec<String> {
        let list = image[key].as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let digests = texts("RepoDigests");
    let digest_of = |repository: &str| {
        let pairs = digests.iter().filter_map(|digest| digest.split_once('@'));
        let mut own = pairs.filter(|(name, _)| *name == repository);
        own.next().map(|(_, digest)| digest.to_owned())
    };
    let mut lines: Vec<_> = texts("RepoTags")
        .iter()
        .filter_map(|name| {
            let (repository, tag) = name.rsplit_once(':')?;
            let digest = digest_of(repository).unwrap_or_else(none);
            Some((repository.to_owned(), tag.to_owned(), digest))
        })
        .collect();
    if lines.is_empty() {
        lines.extend(digests.iter().filter_map(|digest| {
            let (repository, digest) = digest.split_once('@')?;
            Some((repository.to_owned(), none(), digest.to_owned()))
        }));
    }
    if lines.is_empty() {
        lines.push((none(), none(), none()));
    }
    lines
}

pub async fn history(client: &Client, args: &History) -> Result {
    let path = format!("/images/{}/history", in_path(&args.image));
    let steps: Vec<Value> = client.get(&path).await?;
    if args.format == Format::Json {
        print(&format!("{}\n", serde_json::to_string_pretty(&steps)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.quiet {
        let ids: String = steps.iter().map(|step| id(&step["Id"], args.no_trunc) + "\n").collect();
        print(&ids)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for step in &steps {
        let by = step["CreatedBy"].as_str().unwrap_or_default().replace(['\n', '\t'], " ");
        let by = match args.no_trunc || by.chars().count() <= 45 {
            true => by,
            false => by.chars().take(44).chain(['…']).collect(),
        };
        table.add_row([
            id(&step["Id"], args.no_trunc),
            ago(step["Created"].as_i64().unwrap_or(0)),
            by,
            size(step["Size"].as_u64().unwrap_or(0)),
            step["Comment"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    print(&text(&table))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn tag(client: &Client, source: &str, target: &str) -> Result {
    let target: Reference = target.parse()?;
    if target.digest().is_some() {
        return Err("refusing to create a tag with a digest reference".into());
    }
    let path = format!(
        "/images/{}/tag?repo={}&tag={}",
        in_path(source),
        encode(&target.name()),
        encode(target.tag().unwrap_or("latest"))
    );
    client.ask(Method::POST, &path).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn remove(client: &Client, names: &[String], force: bool) -> Result {
    let mut failed = Vec::new();
    for name in names {
        let path = format!("/images/{}?force={}", in_path(name), u8::from(force));
        let answer = client.request(Method::DELETE, &path).await?;
        let status = answer.status();
        let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
        match status {
            // As Docker: with --force what is not there is no failure.
            StatusCode::NOT_FOUND if force => continue,
            status if !status.is_success() => failed.push(message(&body)),
            _ => {
                let gone: Vec<Value> = serde_json::from_slice(&body)?;
                for what in &gone {
                    for key in ["Untagged", "Deleted"] {
                        if let Some(name) = what[key].as_str() {
                            print(&format!("{key}: {name}\n"))?;
                        }
                    }
                }
            }
        }
    }
    match failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure(failed.join("\nberth: "))),
    }
}
