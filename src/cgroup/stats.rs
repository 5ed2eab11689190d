//! What a container uses now, in plain numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use serde::{Deserialize, Serialize};

use super::{Cgroup, Result};

/// A container's use of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Stats {
    /// Processor time in nanoseconds.
    pub cpu_total: u64,
    /// Of it in programs.
    pub cpu_user: u64,
    /// Of it in the kernel.
    pub cpu_system: u64,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Periods in which it ran out.
    pub throttled_periods: u64,
    /// How long it was held back, in nanoseconds.
    pub throttled: u64,
    /// Bytes of memory, page cache included.
    pub memory: u64,
    /// The most it ever was.
    pub memory_peak: u64,
    /// Its limit; none without one.
    pub memory_limit: Option<u64>,
    /// Bytes of page cache that can be dropped at once.
    pub memory_inactive_file: u64,
    /// Bytes of memory of its own.
    pub memory_anonymous: u64,
    /// Bytes in swap.
    pub swap: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Its limit; none without one.
    pub pids_limit: Option<u64>,
    /// Input and output by device, `major:minor`.
    pub io: BTreeMap<String, IoStats>,
}

/// Input and output of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct IoStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Cgroup {
    /// What it uses now. What this machine has no controller for stays 0.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        self.cpu_stats(&mut stats);
        self.memory_stats(&mut stats);
        if let Some(dir) = self.dir_of("pids").filter(|dir| dir.join("pids.current").exists()) {
            let controller = PidController::new(dir.clone(), dir.clone(), self.unified);
            stats.pids = controller.get_pid_current().unwrap_or(0);
            stats.pids_limit = limit(&dir.join("pids.max"));
        } else {
            stats.pids = self.procs().len() as u64;
        }
        self.io_stats(&mut stats);
        Ok(stats)
    }

    fn cpu_stats(&self, stats: &mut Stats) {
        let Some(dir) = self.dir_of("cpu") else {
            return;
        };
        let table = table(&dir.join("cpu.stat"));
        let get = |key: &str| table.get(key).copied().unwrap_or(0);
        stats.periods = get("nr_periods");
        stats.throttled_periods = get("nr_throttled");
        if self.unified {
            stats.cpu_total = get("usage_usec") * 1000;
            stats.cpu_user = get("user_usec") * 1000;
            stats.cpu_system = get("system_usec") * 1000;
            stats.throttled = get("throttled_usec") * 1000;
            return;
        }
        stats.throttled = get("throttled_time");
        if let Some(dir) = self.dir_of("cpuacct") {
            stats.cpu_total = number(&dir.join("cpuacct.usage"));
            stats.cpu_user = number(&dir.join("cpuacct.usage_user"));
            stats.cpu_system = number(&dir.join("cpuacct.usage_sys"));
        }
    }

    fn memory_stats(&self, stats: &mut Stats) {
        let Some(dir) = self.dir_of("memory") else {
            return;
        };
        let table = table(&dir.join("memory.stat"));
        let get = |key: &str| table.get(key).copied().unwrap_or(0);
        if self.unified {
            stats.memory = number(&dir.join("memory.current"));
            stats.memory_peak = number(&dir.join("memory.peak"));
            stats.swap = number(&dir.join("memory.swap.current"));
            stats.memory_limit = limit(&dir.join("memory.max"));
            stats.memory_anonymous = get("anon");
            stats.memory_inactive_file = get("inactive_file");
            return;
        }
        if !dir.is_dir() {
            return;
        }
        let memory = MemController::new(dir.clone(), dir.clone(), false).memory_stat();
        stats.memory = memory.usage_in_bytes;
        stats.memory_peak = memory.max_usage_in_bytes;
        // v1 says "no limit" as the highest number of pages.
        let unlimited = i64::MAX - 0xfff;
        stats.memory_limit = (memory.limit_in_bytes > 0 && memory.limit_in_bytes < unlimited)
            .then_some(memory.limit_in_bytes.unsigned_abs());
        stats.memory_anonymous = get("total_rss");
        stats.memory_inactive_file = get("total_inactive_file");
        stats.swap = get("total_swap");
    }

    fn io_stats(&self, stats: &mut Stats) {
        if self.unified {
            let Some(dir) = &self.v2 else { return };
            stats.io = parse_io_stat(&fs::read_to_string(dir.join("io.stat")).unwrap_or_default());
            return;
        }
        let Some(dir) = self.dir_of("blkio") else {
            return;
        };
        for (file, is_bytes) in
            [("blkio.throttle.io_service_bytes", true), ("blkio.throttle.io_serviced", false)]
        {
            for line in fs::read_to_string(dir.join(file)).unwrap_or_default().lines() {
                let mut words = line.split(' ');
                let (Some(device), Some(kind), Some(Ok(value))) =
                    (words.next(), words.next(), words.next().map(str::parse::<u64>))
                else {
                    continue;
                };
                let of = stats.io.entry(device.to_owned()).or_default();
                match (kind, is_bytes) {
                    ("Read", true) => of.read_bytes = value,
                    ("Write", true) => of.write_bytes = value,
                    ("Read", false) => of.reads = value,
                    ("Write", false) => of.writes = value,
                    _ => {}
                }
            }
        }
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …` (cgroup-v2, "io.stat").
fn parse_io_stat(text: &str) -> BTreeMap<String, IoStats> {
    text.lines()
        .filter_map(|line| {
            let (device, values) = line.split_once(' ')?;
            let mut of = IoStats::default();
            for (key, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
                let value = value.parse().unwrap_or(0);
                match key {
                    "rbytes" => of.read_bytes = value,
                    "wbytes" => of.write_bytes = value,
                    "rios" => of.reads = value,
                    "wios" => of.writes = value,
                    _ => {}
                }
            }
            Some((device.to_owned(), of))
        })
        .collect()
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn limit(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `key value` lines.
fn table(path: &Path) -> BTreeMap<String, u64> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn io_stat_is_read() {
        let io = parse_io_stat("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n259:1 \n");
        let expected = IoStats { read_bytes: 10, write_bytes: 20, reads: 1, writes: 2 };
        assert_eq!(io["8:0"], expected);
    }
}
