//! The 512 bytes before each file: POSIX.1 ustar, with GNU's and star's additions.

use std::ops::Range;

/// The unit of a tar archive.
pub(super) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// star(1) has times at the prefix's end.
const STAR_PREFIX: Range<usize> = 345..476;

/// The largest number that eleven octal digits say.
pub(super) const MAX_SIZE: u64 = 0o77777777777;
/// The largest number that seven octal digits say.
pub(super) const MAX_ID: u64 = 0o7777777;

/// A header whose checksum was right, or that is being made.
#[derive(Clone)]
pub(super) struct Header(pub [u8; BLOCK]);

impl Header {
    /// Takes a block; `None` if its checksum is wrong. Old archives have a sum of
    /// signed bytes.
    pub(super) fn parse(block: [u8; BLOCK]) -> Option<Header> {
        let header = Header(block);
        let said = number(header.field(CHECKSUM))?;
        let (unsigned, signed) = header.checksums();
        (said == unsigned || said == signed).then_some(header)
    }

    fn checksums(&self) -> (i64, i64) {
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        (unsigned, signed)
    }

    pub(super) fn field(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> u8 {
        self.0.get(TYPE).copied().unwrap_or_default()
    }

    /// The name, with ustar's prefix before it.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(self.field(NAME));
        let prefix = match self.field(MAGIC) {
            b"ustar\x0000" if self.field(508..512) == b"tar\0" => text(self.field(STAR_PREFIX)),
            b"ustar\x0000" => text(self.field(PREFIX)),
            _ => b"",
        };
        match prefix {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(self.field(LINK))
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(self.field(MODE))
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(self.field(UID))
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(self.field(GID))
    }

    pub(super) fn size(&self) -> Option<i64> {
        number(self.field(SIZE))
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(self.field(MTIME))
    }

    /// Major and minor; fields that old archives leave empty are 0.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        Some((number(self.field(MAJOR))?, number(self.field(MINOR))?))
    }

    /// A header with nothing but its form: no user names, no times.
    pub(super) fn new(kind: u8) -> Header {
        let mut header = Header([0; BLOCK]);
        header.put(MAGIC, b"ustar\x0000");
        header.put(TYPE..TYPE + 1, &[kind]);
        for range in [MODE, UID, GID, SIZE, MTIME, MAJOR, MINOR] {
            header.put_number(range, 0);
        }
        header
    }

    fn put(&mut self, range: Range<usize>, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(range.start).take(range.len()).zip(bytes) {
            *to = *from;
        }
    }

    /// Octal, with a NUL at the end.
    fn put_number(&mut self, range: Range<usize>, value: u64) {
        let digits = format!("{value:0width$o}", width = range.len() - 1);
        debug_assert!(digits.len() < range.len());
        self.put(range, digits.as_bytes());
    }

    /// Puts a path into name and prefix; false if it does not fit.
    pub(super) fn put_path(&mut self, path: &[u8]) -> bool {
        if path.len() <= NAME.len() {
            self.put(NAME, path);
            return true;
        }
        // The longest prefix that fits; the name may not be empty.
        let slash = path
            .iter()
            .enumerate()
            .take(PREFIX.len() + 1)
            .filter(|(at, byte)| **byte == b'/' && *at > 0 && at + 1 < path.len())
            .map(|(at, _)| at)
            .next_back();
        match slash.and_then(|at| path.split_at_checked(at)) {
            Some((prefix, name)) if name.len() - 1 <= NAME.len() => {
                self.put(PREFIX, prefix);
                self.put(NAME, name.get(1..).unwrap_or_default());
                true
            }
            _ => false,
        }
    }

    /// Puts as much of a name as fits; for what a PAX record says in full.
    pub(super) fn put_short(&mut self, path: &[u8]) {
        self.put(NAME, path.get(..NAME.len()).unwrap_or(path));
    }

    /// Puts a link's target; false if it does not fit.
    pub(super) fn put_link(&mut self, target: &[u8]) -> bool {
        let fits = target.len() <= LINK.len();
        self.put(LINK, target.get(..LINK.len()).unwrap_or(target));
        fits
    }

    pub(super) fn put_mode(&mut self, mode: u32) {
        self.put_number(MODE, u64::from(mode & 0o7777));
    }

    pub(super) fn put_uid(&mut self, uid: u64) {
        self.put_number(UID, uid);
    }

    pub(super) fn put_gid(&mut self, gid: u64) {
        self.put_number(GID, gid);
    }

    pub(super) fn put_size(&mut self, size: u64) {
        self.put_number(SIZE, size);
    }

    pub(super) fn put_mtime(&mut self, seconds: u64) {
        self.put_number(MTIME, seconds);
    }

    pub(super) fn put_device(&mut self, major: u32, minor: u32) {
        self.put_number(MAJOR, u64::from(major));
        self.put_number(MINOR, u64::from(minor));
    }

    /// The block with its checksum: six digits, NUL, space, as ever.
    pub(super) fn sealed(mut self) -> [u8; BLOCK] {
        let (sum, _) = self.checksums();
        self.put(CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// A field's text, to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits, or GNU's base-256 in two's complement (the first bit
/// set). Empty is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 is the sign; what lies above 64 bits must be sign alone.
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        let first = if negative { first | 0x80 } else { first & 0x3f };
        for byte in std::iter::once(&first).chain(rest) {
            let shifted = value.checked_mul(256)?;
            value = shifted | i64::from(*byte);
        }
        return Some(value);
    }
    let digits = text(field).trim_ascii();
    let digits = digits.split(|byte| *byte == b' ').next().unwrap_or_default();
    digits.iter().try_fold(0i64, |value, digit| {
        let digit = (*digit >= b'0' && *digit <= b'7').then(|| i64::from(digit - b'0'))?;
        value.checked_mul(8)?.checked_add(digit)
    })
}
