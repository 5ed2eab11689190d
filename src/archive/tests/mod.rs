//! Archives written by hand, byte by byte, and what the reader and writer make of
//! them. The other rooms' tests take their archives from here.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

/// An archive that is put together from raw headers, so also one that no program
/// would write.
#[derive(Default)]
pub(crate) struct Tar(pub Vec<u8>);

/// The fields of a raw header, as bytes.
pub(crate) struct Raw<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub mode: &'a [u8],
    pub uid: &'a [u8],
    pub size: &'a [u8],
    pub device: (u32, u32),
    pub magic: &'a [u8],
    /// GNU's sparse map, from byte 386 on.
    pub tail: &'a [u8],
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Raw {
            name: b"",
            kind: b'0',
            link: b"",
            mode: b"0000644\0",
            uid: b"0000000\0",
            size: b"",
            device: (0, 0),
            magic: b"ustar\x0000",
            tail: b"",
        }
    }
}

impl Tar {
    pub(crate) fn raw(mut self, raw: Raw<'_>, content: &[u8]) -> Tar {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, raw.name);
        put(100, raw.mode);
        put(108, raw.uid);
        put(116, b"0000000\0");
        match raw.size {
            b"" => put(124, format!("{:011o}\0", content.len()).as_bytes()),
            size => put(124, size),
        }
        put(136, b"00000001234\0");
        put(156, &[raw.kind]);
        put(157, raw.link);
        put(257, raw.magic);
        put(329, format!("{:07o}\0", raw.device.0).as_bytes());
        put(337, format!("{:07o}\0", raw.device.1).as_bytes());
        put(386, raw.tail);
        put(148, b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Tar {
        self.raw(Raw { name: name.as_bytes(), ..Raw::default() }, content)
    }

    pub(crate) fn dir(self, name: &str, mode: &str) -> Tar {
        let mode = format!("{mode:0>7}\0");
        let raw =
            Raw { name: name.as_bytes(), kind: b'5', mode: mode.as_bytes(), ..Raw::default() };
        self.raw(raw, b"")
    }

    pub(crate) fn symlink(self, name: &str, link: &str) -> Tar {
        let raw =
            Raw { name: name.as_bytes(), kind: b'2', link: link.as_bytes(), ..Raw::default() };
        self.raw(raw, b"")
    }

    pub(crate) fn hard_link(self, name: &str, link: &str) -> Tar {
        let raw =
            Raw { name: name.as_bytes(), kind: b'1', link: link.as_bytes(), ..Raw::default() };
        self.raw(raw, b"")
    }

    pub(crate) fn device(self, name: &str, kind: u8, major: u32, minor: u32) -> Tar {
        let raw = Raw { name: name.as_bytes(), kind, device: (major, minor), ..Raw::default() };
        self.raw(raw, b"")
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut text = Vec::new();
        for (key, value) in records {
            super::pax::append(&mut text, key.as_bytes(), value);
        }
        self.raw(Raw { name: b"pax", kind: b'x', ..Raw::default() }, &text)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Every entry with its content.
fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let mut stream = bytes;
    let mut reader = Reader::new(&mut stream, &Limits { bytes: 1 << 24, ..Limits::default() });
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        while let Some(chunk) = reader.chunk()? {
            content.resize(chunk.offset as usize, 0);
            content.extend_from_slice(chunk.bytes);
        }
        if let Kind::File { size } = entry.kind {
            content.resize(size as usize, 0);
        }
        all.push((entry, content));
    }
    reader.drain()?;
    Ok(all)
}

fn why(bytes: &[u8]) -> String {
    read(bytes).map(|all| format!("{all:?}")).unwrap_err().to_string()
}

#[test]
fn numbers_in_both_forms() {
    use super::header::number;
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"  644 \0 "), Some(0o644));
    assert_eq!(number(b"\0\0\0\0"), Some(0));
    assert_eq!(number(b"8\0"), None);
    assert_eq!(number(b"-1\0"), None);
    // 9 GiB, and -1, in base-256.
    assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\x40\0\0\0"), Some(9 << 30));
    assert_eq!(number(&[0xff; 12]), Some(-1));
    assert_eq!(number(b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), None);
}

