//! What a pull or push tells while it runs: enough for a terminal's bars and for
//! Docker's progress stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far one layer, or the whole, is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The layer, by the first 12 digits of its digest; `None` for the whole.
    pub layer: Option<String>,
    /// What is being done.
    pub status: Status,
    /// Bytes done; 0 where nothing is counted.
    pub current: u64,
    /// Bytes in all, if known.
    pub total: Option<u64>,
}

/// What is being done. [`Status::text`] is what Docker says for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The manifest is asked for: of which repository, by which tag or digest.
    Resolving(String, String),
    /// A layer is in the queue.
    Waiting,
    /// Bytes come.
    Downloading,
    /// All bytes are here and right.
    Downloaded,
    /// The layer is unpacked.
    Extracting,
    /// The layer is ready.
    Complete,
    /// The layer was there.
    Exists,
    /// A failure that is not the last word: after how long it is tried again, why.
    Retrying(Duration, String),
    /// Bytes go.
    Pushing,
    /// The registry has the layer now.
    Pushed,
    /// The registry had the layer.
    AlreadyThere,
    /// The registry took the layer from another of its repositories.
    Mounted(String),
    /// A line for the whole: a digest, an outcome.
    Note(String),
}

impl Status {
    /// As Docker words it.
    pub fn text(&self) -> String {
        match self {
            Status::Resolving(repository, _) => format!("Pulling from {repository}"),
            Status::Waiting => "Waiting".to_owned(),
            Status::Downloading => "Downloading".to_owned(),
            Status::Downloaded => "Download complete".to_owned(),
            Status::Extracting => "Extracting".to_owned(),
            Status::Complete => "Pull complete".to_owned(),
            Status::Exists => "Already exists".to_owned(),
            Status::Retrying(after, why) => {
                format!("Retrying in {} seconds: {why}", after.as_secs_f32().ceil())
            }
            Status::Pushing => "Pushing".to_owned(),
            Status::Pushed => "Pushed".to_owned(),
            Status::AlreadyThere => "Layer already exists".to_owned(),
            Status::Mounted(from) => format!("Mounted from {from}"),
            Status::Note(text) => text.clone(),
        }
    }
}

/// Takes events; called from several threads, must not block for long.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// A sink for who does not want to know.
pub fn silent() -> Sink {
    Arc::new(|_| {})
}

/// The pause between two counts of one layer.
const PAUSE: Duration = Duration::from_millis(100);

/// Tells of one layer, of counts not too often.
pub struct Reporter {
    sink: Sink,
    layer: Option<String>,
    last: Option<Instant>,
}

impl Reporter {
    /// For one layer, or for the whole.
    pub fn new(sink: &Sink, layer: Option<String>) -> Reporter {
        Reporter { sink: sink.clone(), layer, last: None }
    }

    /// Tells a change at once.
    pub fn tell(&self, status: Status) {
        (self.sink)(Event { layer: self.layer.clone(), status, current: 0, total: None });
    }

    /// Tells a count, unless the last one is fresh; the full count always.
    pub fn count(&mut self, status: Status, current: u64, total: Option<u64>) {
        let full = total == Some(current);
        if !full && self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.last = Some(Instant::now());
        (self.sink)(Event { layer: self.layer.clone(), status, current, total });
    }
}
