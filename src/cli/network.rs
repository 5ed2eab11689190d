//! `berth network …`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::args::Format;
use super::client::{Client, encode, message};
use super::list::{table, text};
use super::{Failure, Result, print};
use crate::engine::handle::View;

/// Networks.
#[derive(Debug, Clone, Subcommand)]
pub enum Network {
    /// List networks.
    #[command(alias = "list")]
    Ls {
        /// Only their names.
        #[arg(short, long)]
        quiet: bool,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print all that is known of networks, as JSON.
    Inspect {
        /// Which networks.
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
    /// Make a network.
    Create(Create),
    /// Remove networks that nobody is on and no manifest declares.
    #[command(alias = "remove")]
    Rm {
        /// Which networks.
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
    /// Remove all networks that nobody is on.
    Prune,
    /// Bring a container onto a network, running or not.
    Connect {
        /// A name that it is found by there.
        #[arg(long, value_name = "NAME")]
        alias: Vec<String>,
        /// Its IPv4 address there.
        #[arg(long, value_name = "ADDRESS")]
        ip: Option<String>,
        /// Its IPv6 address there.
        #[arg(long, value_name = "ADDRESS")]
        ip6: Option<String>,
        /// Which network.
        network: String,
        /// Which container.
        container: String,
    },
    /// Take a container off a network, running or not.
    Disconnect {
        /// Which network.
        network: String,
        /// Which container.
        container: String,
    },
}

/// How a network is made.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// bridge, macvlan or ipvlan.
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// A subnet, IPv4 or IPv6; a free one is chosen otherwise.
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Vec<String>,
    /// The router's address in each subnet, in their order.
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<String>,
    /// Nothing goes in or out but among its containers.
    #[arg(long)]
    pub internal: bool,
    /// Its containers reach the outside, but not each other.
    #[arg(long)]
    pub isolated: bool,
    /// The largest packet in bytes.
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// The host's interface below a macvlan or ipvlan.
    #[arg(long, value_name = "INTERFACE")]
    pub parent: Option<String>,
    /// No IPv6.
    #[arg(long)]
    pub no_ipv6: bool,
    /// A label, NAME=VALUE.
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Its name.
    pub name: String,
}

pub async fn network(client: &Client, command: Network) -> Result {
    match command {
        Network::Ls { quiet, format } => ls(client, quiet, format).await,
        Network::Inspect { names } => inspect(client, &names).await,
        Network::Create(create) => make(client, create).await,
        Network::Rm { names } => remove(client, &names).await,
        Network::Prune => prune(client).await,
        Network::Connect { alias, ip, ip6, network, container } => {
            let fixed = ip.is_some() || ip6.is_some();
            let ipam = fixed.then(|| json!({ "IPv4Address": ip, "IPv6Address": ip6 }));
            let settings = json!({ "Aliases": alias, "IPAMConfig": ipam });
            let body = json!({ "Container": container, "EndpointConfig": settings });
            post(client, &format!("/networks/{}/connect", encode(&network)), &body).await?;
            Ok(ExitCode::SUCCESS)
        }
        Network::Disconnect { network, container } => {
            let body = json!({ "Container": container });
            post(client, &format!("/networks/{}/disconnect", encode(&network)), &body).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn post(client: &Client, path: &str, body: &Value) -> Result<Value> {
    let (status, answer) = client.post(path, body).await?;
    if !status.is_success() {
        return Err(Failure(message(&answer)));
    }
    Ok(serde_json::from_slice(&answer).unwrap_or_default())
}

async fn ls(client: &Client, quiet: bool, format: Format) -> Result {
    let networks: Vec<Value> = client.get("/networks").await?;
    let views: Vec<View> = client.get("/berth/containers").await?;
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if format == Format::Json {
        print(&format!("{}\n", serde_json::to_string_pretty(&networks)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    if quiet {
        let names: String = networks.iter().map(|one| text_of(&one["Name"]) + "\n").collect();
        print(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["NAME", "DRIVER", "SUBNETS", "INTERFACE", "CONTAINERS", "KIND"]);
    for network in &networks {
        let subnets: Vec<String> = network["IPAM"]["Config"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|config| text_of(&config["Subnet"]))
            .collect();
        let id = text_of(&network["Id"]);
        let on_it = views.iter().filter(|view| view.endpoints.iter().any(|p| p.network_id == id));
        let mut kind = Vec::new();
        for (key, word) in [("Internal", "internal")] {
            if network[key] == true {
                kind.push(word);
            }
        }
        if network["Options"]["com.docker.network.bridge.enable_icc"] == "false" {
            kind.push("isolated");
        }
        table.add_row([
            text_of(&network["Name"]),
            text_of(&network["Driver"]),
            subnets.join(", "),
            text_of(&network["Bridge"]),
            on_it.count().to_string(),
            kind.join(", "),
        ]);
    }
    print(&text(&table))?;
    Ok(ExitCode::SUCCESS)
}

async fn inspect(client: &Client, names: &[String]) -> Result {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        match client.get::<Value>(&format!("/networks/{}", encode(name))).await {
            Ok(value) => found.push(value),
            Err(Failure(message)) => failed.push(message),
        }
    }
    print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?;
    match failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure(failed.join("\nberth: "))),
    }
}

async fn make(client: &Client, create: Create) -> Result {
    if create.gateway.len() > create.subnet.len() {
        return Err("a gateway is in a subnet: name as many subnets".into());
    }
    let config: Vec<Value> = create
        .subnet
        .iter()
        .enumerate()
        .map(|(at, subnet)| json!({ "Subnet": subnet, "Gateway": create.gateway.get(at) }))
        .collect();
    let mut options = Map::new();
    if create.isolated {
        options.insert("isolated".into(), "true".into());
    }
    if let Some(mtu) = create.mtu {
        options.insert("com.docker.network.driver.mtu".into(), mtu.to_string().into());
    }
    if let Some(parent) = &create.parent {
        options.insert("parent".into(), parent.clone().into());
    }
    let labels: Map<String, Value> = create
        .label
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let body = json!({
        "Name": create.name,
        "Driver": create.driver,
        "Internal": create.internal,
        "EnableIPv6": !create.no_ipv6,
        "IPAM": { "Config": config },
        "Options": options,
        "Labels": labels,
    });
    let answer = post(client, "/networks/create", &body).await?;
    print(&format!("{}\n", answer["Id"].as_str().unwrap_or_default()))?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, names: &[String]) -> Result {
    let mut failed = Vec::new();
    for name in names {
        match client.ask(Method::DELETE, &format!("/networks/{}", encode(name))).await {
            Ok(_) => print(&format!("{name}\n"))?,
            Err(Failure(message)) => failed.push(message),
        }
    }
    match failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure(failed.join("\nberth: "))),
    }
}

async fn prune(client: &Client) -> Result {
    let (_, answer) = client.ask(Method::POST, "/networks/prune").await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    for name in answer["NetworksDeleted"].as_array().into_iter().flatten() {
        print(&format!("{}\n", name.as_str().unwrap_or_default()))?;
    }
    Ok(ExitCode::SUCCESS)
}
