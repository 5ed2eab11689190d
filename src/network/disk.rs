//! Small files that are replaced as a whole, in folders that only Berth writes to.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How a file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// For as long as the machine runs.
    Boot,
    /// It outlives a power cut once this has returned.
    Disk,
}

/// Where the next version of a file is written: always the same name, so that whoever
/// dies meanwhile leaves one file and the next one takes it over.
fn next_version(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Replaces a file, or makes it. One at a time for each path.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, lasting: Lasting) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    fs::create_dir_all(dir)?;
    let next = next_version(path);
    let write = || -> io::Result<()> {
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&next)?;
        // One that somebody left has its own, and the mask of files took some away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if lasting == Lasting::Disk {
            file.sync_all()?;
        }
        fs::rename(&next, path)
    };
    if let Err(error) = write() {
        // On a full disk it is in the way.
        let _ = fs::remove_file(&next);
        return Err(error);
    }
    match lasting {
        Lasting::Boot => Ok(()),
        Lasting::Disk => fs::File::open(dir)?.sync_all(),
    }
}

/// Removes what those left who died while they wrote; nobody may write there now.
pub fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".new") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Moves a file that can't be understood out of the way, where a person finds it; says
/// where to.
pub fn set_aside(path: &Path) -> String {
    let aside = path.with_extension("json.bad");
    match fs::rename(path, &aside) {
        Ok(()) => format!("it is set aside as {}", aside.display()),
        Err(error) => format!("it can't be set aside: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_what_a_dead_writer_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/a.json");
        replace(&path, b"one", 0o600, Lasting::Disk).unwrap();
        fs::write(next_version(&path), b"half of something longer").unwrap();
        replace(&path, b"two", 0o644, Lasting::Boot).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1);
        fs::write(next_version(&path), b"half").unwrap();
        sweep(&dir.path().join("deep"));
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1);
        assert!(set_aside(&path).contains("a.json.bad"));
        assert!(!path.exists());
    }
}
