//! `/events`: what happens, one JSON object a line.

use std::time::SystemTime;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::filters::{Filters, labelled};
use super::logs::parse_time;
use super::respond::{Answer, failure, stream as streamed};
use super::route::Query;
use crate::engine::handle::{Event, Handle};

pub fn stream(handle: &Handle, query: &Query) -> Answer {
    let now = SystemTime::now();
    let nanos = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    };
    let time = |key: &str| query.get(key).map(|text| parse_time(text, now).map(nanos)).transpose();
    let (since, until, filters) = match (time("since"), time("until"), query.filters()) {
        (Ok(since), Ok(until), Ok(filters)) => (since, until, filters),
        (Err(message), _, _) | (_, Err(message), _) | (_, _, Err(message)) => {
            return failure(StatusCode::BAD_REQUEST, &message);
        }
    };
    let (past, mut coming) = handle.events.subscribe(since.unwrap_or(u64::MAX));
    let hides_secrets = handle.hides_secrets;
    streamed("application/json", move |pieces| async move {
        let say = async |event: &Event| {
            let fits = matches(event, &filters) && until.is_none_or(|until| event.time <= until);
            let mut told = described(event);
            if hides_secrets && event.action == "manifest_error" {
                // It shows lines of the file.
                told["Actor"]["Attributes"]["error"] = json!("hidden");
            }
            !fits || pieces.send(Bytes::from(format!("{told}\n"))).await.is_ok()
        };
        for event in past {
            if !say(&event).await {
                return;
            }
        }
        let end = async {
            match until.map(|until| until.saturating_sub(nanos(SystemTime::now()))) {
                Some(left) => tokio::time::sleep(std::time::Duration::from_nanos(left)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            tokio::select! {
                event = coming.recv() => match event {
                    Ok(event) => if !say(&event).await { return },
                    // This client was too slow for some of them.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                () = &mut end => return,
            }
        }
    })
}

fn matches(event: &Event, filters: &Filters) -> bool {
    filters.iter().all(|(key, values)| {
        let fits = |value: &String| match key.as_str() {
            "container" => event.name == *value || event.id.starts_with(value),
            // `health_status: healthy` also by its first word.
            "event" => event.action == *value || event.action.split(':').next() == Some(value),
            "type" => value == "container",
            "label" => labelled(&event.attributes, value),
            "image" => event
                .attributes
                .get("image")
                .is_some_and(|image| image == value || image.split(':').next() == Some(value)),
            "volume" | "network" | "daemon" | "plugin" | "node" | "service" | "secret"
            | "config" => false,
            _ => true,
        };
        // Labels must all be there; of the others one is enough, as with Docker.
        match key.as_str() {
            _ if values.is_empty() => true,
            "label" => values.iter().all(fits),
            _ => values.iter().any(fits),
        }
    })
}

fn described(event: &Event) -> Value {
    let mut attributes = event.attributes.clone();
    attributes.insert("name".to_owned(), event.name.clone());
    json!({
        "status": event.action,
        "id": event.id,
        "from": event.attributes.get("image").cloned().unwrap_or_default(),
        "Type": "container",
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "scope": "local",
        "time": event.time / 1_000_000_000,
        "timeNano": event.time,
    })
}
