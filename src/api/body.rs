//! Bodies: JSON, bounded, with errors in Docker's words; and for those who block, a
//! request's as a reader, an answer's as a writer. A slow client slows only itself.

use std::io::{self, Read, Write};

use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::respond::{Answer, failure, stream};
use super::turns::Turn;

/// Pieces on their way from a connection to a thread that blocks.
const QUEUE: usize = 16;
/// The same from such a thread; they can be larger, and more wait with the connection.
const WRITTEN: usize = 2;
/// A thread that waits for a client waits no longer than this for its next move.
const STUCK: std::time::Duration = std::time::Duration::from_secs(600);
/// Bytes that are gathered before a piece goes out.
const PIECE: usize = 64 << 10;

/// A request's body, read on a thread that may block.
#[derive(Debug)]
pub struct Reader {
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    /// The first one, if it was waited for.
    first: Option<Result<Bytes, String>>,
    current: Bytes,
}

impl Reader {
    /// The same once its first bytes, or its end, are there.
    pub async fn begun(mut self) -> Self {
        self.first = self.pieces.recv().await;
        self
    }
}

/// Begins to receive a body.
pub fn reader(body: Incoming) -> Reader {
    reader_of(body.into_data_stream())
}

/// Begins to receive pieces.
pub fn reader_of<S, E>(pieces: S) -> Reader
where
    S: Stream<Item = Result<Bytes, E>> + 'static,
    E: std::fmt::Display,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_local(async move {
        let mut pieces = std::pin::pin!(pieces);
        loop {
            let piece = match tokio::time::timeout(STUCK, pieces.next()).await {
                Ok(None) => return,
                Ok(Some(piece)) => piece.map_err(|error| error.to_string()),
                Err(_) => Err("nothing came for a long time".to_owned()),
            };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    Reader { pieces: receiver, first: None, current: Bytes::new() }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.first.take().or_else(|| self.pieces.blocking_recv()) {
                Some(Ok(bytes)) => self.current = bytes,
                // A body that broke off must not be taken for a whole one.
                Some(Err(error)) => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
                }
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.current.len());
        buffer[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

/// Writes into an answer from a thread that may block.
#[derive(Debug)]
struct Writer {
    pieces: mpsc::Sender<Bytes>,
    gathered: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let gathered = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        self.pieces.blocking_send(gathered.into()).map_err(gone)
    }
}

/// An answer that `write` makes on a thread that may block. When that fails half-way
/// the connection is broken off, so that nobody takes the part for the whole.
pub fn written<E: std::fmt::Display + Send + 'static>(
    kind: &'static str,
    turn: Turn,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Answer {
    stream(kind, move |pieces| async move {
        let (sender, mut receiver) = mpsc::channel(WRITTEN);
        let writing = tokio::task::spawn_blocking(turn.with(move || {
            let mut writer = Writer { pieces: sender, gathered: Vec::new() };
            write(&mut writer).map_err(|error| error.to_string())?;
            writer.flush().map_err(|error| error.to_string())
        }));
        while let Some(piece) = receiver.recv().await {
            match tokio::time::timeout(STUCK, pieces.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    // Without its reader the thread ends.
                    drop(receiver);
                    let why = "the client takes nothing";
                    tracing::warn!("an answer was broken off: {why}");
                    return pieces.break_off(io::Error::other(why)).await;
                }
            }
        }
        let written = writing.await.unwrap_or_else(|error| Err(error.to_string()));
        if let Err(error) = written {
            tracing::warn!("an answer was broken off: {error}");
            pieces.break_off(io::Error::other(error)).await;
        }
    })
}

/// Larger than anything that the API's types can sensibly be.
const MOST: usize = 4 << 20;
/// A body that has not come by then is not waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What is read of a body that nobody wants, and for how long.
const UNWANTED: usize = 64 << 10;
const UNWANTED_TIME: std::time::Duration = std::time::Duration::from_secs(1);

/// Reads a small body that nobody wants. Otherwise the connection would be closed over
/// it, and a client that still writes gets a broken pipe in place of the answer.
pub async fn discard(body: Incoming) {
    let all = Limited::new(body, UNWANTED).collect();
    // A large or late one is left: then its client has to look at the answer first.
    let _ = tokio::time::timeout(UNWANTED_TIME, all).await;
}

/// Reads a body whole and parses it; an empty one is `{}`.
///
/// # Errors
/// The answer that says what is wrong with it.
pub async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Box<Answer>> {
    let refuse = |status, message: &str| Box::new(failure(status, message));
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, MOST).collect()).await;
    let bytes = match collected {
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
        Ok(Err(error)) => {
            let status = match error.is::<http_body_util::LengthLimitError>() {
                true => StatusCode::PAYLOAD_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            return Err(refuse(status, &format!("reading the body: {error}")));
        }
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    let text: &[u8] = match bytes.trim_ascii() {
        b"" | b"null" => b"{}",
        text => text,
    };
    let read = serde_json::from_slice(text).and_then(super::loose::from_value);
    read.map_err(|error| {
        // As Docker's daemon says it.
        let said =
            error.to_string().replace("trailing characters", "unexpected content after JSON");
        refuse(StatusCode::BAD_REQUEST, &format!("invalid JSON: {said}"))
    })
}
