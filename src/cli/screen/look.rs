//! What there is to be seen, asked beside the screen: an engine that hangs must not make
//! the keys wait.

use std::collections::BTreeMap;

use hyper::Method;
use tokio::time::Instant;

use super::super::Result;
use super::super::client::{Client, encode};
use super::super::printable::plain;
use crate::cgroup::Stats;
use crate::engine::handle::View;
use crate::manifest::scalar::Name;

/// Lines of the chosen container's log that are asked for; the screen shows as many as
/// fit.
const TAIL: usize = 100;

/// All that was seen at one look.
#[derive(Debug)]
pub struct Seen {
    /// The containers, by name.
    pub views: Vec<View>,
    /// What those that run use.
    pub stats: BTreeMap<Name, Stats>,
    /// When that was measured.
    pub measured: Instant,
    /// Whose log it is.
    pub chosen: Option<Name>,
    /// Its last lines; true for standard error.
    pub tail: Vec<(bool, String)>,
}

/// Looks at everything. `chosen`: whose log is asked for, if it is there; otherwise the
/// first one's.
///
/// # Errors
/// The engine does not answer.
pub async fn look(client: &Client, chosen: Option<Name>) -> Result<Seen> {
    let views: Vec<View> = client.get("/berth/containers").await?;
    let mut stats = BTreeMap::new();
    for view in views.iter().filter(|view| view.pid > 0) {
        let path = format!("/berth/containers/{}/stats", encode(view.name.as_str()));
        // One that ends just now has none.
        if let Ok(used) = client.get::<Stats>(&path).await {
            stats.insert(view.name.clone(), used);
        }
    }
    let measured = Instant::now();
    let shown = views.iter().find(|view| Some(&view.name) == chosen.as_ref()).or(views.first());
    let tail = match shown {
        Some(view) => tail(client, view).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let chosen = shown.map(|view| view.name.clone());
    Ok(Seen { views, stats, measured, chosen, tail })
}

async fn tail(client: &Client, view: &View) -> Result<Vec<(bool, String)>> {
    let path = format!(
        "/containers/{}/logs?stdout=1&stderr=1&framed=1&tail={TAIL}",
        encode(view.name.as_str())
    );
    let (_, body) = client.ask(Method::GET, &path).await?;
    Ok(lines(&body))
}

/// Takes the log's frames apart; what would move the cursor is left out.
fn lines(mut body: &[u8]) -> Vec<(bool, String)> {
    let mut lines = Vec::new();
    while let [stream, _, _, _, a, b, c, d, rest @ ..] = body {
        let len = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).min(rest.len());
        let (text, more) = rest.split_at(len);
        let text = plain(&String::from_utf8_lossy(text)).replace('\t', " ");
        lines.push((*stream == 2, text));
        body = more;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_become_lines_that_do_no_harm() {
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 4];
        body.extend_from_slice(b"a\x1bb\n");
        body.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 9]);
        body.extend_from_slice(b"cut");
        assert_eq!(lines(&body), [(false, "ab".to_owned()), (true, "cut".to_owned())]);
    }
}
