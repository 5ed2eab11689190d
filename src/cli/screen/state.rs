//! What the screen shows. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::look::Seen;
use crate::cgroup::{IoStats, Stats};
use crate::engine::handle::View;
use crate::manifest::scalar::Name;

/// What a container uses, and how fast.
#[derive(Debug, Clone, Default)]
pub struct Use {
    /// Percent of one processor.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
    /// Bytes a second.
    pub read: f64,
    /// Bytes a second.
    pub written: f64,
    /// Processes and threads.
    pub pids: u64,
}

/// All that is shown.
#[derive(Debug)]
pub struct State {
    /// The containers, by name.
    pub views: Vec<View>,
    /// What those that run use.
    pub uses: BTreeMap<Name, Use>,
    /// The last lines of the chosen one; true for standard error.
    pub tail: Vec<(bool, String)>,
    /// What was said last.
    pub said: String,
    /// The engine is late with what there is now.
    pub is_stale: bool,
    chosen: Option<Name>,
    before: BTreeMap<Name, Stats>,
    measured: Instant,
}

impl Default for State {
    fn default() -> Self {
        State {
            views: Vec::new(),
            uses: BTreeMap::new(),
            tail: Vec::new(),
            said: String::new(),
            is_stale: false,
            chosen: None,
            before: BTreeMap::new(),
            measured: Instant::now(),
        }
    }
}

impl State {
    /// The chosen container.
    pub fn chosen(&self) -> Option<&View> {
        self.views.get(self.place())
    }

    /// Its place in the list.
    pub fn place(&self) -> usize {
        let chosen = self.chosen.as_ref();
        self.views.iter().position(|view| Some(&view.name) == chosen).unwrap_or(0)
    }

    /// Chooses another one, so many places on.
    pub fn choose(&mut self, by: isize) {
        let last = self.views.len().saturating_sub(1);
        let place = self.place().saturating_add_signed(by).min(last);
        self.chosen = self.views.get(place).map(|view| view.name.clone());
        self.tail.clear();
    }

    /// Takes over what was seen.
    pub fn see(&mut self, seen: Seen) {
        let passed = seen.measured.duration_since(self.measured);
        let used = |(name, stats): (&Name, &Stats)| {
            (name.clone(), used(self.before.get(name), stats, passed))
        };
        self.uses = seen.stats.iter().map(used).collect();
        (self.views, self.before, self.measured) = (seen.views, seen.stats, seen.measured);
        // Another one may be chosen since.
        if self.chosen().map(|view| &view.name) == seen.chosen.as_ref() {
            self.tail = seen.tail;
        }
    }
}

fn used(before: Option<&Stats>, now: &Stats, passed: Duration) -> Use {
    let seconds = passed.as_secs_f64().max(0.001);
    let before = before.unwrap_or(now);
    let sum = |stats: &Stats, of: fn(&IoStats) -> u64| stats.io.values().map(of).sum::<u64>();
    let rate =
        |of: fn(&IoStats) -> u64| sum(now, of).saturating_sub(sum(before, of)) as f64 / seconds;
    Use {
        cpu: now.cpu_total.saturating_sub(before.cpu_total) as f64 / seconds / 1e7,
        memory: now.memory,
        read: rate(|io| io.read_bytes),
        written: rate(|io| io.write_bytes),
        pids: now.pids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_two_looks() {
        let one = Stats { cpu_total: 1_000_000_000, ..Stats::default() };
        let two = Stats { cpu_total: 1_500_000_000, memory: 7, ..Stats::default() };
        assert!(used(None, &one, Duration::from_secs(1)).cpu.abs() < 0.001);
        let used = used(Some(&one), &two, Duration::from_secs(1));
        assert!((used.cpu - 50.0).abs() < 0.001, "{used:?}");
        assert_eq!(used.memory, 7);
    }
}
