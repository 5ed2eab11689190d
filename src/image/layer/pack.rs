//! Upper directories and whole trees into layers' archives.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::lowers::{Lowers, is_opaque};
use super::{Error, OPAQUE, WHITEOUT, open};
use crate::archive::{Entry, Kind, Node, Packer, Step, Time, components, walk};
use crate::sys::userns::IdRange;

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The digest of the uncompressed archive: `sha256:` and 64 hexadecimal digits.
    pub diff_id: String,
    /// Its size in bytes.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
}

/// Writes an overlay's upper directory as one layer, uncompressed. The same content
/// gives the same bytes.
///
/// With its `lowers` (the topmost first), deletions and opaque directories are only
/// written where there is something below to be hidden, so the bytes don't depend on
/// how a container came to its files; without them all are written. Sockets are left
/// out. The container may run: a file that changes its size meanwhile is cut off or
/// filled with zeros to the size that it had, what vanishes is left out.
pub fn pack(
    upper: &Path,
    lowers: Option<&[&Path]>,
    writer: &mut dyn Write,
) -> Result<Packed, Error> {
    let top = open(upper)?;
    let lowers = lowers.map(Lowers::open).transpose()?;
    let mut digest = Digester::new(writer);
    let mut packer = Packer::new(&mut digest, None);
    if is_opaque(&top).map_err(|e| Error::system("read", upper, e))? {
        packer.put(&mark(OPAQUE.to_vec()))?;
    }
    walk(&top, b"", &mut |path, node| {
        let failed = |e: Errno| Error::at("compare", path, e);
        let names = components(path).unwrap_or_default();
        let Some((name, parents)) = names.split_last() else { return Ok(Step::Over) };
        if name.starts_with(WHITEOUT) {
            // It would mean something else in a layer: there is no way to say it.
            return Ok(Step::Over);
        }
        let seen = || match &lowers {
            Some(lowers) => {
                lowers.find(&names).map(|seen| seen.map(|seen| seen.node.is_directory()))
            }
            None => Ok(Some(true)),
        };
        if node.is_whiteout() {
            if seen().map_err(failed)?.is_some() {
                let mut whiteout = parents.join(&b'/');
                if !parents.is_empty() {
                    whiteout.push(b'/');
                }
                whiteout.extend_from_slice(WHITEOUT);
                whiteout.extend_from_slice(name);
                packer.put(&mark(whiteout))?;
            }
            return Ok(Step::Over);
        }
        packer.add(path, node)?;
        if node.is_directory()
            && is_opaque(node).map_err(failed)?
            && seen().map_err(failed)? == Some(true)
        {
            packer.put(&mark([path, b"/", OPAQUE].concat()))?;
        }
        Ok(Step::In)
    })?;
    let entries = packer.finish()?;
    Ok(digest.packed(entries))
}

/// Writes a whole tree, such as a container's merged root, as one archive. With
/// `ids`, owners are those inside that user namespace. Devices 0/0 are left out.
pub fn pack_tree(
    root: BorrowedFd<'_>,
    ids: Option<IdRange>,
    writer: &mut dyn Write,
) -> Result<Packed, Error> {
    let failed = |e: io::Error| Error::system("open", Path::new("/"), e);
    let top = root.try_clone_to_owned().map_err(failed)?;
    let top = Node::of(top).map_err(|e| failed(e.into()))?;
    let mut digest = Digester::new(writer);
    let mut packer = Packer::new(&mut digest, ids);
    walk(&top, b"", &mut |path, node| {
        if !node.is_whiteout() {
            packer.add(path, node)?;
        }
        Ok(Step::In)
    })?;
    let entries = packer.finish()?;
    Ok(digest.packed(entries))
}

/// A deletion is an empty file without a time: when something was deleted is not
/// content.
fn mark(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::File { size: 0 },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

/// Counts and digests what goes through.
struct Digester<'w> {
    out: &'w mut dyn Write,
    digest: Sha256,
    size: u64,
}

impl<'w> Digester<'w> {
    fn new(out: &'w mut dyn Write) -> Digester<'w> {
        Digester { out, digest: Sha256::new(), size: 0 }
    }

    fn packed(self, entries: u64) -> Packed {
        let diff_id = format!("sha256:{}", hex::encode(self.digest.finalize()));
        Packed { diff_id, size: self.size, entries }
    }
}

impl Write for Digester<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
