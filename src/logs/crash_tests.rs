//! The capture runs in a process of its own that is killed again and again, while
//! numbered lines are written to both FIFOs: each is there once, and in order.

use super::tests::{fifo, fifos, settings};
use super::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROOT: &str = "BERTH_LOGS_CRASH_TEST";

/// Not a test of its own: what the other process runs.
#[test]
fn child_that_captures_until_it_is_killed() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let logs = Logs::new(tokio::sync::mpsc::unbounded_channel().0);
        let size = std::env::var("BERTH_LOGS_CRASH_TEST_SIZE").unwrap().parse().unwrap();
        let settings = settings(size, 1_000_000, true);
        let capture = logs.capture(root.join("log"), fifos(&root), settings).unwrap();
        capture.keeps(true);
        std::future::pending::<()>().await;
    });
}

fn child(root: &Path, size: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "logs::crash_tests::child_that_captures_until_it_is_killed"])
        .env(ROOT, root)
        .env("BERTH_LOGS_CRASH_TEST_SIZE", size.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_any_instant_every_line_is_there_once_and_in_order() {
    kill_while_lines_are_written(60_000, 64, 3000);
}

/// So many at a time that they go by way of the FIFO between.
#[test]
fn killed_in_a_burst_every_line_is_there_once_and_in_order() {
    kill_while_lines_are_written(600_000, 20_000, 300_000);
}

/// After every `pause` lines the writers sleep a millisecond; files have `size` bytes.
fn kill_while_lines_are_written(lines: u64, pause: u64, size: u64) {
    let root = tempfile::tempdir().unwrap();
    let ends = [fifo(&root.path().join("out")), fifo(&root.path().join("err"))];
    // As container init does.
    let _kept = fifo(&root.path().join("between"));
    let writers = ends.each_ref().map(|end| {
        let mut end = end.try_clone().unwrap();
        std::thread::spawn(move || {
            for i in 0..lines {
                // Now in one write, now in two: a line may be cut anywhere.
                let line = format!("{i} of these lines\n");
                let (head, rest) = line.split_at(if i % 5 == 0 { 3 } else { 0 });
                end.write_all(head.as_bytes()).unwrap();
                end.write_all(rest.as_bytes()).unwrap();
                if i % pause == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        })
    });
    let begun = Instant::now();
    let mut rounds = 0u64;
    while writers.iter().any(|w| !w.is_finished()) {
        let mut child = child(root.path(), size);
        // Spread over start, writing, rotating and compressing.
        let nap = Duration::from_micros(2_000 + rounds * 7_919 % 60_000);
        std::thread::sleep(nap);
        child.kill().unwrap();
        child.wait().unwrap();
        rounds += 1;
        assert!(begun.elapsed() < Duration::from_secs(300), "no headway");
    }
    for writer in writers {
        writer.join().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let logs = Logs::new(tokio::sync::mpsc::unbounded_channel().0);
        let dir = root.path().join("log");
        let settings = settings(size, 1_000_000, true);
        let capture = logs.capture(dir.clone(), fifos(root.path()), settings).unwrap();
        capture.drain().await;
        let mut next = [0u64; 2];
        let mut reader = logs.read(&dir, Query::default());
        while let Some(line) = reader.next().await.unwrap() {
            let slot = usize::from(line.stream == Stream::Stderr);
            let text = String::from_utf8(line.bytes).unwrap();
            assert_eq!(text, format!("{} of these lines\n", next[slot]), "after {rounds} kills");
            next[slot] += 1;
        }
        assert_eq!(next, [lines; 2]);
    });
    println!("{rounds} kills");
    assert!(rounds > 5, "only {rounds} kills");
}

/// Prints, asserts nothing of time.
#[test]
fn throughput_beside_cat() {
    const BYTES: usize = 64 << 20;
    let root = tempfile::tempdir().unwrap();
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let chunk = line.repeat(40);
    let feed = |mut end: std::fs::File| {
        let chunk = chunk.clone();
        std::thread::spawn(move || {
            for _ in 0..BYTES / chunk.len() {
                end.write_all(&chunk).unwrap();
            }
        })
    };
    let total = (BYTES / chunk.len() * chunk.len()) as u64;
    let pipe = root.path().join("cat");
    let keep = fifo(&pipe);
    let target = root.path().join("cat.log");
    let begun = Instant::now();
    let mut cat = Command::new("cat")
        .stdin(std::fs::File::open(&pipe).unwrap())
        .stdout(std::fs::File::create(&target).unwrap())
        .spawn()
        .unwrap();
    feed(keep).join().unwrap();
    cat.wait().unwrap();
    let cat = begun.elapsed();
    assert_eq!(target.metadata().unwrap().len(), total);

    let (out, _err) = (fifo(&root.path().join("out")), fifo(&root.path().join("err")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ours = runtime.block_on(async {
        let logs = Logs::new(tokio::sync::mpsc::unbounded_channel().0);
        let begun = Instant::now();
        let settings = settings(1 << 30, 5, false);
        let capture = logs.capture(root.path().join("log"), fifos(root.path()), settings).unwrap();
        capture.keeps(true);
        let feeder = feed(out.try_clone().unwrap());
        tokio::task::spawn_blocking(|| feeder.join()).await.unwrap().unwrap();
        capture.drain().await;
        begun.elapsed()
    });
    assert_eq!(root.path().join("log/current.log").metadata().unwrap().len(), total);
    println!(
        "capture runs at {:.2} of cat's speed ({:.0} MB/s)",
        cat.as_secs_f64() / ours.as_secs_f64(),
        total as f64 / 1e6 / ours.as_secs_f64()
    );
}
