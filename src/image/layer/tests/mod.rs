//! Layers on the real file system: odd and hostile archives, overlays mounted and
//! changed, and random trees there and back.

mod hostile;
mod odd;
mod overlay;
mod random;
mod timing;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use tempfile::TempDir;

use super::*;
use crate::archive::tests::{Raw, Tar};

/// A directory beside which nothing may appear.
struct Bed {
    temp: TempDir,
}

impl Bed {
    fn new() -> Bed {
        let temp = TempDir::new().unwrap();
        fs::create_dir(temp.path().join("layer")).unwrap();
        fs::write(temp.path().join("outside"), "precious").unwrap();
        Bed { temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("layer").join(name)
    }

    fn layer(&self) -> PathBuf {
        self.temp.path().join("layer")
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn unpack(&self, tar: Tar) -> Result<Unpacked, Error> {
        self.unpack_with(tar, &Limits::default())
    }

    fn unpack_with(&self, tar: Tar, limits: &Limits) -> Result<Unpacked, Error> {
        unpack(&mut tar.end().as_slice(), &self.layer(), limits)
    }

    fn whiteout(&self, name: &str) -> bool {
        is_whiteout(&self.path(name))
    }

    fn opaque(&self, name: &str) -> bool {
        xattr(&self.path(name), OPAQUE_XATTR).as_deref() == Some(b"y")
    }

    /// Nothing outside of the layer has changed.
    fn assert_untouched(&self) {
        assert_eq!(fs::read(self.temp.path().join("outside")).unwrap(), b"precious");
        let mut names: Vec<_> = fs::read_dir(self.temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["layer", "outside"]);
        let outside = fs::metadata(self.temp.path().join("outside")).unwrap();
        assert_eq!((outside.nlink(), outside.mode() & 0o7777), (1, 0o644));
    }
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.mode() & 0o170_000 == 0o020_000 && m.rdev() == 0)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}
