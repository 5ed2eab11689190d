//! Copying against roots that don't hold still.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;
use crate::archive::tests::Tar;

struct Bed {
    temp: TempDir,
    root: fs::File,
}

impl Bed {
    fn new() -> Bed {
        let temp = TempDir::new().unwrap();
        fs::create_dir_all(temp.path().join("root/etc/in")).unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        fs::write(temp.path().join("outside/f"), "precious").unwrap();
        fs::write(temp.path().join("root/etc/f"), "file").unwrap();
        symlink("/etc", temp.path().join("root/abs")).unwrap();
        symlink("../../outside", temp.path().join("root/out")).unwrap();
        let root = fs::File::open(temp.path().join("root")).unwrap();
        Bed { temp, root }
    }

    fn find(&self, path: &str) -> Result<Found, Error> {
        find(self.root.as_fd(), Path::new(path))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut bytes = Vec::new();
        self.find(path).unwrap().write_to(&mut bytes, None).unwrap();
        let mut stream = bytes.as_slice();
        let mut reader = crate::archive::Reader::new(&mut stream, &Limits::default());
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    }

    fn copy_in(&self, path: &str, tar: Tar, options: &Into) -> Result<Copied, Error> {
        copy_in(self.root.as_fd(), Path::new(path), &mut tar.end().as_slice(), options)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join("root").join(name)
    }
}

#[test]
fn names_in_the_archive_are_dockers() {
    let bed = Bed::new();
    assert_eq!(bed.names("/etc"), ["etc/", "etc/f", "etc/in/"]);
    assert_eq!(bed.names("etc/"), ["etc/", "etc/f", "etc/in/"]);
    assert_eq!(bed.names("/etc/."), ["./", "./f", "./in/"]);
    assert_eq!(bed.names("/abs/"), ["abs/", "abs/f", "abs/in/"]);
    assert_eq!(bed.names("/abs"), ["abs"]);
    assert_eq!(bed.names("/abs/f"), ["f"]);
    assert_eq!(bed.names("/")[..2], ["./", "./abs"]);
}

#[test]
fn stat_is_as_dockers_header() {
    let bed = Bed::new();
    let found = bed.find("/etc/f").unwrap();
    let stat = found.stat();
    assert_eq!((stat.name.as_slice(), stat.size), (&b"f"[..], 4));
    assert_eq!(stat.go_mode(), 0o644);
    assert_eq!(bed.find("/etc").unwrap().stat().go_mode(), 1 << 31 | 0o755);
    let link = bed.find("/abs").unwrap();
    assert_eq!(link.stat().link_target.as_deref(), Some(Path::new("/etc")));
    assert_eq!(link.stat().go_mode(), 1 << 27 | 0o777);
    let out = bed.find("/out").unwrap();
    assert_eq!(out.stat().link_target.as_deref(), Some(Path::new("/outside")));
    assert_eq!(bed.find("/none").err().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(bed.find("/etc/f/").err().unwrap().kind(), io::ErrorKind::NotADirectory);
    assert_eq!(bed.find("/out/f").err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn into_directories_as_docker_does() {
    let bed = Bed::new();
    let plain = Into::default();
    let done = bed.copy_in("/abs", Tar::default().file("new", b"1").file("f", b"2"), &plain);
    assert_eq!(done.unwrap(), Copied { entries: 2, bytes: 2 });
    assert_eq!(fs::read(bed.path("etc/f")).unwrap(), b"2");
    assert_eq!(fs::read(bed.path("etc/new")).unwrap(), b"1");
    let missing = bed.copy_in("/none", Tar::default(), &plain).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let file = bed.copy_in("/etc/f", Tar::default(), &plain).unwrap_err();
    assert_eq!(file.kind(), io::ErrorKind::NotADirectory);

    let keep = Into { keep_kinds: true, ..plain.clone() };
    let error = bed.copy_in("/etc", Tar::default().file("in", b""), &keep).unwrap_err();
    assert!(error.to_string().contains("a directory with a non-directory"), "{error}");
    let error = bed.copy_in("/etc", Tar::default().dir("f", "755"), &keep).unwrap_err();
    assert!(error.to_string().contains("a non-directory with a directory"), "{error}");
    bed.copy_in("/etc", Tar::default().file("in", b"now a file"), &plain).unwrap();
    assert!(bed.path("etc/in").is_file());

    let owned = Into { owner: Some((11, 12)), ..plain.clone() };
    let tar = Tar::default().dir("d", "700").file("d/f", b"").file("implied/f", b"");
    bed.copy_in("/", tar.hard_link("link", "d/f"), &owned).unwrap();
    for name in ["d", "d/f", "implied", "implied/f", "link"] {
        let there = fs::metadata(bed.path(name)).unwrap();
        assert_eq!((there.uid(), there.gid()), (11, 12), "{name}");
    }
    assert_eq!(fs::metadata(bed.path("d")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn nothing_is_written_outside() {
    let bed = Bed::new();
    let options = Into::default();
    assert!(bed.copy_in("/out", Tar::default().file("f", b"x"), &options).is_err());
    assert!(bed.copy_in("/", Tar::default().file("out/f", b"x"), &options).is_err());
    assert!(bed.copy_in("/", Tar::default().file("../outside/f", b"x"), &options).is_err());
    let links = Tar::default().symlink("l", "/").file("l/deep", b"x");
    bed.copy_in("/etc", links, &options).unwrap();
    assert!(bed.path("deep").exists());
    assert_eq!(fs::read(bed.temp.path().join("outside/f")).unwrap(), b"precious");
}

/// A container that swaps a directory for a link to the outside, as fast as it can.
#[test]
fn a_root_that_swaps_names() {
    let bed = Bed::new();
    let stop = AtomicBool::new(false);
    symlink(bed.temp.path().join("outside"), bed.path("trap")).unwrap();
    fs::create_dir(bed.path("dir")).unwrap();
    fs::write(bed.path("dir/f"), "inside").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (bed.path("dir"), bed.path("trap"));
                // A copy may be about to replace one of them.
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags);
            }
        });
        let (mut copied, mut read) = (0, 0);
        for round in 0..2000 {
            let tar = Tar::default().dir("dir", "700").file("dir/f", b"inside");
            copied += usize::from(bed.copy_in("/", tar, &Into::default()).is_ok());
            for path in ["/dir/f", "/dir/", "/dir"] {
                let mut bytes = Vec::new();
                if let Ok(found) = bed.find(path) {
                    found.write_to(&mut bytes, None).unwrap();
                    read += 1;
                }
                assert!(!bytes.windows(8).any(|w| w == b"precious"), "round {round}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(copied > 0 && read > 0, "{copied} {read}");
    });
    let outside: Vec<_> = fs::read_dir(bed.temp.path().join("outside")).unwrap().collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(fs::read(bed.temp.path().join("outside/f")).unwrap(), b"precious");
    let there = fs::metadata(bed.temp.path().join("outside")).unwrap();
    assert_eq!(there.mode() & 0o7777, 0o755);
}
