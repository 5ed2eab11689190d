//! What an archive says of one file.

/// Seconds since 1970 and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Below 1,000,000,000, always forward in time.
    pub nanoseconds: u32,
}

/// What sort of file an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes, holes counted.
    File {
        /// Its length when it is unpacked.
        size: u64,
    },
    /// Another name of the file at this path of the archive.
    HardLink(Vec<u8>),
    /// A symbolic link and what it says.
    Symlink(Vec<u8>),
    /// A character device, `(major, minor)`.
    Character(u32, u32),
    /// A block device, `(major, minor)`.
    Block(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry of an archive, without the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive, so with `..`, `./` and a `/` at the end; never
    /// with a NUL.
    pub path: Vec<u8>,
    /// What sort of file it is.
    pub kind: Kind,
    /// The permission bits with set-user-ID, set-group-ID and sticky (07777).
    pub mode: u32,
    /// The owner; never 4294967295.
    pub uid: u32,
    /// The group; never 4294967295.
    pub gid: u32,
    /// When the content was last changed.
    pub mtime: Time,
    /// Extended attributes, in the archive's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
