//! A manifest from drop to deletion: started, restarted, changed, stopped.

mod support;

use support::{Berth, is_running, kill, shell};

const SLEEPER: &str =
    "trap \"echo asked to end; exit 0\" TERM; echo ready; while :; do sleep 0.1; done";

#[test]
fn a_dropped_file_runs_and_a_deleted_one_stops() {
    let berth = Berth::up_with(&[]);
    berth.write("web.toml", &shell(SLEEPER));
    berth.wait_log("web", "ready");
    let pid = berth.pid("web") as i32;
    assert!(is_running(pid));
    berth.remove("web.toml");
    berth.wait("web to be gone", || berth.inspect("web").is_null());
    assert!(!is_running(pid));
    assert!(!berth.path("run/berth/containers/web").exists());
}

#[test]
fn a_payload_that_ends_is_started_again_with_backoff() {
    let text = "echo run; exit 3";
    let berth = Berth::up_with(&[("web.toml", &shell(text))]);
    berth.wait("three restarts", || berth.restarts("web") >= 3);
    assert!(berth.logs("web").matches("run").count() >= 3);
    // Not in the instant in which it runs.
    berth.wait("a crash loop to be told", || berth.ok(&["ps", "-a"]).contains("crash loop"));
    assert_eq!(berth.inspect("web")["State"]["ExitCode"], 3);
}

#[test]
fn policies_say_who_is_started_again() {
    let policy = |policy: &str, code: i32| {
        format!(
            "{}restart = {{ policy = \"{policy}\", backoff = \"10ms\" }}\n",
            shell(&format!("echo run; exit {code}"))
        )
    };
    let berth = Berth::up_with(&[
        ("no.toml", &policy("no", 1)),
        ("good.toml", &policy("on-failure", 0)),
        ("bad.toml", &policy("on-failure:2", 1)),
    ]);
    for name in ["no", "good", "bad"] {
        berth.wait_status(name, "exited");
    }
    assert_eq!(berth.restarts("no"), 0);
    assert_eq!(berth.restarts("good"), 0);
    assert_eq!(berth.restarts("bad"), 2);
}

#[test]
fn a_stop_by_hand_lasts_until_start_or_edit() {
    let mut berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    berth.ok(&["stop", "web"]);
    assert_eq!(berth.status("web"), "exited");
    assert!(berth.logs("web").contains("asked to end"));
    // Neither a restart of Berth nor a rescan starts it.
    assert_eq!(berth.down(), Some(0));
    berth.up();
    assert_eq!(berth.status("web"), "exited");
    assert!(berth.ok(&["ps", "-a"]).contains("by hand"));
    berth.ok(&["start", "web"]);
    berth.wait_status("web", "running");
    berth.ok(&["stop", "web"]);
    berth.write("web.toml", &(shell(SLEEPER) + "env = { EDITED = \"yes\" }\n"));
    berth.wait_status("web", "running");
}

#[test]
fn limits_change_in_place_and_commands_replace() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    berth.write("web.toml", &(shell(SLEEPER) + "[resources]\npids = 77\nmemory = \"64MiB\"\n"));
    berth.wait("the limit", || berth.inspect("web")["HostConfig"]["PidsLimit"] == 77);
    assert_eq!(berth.pid("web"), pid, "the same process goes on");
    berth.write("web.toml", &shell("echo another; sleep 1000"));
    berth.wait_log("web", "another");
    assert_ne!(berth.pid("web"), pid);
}

#[test]
fn a_touched_file_restarts_nothing() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    let file = berth.manifests().join("web.toml");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, text).unwrap();
    berth.write("other.toml", &shell("echo other; sleep 1000"));
    berth.wait_log("other", "other");
    assert_eq!(berth.pid("web"), pid);
    assert_eq!(berth.restarts("web"), 0);
}

