//! The file that is being written, and its index: opening after any kill, appending,
//! rotating. Effects only; what to cut where is decided in [`super::cut`].

use super::Stream;
use super::index::{self, HEADER, Index, RECORD, Record, nanos, time_of};
use super::layout::{self, CURRENT, Form, name};
use rustix::pipe::SpliceFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Moves that follow each other within this time share a record.
const SAME_MOMENT: u64 = 1_000_000;

/// An open log.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    seq: u64,
    text: File,
    index: File,
    size: u64,
    records: u64,
    last: Option<Record>,
    born: SystemTime,
    inside: [bool; 2],
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o640);
    options
}

impl Writer {
    /// Opens the log of `dir` as it was left, or a new one; numbers below `floor` are
    /// not used for what is written from now on.
    ///
    /// # Errors
    /// With the path and what the system said.
    pub fn open(dir: &Path, floor: u64) -> io::Result<Writer> {
        let named = |path: &Path, e: io::Error| {
            io::Error::new(e.kind(), format!("opening the log {}: {e}", path.display()))
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .map_err(|e| named(dir, e))?;
        let found = layout::scan(dir).map_err(|e| named(dir, e))?;
        for orphan in &found.textless {
            layout::remove(&dir.join(name(*orphan, "idx"))).map_err(|e| named(dir, e))?;
        }
        let current = found.segments.iter().find(|(_, f)| **f == Form::Current);
        let seq = match current {
            Some((seq, _)) if *seq >= floor => *seq,
            _ => found.next.max(floor),
        };
        let index_path = dir.join(name(seq, "idx"));
        // The index first: a `current.log` always has one, unless a person removed it.
        let index =
            options().truncate(false).open(&index_path).map_err(|e| named(&index_path, e))?;
        let path = dir.join(CURRENT);
        let text = options().truncate(false).open(&path).map_err(|e| named(&path, e))?;
        let mut writer = Writer {
            dir: dir.to_owned(),
            seq,
            text,
            index,
            size: 0,
            records: 0,
            last: None,
            born: SystemTime::now(),
            inside: [false; 2],
        };
        writer.resume().map_err(|e| named(&index_path, e))?;
        for (old, form) in &found.segments {
            if *form == Form::Current && *old != seq {
                layout::remove(&dir.join(name(*old, "idx"))).map_err(|e| named(dir, e))?;
            }
        }
        Ok(writer)
    }

    /// Finds out where an earlier capture stopped.
    fn resume(&mut self) -> io::Result<()> {
        let meta = self.text.metadata()?;
        self.size = meta.len();
        let mut index = Index::new(Some(self.index.try_clone()?));
        if !index.usable() {
            self.index.set_len(0)?;
            self.index.write_all_at(&index::header(), 0)?;
            index = Index::new(Some(self.index.try_clone()?));
        }
        let (count, last) = index.end(self.size)?;
        self.index.set_len(HEADER + count * RECORD)?;
        (self.records, self.last) = (count, last);
        match index.get(0)? {
            Some(first) => self.born = time_of(first.time),
            None if self.size > 0 => {
                // Text without an index: somebody's copy, or the index was removed.
                self.born = meta.modified().unwrap_or(self.born);
                self.record_at(0, Stream::Stdout, nanos(self.born))?;
            }
            None => {}
        }
        let mut end = self.size;
        let mut seen = [false; 2];
        for at in (0..self.records).rev() {
            let Some(record) = index.get(at)? else { break };
            if let Some(slot) = slot(record.stream)
                && record.offset < end
                && !seen[slot]
            {
                seen[slot] = true;
                self.inside[slot] = self.byte(end - 1)? != Some(b'\n');
            }
            end = end.min(record.offset);
            // Far back it no longer matters for how the raw file looks.
            if seen == [true; 2] || self.records - at > 10_000 {
                break;
            }
        }
        Ok(())
    }

    fn byte(&self, at: u64) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.text.read_at(&mut byte, at)? == 1).then_some(byte[0]))
    }

    fn record_at(&mut self, offset: u64, stream: Stream, time: u64) -> io::Result<()> {
        let record = Record { offset, time, stream };
        let at = HEADER + self.records * RECORD;
        self.index.write_all_at(&record.encode(), at)?;
        self.records += 1;
        self.last = Some(record);
        Ok(())
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file's number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the file got its first byte.
    pub fn born(&self) -> SystemTime {
        self.born
    }

    /// No stream is inside a line.
    pub fn closed(&self) -> bool {
        self.inside == [false; 2]
    }

    /// Whether `current.log` is still the file that we write, and nobody cut it
    /// short. What somebody appended is taken as belonging to the last writer.
    pub fn intact(&mut self) -> io::Result<bool> {
        let named = match std::fs::symlink_metadata(self.dir.join(CURRENT)) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let own = self.text.metadata()?;
        if (named.ino(), named.dev()) != (own.ino(), own.dev()) || own.len() < self.size {
            return Ok(false);
        }
        self.size = own.len();
        Ok(true)
    }

    /// Notes who comes next, and ends a line of somebody else in the raw file.
    fn announce(&mut self, stream: Stream) -> io::Result<()> {
        let now = SystemTime::now();
        let time = nanos(now);
        if self.size == 0 {
            self.born = now;
        }
        if let Some(last) = self.last {
            let fresh = time.checked_sub(last.time).is_some_and(|d| d < SAME_MOMENT);
            if last.stream == stream && fresh {
                return Ok(());
            }
            let inside = slot(last.stream).is_some_and(|slot| self.inside[slot]);
            if last.stream != stream && inside && last.offset < self.size {
                self.record_at(self.size, Stream::Filler, time)?;
                self.put(b"\n")?;
            }
        }
        self.record_at(self.size, stream, time)
    }

    /// Moves `count` bytes, which are there, from a FIFO to the file; how many it were.
    ///
    /// # Errors
    /// What was not moved is still in the FIFO.
    pub fn splice(&mut self, stream: Stream, fifo: impl AsFd, count: usize) -> io::Result<usize> {
        self.announce(stream)?;
        let from = self.size;
        let mut left = count;
        let outcome = loop {
            if left == 0 {
                break Ok(());
            }
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            let mut at = self.size;
            match rustix::pipe::splice(&fifo, None, &self.text, Some(&mut at), left, flags) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => break Ok(()),
                Ok(n) => {
                    left -= n.min(left);
                    self.size += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => break Err(e.into()),
            }
        };
        if self.size > from
            && let Some(slot) = slot(stream)
        {
            self.inside[slot] = self.byte(self.size - 1)? != Some(b'\n');
        }
        outcome.map(|()| count - left)
    }

    /// Writes a line of Berth's own. A line that `cut` says was dropped in its middle
    /// is ended first.
    pub fn note(&mut self, text: &str, cut: [bool; 2]) -> io::Result<()> {
        for (slot, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            if cut[slot] && self.inside[slot] {
                self.announce(stream)?;
                self.put(b"\n")?;
                self.inside[slot] = false;
            }
        }
        self.announce(Stream::Berth)?;
        self.put(text.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.text.write_all_at(bytes, self.size)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Goes on in a new file after somebody truncated, removed or replaced this one.
    ///
    /// A truncated file is not written to again: a follower who still holds it could
    /// not tell new bytes from those it has read.
    ///
    /// # Errors
    /// The writer must then be opened anew.
    pub fn replace(self) -> io::Result<Writer> {
        let path = self.dir.join(CURRENT);
        let own = self.text.metadata()?;
        let ours = match std::fs::symlink_metadata(&path) {
            Ok(named) => (named.ino(), named.dev()) == (own.ino(), own.dev()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        if ours && own.len() > 0 {
            return self.rotate();
        }
        if ours {
            layout::remove(&path)?;
        }
        Writer::open(&self.dir, self.seq + 1)
    }

    /// Gives `current.log` its number and begins a new one.
    ///
    /// # Errors
    /// The writer must then be opened anew: it may hold the renamed file.
    pub fn rotate(self) -> io::Result<Writer> {
        let (from, to) = (self.dir.join(CURRENT), self.dir.join(name(self.seq, "log")));
        match std::fs::rename(&from, &to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                let what = format!("rotating the log {}: {e}", from.display());
                return Err(io::Error::new(e.kind(), what));
            }
            _ => {}
        }
        let inside = self.inside;
        let mut next = Writer::open(&self.dir, self.seq + 1)?;
        next.inside = inside;
        Ok(next)
    }
}

fn slot(stream: Stream) -> Option<usize> {
    match stream {
        Stream::Stdout => Some(0),
        Stream::Stderr => Some(1),
        Stream::Berth | Stream::Filler => None,
    }
}
