//! Docker's stream of progress, an object a line: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::cli::printable::plain;
use crate::cli::{Failure, Result, complain, print};

/// Shows what a stream says.
pub struct Shown {
    quiet: bool,
    /// On a terminal: a bar for each layer.
    bars: Option<(MultiProgress, HashMap<String, ProgressBar>)>,
    /// Elsewhere: the last words about each layer, which are not said twice.
    said: HashMap<String, String>,
    /// Whether the words go to standard error, as standard output is for a result.
    aside: bool,
    /// How many events came.
    events: u64,
}

/// How a stream ended.
#[derive(Debug)]
pub enum Ended {
    /// As it should.
    Well,
    /// The engine died: what is safe to repeat can be.
    Broken(String),
}

impl Shown {
    /// On standard output, with bars if that is a terminal; `quiet`: only failures.
    pub fn new(quiet: bool) -> Shown {
        let bars = !quiet && std::io::stdout().is_terminal();
        let target = ProgressDrawTarget::stdout_with_hz(12);
        Shown {
            quiet,
            bars: bars.then(|| (MultiProgress::with_draw_target(target), HashMap::new())),
            said: HashMap::new(),
            aside: false,
            events: 0,
        }
    }

    /// On standard error.
    pub fn aside() -> Shown {
        let bars = std::io::stderr().is_terminal();
        let target = ProgressDrawTarget::stderr_with_hz(12);
        Shown {
            quiet: false,
            bars: bars.then(|| (MultiProgress::with_draw_target(target), HashMap::new())),
            said: HashMap::new(),
            aside: true,
            events: 0,
        }
    }

    fn line(&self, text: &str) -> Result<()> {
        match &self.bars {
            Some((all, _)) => Ok(all.println(text)?),
            None if self.aside => {
                complain(text);
                Ok(())
            }
            None => print(&format!("{text}\n")),
        }
    }

    /// How many events came until now: more of them are progress.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn show(&mut self, event: &Value) -> Result<()> {
        self.events += 1;
        if self.quiet {
            return Ok(());
        }
        let text = plain(event["status"].as_str().or(event["stream"].as_str()).unwrap_or_default());
        // Of the whole, whatever its `id` says.
        let id = event["id"].as_str().filter(|_| !text.starts_with("Pulling from "));
        let Some(id) = id.map(plain) else {
            return if text.is_empty() { Ok(()) } else { self.line(&text) };
        };
        let current = event["progressDetail"]["current"].as_u64();
        let total = event["progressDetail"]["total"].as_u64().filter(|total| *total > 0);
        match &mut self.bars {
            Some((all, bars)) => {
                let bar = bars.entry(id.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(0));
                    bar.set_prefix(id.clone());
                    bar
                });
                bar.set_style(style(current.is_some() && total.is_some()));
                bar.set_message(text.clone());
                if let Some(total) = total {
                    bar.set_length(total);
                }
                if let Some(current) = current {
                    bar.set_position(current);
                }
                if is_last(&text) {
                    bar.finish();
                } else {
                    bar.enable_steady_tick(Duration::from_millis(250));
                }
            }
            None => {
                // Counts are for eyes that watch.
                if self.said.get(&id) != Some(&text) {
                    self.line(&format!("{id}: {text}"))?;
                    self.said.insert(id, text);
                }
            }
        }
        Ok(())
    }
}

fn is_last(text: &str) -> bool {
    matches!(text, "Pull complete" | "Already exists" | "Pushed" | "Layer already exists")
        || text.starts_with("Mounted from")
}

fn style(counts: bool) -> ProgressStyle {
    let template = match counts {
        true => "{prefix}: {msg:<17} [{bar:40}] {bytes}/{total_bytes}",
        false => "{prefix}: {msg}",
    };
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Shows a stream to its end.
///
/// # Errors
/// What the stream says that failed.
pub async fn follow(mut body: Incoming, shown: &mut Shown) -> Result<Ended> {
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let rest = buffer.split_off(end + 1);
            let line = std::mem::replace(&mut buffer, rest);
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let event: Value = serde_json::from_slice(line)?;
            if let Some(error) = event["error"].as_str() {
                return Err(Failure(error.to_owned()));
            }
            shown.show(&event)?;
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
            Some(Err(error)) => return Ok(Ended::Broken(error.to_string())),
            None => return Ok(Ended::Well),
        }
    }
}
