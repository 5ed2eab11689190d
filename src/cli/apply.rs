//! `apply`: what the manifests say, now; and waiting until it is so.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;

use super::client::Client;
use super::{Result, print};
use crate::engine::handle::View;

/// How long it is waited for what there is to be said when the time is over.
const LAST_WORD: Duration = Duration::from_secs(2);
/// As timeout(1) says it.
const TOO_LONG: u8 = 124;

/// Has the engine read the manifests again; with `wait` until all is settled.
pub async fn apply(client: &Client, wait: bool, timeout: Option<Duration>) -> Result {
    let rescan = client.ask(Method::POST, "/berth/rescan");
    if !wait {
        rescan.await?;
        return Ok(ExitCode::SUCCESS);
    }
    let settled = async {
        rescan.await?;
        client.get::<Vec<View>>("/berth/settled").await
    };
    let views = match timeout {
        None => settled.await?,
        Some(timeout) => match tokio::time::timeout(timeout, settled).await {
            Ok(views) => views?,
            Err(_) => {
                // An engine that hangs does not tell even that.
                let views = client.get::<Vec<View>>("/berth/containers");
                if let Ok(views) = tokio::time::timeout(LAST_WORD, views).await {
                    print(&report(&views?))?;
                }
                let timeout = humantime::format_duration(timeout);
                super::complain(&format!("berth: not everything is ready after {timeout}"));
                return Ok(ExitCode::from(TOO_LONG));
            }
        },
    };
    print(&report(&views))?;
    let failed = views.iter().any(|view| view.outlook == "failed" || view.manifest_error.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How many are ready, and what is to be said of the others.
fn report(views: &[View]) -> String {
    let ready = views.iter().filter(|view| view.outlook == "ready").count();
    let mut text = format!("{ready} of {} ready\n", views.len());
    for view in views {
        let colour = match view.outlook.as_str() {
            "failed" => "31",
            "pending" => "33",
            _ => "0",
        };
        let why = [&view.manifest_error, &view.error, &view.detail].into_iter().flatten().next();
        let exit =
            view.exit_code.filter(|code| *code != 0).map(|code| format!("ended with {code}"));
        let why = why.cloned().or(exit).unwrap_or_default();
        if view.outlook != "ready" || view.manifest_error.is_some() {
            text += &format!("\x1b[{colour}m{}: {}\x1b[0m {why}\n", view.name, view.outlook);
        }
    }
    text
}