#[test]
fn order_of_start_and_stop_follows_requires() {
    let file = |text: &str, requires: &str| format!("{}requires = [{requires}]\n", shell(text));
    let script = |name: &str| {
        format!(
            "trap \"echo {name} ends >> /order/log; exit 0\" TERM; echo {name} >> /order/log; while :; do sleep 0.05; done"
        )
    };
    let mut berth = Berth::new();
    std::fs::create_dir(berth.path("order")).unwrap();
    let mount =
        format!("[[mount]]\nsource = \"{}\"\ntarget = \"/order\"\n", berth.path("order").display());
    berth.write("app.toml", &(file(&script("app"), "\"db\"") + &mount));
    berth.write("db.toml", &(file(&script("db"), "\"net\"") + &mount));
    berth.write("net.toml", &(file(&script("net"), "") + &mount));
    berth.up();
    let log = berth.path("order/log");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    berth.wait("all to run", || lines().lines().count() >= 3);
    assert_eq!(berth.down(), Some(0));
    assert_eq!(lines(), "net\ndb\napp\napp ends\ndb ends\nnet ends\n");
}

#[test]
fn a_payload_that_ignores_sigterm_is_killed_after_its_timeout() {
    let text = "trap \"\" TERM; echo ready; while :; do sleep 0.1; done";
    let manifest = shell(text).replace("2s", "200ms");
    let mut berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_log("web", "ready");
    berth.ok(&["stop", "web"]);
    assert_eq!(berth.inspect("web")["State"]["ExitCode"], 137);
    assert_eq!(berth.down(), Some(0));
}

#[test]
fn a_second_signal_hurries() {
    let text = "trap \"\" TERM; echo ready; while :; do sleep 0.1; done";
    let mut berth = Berth::up_with(&[("web.toml", &shell(text).replace("2s", "1h"))]);
    berth.wait_log("web", "ready");
    kill(berth.keeper_pid(), 15);
    berth.wait("the stop to begin", || berth.log().contains("stopping everything"));
    assert_eq!(berth.down(), Some(0));
}

#[test]
fn signals_reach_the_payload() {
    let text = "trap \"echo got hup\" HUP; trap \"echo got usr1\" USR1; echo ready; while :; do sleep 0.05; done";
    let manifest = shell(text) + "[signals]\nforward = [\"SIGUSR1\"]\nreload = \"SIGHUP\"\n";
    let berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_log("web", "ready");
    berth.ok(&["reload", "web"]);
    berth.wait_log("web", "got hup");
    kill(berth.keeper_pid(), 10);
    berth.wait_log("web", "got usr1");
    berth.ok(&["kill", "-s", "USR1", "web"]);
    berth.wait("the second one", || berth.logs("web").matches("got usr1").count() == 2);
    assert_eq!(berth.restarts("web"), 0);
}

#[test]
fn reload_by_a_command_runs_inside_the_container() {
    let text = "echo ready > /state; echo ready; while :; do sleep 0.1; done";
    let manifest = shell(text)
        + "hostname = \"inside\"\n[signals]\nreload = { exec = [\"sh\", \"-c\", \"cat /state; hostname; id -u\"] }\n";
    let berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_log("web", "ready");
    berth.ok(&["reload", "web"]);
    berth.wait_log("web", "inside");
    assert_eq!(berth.restarts("web"), 0);
}

#[test]
fn a_declared_container_is_not_removed_by_hand() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    let output = berth.cli(&["rm", "-f", "web"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("web.toml"), "{error}");
    assert_eq!(berth.status("web"), "running");
}

#[test]
fn a_shared_network_comes_back_with_its_owner() {
    let owner = shell("echo up; sleep 1000");
    let guest =
        shell("readlink /proc/self/ns/net; sleep 1000") + "network = { mode = \"container:db\" }\n";
    let berth = Berth::up_with(&[("db.toml", &owner), ("app.toml", &guest)]);
    berth.wait_log("app", "net:");
    let ns = |name: &str| std::fs::read_link(format!("/proc/{}/ns/net", berth.pid(name))).ok();
    assert_eq!(ns("db"), ns("app"));
    berth.ok(&["kill", "-s", "KILL", "db"]);
    berth.ok(&["start", "db"]);
    berth.wait("both to share again", || ns("db").is_some() && ns("db") == ns("app"));
}

