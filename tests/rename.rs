//! A container gets another name while it runs, and another one gets its old name.

mod support;

use serde_json::{Value, json};
use support::http::{Answer, hijack, request};
use support::net::Machine;
use support::{Berth, is_running, kill};

fn api(berth: &Berth, method: &str, path: &str, body: Option<Value>) -> Answer {
    request(&berth.path("run/berth/berth.sock"), method, path, body.as_ref())
}

fn run(berth: &Berth, name: &str, script: &str, host: Value) -> String {
    let body = json!({
        "Image": "/", "Cmd": ["sh", "-c", script], "StopSignal": "SIGKILL",
        "OpenStdin": true, "HostConfig": host,
    });
    let made = api(berth, "POST", &format!("/containers/create?name={name}"), Some(body));
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let started = api(berth, "POST", &format!("/containers/{name}/start"), None);
    assert_eq!(started.status, 204, "{}", String::from_utf8_lossy(&started.body));
    made.json()["Id"].as_str().unwrap().to_owned()
}

fn rename(berth: &Berth, name: &str, to: &str) -> (u16, String) {
    let answer = api(berth, "POST", &format!("/containers/{name}/rename?name={to}"), None);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status, text)
}

fn knows(berth: &Berth, asker: &str, name: &str) -> Option<String> {
    let asked = berth.cli(&["exec", asker, "getent", "ahostsv4", name]);
    let text = String::from_utf8_lossy(&asked.stdout).into_owned();
    asked.status.success().then(|| text.split(' ').next().unwrap_or_default().to_owned())
}

fn address(berth: &Berth, name: &str) -> Option<String> {
    let networks = berth.inspect(name)["NetworkSettings"]["Networks"].clone();
    let first = networks.as_object()?.values().next()?;
    Some(first["IPAddress"].as_str()?.to_owned())
}

/// What stays true of a container whatever it is called.
fn is_whole(berth: &Berth, name: &str, id: &str, pid: i64) {
    let inspected = berth.inspect(name);
    assert_eq!(inspected["Name"], format!("/{name}"));
    assert_eq!((&inspected["Id"], &inspected["State"]["Pid"]), (&json!(id), &json!(pid)));
    assert_eq!(inspected["Config"]["Hostname"], "web");
    assert_eq!(berth.ok(&["exec", name, "hostname"]), "web\n");
    assert_eq!(knows(berth, name, name), address(berth, name), "{}", berth.log());
}

#[test]
fn who_runs_is_renamed_and_another_takes_the_name() {
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    berth.up();
    let script = "echo first; while read line; do echo got $line; done; exec sleep 1000";
    let restart = json!({"RestartPolicy": {"Name": "always"}, "NetworkMode": "bridge"});
    let id = run(&berth, "web", script, restart.clone());
    let joined = run(&berth, "sidecar", "exec sleep 1000", json!({"NetworkMode": "container:web"}));
    let pid = berth.pid("web");
    let side = berth.pid("sidecar");
    let socket = berth.path("run/berth/berth.sock");
    let mut attached =
        hijack(&socket, "/containers/web/attach?stream=1&stdin=1&stdout=1&logs=1", None);
    attached.until("first");

    assert_eq!(rename(&berth, "web", "old"), (204, String::new()));
    is_whole(&berth, "old", &id, pid);
    assert_eq!(api(&berth, "GET", "/containers/web/json", None).status, 404);
    assert_eq!(rename(&berth, "sidecar", "old").0, 409);
    attached.send(b"hello\n");
    attached.until("got hello");
    // Its network is shared by the other one as before, under its new name.
    let sidecar = berth.inspect("sidecar");
    assert_eq!((&sidecar["Id"], &sidecar["State"]["Pid"]), (&json!(joined), &json!(side)));
    assert_eq!(sidecar["HostConfig"]["NetworkMode"], format!("container:{id}"));
    assert!(berth.ok(&["manifest", "sidecar"]).contains("container:old"));

    // Another one is called as it was, at once.
    let other = run(&berth, "web", "echo second; exec sleep 1000", restart);
    assert_ne!(berth.pid("web"), pid);
    assert_eq!(berth.inspect("web")["Id"], json!(other));
    assert_eq!(berth.ok(&["exec", "web", "hostname"]), "web\n");
    let asker = run(&berth, "asker", "exec sleep 1000", json!({"NetworkMode": "bridge"}));
    assert_eq!(knows(&berth, "web", "old"), address(&berth, "old"));
    for _ in 0..4 {
        assert_eq!(knows(&berth, "asker", "web"), address(&berth, "web"));
        assert_eq!(knows(&berth, "asker", "old"), address(&berth, "old"));
    }
    assert_eq!(rename(&berth, &asker[..12], "third").0, 204);
    assert_eq!(
        (berth.logs("old"), berth.logs("web")),
        ("first\ngot hello\n".into(), "second\n".into())
    );
    assert_eq!(berth.ok(&["ps", "-q"]), "old\nsidecar\nthird\nweb\n");

    for (name, id) in [("old", &id), ("web", &other)] {
        let stats = api(&berth, "GET", &format!("/containers/{name}/stats?stream=0"), None).json();
        assert_eq!((&stats["name"], &stats["id"]), (&json!(format!("/{name}")), &json!(id)));
        assert!(stats["pids_stats"]["current"].as_u64() > Some(0), "{stats}");
    }
    let (status, said) = rename(&berth, "old", "x.network");
    assert!(status == 400 && said.contains("declares a network"), "{said}");
    // Whoever is killed: the two stay apart.
    let second = berth.pid("web");
    kill(berth.engine_pid().unwrap(), 9);
    berth.wait("the next engine", || berth.inspect("old")["Id"] == json!(id));
    is_whole(&berth, "old", &id, pid);
    assert_eq!((berth.pid("web"), berth.pid("sidecar")), (second, side));
    assert_eq!(knows(&berth, "third", "web"), address(&berth, "web"));
    berth.kill_both();
    berth.up();
    berth.wait_status("old", "running");
    is_whole(&berth, "old", &id, pid);
    assert_eq!((berth.pid("web"), berth.pid("sidecar")), (second, side));
    assert_eq!(berth.inspect("web")["Id"], json!(other));

    // What it is kept under follows when it rests, and the other's after that.
    berth.ok(&["stop", "sidecar"]);
    berth.ok(&["stop", "old"]);
    berth.wait("the log to be found by its name", || {
        berth.path("var/log/berth/old/current.log").exists()
    });
    assert_eq!(berth.logs("old"), "first\ngot hello\n");
    berth.ok(&["stop", "web"]);
    berth.wait("the other's, too", || !berth.path("var/log/berth/web.1").exists());
    assert_eq!(berth.logs("web"), "second\n");
    for (name, id) in [("web", &other), ("old", &id)] {
        berth.ok(&["start", name]);
        assert_eq!(berth.inspect(name)["Id"], json!(id));
    }
    assert!(!is_running(i32::try_from(pid).unwrap()));
    berth.ok(&["rm", "-f", "old", "sidecar", "third"]);
    berth.ok(&["rm", "-f", "web"]);
    for dir in ["var/log/berth", "var/lib/berth/records", "run/berth/containers"] {
        berth.wait(dir, || std::fs::read_dir(berth.path(dir)).unwrap().next().is_none());
    }
}

