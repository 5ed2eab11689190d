//! A tree, name by name in the order of their bytes.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::error::Error;
use super::make;
use super::node::Node;

/// How deep a tree may be: each level holds a descriptor.
const MAX_DEPTH: usize = 512;

/// Whether to look into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its entries follow.
    In,
    /// The next one beside it follows.
    Over,
}

/// What is done with each file: its path, and the file itself.
pub type Visit<'v> = dyn FnMut(&[u8], &Node) -> Result<Step, Error> + 'v;

/// Visits all below a directory, each one before what is in it. What vanishes
/// meanwhile is passed over. `visit` gets the path below `prefix` and the file.
pub fn walk(top: &Node, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    walk_at(top, prefix, 0, visit)
}

fn walk_at(
    directory: &Node,
    path: &[u8],
    depth: usize,
    visit: &mut Visit<'_>,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::at("look into directories so deep as", path, Errno::NAMETOOLONG));
    }
    let failed = |e: Errno| Error::at("read", path, e);
    let open = match directory.read_directory() {
        Ok(open) => open,
        Err(Errno::NOENT | Errno::STALE) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for name in make::names(&open).map_err(failed)? {
        let mut inner = path.to_vec();
        if !inner.is_empty() && !inner.ends_with(b"/") {
            inner.push(b'/');
        }
        inner.extend_from_slice(&name);
        let node = match Node::open(open.as_fd(), &name) {
            Ok(node) => node,
            Err(Errno::NOENT | Errno::STALE) => continue,
            Err(e) => return Err(Error::at("open", &inner, e)),
        };
        if visit(&inner, &node)? == Step::In && node.is_directory() {
            walk_at(&node, &inner, depth + 1, visit)?;
        }
    }
    Ok(())
}