/// What clients make is there whatever folder a person names.
#[test]
fn a_named_folder_is_not_all() {
    let mut berth = Berth::new();
    let dir = berth.path("mine");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("web.toml"), shell(SLEEPER)).unwrap();
    berth.up_of(&dir);
    berth.wait_status("web", "running");
    assert_eq!(berth.ok(&["run", "--name", "made", "/", "echo", "here"]), "here\n");
    berth.ok(&["network", "create", "back"]);
    assert!(berth.ok(&["network", "ls"]).contains("back"));
    assert_eq!(berth.cli(&["plan", dir.to_str().unwrap()]).status.code(), Some(0));
    berth.down();
    berth.up_of(&dir);
    berth.wait_status("made", "exited");
    berth.ok(&["rm", "made"]);
}

#[test]
fn everything_of_a_container_ends_with_it() {
    // A length of sleep that is nobody else's on this machine.
    let long = format!("sleep {}", 1_000_000 + std::process::id());
    let script = format!("{long} & ({long} &) ; echo ready; wait");
    let plain = format!("isolation = \"none\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    let berth = Berth::up_with(&[("plain.toml", &plain)]);
    berth.wait_log("plain", "ready");
    let cmdline = format!("{}\0", long.replace(' ', "\0"));
    let sleepers = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|found| found == cmdline.as_bytes())
            .count()
    };
    berth.wait("both to be what they will be", || sleepers() == 2);
    berth.ok(&["stop", "-t", "1", "plain"]);
    assert_eq!(sleepers(), 0);
}

#[test]
fn a_dependent_waits_until_what_it_requires_is_healthy() {
    let db = shell("echo up; sleep 1000")
        + "[health]\nexec = [\"test\", \"-e\", \"/go/ready\"]\ninterval = \"200ms\"\nstart-period = \"1h\"\n\
           [[mount]]\nsource = \"go\"\ntarget = \"/go\"\n";
    let app = shell("echo started; sleep 1000") + "requires = [\"db\"]\n";
    let berth = Berth::up_with(&[("db.toml", &db), ("app.toml", &app)]);
    berth.wait_log("db", "up");
    assert_eq!(berth.inspect("db")["State"]["Health"]["Status"], "starting");
    assert_eq!(berth.status("app"), "created");
    std::fs::write(berth.path("var/lib/berth/volumes/go/_data/ready"), "").unwrap();
    berth.wait_log("app", "started");
    assert_eq!(berth.inspect("db")["State"]["Health"]["Status"], "healthy");
}

#[test]
fn a_probe_that_fails_makes_a_container_unhealthy() {
    let web = shell("sleep 1000") + "[health]\ntcp = \":9\"\ninterval = \"50ms\"\nretries = 2\n";
    let berth = Berth::up_with(&[("web.toml", &web)]);
    berth.wait("it to be unhealthy", || {
        berth.inspect("web")["State"]["Health"]["Status"] == "unhealthy"
    });
    assert_eq!(berth.status("web"), "running");
}

/// More at once than the socket between keeper and engine holds.
#[test]
fn hundreds_start_and_stop_at_once() {
    let mut berth = Berth::new();
    let all = "instances = [".to_owned()
        + &(0..400).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ")
        + "]\nisolation = \"none\"\ncommand = [\"sleep\", \"1000000\"]\n";
    berth.write("many@.toml", &all);
    berth.up();
    berth.wait("all to run", || {
        berth.ok(&["ps"]).lines().filter(|line| line.contains(" Up ")).count() == 400
    });
    assert_eq!(berth.down(), Some(0));
}

/// A registry that accepts and never answers: the container can be stopped nonetheless,
/// and nothing is launched for it afterwards.
#[test]
fn a_container_is_stopped_while_its_image_is_pulled() {
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = registry.local_addr().unwrap().port();
    let text = format!("image = \"127.0.0.1:{port}/slow:1\"\n");
    let berth = Berth::up_with(&[("web.toml", &text), ("other.toml", &shell("sleep 1000"))]);
    let (_asked, _) = registry.accept().unwrap();
    berth.ok(&["stop", "web"]);
    berth.wait("it to rest", || berth.ok(&["ps", "-a"]).contains("Exited (125)"));
    assert!(berth.ok(&["ps", "-a"]).contains("by hand"));
    // Its neighbour may still have been about to start.
    berth.wait_status("other", "running");
    assert_eq!(berth.status("web"), "exited");
}
