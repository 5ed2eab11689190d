//! `/events`: what happens, one JSON object a line.

use std::time::SystemTime;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::endpoints::docker_name;
use super::filters::{Filters, labelled};
use super::logs::parse_time;
use super::respond::{Answer, failure, stream as streamed};
use super::route::Query;
use crate::engine::handle::{Event, Handle};

/// The filters of the API; another one is an error.
const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub fn stream(handle: &Handle, query: &Query) -> Answer {
    let now = SystemTime::now();
    let time = |key: &str| query.get(key).map(|text| parse_time(text, now).map(nanos)).transpose();
    let filters = match query.filters_among(&FILTERS) {
        Ok(filters) => filters,
        Err(answer) => return *answer,
    };
    let (since, until) = match (time("since"), time("until")) {
        (Ok(since), Ok(until)) => (since, until),
        (Err(message), _) | (_, Err(message)) => {
            return failure(StatusCode::BAD_REQUEST, &message);
        }
    };
    if let (Some(from), Some(to)) = (since, until)
        && from > to
    {
        let [since, until] = ["since", "until"].map(|key| query.get(key).unwrap_or_default());
        let why = format!("`since` time ({since}) cannot be after `until` time ({until})");
        return failure(StatusCode::BAD_REQUEST, &why);
    }
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

/// Tells of something that a client did to an image, a network or a volume.
pub fn tell<const N: usize>(
    handle: &Handle,
    (kind, action): (&str, &str),
    (id, name): (&str, &str),
    attributes: [(&str, &str); N],
) {
    handle.events.publish(Event {
        time: nanos(SystemTime::now()),
        kind: kind.to_owned(),
        action: action.to_owned(),
        name: name.to_owned(),
        id: id.to_owned(),
        attributes: attributes
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    });
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn matches(event: &Event, filters: &Filters) -> bool {
    filters.iter().all(|(key, values)| {
        let fits = |value: &String| match key.as_str() {
            "container" | "network" | "volume" => {
                let is_of_kind = event.kind == *key;
                let is_name = match key.as_str() {
                    "network" => docker_name(&event.name) == value,
                    _ => event.name == *value,
                };
                is_of_kind && (is_name || event.id.starts_with(value))
            }
            // `health_status: healthy` also by its first word.
            "event" => event.action == *value || event.action.split(':').next() == Some(value),
            "type" => *value == event.kind,
            "label" => labelled(&event.attributes, value),
            "image" if event.kind == "image" => {
                event.name == *value
                    || event.id.starts_with(value)
                    || untagged(&event.name) == value
            }
            "image" => event
                .attributes
                .get("image")
                .is_some_and(|image| image == value || untagged(image) == value),
            "scope" => value == "local",
            "daemon" | "plugin" | "node" | "service" | "secret" | "config" => false,
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
    let name = match event.kind.as_str() {
        "network" => docker_name(&event.name),
        _ => &event.name,
    };
    // A volume's name is its id, and is told as that alone.
    if event.kind != "volume" {
        attributes.insert("name".to_owned(), name.to_owned());
    }
    let mut told = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": attributes},
        "scope": "local",
        "time": event.time / 1_000_000_000,
        "timeNano": event.time,
    });
    // From before there were types.
    if matches!(event.kind.as_str(), "container" | "image") {
        told["status"] = json!(event.action);
        told["id"] = json!(event.id);
    }
    if event.kind == "container" {
        told["from"] = json!(event.attributes.get("image").cloned().unwrap_or_default());
    }
    told
}

/// An image's name without its tag or digest; a registry may have a port.
fn untagged(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find(':').map_or(name, |colon| &name[..last + colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, id: &str, name: &str) -> Event {
        Event {
            time: 5_000_000_001,
            kind: kind.to_owned(),
            action: action.to_owned(),
            name: name.to_owned(),
            id: id.to_owned(),
            attributes: [("image".to_owned(), "base:1".to_owned())].into(),
        }
    }

    fn filters(of: &[(&str, &str)]) -> Filters {
        of.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect()
    }

    #[test]
    fn a_filter_means_things_of_its_own_kind() {
        let started = event("container", "start", "abc", "web");
        let made = event("volume", "create", "web", "web");
        for (key, value, of) in [
            ("container", "web", [true, false]),
            ("volume", "web", [false, true]),
            ("type", "volume", [false, true]),
            ("event", "start", [true, false]),
            ("network", "web", [false, false]),
            ("daemon", "x", [false, false]),
        ] {
            let filters = filters(&[(key, value)]);
            assert_eq!([matches(&started, &filters), matches(&made, &filters)], of, "{key}");
        }
        let pulled = event("image", "pull", "redis:7", "redis:7");
        for value in ["redis", "redis:7"] {
            assert!(matches(&pulled, &filters(&[("image", value)])));
        }
        assert!(matches(&started, &filters(&[("image", "base")])));
        assert!(!matches(&pulled, &filters(&[("image", "base")])));
    }

    #[test]
    fn old_fields_are_told_of_those_that_had_them() {
        let told = described(&event("container", "die", "abc", "web"));
        assert_eq!((&told["status"], &told["from"]), (&json!("die"), &json!("base:1")));
        assert!(described(&event("network", "create", "n", "n")).get("status").is_none());
        assert_eq!((&told["time"], &told["timeNano"]), (&json!(5), &json!(5_000_000_001_u64)));
    }
}
