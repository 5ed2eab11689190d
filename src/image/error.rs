//! What went wrong with an image, in one sentence, and of which kind it is.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

/// What a caller can decide by: an API's status, whether a retry makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the user wrote can't be meant: a reference, an option, a file.
    Invalid,
    /// No such image, tag, blob or file.
    NotFound,
    /// A short id fits several images, or something is in use.
    Conflict,
    /// The registry wants credentials, or refuses those it got.
    Denied,
    /// The content is not what was said: a digest, a length, a document.
    Corrupt,
    /// A bound was exceeded: too large, too many.
    TooLarge,
    /// The network or the registry failed; trying later may help.
    Unavailable,
    /// This machine failed: disk, permissions, memory.
    System,
}

/// An error of the image room: what was being done, to what, what the system or
/// the registry said, and what to do.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }

    pub(super) fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    /// A step on a file that the system refused.
    pub(super) fn io(step: &str, path: &Path, source: io::Error) -> Error {
        // By its kind: libraries wrap what the system said.
        let remedy = match (source.kind(), source.raw_os_error()) {
            (io::ErrorKind::StorageFull, _) => {
                "; the disk, or its number of files, is full: `berth prune` makes room"
            }
            (io::ErrorKind::QuotaExceeded, _) => "; the disk quota is used up",
            (io::ErrorKind::ReadOnlyFilesystem, _) => "; the file system is read-only",
            (io::ErrorKind::PermissionDenied, _) => "; Berth must be root",
            (_, Some(libc::EMFILE)) => "; Berth has too many open files: raise its `nofile` limit",
            _ => "",
        };
        Error {
            kind: Kind::System,
            message: format!("cannot {step} {}: {source}{remedy}", path.display()),
            source: Some(Box::new(source)),
        }
    }

    pub(crate) fn caused(
        kind: Kind,
        message: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Error {
        Error { kind, message: message.into(), source: Some(Box::new(source)) }
    }

    /// The same error, said to have stopped `what`.
    pub(super) fn context(mut self, what: impl fmt::Display) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What a caller can decide by.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// The error at the end of a chain of causes, which says most.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
