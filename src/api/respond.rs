//! Answers: JSON, errors in Docker's form, streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::engine::handle::Refusal;

/// The body of every answer.
pub type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Docker's newest API that this one is modelled on, and the oldest it takes.
pub const API_VERSION: (u32, u32) = (1, 51);
/// See [`API_VERSION`].
pub const API_OLDEST: (u32, u32) = (1, 24);

fn with_bytes(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Answer {
    let body = Full::new(bytes.into()).map_err(|never| match never {});
    with_body(status, kind, body)
}

fn with_body<B>(status: StatusCode, kind: &'static str, body: B) -> Answer
where
    B: Body<Data = Bytes, Error = io::Error> + Send + 'static,
{
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if !kind.is_empty() {
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    }
    for (name, value) in [
        ("api-version", format!("{}.{}", API_VERSION.0, API_VERSION.1)),
        ("server", format!("Berth/{} (linux)", env!("CARGO_PKG_VERSION"))),
        ("ostype", "linux".to_owned()),
        ("docker-experimental", "false".to_owned()),
    ] {
        if let Ok(value) = header::HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// A value as JSON.
pub fn json(value: &impl Serialize) -> Answer {
    json_with(StatusCode::OK, value)
}

fn json_with(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            with_bytes(status, "application/json", text)
        }
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Docker's form of an error.
pub fn failure(status: StatusCode, message: &str) -> Answer {
    let text = format!("{}\n", json!({ "message": message }));
    with_bytes(status, "application/json", text)
}

/// Plain text.
pub fn text(text: &'static str) -> Answer {
    with_bytes(StatusCode::OK, "text/plain; charset=utf-8", text)
}

/// Done, and nothing to say.
pub fn no_content() -> Answer {
    with_bytes(StatusCode::NO_CONTENT, "", "")
}

/// Done, with a body of no bytes.
pub fn empty() -> Answer {
    with_bytes(StatusCode::OK, "", "")
}

/// A value as JSON, of something that was made.
pub fn created(value: &impl Serialize) -> Answer {
    json_with(StatusCode::CREATED, value)
}

/// Something was made, and there is nothing to say of it.
pub fn created_empty() -> Answer {
    with_bytes(StatusCode::CREATED, "", "")
}

/// The connection goes on in another protocol.
pub fn switching(protocol: &'static str, kind: &'static str) -> Answer {
    let mut answer = with_bytes(StatusCode::SWITCHING_PROTOCOLS, kind, "");
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(protocol));
    answer
}

/// A list as Go's clients are told of one without items: null.
pub fn unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A refusal of the engine.
pub fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NotFound(message) => failure(StatusCode::NOT_FOUND, &message),
        Refusal::Conflict(message) => failure(StatusCode::CONFLICT, &message),
        Refusal::Forbidden(message) => failure(StatusCode::FORBIDDEN, &message),
        Refusal::AlreadySo => with_bytes(StatusCode::NOT_MODIFIED, "", ""),
        Refusal::Invalid(message) => failure(StatusCode::BAD_REQUEST, &message),
        Refusal::Failed(message) => failure(StatusCode::INTERNAL_SERVER_ERROR, &message),
    }
}

/// Pieces of a stream that wait for a slow reader.
const WAITING: usize = 16;
/// Bytes of them; a piece that is longer waits alone.
const WAITING_BYTES: u32 = 256 << 10;

/// What a piece takes of these.
fn weight(piece: &io::Result<Bytes>) -> u32 {
    let len = piece.as_ref().map_or(0, Bytes::len);
    u32::try_from(len).unwrap_or(u32::MAX).min(WAITING_BYTES)
}

/// The sending end of a stream.
#[derive(Debug, Clone)]
pub struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    room: Arc<Semaphore>,
}

/// The client went away.
#[derive(Debug)]
pub struct Gone;

impl Pieces {
    /// Sends one piece; waits while the client is slow.
    pub async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        self.put(Ok(piece)).await
    }

    /// Breaks the connection off, so that nobody takes the part for the whole.
    pub async fn break_off(&self, error: io::Error) {
        let _ = self.put(Err(error)).await;
    }

    async fn put(&self, piece: io::Result<Bytes>) -> Result<(), Gone> {
        let room = self.room.acquire_many(weight(&piece)).await.map_err(|_| Gone)?;
        self.sender.send(piece).await.map_err(|_| Gone)?;
        // Given back by who takes the piece.
        room.forget();
        Ok(())
    }

    /// Returns when the client has gone away.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

struct Stream {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    room: Arc<Semaphore>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.room.close();
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.pieces.poll_recv(context).map(|piece| {
            let piece = piece?;
            self.room.add_permits(weight(&piece) as usize);
            Some(piece.map(Frame::data))
        })
    }
}

/// An answer that goes on as long as `produce` sends. `produce` is dropped when the
/// client goes away.
pub fn stream<F>(kind: &'static str, produce: impl FnOnce(Pieces) -> F) -> Answer
where
    F: Future<Output = ()> + 'static,
{
    let (sender, pieces) = mpsc::channel(WAITING);
    let room = Arc::new(Semaphore::new(WAITING_BYTES as usize));
    let sender = Pieces { sender, room: Arc::clone(&room) };
    let gone = sender.clone();
    let producing = produce(sender);
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = producing => {}
            () = gone.closed() => {}
        }
    });
    with_body(StatusCode::OK, kind, Stream { pieces, room })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn what_waits_for_a_slow_reader_is_bounded_in_bytes() {
        let local = tokio::task::LocalSet::new();
        let sent = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&sent);
        local
            .run_until(async move {
                let answer = stream("", move |pieces| async move {
                    for _ in 0..10 {
                        let piece = Bytes::from(vec![b'x'; WAITING_BYTES as usize / 2]);
                        if pieces.send(piece).await.is_err() {
                            return;
                        }
                        count.set(count.get() + 1);
                    }
                    // Larger than all the room there is.
                    let _ = pieces.send(Bytes::from(vec![b'y'; 1 << 20])).await;
                    count.set(count.get() + 1);
                });
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert_eq!(sent.get(), 2);
                let all = answer.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(all.len(), 5 * WAITING_BYTES as usize + (1 << 20));
                assert_eq!(sent.get(), 11);
            })
            .await;
    }
}
