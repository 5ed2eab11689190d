//! What went wrong with a network, in one sentence.

use std::fmt;
use std::io;

/// A step that failed: what was being done, with which object, what the system
/// said, and what can be done about it.
#[derive(Debug)]
pub struct Error {
    step: &'static str,
    object: String,
    source: io::Error,
    remedy: String,
}

/// The result of everything in this room that touches the kernel or the disk.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn new(
        step: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Error {
        let source = source.into();
        let remedy = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "Berth must be root, with CAP_NET_ADMIN",
            Some(libc::EMFILE) => "Berth has too many open files: raise its `nofile` limit",
            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
                "the running kernel lacks this (its module may not be loaded)"
            }
            Some(libc::ENOSPC) => "the disk, or a table of the kernel, is full",
            _ => "",
        };
        Error { step, object: object.into(), source, remedy: remedy.to_owned() }
    }

    /// A failure that no system call told of.
    pub(super) fn refused(
        step: &'static str,
        object: impl Into<String>,
        why: impl Into<String>,
    ) -> Error {
        let source = io::Error::new(io::ErrorKind::InvalidInput, why.into());
        Error { step, object: object.into(), source, remedy: String::new() }
    }

    pub(super) fn with_remedy(mut self, remedy: impl Into<String>) -> Error {
        let remedy = remedy.into();
        if !remedy.is_empty() {
            self.remedy = remedy;
        }
        self
    }

    /// The system's error number, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The kind of the system's error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.step, self.object, self.source)?;
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
