//! `inspect`, `version`, `info`.

use std::process::ExitCode;

use serde_json::Value;

use super::args::Format;
use super::client::{Client, encode};
use super::{Failure, Result, print};

pub async fn inspect(client: &Client, names: &[String]) -> Result {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        let container = client.get::<Value>(&format!("/containers/{}/json", encode(name))).await;
        let image = async || {
            client.get::<Value>(&format!("/images/{}/json", super::image::in_path(name))).await
        };
        match container {
            Ok(value) => found.push(value),
            Err(Failure(message)) => match image().await {
                Ok(value) => found.push(value),
                Err(_) => failed.push(match message.contains("No such container") {
                    true => format!("no such container or image: {name}"),
                    false => message,
                }),
            },
        }
    }
    print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    match failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure(failed.join("\nberth: "))),
    }
}

pub async fn version(client: &Client, format: Format) -> Result {
    let own = env!("CARGO_PKG_VERSION");
    let running = client.get::<Value>("/version").await.ok();
    let text = match format {
        Format::Json => {
            let value = serde_json::json!({ "Client": { "Version": own }, "Server": running });
            format!("{}\n", serde_json::to_string_pretty(&value)?)
        }
        Format::Text => match &running {
            Some(server) => format!(
                "this program   {own}\nrunning Berth  {}\nAPI            {} (from {})\nkernel         {}\n",
                server["Version"].as_str().unwrap_or_default(),
                server["ApiVersion"].as_str().unwrap_or_default(),
                server["MinAPIVersion"].as_str().unwrap_or_default(),
                server["KernelVersion"].as_str().unwrap_or_default(),
            ),
            None => format!("this program   {own}\nrunning Berth  none\n"),
        },
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub async fn info(client: &Client, format: Format) -> Result {
    let info: Value = client.get("/info").await?;
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&info)?),
        Format::Text => {
            let cgroups = info["DriverStatus"][0][1].as_str().unwrap_or_default().to_owned();
            let word = |key: &str| match &info[key] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            format!(
                "containers  {} ({} running, {} paused, {} stopped)\nstate       {}\ncgroups     {cgroups}\n\
                 kernel      {}\nsystem      {}\nprocessors  {}\nmemory      {}\nversion     {}\n",
                word("Containers"),
                word("ContainersRunning"),
                word("ContainersPaused"),
                word("ContainersStopped"),
                word("DockerRootDir"),
                word("KernelVersion"),
                word("OperatingSystem"),
                word("NCPU"),
                bytesize::ByteSize(info["MemTotal"].as_u64().unwrap_or(0)),
                word("ServerVersion"),
            )
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
