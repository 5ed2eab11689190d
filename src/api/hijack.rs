//! Streams in both directions over the connection of a request: Docker's "hijacking"
//! (HTTP's Upgrade), its frames, and detach keys. Of a client that attaches and sends a
//! body in place of asking for an upgrade, that body is the input, and the output is its
//! answer's body; one that sends neither is taken to ask ([`super::plain`]).

use std::io::Cursor;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Version, header};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use super::respond::{Answer, Gone, Pieces, stream, switching};
use super::serve::Seated;
use super::unix::Client;
use crate::sys::readiness::{self, Hangup};

/// Bytes that are moved at once.
pub const PART: usize = 32 << 10;

/// What comes from the client.
pub enum Input {
    /// After an upgrade.
    Upgraded(Lent),
    /// The request's body.
    Body(Incoming),
    /// Messages of a websocket.
    Messages(tokio::sync::mpsc::Receiver<Vec<u8>>),
}

/// The reading end of a connection.
pub type Reader = Box<dyn AsyncRead + Unpin>;

/// The reading end of a connection; it comes back when nobody reads from it any more.
pub struct Lent {
    reader: Option<Reader>,
    back: Option<oneshot::Sender<Reader>>,
}

impl Lent {
    fn new(reader: Reader) -> (Self, oneshot::Receiver<Reader>) {
        let (back, returned) = oneshot::channel();
        (Lent { reader: Some(reader), back: Some(back) }, returned)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(reader), Some(back)) = (self.reader.take(), self.back.take()) {
            // Refused when the session was left together with its connection.
            let _ = back.send(reader);
        }
    }
}

impl Input {
    /// The next bytes; none at the end, also when the connection broke.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        match self {
            Input::Upgraded(lent) => {
                let mut bytes = vec![0; PART];
                let len =
                    lent.reader.as_mut()?.read(&mut bytes).await.ok().filter(|len| *len > 0)?;
                bytes.truncate(len);
                Some(bytes)
            }
            Input::Body(body) => loop {
                if let Ok(data) = body.frame().await?.ok()?.into_data() {
                    return Some(data.to_vec());
                }
            },
            Input::Messages(messages) => messages.recv().await,
        }
    }
}

/// What goes to the client.
pub enum Output {
    /// After an upgrade. The writer is dropped last: it closes the connection for good.
    Upgraded { hangup: Option<Hangup>, writer: Box<dyn AsyncWrite + Unpin> },
    /// The answer's body.
    Pieces(Pieces),
    /// Messages of a websocket.
    Messages(tokio::sync::mpsc::Sender<Vec<u8>>),
}

impl Output {
    /// Sends; waits while the client is slow.
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Gone> {
        match self {
            Output::Upgraded { writer, .. } => writer.write_all(&bytes).await.map_err(|_| Gone),
            Output::Pieces(pieces) => pieces.send(Bytes::from(bytes)).await,
            Output::Messages(messages) => messages.send(bytes).await.map_err(|_| Gone),
        }
    }

    /// Returns when the client is gone, also if nothing is sent to it. One that only sends
    /// nothing more itself is there.
    pub async fn gone(&self) {
        match self {
            Output::Upgraded { hangup: Some(hangup), .. } => hangup.wait().await,
            Output::Upgraded { hangup: None, .. } => std::future::pending().await,
            Output::Pieces(pieces) => pieces.closed().await,
            Output::Messages(messages) => messages.closed().await,
        }
    }

    /// Says that nothing more comes.
    pub async fn finish(mut self) {
        if let Output::Upgraded { writer, .. } = &mut self {
            let _ = writer.shutdown().await;
        }
    }
}

/// The number of a stream in a frame's head.
pub const STDOUT: u8 = 1;
/// See [`STDOUT`].
pub const STDERR: u8 = 2;

