//! `/containers/{id}/logs`: Docker's stream of frames.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::body::Bytes;

use super::model::timestamp;
use super::respond::{Answer, failure, refused, stream};
use super::route::Query;
use crate::engine::handle::Handle;
use crate::logs::{Line, Query as LogQuery, Stream};

/// `1700000000`, `1700000000.000000001`, RFC 3339, or a duration back from now.
pub fn parse_time(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Some((seconds, nanos)) = text.split_once('.').or(Some((text, "0")))
        && let (Ok(seconds), true) =
            (seconds.parse::<u64>(), nanos.bytes().all(|b| b.is_ascii_digit()))
    {
        let padded: String = nanos.chars().chain(std::iter::repeat('0')).take(9).collect();
        return Ok(SystemTime::UNIX_EPOCH
            + Duration::new(seconds.min(i64::MAX as u64 / 4), padded.parse().unwrap_or(0)));
    }
    if let Ok(back) = humantime::parse_duration(text) {
        return Ok(now.checked_sub(back).unwrap_or(SystemTime::UNIX_EPOCH));
    }
    text.parse::<jiff::Timestamp>().map(SystemTime::from).map_err(|_| {
        format!("{text:?} is not a time: 2026-01-31T12:00:00Z, 10m or seconds since 1970")
    })
}

pub async fn logs(handle: &Handle, which: &str, query: &Query) -> Answer {
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    // Whoever asked for no log gets none, although Berth has one.
    let driver = super::create::kept_of_host(&view.manifest, "LogConfig");
    if driver.is_some_and(|log| log["Type"] == "none") {
        let message = "configured logging driver does not support reading";
        return failure(StatusCode::NOT_IMPLEMENTED, message);
    }
    let (stdout, stderr) = (query.is_on("stdout"), query.is_on("stderr"));
    if !stdout && !stderr {
        return failure(
            StatusCode::BAD_REQUEST,
            "Bad parameters: you must choose at least one stream",
        );
    }
    let now = SystemTime::now();
    let time =
        |key: &str| query.get(key).filter(|t| *t != "0").map(|t| parse_time(t, now)).transpose();
    let (since, until) = match (time("since"), time("until")) {
        (Ok(since), Ok(until)) => (since, until),
        (Err(message), _) | (_, Err(message)) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let follow = query.is_on("follow") && super::model::is_running(&view)
        || query.is_on("follow") && matches!(view.state.as_str(), "restarting" | "created");
    let wanted = LogQuery {
        follow,
        tail: query.get("tail").and_then(|tail| tail.parse().ok()),
        since,
        until,
        stdout,
        stderr,
    };
    let mut lines = handle.logs.read(&handle.paths.log_dir(&view.kept), wanted);
    // Our own command asks for frames in any case: by them it knows where lines end.
    let raw = view.manifest.tty && !query.is_on("framed");
    let with_time = query.is_on("timestamps");
    // There was one name for both before API 1.42.
    let kind = match raw || query.is_before((1, 42)) {
        true => "application/vnd.docker.raw-stream",
        false => "application/vnd.docker.multiplexed-stream",
    };
    stream(kind, move |pieces| async move {
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    if pieces.send(frame(&line, with_time, raw)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("reading the log of {}: {error}", view.name);
                    return;
                }
            }
        }
    })
}

/// A frame: stream, three zeros, length, then the line.
fn frame(line: &Line, with_time: bool, raw: bool) -> Bytes {
    let mut text = Vec::with_capacity(line.bytes.len() + 48);
    if !raw {
        text.extend_from_slice(&[0; 8]);
    }
    if with_time {
        text.extend_from_slice(timestamp(line.time).as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&line.bytes);
    if !raw {
        text[0] = if line.stream == Stream::Stderr { 2 } else { 1 };
        let len = u32::try_from(text.len() - 8).unwrap_or(u32::MAX);
        text[4..8].copy_from_slice(&len.to_be_bytes());
    }
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_many_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |text: &str| {
            parse_time(text, now).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap()
        };
        assert_eq!(at("12"), Duration::from_secs(12));
        assert_eq!(at("12.5"), Duration::from_millis(12_500));
        assert_eq!(at("10m"), Duration::from_secs(1_000_000 - 600));
        assert_eq!(at("1970-01-01T00:01:00Z"), Duration::from_secs(60));
        assert!(parse_time("yesterday", now).is_err());
    }
}
