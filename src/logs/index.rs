//! The index beside a log file: from this offset on, this stream, at this time.
//!
//! 16 bytes of header (`BERTHLOG`, version as u32, four zero bytes), then records of 24
//! bytes, all little-endian: offset u64, time u64 (nanoseconds since 1970), stream u8,
//! three zero bytes, FNV-1a of the 20 bytes before as u32. A record that fails its sum
//! ends the index; the last record that holds covers the rest of the file.

use super::Stream;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"BERTHLOG";
const VERSION: u32 = 1;
/// Bytes before the first record.
pub const HEADER: u64 = 16;
/// Bytes of a record.
pub const RECORD: u64 = 24;
const BLOCK: usize = 170;

/// From `offset` on, the file holds `stream`, moved at `time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Byte offset in the log file.
    pub offset: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Who wrote it.
    pub stream: Stream,
}

/// The header of a new index.
pub fn header() -> [u8; HEADER as usize] {
    let mut out = [0; HEADER as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, b| (sum ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

impl Record {
    /// The record as it lies on disk.
    pub fn encode(self) -> [u8; RECORD as usize] {
        let mut out = [0; RECORD as usize];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.time.to_le_bytes());
        out[16] = self.stream.code();
        let sum = sum(&out[..20]);
        out[20..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The record that these bytes hold; none when they are torn or not ours.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let bytes: &[u8; RECORD as usize] = bytes.try_into().ok()?;
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        if bytes[20..] != sum(&bytes[..20]).to_le_bytes() {
            return None;
        }
        Some(Record { offset: word(0)?, time: word(8)?, stream: Stream::from_code(bytes[16])? })
    }
}

/// Nanoseconds since 1970; 0 for what lies before.
pub fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The inverse of [`nanos`].
pub fn time_of(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// Reads records by number, a block at a time; sees what is appended meanwhile.
#[derive(Debug)]
pub struct Index {
    file: Option<File>,
    first: u64,
    block: Vec<Record>,
}

impl Index {
    /// An index over `file`; without one, or with a header that isn't ours, it is empty.
    pub fn new(file: Option<File>) -> Index {
        let ours = |file: &File| {
            let mut head = [0; HEADER as usize];
            file.read_exact_at(&mut head, 0).is_ok() && head == header()
        };
        Index { file: file.filter(ours), first: 0, block: Vec::new() }
    }

    /// Record number `at`, if it has been written and is whole.
    pub fn get(&mut self, at: u64) -> io::Result<Option<Record>> {
        if self.cached(at).is_none() {
            self.load(at)?;
        }
        Ok(self.cached(at))
    }

    /// As [`Index::get`], for one who goes backwards through records known to be whole.
    pub fn get_backwards(&mut self, at: u64) -> io::Result<Option<Record>> {
        if self.cached(at).is_none() {
            self.load(at.saturating_sub(BLOCK as u64 - 1))?;
        }
        Ok(self.cached(at))
    }

    fn cached(&self, at: u64) -> Option<Record> {
        let within = usize::try_from(at.checked_sub(self.first)?).ok()?;
        self.block.get(within).copied()
    }

    fn load(&mut self, first: u64) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut bytes = [0; BLOCK * RECORD as usize];
        let from = HEADER.saturating_add(first.saturating_mul(RECORD));
        let mut got = 0;
        while got < bytes.len() {
            match file.read_at(&mut bytes[got..], from + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.first = first;
        self.block.clear();
        self.block.extend(bytes[..got].chunks_exact(RECORD as usize).map_while(Record::decode));
        Ok(())
    }

    /// The whole records that lie within `size` bytes: how many, and the last. What
    /// points further is of a file that was truncated, or never reached the disk.
    pub fn end(&mut self, size: u64) -> io::Result<(u64, Option<Record>)> {
        let (mut count, mut last) = (0, None);
        while let Some(record) = self.get(count)?.filter(|r| r.offset <= size) {
            count += 1;
            last = Some(record);
        }
        Ok((count, last))
    }

    /// Whether the header is there and ours.
    pub fn usable(&self) -> bool {
        self.file.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn stream() -> impl Strategy<Value = Stream> {
        (1u8..=4).prop_map(|c| Stream::from_code(c).unwrap())
    }

    proptest! {
        #[test]
        fn a_record_survives_the_disk_and_a_flipped_bit_is_seen(
            offset: u64, time: u64, stream in stream(), bit in 0usize..192
        ) {
            let record = Record { offset, time, stream };
            let mut bytes = record.encode();
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&bytes), None);
        }

        #[test]
        fn a_torn_index_gives_its_whole_records(n in 0usize..500, cut in 0usize..24) {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&header()).unwrap();
            for i in 0..n {
                let r = Record { offset: i as u64, time: 7, stream: Stream::Stderr };
                file.write_all(&r.encode()).unwrap();
            }
            file.write_all(&[0xff; 24][..cut]).unwrap();
            let mut index = Index::new(Some(file));
            let (count, last) = index.end(u64::MAX).unwrap();
            prop_assert_eq!(count, n as u64);
            prop_assert_eq!(last.map(|r| r.offset + 1), (n > 0).then_some(n as u64));
        }
    }
}