#[test]
fn sizes_beyond_8_gib_are_read_and_written() {
    let raw = Raw { name: b"big", size: b"\x80\0\0\0\0\0\0\x02\x40\0\0\0", ..Raw::default() };
    let bytes = Tar::default().raw(raw, b"").0;
    let mut stream = bytes.as_slice();
    let mut reader = Reader::new(&mut stream, &Limits::default());
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(entry.kind, Kind::File { size: 9 << 30 });
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.begin(&entry).unwrap();
    drop(writer);
    let mut stream = out.as_slice();
    let again = Reader::new(&mut stream, &Limits::default()).next_entry().unwrap();
    assert_eq!(again, Some(entry));
}

#[test]
fn pax_says_more_than_the_header() {
    let long = "d/".repeat(90) + "file";
    let tar = Tar::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"-1.25"),
            ("uid", b"3000000000"),
            ("SCHILY.xattr.user.a", b"x\ny\0z"),
        ])
        .file("short", b"content")
        .file("next", b"")
        .end();
    let all = read(&tar).unwrap();
    let (entry, content) = &all[0];
    assert_eq!(entry.path, long.as_bytes());
    assert_eq!(entry.mtime, Time { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(entry.uid, 3_000_000_000);
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"x\ny\0z".to_vec())]);
    assert_eq!(content, b"content");
    // Only the next entry is meant.
    assert_eq!(all[1].0.path, b"next");
    assert_eq!(all[1].0.uid, 0);
}

#[test]
fn gnu_long_names_and_old_directories() {
    let long = "n".repeat(300);
    let gnu = || Raw { name: b"././@LongLink", kind: b'L', ..Raw::default() };
    let link = || Raw { name: b"././@LongLink", kind: b'K', ..Raw::default() };
    let tar = Tar::default()
        .raw(gnu(), format!("{long}\0").as_bytes())
        .raw(link(), format!("{long}2\0").as_bytes())
        .symlink("cut", "cut")
        .raw(Raw { name: b"old/", kind: 0, magic: b"", ..Raw::default() }, b"")
        .end();
    let all = read(&tar).unwrap();
    assert_eq!(all[0].0.path, long.as_bytes());
    assert_eq!(all[0].0.kind, Kind::Symlink(format!("{long}2").into_bytes()));
    assert_eq!(all[1].0.kind, Kind::Directory);
}

#[test]
fn what_is_no_archive_says_so() {
    assert!(why(&[1; 1024]).contains("still compressed"));
    let zeros_between = [vec![0; 512], Tar::default().file("a", b"").end()].concat();
    assert!(why(&zeros_between).contains("zeros between"));
    let whole = Tar::default().file("a", b"content").end();
    assert!(why(&whole[..700]).contains("breaks off"), "{}", why(&whole[..700]));
    assert!(read(&whole[..1024]).is_ok(), "without its end it is complete still");
    assert!(why(&Tar::default().pax(&[("path", b"a\0b")]).file("a", b"").end()).contains("PAX"));
    let raw = Raw { name: b"a", kind: b'V', ..Raw::default() };
    assert!(why(&Tar::default().raw(raw, b"").end()).contains("unknown type `V`"));
    let raw = Raw { name: b"a", uid: b"\xff\xff\xff\xff\xff\xff\xff\xff", ..Raw::default() };
    assert!(why(&Tar::default().raw(raw, b"").end()).contains("user id -1"));
    let raw = Raw { name: b"a", kind: b'x', size: b"77777777777\0", ..Raw::default() };
    assert!(why(&Tar::default().raw(raw, b"").end()).contains("PAX header"));
    let raw = Raw {
        name: b"a",
        size: b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ..Raw::default()
    };
    assert!(why(&Tar::default().raw(raw, b"").end()).contains("no number"));
}

