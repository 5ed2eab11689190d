//! Reading a log back: line by line, through rotated and compressed files, and on as it
//! grows.
//!
//! A reader holds one open file, at most 64 KiB of it and 64 KiB of unfinished line a
//! stream. A file stays readable while it is renamed, compressed or removed; one that
//! retention removed before the reader came to it is passed over.

use super::Stream;
use super::index::{Index, nanos, time_of};
use super::layout::{self, Form, Layout, name};
use super::lines::{Assembler, Line, PIECE};
use super::registry::Pulse;
use super::tail::{self, Start};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// What of a log is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Goes on as the log grows, until it is said to have ended.
    pub follow: bool,
    /// Only so many of the last lines (of the wanted streams), then what follows.
    pub tail: Option<u64>,
    /// Lines from this time on.
    pub since: Option<SystemTime>,
    /// Lines up to this time; a follower ends then.
    pub until: Option<SystemTime>,
    /// Standard output. Berth's own notes come with either.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Default for Query {
    fn default() -> Self {
        Query { follow: false, tail: None, since: None, until: None, stdout: true, stderr: true }
    }
}

impl Query {
    /// Whether lines of this stream are wanted.
    pub fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
            Stream::Berth => true,
            Stream::Filler => false,
        }
    }
}

/// Where the bytes of a file come from.
enum Source {
    Plain(File),
    Zstd(Box<zstd::Decoder<'static, io::BufReader<File>>>),
}

/// One file of the log, and how far it has been read.
pub(super) struct Segment {
    seq: u64,
    source: Source,
    index: Index,
    /// The record that covers `at`; none before the first.
    record: Option<u64>,
    at: u64,
    modified: u64,
}

/// A stretch of one stream.
#[derive(Debug)]
pub(super) struct Run {
    pub stream: Stream,
    pub time: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// More than any rotation needs; a name that can't be opened must not hold us for ever.
const LOOKS: u32 = 1000;

/// Opens the first file numbered `from` or more. Looks again when a rotation, a
/// compression or the retention came between looking and opening.
pub(super) fn open_from(dir: &Path, from: u64) -> io::Result<Option<Segment>> {
    for _ in 0..LOOKS {
        let found = layout::scan(dir)?;
        let Some((&seq, &form)) = found.segments.range(from..).next() else {
            return Ok(None);
        };
        let file = match File::open(layout::path(dir, seq, form)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let index = match File::open(dir.join(name(seq, "idx"))) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        // `current.log` is another file after a rotation: was it this number's?
        if form == Form::Current && layout::scan(dir)?.segments.get(&seq) != Some(&form) {
            continue;
        }
        let modified = file.metadata()?.modified().map_or(0, nanos);
        let source = match form {
            Form::Zstd => Source::Zstd(Box::new(zstd::Decoder::new(file)?)),
            Form::Plain | Form::Current => Source::Plain(file),
        };
        return Ok(Some(Segment {
            seq,
            source,
            index: Index::new(index),
            record: None,
            at: 0,
            modified,
        }));
    }
    let what =
        format!("the files of the log {} change faster than they can be opened", dir.display());
    Err(io::Error::other(what))
}

impl Segment {
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn offset(&self) -> u64 {
        self.at
    }

    /// The file itself if it is a plain one, with its index and modification time.
    pub(super) fn plain(&mut self) -> Option<(&File, &mut Index)> {
        match &self.source {
            Source::Plain(file) => Some((file, &mut self.index)),
            Source::Zstd(_) => None,
        }
    }

    /// The time of its first byte, as far as is known.
    pub(super) fn born(&mut self) -> io::Result<u64> {
        Ok(self.index.get(0)?.map_or(self.modified, |first| first.time))
    }

    /// Goes to where a plain file ends now; before reading.
    pub(super) fn seek_end(&mut self) -> io::Result<()> {
        if let Source::Plain(file) = &self.source {
            self.at = file.metadata()?.len();
        }
        Ok(())
    }

    /// Goes to an offset; only of a plain file, before reading.
    pub(super) fn seek(&mut self, at: u64) {
        if matches!(self.source, Source::Plain(_)) {
            self.at = at;
        }
    }

    /// The next stretch; none at the end of what is there now.
    pub(super) fn next(&mut self) -> io::Result<Option<Run>> {
        // The size before the index: what is within it has its record already.
        let size = match &self.source {
            Source::Plain(file) => file.metadata()?.len(),
            Source::Zstd(_) => u64::MAX,
        };
        let end = loop {
            let next = self.record.map_or(0, |r| r + 1);
            match self.index.get(next)? {
                Some(record) if record.offset <= self.at => self.record = Some(next),
                Some(record) => break record.offset.min(size),
                None => break size,
            }
        };
        if end <= self.at {
            return Ok(None);
        }
        let covering = match self.record {
            Some(record) => self.index.get(record)?,
            None => None,
        };
        let wanted = usize::try_from(end - self.at).map_or(PIECE, |n| n.min(PIECE));
        let mut bytes = vec![0; wanted];
        let got = match &mut self.source {
            Source::Plain(file) => file.read_at(&mut bytes, self.at)?,
            Source::Zstd(decoder) => decoder.read(&mut bytes)?,
        };
        if got == 0 {
            return Ok(None);
        }
        bytes.truncate(got);
        let run = Run {
            stream: covering.map_or(Stream::Stdout, |r| r.stream),
            time: covering.map_or(self.modified, |r| r.time),
            offset: self.at,
            bytes,
        };
        self.at += got as u64;
        Ok(Some(run))
    }
}

/// Hands out a log's lines; made by [`super::Logs::read`].
pub struct Reader {
    dir: PathBuf,
    query: Query,
    pulse: watch::Receiver<Pulse>,
    state: State,
    lines: Assembler,
    run: Option<(Run, usize)>,
    /// Lines still to be passed over, of those that are wanted.
    skip: u64,
    starts: Option<(u64, [u64; 3])>,
}

enum State {
    Fresh,
    In(Segment),
    /// Nothing is there yet with this number or a higher one.
    Before(u64),
    Flushing,
    Done,
}

impl Reader {
    pub(super) fn new(dir: PathBuf, query: Query, pulse: watch::Receiver<Pulse>) -> Reader {
        Reader {
            dir,
            query,
            pulse,
            state: State::Fresh,
            lines: Assembler::default(),
            run: None,
            skip: 0,
            starts: None,
        }
    }

    /// The next line; none at the end. Safe to drop half-way, as `select!` does.
    ///
    /// # Errors
    /// A file can't be read, with what the system said; a compressed one may be damaged.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(line) = self.pending() {
                if self.past(nanos(line.time)) {
                    self.state = State::Done;
                    self.run = None;
                    return Ok(None);
                }
                if self.wanted(&line) {
                    return Ok(Some(line));
                }
            }
            // A long way through old lines must not keep the engine from its work.
            tokio::task::coop::consume_budget().await;
            let ended = self.pulse.borrow_and_update().ended;
            match &mut self.state {
                State::Done => return Ok(None),
                State::Flushing => match self.lines.flush() {
                    Some(line) if self.wanted(&line) => return Ok(Some(line)),
                    Some(_) => {}
                    None => self.state = State::Done,
                },
                State::Fresh => self.begin().await?,
                State::In(segment) => {
                    if let Some(run) = segment.next()? {
                        self.run = Some((run, 0));
                        continue;
                    }
                    let seq = segment.seq;
                    let Some(next) = open_from(&self.dir, seq + 1)? else {
                        self.at_end(ended).await;
                        continue;
                    };
                    // What was written between the look at the end and the rotation.
                    match segment.next()? {
                        Some(run) => self.run = Some((run, 0)),
                        None => self.state = State::In(next),
                    }
                }
                State::Before(from) => match open_from(&self.dir, *from)? {
                    Some(segment) => self.state = State::In(segment),
                    None => self.at_end(ended).await,
                },
            }
        }
    }

