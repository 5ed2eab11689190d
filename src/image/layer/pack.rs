//! Upper directories and whole trees into layers' archives.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::lowers::{Lowers, is_opaque, same};
use super::{Error, OPAQUE, Points, WHITEOUT, open};
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
/// how a container came to its files; without them all are written. A directory in which
/// nothing was changed is left out, and so is what is there for mounts alone (`points`),
/// and sockets. The container may run: a file that changes its size meanwhile is cut off or
/// filled with zeros to the size that it had, what vanishes is left out.
pub fn pack(
    upper: &Path,
    lowers: Option<&[&Path]>,
    points: &Points,
    writer: &mut dyn Write,
) -> Result<Packed, Error> {
    let top = open(upper)?;
    // Directories that are as below: written when something in them is.
    let mut waiting: Vec<(Vec<u8>, Node)> = Vec::new();
    let lowers = lowers.map(Lowers::open).transpose()?;
    let mut digest = Digester::new(writer);
    let mut packer = Packer::new(&mut digest, None);
    // Directories that hide what is below them: in those everything is written.
    let mut hiding: Vec<Vec<u8>> = Vec::new();
    let all = is_opaque(&top).map_err(|e| Error::system("read", upper, e))?;
    if all {
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
        let is_in = |above: &[u8]| path.strip_prefix(above).is_some_and(|p| p.starts_with(b"/"));
        waiting.retain(|(above, _)| is_in(above));
        hiding.retain(|above| is_in(above));
        let seen = match &lowers {
            Some(lowers) => lowers.find(&names).map_err(failed)?,
            None => None,
        };
        let is_below = lowers.is_none() || seen.is_some();
        if !is_below && points.hide(path, node).unwrap_or(false) {
            return Ok(Step::Over);
        }
        if node.is_whiteout() && !is_below {
            return Ok(Step::Over);
        }
        let opaque = node.is_directory() && is_opaque(node).map_err(failed)?;
        if let Some(seen) = &seen
            && node.is_directory()
            && !opaque
            && !all
            && hiding.is_empty()
            && same(node, &seen.node).map_err(|e| Error::at("compare", path, e))?
        {
            let held = node.place().try_clone_to_owned().map_err(|e| Error::at("hold", path, e))?;
            waiting.push((path.to_vec(), Node::of(held).map_err(failed)?));
            return Ok(Step::In);
        }
        for (path, node) in waiting.drain(..) {
            packer.add(&path, &node)?;
        }
        if node.is_whiteout() {
            let mut whiteout = parents.join(&b'/');
            if !parents.is_empty() {
                whiteout.push(b'/');
            }
            whiteout.extend_from_slice(WHITEOUT);
            whiteout.extend_from_slice(name);
            packer.put(&mark(whiteout))?;
            return Ok(Step::Over);
        }
        packer.add(path, node)?;
        let hides = lowers.is_none() || seen.is_some_and(|seen| seen.node.is_directory());
        if opaque {
            hiding.push(path.to_vec());
        }
        if opaque && hides {
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
