//! Decompression of layers: gzip, zstd or none, told by their first bytes.
//!
//! Media types lie (a `+gzip` that is plain, an archive of any name), so they are
//! not asked. What comes out is bounded: a few kilobytes of gzip can be terabytes
//! of zeros.

use std::io::{self, BufRead, BufReader, Cursor, Read};

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// The most memory that a zstd stream may ask for, as a power of two: 128 MiB, as
/// `zstd -d` allows.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Compression {
    /// What the first bytes say; four are enough.
    pub fn of(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame may come first (pzstd, zstd:chunked).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// OCI's media type of a layer compressed so.
    pub fn layer_media_type(self) -> &'static str {
        use super::document::media;
        match self {
            Compression::None => media::OCI_LAYER,
            Compression::Gzip => media::OCI_LAYER_GZIP,
            Compression::Zstd => media::OCI_LAYER_ZSTD,
        }
    }
}

/// A reader of what a compressed stream holds, at most `limit` bytes of it.
pub struct Decoder<'a> {
    inner: Box<dyn Read + Send + 'a>,
    compression: Compression,
    read: u64,
    limit: u64,
}

impl<'a> Decoder<'a> {
    /// Looks at the first bytes of `source` and decompresses accordingly.
    ///
    /// # Errors
    /// Those of `source`, and of zstd's start.
    pub fn new(mut source: impl Read + Send + 'a, limit: u64) -> io::Result<Decoder<'a>> {
        let mut start = [0; 4];
        let mut have = 0;
        while have < start.len() {
            match source.read(&mut start[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let compression = Compression::of(&start[..have]);
        let whole = Cursor::new(start).take(have as u64).chain(source);
        let inner: Box<dyn Read + Send + 'a> = match compression {
            Compression::None => Box::new(whole),
            // Several members in a row are one stream (pigz, estargz).
            Compression::Gzip => {
                let buffered = BufReader::with_capacity(128 << 10, whole);
                Box::new(GzipMembers::new(buffered))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::new(whole)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Decoder { inner, compression, read: 0, limit })
    }

    /// What the first bytes said.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The error that it holds more than its bound, if that was met.
    pub fn exceeded(&self) -> Option<io::Error> {
        (self.read > self.limit).then(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it holds more than {} bytes when decompressed", self.limit),
            )
        })
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        match self.exceeded() {
            Some(error) => Err(error),
            None => Ok(n),
        }
    }
}

/// gzip members one after another; zeros after the last are padding, as gzip(1)
/// has it (tapes, blocks of `dd`).
struct GzipMembers<R: BufRead> {
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> GzipMembers<R> {
    fn new(source: R) -> Self {
        GzipMembers { member: Some(flate2::bufread::GzDecoder::new(source)) }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = self.member.as_mut() {
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            let Some(mut source) = self.member.take().map(|member| member.into_inner()) else {
                break;
            };
            let next = loop {
                let ahead = source.fill_buf()?;
                let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
                if ahead.is_empty() || zeros < ahead.len() {
                    break ahead.get(zeros).copied();
                }
                source.consume(zeros);
            };
            match next {
                None => return Ok(0),
                Some(0x1f) => self.member = Some(flate2::bufread::GzDecoder::new(source)),
                Some(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "something that is not gzip follows the gzip data",
                    ));
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(bytes, limit)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn all_compressions_are_told_by_their_bytes() {
        let text = b"the same text again and again and again".repeat(100);
        let members = [gzip(&text[..100]), gzip(&text[100..]), vec![0; 1000]].concat();
        let frames =
            [zstd::encode_all(&text[..9], 1).unwrap(), zstd::encode_all(&text[9..], 3).unwrap()];
        for bytes in [text.clone(), gzip(&text), members, frames.concat()] {
            assert!(read(&bytes, 1 << 20).unwrap() == text);
        }
        assert_eq!(read(b"", 10).unwrap(), b"");
        assert_eq!(read(b"ab", 10).unwrap(), b"ab");
    }

    #[test]
    fn bombs_are_bounded() {
        let zeros = vec![0; 1 << 20];
        for bomb in [gzip(&zeros), zstd::encode_all(&zeros[..], 19).unwrap(), zeros] {
            let error = read(&bomb, 1000).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
        }
    }

    #[test]
    fn a_torn_or_soiled_stream_is_an_error() {
        let whole = gzip(&b"content".repeat(1000));
        assert!(read(&whole[..whole.len() - 4], 1 << 20).is_err());
        assert!(read(&[&whole[..], b"junk"].concat(), 1 << 20).is_err());
        let whole = zstd::encode_all(&b"content".repeat(1000)[..], 1).unwrap();
        assert!(read(&whole[..whole.len() - 4], 1 << 20).is_err());
    }
}
