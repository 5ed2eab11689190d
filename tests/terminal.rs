//! Exec, terminals, attach, create and run: at the level of the API's protocol, and
//! with our own command.

#[path = "terminal/attached.rs"]
mod attached;
#[path = "terminal/execs.rs"]
mod execs;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::http::{Answer, connect, frames, hijack, parse, request};
use support::{Berth, binary, kill};

const SLEEPER: &str = "rootfs = \"/\"\ncommand = [\"sleep\", \"1000\"]\nenv = { A = \"1\" }\n\
                       stop = { timeout = \"1s\", signal = \"SIGKILL\" }\n";

fn api(berth: &Berth, method: &str, path: &str, body: Option<Value>) -> Answer {
    request(&berth.path("run/berth/berth.sock"), method, path, body.as_ref())
}

fn make(berth: &Berth, name: &str, body: Value) -> String {
    let answer = api(berth, "POST", &format!("/v1.41/containers/create?name={name}"), Some(body));
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["Id"].as_str().unwrap().to_owned()
}

fn shell(script: &str) -> Value {
    json!({"Image": "/", "Cmd": ["sh", "-c", script], "StopSignal": "SIGKILL"})
}

/// Whether a container printed this on its standard error.
fn printed_error(berth: &Berth, name: &str, text: &str) -> bool {
    let output = berth.cli(&["logs", "--stderr", name]);
    String::from_utf8_lossy(&output.stderr).contains(text)
}

/// Makes an exec of `web`; gives its id.
fn exec(berth: &Berth, mut body: Value) -> String {
    body["AttachStdout"] = json!(true);
    body["AttachStderr"] = json!(true);
    let answer = api(berth, "POST", "/containers/web/exec", Some(body));
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["Id"].as_str().unwrap().to_owned()
}

fn exit_code(berth: &Berth, id: &str) -> i64 {
    let path = format!("/exec/{id}/json");
    berth.wait("the exec to end", || api(berth, "GET", &path, None).json()["ExitCode"].is_i64());
    api(berth, "GET", &path, None).json()["ExitCode"].as_i64().unwrap()
}

/// As of a program that runs here.
#[test]
fn what_can_not_be_written_is_no_success() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let berth_in = |script: &str| {
        let line = script.replace("berth", &format!("{} --root $ROOT", binary().display()));
        let root = berth.root();
        Command::new("sh").args(["-c", &line]).env("ROOT", root).output().unwrap()
    };
    for verb in ["exec web", "run --rm /"] {
        let full = berth_in(&format!("berth {verb} echo hello > /dev/full"));
        assert_eq!(full.status.code(), Some(125), "{verb}");
        assert!(String::from_utf8_lossy(&full.stderr).contains("No space left"), "{verb}");
        let pipe = berth_in(&format!(
            "{{ berth {verb} sh -c 'while echo x; do :; done'; echo $? >&2; }} | head -c 2"
        ));
        assert_eq!(String::from_utf8_lossy(&pipe.stderr), "141\n", "{verb}");
    }
    assert_eq!(berth.cli(&["exec", "--nosuch", "web", "true"]).status.code(), Some(125));
    assert_eq!(berth.cli(&["ps", "--nosuch"]).status.code(), Some(2));
}

