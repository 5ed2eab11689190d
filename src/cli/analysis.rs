//! `blame`, `critical-chain`, `plot`: where the time of a boot went.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use super::client::Client;
use super::{Result, print};
use crate::engine::handle::View;
use crate::engine::reconcile::Timing;
use crate::manifest::scalar::Name;

/// One container's part of a boot.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    name: Name,
    timing: Timing,
    /// Those that it waited for.
    after: Vec<Name>,
}

impl Part {
    /// From the order to start it until it was ready.
    fn took(&self) -> Option<Duration> {
        Some(self.timing.ready?.saturating_sub(self.timing.ordered))
    }
}

async fn parts(client: &Client) -> Result<BTreeMap<Name, Part>> {
    let views: Vec<View> = client.get("/berth/containers").await?;
    Ok(views.into_iter().filter_map(part).map(|part| (part.name.clone(), part)).collect())
}

fn part(view: View) -> Option<Part> {
    let manifest = &view.manifest;
    let mut after: Vec<Name> = manifest.after.iter().chain(&manifest.requires).cloned().collect();
    if manifest.is_target() {
        after.extend(manifest.wants.iter().cloned());
    }
    let timing = match view.timing {
        Some(timing) => timing,
        // A target takes no time; it passes on that of others.
        None if manifest.is_target() => Timing::default(),
        None => return None,
    };
    Some(Part { name: view.name, timing, after })
}

