//! The room as a whole: real FIFOs, real files.

use super::*;
use crate::manifest::model::Log;
use crate::manifest::scalar::Size;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

pub(super) fn fifo(path: &Path) -> File {
    if !path.exists() {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    }
    File::options().read(true).write(true).open(path).unwrap()
}

pub(super) fn read_end(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

pub(super) fn settings(max_size: u64, max_files: u32, compress: bool) -> Log {
    Log { max_size: Size(max_size), max_files, compress, ..Log::default() }
}

/// The three of a container's that lie in a folder, to be read.
pub(super) fn fifos(root: &Path) -> Fifos {
    drop(fifo(&root.join("between")));
    let [stdout, stderr, between] =
        ["out", "err", "between"].map(|name| read_end(&root.join(name)));
    Fifos { stdout, stderr, between }
}

struct Room {
    root: tempfile::TempDir,
    logs: Logs,
    warnings: mpsc::UnboundedReceiver<Warning>,
    out: File,
    err: File,
}

impl Room {
    fn new() -> Room {
        let root = tempfile::tempdir().unwrap();
        let (sender, warnings) = mpsc::unbounded_channel();
        let out = fifo(&root.path().join("out"));
        let err = fifo(&root.path().join("err"));
        Room { root, logs: Logs::new(sender), warnings, out, err }
    }

    fn dir(&self) -> std::path::PathBuf {
        self.root.path().join("log")
    }

    fn capture(&self, settings: Log) -> Capture {
        self.logs.capture(self.dir(), fifos(self.root.path()), settings).unwrap()
    }

    async fn lines(&self, query: Query) -> Vec<String> {
        let mut reader = self.logs.read(&self.dir(), query);
        let mut out = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            out.push(text(&line));
        }
        out
    }
}

fn text(line: &Line) -> String {
    let who = match line.stream {
        Stream::Stdout => "o",
        Stream::Stderr => "e",
        Stream::Berth => "b",
        Stream::Filler => "?",
    };
    format!("{who} {}", String::from_utf8_lossy(&line.bytes))
}

async fn moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn streams_interleaved_inside_lines_read_back_whole() {
    let mut room = Room::new();
    let capture = room.capture(Log::default());
    for (err, text) in [(false, "hel"), (true, "oops\n"), (false, "lo\n"), (true, "end")] {
        let to = if err { &mut room.err } else { &mut room.out };
        to.write_all(text.as_bytes()).unwrap();
        moment().await;
    }
    capture.drain().await;
    assert_eq!(room.lines(Query::default()).await, ["e oops\n", "o hello\n", "e end"]);
    let raw = std::fs::read_to_string(room.dir().join("current.log")).unwrap();
    assert_eq!(raw, "hel\noops\nlo\nend");
    let query = Query { stdout: false, ..Query::default() };
    assert_eq!(room.lines(query).await, ["e oops\n", "e end"]);
}

#[tokio::test]
async fn every_tail_is_the_end_of_the_whole_across_rotated_files() {
    for compress in [false, true] {
        let mut room = Room::new();
        let capture = room.capture(settings(300, 1000, compress));
        for i in 0..120 {
            writeln!(room.out, "line {i}").unwrap();
            if i % 7 == 0 {
                writeln!(room.err, "error {i}").unwrap();
                write!(room.out, "part ").unwrap();
            }
            if i % 10 == 0 {
                moment().await;
            }
        }
        write!(room.err, "open").unwrap();
        capture.drain().await;
        moment().await;
        for (stdout, stderr) in [(true, true), (true, false), (false, true)] {
            let query = Query { stdout, stderr, ..Query::default() };
            let all = room.lines(query.clone()).await;
            let want = 121 * usize::from(stdout) + 19 * usize::from(stderr);
            assert_eq!(all.len(), want);
            for n in 0..all.len() + 3 {
                let tail = Some(n as u64);
                let got = room.lines(Query { tail, ..query.clone() }).await;
                assert_eq!(got, all[all.len().saturating_sub(n)..], "tail {n}");
            }
        }
    }
}

#[tokio::test]
async fn a_follower_misses_nothing_at_rotations_and_ends_when_told() {
    let mut room = Room::new();
    let capture = room.capture(settings(200, 1000, true));
    let mut reader = room.logs.read(&room.dir(), Query { follow: true, ..Query::default() });
    let follower = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            seen.push(text(&line));
        }
        seen
    });
    for i in 0..300 {
        writeln!(room.out, "{i}").unwrap();
        if i % 9 == 0 {
            moment().await;
        }
        if i == 150 {
            std::fs::remove_file(room.dir().join("current.log")).unwrap();
        }
        if i == 200 {
            moment().await;
            File::create(room.dir().join("current.log")).unwrap();
        }
    }
    capture.drain().await;
    room.logs.ended(&room.dir());
    let want: Vec<_> = (0..300).map(|i| format!("o {i}\n")).collect();
    assert_eq!(follower.await.unwrap(), want);
}

#[tokio::test]
async fn rotated_files_end_at_lines_and_only_the_newest_stay() {
    let mut room = Room::new();
    let capture = room.capture(settings(100, 3, false));
    for i in 0..100 {
        writeln!(room.out, "number {i}").unwrap();
    }
    capture.drain().await;
    moment().await;
    let found = layout::scan(&room.dir()).unwrap();
    assert_eq!(found.segments.len(), 4);
    for (seq, form) in found.segments {
        let bytes = std::fs::read(layout::path(&room.dir(), seq, form)).unwrap();
        assert!(bytes.starts_with(b"number ") && bytes.ends_with(b"\n"));
        assert!(bytes.len() <= 100);
    }
}

