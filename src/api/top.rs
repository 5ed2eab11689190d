//! `/containers/{id}/top`: what the host's ps(1) says of a container's processes.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;

use super::respond::{Answer, failure, json as as_json, refused};
use super::route::Query;
use super::turns::LOOKS;
use crate::engine::handle::Handle;

/// A ps(1) that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn top(handle: &Handle, which: &str, query: &Query) -> Answer {
    let view = match handle.find(which).await {
        Ok(view) if view.pid > 0 => view,
        Ok(view) => {
            let message = format!("container {} is not running", view.id);
            return failure(StatusCode::CONFLICT, &message);
        }
        Err(refusal) => return refused(refusal),
    };
    let mut processes: Vec<[String; 4]> = handle.processes(view.which()).await;
    if view.manifest.has_init() {
        // Berth's own init is not what a person looks for.
        let init = view.pid.to_string();
        processes.retain(|process| process[0] != init);
    }
    let pids: BTreeSet<&str> = processes.iter().map(|process| process[0].as_str()).collect();
    let args = query.get("ps_args").unwrap_or("-ef");
    let _turn = LOOKS.turn().await;
    // Only those, as Docker's daemon asks; some options can't be used with that.
    let chosen = pids.iter().copied().collect::<Vec<_>>().join(",");
    let printed = match ps(&format!("{args} -q{chosen}")).await {
        Err(Failed::Said(_)) => ps(args).await,
        printed => printed,
    };
    let printed = match printed {
        Ok(printed) => printed,
        Err(Failed::Missing) if query.get("ps_args").is_none() => {
            let titles = ["PID", "PPID", "UID", "CMD"];
            return as_json(&json!({ "Titles": titles, "Processes": processes }));
        }
        Err(Failed::Missing) => {
            let message = "ps is not installed on this machine, so ps_args has no meaning";
            return failure(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
        // What the client asked ps for is no fault of the machine.
        Err(Failed::Said(error)) if query.get("ps_args").is_some() => {
            return failure(StatusCode::BAD_REQUEST, &error);
        }
        Err(Failed::Said(error)) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error),
    };
    match select(&printed, &pids) {
        Some((titles, rows)) => as_json(&json!({ "Titles": titles, "Processes": rows })),
        None => failure(StatusCode::INTERNAL_SERVER_ERROR, "Couldn't find PID field in ps output"),
    }
}

enum Failed {
    Missing,
    Said(String),
}

async fn ps(args: &str) -> Result<String, Failed> {
    let child = tokio::process::Command::new("ps")
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, child).await {
        Err(_) => return Err(Failed::Said("ps takes too long".to_owned())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failed::Missing);
        }
        Ok(Err(error)) => return Err(Failed::Said(format!("running ps: {error}"))),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(Failed::Said(format!("ps: {}", error.lines().next().unwrap_or_default())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

type Table = (Vec<String>, Vec<Vec<String>>);

/// The rows of these processes; the last column may have spaces in it.
fn select(printed: &str, pids: &BTreeSet<&str>) -> Option<Table> {
    let mut lines = printed.lines();
    let titles: Vec<String> = lines.next()?.split_whitespace().map(str::to_owned).collect();
    let pid = titles.iter().position(|title| title == "PID")?;
    let rows = lines
        .filter_map(|line| {
            let mut row = Vec::with_capacity(titles.len());
            let mut rest = line.trim_start();
            while row.len() + 1 < titles.len() {
                let (word, tail) = rest.split_once(char::is_whitespace)?;
                row.push(word.to_owned());
                rest = tail.trim_start();
            }
            row.push(rest.to_owned());
            pids.contains(row.get(pid)?.as_str()).then_some(row)
        })
        .collect();
    Some((titles, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_container() {
        let printed =
            "UID   PID  PPID CMD\nroot    1     0 init\nweb    12     1 nginx: worker  x\n";
        let pids = BTreeSet::from(["12", "99"]);
        let (titles, rows) = select(printed, &pids).unwrap();
        assert_eq!(titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(rows, [["web", "12", "1", "nginx: worker  x"]]);
        assert_eq!(select("USER CMD\nroot x\n", &pids), None);
        assert_eq!(select("", &pids), None);
    }
}
