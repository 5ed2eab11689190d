//! The containers' lines on the standard output of `berth up`, behind their
//! names, as compose does it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::SystemTime;

use super::paths::Paths;
use crate::logs::{Logs, Query};
use crate::manifest::scalar::Name;

/// Which containers are shown, and how.
#[derive(Debug, Default)]
pub struct Echo {
    followed: Rc<RefCell<BTreeSet<Name>>>,
}

/// Colours that are readable on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

impl Echo {
    /// Shows a container's lines from now on, until it is removed.
    pub fn follow(&self, name: &Name, called: Name, logs: &Logs, paths: &Paths) {
        if !self.followed.borrow_mut().insert(name.clone()) {
            return;
        }
        let query = Query {
            follow: true,
            tail: None,
            since: Some(SystemTime::now()),
            until: None,
            stdout: true,
            stderr: true,
        };
        let (name, dir) = (name.clone(), paths.log_dir(name.as_str()));
        let followed = Rc::clone(&self.followed);
        let mut lines = logs.read(&dir, query);
        tokio::task::spawn_local(async move {
            while let Ok(Some(line)) = lines.next().await {
                if show(&called, &line.bytes).is_err() {
                    break;
                }
            }
            followed.borrow_mut().remove(&name);
        });
    }
}

fn show(name: &Name, line: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let colourful = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if colourful {
        let sum: usize = name.as_str().bytes().map(usize::from).sum();
        write!(out, "\x1b[{}m{name:<12} |\x1b[0m ", COLOURS[sum % COLOURS.len()])?;
    } else {
        write!(out, "{name:<12} | ")?;
    }
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()
}
