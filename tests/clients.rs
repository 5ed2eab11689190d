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
