//! What a health check prints: the beginning is kept for who asks how a container does,
//! the rest is dropped. None of it is the container's own output.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::prepare::Ends;
use crate::sys::readiness;

/// So many bytes are kept, as with Docker.
const KEPT: usize = 4096;
/// After the end of a check: how long something that it left behind may hold its streams
/// open.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The text so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
    }

    /// What is kept of it.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Reads both streams until they are closed.
    pub fn listen(&self, ends: Ends) -> Listening {
        let streams = [ends.stdout, ends.stderr].into_iter().flatten();
        let tasks = streams.map(|stream| {
            let heard = self.clone();
            AbortOnDropHandle::new(tokio::task::spawn_local(heard.read(stream)))
        });
        Listening(tasks.collect())
    }

    async fn read(self, stream: OwnedFd) {
        let Ok(stream) = readiness::watch(stream, Interest::READABLE) else { return };
        let mut bytes = [0; KEPT];
        loop {
            let Ok(mut guard) = stream.readable().await else { return };
            match rustix::io::read(stream.get_ref(), &mut bytes[..]) {
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => return,
                Ok(len) => self.add(&bytes[..len]),
            }
            tokio::task::coop::consume_budget().await;
        }
    }
}

/// Both streams while they are read.
#[derive(Debug, Default)]
pub(super) struct Listening(Vec<AbortOnDropHandle<()>>);

impl Listening {
    /// The check has ended: what it printed last is read, too.
    pub async fn finish(self) {
        let all = futures_util::future::join_all(self.0);
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }
}

/// Whoever waits for a health check.
#[derive(Debug)]
pub(super) struct Asked {
    /// Gets what it said.
    pub answer: oneshot::Sender<Result<(), Unwell>>,
    /// Gets what it prints.
    pub heard: Heard,
    /// Whoever reads that.
    pub listening: Listening,
}

/// Why a container is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unwell {
    /// The exit status of the check; -1 where it did not end by itself.
    pub code: i32,
    /// A sentence.
    pub why: String,
}

impl From<String> for Unwell {
    fn from(why: String) -> Self {
        Unwell { code: 1, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn the_beginning_is_kept_and_all_is_read() {
        let pipe = || {
            let (read, write) = std::io::pipe().unwrap();
            let read = OwnedFd::from(read);
            rustix::io::ioctl_fionbio(&read, true).unwrap();
            (Some(read), write)
        };
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let ((stdout, mut out), (stderr, mut err)) = (pipe(), pipe());
                let heard = Heard::default();
                let listening = heard.listen(Ends { stdout, stderr, ..Ends::default() });
                err.write_all(b"why: ").unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                // More than a pipe takes.
                let writing = tokio::task::spawn_blocking(move || out.write_all(&[b'x'; 200_000]));
                writing.await.unwrap().unwrap();
                // One of them is held open by somebody.
                listening.finish().await;
                let text = heard.text();
                assert_eq!(text.len(), KEPT);
                assert!(text.starts_with("why: xxx"), "{text}");
                drop(err);
            })
            .await;
    }
}
