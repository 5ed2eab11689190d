//! A tar stream read front to back.

use std::io::Read;

use super::entry::{Entry, Kind, Time};
use super::error::{Error, shown};
use super::header::{BLOCK, Header};
use super::limits::Limits;
use super::pax::{self, Pax};
use super::sparse::{self, Map};

/// Enough that a file is mostly one write, little enough to stay in the cache.
const BUFFER: usize = 256 << 10;
/// Files up to this size are given in one piece.
const WHOLE: u64 = 64 << 10;
/// The most that a PAX header or a GNU long name may have; Go's reader has the same.
const MAX_EXTENSION: u64 = 1 << 20;

/// A piece of a file's content.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'b> {
    /// Where in the file it belongs; there is a hole between it and the last one.
    pub offset: u64,
    /// Never empty.
    pub bytes: &'b [u8],
}

/// Reads entries and their content from a stream.
///
/// It understands ustar, old tar, GNU (long names, base-256 numbers, sparse files),
/// star and PAX with all sparse forms. Content after a header that has none (links,
/// directories, devices) does not exist, as for Go's reader.
pub struct Reader<'s> {
    stream: &'s mut dyn Read,
    limits: Limits,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes taken from the stream by the archive so far.
    offset: u64,
    /// Bytes of files, holes counted.
    unpacked: u64,
    entries: u64,
    /// The current entry: for messages, what is left of it, the zeros after it.
    current: String,
    left: u64,
    padding: u64,
    /// The parts of a sparse file that are still to come, the next one last.
    parts: Vec<(u64, u64)>,
    /// Where the next piece belongs, and how much of its part is left.
    position: u64,
    part: u64,
}

