//! Engine, keeper and machine die; containers do not notice.

mod support;

use std::time::Duration;

use support::{Berth, is_running, kill, shell};

/// Counts without a pause worth the name, so that a kill falls anywhere.
const COUNTER: &str =
    "i=0; while :; do echo line $i; i=$((i+1)); [ $((i % 50)) = 0 ] && sleep 0.01; done";

/// A small generator: the test is the same every time, but for the machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Every number is there once, in order.
fn assert_counted(text: &str) -> usize {
    let mut expected = 0;
    for line in text.lines() {
        assert_eq!(line, format!("line {expected}"), "after {expected} good lines");
        expected += 1;
    }
    expected
}

fn counter(more: &str) -> String {
    shell(COUNTER) + more
}

#[test]
fn killing_the_engine_costs_nothing() {
    let berth = Berth::up_with(&[
        ("a.toml", &counter("[log]\nmax-size = \"1GiB\"\n")),
        ("b.toml", &counter("[log]\nmax-size = \"64KiB\"\nmax-files = 10000\n")),
    ]);
    berth.wait_log("b", "line 100");
    let pids = (berth.pid("a"), berth.pid("b"));
    let mut random = Random(0x5eed_0001);
    for _ in 0..25 {
        std::thread::sleep(Duration::from_millis(random.below(120)));
        if let Some(engine) = berth.engine_pid() {
            kill(engine, 9);
        }
    }
    berth.wait("the engine to be back", || berth.cli(&["ps"]).status.success());
    assert_eq!((berth.pid("a"), berth.pid("b")), pids, "nothing was restarted");
    assert_eq!((berth.restarts("a"), berth.restarts("b")), (0, 0));
    for name in ["a", "b"] {
        berth.ok(&["stop", "-t", "0", name]);
        let text = berth.logs(name);
        // The last line may be cut off by SIGKILL.
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        assert!(assert_counted(whole) > 100, "{name}");
    }
}

#[test]
fn killing_keeper_and_engine_costs_nothing() {
    let mut berth = Berth::up_with(&[("a.toml", &counter("[log]\nmax-size = \"1GiB\"\n"))]);
    berth.wait_log("a", "line 100");
    let pid = berth.pid("a");
    let mut random = Random(0x5eed_0002);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(random.below(100)));
        berth.kill_both();
        assert!(is_running(pid as i32));
        std::thread::sleep(Duration::from_millis(random.below(50)));
        berth.up();
    }
    assert_eq!(berth.pid("a"), pid);
    assert_eq!(berth.restarts("a"), 0);
    berth.ok(&["stop", "-t", "0", "a"]);
    let text = berth.logs("a");
    assert!(assert_counted(&text[..text.rfind('\n').map_or(0, |at| at + 1)]) > 100);
}

#[test]
fn the_engine_ends_when_its_keeper_is_killed() {
    let mut berth = Berth::up_with(&[("web.toml", &shell("echo ready; sleep 1000"))]);
    berth.wait_log("web", "ready");
    let engine = berth.engine_pid().unwrap();
    let pid = berth.pid("web");
    berth.kill_keeper();
    berth.wait("the engine to end", || !is_running(engine));
    berth.up();
    assert_eq!(berth.pid("web"), pid);
}

#[test]
fn an_exit_while_everything_is_dead_is_known_with_its_status() {
    let manifest = "restart = \"no\"\n".to_owned()
        + &shell("echo ready; while [ ! -e /go/now ]; do sleep 0.02; done; exit 42")
        + "[[mount]]\nsource = \"go\"\ntarget = \"/go\"\n";
    let mut berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web") as i32;
    berth.kill_both();
    std::fs::write(berth.path("var/lib/berth/volumes/go/_data/now"), "").unwrap();
    berth.wait("the payload to end", || !is_running(pid));
    berth.up();
    berth.wait_status("web", "exited");
    assert_eq!(berth.inspect("web")["State"]["ExitCode"], 42);
    assert_eq!(berth.restarts("web"), 0);
}