#[test]
fn a_created_container_is_a_manifest_until_it_is_removed() {
    let berth = Berth::up_with(&[("declared.toml", SLEEPER)]);
    let id = make(&berth, "web", shell("sleep 1000"));
    assert_eq!(berth.status("web"), "created");
    let file = berth.path("var/lib/berth/containers.d/web.toml");
    assert!(file.exists());
    let conflict = api(&berth, "POST", "/containers/create?name=web", Some(shell("true")));
    assert_eq!(conflict.status, 409);
    assert_eq!(
        conflict.message(),
        format!(
            "Conflict. The container name \"/web\" is already in use by container \"{id}\". You \
             have to remove (or rename) that container to be able to reuse that name."
        )
    );
    for bad in ["declared", "..%2Fx", "a%2Fb", "-x"] {
        let path = format!("/containers/create?name={bad}");
        let status = api(&berth, "POST", &path, Some(shell("true"))).status;
        assert!(matches!(status, 400 | 409), "{bad}: {status}");
    }
    // Neither reading the manifests again nor another engine starts it.
    kill(berth.engine_pid().unwrap(), 9);
    berth.wait("the API to answer", || berth.cli(&["ps"]).status.success());
    assert_eq!(berth.status("web"), "created");
    berth.ok(&["start", "web"]);
    let refused = api(&berth, "DELETE", "/containers/web", None);
    assert_eq!(refused.status, 409);
    assert!(refused.message().contains("stop the container before removing or force remove"));
    assert_eq!(api(&berth, "DELETE", "/containers/web?force=1", None).status, 204);
    assert!(!file.exists());
    assert_eq!(api(&berth, "GET", "/containers/web/json", None).status, 404);
}

#[test]
fn limits_change_and_names_too() {
    let berth = Berth::up_with(&[]);
    let id = make(&berth, "old", shell("echo hello"));
    berth.ok(&["start", "old"]);
    berth.wait_status("old", "exited");
    let limits = json!({"Memory": 64 << 20, "PidsLimit": 99});
    let updated = api(&berth, "POST", "/containers/old/update", Some(limits));
    assert_eq!(updated.status, 200, "{}", String::from_utf8_lossy(&updated.body));
    assert_eq!(berth.status("old"), "exited", "a change of limits starts nothing");
    assert_eq!(api(&berth, "POST", "/containers/old/rename?name=new", None).status, 204);
    assert_eq!(api(&berth, "GET", "/containers/old/json", None).status, 404);
    let inspected = berth.inspect("new");
    assert_eq!(inspected["Id"], id.as_str());
    assert_eq!(inspected["HostConfig"]["Memory"], 64 << 20);
    assert!(berth.logs("new").contains("hello"));
    berth.ok(&["start", "new"]);
    berth.wait("it to run again", || berth.logs("new").matches("hello").count() == 2);
    // Where the manifest can't be renamed, all is as it was.
    let in_the_way = berth.path("var/lib/berth/containers.d/other.toml");
    fs::create_dir(&in_the_way).unwrap();
    assert_eq!(api(&berth, "POST", "/containers/new/rename?name=other", None).status, 500);
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(berth.inspect("new")["Id"], id.as_str());
    assert_eq!(api(&berth, "GET", "/containers/other/json", None).status, 404);
    let pruned = api(&berth, "POST", "/containers/prune", None).json();
    assert_eq!(pruned["ContainersDeleted"], json!([id]));
}

/// An update that fails must not keep the container from its next start.
#[test]
fn a_limit_that_the_system_refuses_changes_nothing() {
    let berth = Berth::up_with(&[]);
    make(&berth, "web", shell("sleep 1000"));
    berth.ok(&["start", "web"]);
    berth.wait_status("web", "running");
    let update = |limits: Value| api(&berth, "POST", "/containers/web/update", Some(limits));
    let refused = update(json!({"CpusetCpus": "4095", "PidsLimit": 77}));
    if refused.status == 200 {
        println!("skipped: this kernel takes processors that are not there");
        return;
    }
    assert_eq!(refused.status, 500, "{}", refused.message());
    let host = berth.inspect("web")["HostConfig"].clone();
    assert_eq!((&host["CpusetCpus"], &host["PidsLimit"]), (&json!(""), &json!(null)));
    assert_eq!(update(json!({"PidsLimit": 88})).status, 200);
    berth.ok(&["restart", "-t", "0", "web"]);
    berth.wait_status("web", "running");
    assert_eq!(berth.inspect("web")["HostConfig"]["PidsLimit"], 88);
}

