//! What the screen shows, and how it is got.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::Result;
use super::super::client::{Client, encode};
use crate::cgroup::{IoStats, Stats};
use crate::engine::handle::View;
use crate::manifest::scalar::Name;
use hyper::Method;

/// Lines of the chosen container's log that are asked for; the screen shows as many as
/// fit.
const TAIL: usize = 100;

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
    /// The way of what is said later.
    pub told: mpsc::UnboundedSender<String>,
    saying: mpsc::UnboundedReceiver<String>,
    chosen: Option<Name>,
    before: BTreeMap<Name, Stats>,
    measured: Instant,
}

impl Default for State {
    fn default() -> Self {
        let (told, saying) = mpsc::unbounded_channel();
        State {
            views: Vec::new(),
            uses: BTreeMap::new(),
            tail: Vec::new(),
            said: String::new(),
            told,
            saying,
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

    /// Looks at everything again.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn refresh(&mut self, client: &Client) -> Result<()> {
        self.views = client.get("/berth/containers").await?;
        let mut now = BTreeMap::new();
        for view in self.views.iter().filter(|view| view.pid > 0) {
            let path = format!("/berth/containers/{}/stats", encode(view.name.as_str()));
            // One that ends just now has none.
            if let Ok(stats) = client.get::<Stats>(&path).await {
                now.insert(view.name.clone(), stats);
            }
        }
        let passed = self.measured.elapsed();
        self.measured = Instant::now();
        self.uses = now
            .iter()
            .map(|(name, stats)| (name.clone(), used(self.before.get(name), stats, passed)))
            .collect();
        self.before = now;
        self.tail = match self.chosen() {
            Some(view) => tail(client, view).await.unwrap_or_default(),
            None => Vec::new(),
        };
        while let Ok(said) = self.saying.try_recv() {
            self.said = said;
        }
        Ok(())
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

async fn tail(client: &Client, view: &View) -> Result<Vec<(bool, String)>> {
    let path = format!(
        "/containers/{}/logs?stdout=1&stderr=1&framed=1&tail={TAIL}",
        encode(view.name.as_str())
    );
    let (_, body) = client.ask(Method::GET, &path).await?;
    Ok(lines(&body))
}

/// Takes the log's frames apart; what would move the cursor is left out.
fn lines(mut body: &[u8]) -> Vec<(bool, String)> {
    let mut lines = Vec::new();
    while let [stream, _, _, _, a, b, c, d, rest @ ..] = body {
        let len = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).min(rest.len());
        let (text, more) = rest.split_at(len);
        let text: String = String::from_utf8_lossy(text)
            .trim_end_matches(['\n', '\r'])
            .chars()
            .map(|c| if c == '\t' { ' ' } else { c })
            .filter(|c| !c.is_control())
            .collect();
        lines.push((*stream == 2, text));
        body = more;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_become_lines_that_do_no_harm() {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 4];
        body.extend_from_slice(b"a\x1bb\n");
        body.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 9]);
        body.extend_from_slice(b"cut");
        assert_eq!(lines(&body), [(false, "ab".to_owned()), (true, "cut".to_owned())]);
    }

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
