//! `ps`, `stats`, `top`: tables.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use comfy_table::Table;
use serde_json::{Value, json};

use super::args::Format;
use super::client::{Client, encode};
use super::{Result, print, print_anew};
use crate::api::status_sentence;
use crate::engine::handle::{Usage, View};
use crate::network::link::Traffic;

pub(super) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(head);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

pub(super) fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Whether a person must see a container even if it does not run.
fn needs_attention(view: &View) -> bool {
    view.manifest_error.is_some() || view.error.is_some() || view.state == "restarting"
}

pub async fn ps(client: &Client, all: bool, quiet: bool, format: Format) -> Result {
    let mut views: Vec<View> = client.get("/berth/containers").await?;
    views.retain(|view| all || view.pid > 0 || needs_attention(view));
    if format == Format::Json {
        print(&format!("{}\n", serde_json::to_string_pretty(&views)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    if quiet {
        let names: String = views.iter().map(|view| format!("{}\n", view.name)).collect();
        print(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now();
    let mut table = table(&["NAME", "STATUS", "RESTARTS", "PID", "NETWORK", "COMMAND", "MANIFEST"]);
    let mut notes = String::new();
    for view in &views {
        let pid = if view.pid > 0 { view.pid.to_string() } else { String::new() };
        let source = view.source.as_ref().map(|source| source.display().to_string());
        let mut status = match view.id.is_empty() {
            true => "Bad manifest".to_owned(),
            false => status_sentence(view, now),
        };
        if view.stopped_by_hand && view.pid == 0 {
            status += ", by hand";
        }
        if view.oom_killed && view.pid == 0 {
            status += ", out of memory";
        }
        let command: String = crate::api::command_line(view).chars().take(30).collect();
        let restarts = view.restarts.to_string();
        table.add_row([
            view.name.to_string(),
            status,
            restarts,
            pid,
            network(view),
            command.replace(['\n', '\t'], " "),
            source.unwrap_or_default(),
        ]);
        let said =
            [("", &view.detail), ("error: ", &view.error), ("manifest: ", &view.manifest_error)];
        for (word, note) in said.iter().filter_map(|(word, note)| Some((word, note.as_ref()?))) {
            let colour = if word.is_empty() { "33" } else { "31" };
            notes += &format!("\x1b[{colour}m{}: {word}{note}\x1b[0m\n", view.name);
        }
    }
    print(&(text(&table) + &notes))?;
    Ok(ExitCode::SUCCESS)
}

/// Where it is reached: its addresses, and the ports of the host that lead to it.
fn network(view: &View) -> String {
    let addresses = view.endpoints.iter().map(|place| place.address.to_string());
    let ports = view.ports.iter().map(|port| {
        let at = match port.address {
            Some(std::net::IpAddr::V6(address)) => format!("[{address}]:"),
            Some(address) => format!("{address}:"),
            None => String::new(),
        };
        let protocol = if port.protocol == "tcp" { "" } else { "/udp" };
        format!("{at}{}→{}{protocol}", port.port, port.container)
    });
    let mut all: Vec<String> = addresses.chain(ports).collect();
    if all.len() > 4 {
        let more = all.len() - 3;
        all.truncate(3);
        all.push(format!("{more} more"));
    }
    all.join(" ")
}

pub async fn top(client: &Client, name: &str) -> Result {
    let answer: Value = client.get(&format!("/containers/{}/top", encode(name))).await?;
    let words = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(|w| w.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let titles = words(&answer["Titles"]);
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let mut table = table(&titles);
    for process in answer["Processes"].as_array().into_iter().flatten() {
        table.add_row(words(process));
    }
    print(&text(&table))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn stats(client: &Client, names: Vec<String>, no_stream: bool, format: Format) -> Result {
    let mut before: BTreeMap<String, Usage> = BTreeMap::new();
    let mut measured_at = tokio::time::Instant::now();
    let mut first = true;
    loop {
        let names = match names.is_empty() {
            false => names.clone(),
            true => {
                let views: Vec<View> = client.get("/berth/containers").await?;
                views
                    .into_iter()
                    .filter(|view| view.pid > 0)
                    .map(|view| view.name.to_string())
                    .collect()
            }
        };
        let mut now: BTreeMap<String, Usage> = BTreeMap::new();
        for name in &names {
            let path = format!("/berth/containers/{}/stats", encode(name));
            now.insert(name.clone(), client.get(&path).await?);
        }
        let passed = measured_at.elapsed();
        measured_at = tokio::time::Instant::now();
        if !first {
            match format {
                Format::Json => print(&json_lines(&before, &now, passed)?)?,
                Format::Text if no_stream => print(&stats_table(&before, &now, passed))?,
                Format::Text => print_anew(&stats_table(&before, &now, passed))?,
            }
            if no_stream {
                return Ok(ExitCode::SUCCESS);
            }
        }
        // Two readings make a rate.
        tokio::time::sleep(Duration::from_millis(if first { 250 } else { 1000 })).await;
        (first, before) = (false, now);
    }
}

/// Percent of one processor.
fn percent(before: Option<&Usage>, now: &Usage, passed: Duration) -> f64 {
    let now = now.stats.cpu_total;
    let used = now.saturating_sub(before.map_or(now, |before| before.stats.cpu_total));
    used as f64 / passed.as_nanos().max(1) as f64 * 100.0
}

fn stats_table(
    before: &BTreeMap<String, Usage>,
    now: &BTreeMap<String, Usage>,
    passed: Duration,
) -> String {
    let mut table =
        table(&["NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN", "RECEIVED", "SENT"]);
    for (name, usage) in now {
        let stats = &usage.stats;
        let carried =
            |of: fn(&Traffic) -> u64| ByteSize(usage.networks.values().map(of).sum()).to_string();
        let limit = stats.memory_limit.map(|limit| ByteSize(limit).to_string());
        let sum =
            |of: fn(&crate::cgroup::IoStats) -> u64| ByteSize(stats.io.values().map(of).sum());
        table.add_row([
            name.clone(),
            format!("{:.1}%", percent(before.get(name), usage, passed)),
            ByteSize(stats.memory).to_string(),
            limit.unwrap_or_else(|| "none".to_owned()),
            stats.pids.to_string(),
            sum(|io| io.read_bytes).to_string(),
            sum(|io| io.write_bytes).to_string(),
            carried(|traffic| traffic.rx_bytes),
            carried(|traffic| traffic.tx_bytes),
        ]);
    }
    text(&table)
}

fn json_lines(
    before: &BTreeMap<String, Usage>,
    now: &BTreeMap<String, Usage>,
    passed: Duration,
) -> Result<String> {
    let mut lines = String::new();
    for (name, stats) in now {
        let mut value = serde_json::to_value(stats)?;
        value["name"] = json!(name);
        value["cpu-percent"] = json!(percent(before.get(name), stats, passed));
        lines += &format!("{value}\n");
    }
    Ok(lines)
}