#[test]
fn what_a_health_check_prints_is_told_and_is_not_the_container_s_output() {
    let berth = Berth::up_with(&[]);
    let make_with = |name: &str, check: &str, health: Value| {
        let mut body = shell(
            "echo own; while [ ! -e /go ]; do sleep 0.1; done; touch /ready; \
                              sleep 1000",
        );
        body["Healthcheck"] = health;
        body["Healthcheck"]["Test"] = json!(["CMD-SHELL", check]);
        make(&berth, name, body);
        berth.ok(&["start", name]);
    };
    let (tenth, hour) = (100_000_000u64, 3_600_000_000_000u64);
    let every = |timeout| json!({"Interval": tenth, "Timeout": timeout, "Retries": 2});
    make_with("sick", "echo why; echo more >&2; exit 3", every(hour));
    make_with("hung", "echo begun; sleep 777 & sleep 777", every(20 * tenth));
    make_with("slow", "test -e /ready", json!({"Interval": hour, "StartInterval": tenth}));
    let health = |name: &str| berth.inspect(name)["State"]["Health"].clone();
    for name in ["sick", "hung"] {
        berth.wait(&format!("{name} to be unhealthy"), || health(name)["Status"] == "unhealthy");
    }
    let log = &health("sick")["Log"][0];
    assert_eq!((&log["ExitCode"], &log["Output"]), (&json!(3), &json!("why\nmore\n")));
    assert_eq!(berth.logs("sick"), "own\n");
    let log = &health("hung")["Log"][0];
    let output = log["Output"].as_str().unwrap();
    assert!(log["ExitCode"] == -1 && output.ends_with("begun\n"), "{log}");
    // What a hung check has started goes with it.
    let sleeps = || berth.ok(&["top", "hung"]).matches("sleep 777").count();
    berth.wait("the check's processes to go", || sleeps() <= 3);
    // It was looked at many times, and has failed not once by its own interval.
    assert_eq!(health("slow")["Status"], "starting");
    berth.ok(&["exec", "slow", "touch", "/go"]);
    berth.wait("it to be healthy", || health("slow")["Status"] == "healthy");
}

/// A screen that is ended by a signal leaves the terminal as it was.
#[test]
fn top_gives_the_terminal_back() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let path = |name: &str| berth.path(name).display().to_string();
    for signal in [15, 1, 2, 3] {
        let line = format!(
            "stty cols 80 rows 24; stty -g > {}; sh -c 'echo $$ > {}; exec {} --root {} top'; echo $? > {}; stty -g > {}",
            path("before"),
            path("pid"),
            binary().display(),
            berth.root().display(),
            path("status"),
            path("after"),
        );
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut screen = script.stdout.take().unwrap();
        let mut seen = Vec::new();
        let mut part = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains("web") {
            let len = screen.read(&mut part).unwrap();
            assert!(len > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&part[..len]);
        }
        let pid = fs::read_to_string(path("pid")).unwrap();
        kill(pid.trim().parse().unwrap(), signal);
        screen.read_to_end(&mut seen).unwrap();
        script.wait().unwrap();
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!(read("status").trim(), (128 + signal).to_string());
        assert_eq!(read("before"), read("after"));
        // It has left the other screen (xterm's alternate one).
        assert!(String::from_utf8_lossy(&seen).contains("\u{1b}[?1049l"), "signal {signal}");
    }
}

