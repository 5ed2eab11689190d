//! Hijacks without an upgrade. The Engine API leaves it to a client whether it asks for one
//! (its headers are a hint to proxies): without, the answer of an attach or an exec is a
//! plain 200, and from then on both sides send what they like. HTTP knows no such thing, so
//! for the server the request gets the two headers, and its answer loses them again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head that is longer passes as it is.
const HEAD_MOST: usize = 8 << 10;
/// What the server needs to see.
const ASKS: &[u8] = b"connection: upgrade\r\nupgrade: tcp\r\n";

/// What is known of the first request of a connection. Those that hijack don't come later:
/// their clients have nothing else to say on it.
#[derive(Debug, Default)]
pub struct Plain {
    reading: Reading,
    writing: Writing,
}

#[derive(Debug)]
enum Reading {
    /// The head so far.
    Head(Vec<u8>),
    /// What was held back, from this byte on.
    Held(Vec<u8>, usize),
    /// Everything passes.
    On,
}

impl Default for Reading {
    fn default() -> Self {
        Reading::Head(Vec::new())
    }
}

#[derive(Debug, Default)]
enum Writing {
    /// Everything passes.
    #[default]
    On,
    /// The answer's head is awaited.
    Head,
    /// It is being sent in another form, from this byte on; so long it was.
    Changed(Vec<u8>, usize, usize),
}

/// What to do with a request of which this has come.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It can't be told yet.
    More,
    /// It is another one, or asks by itself.
    Pass,
    /// It hijacks: the headers go here.
    Hijacks(usize),
}

fn look(come: &[u8]) -> Look {
    let method = b"POST ";
    if !come.iter().zip(method).all(|(a, b)| a == b) {
        return Look::Pass;
    }
    let more = if come.len() > HEAD_MOST { Look::Pass } else { Look::More };
    // A line may also end without a carriage return (RFC 9112, section 2.2).
    let mut lines = come.split_inclusive(|byte| *byte == b'\n');
    let Some(first) = lines.next().filter(|line| line.ends_with(b"\n")) else { return more };
    let hijacked = first.trim_ascii_end().get(method.len()..).and_then(hijacked);
    let Some(hijacked) = hijacked else { return Look::Pass };
    for line in lines.filter(|line| line.ends_with(b"\n")) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Look::Hijacks(first.len());
        }
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let is = |key: &str| name.trim_ascii_end().eq_ignore_ascii_case(key.as_bytes());
        // Input that is HTTP's body is read as such; the body of an exec says how it starts.
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let has_body = is("content-length") && value != b"0";
        if is("upgrade") || is("transfer-encoding") || has_body && hijacked == Hijacked::Attach {
            return Look::Pass;
        }
    }
    more
}

/// What a request hijacks its connection for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hijacked {
    Attach,
    Exec,
}

/// `/v1.41/containers/web/attach?stdin=1 HTTP/1.1`, or the start of an exec.
fn hijacked(rest: &[u8]) -> Option<Hijacked> {
    let rest = std::str::from_utf8(rest).ok()?;
    let (target, _) = rest.split_once(' ').filter(|(_, version)| *version == "HTTP/1.1")?;
    let path = target.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let parts = match parts.as_slice() {
        [version, rest @ ..] if version.starts_with("v1.") => rest,
        all => all,
    };
    match parts {
        ["containers", _, "attach"] => Some(Hijacked::Attach),
        ["exec", _, "start"] => Some(Hijacked::Exec),
        _ => None,
    }
}

/// Says that a client may go on with its body (RFC 9110, section 15.2.1): the answer comes
/// after it.
const GO_ON: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// The answer's head as such a client expects it, if it is one that hijacks.
fn answered(head: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(head.strip_suffix(b"\r\n\r\n")?).ok()?;
    let (mut changed, text) = match text.strip_prefix(GO_ON) {
        Some(text) => (GO_ON.to_owned(), text),
        None => (String::new(), text),
    };
    let mut lines = text.split("\r\n");
    lines.next().filter(|line| line.starts_with("HTTP/1.1 101"))?;
    changed.push_str("HTTP/1.1 200 OK\r\n");
    for line in lines {
        let name = line.split(':').next().unwrap_or_default();
        let says = ["connection", "upgrade", "content-length", "transfer-encoding"];
        if !says.iter().any(|key| name.eq_ignore_ascii_case(key)) {
            changed.push_str(line);
            changed.push_str("\r\n");
        }
    }
    changed.push_str("\r\n");
    Some(changed.into_bytes())
}

