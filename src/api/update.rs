//! `POST /containers/{id}/update`: other limits, and another restart policy. What the
//! system refuses is taken back, so that it does not stand in the way of the next start.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard_stubs::models::{HostConfig, RestartPolicy, RestartPolicyNameEnum};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::respond::{Answer, json as as_json, refused};
use super::settled::{Unsettled, settled};
use super::{body, create, loose};
use crate::engine::handle::{Handle, Refusal, View};
use crate::manifest::model::Container;
use crate::sys::process::processors;

pub async fn update(handle: &Handle, which: &str, body: Incoming) -> Answer {
    let said: Value = match body::read(body).await {
        Ok(said) => said,
        Err(answer) => return *answer,
    };
    let (handle, which) = (handle.clone(), which.to_owned());
    // It goes on when its client goes away: what is refused is taken back then, too.
    let updating = tokio::task::spawn_local(async move { try_update(&handle, &which, said).await });
    match updating.await.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string()))) {
        Ok(()) => as_json(&json!({ "Warnings": [] })),
        Err(refusal) => refused(refusal),
    }
}

async fn try_update(handle: &Handle, which: &str, mut said: Value) -> Result<(), Refusal> {
    loose::rename::<HostConfig>(&mut said);
    create::known_policy(&said).map_err(Refusal::Invalid)?;
    let asked: HostConfig = serde_json::from_value(said.clone())
        .map_err(|error| Refusal::Invalid(format!("invalid JSON: {error}")))?;
    let view = handle.find(which).await?;
    let (tell, before) = std::sync::mpsc::channel();
    let edit = move |manifest: &Container| {
        let _ = tell.send(manifest.clone());
        let mut manifest = manifest.clone();
        create::resources(&asked, &mut manifest, processors()).map_err(Refusal::Invalid)?;
        // Docker's command sends an empty one where nothing is said of it.
        let says = |policy: &RestartPolicy| {
            policy.name.is_some_and(|name| name != RestartPolicyNameEnum::EMPTY)
        };
        if asked.restart_policy.as_ref().is_some_and(says) {
            if manifest.auto_remove {
                return Err(Refusal::Conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the \
                     container"
                        .to_owned(),
                ));
            }
            manifest.restart.policy =
                create::policy(asked.restart_policy).map_err(Refusal::Invalid)?;
        }
        create::updated(&said, &mut manifest);
        Ok(manifest)
    };
    let after = handle.change(view.which(), edit).await?;
    let before = before.try_recv().map_err(|error| Refusal::Failed(error.to_string()))?;
    let change = Change { before: value(&before)?, after: value(&after)? };
    let is_so = change.comes_about(handle, &view).await;
    if let Err(Unsettled::Refused(_)) = &is_so {
        change.undo(handle, &view).await;
    }
    is_so.map_err(Refusal::from)
}

/// A manifest before an update, and after it, as JSON.
struct Change {
    before: Value,
    after: Value,
}

impl Change {
    /// Waits until what was asked for holds, or another client has asked for something
    /// else since.
    async fn comes_about(&self, handle: &Handle, view: &View) -> Result<(), Unsettled> {
        let mut seen = view.manifest.clone();
        loop {
            let mut now = seen.clone();
            let moved = |view: &View| {
                now.clone_from(&view.manifest);
                now != seen || self.holds_in(&now)
            };
            let is_so = settled(handle, view, "the change", moved).await;
            match is_so {
                Err(Unsettled::Refused(_)) => return is_so,
                _ if self.holds_in(&now) || !self.is_wanted(handle, view).await => return Ok(()),
                // It rests, or was waited for long enough.
                _ if now == seen => return is_so,
                _ => seen = now,
            }
        }
    }

    fn holds_in(&self, now: &Container) -> bool {
        value(now).is_ok_and(|now| holds([&now, &self.after, &self.before]))
    }

    /// Whether it still holds in what is written down.
    async fn is_wanted(&self, handle: &Handle, view: &View) -> bool {
        let (tell, written) = std::sync::mpsc::channel();
        let look = move |manifest: &Container| {
            let _ = tell.send(manifest.clone());
            Err(Refusal::AlreadySo)
        };
        let _ = handle.change(view.which(), look).await;
        written.try_recv().is_ok_and(|written| self.holds_in(&written))
    }

