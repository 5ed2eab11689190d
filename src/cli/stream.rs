//! `logs` and `events`: what goes on, and goes on over the death of the engine.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::Value;

use super::args::{Format, Logs};
use super::client::{Client, encode, message};
use super::{Failure, Result, print};

/// Reads a body in whole pieces of which `next` gives the length.
struct Pieces {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Pieces {
    fn new(body: Incoming) -> Self {
        Pieces { body, buffer: Vec::new() }
    }

    /// The next piece. `Ok(None)` at the end; an error when the connection broke.
    async fn next(&mut self, len: impl Fn(&[u8]) -> Option<usize>) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(len) = len(&self.buffer).filter(|len| *len <= self.buffer.len()) {
                let rest = self.buffer.split_off(len);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Failure(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

fn frame_len(buffer: &[u8]) -> Option<usize> {
    let head: [u8; 4] = buffer.get(4..8)?.try_into().ok()?;
    Some(8 + u32::from_be_bytes(head) as usize)
}

fn line_len(buffer: &[u8]) -> Option<usize> {
    buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

pub async fn logs(client: &Client, args: &Logs) -> Result {
    let both = !args.stdout && !args.stderr;
    let mut since = args.since.clone();
    let mut tail = args.tail.clone();
    // Lines already printed that have the time from which it goes on.
    let mut seen: Option<(String, usize)> = None;
    loop {
        let mut query = format!(
            "framed=1&timestamps=1&follow={}&stdout={}&stderr={}",
            u8::from(args.follow),
            u8::from(both || args.stdout),
            u8::from(both || args.stderr)
        );
        for (key, value) in [("tail", &tail), ("since", &since), ("until", &args.until)] {
            if let Some(value) = value {
                query += &format!("&{key}={}", encode(value));
            }
        }
        let path = format!("/containers/{}/logs?{query}", encode(&args.name));
        let answer = client.request(Method::GET, &path).await?;
        if !answer.status().is_success() {
            let body = answer.into_body().collect().await?.to_bytes();
            return Err(Failure(message(&body)));
        }
        let mut skip = seen.clone();
        let mut pieces = Pieces::new(answer.into_body());
        let broken = loop {
            match pieces.next(frame_len).await {
                Ok(Some(frame)) => {
                    let time = frame[8..].split(|byte| *byte == b' ').next().unwrap_or_default();
                    let time = String::from_utf8_lossy(time).into_owned();
                    if let Some((same, count)) = &mut skip
                        && *same == time
                        && *count > 0
                    {
                        *count -= 1;
                        continue;
                    }
                    show(&frame, time.len() + 1, args.timestamps)?;
                    seen = match seen {
                        Some((same, count)) if same == time => Some((same, count + 1)),
                        _ => Some((time, 1)),
                    };
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if !broken {
            return Ok(ExitCode::SUCCESS);
        }
        // The engine died: on from the last line.
        if let Some((time, _)) = &seen {
            since = Some(time.clone());
            tail = None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn show(frame: &[u8], time_len: usize, with_time: bool) -> Result<()> {
    let text = &frame[8..];
    let text = if with_time { text } else { text.get(time_len..).unwrap_or_default() };
    let written = match frame[0] {
        2 => std::io::stderr().lock().write_all(text),
        _ => {
            let mut out = std::io::stdout().lock();
            out.write_all(text).and_then(|()| out.flush())
        }
    };
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

pub async fn events(
    client: &Client,
    follow: bool,
    since: Option<String>,
    format: Format,
) -> Result {
    // Without a beginning, and without an end: all that is remembered.
    let mut since = since.unwrap_or_else(|| if follow { now() } else { "1".to_owned() });
    let mut last = 0u64;
    loop {
        let mut path = format!("/events?since={}", encode(&since));
        if !follow {
            path += &format!("&until={}", encode(&now()));
        }
        let answer = client.request(Method::GET, &path).await?;
        if !answer.status().is_success() {
            let body = answer.into_body().collect().await?.to_bytes();
            return Err(Failure(message(&body)));
        }
        let mut pieces = Pieces::new(answer.into_body());
        loop {
            match pieces.next(line_len).await {
                Ok(Some(line)) => {
                    let event: Value = serde_json::from_slice(&line)?;
                    let time = event["timeNano"].as_u64().unwrap_or(0);
                    if time <= last {
                        continue;
                    }
                    last = time;
                    since = format!("{}.{:09}", time / 1_000_000_000, time % 1_000_000_000);
                    print(&described(&event, format))?;
                }
                Ok(None) if !follow => return Ok(ExitCode::SUCCESS),
                Ok(None) | Err(_) => break,
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.map_or_else(
        |_| "0".to_owned(),
        |now| format!("{}.{:09}", now.as_secs(), now.subsec_nanos()),
    )
}

fn described(event: &Value, format: Format) -> String {
    if format == Format::Json {
        return format!("{event}\n");
    }
    let nanos = event["timeNano"].as_i64().unwrap_or(0);
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .map_or_else(|_| String::new(), |time| format!("{time:.3}"));
    let attributes = event["Actor"]["Attributes"].as_object();
    let others: Vec<String> = attributes
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "name")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let name = event["Actor"]["Attributes"]["name"].as_str().unwrap_or_default();
    let action = event["Action"].as_str().unwrap_or_default();
    format!("{time}  {name}  {action}  {}", others.join(" ")).trim_end().to_owned() + "\n"
}