    /// All that is there has been read: waits for more, or ends.
    async fn at_end(&mut self, ended: bool) {
        if !self.query.follow || ended {
            self.state = State::Flushing;
            return;
        }
        let left = self
            .query
            .until
            .map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        let over = match left {
            None => self.pulse.changed().await.is_err(),
            Some(Duration::ZERO) => true,
            Some(left) => match tokio::time::timeout(left, self.pulse.changed()).await {
                Ok(changed) => changed.is_err(),
                Err(_) => true,
            },
        };
        if over {
            self.state = State::Flushing;
        }
    }

    /// Finds the place to begin at.
    async fn begin(&mut self) -> io::Result<()> {
        let start = match self.query.tail {
            Some(tail) => tail::find(&self.dir, &self.query, tail).await?,
            None => Start { seq: self.first_since()?, ..Start::default() },
        };
        self.skip = start.skip;
        let Some(mut segment) = open_from(&self.dir, start.seq)? else {
            self.state = State::Before(start.seq);
            return Ok(());
        };
        if segment.seq == start.seq {
            segment.seek(start.at);
            self.starts = Some((start.seq, start.streams));
        }
        self.state = State::In(segment);
        Ok(())
    }

    /// The last file that began before `since`: older ones hold older lines only.
    fn first_since(&self) -> io::Result<u64> {
        let Some(since) = self.query.since.map(nanos) else {
            return Ok(0);
        };
        let Layout { segments, .. } = layout::scan(&self.dir)?;
        for seq in segments.into_keys().rev() {
            if let Some(mut segment) = open_from(&self.dir, seq)?
                && segment.seq == seq
                && segment.born()? < since
            {
                return Ok(seq);
            }
        }
        Ok(0)
    }

    fn pending(&mut self) -> Option<Line> {
        let seq = match &self.state {
            State::In(segment) => segment.seq,
            _ => return None,
        };
        while let Some((run, used)) = &mut self.run {
            if let Some((first, streams)) = &self.starts
                && *first == seq
                && let Some(start) = tail::slot(run.stream).and_then(|slot| streams.get(slot))
            {
                let before = start.saturating_sub(run.offset + *used as u64);
                let before = usize::try_from(before).unwrap_or(usize::MAX);
                *used = used.saturating_add(before).min(run.bytes.len());
            }
            let rest = run.bytes.get(*used..).unwrap_or_default();
            if rest.is_empty() {
                self.run = None;
                continue;
            }
            let (taken, line) = self.lines.feed(run.stream, time_of(run.time), rest);
            *used += taken;
            if line.is_some() {
                return line;
            }
        }
        None
    }

    fn past(&self, time: u64) -> bool {
        self.query.until.is_some_and(|until| time > nanos(until))
    }

    fn wanted(&mut self, line: &Line) -> bool {
        if !self.query.wants(line.stream)
            || self.query.since.is_some_and(|since| line.time < since)
            || self.past(nanos(line.time))
        {
            return false;
        }
        if self.skip > 0 {
            // A line in pieces counts once, with its last.
            self.skip -= u64::from(!line.partial);
            return false;
        }
        true
    }
}
