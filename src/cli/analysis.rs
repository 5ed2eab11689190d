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

/// Who is launched first so long after the kernel began is of no boot: Berth was started
/// by hand.
const LONGEST_BOOT: Duration = Duration::from_secs(600);
/// A boot is over when so long nothing was ordered and nothing became ready.
const PAUSE: Duration = Duration::from_secs(30);

/// Those that were launched in the boot, and targets: not what was declared afterwards, in
/// all the time that a machine runs.
fn of_boot(parts: &BTreeMap<Name, Part>) -> BTreeMap<Name, Part> {
    let mut launched: Vec<&Part> =
        parts.values().filter(|part| part.timing.incarnation > 0).collect();
    launched.sort_by_key(|part| part.timing.ordered);
    let mut end = None;
    for part in launched {
        let Timing { ordered, started, ready, .. } = part.timing;
        if end.is_some_and(|end| ordered > end + PAUSE) {
            break;
        }
        end = end.max(ready.or(started).or(Some(ordered)));
    }
    let is_of_it = |part: &Part| part.timing.incarnation == 0 || Some(part.timing.ordered) <= end;
    let of_it = parts.iter().filter(|(_, part)| is_of_it(part));
    of_it.map(|(name, part)| (name.clone(), part.clone())).collect()
}

/// From when times are counted: the kernel's start, or the first launch; and what that is.
fn origin(parts: &BTreeMap<Name, Part>) -> (Duration, &'static str) {
    let launched = parts.values().filter(|part| part.timing.incarnation > 0);
    match launched.map(|part| part.timing.ordered).min() {
        Some(first) if first > LONGEST_BOOT => (first, "the first launch"),
        _ => (Duration::ZERO, "the kernel's start"),
    }
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
        None => of_boot(&parts)
            .into_values()
            .filter(|part| part.timing.ready.is_some())
            .max_by_key(|part| part.timing.ready)
            .map(|part| part.name),
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
    let (from, what) = origin(parts);
    let mut text =
        format!("Behind @ stands how long after {what} it was ready, behind + how long it took.\n");
    let mut at = Some(end.clone());
    let mut depth = 0;
    while let Some(name) = at.take().filter(|_| depth <= parts.len()) {
        let Some(part) = parts.get(&name) else { break };
        let when = match ready(parts, &name, 0) {
            Some(at) => format!(" @{}", seconds(at.saturating_sub(from))),
            None => " is not ready".to_owned(),
        };
        let took = part.took().map(|took| format!(" +{}", seconds(took)));
        let branch = match depth {
            0 => String::new(),
            depth => format!("{}└─", "  ".repeat(depth - 1)),
        };
        text += &format!("{branch}{name}{when}{}\n", took.unwrap_or_default());
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
    print(&svg(&of_boot(&parts), &host))?;
    Ok(ExitCode::SUCCESS)
}

const ROW: usize = 20;
const LEFT: f64 = 20.0;
const TOP: usize = 60;

fn svg(parts: &BTreeMap<Name, Part>, host: &str) -> String {
    let mut rows: Vec<&Part> = parts.values().filter(|part| part.timing.incarnation > 0).collect();
    rows.sort_by_key(|part| (part.timing.ordered, part.name.clone()));
    let (from, what) = origin(parts);
    let end = rows
        .iter()
        .map(|part| part.timing.ready.or(part.timing.started).unwrap_or(part.timing.ordered))
        .max()
        .unwrap_or_default()
        .saturating_sub(from);
    let scale = 1000.0 / end.as_secs_f64().max(0.001);
    let x = |time: Duration| LEFT + time.as_secs_f64() * scale;
    let height = TOP + ROW * rows.len() + 40;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1400\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"20\" y=\"25\" font-size=\"16\">Boot of {}: {} containers, \
         ready {} after {what}</text>\n",
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
        let since = |time: Duration| time.saturating_sub(from);
        let Timing { ordered, started, ready, ended, .. } = part.timing;
        let (ordered, ready, ended) = (since(ordered), ready.map(since), ended.map(since));
        let started = started.map(since).or(ended).unwrap_or(end);
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
            "Behind @ stands how long after the kernel's start it was ready, behind + how long it \
             took.\nweb @3.500s +0.500s\n└─backends @3.000s\n  └─db @3.000s +2.000s\n"
        );
        let picture = svg(&of_boot(&parts), "a<b");
        let title = "a&lt;b: 3 containers, ready 3.500s after the kernel's start";
        assert!(picture.contains(title), "{picture}");
        assert_eq!(picture.matches("<svg").count(), 1);
    }

    #[test]
    fn what_comes_after_the_boot_is_not_of_it() {
        let hours = 3 * 3_600_000;
        let parts = BTreeMap::from([
            part("db", hours, hours + 40_000, &[]),
            part("web", hours + 50_000, hours + 51_000, &["db"]),
            part("later", hours + 90_000, hours + 91_000, &[]),
            part("all", 0, 0, &["web"]),
        ]);
        let names: Vec<String> = of_boot(&parts).into_keys().map(|name| name.to_string()).collect();
        assert_eq!(names, ["all", "db", "web"]);
        // Started by hand, long after the kernel.
        assert_eq!(origin(&parts), (Duration::from_millis(hours), "the first launch"));
        let chain = chain_text(&parts, &"web".parse().unwrap());
        assert!(chain.contains("web @51.000s +1.000s\n└─db @40.000s +40.000s"), "{chain}");
        let picture = svg(&of_boot(&parts), "host");
        assert!(
            picture.contains("2 containers, ready 51.000s after the first launch"),
            "{picture}"
        );
    }
}
