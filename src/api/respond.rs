//! Answers: JSON, errors in Docker's form, streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::engine::handle::Refusal;

/// The body of every answer.
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Docker's newest API that this one is modelled on, and the oldest it takes.
pub const API_VERSION: (u32, u32) = (1, 47);
/// See [`API_VERSION`].
pub const API_OLDEST: (u32, u32) = (1, 24);

fn with_body<B>(status: StatusCode, kind: &'static str, body: B) -> Answer
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
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
            with_body(status, "application/json", Full::new(Bytes::from(text)))
        }
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Docker's form of an error.
pub fn failure(status: StatusCode, message: &str) -> Answer {
    let text = format!("{}\n", json!({ "message": message }));
    with_body(status, "application/json", Full::new(Bytes::from(text)))
}

/// Plain text.
pub fn text(text: &'static str) -> Answer {
    with_body(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Full::new(Bytes::from_static(text.as_bytes())),
    )
}

/// Done, and nothing to say.
pub fn no_content() -> Answer {
    with_body(StatusCode::NO_CONTENT, "", Empty::new())
}

/// A value as JSON, of something that was made.
pub fn created(value: &impl Serialize) -> Answer {
    json_with(StatusCode::CREATED, value)
}

/// The connection goes on in another protocol.
pub fn switching(protocol: &'static str, kind: &'static str) -> Answer {
    let mut answer = with_body(StatusCode::SWITCHING_PROTOCOLS, kind, Empty::new());
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(protocol));
    answer
}

/// A refusal of the engine.
pub fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NotFound(message) => failure(StatusCode::NOT_FOUND, &message),
        Refusal::Conflict(message) => failure(StatusCode::CONFLICT, &message),
        Refusal::AlreadySo => with_body(StatusCode::NOT_MODIFIED, "", Empty::new()),
        Refusal::Invalid(message) => failure(StatusCode::BAD_REQUEST, &message),
        Refusal::Failed(message) => failure(StatusCode::INTERNAL_SERVER_ERROR, &message),
    }
}

/// Pieces of a stream that wait for a slow reader.
const WAITING: usize = 16;

/// The sending end of a stream.
pub type Pieces = mpsc::Sender<Bytes>;

struct Stream(mpsc::Receiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An answer that goes on as long as `produce` sends. `produce` is dropped when the
/// client goes away.
pub fn stream<F>(kind: &'static str, produce: impl FnOnce(Pieces) -> F) -> Answer
where
    F: Future<Output = ()> + 'static,
{
    let (sender, receiver) = mpsc::channel(WAITING);
    let gone = sender.clone();
    let producing = produce(sender);
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = producing => {}
            () = gone.closed() => {}
        }
    });
    with_body(StatusCode::OK, kind, Stream(receiver))
}
