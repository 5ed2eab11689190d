//! Stretches of streams, as they lie in a file, put together to lines: pure.

use super::Stream;
use std::time::SystemTime;

/// The longest piece that is handed out at once, in bytes.
pub const PIECE: usize = 64 << 10;

/// A line, or a piece of one longer than 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Who wrote it; never [`Stream::Filler`].
    pub stream: Stream,
    /// When its first byte was moved to the file.
    pub time: SystemTime,
    /// Its bytes, with the newline if it has one.
    pub bytes: Vec<u8>,
    /// The line goes on with the next `Line` of the same stream.
    pub partial: bool,
}

#[derive(Debug, Default)]
struct Open {
    started: Option<SystemTime>,
    bytes: Vec<u8>,
}

/// Whole lines of each stream out of interleaved pieces; holds at most 64 KiB a stream.
#[derive(Debug, Default)]
pub struct Assembler {
    stdout: Open,
    stderr: Open,
    berth: Open,
}

impl Assembler {
    fn open(&mut self, stream: Stream) -> Option<&mut Open> {
        match stream {
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::Berth => Some(&mut self.berth),
            Stream::Filler => None,
        }
    }

    /// Takes bytes up to the first line's end: how many, and the line if one is ready.
    pub fn feed(
        &mut self,
        stream: Stream,
        time: SystemTime,
        bytes: &[u8],
    ) -> (usize, Option<Line>) {
        let Some(open) = self.open(stream) else {
            return (bytes.len(), None);
        };
        let room = bytes.len().min(PIECE.saturating_sub(open.bytes.len()));
        let end = bytes[..room].iter().position(|b| *b == b'\n');
        let taken = end.map_or(room, |i| i + 1);
        open.bytes.extend_from_slice(&bytes[..taken]);
        let started = *open.started.get_or_insert(time);
        let full = open.bytes.len() >= PIECE;
        if end.is_none() && !full {
            return (taken, None);
        }
        if end.is_some() {
            open.started = None;
        }
        let line = Line {
            stream,
            time: started,
            bytes: std::mem::take(&mut open.bytes),
            partial: end.is_none(),
        };
        (taken, Some(line))
    }

    /// What has no newline and gets none any more.
    pub fn flush(&mut self) -> Option<Line> {
        for stream in [Stream::Stdout, Stream::Stderr, Stream::Berth] {
            let open = self.open(stream)?;
            if let Some(time) = open.started.take()
                && !open.bytes.is_empty()
            {
                return Some(Line {
                    stream,
                    time,
                    bytes: std::mem::take(&mut open.bytes),
                    partial: false,
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    proptest! {
        #[test]
        fn interleaved_pieces_read_back_as_whole_lines(
            pieces in prop::collection::vec((any::<bool>(), "[a-c\n]{0,20}"), 0..60)
        ) {
            let mut lines = Assembler::default();
            let mut want = [String::new(), String::new()];
            let mut got = [String::new(), String::new()];
            for (err, text) in &pieces {
                want[usize::from(*err)].push_str(text);
                let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                let mut rest = text.as_bytes();
                while !rest.is_empty() {
                    let (n, line) = lines.feed(stream, UNIX_EPOCH, rest);
                    prop_assert!(n > 0);
                    rest = &rest[n..];
                    if let Some(line) = line {
                        prop_assert_eq!(line.bytes.iter().position(|b| *b == b'\n'), Some(line.bytes.len() - 1));
                        got[usize::from(line.stream == Stream::Stderr)]
                            .push_str(std::str::from_utf8(&line.bytes).unwrap());
                    }
                }
                lines.feed(Stream::Filler, UNIX_EPOCH, b"\n");
            }
            while let Some(line) = lines.flush() {
                prop_assert!(!line.bytes.contains(&b'\n'));
                got[usize::from(line.stream == Stream::Stderr)]
                    .push_str(std::str::from_utf8(&line.bytes).unwrap());
            }
            prop_assert_eq!(want, got);
        }
    }

    #[test]
    fn an_endless_line_comes_in_bounded_pieces() {
        let mut lines = Assembler::default();
        let text = vec![b'x'; PIECE * 2 + 5];
        let mut rest = &text[..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (n, line) = lines.feed(Stream::Stdout, UNIX_EPOCH, rest);
            rest = &rest[n..];
            pieces.extend(line);
        }
        pieces.extend(lines.flush());
        let sizes: Vec<_> = pieces.iter().map(|p| (p.bytes.len(), p.partial)).collect();
        assert_eq!(sizes, [(PIECE, true), (PIECE, true), (5, false)]);
    }
}
