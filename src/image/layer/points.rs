//! Places that were made for mounts: no change of the container's.
//!
//! Where an image has no `/proc` or no `/etc/hosts`, the launch makes an empty directory
//! or file to mount upon, and it lies in the upper directory like anything else.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::archive::{Node, components, join, make};

/// The targets of a container's mounts.
#[derive(Debug, Clone, Default)]
pub struct Points(BTreeSet<Vec<u8>>);

impl<P: AsRef<Path>> FromIterator<P> for Points {
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Points {
        let plain = |path: P| {
            let names = components(path.as_ref().as_os_str().as_bytes())?;
            (!names.is_empty()).then(|| join(&names))
        };
        Points(paths.into_iter().filter_map(plain).collect())
    }
}

impl Points {
    /// Whether a file that no lower layer has is there for a mount alone: an empty one
    /// at a target, or a directory with nothing but such.
    pub(super) fn hide(&self, path: &[u8], node: &Node) -> rustix::io::Result<bool> {
        let below = [path, b"/"].concat();
        let leads = self.0.range(below.clone()..).next().is_some_and(|p| p.starts_with(&below));
        if !leads && !self.0.contains(path) {
            return Ok(false);
        }
        if !node.is_directory() {
            let is_file = node.file_type() == rustix::fs::FileType::RegularFile;
            return Ok(is_file && node.stat().st_size == 0);
        }
        let open = node.read_directory()?;
        for name in make::names(&open)? {
            let inner = Node::open(node.place(), &name)?;
            if !self.hide(&[&below, name.as_slice()].concat(), &inner)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
