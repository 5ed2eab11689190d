//! Where the last so many lines begin.
//!
//! A plain file is gone through from its end by the index, a block at a time. In a
//! compressed one lines are counted from its beginning: nothing else is possible. The
//! beginning of a file counts as the beginning of a line.

use super::Stream;
use super::index::{Index, nanos};
use super::layout;
use super::lines::PIECE;
use super::read::{Query, Segment, open_from};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where to begin to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// The file's number.
    pub seq: u64,
    /// The offset in it, if it is a plain one.
    pub at: u64,
    /// For stdout, stderr and Berth: what lies before this offset is the end of a line
    /// that isn't wanted.
    pub streams: [u64; 3],
    /// So many wanted lines are to be passed over.
    pub skip: u64,
}

/// The place of a stream in [`Start::streams`].
pub fn slot(stream: Stream) -> Option<usize> {
    match stream {
        Stream::Stdout => Some(0),
        Stream::Stderr => Some(1),
        Stream::Berth => Some(2),
        Stream::Filler => None,
    }
}

const BERTH: usize = 2;

/// The count of lines, going backwards; pure.
#[derive(Debug)]
pub struct Backwards {
    wanted: u64,
    lines: u64,
    seen: [bool; 3],
    starts: [Option<u64>; 3],
    earliest: Option<u64>,
}

impl Backwards {
    /// Looks for the last `wanted` lines.
    pub fn new(wanted: u64) -> Backwards {
        Backwards { wanted, lines: 0, seen: [false; 3], starts: [None; 3], earliest: None }
    }

    /// Whether bytes of this stream still matter.
    pub fn needs(&self, slot: usize) -> bool {
        self.lines < self.wanted || self.starts.get(slot) == Some(&None)
    }

    /// Whether all is known.
    pub fn complete(&self) -> bool {
        self.lines >= self.wanted && self.starts.iter().all(Option::is_some)
    }

    /// Takes bytes that lie before all those given earlier.
    pub fn take(&mut self, slot: usize, offset: u64, bytes: &[u8]) {
        if slot > BERTH {
            return;
        }
        for (i, byte) in bytes.iter().enumerate().rev() {
            let newline = *byte == b'\n';
            // The last line of a stream is one even without a newline.
            let ends_line = newline || !self.seen[slot];
            self.seen[slot] = true;
            if !ends_line {
                continue;
            }
            if newline && self.lines >= self.wanted {
                let after = offset + i as u64 + 1;
                self.starts[slot].get_or_insert(after);
                self.earliest = Some(self.earliest.map_or(after, |e| e.min(after)));
                return;
            }
            self.lines += 1;
            if self.lines == self.wanted && slot != BERTH {
                self.starts[BERTH] = Some(offset + i as u64);
            }
        }
        // Berth's lines are whole in their stretch.
        if slot == BERTH && self.lines >= self.wanted {
            self.starts[BERTH].get_or_insert(offset);
            self.earliest = Some(self.earliest.map_or(offset, |e| e.min(offset)));
        }
    }
}

/// Finds where the last `tail` wanted lines begin.
pub async fn find(dir: &Path, query: &Query, tail: u64) -> io::Result<Start> {
    let found = layout::scan(dir)?;
    let mut count = 0;
    let mut oldest = 0;
    for seq in found.segments.into_keys().rev() {
        let Some(mut segment) = open_from(dir, seq)?.filter(|s| s.seq() == seq) else {
            continue;
        };
        oldest = seq;
        let bounded = query.until.is_some();
        let start = match segment.plain() {
            Some((file, index)) if !bounded => {
                backwards(file, index, query, tail.saturating_sub(count)).await?
            }
            _ => forwards(&mut segment, query).await?,
        };
        count += start.lines;
        if count >= tail {
            return Ok(Start { seq, at: start.at, streams: start.streams, skip: count - tail });
        }
    }
    Ok(Start { seq: oldest, ..Start::default() })
}

#[derive(Default)]
struct Found {
    lines: u64,
    at: u64,
    streams: [u64; 3],
}

/// Counts a file's wanted lines from its beginning.
async fn forwards(segment: &mut Segment, query: &Query) -> io::Result<Found> {
    let mut found = Found::default();
    let mut open = [false; 3];
    while let Some(run) = segment.next()? {
        tokio::task::coop::consume_budget().await;
        let late = query.until.is_some_and(|until| run.time > nanos(until));
        if !query.wants(run.stream) || late {
            continue;
        }
        let newlines = run.bytes.iter().filter(|b| **b == b'\n').count();
        found.lines += newlines as u64;
        if let Some(open) = slot(run.stream).and_then(|slot| open.get_mut(slot)) {
            *open = run.bytes.last() != Some(&b'\n');
        }
    }
    found.lines += open.iter().filter(|open| **open).count() as u64;
    Ok(found)
}

async fn backwards(file: &File, index: &mut Index, query: &Query, tail: u64) -> io::Result<Found> {
    let mut end = file.metadata()?.len();
    let (records, _) = index.end(end)?;
    let mut counted = Backwards::new(tail);
    for stream in [Stream::Stdout, Stream::Stderr, Stream::Berth] {
        if let (false, Some(slot)) = (query.wants(stream), slot(stream)) {
            counted.starts[slot] = Some(u64::MAX);
        }
    }
    if tail == 0 {
        return Ok(Found { lines: 0, at: end, streams: [0; 3] });
    }
    let mut record = records;
    while end > 0 && !counted.complete() {
        let covering = match record.checked_sub(1) {
            Some(at) => index.get_backwards(at)?,
            None => None,
        };
        let start = covering.map_or(0, |r| r.offset);
        let stream = covering.map_or(Stream::Stdout, |r| r.stream);
        if let Some(slot) = slot(stream).filter(|_| query.wants(stream)) {
            while end > start && counted.needs(slot) {
                tokio::task::coop::consume_budget().await;
                let from = start.max(end.saturating_sub(PIECE as u64));
                let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(PIECE)];
                file.read_exact_at(&mut bytes, from)?;
                counted.take(slot, from, &bytes);
                end = from;
            }
        }
        end = end.min(start);
        record = record.saturating_sub(1);
    }
    let whole = !counted.complete();
    Ok(Found {
        lines: counted.lines,
        at: if whole { 0 } else { counted.earliest.unwrap_or(0) },
        streams: counted.starts.map(|s| s.filter(|s| *s != u64::MAX).unwrap_or(0)),
    })
}