fn seconds(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

/// The slowest first.
pub async fn blame(client: &Client) -> Result {
    print(&blame_text(&parts(client).await?))?;
    Ok(ExitCode::SUCCESS)
}

fn blame_text(parts: &BTreeMap<Name, Part>) -> String {
    let mut took: Vec<(Duration, &Name)> =
        parts.values().filter_map(|part| Some((part.took()?, &part.name))).collect();
    took.sort_by_key(|(took, name)| (std::cmp::Reverse(*took), (*name).clone()));
    let waits = parts.values().filter(|part| {
        part.timing.ready.is_none() && part.timing.ended.is_none() && part.timing.incarnation > 0
    });
    let mut text: String = took
        .iter()
        .filter(|(took, _)| !took.is_zero())
        .map(|(took, name)| format!("{:>10} {name}\n", seconds(*took)))
        .collect();
    for part in waits {
        text += &format!("{:>10} {}\n", "not ready", part.name);
    }
    text
}

pub async fn critical_chain(client: &Client, name: Option<String>) -> Result {
    let parts = parts(client).await?;
    let end = match name {
        Some(name) => {
            let name: Name = name.parse()?;
            if !parts.contains_key(&name) {
                return Err(format!("{name} was not started in this boot").into());
            }
            Some(name)
        }
        None => parts
            .values()
            .filter(|part| part.timing.ready.is_some())
            .max_by_key(|part| part.timing.ready)
            .map(|part| part.name.clone()),
    };
    let text = match end {
        Some(end) => chain_text(&parts, &end),
        None => "nothing is ready yet\n".to_owned(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// When a container was ready; a target when the last of its own was.
fn ready(parts: &BTreeMap<Name, Part>, name: &Name, depth: usize) -> Option<Duration> {
    let part = parts.get(name)?;
    if part.timing.incarnation > 0 || depth > parts.len() {
        return part.timing.ready;
    }
    part.after.iter().filter_map(|name| ready(parts, name, depth + 1)).max()
}

fn chain_text(parts: &BTreeMap<Name, Part>, end: &Name) -> String {
    let mut text = "Behind @ stands when it was ready, behind + how long it took.\n".to_owned();
    let mut at = Some(end.clone());
    let mut depth = 0;
    while let Some(name) = at.take().filter(|_| depth <= parts.len()) {
        let Some(part) = parts.get(&name) else { break };
        let when = ready(parts, &name, 0).map(|at| format!(" @{}", seconds(at)));
        let took = part.took().map(|took| format!(" +{}", seconds(took)));
        let branch = match depth {
            0 => String::new(),
            depth => format!("{}└─", "  ".repeat(depth - 1)),
        };
        text +=
            &format!("{branch}{name}{}{}\n", when.unwrap_or_default(), took.unwrap_or_default());
        // Whoever was ready last held it up; of those it did not wait for, none did.
        at = part
            .after
            .iter()
            .filter_map(|other| Some((ready(parts, other, 0)?, other)))
            .max()
            .map(|(_, other)| other.clone());
        depth += 1;
    }
    text
}

/// A picture as systemd-analyze(1) draws one: time to the right, a bar a container.
pub async fn plot(client: &Client) -> Result {
    let parts = parts(client).await?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // The kernel handed over when PID 1 began, if Berth is that.
    print(&svg(&parts, &host))?;
    Ok(ExitCode::SUCCESS)
}

const ROW: usize = 20;
const LEFT: f64 = 20.0;
const TOP: usize = 60;

fn svg(parts: &BTreeMap<Name, Part>, host: &str) -> String {
    let mut rows: Vec<&Part> = parts.values().filter(|part| part.timing.incarnation > 0).collect();
    rows.sort_by_key(|part| (part.timing.ordered, part.name.clone()));
    let end = rows
        .iter()
        .map(|part| part.timing.ready.or(part.timing.started).unwrap_or(part.timing.ordered))
        .max()
        .unwrap_or_default();
    let scale = 1000.0 / end.as_secs_f64().max(0.001);
    let x = |time: Duration| LEFT + time.as_secs_f64() * scale;
    let height = TOP + ROW * rows.len() + 40;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1400\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"20\" y=\"25\" font-size=\"16\">Boot of {}: {} containers, \
         ready after {}</text>\n",
        escape(host),
        rows.len(),
        seconds(end)
    );
    let step = [0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0]
        .into_iter()
        .find(|step| end.as_secs_f64() / step <= 25.0)
        .unwrap_or(3600.0);
    let mut at = 0.0;
    while at <= end.as_secs_f64() {
        let x = LEFT + at * scale;
        text += &format!(
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" fill=\"#888\">{at:.1}s</text>\n",
            height - 30,
            TOP - 8
        );
        at += step;
    }
    for (row, part) in rows.iter().enumerate() {
        let y = TOP + ROW * row;
        let Timing { ordered, started, ready, ended, .. } = part.timing;
        let started = started.or(ended).unwrap_or(end);
        let (until, colour) = match ready {
            Some(ready) => (ready.max(started), "#2a9d4b"),
            None => (ended.unwrap_or(end).max(started), "#c0392b"),
        };
        let bar = |from: Duration, to: Duration, colour: &str| {
            let width = (x(to) - x(from)).max(1.0);
            format!(
                "<rect x=\"{:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>",
                x(from),
                ROW - 4
            )
        };
        let took = part.took().map(|took| format!(" ({})", seconds(took))).unwrap_or_default();
        text += &format!(
            "{}{}<text x=\"{:.1}\" y=\"{}\">{}{took}</text>\n",
            bar(ordered, started, "#b0c4de"),
            bar(started, until, colour),
            x(until) + 6.0,
            y + 13,
            escape(part.name.as_str())
        );
    }
    text += &format!(
        "<text x=\"20\" y=\"{}\" fill=\"#888\">blue: being launched; green: running, not ready \
         yet; red: never ready</text>\n</svg>\n",
        height - 10
    );
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, ordered: u64, ready: u64, after: &[&str]) -> (Name, Part) {
        let name: Name = name.parse().unwrap();
        let timing = Timing {
            incarnation: u64::from(ready > 0),
            ordered: Duration::from_millis(ordered),
            started: Some(Duration::from_millis(ordered + 1)),
            ready: (ready > 0).then(|| Duration::from_millis(ready)),
            ended: None,
        };
        let after = after.iter().map(|name| name.parse().unwrap()).collect();
        (name.clone(), Part { name, timing, after })
    }

    #[test]
    fn the_slowest_comes_first_and_the_chain_is_followed() {
        let parts = BTreeMap::from([
            part("db", 1000, 3000, &[]),
            part("cache", 1000, 1100, &[]),
            part("backends", 0, 0, &["db", "cache"]),
            part("web", 3000, 3500, &["backends"]),
        ]);
        assert_eq!(blame_text(&parts), "    2.000s db\n    0.500s web\n    0.100s cache\n");
        assert_eq!(
            chain_text(&parts, &"web".parse().unwrap()),
            "Behind @ stands when it was ready, behind + how long it took.\n\
             web @3.500s +0.500s\n└─backends @3.000s\n  └─db @3.000s +2.000s\n"
        );
        let picture = svg(&parts, "a<b");
        assert!(picture.contains("a&lt;b: 3 containers, ready after 3.500s"), "{picture}");
        assert_eq!(picture.matches("<svg").count(), 1);
    }
}
