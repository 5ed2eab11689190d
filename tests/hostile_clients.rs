//! Clients that mean harm or know no better: each is told what is wrong or hung up on,
//! and nobody else waits for it.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Berth;
use support::http::{Answer, connect, hijack, parse, request};

const SLEEPER: &str = "rootfs = \"/\"\ncommand = [\"sleep\", \"1000\"]\n\
                       stop = { timeout = \"1s\", signal = \"SIGKILL\" }\n";
const TALKER: &str = "rootfs = \"/\"\nrestart = \"no\"\n\
    command = [\"sh\", \"-c\", \"i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done\"]\n";

fn api(berth: &Berth, method: &str, path: &str, body: Option<Value>) -> Answer {
    request(&berth.path("run/berth/berth.sock"), method, path, body.as_ref())
}

/// What comes back for these bytes, as far as anything does.
fn raw(berth: &Berth, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(&berth.path("run/berth/berth.sock"));
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Resident memory of the engine in bytes.
fn memory(berth: &Berth) -> u64 {
    let pid = berth.engine_pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn what_is_no_http_is_refused_and_nobody_suffers() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    for bytes in [
        &b"\0\0\0\0"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /containers/json HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /containers/json HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let answer = raw(&berth, bytes);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{bytes:?}: {text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let answer = raw(&berth, long.as_bytes());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    assert_eq!(api(&berth, "GET", "/_ping", None).status, 200);
}

/// `printf … | nc -N -U`: whoever sends nothing more still gets the answer.
#[test]
fn a_client_that_closes_its_half_is_answered() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let answered = |text: &str| String::from_utf8_lossy(&raw(&berth, text.as_bytes())).into_owned();
    let ping = answered("GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(ping.starts_with("HTTP/1.1 200 OK") && ping.ends_with("OK"), "{ping}");
    let head = "POST /volumes/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let made = answered(&format!("{head}c\r\n{{\"Name\":\"v\"}}\r\n0\r\n\r\n"));
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    // A body that broke off is none.
    let cut = answered(&format!("{head}c\r\n{{\"Na"));
    assert!(cut.starts_with("HTTP/1.1 400"), "{cut}");
    let top = answered("GET /containers/web/top HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(top.contains("sleep"), "{top}");
    // What goes on without an end does so, until the client has left for good.
    let of_engine = format!("/proc/{}/fd", berth.engine_pid().unwrap());
    let descriptors = || std::fs::read_dir(&of_engine).unwrap().count();
    let before = descriptors();
    let follow = |path: &str| {
        let mut stream = connect(&berth.path("run/berth/berth.sock"));
        write!(stream, "{path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200", "{path}");
        stream
    };
    let followers: Vec<UnixStream> = [
        "GET /events",
        "GET /containers/web/logs?stdout=1&follow=1",
        "POST /containers/web/wait",
        "POST /containers/web/attach?stream=1&stdout=1",
    ]
    .map(follow)
    .into_iter()
    .collect();
    assert!(descriptors() >= before + followers.len());
    drop(followers);
    berth.wait("the connections to go", || descriptors() <= before);
}

/// More commands than are remembered: made and never started, and one after the other.
#[test]
fn commands_that_were_never_started_keep_none_from_being_made() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let body = json!({"Cmd": ["true"]}).to_string();
    let mut stream = connect(&socket);
    let mut read = std::io::BufReader::new(stream.try_clone().unwrap());
    for number in 0..4_200 {
        let path = "POST /containers/web/exec HTTP/1.1\r\nHost: x";
        write!(stream, "{path}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut read, &mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 201"), "{number}: {line}");
        let mut len = 0;
        loop {
            line.clear();
            std::io::BufRead::read_line(&mut read, &mut line).unwrap();
            if let Some(text) = line.strip_prefix("content-length: ") {
                len = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        read.read_exact(&mut vec![0; len]).unwrap();
    }
    assert!(berth.cli(&["exec", "web", "true"]).status.success());
}

/// Many that ask for much and take nothing: what waits for them is bounded in bytes.
#[test]
fn who_takes_nothing_of_large_answers_takes_no_memory() {
    let berth = Berth::up_with(&[]);
    let labels: serde_json::Map<String, Value> =
        (0..4000).map(|n| (format!("label-{n}"), json!("x".repeat(200)))).collect();
    for number in 0..20 {
        let path = format!("/containers/create?name=c{number}");
        let body = json!({"Image": "/", "Cmd": ["true"], "Labels": labels});
        assert_eq!(api(&berth, "POST", &path, Some(body)).status, 201);
    }
    let before = memory(&berth);
    let ask = |path: &str| {
        let mut stream = connect(&berth.path("run/berth/berth.sock"));
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream
    };
    let stuck: Vec<UnixStream> = (0..50).map(|_| ask("/events?since=0")).collect();
    std::thread::sleep(Duration::from_millis(500));
    let grown = memory(&berth).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    drop(stuck);
    let archive = |name| ask(&format!("/containers/{name}/archive?path=/usr/lib"));
    let stuck: Vec<UnixStream> = (0..40).map(|_| archive("c0")).collect();
    std::thread::sleep(Duration::from_secs(1));
    let grown = memory(&berth).saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes more");
    drop(stuck);
}

/// What can't be read again must not be made, and what is not understood not be done.
#[test]
fn what_makes_no_sense_is_refused_and_nothing_is_done() {
    let berth = Berth::up_with(&[]);
    let labels: serde_json::Map<String, Value> =
        (0..20_000).map(|n| (format!("label-{n}"), json!("x".repeat(100)))).collect();
    let body = json!({"Image": "/", "Cmd": ["true"], "Labels": labels});
    let made = api(&berth, "POST", "/containers/create?name=large", Some(body));
    assert_eq!(made.status, 400, "{}", made.message());
    assert!(made.message().contains("1MiB"), "{}", made.message());
    assert_eq!(api(&berth, "GET", "/containers/large/json", None).status, 404);
    let body = json!({"Image": "/", "Cmd": ["true"]});
    assert_eq!(api(&berth, "POST", "/containers/create?name=kept", Some(body)).status, 201);
    for filters in ["{%22label%22:%22x%22}", "{%22until%22:[1]}", "{%22label%22:null}"] {
        let path = format!("/containers/prune?filters={filters}");
        let pruned = api(&berth, "POST", &path, None);
        assert_eq!(pruned.status, 400, "{filters}");
    }
    assert_eq!(berth.status("kept"), "created");
    let upgrade = "POST /containers/kept/attach?logs=1&stdout=1 HTTP/1.0\r\nConnection: Upgrade\r\n\
                   Upgrade: tcp\r\n\r\n";
    let answer = raw(&berth, upgrade.as_bytes());
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn names_lead_nowhere_and_ids_must_be_one_s_own() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    for path in [
        "/containers/..%2f..%2fetc%2fpasswd/json",
        "/containers/%2e%2e/json",
        "/containers/web%00/json",
        "/volumes/..%2f..%2frecords",
        "/images/..%2f..%2f..%2fetc/json",
        "/exec/..%2f..%2fberth.pid/json",
    ] {
        let answer = api(&berth, "GET", path, None);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.message().is_empty(), "{path}");
    }
    for name in ["../x", "..", "a/b", "", "a%00b", &"x".repeat(300)] {
        let path = format!("/containers/create?name={}", name.replace('/', "%2f"));
        let answer = api(&berth, "POST", &path, Some(json!({"Image": "/", "Cmd": ["true"]})));
        match name {
            // Without a name one is made up.
            "" => assert_eq!(answer.status, 201, "{}", answer.message()),
            _ => assert_eq!(answer.status, 400, "{name}: {}", answer.message()),
        }
    }
    let volume = api(&berth, "POST", "/volumes/create", Some(json!({"Name": "../x"})));
    assert_eq!(volume.status, 400, "{}", volume.message());
    // Sixteen more than there are digits: two ids begin with the same one.
    let mut first = std::collections::BTreeMap::new();
    for number in 0..17 {
        let path = format!("/containers/create?name=c{number}");
        let made = api(&berth, "POST", &path, Some(json!({"Image": "/", "Cmd": ["true"]})));
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        if let Some(digit) = first.insert(id[..1].to_owned(), id.clone()).map(|_| &id[..1]) {
            // A single digit may be a container's name, too; these are not.
            let answer = api(&berth, "GET", &format!("/containers/{digit}/json"), None);
            assert_eq!(answer.status, 400, "{}", answer.message());
            assert!(answer.message().contains(digit), "{}", answer.message());
            return;
        }
    }
    panic!("seventeen ids without two that begin alike");
}

#[test]
fn a_huge_body_is_refused_and_takes_no_memory() {
    let berth = Berth::up_with(&[]);
    api(&berth, "GET", "/_ping", None);
    let before = memory(&berth);
    let mut stream = connect(&berth.path("run/berth/berth.sock"));
    write!(
        stream,
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        1u64 << 30
    )
    .unwrap();
    let part = vec![b' '; 1 << 20];
    let mut sent = 0;
    while sent < 1024 && stream.write_all(&part).is_ok() {
        sent += 1;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    if !answer.is_empty() {
        assert_eq!(parse(&answer).status, 413);
    }
    assert!(sent < 1024, "all of it was taken");
    let grown = memory(&berth).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    assert_eq!(api(&berth, "GET", "/_ping", None).status, 200);
}

#[test]
fn ten_thousand_silent_connections_keep_nobody_out() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let want = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, want);
    if limit.maximum.is_some_and(|most| most < 11_000) {
        println!("skipped: only {:?} descriptors are allowed", limit.maximum);
        return;
    }
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let silent: Vec<UnixStream> =
        (0..10_000).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let begun = Instant::now();
    assert_eq!(api(&berth, "GET", "/containers/web/json", None).status, 200);
    // The silent ones are hung up on after ten seconds: it must not be that.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(silent);
    assert_eq!(api(&berth, "GET", "/_ping", None).status, 200);
}

#[test]
fn who_asked_once_and_fell_silent_makes_room_for_others() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let want = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, want);
    if limit.maximum.is_some_and(|most| most < 6_000) {
        println!("skipped: only {:?} descriptors are allowed", limit.maximum);
        return;
    }
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let ask = || {
        let mut stream = connect(&socket);
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream
    };
    let mut first = ask();
    let silent: Vec<UnixStream> = (0..4_200).map(|_| ask()).collect();
    let begun = Instant::now();
    assert_eq!(api(&berth, "GET", "/_ping", None).status, 200);
    // They would be hung up on after ten seconds: it must not be that.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // It was the one that had been silent the longest.
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    drop(silent);
}

