//! What went wrong with an archive, in one sentence.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an archive was not read, unpacked or written. Which of them it is tells whose
/// fault it was: the stream's, the archive's, or this machine's.
#[derive(Debug)]
pub enum Error {
    /// The stream itself failed: the network, the decompressor, the client that
    /// stopped reading.
    Stream(io::Error),
    /// The archive is not one, or asks for something that no archive may.
    Malformed {
        /// The entry, or the last one before the damage; empty at the start.
        entry: String,
        /// Where in the uncompressed stream, in bytes.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The archive asks for more than [`Limits`](super::Limits) give.
    Limit {
        /// The entry that went past the limit.
        entry: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A system call failed.
    System {
        /// What was being done.
        step: &'static str,
        /// To which file: its path in the archive or the container.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        Error::System { step, path: path.to_owned(), source: source.into() }
    }

    /// As [`Error::system`], for a path in bytes.
    pub(crate) fn at(step: &'static str, path: &[u8], source: impl Into<io::Error>) -> Error {
        use std::os::unix::ffi::OsStrExt;
        Error::system(step, Path::new(std::ffi::OsStr::from_bytes(path)), source)
    }

    /// The system's error number, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Stream(source) | Error::System { source, .. } => source.raw_os_error(),
            Error::Malformed { .. } | Error::Limit { .. } => None,
        }
    }

    /// The kind of the error: [`io::ErrorKind::InvalidData`] for what is wrong with
    /// the archive, the system's otherwise.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Error::Stream(source) | Error::System { source, .. } => source.kind(),
            Error::Malformed { .. } | Error::Limit { .. } => io::ErrorKind::InvalidData,
        }
    }
}

/// An entry's name for an error: printable, and not a page long.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default().escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Stream(source) => write!(f, "cannot go on with the archive's stream: {source}"),
            Error::Malformed { entry, offset, why } => {
                write!(f, "the archive is refused at byte {offset}, entry `{entry}`: {why}")
            }
            Error::Limit { entry, what, limit } => write!(
                f,
                "the archive is refused at entry `{entry}`: more than {limit} {what}; \
                 if it is meant to be so, raise the limit"
            ),
            Error::System { step, path, source } => {
                write!(f, "cannot {step} {}: {source}", path.display())?;
                let remedy = match source.raw_os_error() {
                    Some(libc::ENOSPC) => "the disk, or its number of files, is full",
                    Some(libc::EDQUOT) => "the disk quota is used up",
                    Some(libc::EROFS) => "the file system is read-only",
                    Some(libc::EMFILE) => "Berth has too many open files: raise its `nofile` limit",
                    Some(libc::EPERM | libc::EACCES) => "Berth must be root, with CAP_SYS_ADMIN",
                    Some(libc::EFBIG) => "the file system has no files of that size",
                    _ => return Ok(()),
                };
                write!(f, "; {remedy}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Stream(source) | Error::System { source, .. } => Some(source),
            Error::Malformed { .. } | Error::Limit { .. } => None,
        }
    }
}