impl Plain {
    /// Of a connection on which nothing is looked at any more.
    pub fn over() -> Plain {
        Plain { reading: Reading::On, writing: Writing::On }
    }

    /// Reads as the server is to see it.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Reading::Head(come) = &mut self.reading {
            let mut bytes = [0; 2048];
            let mut part = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut part))?;
            let is_end = part.filled().is_empty();
            come.extend_from_slice(part.filled());
            let seen = if is_end { Look::Pass } else { look(come) };
            match seen {
                Look::More => continue,
                Look::Pass => {}
                Look::Hijacks(at) => {
                    come.splice(at..at, ASKS.iter().copied());
                    self.writing = Writing::Head;
                }
            }
            self.reading = Reading::Held(std::mem::take(come), 0);
        }
        if let Reading::Held(held, from) = &mut self.reading {
            let rest = held.get(*from..).unwrap_or_default();
            let len = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..len]);
            *from += len;
            if *from == held.len() {
                self.reading = Reading::On;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(stream).poll_read(context, buffer)
    }

    /// Writes as the client is to see it; `None` where everything passes as it is.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if let Writing::Head = self.writing {
            if bytes == GO_ON.as_bytes() {
                return None;
            }
            // The server writes a head in one piece.
            let Some(changed) = answered(bytes) else {
                self.writing = Writing::On;
                return None;
            };
            self.writing = Writing::Changed(changed, 0, bytes.len());
        }
        let Writing::Changed(changed, from, len) = &mut self.writing else { return None };
        while *from < changed.len() {
            let rest = changed.get(*from..).unwrap_or_default();
            match Pin::new(&mut *stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => {
                    return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(sent)) => *from += sent,
                other => return Some(other),
            }
        }
        let len = *len;
        self.writing = Writing::On;
        Some(Poll::Ready(Ok(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hijacks_without_asking_is_changed() {
        let first = "POST /v1.41/exec/abc/start HTTP/1.1\r\n";
        let plain = format!("{first}Content-Length: 2\r\n\r\n{{}}typed");
        assert_eq!(look(plain.as_bytes()), Look::Hijacks(first.len()));
        let attach = "POST /containers/web/attach?stdin=1&stream=1 HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(matches!(look(attach.as_bytes()), Look::Hijacks(_)));
        for part in [&plain[..3], &plain[..30], &plain[..50]] {
            assert_eq!(look(part.as_bytes()), Look::More, "{part:?}");
        }
        let bare = "POST /containers/web/attach HTTP/1.1\nContent-Length: 0\n\n";
        assert_eq!(look(bare.as_bytes()), Look::Hijacks(bare.find('\n').unwrap() + 1));
        for other in [
            "GET /",
            "POST /containers/create HTTP/1.1\nHost: x\n",
            "POST /containers/web/attach?stdin=1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "POST /containers/create HTTP/1.1\r\n",
            "POST /exec/abc/start HTTP/1.0\r\n\r\n",
            "POST /exec/abc/start HTTP/1.1\r\nUpgrade: tcp\r\n\r\n",
            "POST /exec/abc/start HTTP/1.1\r\ntransfer-encoding : chunked\r\n\r\n",
        ] {
            assert_eq!(look(other.as_bytes()), Look::Pass, "{other:?}");
        }
        let long = format!("{first}x: {}", "y".repeat(HEAD_MOST));
        assert_eq!(look(long.as_bytes()), Look::Pass);
    }

    #[test]
    fn the_answer_is_a_plain_one() {
        let head = "HTTP/1.1 101 Switching Protocols\r\ncontent-type: a/b\r\nconnection: Upgrade\r\n\
                    upgrade: tcp\r\n\r\n";
        let changed = answered(head.as_bytes()).unwrap();
        assert_eq!(changed, b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\n\r\n");
        let continued = answered([GO_ON, head].concat().as_bytes()).unwrap();
        assert_eq!(continued, [GO_ON.as_bytes(), &changed].concat());
        assert_eq!(answered(b"HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }
}
