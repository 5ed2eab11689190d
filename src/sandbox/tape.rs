//! The plan's flat form: words and strings in the order in which the child needs
//! them, so that it can be read without allocating. All integers little-endian,
//! everything aligned to 8 bytes, strings with their length before and a NUL
//! behind.

use std::ffi::CStr;

const WORD: usize = 8;

/// Writes a tape.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A number.
    pub fn word(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes, readable as a C string too.
    pub fn bytes(&mut self, value: &[u8]) {
        self.word(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(WORD), 0);
    }

    /// A list: its length, then each item by `write`.
    pub fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.word(items.len() as u64);
        for item in items {
            write(self, item);
        }
    }

    /// Strings with room for a NULL-terminated array of pointers to them.
    pub fn pointers(&mut self, strings: &[Vec<u8>]) {
        self.word(strings.len() as u64);
        for _ in 0..=strings.len() {
            self.word(0);
        }
        for string in strings {
            self.bytes(string);
        }
    }

    /// The tape.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a tape in place. `None` where the tape is not as expected.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a mut [u8],
}

impl<'a> Reader<'a> {
    /// From its beginning.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Option<&'a mut [u8]> {
        if len > self.rest.len() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let (taken, rest) = rest.split_at_mut(len);
        self.rest = rest;
        Some(taken)
    }

    /// A number.
    pub fn word(&mut self) -> Option<u64> {
        let bytes = self.take(WORD)?;
        Some(u64::from_le_bytes((&*bytes).try_into().ok()?))
    }

    /// A number that must fit.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.word()?).ok()
    }

    /// A signed number.
    pub fn signed(&mut self) -> Option<i64> {
        self.word().map(|word| word as i64)
    }

    /// Bytes, without the NUL behind them.
    pub fn bytes(&mut self) -> Option<&'a mut [u8]> {
        let len: usize = self.number()?;
        let padded = len.checked_add(1)?.checked_next_multiple_of(WORD)?;
        self.take(padded)?.get_mut(..len)
    }

    /// A string, which ends at the first NUL.
    pub fn string(&mut self) -> Option<&'a CStr> {
        let len: usize = self.number()?;
        let padded = len.checked_add(1)?.checked_next_multiple_of(WORD)?;
        CStr::from_bytes_until_nul(self.take(padded)?).ok()
    }

    /// Strings as a NULL-terminated array, the form of execve(2).
    pub fn pointers(&mut self) -> Option<*const *const libc::c_char> {
        self.pointers_with(None)
    }

    /// The same; the digits that the first string ends with become `number`, which has no
    /// more of them. Without zeros before it: who reads those as octal gets another one.
    pub fn pointers_with(&mut self, number: Option<u32>) -> Option<*const *const libc::c_char> {
        let count: usize = self.number()?;
        let array = self.take(count.checked_add(1)?.checked_mul(WORD)?)?;
        for index in 0..count {
            let string = match number.filter(|_| index == 0) {
                Some(number) => self.numbered(number)?,
                None => self.string()?,
            };
            let pointer = string.as_ptr() as usize as u64;
            array
                .get_mut(index * WORD..(index + 1) * WORD)?
                .copy_from_slice(&pointer.to_ne_bytes());
        }
        Some(array.as_ptr().cast())
    }

    fn numbered(&mut self, number: u32) -> Option<&'a CStr> {
        let len: usize = self.number()?;
        let padded = len.checked_add(1)?.checked_next_multiple_of(WORD)?;
        let bytes = self.take(padded)?;
        let text = bytes.get_mut(..len)?;
        let room = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let text = text.get_mut(len - room..)?;
        let length = number.checked_ilog10().unwrap_or(0) as usize + 1;
        let (digits, left) = text.split_at_mut_checked(length)?;
        let mut rest = number;
        for byte in digits.iter_mut().rev() {
            *byte = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        // The string ends behind the last digit.
        left.fill(0);
        CStr::from_bytes_until_nul(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.word(7);
        writer.bytes(b"");
        writer.bytes(b"12345678");
        writer.list(&[1u64, 2], |w, n| w.word(*n));
        writer.pointers(&[b"sh".to_vec(), b"-c".to_vec()]);
        writer.word(-5i64 as u64);
        let mut tape = writer.finish();
        assert_eq!(tape.len() % 8, 0);
        let mut reader = Reader::new(&mut tape);
        assert_eq!(reader.word(), Some(7));
        assert_eq!(reader.string(), Some(c""));
        assert_eq!(reader.bytes().map(|b| b.to_vec()), Some(b"12345678".to_vec()));
        assert_eq!(reader.word(), Some(2));
        assert_eq!((reader.word(), reader.word()), (Some(1), Some(2)));
        assert!(reader.pointers().is_some());
        assert_eq!(reader.signed(), Some(-5));
        assert_eq!(reader.word(), None);
    }

    #[test]
    fn a_number_is_put_into_the_first_string() {
        let told = |text: &str, number: u32| {
            let mut writer = Writer::default();
            writer.pointers(&[text.as_bytes().to_vec(), b"A=1".to_vec()]);
            writer.word(7);
            let mut tape = writer.finish();
            let mut reader = Reader::new(&mut tape);
            let array = reader.pointers_with(Some(number))?;
            assert_eq!(reader.word(), Some(7));
            // SAFETY: the array and its strings are in `tape`, which lives.
            Some(
                unsafe { [CStr::from_ptr(*array), CStr::from_ptr(*array.add(1))] }
                    .map(|one| one.to_str().unwrap().to_owned()),
            )
        };
        let room = "LISTEN_PID=0000000000";
        assert_eq!(told(room, 4711).unwrap(), ["LISTEN_PID=4711", "A=1"]);
        assert_eq!(told(room, 0).unwrap(), ["LISTEN_PID=0", "A=1"]);
        assert_eq!(told(room, u32::MAX).unwrap(), ["LISTEN_PID=4294967295", "A=1"]);
        assert_eq!(told("X=00", 100), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&mut bytes);
            let _ = reader.pointers();
            let _ = reader.string();
            let _ = reader.bytes();
            let _ = reader.number::<u8>();
        }
    }
}
