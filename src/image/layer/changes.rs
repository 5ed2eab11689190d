//! What a container changed, as `docker diff` tells it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::lowers::{Lowers, Seen, is_opaque, same};
use super::{Error, Points, open};
use crate::archive::{Node, make};
use rustix::io::Errno;

/// How deep an upper directory may be: each level holds descriptors.
const MAX_DEPTH: usize = 256;

/// What was done to a file; the numbers and letters are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// `C`: content, owner, mode or attributes are others, or something in the
    /// directory has changed.
    Modified = 0,
    /// `A`
    Added = 1,
    /// `D`; what was in a deleted directory is not told of.
    Deleted = 2,
}

impl ChangeKind {
    /// `C`, `A` or `D`.
    pub fn letter(self) -> char {
        match self {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        }
    }
}

/// One path that is not as in the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute, as the container sees it.
    pub path: PathBuf,
    /// What was done.
    pub kind: ChangeKind,
}

/// What an overlay's upper directory changes in its lower layers, the topmost first;
/// sorted by path. The container may run: what vanishes meanwhile is left out.
///
/// As with Docker, a directory with any change in it is a change; one whose time
/// alone is another is none; and a file that was opened for writing and left as it
/// was is none. What is there for mounts alone (`points`) is none either.
pub fn changes(upper: &Path, lowers: &[&Path], points: &Points) -> Result<Vec<Change>, Error> {
    let mut changes = Changes(Vec::new(), points);
    let top = open(upper)?;
    let lowers = Lowers::open(lowers)?;
    changes.compare(&top, &lowers, false, &mut Vec::new())?;
    changes.0.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    Ok(changes.0)
}

struct Changes<'p>(Vec<Change>, &'p Points);

impl Changes<'_> {
    fn push(&mut self, names: &[Vec<u8>], kind: ChangeKind) {
        self.0.push(Change { path: absolute(names), kind });
    }

    /// A file that vanishes meanwhile is left out anyway.
    fn hides(&self, node: &Node, path: &[Vec<u8>]) -> rustix::io::Result<bool> {
        match self.1.hide(&path.join(&b'/'), node) {
            Err(Errno::NOENT | Errno::STALE) => Ok(false),
            hides => hides,
        }
    }

    /// Compares a directory with what was there. `hides`: nothing of the lower ones
    /// shines through.
    fn compare(
        &mut self,
        upper: &Node,
        lowers: &Lowers,
        hides: bool,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let here = absolute(path);
        let failed = |e: Errno| Error::system("compare", &here, e);
        if path.len() > MAX_DEPTH {
            return Err(failed(Errno::NAMETOOLONG));
        }
        let names = match upper.read_directory().and_then(|dir| make::names(&dir)) {
            Ok(names) => names,
            Err(Errno::NOENT | Errno::STALE) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        if hides {
            let known: BTreeSet<_> = names.iter().cloned().collect();
            for gone in lowers.names().map_err(failed)?.difference(&known) {
                path.push(gone.clone());
                self.push(path, ChangeKind::Deleted);
                path.pop();
            }
        }
        for name in names {
            let node = match Node::open(upper.place(), &name) {
                Ok(node) => node,
                Err(Errno::NOENT | Errno::STALE) => continue,
                Err(e) => return Err(failed(e)),
            };
            let seen = lowers.look(&name).map_err(failed)?;
            path.push(name);
            self.compare_file(&node, seen, hides, path)?;
            path.pop();
        }
        Ok(())
    }

    fn compare_file(
        &mut self,
        node: &Node,
        seen: Option<Seen>,
        hides: bool,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let failed = |path: &[Vec<u8>], e| Error::system("compare", &absolute(path), e);
        let before = self.0.len();
        let nothing = Lowers::default();
        match (node.is_whiteout(), seen) {
            (true, Some(_)) => self.push(path, ChangeKind::Deleted),
            (true, None) => {}
            (false, None) if self.hides(node, path).map_err(|e| failed(path, e.into()))? => {}
            (false, None) => {
                self.push(path, ChangeKind::Added);
                if node.is_directory() {
                    self.compare(node, &nothing, true, path)?;
                }
            }
            (false, Some(seen)) if node.is_directory() => {
                let hides = hides || is_opaque(node).map_err(|e| failed(path, e.into()))?;
                let same = same(node, &seen.node).map_err(|e| failed(path, e))?;
                self.compare(node, &seen.inner, hides, path)?;
                if !same || self.0.len() > before {
                    self.push(path, ChangeKind::Modified);
                }
            }
            (false, Some(seen)) => {
                if !same(node, &seen.node).map_err(|e| failed(path, e))? {
                    self.push(path, ChangeKind::Modified);
                }
                // A directory that became a file.
                for gone in seen.inner.names().map_err(|e| failed(path, e.into()))? {
                    path.push(gone);
                    self.push(path, ChangeKind::Deleted);
                    path.pop();
                }
            }
        }
        Ok(())
    }
}

fn absolute(names: &[Vec<u8>]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(names.iter().map(|name| OsStr::from_bytes(name)));
    path
}
