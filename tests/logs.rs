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
