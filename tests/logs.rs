//! What containers print, as people read it.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::{Berth, binary, kill, shell};

#[test]
fn a_log_is_read_by_its_end_its_streams_and_its_time() {
    let script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; sleep 0.02; done";
    let berth =
        Berth::up_with(&[("web.toml", &("restart = \"no\"\n".to_owned() + &shell(script)))]);
    berth.wait_status("web", "exited");
    let read = |args: &[&str]| {
        let output = berth.cli(&[&["logs", "web"], args].concat());
        assert!(output.status.success(), "{args:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (out, err) = read(&[]);
    assert_eq!(out, "out 1\nout 2\nout 3\nout 4\nout 5\n");
    assert_eq!(err, out.replace("out", "err"));
    assert_eq!(read(&["--stderr", "-n", "2"]), (String::new(), "err 4\nerr 5\n".to_owned()));
    assert_eq!(read(&["--stdout", "-n", "1"]).0, "out 5\n");
    assert_eq!(read(&["--since", "1h", "-n", "1", "--stdout"]).0, "out 5\n");
    assert_eq!(read(&["--until", "1h"]), (String::new(), String::new()));
    let (stamped, _) = read(&["-t", "--stdout", "-n", "1"]);
    let (time, line) = stamped.split_once(' ').unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{stamped}");
    assert_eq!(line, "out 5\n");
}

#[test]
fn a_follower_sees_every_line_once_over_rotations_and_engine_deaths() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo number $i; i=$((i+1)); \
                  [ $((i % 100)) = 0 ] && sleep 0.05; done; sleep 1000";
    let text = shell(script) + "[log]\nmax-size = \"4KiB\"\nmax-files = 1000\n";
    let berth = Berth::up_with(&[("web.toml", &text)]);
    berth.wait_log("web", "number 0");
    let mut follower = Command::new(binary())
        .args(["--root", berth.root().to_str().unwrap(), "logs", "-f", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    for expected in 0..3000 {
        if expected % 700 == 350
            && let Some(engine) = berth.engine_pid()
        {
            kill(engine, 9);
        }
        assert_eq!(lines.next().unwrap().unwrap(), format!("number {expected}"));
    }
    // It ends with the container.
    berth.wait("the engine to answer", || berth.cli(&["ps"]).status.success());
    berth.ok(&["stop", "-t", "0", "web"]);
    assert!(follower.wait().unwrap().success());
}

#[test]
fn events_tell_what_happened() {
    let berth =
        Berth::up_with(&[("web.toml", &("restart = \"no\"\n".to_owned() + &shell("exit 4")))]);
    berth.wait_status("web", "exited");
    let events = berth.ok(&["events"]);
    assert!(events.contains("web  start") && events.contains("exitCode=4"), "{events}");
}

#[test]
fn the_docker_command_answers() {
    if Command::new("docker").arg("--version").output().is_err() {
        eprintln!("skipped: there is no docker command here");
        return;
    }
    let text = shell("trap \"exit 0\" TERM; echo hello; while :; do sleep 0.1; done");
    let berth = Berth::up_with(&[("web.toml", &text)]);
    berth.wait_log("web", "hello");
    let docker = |args: &[&str]| {
        let output = Command::new("docker")
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", berth.path("run/berth/berth.sock").display()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "docker {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    assert!(docker(&["version"]).contains("Engine"));
    assert!(docker(&["info"]).contains("Running: 1"));
    assert!(docker(&["ps"]).contains("web"));
    assert_eq!(docker(&["logs", "web"]), "hello\n");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Status}}", "web"]), "running\n");
    assert!(docker(&["top", "web"]).contains("sleep"));
    assert!(docker(&["stats", "--no-stream"]).contains("web"));
    docker(&["pause", "web"]);
    assert_eq!(berth.status("web"), "paused");
    docker(&["unpause", "web"]);
    docker(&["restart", "-t", "1", "web"]);
    docker(&["stop", "web"]);
    assert_eq!(docker(&["wait", "web"]), "0\n");
    docker(&["start", "web"]);
    docker(&["kill", "web"]);
    assert_eq!(docker(&["ps", "-a", "-f", "status=exited", "--format", "{{.Names}}"]), "web\n");
    assert!(docker(&["events", "--since", "10m", "--until", "0s"]).contains("container start"));
}

/// A follower's lines, and how it ends.
struct Follower(std::process::Child, std::io::Lines<BufReader<std::process::ChildStdout>>);

impl Follower {
    fn of(berth: &Berth, name: &str) -> Self {
        let mut child = Command::new(binary())
            .args(["--root", berth.root().to_str().unwrap(), "logs", "-f", name])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Follower(child, lines)
    }

    fn next(&mut self) -> String {
        self.1.next().expect("it follows").unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Counts slowly enough for a follower to keep up with one small file.
const SLOW: &str = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.005; done";

/// moby 39235: with one file only, `logs -f` stops at the rotation. 40584: the
/// first line after a rotation is garbage.
#[test]
fn with_one_file_only_a_follower_sees_on_and_the_file_begins_with_a_whole_line() {
    let text = shell(SLOW) + "[log]\nmax-size = \"4KiB\"\nmax-files = 1\n";
    let berth = Berth::up_with(&[("web.toml", &text)]);
    berth.wait_status("web", "running");
    let mut follower = Follower::of(&berth, "web");
    let mut last: Option<u64> = None;
    for _ in 0..1500 {
        let line = follower.next();
        let number: u64 = line.strip_prefix("line ").and_then(|n| n.parse().ok()).expect(&line);
        assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
        last = Some(number);
    }
    // Several files' worth went by; one file is kept beside the current one at most.
    let logs = || {
        std::fs::read_dir(berth.path("var/log/berth/web"))
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_str().is_some_and(|path| !path.ends_with(".idx")))
            .count()
    };
    berth.wait("old files to go", || logs() <= 2);
    let text = std::fs::read_to_string(berth.path("var/log/berth/web/current.log")).unwrap();
    if let Some(first) = text.lines().next().filter(|_| text.contains('\n')) {
        assert!(first.strip_prefix("line ").is_some_and(|n| n.parse::<u64>().is_ok()), "{first:?}");
    }
}

/// moby 37646: `logs -f` stops at a truncation by logrotate's copytruncate.
#[test]
fn a_follower_sees_on_after_somebody_truncated_the_file() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLOW))]);
    berth.wait_log("web", "line 20");
    let mut follower = Follower::of(&berth, "web");
    let current = berth.path("var/log/berth/web/current.log");
    let number = |line: &str| {
        line.strip_prefix("line ")
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("garbage: {line:?}"))
    };
    assert_eq!(number(&follower.next()), 0);
    let mut last = 0;
    for _ in 0..3 {
        // As logrotate does; what was written between copy and truncation is lost to
        // the copy and to a follower that had not read it.
        std::fs::copy(&current, berth.path("copy")).unwrap();
        std::fs::File::options().write(true).open(&current).unwrap().set_len(0).unwrap();
        for _ in 0..60 {
            let now = number(&follower.next());
            assert!(now > last, "{now} after {last}: nothing twice");
            last = now;
        }
    }
    let raw = std::fs::read_to_string(&current).unwrap();
    assert!(raw.lines().next().is_some_and(|line| number(line) > 0));
    assert!(!raw.contains('\0'), "no hole");
}

/// Programs lock their output so that lines of several don't mix.
#[test]
fn a_payload_may_lock_its_output() {
    // LOCK_EX and LOCK_NB.
    let script = r#"perl -e 'flock(STDOUT, 6) && flock(STDERR, 6) && print "locked\n"'"#;
    let manifest = shell(script) + "restart = \"no\"\n";
    let berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_status("web", "exited");
    assert_eq!(berth.logs("web"), "locked\n");
}
