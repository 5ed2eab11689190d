//! The client's side of the API: HTTP over the unix socket.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Failure, Result};

/// What a request carries.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// Pieces of a body that may wait for the connection.
const QUEUE: usize = 16;

/// An engine that was killed is back long before that.
const PATIENCE: Duration = Duration::from_secs(5);

/// A way to the engine.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A word of a path or a query, percent-encoded (RFC 3986).
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// A body of bytes that are there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that a thread writes while it is sent. When `write` fails the request breaks
/// off, so that nobody takes a part for the whole. The thread is not waited for: it may
/// stand in a read of a terminal.
///
/// # Errors
/// There is no thread to be had.
pub fn written(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Result<Body> {
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    std::thread::Builder::new().name("body".to_owned()).spawn(move || {
        let mut out = io::BufWriter::with_capacity(256 << 10, Sender(sender.clone()));
        if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
            let _ = sender.blocking_send(Err(error));
        }
    })?;
    let stream = futures_util::stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    Ok(StreamBody::new(stream).boxed_unsync())
}

/// A body that is read from somewhere while it is sent.
///
/// # Errors
/// As [`written`].
pub fn read_from(mut source: impl Read + Send + 'static) -> Result<Body> {
    written(move |out| io::copy(&mut source, out).map(drop))
}

struct Sender(mpsc::Sender<io::Result<Bytes>>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the engine takes no more");
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Client {
    /// Over this socket.
    pub fn new(socket: PathBuf) -> Self {
        Client { socket }
    }

    async fn connect(&self) -> Result<UnixStream> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // The keeper holds the socket: refused means that nobody does.
                Err(error)
                    if error.kind() != std::io::ErrorKind::WouldBlock
                        || begun.elapsed() > PATIENCE =>
                {
                    return Err(Failure(format!(
                        "no Berth answers at {} ({error}); `berth up` starts one",
                        self.socket.display()
                    )));
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn try_request(&self, method: &Method, path: &str) -> Result<Response<Incoming>> {
        self.send(method, path, Vec::new(), false).await
    }

    /// Sends a body that is a stream, with headers; the answer's head, whatever it says.
    pub async fn send_stream(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Body,
    ) -> Result<Response<Incoming>> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::task::spawn_local(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "berth");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        Ok(sender.send_request(request.body(body)?).await?)
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        upgrade: bool,
    ) -> Result<Response<Incoming>> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::task::spawn_local(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "berth");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if upgrade {
            request = request.header("connection", "Upgrade").header("upgrade", "tcp");
        }
        Ok(sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?)
    }

    /// Sends a JSON body; the answer's status and body, whatever they say.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<(StatusCode, Bytes)> {
        let body = serde_json::to_vec(body)?;
        let answer = self.send(&Method::POST, path, body, false).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// Asks for a stream in both directions; the answer's head comes with it.
    pub async fn hijack(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(Response<()>, TokioIo<Upgraded>)> {
        let mut answer = self.send(&Method::POST, path, body, true).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let body = answer.into_body().collect().await?.to_bytes();
            return Err(Failure(message(&body)));
        }
        let upgraded = hyper::upgrade::on(&mut answer).await?;
        let (head, _) = answer.into_parts();
        Ok((Response::from_parts(head, ()), TokioIo::new(upgraded)))
    }

    /// Asks. A connection that the engine's death broke before it answered is made
    /// anew when asking twice does no harm.
    pub async fn request(&self, method: Method, path: &str) -> Result<Response<Incoming>> {
        let begun = Instant::now();
        loop {
            match self.try_request(&method, path).await {
                Err(_)
                    if method == Method::GET
                        && begun.elapsed() < PATIENCE
                        && self.socket.exists()
                        && UnixStream::connect(&self.socket).await.is_ok() =>
                {
                    sleep(Duration::from_millis(20)).await;
                }
                answer => return answer,
            }
        }
    }

    /// The body of a good answer; the message of a bad one is the error.
    pub async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes)> {
        let answer = self.request(method, path).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_client_error() || status.is_server_error() {
            return Err(Failure(message(&body)));
        }
        Ok((status, body))
    }

    /// A JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (_, body) = self.ask(Method::GET, path).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

/// The message of an error in Docker's form.
pub fn message(body: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| value["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned())
}
