//! Sockets that are held for a container, and starts on demand.

use std::time::{Duration, Instant};

use super::*;

/// A server that takes its socket from its supervisor, if it is told that it is meant.
const HELD: &str = r#"
command = ["perl", "-MSocket", "-e", """
$ENV{LISTEN_PID} == $$ and $ENV{LISTEN_FDS} == 1 or die "not for us: $ENV{LISTEN_PID}, $$";
open(L, '+<&=3') or die $!;
$| = 1;
print "serving $ENV{LISTEN_FDNAMES}\\n";
while (accept(C, L)) { syswrite(C, "served by $$\\n"); close(C) }
"""]
stop = { timeout = "0s" }
restart = { policy = "always", backoff = "1ms" }
"#;

#[test]
fn a_held_socket_refuses_nobody_over_restarts_crashes_and_updates() {
    let host = Machine::new();
    let manifest = |more: &str| {
        format!(
            "rootfs = \"/\"\n{HELD}{more}\n[network]\npublish = [{{ host = 7000, hold = true }}]\n"
        )
    };
    let mut berth = Berth::in_network(&host.path());
    berth.write("held.toml", &manifest(""));
    let plain = "isolation = \"none\"\n".to_owned()
        + HELD
        + "[network]\npublish = [{ host = 7001, hold = true, address = \"127.0.0.1\" }]\n";
    berth.write("plain.toml", &plain);
    berth.up();
    berth.wait_log("held", "serving 7000-tcp");
    berth.wait_log("plain", "serving 7001-tcp");
    assert!(host.tcp("127.0.0.1", 7001).starts_with("served by "));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (served, refused) = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut counts = (0, Vec::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // One that a server took and was killed over is that server's loss: it
                // ends without an answer, but was not refused.
                let began = Instant::now();
                let output = host.shell("nc -v -w 5 127.0.0.1 7000 </dev/null");
                match output.status.success() {
                    true => counts.0 += 1,
                    false => counts.1.push((
                        String::from_utf8_lossy(&output.stderr).into_owned(),
                        began.elapsed(),
                    )),
                }
            }
            counts
        });
        for _ in 0..5 {
            berth.ok(&["restart", "-t", "0", "held"]);
        }
        berth.ok(&["kill", "-s", "SEGV", "held"]);
        support::kill(berth.engine_pid().unwrap(), 9);
        berth.write("held.toml", &manifest("env = { A = \"1\" }"));
        berth.wait("the update", || {
            berth.inspect("held")["Config"]["Env"].to_string().contains("A=1")
        });
        berth.wait_status("held", "running");
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.join().unwrap()
    });
    assert!(served > 0, "{}", berth.log());
    assert_eq!(refused, [], "{served} served\n{}", berth.log());
    // Stopped by hand it is closed.
    berth.ok(&["stop", "held"]);
    berth.wait("the port to be closed", || host.tcp("127.0.0.1", 7000).is_empty());
}

#[test]
fn the_first_client_starts_a_container_and_idleness_stops_it() {
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    let manifest = format!(
        "rootfs = \"/\"\nstart = \"on-demand\"\nidle-timeout = \"1s\"\n{HELD}[network]\npublish = [{{ host = 7000, hold = true }}]\n"
    );
    berth.write("lazy.toml", &manifest);
    // Whoever has its port lets it go some time.
    let mut other =
        host.command(&["busybox", "httpd", "-f", "-p", "7000", "-h", "/etc"]).spawn().unwrap();
    berth.wait("another program", || !host.get("http://127.0.0.1:7000/hostname").is_empty());
    berth.up();
    berth.wait("its name", || berth.log().contains(&format!("(pid {}) has it", other.id())));
    let _ = other.kill();
    let _ = other.wait();
    berth.wait("a client to be served", || host.tcp("127.0.0.1", 7000).starts_with("served by "));
    berth.wait("it to be stopped again", || berth.pid("lazy") == 0);
    berth.wait("it to wait", || berth.ok(&["ps", "-a"]).contains("waits for a connection"));
    assert_eq!(berth.pid("lazy"), 0);
    // Also for an engine that comes after.
    support::kill(berth.engine_pid().unwrap(), 9);
    // It has to begin, and then the container: on a busy machine that takes its time.
    let said = host.tcp_within(60, "127.0.0.1", 7000);
    assert!(said.starts_with("served by "), "{said:?}\n{}", berth.log());
    assert_eq!(berth.status("lazy"), "running");
    berth.wait("it to be stopped", || berth.pid("lazy") == 0);
    assert!(host.tcp("127.0.0.1", 7000).starts_with("served by "));
    berth.ok(&["stop", "lazy"]);
    assert_eq!(host.tcp("127.0.0.1", 7000), "");
    berth.ok(&["start", "lazy"]);
    berth.wait("it to run", || berth.pid("lazy") > 0);
}

/// It serves one client and ends by itself; the next one starts it again.
#[test]
fn who_ends_by_itself_is_started_by_the_next_client() {
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    let once = r#"
rootfs = "/"
start = "on-demand"
restart = "no"
command = ["perl", "-MSocket", "-e", """
open(L, '+<&=3') or die $!;
accept(C, L); syswrite(C, "served by $$ for $ENV{LISTEN_PID}\n"); close(C)
"""]
[network]
publish = [{ host = 7000, hold = true, address = "127.0.0.1" }]
"#;
    berth.write("once.toml", once);
    berth.up();
    for _ in 0..3 {
        berth.wait("it to wait", || berth.ok(&["ps", "-a"]).contains("waits for a connection"));
        let said = host.tcp("127.0.0.1", 7000);
        let words: Vec<&str> = said.split_whitespace().collect();
        // Plain numbers: zeros before them would be read as octal by some.
        assert!(words.len() == 5 && words[2] == words[4], "{said}\n{}", berth.log());
    }
    // Another address of the same port: the old socket is not in the way.
    berth.write("once.toml", &once.replace(", address = \"127.0.0.1\"", ""));
    berth.wait("it at all addresses", || host.tcp("::1", 7000).starts_with("served by "));
}

/// A condition that did not hold for one client may hold for the next.
#[test]
fn who_was_not_run_for_one_client_is_looked_at_for_the_next() {
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    let there = berth.path("there");
    let condition = format!("if-exists = [\"{}\"]\n", there.display());
    let manifest = format!(
        "rootfs = \"/\"\nstart = \"on-demand\"\n{condition}{HELD}[network]\npublish = [{{ host = 7000, hold = true }}]\n"
    );
    berth.write("picky.toml", &manifest);
    berth.up();
    berth.wait("it to wait", || berth.ok(&["ps", "-a"]).contains("waits for a connection"));
    for _ in 0..3 {
        assert_eq!(host.tcp("127.0.0.1", 7000), "");
        berth.wait("it not to be run", || berth.ok(&["ps", "-a"]).contains("not run: "));
    }
    std::fs::write(&there, "").unwrap();
    berth.wait("a client to be served", || host.tcp("127.0.0.1", 7000).starts_with("served by "));
}
