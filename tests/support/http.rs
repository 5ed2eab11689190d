//! A client of the Docker Engine API at the level of its protocol: HTTP/1.1 over the
//! unix socket, hijacked connections and frames.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::PATIENCE;

/// An answer that was read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One request on a connection of its own.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut stream = connect(socket);
    let text = body.map(ToString::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    parse(&bytes)
}

pub fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let rest = &bytes[end..];
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunk(rest),
        false => rest.to_vec(),
    };
    Answer { status, head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let len = std::str::from_utf8(&rest[..end]).unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        body.extend_from_slice(&rest[end + 2..end + 2 + len]);
        rest = &rest[end + 2 + len + 2..];
        if len == 0 {
            break;
        }
    }
    body
}

/// A hijacked connection.
pub struct Hijacked {
    pub stream: UnixStream,
    pub head: String,
}

/// Asks for an upgrade, as Docker's clients do.
pub fn hijack(socket: &Path, path: &str, body: Option<&Value>) -> Hijacked {
    let mut stream = connect(socket);
    let text = body.map(ToString::to_string).unwrap_or_default();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    Hijacked { stream, head: String::from_utf8(head).unwrap() }
}

impl Hijacked {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Nothing more is typed; what is printed is still read.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// All that comes until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// What comes until this was seen in it.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut part = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let len = self.stream.read(&mut part).unwrap_or_else(|error| {
                panic!("{error} before {text:?}: {:?}", String::from_utf8_lossy(&seen))
            });
            assert!(len > 0, "the end before {text:?}: {:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&part[..len]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }
}

/// Takes frames apart: standard output and standard error.
pub fn frames(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let [stream, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        match stream {
            1 => stdout.extend_from_slice(&rest[..len]),
            2 => stderr.extend_from_slice(&rest[..len]),
            other => panic!("stream {other}"),
        }
        bytes = &rest[len..];
    }
    assert!(bytes.is_empty(), "{} bytes that are no frame", bytes.len());
    (stdout, stderr)
}