/// Bytes as Docker's clients expect them: as they are from a terminal, otherwise in
/// frames of a stream's number, three zeros, and the length.
pub fn framed(stream: u8, bytes: &[u8], raw: bool) -> Vec<u8> {
    if raw {
        return bytes.to_vec();
    }
    let mut frame = Vec::with_capacity(bytes.len() + 8);
    frame.extend_from_slice(&[stream, 0, 0, 0]);
    frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// What Docker calls the two formats; before API 1.42 both had the first name.
fn kind(raw: bool) -> &'static str {
    match raw {
        true => "application/vnd.docker.raw-stream",
        false => "application/vnd.docker.multiplexed-stream",
    }
}

/// The connection itself, if a client asks for it; HTTP/1.0 knows no such thing.
pub fn upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let asks = request.headers().contains_key(header::UPGRADE);
    (asks && request.version() >= Version::HTTP_11).then(|| hyper::upgrade::on(request))
}

/// Gives the connection to `serve`.
pub fn hijack<F>(
    mut request: Request<Incoming>,
    raw: bool,
    serve: impl FnOnce(Input, Output) -> F + 'static,
) -> Answer
where
    F: Future<Output = ()> + 'static,
{
    if let Some(upgrade) = upgrade(&mut request) {
        return over(Some(upgrade), raw, serve);
    }
    let body = request.into_body();
    stream(kind(raw), move |pieces| serve(Input::Body(body), Output::Pieces(pieces)))
}

/// As [`hijack`], of a request whose body was read before: without an upgrade there is
/// no input.
pub fn over<F>(
    upgrade: Option<OnUpgrade>,
    raw: bool,
    serve: impl FnOnce(Input, Output) -> F + 'static,
) -> Answer
where
    F: Future<Output = ()> + 'static,
{
    let Some(upgrade) = upgrade else {
        let (_, none) = tokio::sync::mpsc::channel(1);
        return stream(kind(raw), move |pieces| {
            serve(Input::Messages(none), Output::Pieces(pieces))
        });
    };
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgrade.await {
            let (reader, output) = ends(upgraded).await;
            let (lent, returned) = Lent::new(reader);
            serve(Input::Upgraded(lent), output).await;
            part(returned).await;
        }
    });
    switching("tcp", kind(raw))
}

/// The connection, once the client has read the answer's head. Until then nothing is
/// sent: docker-py reads the head through a buffer, and what came with it into the
/// buffer never reaches its caller.
pub async fn ends(upgraded: Upgraded) -> (Reader, Output) {
    let upgraded = match upgraded.downcast::<TokioIo<Seated<Client>>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            head_is_read(stream.stream()).await;
            let hangup = Hangup::of(stream.stream().as_fd()).ok();
            let (reader, writer) = stream.into_split();
            let reader = Cursor::new(parts.read_buf).chain(reader);
            return (Box::new(reader), Output::Upgraded { hangup, writer: Box::new(writer) });
        }
        Err(upgraded) => upgraded,
    };
    // TCP does not tell what the other side has read.
    match upgraded.downcast::<TokioIo<Seated<TlsStream<TcpStream>>>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            let hangup = Hangup::of(stream.stream().get_ref().0.as_fd()).ok();
            let (reader, writer) = tokio::io::split(stream);
            let reader = Cursor::new(parts.read_buf).chain(reader);
            (Box::new(reader), Output::Upgraded { hangup, writer: Box::new(writer) })
        }
        Err(upgraded) => {
            let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
            (Box::new(reader), Output::Upgraded { hangup: None, writer: Box::new(writer) })
        }
    }
}

/// How long a client may take to leave after the end, and what it typed before it left may
/// take to be passed on.
pub const PARTING: Duration = Duration::from_secs(2);