#[tokio::test]
async fn a_file_too_old_is_rotated_without_a_write() {
    let mut room = Room::new();
    let capture = room
        .capture(Log { max_age: Some(Duration::from_millis(50)), ..settings(1 << 20, 5, false) });
    writeln!(room.out, "old").unwrap();
    let path = room.dir().join("000000000001.log");
    for _ in 0..500 {
        if path.exists() {
            break;
        }
        moment().await;
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "old\n");
    capture.drain().await;
}

#[tokio::test]
async fn what_a_rate_limit_drops_is_told() {
    let mut room = Room::new();
    let capture = room.capture(Log { rate_limit: Some(Size(50)), ..Log::default() });
    for i in 0..50 {
        writeln!(room.out, "number {i:02}").unwrap();
    }
    moment().await;
    capture.drain().await;
    let lines = room.lines(Query::default()).await;
    assert_eq!(lines[..5], (0..5).map(|i| format!("o number {i:02}\n")).collect::<Vec<_>>());
    assert!(lines[5].starts_with("b [berth: dropped 450 bytes of stdout"), "{lines:?}");
}

#[tokio::test]
async fn a_lost_or_torn_index_is_completed_from_the_file() {
    let mut room = Room::new();
    let capture = room.capture(Log::default());
    writeln!(room.out, "one").unwrap();
    capture.drain().await;
    let index = room.dir().join("000000000001.idx");
    let whole = std::fs::read(&index).unwrap();
    for torn in [0, 7, 16, 30, whole.len()] {
        std::fs::write(&index, &whole[..torn.min(whole.len())]).unwrap();
        assert_eq!(room.lines(Query::default()).await[0], "o one\n");
    }
    std::fs::remove_file(&index).unwrap();
    let capture = room.capture(Log::default());
    writeln!(room.err, "two").unwrap();
    capture.drain().await;
    assert_eq!(room.lines(Query::default()).await, ["o one\n", "e two\n"]);
}

#[tokio::test]
async fn a_full_disk_slows_the_container_and_costs_no_byte() {
    let mut room = Room::new();
    std::fs::create_dir(room.dir()).unwrap();
    let dir = room.dir();
    nix::mount::mount(
        Some("tmpfs"),
        &dir,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=256k"),
    )
    .unwrap();
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    let _unmount = Unmount(dir.clone());
    std::fs::write(dir.join("ballast"), vec![0; 200 << 10]).unwrap();
    let capture = room.capture(Log::default());
    let mut out = room.out.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for i in 0..15_000 {
            writeln!(out, "{i}").unwrap();
        }
    });
    let first = room.warnings.recv().await.unwrap();
    assert!(matches!(first, Warning::Stalled { .. }), "{first:?}");
    std::fs::remove_file(dir.join("ballast")).unwrap();
    let second = room.warnings.recv().await.unwrap();
    assert!(matches!(second, Warning::Resumed { .. }), "{second:?}");
    tokio::task::spawn_blocking(|| writer.join()).await.unwrap().unwrap();
    capture.drain().await;
    let want: Vec<_> = (0..15_000).map(|i| format!("o {i}\n")).collect();
    assert!(room.lines(Query::default()).await == want);
    assert!(room.err.metadata().is_ok());
}

#[tokio::test]
async fn a_line_without_end_is_stored_and_read_in_pieces() {
    let mut room = Room::new();
    let capture = room.capture(settings(1000, 1000, true));
    let big = vec![b'x'; 300_000];
    let mut out = room.out.try_clone().unwrap();
    let copy = big.clone();
    let writer = std::thread::spawn(move || out.write_all(&copy).unwrap());
    tokio::task::spawn_blocking(|| writer.join()).await.unwrap().unwrap();
    writeln!(room.out).unwrap();
    capture.drain().await;
    let mut reader = room.logs.read(&room.dir(), Query::default());
    let mut all = Vec::new();
    while let Some(line) = reader.next().await.unwrap() {
        assert!(line.bytes.len() <= lines::PIECE);
        all.extend(line.bytes);
    }
    assert_eq!(all.len(), big.len() + 1);
    assert!(layout::scan(&room.dir()).unwrap().segments.len() > 1);
}

/// Where a run ended can't be looked up for want of a descriptor: what it printed is there.
#[tokio::test]
async fn a_run_whose_end_can_not_be_looked_up_is_read_to_the_end() {
    let mut room = Room::new();
    let capture = room.capture(Log::default());
    let mut follower = room.logs.follow(&room.dir(), From::Now).unwrap().for_one_run(0);
    writeln!(room.out, "unread").unwrap();
    capture.drain().await;
    let aside = room.root.path().join("aside");
    std::fs::rename(room.dir(), &aside).unwrap();
    std::fs::write(room.dir(), "").unwrap();
    room.logs.run_ended(&room.dir(), 1);
    std::fs::remove_file(room.dir()).unwrap();
    std::fs::rename(&aside, room.dir()).unwrap();
    let piece = follower.next().await.unwrap().expect("it is cut off");
    assert_eq!(piece.bytes, b"unread\n");
}
