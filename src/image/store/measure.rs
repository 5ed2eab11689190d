//! What an unpacked layer holds, counted.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::image::Error;

/// Counts of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// Names in it.
    pub entries: u64,
    /// Bytes of regular files, hard links once.
    pub bytes: u64,
    /// Bytes that it takes on disk, hard links once.
    pub disk: u64,
}

/// The bytes that a tree takes on disk, hard links once; 0 if it is not there.
pub fn disk_of(top: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let own = std::fs::symlink_metadata(top).map_or(0, |meta| meta.blocks() * 512);
    own + measure(top).map_or(0, |tree| tree.disk)
}

/// Counts what is below `top`, following nothing.
pub(super) fn measure(top: &Path) -> Result<Tree, Error> {
    let fail = |e: Errno| Error::io("read", top, e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = openat(CWD, top, flags, Mode::empty()).map_err(fail)?;
    let mut tree = Tree::default();
    let mut linked = BTreeSet::new();
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        let directory = openat(&root, &path, flags, Mode::empty()).map_err(fail)?;
        for entry in Dir::read_from(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            tree.entries += 1;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if stat.st_nlink == 1 || kind == FileType::Directory || linked.insert(stat.st_ino) {
                tree.disk += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                if kind == FileType::RegularFile {
                    tree.bytes += u64::try_from(stat.st_size).unwrap_or(0);
                }
            }
            if kind == FileType::Directory {
                let mut below = path.clone().into_os_string().into_vec();
                below.push(b'/');
                below.extend_from_slice(name.as_bytes());
                waiting.push(PathBuf::from(std::ffi::OsString::from_vec(below)));
            }
        }
    }
    Ok(tree)
}
