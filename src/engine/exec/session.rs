//! A started exec, for the client that talks to it.

use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::watch;

use super::table::Entry;
use crate::engine::handle::Refusal;
use crate::engine::prepare::Ends;
use crate::sys::readiness;

/// A started exec, for the client that talks to it.
#[derive(Debug)]
pub struct Session {
    /// Our ends of its streams.
    pub ends: Ends,
    /// Becomes its exit status when it has ended.
    pub ended: watch::Receiver<Option<i32>>,
    /// Changes when another client joins its terminal.
    pub joined: watch::Receiver<()>,
}

/// Whoever had it is gone, also if that was before they had anything of it.
impl Drop for Session {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

impl Session {
    /// Its client may come back: it is given so long before what comes is dropped.
    pub fn leave(mut self, grace: Duration) {
        self.drain(grace);
    }

    /// Nobody listens to a terminal: what it prints is dropped, so that the program on
    /// it goes on, until somebody joins.
    fn drain(&mut self, grace: Duration) {
        let Some(master) = self.ends.terminal.take() else { return };
        if self.ended.borrow().is_some() {
            return;
        }
        let (mut joined, mut ended) = (self.joined.clone(), self.ended.clone());
        joined.mark_unchanged();
        tokio::task::spawn_local(async move {
            let drain = async {
                tokio::time::sleep(grace).await;
                let Ok(master) = readiness::watch(master, Interest::READABLE) else { return };
                let mut bytes = [0u8; 4096];
                loop {
                    let Ok(mut guard) = master.readable().await else { return };
                    match rustix::io::read(master.get_ref(), &mut bytes[..]) {
                        Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                        Ok(0) | Err(_) => return,
                        Ok(_) => tokio::task::coop::consume_budget().await,
                    }
                }
            };
            tokio::select! {
                () = drain => {}
                _ = joined.changed() => {}
                _ = ended.wait_for(Option::is_some) => {}
            }
        });
    }
}

pub(super) fn session(entry: &mut Entry) -> Result<Session, Refusal> {
    if entry.exec.exit.is_some() {
        return Err(Refusal::Conflict(format!("exec {} has ended", entry.exec.id)));
    }
    let ends = entry
        .ends
        .copy()
        .map_err(|error| Refusal::Failed(format!("no descriptor is left: {error}")))?;
    Ok(Session { ends, ended: entry.ended.subscribe(), joined: entry.joined.subscribe() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::engine::terminal::{self, Size};

    /// More than a terminal holds is printed to somebody who was gone before it began.
    #[tokio::test]
    async fn a_terminal_whose_client_never_came_goes_on() {
        let local = tokio::task::LocalSet::new();
        let printed = local.run_until(async {
            let terminal::Pty { master, slave } = terminal::host(Size::default()).unwrap();
            let (ended, joined) = (watch::Sender::new(None), watch::Sender::new(()));
            drop(Session {
                ends: Ends { terminal: Some(master), ..Ends::default() },
                ended: ended.subscribe(),
                joined: joined.subscribe(),
            });
            let print = move || std::fs::File::from(slave).write_all(&[b'x'; 256 << 10]);
            tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(print)).await
        });
        printed.await.expect("it stands still").unwrap().unwrap();
    }
}
