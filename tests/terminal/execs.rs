//! Exec, by the API's protocol.

use super::*;

#[test]
fn an_exec_has_frames_an_environment_and_an_exit_status() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let id = exec(
        &berth,
        json!({
            "Cmd": ["sh", "-c", "echo $A$B from $PWD; id -un >&2; exit 7"],
            "Env": ["B=2"], "WorkingDir": "/tmp", "User": "daemon",
        }),
    );
    let mut hijacked = hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({})));
    assert!(hijacked.head.starts_with("HTTP/1.1 101 "), "{}", hijacked.head);
    let (stdout, stderr) = frames(&hijacked.rest());
    assert_eq!(String::from_utf8_lossy(&stdout), "12 from /tmp\n");
    assert_eq!(String::from_utf8_lossy(&stderr), "daemon\n");
    assert_eq!(exit_code(&berth, &id), 7);
    let again = api(&berth, "POST", &format!("/exec/{id}/start"), Some(json!({})));
    assert_eq!(again.status, 409, "{}", again.message());
    assert_eq!(api(&berth, "GET", "/exec/nobody/json", None).status, 404);

    let id = exec(&berth, json!({"Cmd": ["nosuch"]}));
    let text = hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({}))).rest();
    let (stdout, _) = frames(&text);
    assert!(String::from_utf8_lossy(&stdout).contains("executable file not found in $PATH"));
    assert_eq!(exit_code(&berth, &id), 127);
}

#[test]
fn an_exec_reads_its_input_to_the_end_and_is_binary_safe() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let id = exec(&berth, json!({"Cmd": ["cat"], "AttachStdin": true}));
    let mut hijacked = hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({})));
    let sent: Vec<u8> =
        (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut writer = hijacked.stream.try_clone().unwrap();
    let copy = sent.clone();
    let typing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let (stdout, stderr) = frames(&hijacked.rest());
    typing.join().unwrap();
    assert!(stdout == sent, "{} bytes of {}", stdout.len(), sent.len());
    assert!(stderr.is_empty());
    assert_eq!(exit_code(&berth, &id), 0);
}

#[test]
fn an_exec_on_a_terminal_survives_the_engine() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let id = exec(&berth, json!({"Cmd": ["sh"], "AttachStdin": true, "Tty": true}));
    let start = json!({"Tty": true, "ConsoleSize": [33, 111]});
    let mut hijacked = hijack(&socket, &format!("/exec/{id}/start"), Some(&start));
    hijacked.send(b"stty size; tty; echo $TERM; X=kept\n");
    hijacked.until("33 111\r\n/dev/pts/0\r\nxterm\r\n");
    let resized = api(&berth, "POST", &format!("/exec/{id}/resize?h=20&w=50"), None);
    assert_eq!(resized.status, 200);
    hijacked.send(b"stty size\n");
    hijacked.until("20 50\r\n");
    let engine = berth.engine_pid().unwrap();
    kill(engine, 9);
    berth.wait("another engine", || berth.engine_pid().is_some_and(|pid| pid != engine));
    berth.wait("it to answer", || berth.cli(&["ps"]).status.success());
    let state = api(&berth, "GET", &format!("/exec/{id}/json"), None).json();
    assert_eq!(state["Running"], true);
    let mut hijacked = hijack(&socket, &format!("/berth/exec/{id}/join"), None);
    hijacked.send(b"echo $X-$X; exit 4\n");
    hijacked.until("kept-kept\r\n");
    hijacked.rest();
    assert_eq!(exit_code(&berth, &id), 4);
}
