//! `/containers/{id}/stats`: what a container uses, as Docker's clients read it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::model::{self, NEVER, timestamp};
use super::respond::{Answer, refused, stream as streamed};
use super::route::Query;
use crate::cgroup::Stats;
use crate::engine::handle::{Handle, Usage, View};
use crate::network::link::Traffic;

/// Docker's interval of a stats stream.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

pub async fn stream(handle: &Handle, which: &str, query: &Query) -> Answer {
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let go_on = query.get("stream").is_none() || query.is_on("stream");
    let at_once = query.is_on("one-shot");
    let handle = handle.clone();
    let online = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    streamed("application/json", move |pieces| async move {
        let mut before = None;
        if !go_on && !at_once {
            before = reading(&handle, &view).await;
            if before.is_some() {
                tokio::time::sleep(STATS_INTERVAL).await;
            }
        }
        loop {
            let now = reading(&handle, &view).await;
            let value = one(&view, before.as_ref(), now.as_ref(), online);
            if pieces.send(Bytes::from(format!("{value}\n"))).await.is_err() || !go_on {
                return;
            }
            before = now;
            tokio::time::sleep(STATS_INTERVAL).await;
            if handle.find(&view.id).await.is_err() {
                return;
            }
        }
    })
}

async fn reading(handle: &Handle, view: &View) -> Option<Reading> {
    let now = handle.find(&view.id).await.ok().filter(model::is_running)?;
    let Usage { stats, networks } = handle.stats(now.which()).await.ok()?;
    Some(Reading { stats, networks, system: system_cpu(), time: SystemTime::now() })
}

/// Processor time of the whole machine in nanoseconds (proc_stat(5)).
fn system_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: u64 =
        line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// A measurement, and when it was made.
#[derive(Debug, Clone)]
struct Reading {
    /// What the container uses.
    stats: Stats,
    /// What its interfaces counted.
    networks: BTreeMap<String, Traffic>,
    /// Processor time of the whole machine in nanoseconds.
    system: u64,
    /// When.
    time: SystemTime,
}

/// One reading of `/stats`, with the one before it; of a container that does not run
/// there is none, and everything is zero, as with Docker.
fn one(view: &View, before: Option<&Reading>, now: Option<&Reading>, online: usize) -> Value {
    let cpu = |reading: Option<&Reading>| {
        let Some(Reading { stats, system, .. }) = reading else {
            return json!({
                "cpu_usage": {
                    "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0,
                },
                "throttling_data": {
                    "periods": 0, "throttled_periods": 0, "throttled_time": 0,
                },
            });
        };
        json!({
            "cpu_usage": {
                "total_usage": stats.cpu_total,
                "usage_in_kernelmode": stats.cpu_system,
                "usage_in_usermode": stats.cpu_user,
            },
            "system_cpu_usage": system,
            "online_cpus": online,
            "throttling_data": {
                "periods": stats.periods,
                "throttled_periods": stats.throttled_periods,
                "throttled_time": stats.throttled,
            },
        })
    };
    let time = |reading: Option<&Reading>| {
        reading.map_or_else(|| NEVER.to_owned(), |reading| timestamp(reading.time))
    };
    let mut value = json!({
        "id": view.id,
        "name": format!("/{}", view.name),
        "read": time(now),
        "preread": time(before),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": {},
        "pids_stats": {},
        "blkio_stats": blkio(now.map(|now| &now.stats)),
    });
    if let Some(Reading { stats, networks, .. }) = now {
        let total = rustix::system::sysinfo();
        let total = total.totalram as u64 * u64::from(total.mem_unit);
        value["memory_stats"] = json!({
            "usage": stats.memory,
            "max_usage": stats.memory_peak,
            "limit": stats.memory_limit.unwrap_or(total),
            "stats": {
                "inactive_file": stats.memory_inactive_file,
                "total_inactive_file": stats.memory_inactive_file,
                "anon": stats.memory_anonymous,
            },
        });
        value["pids_stats"] = json!({ "current": stats.pids });
        if let Some(limit) = stats.pids_limit {
            value["pids_stats"]["limit"] = json!(limit);
        }
        let counted = networks.iter().map(|(name, traffic)| {
            let counted = json!({
                "rx_bytes": traffic.rx_bytes, "rx_packets": traffic.rx_packets,
                "rx_errors": traffic.rx_errors, "rx_dropped": traffic.rx_dropped,
                "tx_bytes": traffic.tx_bytes, "tx_packets": traffic.tx_packets,
                "tx_errors": traffic.tx_errors, "tx_dropped": traffic.tx_dropped,
            });
            (name.clone(), counted)
        });
        value["networks"] = Value::Object(counted.collect());
    }
    value
}

fn blkio(stats: Option<&Stats>) -> Value {
    let mut bytes: Vec<Value> = Vec::new();
    for (device, stats) in stats.into_iter().flat_map(|stats| &stats.io) {
        let (major, minor) = device.split_once(':').unwrap_or((device, "0"));
        let (major, minor) = (major.parse().unwrap_or(0u64), minor.parse().unwrap_or(0u64));
        for (op, value) in [("read", stats.read_bytes), ("write", stats.write_bytes)] {
            bytes.push(json!({ "major": major, "minor": minor, "op": op, "value": value }));
        }
    }
    json!({
        "io_service_bytes_recursive": bytes,
        "io_serviced_recursive": null,
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}