#[test]
fn an_exit_while_the_engine_is_dead_leads_to_one_restart() {
    let manifest =
        shell("echo ready; while [ ! -e /go/now ]; do sleep 0.02; done; rm /go/now; exit 1")
            + "[[mount]]\nsource = \"go\"\ntarget = \"/go\"\n";
    let berth = Berth::up_with(&[("web.toml", &manifest)]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web") as i32;
    let engine = berth.engine_pid().unwrap();
    kill(engine, 19);
    std::fs::write(berth.path("var/lib/berth/volumes/go/_data/now"), "").unwrap();
    berth.wait("the payload to end", || !is_running(pid));
    kill(engine, 9);
    berth.wait("the restart", || berth.restarts("web") == 1);
    berth.wait("the second run", || berth.logs("web").matches("ready").count() == 2);
    assert_eq!(berth.restarts("web"), 1);
}

#[test]
fn records_that_cannot_be_read_are_set_aside_and_the_container_adopted() {
    let mut berth = Berth::up_with(&[
        ("torn.toml", &shell("echo ready; sleep 1000")),
        ("empty.toml", &shell("echo ready; sleep 1000")),
        ("newer.toml", &shell("echo ready; sleep 1000")),
        ("garbage.toml", &shell("echo ready; sleep 1000")),
    ]);
    let names = ["torn", "empty", "newer", "garbage"];
    for name in names {
        berth.wait_log(name, "ready");
    }
    let pids = names.map(|name| berth.pid(name));
    berth.kill_both();
    for dir in ["var/lib/berth/records", "run/berth/records"] {
        let file = |name: &str| berth.path(dir).join(format!("{name}.json"));
        let text = std::fs::read_to_string(file("torn")).unwrap();
        std::fs::write(file("torn"), &text[..text.len() / 3]).unwrap();
        std::fs::write(file("empty"), "").unwrap();
        let newer = std::fs::read_to_string(file("newer")).unwrap();
        std::fs::write(file("newer"), newer.replacen("\"version\": 1", "\"version\": 99", 1))
            .unwrap();
        std::fs::write(file("garbage"), [0, 159, 146, 150]).unwrap();
    }
    berth.up();
    for (name, pid) in names.into_iter().zip(pids) {
        assert_eq!(berth.status(name), "running", "{name}");
        assert_eq!(berth.pid(name), pid, "{name} was adopted");
    }
    assert!(berth.log().contains("can't be used"), "{}", berth.log());
}

#[test]
fn a_second_berth_on_the_same_root_is_refused() {
    let berth = Berth::up_with(&[]);
    let output = berth.cli(&["up"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&berth.keeper_pid().to_string()), "{error}");
}

#[test]
fn reexec_keeps_pids_and_containers() {
    let berth = Berth::up_with(&[("a.toml", &counter(""))]);
    berth.wait_log("a", "line 10");
    let (pid, keeper, engine) = (berth.pid("a"), berth.keeper_pid(), berth.engine_pid());
    berth.ok(&["reexec"]);
    berth.wait("a new engine", || berth.engine_pid().is_some_and(|now| Some(now) != engine));
    berth.wait("it to answer", || berth.cli(&["ps"]).status.success());
    assert_eq!((berth.pid("a"), berth.keeper_pid()), (pid, keeper));
    assert_eq!(berth.restarts("a"), 0);
    berth.ok(&["stop", "-t", "0", "a"]);
    assert_eq!(berth.status("a"), "exited");
}

#[test]
fn nothing_is_left_after_the_end() {
    let mut berth = Berth::up_with(&[("web.toml", &shell("echo ready; sleep 1000"))]);
    berth.wait_log("web", "ready");
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(berth.down(), Some(0));
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!after.contains(berth.root().to_str().unwrap()), "{after}");
    assert!(before.lines().count() >= after.lines().count());
    let id = berth.path("run/berth/containers/web");
    assert!(id.is_dir(), "its FIFOs stay for the next start");
}
