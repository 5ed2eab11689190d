//! What happened, for all who listen, and for a while for those who come later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

/// Something that happened, in the words of Docker's `/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// `container`, `image`, `network` or `volume`.
    pub kind: String,
    /// Docker's word for it; `reload` and `manifest_error` are of our own.
    pub action: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `exitCode`, `signal`, `error`, …
    pub attributes: BTreeMap<String, String>,
}

/// How many events are kept for those who ask for the past.
const KEPT_EVENTS: usize = 1024;
/// How long what one says may be, and all labels together: labels and commands are of
/// clients, and each event is sent to all who listen.
const ATTRIBUTE: usize = 4 << 10;
const LABELS: usize = 32 << 10;

/// The labels that an event can tell: without what is too much. What the event says itself
/// comes after this, so that it is never left out.
pub(super) fn bounded(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut left = LABELS;
    let fits = |(key, value): &(String, String)| {
        let len = key.len() + value.len();
        let fits = len <= ATTRIBUTE.min(left);
        left -= if fits { len } else { 0 };
        fits
    };
    labels.into_iter().filter(fits).collect()
}

/// Events that were, and a way to get those that come.
#[derive(Debug, Clone)]
pub struct Events {
    past: Arc<Mutex<VecDeque<Arc<Event>>>>,
    sender: broadcast::Sender<Arc<Event>>,
    /// Counts the changes of any container, also those that are no event.
    changes: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            past: Arc::default(),
            sender: broadcast::channel(KEPT_EVENTS).0,
            changes: watch::channel(0).0,
        }
    }
}

impl Events {
    /// Tells everyone.
    pub fn publish(&self, event: Event) {
        let mut event = event;
        for text in event.attributes.values_mut().chain([&mut event.action]) {
            text.truncate(text.floor_char_boundary(ATTRIBUTE));
        }
        let event = Arc::new(event);
        if let Ok(mut past) = self.past.lock() {
            if past.len() >= KEPT_EVENTS {
                past.pop_front();
            }
            past.push_back(Arc::clone(&event));
        }
        // Nobody listens: nothing to do.
        let _ = self.sender.send(event);
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// To wait for changes of any container.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Some container is not as it was.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Events from now on. Those since `since` (nanoseconds since 1970) come with
    /// it, as far as they are kept.
    pub fn subscribe(&self, since: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        // The lock is held over both, so that no event falls between.
        let past = self.past.lock();
        let receiver = self.sender.subscribe();
        let past = past.map(|past| past.iter().filter(|e| e.time >= since).cloned().collect());
        (past.unwrap_or_default(), receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_it_is_of_beside_any_labels() {
        let labels = (0..20).map(|n| (format!("aa{n}"), "x".repeat(3000)));
        let labels = labels.chain([("long".to_owned(), "x".repeat(ATTRIBUTE))]);
        let mut attributes = bounded(labels.collect());
        assert!((5..20).contains(&attributes.len()), "{}", attributes.len());
        attributes.insert("exitCode".to_owned(), "3".to_owned());
        attributes.insert("error".to_owned(), "\u{e4}".repeat(ATTRIBUTE));
        let events = Events::default();
        let (kind, action) = ("container".to_owned(), "die".to_owned());
        let (name, id) = ("web".to_owned(), "ab".to_owned());
        events.publish(Event { time: 1, kind, action, name, id, attributes });
        let (past, _) = events.subscribe(0);
        assert_eq!(past[0].attributes["exitCode"], "3");
        assert_eq!(past[0].attributes["error"].len(), ATTRIBUTE);
    }
}
