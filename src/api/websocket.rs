//! A server's side of the WebSocket protocol (RFC 6455), as far as attaching needs it:
//! binary and text messages in, binary messages out, pings answered.

use base64::Engine as _;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, StatusCode, Version, header};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::hijack::{self, Input, Output, PART};
use super::respond::{Answer, failure, switching};

/// The only version of the protocol that became a standard.
const VERSION: &str = "13";
/// Appended to a client's key (RFC 6455, 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Messages that wait for a slow reader.
const WAITING: usize = 16;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What the server says to a client's key.
fn accept_key(key: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(sha1(format!("{key}{MAGIC}").as_bytes()))
}

/// The client's key, if it asks for what is spoken here (RFC 6455, 4.2.1).
fn handshake(version: Version, headers: &HeaderMap) -> Result<&str, &'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let has = |name, word| text(name).split(',').any(|one| one.trim().eq_ignore_ascii_case(word));
    let upgrades = has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade");
    if !upgrades || version < Version::HTTP_11 {
        return Err("this route is for websockets (RFC 6455)");
    }
    match (text(header::SEC_WEBSOCKET_VERSION), text(header::SEC_WEBSOCKET_KEY)) {
        (VERSION, key) if !key.is_empty() => Ok(key),
        (VERSION, _) => Err("the handshake has no Sec-WebSocket-Key (RFC 6455)"),
        _ => Err("version 13 of the WebSocket protocol is spoken here, and no other"),
    }
}

/// Answers a handshake and gives the connection to `serve`.
pub fn accept<F>(
    mut request: Request<Incoming>,
    serve: impl FnOnce(Input, Output) -> F + 'static,
) -> Answer
where
    F: Future<Output = ()> + 'static,
{
    let key = match handshake(request.version(), request.headers()) {
        Ok(key) => accept_key(key),
        Err(why) => {
            let mut answer = failure(StatusCode::BAD_REQUEST, why);
            let version = header::HeaderValue::from_static(VERSION);
            answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
            return answer;
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (reader, mut output) = hijack::ends(upgraded).await;
        let (typed, typing) = mpsc::channel(WAITING);
        let (pieces, mut printed) = mpsc::channel::<Vec<u8>>(WAITING);
        let (controls, mut control) = mpsc::channel::<Vec<u8>>(WAITING);
        let reading = tokio::task::spawn_local(read(reader, typed, controls));
        let writing = tokio::task::spawn_local(async move {
            loop {
                let frame = tokio::select! {
                    control = control.recv() => match control {
                        Some(control) => control,
                        // The client has said all, and a websocket has no halves.
                        None => break,
                    },
                    piece = printed.recv() => match piece {
                        Some(piece) => frame(BINARY, &piece),
                        None => break,
                    },
                    () = output.gone() => return,
                };
                if output.send(frame).await.is_err() {
                    return;
                }
            }
            // 1000: a normal end (RFC 6455, 7.4.1).
            let _ = output.send(frame(CLOSE, &1000u16.to_be_bytes())).await;
            output.finish().await;
        });
        serve(Input::Messages(typing), Output::Messages(pieces)).await;
        let _ = writing.await;
        reading.abort();
    });
    let mut answer = switching("websocket", "");
    if let Ok(key) = header::HeaderValue::from_str(&key) {
        answer.headers_mut().insert("sec-websocket-accept", key);
    }
    answer
}

/// A whole, unmasked frame: a server's are (RFC 6455, 5.1).
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(len as u8),
        len @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

