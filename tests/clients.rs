//! What Docker's clients in several languages do, beyond what the docker command does: at
//! the level of the API's protocol.

mod support;

use std::io::{Read, Write};

use serde_json::{Value, json};
use support::Berth;
use support::http::{Answer, connect, frames, parse, request};

fn api(berth: &Berth, method: &str, path: &str, body: Value) -> Answer {
    let body = Some(&body).filter(|body| !body.is_null());
    request(&berth.path("run/berth/berth.sock"), method, path, body)
}

fn make(berth: &Berth, name: &str, body: Value) {
    let answer = api(berth, "POST", &format!("/containers/create?name={name}"), body);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
}

/// Ruby's client sends no headers of an upgrade, and yet types.
#[test]
fn a_hijack_needs_no_upgrade() {
    let berth = Berth::up_with(&[]);
    make(&berth, "web", json!({"Image": "/", "Cmd": ["sleep", "1000"], "StopSignal": "KILL"}));
    assert_eq!(api(&berth, "POST", "/containers/web/start", Value::Null).status, 204);
    let asked = json!({"Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true});
    let id = api(&berth, "POST", "/containers/web/exec", asked).json()["Id"].clone();
    let mut stream = connect(&berth.path("run/berth/berth.sock"));
    let path = format!("/v1.41/exec/{}/start", id.as_str().unwrap());
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}typed");
    // In pieces, as a slow client sends it.
    let (first, rest) = head.split_at(30);
    stream.write_all(first.as_bytes()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    stream.write_all(rest.as_bytes()).unwrap();
    stream.write_all(b" more").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let answer = parse(&bytes);
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
    assert!(!answer.head.contains("chunked") && !answer.head.contains("pgrade"), "{}", answer.head);
    assert_eq!(frames(&answer.body).0, b"typed more");
}

/// An end has two signs. Who asks to wait between them is answered, too.
#[test]
fn a_wait_that_comes_with_the_end_is_answered() {
    let berth = Berth::up_with(&[]);
    for round in 0..40 {
        let name = format!("job{round}");
        make(&berth, &name, json!({"Image": "/", "Cmd": ["sh", "-c", "exit 3"]}));
        assert_eq!(
            api(&berth, "POST", &format!("/containers/{name}/start"), Value::Null).status,
            204
        );
        let code = api(&berth, "POST", &format!("/containers/{name}/wait"), Value::Null);
        assert_eq!(code.json()["StatusCode"], 3, "{name}");
    }
}

#[test]
fn keys_have_any_case_and_old_places() {
    let berth = Berth::up_with(&[]);
    let asked = json!({"image": "/", "cmd": "true", "CpuShares": 50, "runtime": "runc",
                       "hostconfig": {"networkmode": "host"}});
    make(&berth, "web", asked);
    let told = api(&berth, "GET", "/containers/web/json", Value::Null).json();
    assert_eq!(told["HostConfig"]["NetworkMode"], "host");
    assert_eq!(told["HostConfig"]["CpuShares"], 50);
    assert_eq!(told["Config"]["Cmd"], json!(["true"]));
}

/// Before API 1.42 a prune took volumes with a name, too.
#[test]
fn a_version_says_which_volumes_a_prune_takes() {
    let berth = Berth::up_with(&[]);
    let made = api(&berth, "POST", "/volumes/create", json!({"Name": "named"}));
    assert_eq!(made.status, 201);
    let made = api(&berth, "POST", "/volumes/create", json!({})).json();
    assert_eq!(made["Labels"], json!({"com.docker.volume.anonymous": ""}));
    let pruned = |version: &str| {
        let path = format!("/{version}/volumes/prune");
        api(&berth, "POST", &path, Value::Null).json()["VolumesDeleted"].clone()
    };
    assert_eq!(pruned("v1.42"), json!([made["Name"]]));
    assert_eq!(pruned("v1.41"), json!(["named"]));
}

/// Simple readers of archives take an entry of PAX for the file.
#[test]
fn an_archive_has_whole_seconds() {
    let berth = Berth::up_with(&[]);
    make(&berth, "web", json!({"Image": "/", "Cmd": ["true"]}));
    let answer = api(&berth, "GET", "/containers/web/archive?path=/etc/passwd", Value::Null);
    assert_eq!(answer.status, 200);
    let mut archive = tar::Archive::new(&answer.body[..]);
    let mut entries = archive.entries().unwrap();
    assert_eq!(entries.next().unwrap().unwrap().path().unwrap().to_str(), Some("passwd"));
    assert!(answer.body.get(156).is_some_and(|kind| *kind == b'0'), "the first entry is no file");
}

/// Statuses and phrases that clients look for, and that the API's description lists.
#[test]
fn what_can_t_be_is_said_in_docker_s_words() {
    let berth = Berth::up_with(&[]);
    let start = |name: &str| api(&berth, "POST", &format!("/containers/{name}/start"), Value::Null);
    make(&berth, "web", json!({"Image": "/", "Cmd": ["sleep", "1000"], "StopSignal": "KILL"}));
    make(&berth, "bad", json!({"Image": "/", "Cmd": ["nosuch"]}));
    let host = json!({"Image": "/", "Cmd": ["true"], "HostConfig": {"NetworkMode": "host"}});
    make(&berth, "host", host);
    let subnet = json!({"Name": "shop", "IPAM": {"Config": [{"Subnet": "10.213.7.0/24"}]}});
    assert_eq!(api(&berth, "POST", "/networks/create", subnet).status, 201);
    let on = json!({"Image": "/", "Cmd": ["true"], "HostConfig": {"NetworkMode": "shop"}});
    make(&berth, "member", on);
    assert_eq!(start("web").status, 204);
    assert_eq!(api(&berth, "POST", "/containers/web/pause", Value::Null).status, 204);
    let overlap = json!({"Name": "other", "IPAM": {"Config": [{"Subnet": "10.213.7.0/25"}]}});
    for (method, path, body, status, phrase) in [
        ("POST", "/containers/web/start", Value::Null, 409, "cannot start a paused container"),
        ("POST", "/containers/web/pause", Value::Null, 409, "is already paused"),
        ("POST", "/containers/bad/start", Value::Null, 400, "no such file or directory"),
        ("GET", "/containers/json?limit=x", Value::Null, 400, "limit"),
        ("GET", "/containers/web/archive?path=%00", Value::Null, 400, "cannot find"),
        ("PUT", "/containers/host/archive?path=/tmp", json!("no archive"), 400, "archive"),
        ("POST", "/networks/create", overlap, 403, "Pool overlaps with other one"),
        ("POST", "/networks/create", json!({"Name": ""}), 400, "invalid name"),
        ("POST", "/networks/create", json!({"Name": "n", "Driver": "weave"}), 404, "not found"),
        ("GET", "/networks/shop?scope=swarm", Value::Null, 404, "network shop not found"),
        ("DELETE", "/networks/shop", Value::Null, 403, "has active endpoints"),
        ("POST", "/networks/shop/connect", json!({"Container": "member"}), 403, "already exists"),
        ("POST", "/networks/shop/connect", json!({"Container": "host"}), 400, "sharing network"),
        ("POST", "/networks/host/connect", json!({"Container": "web"}), 400, "host network"),
        (
            "POST",
            "/networks/shop/disconnect",
            json!({"Container": "web"}),
            409,
            "is not connected to network shop",
        ),
        ("POST", "/images/nosuch/tag?repo=UPPER", Value::Null, 404, "No such image"),
        ("POST", "/images/create?fromImage=UPPER", Value::Null, 400, "must be lowercase"),
        ("POST", "/images/create?fromImage=a&tag=.b", Value::Null, 400, "invalid reference format"),
        ("GET", "/system/df?type=other", Value::Null, 400, "unknown object type: other"),
        ("GET", "/events?since=10&until=5", Value::Null, 400, "cannot be after `until` time"),
        (
            "POST",
            "/containers/web/update",
            json!({"RestartPolicy": {"Name": "other"}}),
            400,
            "invalid restart policy: unknown policy",
        ),
    ] {
        let answer = api(&berth, method, path, body);
        let said = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status, status, "{method} {path}: {said}");
        assert!(said.contains(phrase), "{method} {path}: {said}");
    }
}

/// Who waits to be started again counts as running, and is listed without being asked for.
#[test]
fn a_restarting_container_is_seen() {
    let berth = Berth::up_with(&[]);
    let policy = json!({"RestartPolicy": {"Name": "always"}});
    make(&berth, "job", json!({"Image": "/", "Cmd": ["false"], "HostConfig": policy}));
    assert_eq!(api(&berth, "POST", "/containers/job/start", Value::Null).status, 204);
    // Its pauses grow: sooner or later it is seen in one.
    for _ in 0..200 {
        let told = api(&berth, "GET", "/containers/job/json", Value::Null).json();
        assert_eq!(
            api(&berth, "GET", "/containers/json", Value::Null).json()[0]["Names"][0],
            "/job"
        );
        if told["State"]["Restarting"] == true {
            assert_eq!(told["State"]["Running"], true);
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it never restarted");
}

/// Fields that come and go with the version that a client speaks, and what can be asked for
/// by itself.
#[test]
fn a_version_says_which_fields_there_are() {
    let berth = Berth::up_with(&[]);
    let get = |path: &str| api(&berth, "GET", path, Value::Null).json();
    let (old, new) = (get("/v1.41/info"), get("/v1.51/info"));
    assert_eq!((&old["BridgeNfIptables"], &old["FirewallBackend"]), (&json!(false), &Value::Null));
    assert_eq!(new.get("BridgeNfIptables"), None);
    assert_eq!(new["FirewallBackend"]["Driver"], "nftables");
    assert!(new["Plugins"].get("Authorization").is_some());
    assert_eq!(new["RuncCommit"]["ID"], "");
    let volumes = get("/system/df?type=volume");
    assert_eq!((&volumes["Volumes"], &volumes["Containers"]), (&json!([]), &Value::Null));
    assert_eq!(get("/v1.41/system/df?type=volume")["Containers"], json!([]));
    let asked = json!({"Image": "/", "Cmd": ["true"], "AttachStdin": true, "AttachStdout": true,
                       "HostConfig": {"ConsoleSize": [10, 20]}});
    make(&berth, "web", asked);
    let told = get("/containers/web/json");
    assert_eq!(told["HostConfig"]["ConsoleSize"], json!([10, 20]));
    let attached = ["AttachStdin", "AttachStdout", "AttachStderr"].map(|key| &told["Config"][key]);
    assert_eq!(attached, [&json!(true), &json!(true), &json!(false)]);
}

/// The root of a container that runs is copied without what the kernel shows in it.
#[test]
fn a_whole_root_comes_out_while_it_runs() {
    let berth = Berth::up_with(&[]);
    let tree = berth.path("tree");
    let files = support::images::root().bytes();
    tar::Archive::new(&files[..]).unpack(&tree).unwrap();
    make(&berth, "web", json!({"Image": tree, "Cmd": ["sleep", "1000"], "StopSignal": "KILL"}));
    assert_eq!(api(&berth, "POST", "/containers/web/start", Value::Null).status, 204);
    let answer = api(&berth, "GET", "/containers/web/archive?path=/", Value::Null);
    let mut names = Vec::new();
    for entry in tar::Archive::new(&answer.body[..]).entries().unwrap() {
        names.push(entry.unwrap().path().unwrap().display().to_string());
    }
    let has = |name: &str| names.iter().any(|one| one.trim_start_matches("./") == name);
    assert!(has("data/seed") && has("tmp/") || has("tmp"), "{names:?}");
    assert!(!has("proc/self") && !has("proc/1/"), "{names:?}");
    let of_proc = names.iter().filter(|name| name.contains("proc/")).count();
    assert!(of_proc <= 1, "{of_proc}");
}
