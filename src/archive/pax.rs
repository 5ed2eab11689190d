//! PAX records, pax(1): `LENGTH KEY=VALUE` lines in a header of their own that say
//! what the 512 bytes after it can't.

use super::entry::Time;

/// What PAX records change in the entry after them.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's three ways to say in PAX where a file has holes.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    /// The true name and size; the header's are those of the parts that follow.
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// Offset and length of each part, for the versions 0.0 and 0.1.
    pub parts: Vec<(u64, u64)>,
    /// An offset of version 0.0 whose length has not come yet.
    offset: Option<u64>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Reads all records; the later of two with the same key counts.
    pub(super) fn parse(mut text: &[u8]) -> Result<Pax, String> {
        let mut pax = Pax::default();
        // Some writers fill the block up with NULs.
        while text.first().is_some_and(|byte| *byte != 0) {
            let (key, value, rest) = record(text).ok_or("a PAX record that is not one")?;
            text = rest;
            pax.take(key, value)
                .ok_or_else(|| format!("a bad PAX record `{}`", super::error::shown(key)))?;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            // An empty value takes the record back, pax(1).
            _ if value.is_empty() && !key.starts_with(XATTR) => {}
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(i64::try_from(decimal(value)?).ok()?),
            b"gid" => self.gid = Some(i64::try_from(decimal(value)?).ok()?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = name(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" => self.sparse.offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take()?;
                self.sparse.parts.push((offset, decimal(value)?));
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> =
                    value.split(|byte| *byte == b',').map(decimal).collect();
                let numbers = numbers?;
                if numbers.len() % 2 != 0 {
                    return None;
                }
                self.sparse.parts = numbers
                    .chunks_exact(2)
                    .filter_map(|c| Some((*c.first()?, *c.last()?)))
                    .collect();
            }
            key => {
                if let Some(attribute) = key.strip_prefix(XATTR) {
                    if attribute.is_empty() || attribute.contains(&0) {
                        return None;
                    }
                    self.xattrs.retain(|(known, _)| known != attribute);
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// Takes one record off.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(text.get(..space)?)?).ok()?;
    let (whole, rest) = text.split_at_checked(length)?;
    let body = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((body.get(..equals).filter(|key| !key.is_empty())?, body.get(equals + 1..)?, rest))
}

fn name(value: &[u8]) -> Option<Option<Vec<u8>>> {
    (!value.contains(&0)).then(|| (!value.is_empty()).then(|| value.to_vec()))
}

/// A number without sign or blanks.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Seconds with a fraction; what is finer than a nanosecond is cut off.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut halves = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(halves.next()?)?).ok()?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9)
        .map(|at| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')))
        .fold(0, |sum, digit| sum * 10 + digit);
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, n) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - n },
    })
}

/// A time as a PAX record says it.
pub(super) fn time_text(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, n) => ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - n),
        (false, n) => ("", time.seconds.unsigned_abs(), n),
    };
    match nanoseconds {
        0 => format!("{sign}{seconds}"),
        n => format!("{sign}{seconds}.{n:09}").trim_end_matches('0').to_owned(),
    }
}

/// Appends a record; its length counts itself.
pub(super) fn append(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + decimal_width(body);
    if decimal_width(length) > decimal_width(body) {
        length = body + decimal_width(length);
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn decimal_width(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}
