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
        let rests = !is_alive(&view) && !view.is_awaited;
        let (code, error) = match condition == "not-running" && rests {
            true => (i64::from(view.exit_code.unwrap_or(0)), view.error.clone()),
            false => match ends(&handle, &view, &condition, &mut events).await {
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

/// Waits until a container has ended as the condition says: its exit status and what
/// kept it from running. None when Berth itself ends.
async fn ends(
    handle: &Handle,
    view: &View,
    condition: &str,
    events: &mut Receiver<Arc<Event>>,
) -> Option<(i64, Option<String>)> {
    let (mut code, mut error) = (i64::from(view.exit_code.unwrap_or(0)), None);
    loop {
        let event = match events.recv().await {
            Ok(event) if event.id == view.id => event,
            Ok(_) => continue,
            // This client was too slow for some of them: it looks again.
            Err(RecvError::Lagged(_)) => match handle.find(&view.id).await {
                Ok(now) if condition == "not-running" && !is_alive(&now) => {
                    return Some((i64::from(now.exit_code.unwrap_or(0)), now.error));
                }
                Ok(_) => continue,
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