#[test]
fn who_reads_a_byte_a_second_slows_nobody() {
    let berth = Berth::up_with(&[("talker.toml", TALKER), ("web.toml", SLEEPER)]);
    berth.wait_status("talker", "exited");
    let before = memory(&berth);
    let socket = berth.path("run/berth/berth.sock");
    let slow: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&socket);
            let path = "/containers/talker/logs?stdout=1&follow=1";
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream
        })
        .collect();
    let quick = api(&berth, "GET", "/containers/talker/logs?stdout=1", None);
    assert!(quick.body.ends_with(b"line 19999\n"));
    let grown = memory(&berth).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    drop(slow);
}

#[test]
fn what_many_clients_change_at_once_is_all_kept() {
    let berth = Berth::up_with(&[]);
    let socket = berth.path("run/berth/berth.sock");
    let create = json!({"Image": "/", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL"});
    assert_eq!(api(&berth, "POST", "/containers/create?name=web", Some(create)).status, 201);
    let update = |body: Value| {
        let answer = request(&socket, "POST", "/containers/web/update", Some(&body));
        assert_eq!(answer.status, 200, "{}", answer.message());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (100..130).for_each(|pids| update(json!({"PidsLimit": pids}))));
        scope.spawn(|| (2..32).for_each(|shares| update(json!({"CpuShares": shares * 100}))));
        scope.spawn(|| {
            let policy = |count| json!({"Name": "on-failure", "MaximumRetryCount": count});
            (1..31).for_each(|count| update(json!({"RestartPolicy": policy(count)})));
        });
    });
    let host = berth.inspect("web")["HostConfig"].clone();
    assert_eq!((&host["PidsLimit"], &host["CpuShares"]), (&json!(129), &json!(3100)));
    assert_eq!(host["RestartPolicy"]["MaximumRetryCount"], 30);

    let make = |n: u8| {
        let body = json!({"Name": "shop", "Labels": {"by": n.to_string()}});
        request(&socket, "POST", "/networks/create", Some(&body)).status
    };
    let made: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let make = &make;
                    move || make(n)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let count = |status| made.iter().filter(|one| **one == status).count();
    assert_eq!((count(201), count(409)), (1, 7), "{made:?}");
    let by = made.iter().position(|status| *status == 201).unwrap();
    let network = api(&berth, "GET", "/networks/shop", None).json();
    assert_eq!(network["Labels"]["by"], by.to_string());

    // Different ones do not undo each other.
    let make = |n: u8| {
        let body = json!({"Name": format!("n{n}")});
        request(&socket, "POST", "/networks/create", Some(&body)).status
    };
    std::thread::scope(|scope| {
        for n in 0..8 {
            let make = &make;
            scope.spawn(move || assert_eq!(make(n), 201));
        }
    });
    for n in 0..8 {
        let found = api(&berth, "GET", &format!("/networks/n{n}"), None);
        assert_eq!(found.status, 200, "n{n}: {}", found.message());
    }
}