#[test]
fn maps_of_sparse_files_are_checked() {
    let map = |text: &[u8], size: &[u8], content: &[u8]| {
        let records: [(&str, &[u8]); 2] = [("GNU.sparse.map", text), ("GNU.sparse.size", size)];
        read(&Tar::default().pax(&records).file("s", content).end()).map(|all| all[0].1.clone())
    };
    assert_eq!(map(b"2,2,6,1", b"9", b"abc").unwrap(), b"\0\0ab\0\0c\0\0");
    assert!(map(b"2,2,3,1", b"9", b"abc").is_err(), "one over the other");
    assert!(map(b"2,2,9,1", b"9", b"abc").is_err(), "beyond the end");
    assert!(map(b"2,2,6,2", b"9", b"abc").is_err(), "more than there is");
    assert!(map(b"2,2,6", b"9", b"abc").is_err(), "half a pair");
    assert!(map(b"0,18446744073709551615", b"9", b"abc").is_err());
    assert!(map(b"0,1", b"99999999999999", b"a").is_err(), "holes are held against the limit");
}

#[test]
fn sparse_files_in_all_of_gnu_tars_forms() {
    let temp = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(temp.path().join("sparse")).unwrap();
    file.set_len(3 << 20).unwrap();
    // More parts than fit into one header, and than into the block after it.
    for part in 0..40u64 {
        std::os::unix::fs::FileExt::write_at(&file, &[part as u8 + 1; 4096], part << 16).unwrap();
    }
    let content = std::fs::read(temp.path().join("sparse")).unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let out = Command::new("tar")
            .args(form)
            .args(["--sparse", "-C"])
            .arg(temp.path())
            .args(["-cf", "-", "sparse"])
            .output()
            .unwrap();
        assert!(out.stdout.len() < 1 << 20, "tar did not see the holes");
        let all = read(&out.stdout).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0.path, b"sparse", "{form:?}");
        assert!(all[0].1 == content, "{form:?}");
    }
}

#[test]
fn tar_reads_what_the_writer_writes() {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    let entry = |path: &str, kind| Entry {
        path: path.into(),
        kind,
        mode: 0o4755,
        uid: 3_000_000,
        gid: 7,
        mtime: Time { seconds: 1_000_000_000, nanoseconds: 123_456_789 },
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
    };
    let long = format!("{}/{}", "p".repeat(150), "n".repeat(90));
    let longer = format!("{}/{}", "p".repeat(200), "n".repeat(200));
    writer.begin(&entry(&long, Kind::File { size: 5 })).unwrap();
    assert_eq!(writer.content(b"hello, too long").unwrap(), 0);
    writer.begin(&entry(&longer, Kind::Symlink("t".repeat(150).into()))).unwrap();
    writer.begin(&entry("cut", Kind::File { size: 1000 })).unwrap();
    writer.content(b"short").unwrap();
    writer.begin(&entry("null", Kind::Character(1, 3))).unwrap();
    writer.finish().unwrap();
    assert_eq!(out.len() % 512, 0);
    let mut tar = Command::new("tar")
        .args(["--xattrs", "--numeric-owner", "--full-time", "-tvf", "-"])
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(&out).unwrap();
    let listed = tar.wait_with_output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.status.success());
    assert!(text.contains(&format!("2001-09-09 01:46:40.123456789 {long}\n")), "{text}");
    assert!(
        text.contains("-rwsr-xr-x* 3000000/7") || text.contains("-rwsr-xr-x  3000000/7"),
        "{text}"
    );
    assert!(text.contains(&format!("{longer} -> {}", "t".repeat(150))), "{text}");
    assert!(text.contains("1,3"), "{text}");
    assert_eq!(read(&out).unwrap()[2].1[..6], *b"short\0");
}
