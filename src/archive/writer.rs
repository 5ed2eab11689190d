//! A tar stream written front to back.

use std::io::{self, Write};

use super::entry::{Entry, Kind, Time};
use super::error::Error;
use super::header::{BLOCK, Header, MAX_ID, MAX_SIZE};
use super::pax;

const BUFFER: usize = 256 << 10;

/// Writes entries. The same entries give the same bytes: ustar headers without user
/// names, access and change times, and a PAX header before those that ustar can't
/// say, its records in a fixed order.
pub struct Writer<'w> {
    out: io::BufWriter<&'w mut dyn Write>,
    /// What is still missing of the current file, and the zeros after it.
    left: u64,
    padding: u64,
}

impl<'w> Writer<'w> {
    /// A writer to an uncompressed stream.
    pub fn new(out: &'w mut dyn Write) -> Writer<'w> {
        Writer { out: io::BufWriter::with_capacity(BUFFER, out), left: 0, padding: 0 }
    }

    /// Begins an entry. For a file its content follows by [`Writer::content`]; what
    /// is missing of it is made up with zeros.
    pub fn begin(&mut self, entry: &Entry) -> Result<(), Error> {
        self.complete()?;
        let (header, records) = encode(entry);
        if !records.is_empty() {
            let mut extension = Header::new(b'x');
            // Go, and so Docker, name it so; nobody reads it.
            let base = entry.path.rsplit(|b| *b == b'/').find(|part| !part.is_empty());
            extension.put_short(&[b"PaxHeaders.0/", base.unwrap_or_default()].concat());
            extension.put_mode(0o644);
            extension.put_size(records.len() as u64);
            self.put(&extension.sealed())?;
            self.put(&records)?;
            self.zeros((records.len() as u64).wrapping_neg() % BLOCK as u64)?;
        }
        self.put(&header.sealed())?;
        if let Kind::File { size } = entry.kind {
            self.left = size;
            self.padding = size.wrapping_neg() % BLOCK as u64;
        }
        Ok(())
    }

    /// The next bytes of the file that was begun; how many it still wants. What goes
    /// beyond the declared size is left out.
    pub fn content(&mut self, bytes: &[u8]) -> Result<u64, Error> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.put(bytes.get(..length).unwrap_or_default())?;
        self.left -= length as u64;
        Ok(self.left)
    }

    /// Ends the archive, and gives everything to the stream below.
    pub fn finish(mut self) -> Result<(), Error> {
        self.complete()?;
        self.zeros(2 * BLOCK as u64)?;
        self.out.flush().map_err(Error::Stream)
    }

    fn complete(&mut self) -> Result<(), Error> {
        let missing = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        self.zeros(missing)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), Error> {
        let zeros = [0; 8 * BLOCK];
        while count > 0 {
            let length = usize::try_from(count).unwrap_or(usize::MAX).min(zeros.len());
            self.put(zeros.get(..length).unwrap_or_default())?;
            count -= length as u64;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Stream)
    }
}

/// The header, and the PAX records that it needs, sorted by their keys.
fn encode(entry: &Entry) -> (Header, Vec<u8>) {
    let (kind, size, link, device) = match &entry.kind {
        Kind::File { size } => (b'0', *size, &[][..], None),
        Kind::HardLink(target) => (b'1', 0, target.as_slice(), None),
        Kind::Symlink(target) => (b'2', 0, target.as_slice(), None),
        Kind::Character(major, minor) => (b'3', 0, &[][..], Some((*major, *minor))),
        Kind::Block(major, minor) => (b'4', 0, &[][..], Some((*major, *minor))),
        Kind::Directory => (b'5', 0, &[][..], None),
        Kind::Fifo => (b'6', 0, &[][..], None),
    };
    let mut header = Header::new(kind);
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut record = |key: &str, value: &[u8]| records.push((key.into(), value.to_vec()));
    if !header.put_path(&entry.path) {
        header.put_short(&entry.path);
        record("path", &entry.path);
    }
    if !header.put_link(link) {
        record("linkpath", link);
    }
    match size {
        ..=MAX_SIZE => header.put_size(size),
        size => record("size", size.to_string().as_bytes()),
    }
    header.put_mode(entry.mode);
    match u64::from(entry.uid) {
        uid @ ..=MAX_ID => header.put_uid(uid),
        uid => record("uid", uid.to_string().as_bytes()),
    }
    match u64::from(entry.gid) {
        gid @ ..=MAX_ID => header.put_gid(gid),
        gid => record("gid", gid.to_string().as_bytes()),
    }
    match entry.mtime {
        Time { seconds: seconds @ 0.., nanoseconds: 0 } if seconds as u64 <= MAX_SIZE => {
            header.put_mtime(seconds as u64);
        }
        time => {
            header.put_mtime((time.seconds.max(0) as u64).min(MAX_SIZE));
            record("mtime", pax::time_text(time).as_bytes());
        }
    }
    if let Some((major, minor)) = device {
        header.put_device(major, minor);
    }
    for (name, value) in &entry.xattrs {
        // A key can't have `=` in PAX; no attribute that matters does.
        if !name.contains(&b'=') {
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
    }
    records.sort();
    let mut text = Vec::new();
    for (key, value) in records {
        pax::append(&mut text, &key, &value);
    }
    (header, text)
}
