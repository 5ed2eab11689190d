//! What went wrong with a root or a volume, in one sentence.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A step that failed: what was done, to which path, what the system said, and
/// what can be done about it.
#[derive(Debug)]
pub struct Error {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
    remedy: String,
}

impl Error {
    pub(super) fn new(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        let source = source.into();
        let remedy = match source.raw_os_error() {
            Some(libc::ENOSPC) => "the disk, or its number of files, is full",
            Some(libc::EDQUOT) => "the disk quota is used up",
            Some(libc::EROFS) => "the file system is read-only",
            Some(libc::EMFILE) => "Berth has too many open files: raise its `nofile` limit",
            Some(libc::ENFILE) => "the machine has too many open files: raise fs.file-max",
            Some(libc::EPERM | libc::EACCES) => "Berth must be root, with CAP_SYS_ADMIN",
            _ => "",
        };
        Error { step, path: path.to_owned(), source, remedy: remedy.to_owned() }
    }

    pub(super) fn with_remedy(mut self, remedy: impl Into<String>) -> Error {
        let remedy = remedy.into();
        if !remedy.is_empty() {
            self.remedy = remedy;
        }
        self
    }

    /// A failure that no system call told of.
    pub(super) fn refused(step: &'static str, path: &Path, why: impl Into<String>) -> Error {
        Error {
            step,
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, why.into()),
            remedy: String::new(),
        }
    }

    /// The kind of the system's error, such as `NotFound` or `StorageFull`.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The system's error number, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.step, self.path.display(), self.source)?;
        match self.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, "; {remedy}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