/// An engine that is killed while a container comes to be kept under another name leaves
/// two records of it, and one manifest. What the container wrote is there under that name.
#[test]
fn half_a_rename_loses_nothing() {
    let mut berth = Berth::up_with(&[]);
    let id = make(&berth, "old", shell("echo x >> /kept; wc -l < /kept"));
    berth.ok(&["start", "old"]);
    berth.wait_status("old", "exited");
    berth.wait("its end", || berth.logs("old").contains('1'));
    for (from, to, is_moved) in [("old", "new", false), ("old", "new", true)] {
        berth.kill_both();
        for dir in ["var/lib/berth/records", "run/berth/records"] {
            let record = berth.path(&format!("{dir}/{from}.json"));
            let text = fs::read_to_string(record).unwrap();
            let text = text.replace(&format!("\"{from}\""), &format!("\"{to}\""));
            fs::write(berth.path(&format!("{dir}/{to}.json")), text).unwrap();
        }
        let file = |name| berth.path(&format!("var/lib/berth/containers.d/{name}.toml"));
        if is_moved {
            fs::rename(file(from), file(to)).unwrap();
        }
        berth.up();
        let (stays, gone) = if is_moved { (to, from) } else { (from, to) };
        berth.wait("it to be known", || berth.status(stays) == "exited");
        berth.wait("one record", || berth.status(gone) == "none");
        assert_eq!(berth.inspect(stays)["Id"], id.as_str());
    }
    berth.kill_both();
    for dir in ["var/lib/berth/records", "run/berth/records"] {
        let text = fs::read_to_string(berth.path(&format!("{dir}/new.json"))).unwrap();
        let text = text.replace("\"name\": \"new\"", "\"name\": \"a\", \"called\": \"new\"");
        fs::write(berth.path(&format!("{dir}/a.json")), text).unwrap();
    }
    berth.up();
    berth.wait("it to be known", || berth.status("new") == "exited");
    let left = || fs::read_dir(berth.path("var/lib/berth/records")).unwrap().count();
    berth.wait("one record", || left() == 1);
    berth.ok(&["start", "new"]);
    berth.wait("what it wrote before", || berth.logs("new").contains('2'));
}

#[test]
fn files_go_from_one_container_into_another() {
    let berth = Berth::up_with(&[("a.toml", SLEEPER), ("b.toml", SLEEPER)]);
    for name in ["a", "b"] {
        berth.wait_status(name, "running");
        berth.ok(&["exec", name, "mkdir", "-p", "/tmp/d"]);
    }
    let script = "echo one > /tmp/d/f; chown 7:8 /tmp/d/f; ln -s d /tmp/link";
    berth.ok(&["exec", "a", "sh", "-c", script]);
    // Into a directory, under another name, a directory's contents, over a link.
    for (from, to) in [
        ("a:/tmp/d/f", "b:/tmp/d"),
        ("a:/tmp/d/f", "b:/tmp/other"),
        ("a:/tmp/d", "b:/tmp/new"),
        ("a:/tmp/d/.", "b:/tmp/d/"),
    ] {
        berth.ok(&["cp", from, to]);
    }
    for path in ["/tmp/d/f", "/tmp/other", "/tmp/new/f"] {
        let told = berth.ok(&["exec", "b", "stat", "-c", "%u %g %s", path]);
        assert_eq!(told.trim(), "7 8 4", "{path}");
    }
    let lost = berth.cli(&["cp", "a:/nosuch", "b:/tmp"]);
    assert!(String::from_utf8_lossy(&lost.stderr).contains("/nosuch"));
}

