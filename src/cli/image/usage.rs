//! `df`, `prune`, `verify`: what the images take, and whether they are whole.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::args::Prune;
use super::list::size;
use crate::cli::args::Format;
use crate::cli::client::Client;
use crate::cli::list::{table, text};
use crate::cli::{Result, print};

pub async fn df(client: &Client, verbose: bool, format: Format) -> Result {
    let usage: Value = client.get("/berth/df").await?;
    if format == Format::Json {
        print(&format!("{}\n", serde_json::to_string_pretty(&usage)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut summary = table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for kind in usage["kinds"].as_array().into_iter().flatten() {
        let count = |key: &str| kind[key].as_u64().map(|count| count.to_string());
        summary.add_row([
            kind["type"].as_str().unwrap_or_default().to_owned(),
            count("total").unwrap_or_default(),
            count("active").unwrap_or_default(),
            size(number(&kind["size"])),
            size(number(&kind["reclaimable"])),
        ]);
    }
    let mut all = text(&summary);
    all += &format!(
        "\n{} in all; {} free of {}\n",
        size(number(&usage["total"])),
        size(number(&usage["disk-free"])),
        size(number(&usage["disk-size"]))
    );
    if verbose {
        for (title, key) in
            [("Images", "images"), ("Containers", "containers"), ("Volumes", "volumes")]
        {
            let mut each = table(&["NAME", "ID", "SIZE", "ALONE", "USED BY"]);
            for one in usage[key].as_array().into_iter().flatten() {
                let word = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                let short: String =
                    word("id").trim_start_matches("sha256:").chars().take(12).collect();
                each.add_row([
                    word("name"),
                    short,
                    size(number(&one["size"])),
                    size(number(&one["unique"])),
                    one["users"].as_u64().map(|users| users.to_string()).unwrap_or_default(),
                ]);
            }
            all += &format!("\n{title}:\n{}", text(&each));
        }
    }
    print(&all)?;
    Ok(ExitCode::SUCCESS)
}

pub async fn prune(client: &Client, args: &Prune) -> Result {
    if !args.force && std::io::stdin().is_terminal() {
        let what = match args.all {
            true => "all images that no container and no manifest needs",
            false => "all images without a name that no container needs",
        };
        let mut out = anstream::stdout();
        write!(
            out,
            "This removes {what}, unfinished downloads and what nothing refers to. \
                     Are you sure? [y/N] "
        )?;
        out.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let filters = format!(r#"{{"dangling":["{}"]}}"#, !args.all);
    let path = format!("/images/prune?filters={}", crate::cli::client::encode(&filters));
    let (_, body) = client.ask(Method::POST, &path).await?;
    let gone: Value = serde_json::from_slice(&body)?;
    let mut all = String::new();
    for what in gone["ImagesDeleted"].as_array().into_iter().flatten() {
        for key in ["Untagged", "Deleted"] {
            if let Some(name) = what[key].as_str() {
                all += &format!("{key}: {name}\n");
            }
        }
    }
    let freed = size(gone["SpaceReclaimed"].as_u64().unwrap_or(0));
    print(&format!("{all}Total reclaimed space: {freed}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn verify(client: &Client, repair: bool, format: Format) -> Result {
    let path = format!("/berth/images/verify?repair={}", u8::from(repair));
    let (_, body) = client.ask(Method::POST, &path).await?;
    let found: Vec<String> = serde_json::from_slice(&body)?;
    match format {
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
        Format::Text if found.is_empty() => print("all images and layers are whole\n")?,
        Format::Text => {
            for damage in &found {
                print(&format!("{damage}\n"))?;
            }
        }
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
