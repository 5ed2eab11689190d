//! What an archive says of one file.

use std::time::{Duration, SystemTime};

/// Seconds since 1970 and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Below 1,000,000,000, always forward in time.
    pub nanoseconds: u32,
}

/// Longer than two changes of a file can be apart and bear one time: file systems count
/// in as much as two seconds, and the kernel's clock goes on by ticks.
const ONE_TIME: Duration = Duration::from_secs(2);

impl Time {
    /// Whether this, the time of a file's last change, is so long ago that at another
    /// change from `now` on the file gets another time. Only then the time tells whether
    /// a file is still as it was read.
    pub fn is_settled(self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::new(seconds, self.nanoseconds) + ONE_TIME)
            .is_some_and(|then| then <= now)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_settles_after_two_seconds() {
        let time = Time { seconds: 1000, nanoseconds: 5 };
        let at = |seconds, nanoseconds| {
            time.is_settled(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
        };
        assert!(!at(1000, 5) && !at(1002, 4) && at(1002, 5) && at(5000, 0));
        // The clock was set back: the same time may come once more.
        assert!(!at(900, 0));
        let never = Time { seconds: i64::MAX, nanoseconds: 0 };
        assert!(!never.is_settled(SystemTime::now()));
    }
}
