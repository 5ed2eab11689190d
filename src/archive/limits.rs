//! How much an archive may ask for.

/// What is done with the devices of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are made, as Docker does: what may be opened is for the container's
    /// device rules to say.
    Make,
    /// They are passed over, as rootless engines must.
    Skip,
    /// The archive is refused.
    Refuse,
}

/// The bounds of one archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the stream, and bytes of files with their holes counted: each of the
    /// two sums is held against it. The measure against decompression bombs.
    pub bytes: u64,
    /// How many entries.
    pub entries: u64,
    /// How long a path may be, in bytes. The kernel's own is 4095.
    pub path: usize,
    /// How many directories may lie in one another.
    pub depth: usize,
    /// What becomes of device nodes.
    pub devices: Devices,
}

impl Default for Limits {
    /// Far above what images have (the largest known ones are some 60 GB with half a
    /// million files), far below what would fill a machine's tables.
    fn default() -> Limits {
        Limits {
            bytes: 256 << 30,
            entries: 4_000_000,
            path: 4095,
            depth: 256,
            devices: Devices::Make,
        }
    }
}
