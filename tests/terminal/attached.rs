//! Clients attached to a container: what they see and type, whoever dies meanwhile.

use super::*;

#[test]
fn a_container_s_terminal_is_shown_to_all_and_logged_and_survives_the_engine() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let id = make(
        &berth,
        "sh",
        json!({"Image": "/", "Cmd": ["sh", "-i"], "Tty": true, "OpenStdin": true,
               "Env": ["PS1=> "], "HostConfig": {"ConsoleSize": [31, 99]}}),
    );
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let mut first = hijack(&socket, &path, None);
    assert!(first.head.contains("application/vnd.docker.raw-stream"), "{}", first.head);
    assert_eq!(api(&berth, "POST", &format!("/containers/{id}/start"), None).status, 204);
    first.send(b"stty size; ls -l /dev/console | cut -c1; tty\n");
    first.until("31 99\r\nc\r\n/dev/pts/0\r\n");
    let mut second = hijack(&socket, &path, None);
    second.send(b"echo $((40 + 2))\n");
    first.until("42\r\n");
    second.until("42\r\n");
    // Job control: Ctrl-C ends what is in the foreground, not the shell.
    first.send(b"sleep 1000\n");
    berth.wait("sleep to run", || berth.ok(&["top", "sh"]).contains("sleep 1000"));
    first.send(b"\x03");
    first.send(b"echo still $((6 * 7))\n");
    first.until("still 42\r\n");
    let engine = berth.engine_pid().unwrap();
    kill(engine, 9);
    berth.wait("another engine", || berth.engine_pid().is_some_and(|pid| pid != engine));
    berth.wait("it to answer", || berth.cli(&["ps"]).status.success());
    let mut third = hijack(&socket, &format!("{path}&logs=1"), None);
    third.until("still 42\r\n");
    third.send(b"echo after $((1 + 1))\n");
    third.until("after 2\r\n");
    // Ctrl-P Ctrl-Q, typed apart.
    third.send(b"\x10");
    third.send(b"\x11");
    third.rest();
    assert_eq!(berth.status("sh"), "running");
    let mut last = hijack(&socket, &path, None);
    last.send(b"exit 9\n");
    last.rest();
    let answer = api(&berth, "POST", &format!("/containers/{id}/wait"), None);
    assert_eq!(answer.json()["StatusCode"], 9);
    assert!(berth.logs("sh").contains("after 2"));
}

#[test]
fn a_client_that_comes_back_gets_what_it_has_not_seen() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let script = "echo one; echo error >&2; read x; echo two";
    make(&berth, "job", json!({"Image": "/", "Cmd": ["sh", "-c", script], "OpenStdin": true}));
    let path = "/containers/job/attach?stream=1&stdin=1&stdout=1&stderr=1";
    let mut first = hijack(&socket, path, None);
    let position = first
        .head
        .lines()
        .find_map(|line| line.strip_prefix("berth-log-position: "))
        .unwrap()
        .to_owned();
    api(&berth, "POST", "/containers/job/start", None);
    first.until("one\n");
    berth.wait("the error", || printed_error(&berth, "job", "error"));
    drop(first);
    let path = format!("{path}&from={position}&seen-stdout=4&seen-stderr=0");
    let mut again = hijack(&socket, &path, None);
    again.send(b"go\n");
    let (stdout, stderr) = frames(&again.rest());
    assert_eq!(String::from_utf8_lossy(&stdout), "two\n");
    assert_eq!(String::from_utf8_lossy(&stderr), "error\n");
}

/// As with Docker: a client is attached to one run of a container.
#[test]
fn a_client_is_attached_until_the_run_ends() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let script = "echo x >> /runs; echo run $(wc -l < /runs); echo end; sleep 0.3";
    let body = json!({"Image": "/", "Cmd": ["sh", "-c", script],
                      "HostConfig": {"RestartPolicy": {"Name": "always"}}});
    make(&berth, "again", body);
    let path = "/containers/again/attach?stream=1&stdout=1&stderr=1";
    let mut first = hijack(&socket, path, None);
    api(&berth, "POST", "/containers/again/start", None);
    let (stdout, _) = frames(&first.rest());
    assert_eq!(String::from_utf8_lossy(&stdout), "run 1\nend\n");
    berth.wait("another run", || berth.logs("again").contains("run 2"));
    berth.ok(&["rm", "-f", "again"]);
    // Our own command, too, with the status of that run.
    let output = berth.cli(&["run", "--restart", "always", "/", "sh", "-c", "echo one; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\n");
    // One that rests and is started again is another run for whoever was attached before.
    make(&berth, "rests", shell("echo hello; sleep 1000"));
    for _ in 0..3 {
        let mut attached = hijack(&socket, "/containers/rests/attach?stream=1&stdout=1", None);
        api(&berth, "POST", "/containers/rests/start", None);
        attached.until("hello\n");
        api(&berth, "POST", "/containers/rests/restart?t=0", None);
        attached.rest();
        assert_eq!(berth.status("rests"), "running");
        api(&berth, "POST", "/containers/rests/stop?t=0", None);
    }
}