/// Reads what the client typed too late, until it leaves: a connection that is closed
/// over unread bytes breaks at the other end, where the last output may be unread yet
/// (unix(7), ECONNRESET).
async fn part(returned: oneshot::Receiver<Reader>) {
    let read = async {
        if let Ok(mut reader) = returned.await {
            let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(PARTING, read).await;
}

/// How long a client that does not read its answer's head is waited for.
const HEAD_READ: Duration = Duration::from_secs(5);

async fn head_is_read(stream: &Client) {
    let read = async {
        let mut pause = Duration::from_millis(1);
        while readiness::unread_by_peer(stream.as_fd()).is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    };
    let _ = tokio::time::timeout(HEAD_READ, read).await;
}

/// One of a process's streams that is read.
pub struct Source(AsyncFd<OwnedFd>);

impl Source {
    /// Over a non-blocking descriptor.
    pub fn new(fd: OwnedFd) -> std::io::Result<Self> {
        Ok(Source(readiness::watch(fd, Interest::READABLE)?))
    }

    /// The next bytes; none at the end.
    pub async fn next(&self) -> Option<Vec<u8>> {
        loop {
            match self.take() {
                Ok(bytes) => return bytes,
                // What comes before the clearing is seen by the next look.
                Err(()) => self.0.readable().await.ok()?.clear_ready(),
            }
        }
    }

    /// What is there now: bytes, the end (none), or nothing yet (an error).
    pub fn take(&self) -> Result<Option<Vec<u8>>, ()> {
        let mut bytes = vec![0; PART];
        loop {
            return match rustix::io::read(self.0.get_ref(), &mut bytes) {
                Ok(0) => Ok(None),
                Ok(len) => {
                    bytes.truncate(len);
                    Ok(Some(bytes))
                }
                Err(Errno::AGAIN) => Err(()),
                Err(Errno::INTR) => continue,
                // A terminal whose other end everybody has closed says EIO (pty(7)).
                Err(_) => Ok(None),
            };
        }
    }
}

/// One of a process's streams that is written to.
pub struct Sink(AsyncFd<OwnedFd>);

impl Sink {
    /// Over a non-blocking descriptor.
    pub fn new(fd: OwnedFd) -> std::io::Result<Self> {
        Ok(Sink(readiness::watch(fd, Interest::WRITABLE)?))
    }

    /// Writes all of it; waits while the process does not read.
    pub async fn write(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let Ok(mut guard) = self.0.writable().await else { return Err(Errno::IO) };
            match rustix::io::write(self.0.get_ref(), bytes) {
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// Looks for the keys by which a client detaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// Docker's own: Ctrl-P Ctrl-Q.
const DEFAULT_KEYS: &str = "ctrl-p,ctrl-q";

impl DetachKeys {
    /// From Docker's notation: `a`, `ctrl-a` or `ctrl-@ [ \ ] ^ _`, with commas between.
    ///
    /// # Errors
    /// Docker's sentence.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(DEFAULT_KEYS);
        let keys = text
            .split(',')
            .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
                (Some(name), _) => match name.as_bytes() {
                    [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                    [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(sign - b'@'),
                    _ => Err(format!("Unknown character: '{key}'")),
                },
                (None, [byte]) => Ok(*byte),
                _ => Err(format!("Unknown character: '{key}'")),
            })
            .collect::<Result<_, _>>()
            .map_err(|error| format!("Invalid detach keys ({text}): {error}"))?;
        Ok(DetachKeys { keys, matched: 0 })
    }

    /// What of these bytes is passed on, and whether the keys were pressed.
    pub fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys.get(self.matched) != Some(byte) {
                // It was not meant: what was held back goes on.
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_docker_s_head() {
        assert_eq!(framed(STDERR, b"ab", false), [2, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(framed(STDOUT, b"ab", true), b"ab");
    }

    #[test]
    fn detach_keys_are_found_over_reads_and_false_starts_pass() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c\x10\x10"), (b"\x10c\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
        let mut keys = DetachKeys::parse(Some("a,ctrl-],b")).unwrap();
        assert_eq!(keys.filter(b"xa\x1dc"), (b"xa\x1dc".to_vec(), false));
        assert_eq!(keys.filter(b"a\x1db"), (Vec::new(), true));
        for bad in ["ctrl-", "ctrl-ab", "abc", "ctrl-1"] {
            assert!(DetachKeys::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
