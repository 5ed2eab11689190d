//! Files into an archive.

use std::collections::HashMap;
use std::io::{Read, Write};

use rustix::io::Errno;

use super::entry::{Entry, Kind};
use super::error::Error;
use super::node::Node;
use super::writer::Writer;
use crate::sys::userns::IdRange;

const BUFFER: usize = 128 << 10;
/// Who owns what belongs to nobody in the user namespace: the kernel's overflow id.
const NOBODY: u32 = 65534;

/// Writes files into an archive: hard links are kept, sockets left out, and a file
/// that shrinks, grows or vanishes meanwhile leaves the archive whole.
pub struct Packer<'w> {
    writer: Writer<'w>,
    /// The first path of each file with several names.
    linked: HashMap<(u64, u64), Vec<u8>>,
    ids: Option<IdRange>,
    owner: Option<(u32, u32)>,
    in_seconds: bool,
    buffer: Vec<u8>,
    entries: u64,
}

impl<'w> Packer<'w> {
    /// A packer to an uncompressed stream. With `ids`, owners are those inside that
    /// user namespace.
    pub fn new(out: &'w mut dyn Write, ids: Option<IdRange>) -> Packer<'w> {
        Packer {
            writer: Writer::new(out),
            linked: HashMap::new(),
            ids,
            owner: None,
            in_seconds: false,
            buffer: vec![0; BUFFER],
            entries: 0,
        }
    }

    /// The same, but all of it belongs to this user and group.
    pub fn owned_by(self, owner: Option<(u32, u32)>) -> Packer<'w> {
        Packer { owner, ..self }
    }

    /// The same with times of whole seconds. Others need an entry of PAX beside them, which
    /// simple readers of archives take for the file.
    pub fn in_seconds(self) -> Packer<'w> {
        Packer { in_seconds: true, ..self }
    }

    /// Appends one file under a path; a directory alone, without what is in it.
    pub fn add(&mut self, path: &[u8], node: &Node) -> Result<(), Error> {
        let failed = |step, e: Errno| Error::at(step, path, e);
        let several = node.stat().st_nlink > 1 && !node.is_directory();
        let file = (node.stat().st_dev, node.stat().st_ino);
        let mut name = path.to_vec();
        if node.is_directory() {
            name.push(b'/');
        }
        let entry = match node.entry(name) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(Errno::NOENT | Errno::STALE) => return Ok(()),
            Err(e) => return Err(failed("read", e)),
        };
        let (uid, gid) =
            self.owner.unwrap_or_else(|| (self.inside(entry.uid), self.inside(entry.gid)));
        let mut entry = Entry { uid, gid, ..entry };
        if self.in_seconds {
            entry.mtime.nanoseconds = 0;
        }
        if several && let Some(first) = self.linked.get(&file) {
            entry.kind = Kind::HardLink(first.clone());
            entry.xattrs.clear();
            return self.put(&entry);
        }
        match entry.kind {
            Kind::File { size } => {
                let mut content = match node.read() {
                    Ok(content) => content,
                    Err(Errno::NOENT | Errno::STALE) => return Ok(()),
                    Err(e) => return Err(failed("open", e)),
                };
                self.put(&entry)?;
                self.copy(path, &mut content, size)?;
            }
            _ => self.put(&entry)?,
        }
        if several {
            self.linked.insert(file, path.to_vec());
        }
        Ok(())
    }

    /// Appends an entry that has no content of its own, such as a whiteout.
    pub fn put(&mut self, entry: &Entry) -> Result<(), Error> {
        self.entries += 1;
        self.writer.begin(entry)
    }

    /// Ends the archive; how many entries it has.
    pub fn finish(self) -> Result<u64, Error> {
        self.writer.finish()?;
        Ok(self.entries)
    }

    /// Exactly as many bytes as were declared: what was cut off meanwhile is zeros
    /// (the writer's), what was added is left out.
    fn copy(&mut self, path: &[u8], content: &mut impl Read, size: u64) -> Result<(), Error> {
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let room = self.buffer.get_mut(..wanted).unwrap_or_default();
            match content.read(room) {
                Ok(0) => break,
                Ok(got) => left = self.writer.content(room.get(..got).unwrap_or_default())?,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::at("read", path, e)),
            }
        }
        Ok(())
    }

    fn inside(&self, id: u32) -> u32 {
        match self.ids {
            None => id,
            Some(range) => {
                id.checked_sub(range.first).filter(|id| *id < range.count).unwrap_or(NOBODY)
            }
        }
    }
}
