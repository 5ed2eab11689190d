//! Where a sparse file has data: GNU's old form in the header, and PAX 0.0 to 1.0.

use super::header::{Header, number};

/// More parts than this are a bomb: 16 MiB of memory.
pub(super) const MAX_PARTS: usize = 1 << 20;

/// Offset and length of each part that has data.
type Parts = Vec<(u64, u64)>;

/// A file with holes: what follows in the archive are its parts alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    /// Offset and length, in order, none over another.
    pub parts: Parts,
    /// The file's length.
    pub size: u64,
}

impl Map {
    /// Checks what an archive said: parts in order within the file, and exactly the
    /// bytes that follow.
    pub(super) fn new(parts: Parts, size: u64, stored: u64) -> Option<Map> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &parts {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum += length;
        }
        (end <= size && sum == stored).then_some(Map { parts, size })
    }
}

/// The four parts in an old GNU header, whether more blocks follow, the true size.
pub(super) fn in_header(header: &Header) -> Option<(Parts, bool, u64)> {
    let mut parts = Vec::new();
    pairs(header.field(386..482), &mut parts)?;
    let size = u64::try_from(number(header.field(483..495))?).ok()?;
    Some((parts, header.field(482..483) != [0], size))
}

/// The 21 parts of a block after it, and whether one more follows.
pub(super) fn in_block(block: &[u8], parts: &mut Parts) -> Option<bool> {
    pairs(block.get(..504)?, parts)?;
    (parts.len() <= MAX_PARTS).then(|| block.get(504) != Some(&0))
}

fn pairs(fields: &[u8], parts: &mut Parts) -> Option<()> {
    for pair in fields.chunks_exact(24) {
        let (offset, length) = pair.split_at_checked(12)?;
        if length.first() == Some(&0) {
            break;
        }
        parts.push((u64::try_from(number(offset)?).ok()?, u64::try_from(number(length)?).ok()?));
    }
    Some(())
}