#[test]
fn run_passes_on_input_output_and_the_exit_status() {
    let berth = Berth::up_with(&[]);
    let run = |args: &[&str], input: &[u8]| {
        let mut child = Command::new(binary())
            .arg("--root")
            .arg(berth.root())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = run(&["run", "--rm", "/", "sh", "-c", "echo out; echo err >&2; exit 5"], b"");
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(run(&["run", "--rm", "-i", "/", "cat"], b"a\0b\n").stdout, b"a\0b\n");
    assert_eq!(run(&["run", "--rm", "/", "nosuch"], b"").status.code(), Some(127));
    assert_eq!(run(&["run", "--rm", "/", "/etc/passwd"], b"").status.code(), Some(126));
    assert_eq!(run(&["run", "--name", "../x", "/", "true"], b"").status.code(), Some(125));
    berth.wait("all to be removed", || berth.ok(&["ps", "-aq"]).is_empty());
    berth.ok(&["run", "-d", "--name", "web", "-m", "64m", "/", "sleep", "1000"]);
    assert_eq!(run(&["exec", "-i", "web", "cat"], b"x").stdout, b"x");
    assert_eq!(run(&["exec", "web", "sh", "-c", "exit 6"], b"").status.code(), Some(6));
    let manifest = berth.ok(&["manifest", "web"]);
    assert!(manifest.contains("memory = \"64MiB\""), "{manifest}");
    berth.ok(&["rm", "-f", "web"]);
    // The file makes the same container elsewhere.
    berth.write("web.toml", &manifest);
    berth.wait_status("web", "running");
    assert_eq!(berth.ok(&["manifest", "web"]), manifest);
    berth.ok(&["run", "--save", "kept", "-e", "A=1", "/", "sleep", "1000"]);
    berth.wait_status("kept", "running");
    assert!(berth.manifests().join("kept.toml").exists());
}

#[test]
fn hostile_clients_hurt_nobody() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let mut garbage = connect(&socket);
    garbage.write_all(b"\x00\x01 nonsense\r\n\r\n").unwrap();
    let mut text = Vec::new();
    let _ = garbage.read_to_end(&mut text);
    assert!(text.is_empty() || parse(&text).status == 400);
    // A body of 1 GB is refused long before it is sent.
    let mut large = connect(&socket);
    write!(
        large,
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    )
    .unwrap();
    let part = vec![b' '; 1 << 20];
    let mut sent = 0u64;
    while sent < 1_000_000_000 && large.write_all(&part).is_ok() {
        sent += part.len() as u64;
    }
    assert!(sent < 100_000_000, "{sent} bytes of a body were taken");
    let none = api(&berth, "POST", "/containers/create", Some(json!([1])));
    assert_eq!(none.status, 400);
    // One that never reads what a container prints holds nobody up.
    make(&berth, "loud", shell("yes | head -c 20000000; echo done >&2; sleep 1000"));
    let _deaf = hijack(&socket, "/containers/loud/attach?stream=1&stdout=1&stderr=1", None);
    api(&berth, "POST", "/containers/loud/start", None);
    berth.wait("it to be done", || printed_error(&berth, "loud", "done"));
    // Half a hijack, and ids that mean several.
    let id = exec(&berth, json!({"Cmd": ["cat"], "AttachStdin": true}));
    drop(hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({}))));
    assert_eq!(exit_code(&berth, &id), 0);
    for path in ["/containers/..%2F..%2Fetc/json", "/exec/..%2F/json", "/volumes/..%2Fx"] {
        let status = api(&berth, "GET", path, None).status;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    assert_eq!(berth.status("web"), "running");
}

/// The `docker` command, where it is installed.
#[test]
fn the_docker_command_execs_attaches_and_runs() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let docker = |args: &[&str]| {
        Command::new("docker")
            .arg("-H")
            .arg(format!("unix://{}", berth.path("run/berth/berth.sock").display()))
            .args(args)
            .stdin(Stdio::null())
            .output()
    };
    let Ok(version) = docker(&["version"]) else { return };
    assert!(version.status.success(), "{}", String::from_utf8_lossy(&version.stderr));
    let run = |args: &[&str]| docker(args).unwrap();
    let output = run(&["exec", "-e", "B=2", "web", "sh", "-c", "echo $A$B; exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"12\n");
    assert_eq!(run(&["exec", "web", "nosuch"]).status.code(), Some(127));
    make(&berth, "job", shell("echo from the job; exit 4"));
    let output = run(&["start", "-a", "job"]);
    assert_eq!(output.stdout, b"from the job\n");
    assert_eq!(output.status.code(), Some(4));
    for args in [
        &["update", "-m", "64m", "job"][..],
        &["rename", "job", "task"],
        &["inspect", "task"],
        &["rm", "-v", "task"],
        &["volume", "create", "data"],
        &["volume", "inspect", "data"],
        &["volume", "rm", "data"],
        &["system", "df"],
        &["info"],
    ] {
        let output = run(args);
        assert!(
            output.status.success(),
            "docker {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