impl<'s> Reader<'s> {
    /// A reader of an uncompressed archive.
    pub fn new(stream: &'s mut dyn Read, limits: &Limits) -> Reader<'s> {
        Reader {
            stream,
            limits: *limits,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            unpacked: 0,
            entries: 0,
            current: String::new(),
            left: 0,
            padding: 0,
            parts: Vec::new(),
            position: 0,
            part: 0,
        }
    }

    /// Bytes of the stream so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of files so far, holes counted.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// A complaint about the current entry.
    pub fn malformed(&self, why: impl Into<String>) -> Error {
        Error::Malformed { entry: self.current.clone(), offset: self.offset, why: why.into() }
    }

    /// The current entry asks for more than there is.
    pub fn exceeded(&self, what: &'static str, limit: u64) -> Error {
        Error::Limit { entry: self.current.clone(), what, limit }
    }

    /// The next entry, whatever was read of the last one; `None` at the end.
    ///
    /// Errors: [`Error::Stream`] as the stream gave it, also `UnexpectedEof` for an
    /// archive that breaks off; [`Error::Malformed`]; [`Error::Limit`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        self.finish_entry()?;
        let mut pax = Pax::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            // Headers of headers count too: a stream of nothing else has an end.
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.exceeded("entries", self.limits.entries));
            }
            match header.kind() {
                b'x' => {
                    let text = self.extension(&header)?;
                    pax = Pax::parse(&text).map_err(|why| self.malformed(why))?;
                }
                b'g' => {
                    // Go's reader, and so every other engine, applies none of them.
                    let text = self.extension(&header)?;
                    Pax::parse(&text).map_err(|why| self.malformed(why))?;
                }
                b'L' => long_path = Some(name_of(self.extension(&header)?)),
                b'K' => long_link = Some(name_of(self.extension(&header)?)),
                _ => return self.entry(&header, pax, long_path, long_link).map(Some),
            }
        }
    }

    /// The next piece of the current entry's content; `None` when it is complete.
    pub fn chunk(&mut self) -> Result<Option<Chunk<'_>>, Error> {
        while self.part == 0 {
            match self.parts.pop() {
                Some((offset, length)) => (self.position, self.part) = (offset, length),
                None => return Ok(None),
            }
        }
        if self.part <= WHOLE {
            self.fill(self.part as usize)?;
        } else if self.start == self.end {
            self.fill(BUFFER)?;
        }
        let length = usize::try_from(self.part).unwrap_or(BUFFER).min(self.end - self.start);
        if length == 0 {
            return Err(broken_off());
        }
        let offset = self.position;
        self.part -= length as u64;
        self.position += length as u64;
        self.left -= length as u64;
        let start = self.take(length)?;
        let bytes = self.buffer.get(start..start + length).unwrap_or_default();
        Ok(Some(Chunk { offset, bytes }))
    }

    /// Reads to the stream's end: a digest is of all bytes, also those after the
    /// archive's end.
    pub fn drain(&mut self) -> Result<(), Error> {
        loop {
            self.take(self.end - self.start)?;
            if self.fill(BUFFER)? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads until `wanted` bytes are there or the stream ends; how many there are.
    fn fill(&mut self, wanted: usize) -> Result<usize, Error> {
        if self.start + wanted > BUFFER {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < wanted {
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => break,
                Ok(got) => self.end = (self.end + got).min(BUFFER),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Stream(e)),
            }
        }
        Ok(self.end - self.start)
    }

    /// Takes bytes out of the buffer; where they stand.
    fn take(&mut self, length: usize) -> Result<usize, Error> {
        let start = self.start;
        self.start += length;
        self.offset += length as u64;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.offset > self.limits.bytes {
            return Err(self.exceeded("bytes of stream", self.limits.bytes));
        }
        Ok(start)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        match self.fill(BLOCK)? {
            0 => return Ok(None),
            1..BLOCK => return Err(broken_off()),
            _ => {}
        }
        let start = self.take(BLOCK)?;
        let bytes = self.buffer.get(start..start + BLOCK).unwrap_or_default();
        let block = <[u8; BLOCK]>::try_from(bytes);
        block.map(Some).map_err(|_| self.malformed("half a block"))
    }

    /// The next header. An archive ends with two blocks of zeros; that many leave
    /// them out, at a header's place, is so common that it is no error.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.block()? {
                None => Ok(None),
                Some(block) if block == [0; BLOCK] => Ok(None),
                Some(_) => Err(self.malformed("a block of zeros between two headers")),
            };
        }
        match Header::parse(block) {
            Some(header) => Ok(Some(header)),
            None => Err(self.malformed("a header's checksum is wrong: this is no tar archive, or it is damaged (is it still compressed?)")),
        }
    }

    /// The content of a header that belongs to the next one.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = self.size(header)?;
        if size > MAX_EXTENSION {
            return Err(self.exceeded("bytes of a PAX header or a long name", MAX_EXTENSION));
        }
        self.content(size, size);
        let mut text = Vec::with_capacity(size as usize);
        while let Some(chunk) = self.chunk()? {
            text.extend_from_slice(chunk.bytes);
        }
        self.finish_entry()?;
        Ok(text)
    }

    fn size(&self, header: &Header) -> Result<u64, Error> {
        let size = header.size().and_then(|size| u64::try_from(size).ok());
        size.ok_or_else(|| self.malformed("a size that is no number"))
    }

    /// Content of `stored` bytes follows, which is one part.
    fn content(&mut self, stored: u64, size: u64) {
        self.left = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        self.parts.clear();
        self.parts.push((0, size));
        self.part = 0;
    }

    /// Passes over what was not read of the current entry.
    fn finish_entry(&mut self) -> Result<(), Error> {
        self.parts.clear();
        self.part = 0;
        let mut rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        while rest > 0 {
            let wanted = usize::try_from(rest).unwrap_or(BUFFER).min(BUFFER);
            let there =
                if self.start == self.end { self.fill(wanted)? } else { self.end - self.start };
            if there == 0 {
                return Err(broken_off());
            }
            let length = there.min(wanted);
            self.take(length)?;
            rest -= length as u64;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, Error> {
        let path = pax.path.or(long_path).unwrap_or_else(|| header.path());
        let path = pax.sparse.name.clone().unwrap_or(path);
        self.current = shown(&path);
        let link = pax.link.or(long_link).unwrap_or_else(|| header.link().to_vec());
        let number = |value: Option<i64>, what: &str| {
            value.ok_or_else(|| self.malformed(format!("{what} is no number")))
        };
        let id = |value: i64, what: &str| {
            // The last id means "leave it" to chown(2).
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| self.malformed(format!("{what} {value} does not exist")))
        };
        let mode = number(header.mode(), "the mode")? as u32 & 0o7777;
        let uid = id(number(pax.uid.or(header.uid()), "the owner")?, "the user id")?;
        let gid = id(number(pax.gid.or(header.gid()), "the group")?, "the group id")?;
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time { seconds: number(header.mtime(), "the time")?, nanoseconds: 0 },
        };
        let device = || {
            let (major, minor) = header.device()?;
            Some((u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
        };
        let no_device = || self.malformed("the device's number is none");
        let kind = match header.kind() {
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(a, b)| Kind::Character(a, b)).ok_or_else(no_device)?,
            b'4' => device().map(|(a, b)| Kind::Block(a, b)).ok_or_else(no_device)?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'0' | 0 | b'7' | b'S' => {
                let stored = match pax.size {
                    Some(size) => size,
                    None => self.size(header)?,
                };
                if path.ends_with(b"/") {
                    // Before there was a type for directories.
                    if stored != 0 {
                        return Err(self.malformed("a directory with content"));
                    }
                    Kind::Directory
                } else {
                    Kind::File { size: self.file(header, &pax.sparse, stored)? }
                }
            }
            other => {
                let why = format!("an entry of the unknown type `{}`", other.escape_ascii());
                return Err(self.malformed(why));
            }
        };
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs: pax.xattrs })
    }

    /// Prepares a file's content; its length.
    fn file(&mut self, header: &Header, pax: &pax::Sparse, stored: u64) -> Result<u64, Error> {
        self.content(stored, stored);
        let map = match (header.kind(), pax.major, pax.minor) {
            (b'S', ..) => Some(self.old_map(header, stored)?),
            (_, Some(1), Some(0)) => Some(self.map_in_content(pax, stored)?),
            (_, Some(0) | None, Some(0 | 1) | None) => match pax.size {
                Some(size) => Some(self.checked(pax.parts.clone(), size, stored)?),
                None => None,
            },
            _ => return Err(self.malformed("an unknown form of sparse file")),
        };
        let size = map.as_ref().map_or(stored, |map| map.size);
        self.unpacked = self.unpacked.saturating_add(size);
        if self.unpacked > self.limits.bytes {
            return Err(self.exceeded("bytes of files", self.limits.bytes));
        }
        if let Some(map) = map {
            self.parts = map.parts;
            self.parts.reverse();
            self.part = 0;
        }
        Ok(size)
    }

    fn checked(&self, parts: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Map, Error> {
        Map::new(parts, size, stored)
            .ok_or_else(|| self.malformed("the map of a sparse file is wrong"))
    }

    fn old_map(&mut self, header: &Header, stored: u64) -> Result<Map, Error> {
        let wrong = "the map of a sparse file is wrong";
        let (mut parts, mut more, size) =
            sparse::in_header(header).ok_or_else(|| self.malformed(wrong))?;
        while more {
            let block = self.block()?.ok_or_else(broken_off)?;
            more = sparse::in_block(&block, &mut parts).ok_or_else(|| self.malformed(wrong))?;
        }
        self.checked(parts, size, stored)
    }

    /// PAX 1.0: decimal lines before the content (how many parts, then each part's
    /// offset and length), filled up to a block.
    fn map_in_content(&mut self, pax: &pax::Sparse, stored: u64) -> Result<Map, Error> {
        let wrong = "the map of a sparse file is wrong";
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            if self.left < BLOCK as u64 {
                return Err(self.malformed(wrong));
            }
            let block = self.block()?.ok_or_else(broken_off)?;
            self.left -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                numbers.push(pax::decimal(&line).ok_or_else(|| self.malformed(wrong))?);
                line.clear();
                if let [count] = numbers.as_slice() {
                    let count = usize::try_from(*count).ok().filter(|n| *n <= sparse::MAX_PARTS);
                    wanted = 1 + 2 * count.ok_or_else(|| self.malformed(wrong))?;
                }
                if numbers.len() == wanted {
                    break;
                }
            }
            if line.len() > 2 * BLOCK {
                return Err(self.malformed(wrong));
            }
        }
        let parts = numbers.get(1..).unwrap_or_default().chunks_exact(2);
        let parts = parts.filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect();
        let size = pax.size.ok_or_else(|| self.malformed("a sparse file without its size"))?;
        debug_assert!(self.left <= stored);
        self.checked(parts, size, self.left)
    }
}

fn broken_off() -> Error {
    Error::Stream(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "the archive breaks off in the middle",
    ))
}

/// GNU's long name, which ends with a NUL.
fn name_of(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}
