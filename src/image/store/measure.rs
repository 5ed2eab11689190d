//! What an unpacked layer holds, counted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat,
};
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

/// The bytes that a file, or a tree, takes on disk, hard links once; 0 if it is not
/// there.
pub fn disk_of(top: &Path) -> u64 {
    let own = std::fs::symlink_metadata(top).map_or(0, |meta| meta.blocks() * 512);
    own + measure(top).map_or(0, |tree| tree.disk)
}

/// The same of each entry of a directory, by their names.
pub fn disk_of_each(directory: &Path) -> BTreeMap<OsString, u64> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name(), disk_of(&entry.path()))).collect()
}

/// Counts what is below `top`, following nothing. Somebody may work in it: what vanishes
/// meanwhile does not count.
pub(super) fn measure(top: &Path) -> Result<Tree, Error> {
    let fail = |e: Errno| Error::io("read", top, e.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // A directory that has become a link meanwhile leads nowhere.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let root = openat(CWD, top, flags, Mode::empty()).map_err(fail)?;
    let mut tree = Tree::default();
    let mut linked = BTreeSet::new();
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        let directory = match openat2(&root, &path, flags, Mode::empty(), resolve) {
            Ok(directory) => directory,
            // The last: too deep for a name, which nobody but a container makes.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => continue,
            Err(e) => return Err(fail(e)),
        };
        for entry in Dir::read_from(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name);
            let stat = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(fail(e)),
            };
            tree.entries += 1;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if stat.st_nlink == 1
                || kind == FileType::Directory
                || linked.insert((stat.st_dev, stat.st_ino))
            {
                tree.disk += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                if kind == FileType::RegularFile {
                    tree.bytes += u64::try_from(stat.st_size).unwrap_or(0);
                }
            }
            if kind == FileType::Directory {
                let mut below = path.clone().into_os_string().into_vec();
                below.push(b'/');
                below.extend_from_slice(name.as_bytes());
                waiting.push(PathBuf::from(OsString::from_vec(below)));
            }
        }
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_count_once_and_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, top) = (dir.path().join("outside"), dir.path().join("top"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::create_dir_all(top.join("sub")).unwrap();
        std::fs::write(outside.join("large"), vec![1; 1 << 20]).unwrap();
        std::fs::write(top.join("sub/file"), vec![1; 5000]).unwrap();
        std::fs::hard_link(top.join("sub/file"), top.join("again")).unwrap();
        symlink(&outside, top.join("link")).unwrap();
        let tree = measure(&top).unwrap();
        assert_eq!((tree.entries, tree.bytes), (4, 5000));
        assert!(disk_of(&top) >= 5000 && disk_of(&top) < 1 << 20);
        assert_eq!(disk_of(&top.join("nothing")), 0);
        assert_eq!(disk_of(&top.join("again")), 8192);
        let each = disk_of_each(&top);
        assert_eq!(each.len(), 3);
        assert!(each[OsStr::new("sub")] >= 8192 && each[OsStr::new("link")] < 8192);
    }

    /// Somebody makes and removes directories, and swaps them for links, while it counts:
    /// what stays is counted each time.
    #[test]
    fn what_vanishes_meanwhile_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir_all(&top).unwrap();
        std::fs::write(top.join("stays"), vec![1; 1 << 16]).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for n in 0..8 {
                        let path = top.join(format!("d{n}"));
                        let _ = std::fs::create_dir_all(path.join("in"));
                        let _ = std::fs::remove_dir_all(&path);
                        let _ = symlink("/usr", &path);
                        let _ = std::fs::remove_file(&path);
                    }
                }
            });
            for _ in 0..300 {
                let disk = disk_of(&top);
                assert!((1 << 16..1 << 20).contains(&disk), "{disk}");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
