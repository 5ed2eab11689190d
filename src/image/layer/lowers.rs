//! What is seen through a stack of lower layers, as overlayfs shows it.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::io::Errno;

use super::{Error, OPAQUE_XATTR, open};
use crate::archive::{Node, make};

/// One directory in a stack of layers: its parts, the topmost first.
#[derive(Default)]
pub(super) struct Lowers(Vec<Node>);

/// What is seen under a name.
pub(super) struct Seen {
    /// The topmost of it, which is what counts.
    pub node: Node,
    /// For a directory: all of its parts.
    pub inner: Lowers,
}

impl Lowers {
    pub(super) fn open(layers: &[&Path]) -> Result<Lowers, Error> {
        layers.iter().map(|path| open(path)).collect::<Result<_, _>>().map(Lowers)
    }

    /// Looks a name up: from the top to the first that is no directory, a deletion,
    /// or an opaque directory.
    pub(super) fn look(&self, name: &[u8]) -> rustix::io::Result<Option<Seen>> {
        let mut parts = Vec::new();
        for layer in &self.0 {
            let node = match Node::open(layer.place(), name) {
                Ok(node) => node,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            };
            if node.is_whiteout() {
                break;
            }
            if !node.is_directory() {
                if parts.is_empty() {
                    return Ok(Some(Seen { node, inner: Lowers::default() }));
                }
                break;
            }
            let last = is_opaque(&node)?;
            parts.push(node);
            if last {
                break;
            }
        }
        let Some(first) = parts.first() else { return Ok(None) };
        let node = Node::of(first.place().try_clone_to_owned().map_err(errno)?)?;
        Ok(Some(Seen { node, inner: Lowers(parts) }))
    }

    /// Looks a path up, name by name; links on the way are not followed.
    pub(super) fn find(&self, names: &[&[u8]]) -> rustix::io::Result<Option<Seen>> {
        let Some((first, rest)) = names.split_first() else { return Ok(None) };
        let Some(mut seen) = self.look(first)? else { return Ok(None) };
        for name in rest {
            match seen.inner.look(name)? {
                Some(inner) => seen = inner,
                None => return Ok(None),
            }
        }
        Ok(Some(seen))
    }

    /// All names that are seen here.
    pub(super) fn names(&self) -> rustix::io::Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for layer in &self.0 {
            names.extend(make::names(&layer.read_directory()?)?);
        }
        let mut seen = BTreeSet::new();
        for name in names {
            if self.look(&name)?.is_some() {
                seen.insert(name);
            }
        }
        Ok(seen)
    }
}

/// Whether a directory hides what is below it.
pub(super) fn is_opaque(node: &Node) -> rustix::io::Result<bool> {
    Ok(node.xattr(OPAQUE_XATTR.as_bytes())?.as_deref() == Some(b"y"))
}

/// Whether two files are the same but for their names: kind, owner, mode, attributes
/// and, but for directories, time and content. A directory's time changes with every
/// file in it, which is told of the file.
pub(super) fn same(a: &Node, b: &Node) -> std::io::Result<bool> {
    let (left, right) = (a.stat(), b.stat());
    if left.st_mode != right.st_mode
        || (left.st_uid, left.st_gid) != (right.st_uid, right.st_gid)
        || left.st_rdev != right.st_rdev
        || a.xattrs()? != b.xattrs()?
    {
        return Ok(false);
    }
    if a.is_directory() {
        return Ok(true);
    }
    if a.mtime() != b.mtime() || left.st_size != right.st_size {
        return Ok(false);
    }
    match a.file_type() {
        rustix::fs::FileType::RegularFile => same_content(a, b),
        rustix::fs::FileType::Symlink => Ok(a.link_target()? == b.link_target()?),
        _ => Ok(true),
    }
}

/// Only for files whose time says that they are the same: it can be set back.
fn same_content(a: &Node, b: &Node) -> std::io::Result<bool> {
    use std::io::BufRead;
    let mut a = std::io::BufReader::with_capacity(64 << 10, a.read()?);
    let mut b = std::io::BufReader::with_capacity(64 << 10, b.read()?);
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