#[test]
fn a_hijack_that_is_half_closed_or_left_ends_nothing_else() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let exec = |command: &[&str]| {
        let body = json!({"Cmd": command, "AttachStdin": true, "AttachStdout": true});
        let answer = api(&berth, "POST", "/containers/web/exec", Some(body));
        answer.json()["Id"].as_str().unwrap().to_owned()
    };
    let id = exec(&["sh", "-c", "cat; echo end"]);
    let mut half = hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({})));
    half.send(b"typed\n");
    half.half_close();
    let (printed, _) = support::http::frames(&half.rest());
    assert_eq!(String::from_utf8_lossy(&printed), "typed\nend\n");
    for _ in 0..50 {
        let id = exec(&["cat"]);
        drop(hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({}))));
        drop(hijack(&socket, "/containers/web/attach?stream=1&stdout=1&stdin=1", None));
    }
    assert_eq!(berth.status("web"), "running");
    assert_eq!(api(&berth, "GET", "/_ping", None).status, 200);
}

/// As many as like may be in the middle of an archive, in either direction: what somebody
/// sends goes in, for it may be what they wait for.
#[test]
fn archives_that_stand_still_keep_no_other_from_coming_in() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let ask = |head: &str| {
        let mut stream = connect(&socket);
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let get = "GET /containers/web/archive?path=/usr HTTP/1.1\r\nHost: x\r\n\r\n";
    let load = "POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    let stuck: Vec<UnixStream> = (0..130).flat_map(|_| [ask(get), ask(load)]).collect();
    // Many of them have begun.
    let mut byte = [0];
    stuck.iter().step_by(2).take(60).for_each(|mut one| one.read_exact(&mut byte).unwrap());
    let file = berth.path("sent");
    std::fs::write(&file, "here it is\n").unwrap();
    let file = file.display().to_string();
    let begun = Instant::now();
    berth.ok(&["cp", &file, "web:/sent"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(berth.cli(&["exec", "web", "cat", "/sent"]).stdout, b"here it is\n");
    drop(stuck);
}

/// Clients that leave a container or a command which says nothing.
#[test]
fn who_left_in_the_middle_of_silence_keeps_no_connection() {
    let berth = Berth::up_with(&[("web.toml", SLEEPER)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/berth.sock");
    let exec = |body: Value| {
        let answer = api(&berth, "POST", "/containers/web/exec", Some(body));
        answer.json()["Id"].as_str().unwrap().to_owned()
    };
    let of_engine = format!("/proc/{}/fd", berth.engine_pid().unwrap());
    let sockets = || {
        let links = std::fs::read_dir(&of_engine).unwrap().flatten();
        let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    };
    let before = sockets();
    let mut clients = Vec::new();
    for number in 0..10 {
        let command = ["sh", "-c", "exec sleep 1000"];
        let closed = ["sh", "-c", "exec sleep 1000 >/dev/null 2>&1"];
        let quiet = exec(json!({"Cmd": command, "AttachStdout": true, "Tty": number % 2 == 0}));
        let mute = exec(json!({"Cmd": closed, "AttachStdout": true}));
        let paths = [
            "/containers/web/attach?stream=1&stdout=1".to_owned(),
            format!("/exec/{quiet}/start"),
            format!("/exec/{mute}/start"),
        ];
        for path in paths {
            let client = hijack(&socket, &path, Some(&json!({})));
            // As `docker attach --no-stdin` does.
            if number % 3 == 0 {
                client.stream.shutdown(Shutdown::Write).unwrap();
            }
            clients.push(client.stream);
        }
        let mut client = connect(&socket);
        let head = "GET /containers/web/attach/ws?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        clients.push(client);
    }
    std::thread::sleep(Duration::from_millis(300));
    // Those that only say nothing stay.
    assert!(sockets() >= before + clients.len(), "{} of {before}", sockets());
    drop(clients);
    berth.wait("the connections to go", || sockets() <= before);
    // What was typed before is passed on.
    let id = exec(json!({"Cmd": ["sh", "-c", "cat > /typed"], "AttachStdin": true}));
    let mut client = hijack(&socket, &format!("/exec/{id}/start"), Some(&json!({})));
    client.send(b"typed\n");
    drop(client);
    berth.wait("what was typed", || {
        berth.cli(&["exec", "web", "cat", "/typed"]).stdout == b"typed\n"
    });
}

#[test]
fn the_read_only_socket_shows_and_keeps_secrets() {
    let manifest = SLEEPER.replace("stop =", "env = { PASSWORD = \"s3cret\" }\nstop =");
    let berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_status("web", "running");
    let socket = berth.path("run/berth/ro.sock");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o666);
    let get = |path: &str| request(&socket, "GET", path, None);
    assert_eq!(get("/v1.41/containers/json").json()[0]["Names"][0], "/web");
    let inspected = get("/containers/web/json");
    assert_eq!(inspected.status, 200);
    assert!(!String::from_utf8_lossy(&inspected.body).contains("s3cret"));
    let share = json!({"Name": "share", "DriverOpts": {
        "type": "cifs", "device": "//10.0.0.9/x", "o": "username=a,password=s3cret"}});
    let full = berth.path("run/berth/berth.sock");
    assert_eq!(request(&full, "POST", "/volumes/create", Some(&share)).status, 201);
    for path in ["/volumes", "/volumes/share"] {
        let told = String::from_utf8_lossy(&get(path).body).into_owned();
        assert!(told.contains("cifs") && !told.contains("s3cret"), "{told}");
    }
    let top = get("/containers/web/top");
    assert!(top.status == 200 && String::from_utf8_lossy(&top.body).contains("sleep"));
    for path in [
        "/containers/web/logs?stdout=1",
        "/containers/web/archive?path=/etc",
        "/containers/web/top?ps_args=e",
        "/containers/web/changes",
        "/containers/json?size=1",
        "/images/get",
        "/images/web/history",
        "/system/df",
    ] {
        assert_eq!(get(path).status, 403, "{path}");
    }
    for path in ["/containers/web/stop", "/containers/web/exec", "/containers/create"] {
        let answer = request(&socket, "POST", path, Some(&json!({})));
        assert_eq!(answer.status, 403, "{path}");
    }
    assert_eq!(berth.status("web"), "running");
}