/// Each instant of a rename: an engine that died there leaves it done or not begun.
#[test]
fn a_rename_that_was_cut_off_is_finished() {
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    berth.up();
    let id = run(&berth, "web", "exec sleep 1000", json!({"NetworkMode": "bridge"}));
    let joined = run(&berth, "sidecar", "exec sleep 1000", json!({"NetworkMode": "container:web"}));
    let (pid, side) = (berth.pid("web"), berth.pid("sidecar"));
    berth.kill_both();
    // Only the record says it yet.
    for folder in ["var/lib/berth/records", "run/berth/records"] {
        let file = berth.path(folder).join("web.json");
        let mut record: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        record["record"]["called"] = json!("old");
        record["record"]["renamed-from"] = json!("web");
        record["record"]["applied"]["hostname"] = json!("web");
        record["record"]["last-good"]["hostname"] = json!("web");
        std::fs::write(&file, record.to_string()).unwrap();
    }
    berth.up();
    berth.wait_status("old", "running");
    is_whole(&berth, "old", &id, pid);
    assert_eq!(berth.inspect("sidecar")["Id"], json!(joined));
    assert_eq!(berth.pid("sidecar"), side);
    assert!(berth.ok(&["manifest", "sidecar"]).contains("container:old"));
    let left = std::fs::read_dir(berth.path("var/lib/berth/containers.d")).unwrap().count();
    assert_eq!(left, 2);
}

#[test]
fn what_a_person_wrote_keeps_its_names() {
    let mut berth = Berth::new();
    let own = "rootfs = \"/\"\ncommand = [\"sleep\", \"1000\"]\nrequires = [\"web\"]\n";
    berth.up();
    run(&berth, "web", "exec sleep 1000", json!({"NetworkMode": "none"}));
    berth.write("own.toml", own);
    berth.wait_status("own", "running");
    let (status, said) = rename(&berth, "web", "old");
    assert!(status == 409 && said.contains("own.toml needs web by that name"), "{said}");
    let (status, said) = rename(&berth, "own", "mine");
    assert!(status == 409 && said.contains("rename that file"), "{said}");
    berth.remove("own.toml");
    berth.wait("it to go", || berth.cli(&["inspect", "own"]).status.code() == Some(1));
    assert_eq!(rename(&berth, "web", "old").0, 204);
    // A person's container may have the old name while the other runs.
    berth.write("web.toml", &support::shell("echo mine; exec sleep 1000"));
    berth.wait_log("web", "mine");
    berth.wait_status("old", "running");
}

/// While it is kept under its former name, which is another one's, messages say its own.
#[test]
fn what_is_told_of_it_has_its_name() {
    let mut berth = Berth::new();
    berth.up();
    let body = json!({
        "Image": "/", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL",
        "HostConfig": {"NetworkMode": "none"},
        "Healthcheck": {"Test": ["CMD", "test", "!", "-e", "/tmp/ill"], "Interval": 100_000_000},
    });
    let made = api(&berth, "POST", "/containers/create?name=web", Some(body));
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    berth.ok(&["start", "web"]);
    assert_eq!(rename(&berth, "web", "old").0, 204);
    run(&berth, "web", "exec sleep 1000", json!({"NetworkMode": "none"}));
    berth.ok(&["exec", "old", "touch", "/tmp/ill"]);
    berth.wait("the failure to be told", || berth.log().contains("old: health check: "));
    assert!(!berth.log().contains("web: health check"), "{}", berth.log());
    std::fs::write(berth.path("var/lib/berth/containers.d/old.toml"), "wrong").unwrap();
    berth.wait("it to be read", || berth.log().contains("old.toml"));
    let changed = api(&berth, "POST", "/containers/old/update", Some(json!({"Memory": 1 << 26})));
    let said = String::from_utf8_lossy(&changed.body).into_owned();
    assert!(changed.status == 409 && said.contains("manifest of old can't be read"), "{said}");
}