async fn read(
    mut reader: impl AsyncReadExt + Unpin,
    typed: mpsc::Sender<Vec<u8>>,
    controls: mpsc::Sender<Vec<u8>>,
) {
    while let Some(mut head) = Head::read(&mut reader).await {
        match head.opcode {
            // A continuation goes on with what the frame before it was.
            0 | TEXT | BINARY => {
                while head.left > 0 {
                    let Some(part) = head.part(&mut reader).await else { return };
                    // Also when nobody takes it: the end must be seen.
                    let _ = typed.send(part).await;
                }
            }
            PING => {
                let Some(payload) = head.part(&mut reader).await else { return };
                if controls.send(frame(PONG, &payload)).await.is_err() {
                    return;
                }
            }
            PONG => {
                if head.part(&mut reader).await.is_none() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// What stands before a frame's payload, and what of that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    opcode: u8,
    mask: [u8; 4],
    left: u64,
}

impl Head {
    /// The next frame's; none at the end or of one that no client may send (RFC 6455, 5.1,
    /// 5.2, 5.5).
    async fn read(reader: &mut (impl AsyncReadExt + Unpin)) -> Option<Self> {
        let mut head = [0; 2];
        reader.read_exact(&mut head).await.ok()?;
        let (is_last, reserved, opcode) = (head[0] & 0x80 != 0, head[0] & 0x70, head[0] & 0x0f);
        let (is_masked, len) = (head[1] & 0x80 != 0, head[1] & 0x7f);
        let is_control = opcode >= CLOSE;
        if reserved != 0 || !is_masked || is_control && (!is_last || len > 125) {
            return None;
        }
        let left = match len {
            126 => u64::from(reader.read_u16().await.ok()?),
            127 => reader.read_u64().await.ok()?,
            len => u64::from(len),
        };
        let mut mask = [0; 4];
        reader.read_exact(&mut mask).await.ok()?;
        Some(Head { opcode, mask, left })
    }

    /// The next part of the payload: however long that is, no more of it is held.
    async fn part(&mut self, reader: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
        let mut part = vec![0; usize::try_from(self.left).map_or(PART, |left| left.min(PART))];
        reader.read_exact(&mut part).await.ok()?;
        self.left -= part.len() as u64;
        // A whole number of masks, so that each part begins with the first byte of it.
        const { assert!(PART.is_multiple_of(4)) };
        for (byte, mask) in part.iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        Some(part)
    }
}

/// SHA-1 (FIPS 180-4), which the handshake prescribes; it protects nothing here.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - message.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for at in 16..80 {
            words[at] =
                (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.iter().enumerate() {
            let (mixed, constant) = match at {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(mixed)
                .wrapping_add(e)
                .wrapping_add(constant)
                .wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *word = word.wrapping_add(add);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let long = sha1(&[b'a'; 119]);
        assert_eq!(hex::encode(long), "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56");
        assert_eq!(hex::encode(sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn what_asks_for_no_websocket_gets_none() {
        let asked = |headers: &[(&'static str, &'static str)], version| {
            let pairs = headers.iter().map(|(name, value)| {
                let name = header::HeaderName::from_static(name);
                (name, header::HeaderValue::from_static(value))
            });
            handshake(version, &pairs.collect()).map(str::to_owned)
        };
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert!(asked(&whole, Version::HTTP_11).is_ok());
        assert!(asked(&whole, Version::HTTP_10).is_err());
        for without in 0..whole.len() {
            let mut headers = whole.to_vec();
            headers.remove(without);
            assert!(asked(&headers, Version::HTTP_11).is_err(), "{headers:?}");
        }
        for (at, other) in [(1, ("upgrade", "tcp")), (2, ("sec-websocket-version", "7"))] {
            let mut headers = whole;
            headers[at] = other;
            assert!(asked(&headers, Version::HTTP_11).is_err(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn masked_frames_are_read_and_others_refused() {
        let masked = [0x81u8, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let mut reader = &masked[..];
        let mut head = Head::read(&mut reader).await.unwrap();
        assert_eq!((head.opcode, head.left), (TEXT, 5));
        assert_eq!(head.part(&mut reader).await, Some(b"Hello".to_vec()));
        for wrong in [
            // Not masked, a reserved bit, a ping in parts, a long ping.
            [0x81, 0x05],
            [0xc1, 0x85],
            [0x09, 0x85],
            [0x89, 0xfe],
        ] {
            assert_eq!(Head::read(&mut &[&wrong[..], &[0; 20]].concat()[..]).await, None);
        }
    }

    #[tokio::test]
    async fn of_a_long_frame_only_a_part_is_held() {
        let len = 3 * PART + 1;
        let mask = [1, 2, 3, 4];
        let mut sent = vec![0x82, 0xff];
        sent.extend_from_slice(&(len as u64).to_be_bytes());
        sent.extend_from_slice(&mask);
        sent.extend((0..len).map(|at| b'x' ^ mask[at % 4]));
        // Its end is missing in the next one.
        sent.extend_from_slice(&[0x82, 0x85, 0, 0, 0, 0, b'y']);
        let (typed, mut typing) = mpsc::channel(10);
        let (controls, _control) = mpsc::channel(1);
        read(&sent[..], typed, controls).await;
        let mut all = Vec::new();
        while let Some(part) = typing.recv().await {
            assert!(part.len() <= PART);
            all.extend(part);
        }
        assert_eq!(all, vec![b'x'; len]);
    }

    #[test]
    fn lengths_have_three_forms() {
        assert_eq!(frame(BINARY, b"ab"), [0x82, 2, b'a', b'b']);
        assert_eq!(frame(BINARY, &[0; 300])[..4], [0x82, 126, 1, 44]);
        assert_eq!(frame(BINARY, &[0; 70_000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }
}
