//! `status`: the machine on one screen.

use std::process::ExitCode;
use std::time::SystemTime;

use hyper::Method;

use super::args::Format;
use super::client::{Client, encode};
use super::{Result, print, printable};
use crate::engine::handle::View;

/// Lines of the log of one that failed.
const LINES: usize = 5;

/// What runs, what failed and why, since when, and the last lines of its log.
pub async fn status(client: &Client, names: &[String], format: Format) -> Result {
    let mut views: Vec<View> = client.get("/berth/containers").await?;
    if !names.is_empty() {
        for name in names {
            if !views.iter().any(|view| view.name.as_str() == name) {
                return Err(format!("there is no container {name}").into());
            }
        }
        views.retain(|view| names.iter().any(|name| view.name.as_str() == name));
    }
    let failed = views.iter().any(failed);
    if format == Format::Json {
        print(&format!("{}\n", serde_json::to_string_pretty(&views)?))?;
        return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let mut text = if names.is_empty() { head(&views) } else { String::new() };
    views.sort_by_key(|view| (rank(view), view.name.clone()));
    for view in &views {
        text += &one(view, SystemTime::now());
        if self::failed(view) || !names.is_empty() {
            for line in last_lines(client, view).await {
                text += &format!("      \x1b[2m{line}\x1b[0m\n");
            }
        }
    }
    print(&text)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn failed(view: &View) -> bool {
    view.outlook == "failed" || view.manifest_error.is_some()
}

/// What needs a person first.
fn rank(view: &View) -> u8 {
    match view.outlook.as_str() {
        _ if failed(view) => 0,
        "pending" => 1,
        "ready" => 2,
        _ => 3,
    }
}

fn head(views: &[View]) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let up = std::time::Duration::from_secs(rustix::system::sysinfo().uptime.unsigned_abs());
    let count = |outlook: &str| views.iter().filter(|view| view.outlook == outlook).count();
    let state = match (views.iter().any(failed), count("pending")) {
        (true, _) => "\x1b[31mdegraded\x1b[0m",
        (false, 0) => "\x1b[32mrunning\x1b[0m",
        (false, _) => "\x1b[33mstarting\x1b[0m",
    };
    format!(
        "{host}: {state}, up {}; {} ready, {} pending, {} failed, {} stopped\n",
        humantime::format_duration(up),
        count("ready"),
        count("pending"),
        views.iter().filter(|view| failed(view)).count(),
        count("stopped"),
    )
}

fn one(view: &View, now: SystemTime) -> String {
    let (colour, word) = match view.outlook.as_str() {
        _ if failed(view) => ("31", "failed"),
        "pending" => ("33", "pending"),
        "ready" if view.manifest.is_target() => ("32", "reached"),
        "ready" if view.pid > 0 => ("32", "runs"),
        "ready" if view.state == "exited" && view.manifest.is_timed() => ("32", "waits"),
        "ready" if view.state == "exited" => ("32", "done"),
        "ready" => ("32", "ready"),
        _ => ("0", "stopped"),
    };
    let since = if view.pid > 0 { view.started } else { view.finished };
    let since = since.and_then(|since| now.duration_since(since).ok()).map(|age| {
        let age = std::time::Duration::from_secs(age.as_secs());
        format!(", {} ago", humantime::format_duration(age))
    });
    let exit = match (view.pid, view.exit_code) {
        (0, Some(code)) if code != 0 => format!(", ended with {code}"),
        _ => String::new(),
    };
    let mut text = format!(
        "  \x1b[{colour}m{word:<8}\x1b[0m {}{}{exit}{}\n",
        view.name,
        if view.pid > 0 { format!(" (pid {})", view.pid) } else { String::new() },
        since.unwrap_or_default(),
    );
    let said = view.said.as_ref().map(|said| format!("says: {said}"));
    for note in [&view.manifest_error, &view.error, &view.detail, &said].into_iter().flatten() {
        text += &format!("      {note}\n");
    }
    text
}

/// The last lines that it printed; none where it printed nothing.
async fn last_lines(client: &Client, view: &View) -> Vec<String> {
    let path =
        format!("/containers/{}/logs?stdout=1&stderr=1&tail={LINES}", encode(view.name.as_str()));
    let Ok((_, body)) = client.ask(Method::GET, &path).await else { return Vec::new() };
    plain(&body, view.manifest.tty)
}

/// Docker's stream of frames (stream, three zeros, length, bytes) as lines.
fn plain(body: &[u8], tty: bool) -> Vec<String> {
    let mut bytes = Vec::new();
    let mut rest = body;
    while !tty && rest.len() >= 8 {
        let len = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        let Some(frame) = rest.get(8..8 + len) else { break };
        bytes.extend_from_slice(frame);
        rest = &rest[8 + len..];
    }
    let text = String::from_utf8_lossy(if tty { body } else { &bytes }).into_owned();
    text.lines().map(printable::plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_become_lines() {
        let body = b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x08two\x1b[0m\n";
        assert_eq!(plain(body, false), ["one", "two[0m"]);
        assert_eq!(plain(b"a\r\nb", true), ["a", "b"]);
        assert_eq!(plain(b"", false), Vec::<String>::new());
    }
}
