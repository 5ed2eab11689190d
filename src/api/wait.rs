//! `/containers/{id}/wait`: until it ends, in all of Docker's conditions.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::json;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::containers::is_alive;
use super::respond::{Answer, failure, refused, stream};
use super::route::Query;
use crate::engine::handle::{Event, Handle, View};

pub async fn wait(handle: &Handle, which: &str, query: &Query) -> Answer {
    // Before the look at it: no end can fall between.
    let (_, mut events) = handle.events.subscribe(u64::MAX);
    let view = match handle.find(which).await {
        Ok(view) => view,
        Err(refusal) => return refused(refusal),
    };
    let condition = query.get("condition").unwrap_or("not-running").to_owned();
    if !matches!(condition.as_str(), "not-running" | "next-exit" | "removed") {
        return failure(StatusCode::BAD_REQUEST, &format!("invalid condition: {condition:?}"));
    }
    let handle = handle.clone();
    // The head goes out at once: a client starts the container only when it is
    // waited for.
    stream("application/json", move |pieces| async move {
        let (code, error) = match answered(&view, &condition) {
            Some(end) => {
                // Its end was told before this client came: there will be no other word.
                if view.ending.is_some() {
                    handle.wait_until(&view.id, |now| now.ended != view.ended).await;
                }
                end
            }
            None => match ends(&handle, &view, &condition, &mut events).await {
                Some(end) => end,
                None => return,
            },
        };
        let mut answer = json!({ "StatusCode": code });
        // Of a launch that failed the client of `start` is told.
        if let Some(error) = error.filter(|_| condition == "not-running") {
            answer["Error"] = json!({ "Message": error });
        }
        let _ = pieces.send(Bytes::from(format!("{answer}\n"))).await;
    })
}

/// How it ended, if it does not run: or if its payload has ended, and only what is left of
/// it has not.
fn has_ended(view: &View) -> Option<(i64, Option<String>)> {
    if let Some(code) = view.ending {
        return Some((i64::from(code), None));
    }
    let rests = !is_alive(view) && !view.is_awaited;
    rests.then(|| (i64::from(view.exit_code.unwrap_or(0)), view.error.clone()))
}

/// How it ended, for who asks for that by this condition and need not wait for a word of it.
fn answered(view: &View, condition: &str) -> Option<(i64, Option<String>)> {
    let waits = match condition {
        "not-running" => false,
        "next-exit" => view.ending.is_none(),
        _ => true,
    };
    has_ended(view).filter(|_| !waits)
}

/// Waits until a container has ended as the condition says: its exit status and what
/// kept it from running. None when Berth itself ends.
async fn ends(
    handle: &Handle,
    view: &View,
    condition: &str,
    events: &mut Receiver<Arc<Event>>,
) -> Option<(i64, Option<String>)> {
    let before = view.ending.or(view.exit_code).unwrap_or(0);
    let (mut code, mut error) = (i64::from(before), None);
    loop {
        let event = match events.recv().await {
            Ok(event) if event.id == view.id => event,
            Ok(_) => continue,
            // This client was too slow for some of them: it looks again.
            Err(RecvError::Lagged(_)) => match handle.find(&view.id).await {
                Ok(now) => {
                    if let Some(end) = answered(&now, condition) {
                        return Some(end);
                    }
                    if now.ended != view.ended {
                        (code, error) = (i64::from(now.exit_code.unwrap_or(0)), now.error);
                        if condition != "removed" {
                            return Some((code, error));
                        }
                    }
                    continue;
                }
                Err(_) => return Some((code, error)),
            },
            Err(RecvError::Closed) => return None,
        };
        match event.action.as_str() {
            "die" => {
                let said = event.attributes.get("exitCode");
                code = said.and_then(|code| code.parse().ok()).unwrap_or(code);
                error = event.attributes.get("error").cloned();
                if condition == "removed" {
                    continue;
                }
                // As with Docker's daemon one that will be started again has ended, too.
                // What is told of it next shows the end.
                let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(event.time);
                let told = |now: &View| now.pid == 0 || now.started.is_some_and(|s| s >= at);
                handle.wait_until(&view.id, told).await;
                return Some((code, error));
            }
            "destroy" => return Some((code, error)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::reconcile::Record;
    use crate::engine::view::{Declared, view};
    use crate::manifest::scalar::Name;

    #[test]
    fn who_comes_after_the_end_was_told_waits_for_no_word_of_it() {
        let record = Record::new("web".parse().unwrap(), "1".repeat(64), 0, String::new());
        let mut seen = view(&record, Declared::default(), Duration::ZERO, &Name::clone);
        assert_eq!(has_ended(&seen), Some((0, None)));
        seen.state = "running".to_owned();
        assert_eq!(has_ended(&seen), None);
        // Its payload has ended, what is left of it has not.
        seen.ending = Some(3);
        assert_eq!(has_ended(&seen), Some((3, None)));
        assert_eq!(answered(&seen, "next-exit"), Some((3, None)));
        assert_eq!(answered(&seen, "removed"), None);
        seen.ending = None;
        assert_eq!(answered(&seen, "next-exit"), None);
    }
}