/// Of programs that end at once nothing is lost, however busy the machine is.
#[test]
fn all_that_a_short_program_prints_on_a_terminal_is_there() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (berth, socket) = (&berth, &socket);
            scope.spawn(move || {
                for number in 0..15 {
                    let name = format!("short-{thread}-{number}");
                    let body = json!({"Image": "/", "Cmd": ["sh", "-c", "echo a; (echo b)"],
                                      "Tty": true});
                    make(berth, &name, body);
                    let path = format!("/containers/{name}/attach?stream=1&stdout=1");
                    let mut attached = hijack(socket, &path, None);
                    api(berth, "POST", &format!("/containers/{name}/start"), None);
                    let printed = attached.rest();
                    assert_eq!(String::from_utf8_lossy(&printed), "a\r\nb\r\n", "{name}");
                    assert_eq!(berth.logs(&name), "a\r\nb\r\n", "{name}");
                    berth.ok(&["rm", &name]);
                }
            });
        }
    });
}

/// The engine is killed just before the end of what is run.
#[test]
fn nothing_is_missed_of_a_run_that_ends_while_there_is_no_engine() {
    let berth = Berth::up_with(&[]);
    for round in 0..6 {
        let script = "read x; echo got $x; sleep 0.0$ROUND; echo bye; exit 9";
        let mut child = Command::new(binary())
            .arg("--root")
            .arg(berth.root())
            .args(["run", "--rm", "-i", "-e", &format!("ROUND={round}"), "/", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        berth.wait("it to run", || !berth.ok(&["ps", "-q"]).is_empty());
        let mut typing = child.stdin.take().unwrap();
        typing.write_all(b"this\n").unwrap();
        // What is on its way to the engine when that dies is typed in vain.
        let mut first = [0; 9];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        assert_eq!(&first, b"got this\n");
        kill(berth.engine_pid().unwrap(), 9);
        let output = child.wait_with_output().unwrap();
        let (printed, said) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&printed), "bye\n", "{round}: {said}");
        assert_eq!(output.status.code(), Some(9), "{round}: {said}");
        berth.wait("it to be removed", || berth.ok(&["ps", "-aq"]).is_empty());
        drop(typing);
    }
}

/// The engine is killed when a run has ended long ago and somebody still reads what it said.
#[test]
fn nothing_is_missed_by_who_reads_slowly_when_the_engine_dies_after_the_end() {
    let berth = Berth::up_with(&[]);
    let mut child = Command::new(binary())
        .arg("--root")
        .arg(berth.root())
        .args(["run", "--name", "loud", "/", "head", "-c", "4000000", "/dev/zero"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    berth.wait_status("loud", "exited");
    // Its own question for the end is answered by now, too.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let engine = berth.engine_pid().unwrap();
    kill(engine, 9);
    berth.wait("another engine", || berth.engine_pid().is_some_and(|pid| pid != engine));
    let mut printed = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut printed).unwrap();
    assert_eq!((printed.len(), child.wait().unwrap().code()), (4_000_000, Some(0)));
}

#[test]
fn a_slow_client_gets_all_of_what_is_more_than_the_log_keeps() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let body = json!({"Image": "/", "Cmd": ["head", "-c", "20000000", "/dev/zero"],
                      "HostConfig": {"AutoRemove": true, "LogConfig": {"Type": "", "Config":
                          {"max-size": "1m", "max-file": "2"}}}});
    make(&berth, "loud", body);
    let path = "/containers/loud/attach?stream=1&stdout=1&stderr=1";
    let mut hijacked = hijack(&socket, path, None);
    api(&berth, "POST", "/containers/loud/start", None);
    // Long enough that the log would have rotated all of it away.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (stdout, _) = frames(&hijacked.rest());
    assert_eq!(stdout.len(), 20_000_000);
    berth.wait("it to be removed", || berth.ok(&["ps", "-aq"]).is_empty());
}

#[test]
fn input_ends_when_the_client_s_does() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let body = json!({"Image": "/", "Cmd": ["sh", "-c", "cat; echo end >&2"],
                      "OpenStdin": true, "StdinOnce": true});
    make(&berth, "cat", body);
    let path = "/containers/cat/attach?stream=1&stdin=1&stdout=1&stderr=1";
    let mut hijacked = hijack(&socket, path, None);
    hijacked.send(b"typed before the start\n");
    api(&berth, "POST", "/containers/cat/start", None);
    hijacked.half_close();
    let (stdout, stderr) = frames(&hijacked.rest());
    assert_eq!(String::from_utf8_lossy(&stdout), "typed before the start\n");
    assert_eq!(String::from_utf8_lossy(&stderr), "end\n");
    berth.wait_status("cat", "exited");
}

/// Typed ahead, and the process ended without reading it: no reason to break the
/// connection before the client has read the output.
#[test]
fn what_was_typed_too_late_breaks_nothing() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let body = json!({"AttachStdin": true, "AttachStdout": true,
                      "Cmd": ["sh", "-c", "sleep 0.5; echo last words"]});
    let id = exec(&berth, body);
    let mut hijacked = hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({})));
    // More than the pipe of its standard input takes, less than it and the socket do.
    hijacked.send(&[b'x'; 160 << 10]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (stdout, _) = frames(&hijacked.rest());
    assert_eq!(String::from_utf8_lossy(&stdout), "last words\n");
}