    /// Takes back what it changed, but for what another client has changed since.
    async fn undo(self, handle: &Handle, view: &View) {
        let edit = move |now: &Container| {
            let back = undone([&value(now)?, &self.after, &self.before]);
            let back: Container = serde_json::from_value(back)
                .map_err(|error| Refusal::Failed(format!("undoing an update: {error}")))?;
            if back == *now { Err(Refusal::AlreadySo) } else { Ok(back) }
        };
        if let Ok(was) = handle.change(view.which(), edit).await {
            let is_back = |view: &View| view.manifest == was && view.error.is_none();
            let back = handle.wait_until(&view.id, is_back);
            let _ = tokio::time::timeout(Duration::from_secs(2), back).await;
        }
    }
}

fn value(manifest: &Container) -> Result<Value, Refusal> {
    serde_json::to_value(manifest).map_err(|error| Refusal::Failed(error.to_string()))
}

/// The keys of three versions of a table, with what each has there; none of what is no
/// table.
fn parts(versions: [&Value; 3]) -> Option<Vec<(&str, [&Value; 3])>> {
    let is_table = |value: &&Value| value.is_object() || value.is_null();
    if !versions.iter().all(is_table) || versions.iter().all(|value| value.is_null()) {
        return None;
    }
    let tables = versions.into_iter().filter_map(Value::as_object);
    let keys: BTreeSet<&str> = tables.flat_map(Map::keys).map(String::as_str).collect();
    let parts = keys
        .into_iter()
        .map(|key| (key, versions.map(|version| version.get(key).unwrap_or(&Value::Null))));
    Some(parts.collect())
}

/// Whether all that was changed is in what is now.
fn holds(versions: [&Value; 3]) -> bool {
    let [now, after, before] = versions;
    match parts(versions) {
        Some(parts) => parts.into_iter().all(|(_, versions)| holds(versions)),
        None => after == before || now == after,
    }
}

/// What is now, with each change taken back that nobody has changed again.
fn undone(versions: [&Value; 3]) -> Value {
    let [now, after, before] = versions;
    match parts(versions) {
        _ if now == after => before.clone(),
        Some(parts) => {
            let parts = parts.into_iter().map(|(key, parts)| (key.to_owned(), undone(parts)));
            Value::Object(parts.filter(|(_, value)| !value.is_null()).collect())
        }
        None => now.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_taken_back_and_nothing_else() {
        let before = json!({"command": ["x"], "resources": {"pids": 5}});
        let after = json!({"command": ["x"], "resources": {"pids": 7, "cpuset": "99"},
                           "docker": {"HostConfig.CpuShares": "50"}});
        let undone = |now: &Value| undone([now, &after, &before]);
        assert_eq!(undone(&after), before);
        let now = json!({"command": ["x"], "resources": {"pids": 9, "cpuset": "99", "memory": 1},
                         "docker": {"HostConfig.CpuShares": "50", "HostConfig.Binds": "[]"}});
        assert_eq!(
            undone(&now),
            json!({"command": ["x"], "resources": {"pids": 9, "memory": 1},
                   "docker": {"HostConfig.Binds": "[]"}})
        );
        let holds = |now: &Value| holds([now, &after, &before]);
        assert!(holds(&after) && !holds(&before) && !holds(&now));
        let more = json!({"command": ["y"], "resources": {"pids": 7, "cpuset": "99", "memory": 1},
                          "docker": {"HostConfig.CpuShares": "50"}});
        assert!(holds(&more), "another update has changed something else");
    }

    #[test]
    fn a_manifest_is_the_same_after_its_way_there_and_back() {
        let text = "image = \"x\"\nrestart = { policy = \"on-failure:3\" }\n\
                    [resources]\ncpus = 1.5\nmemory = \"64MiB\"\n[health]\nnone = true\n\
                    [docker]\n\"HostConfig.CpuShares\" = \"50\"\n";
        let manifest: Container = toml::from_str(text).unwrap();
        let there = value(&manifest).unwrap();
        assert_eq!(serde_json::from_value::<Container>(there).unwrap(), manifest);
    }
}
