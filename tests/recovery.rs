//! Engine, keeper and machine die; containers do not notice.

mod support;

use std::time::Duration;

use support::{Berth, counted, is_running, kill, shell};

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
        assert!(counted(&berth.logs(name)) > 100, "{name}");
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
    assert!(counted(&berth.logs("a")) > 100);
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
    let up_again = humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string();
    berth.up();
    berth.wait_status("web", "exited");
    let state = berth.inspect("web")["State"].clone();
    assert_eq!(state["ExitCode"], 42);
    // Container init wrote down when.
    assert!(state["FinishedAt"].as_str().unwrap() < up_again.as_str(), "{state} {up_again}");
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

/// The FIFOs outlive the container that wrote into them.
#[test]
fn last_words_are_kept_when_the_engine_is_dead() {
    let script = "echo ready; while [ ! -e /go/now ]; do sleep 0.01; done; echo last words";
    let mut berth = Berth::new();
    let go = berth.path("go");
    std::fs::create_dir(&go).unwrap();
    let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/go\"\n", go.display());
    let manifest = shell(script) + "restart = \"no\"\n" + &mount;
    berth.write("web.toml", &manifest);
    berth.up();
    berth.wait_log("web", "ready");
    let (keeper, engine) = (berth.keeper_pid(), berth.engine_pid().unwrap());
    let payload = berth.pid("web") as i32;
    // So that no engine takes its place meanwhile.
    kill(keeper, 19);
    kill(engine, 9);
    std::fs::write(go.join("now"), "").unwrap();
    berth.wait("the container to end", || !is_running(payload));
    kill(keeper, 18);
    berth.wait_log("web", "last words");
    assert_eq!(berth.logs("web"), "ready\nlast words\n");
}

/// Container init waits with what is unread, and with nothing else of the container.
#[test]
fn last_words_are_kept_when_keeper_and_engine_are_dead() {
    let script = "echo ready; sleep 1000 & while [ ! -e /go/now ]; do sleep 0.01; done; \
                  head -c 30000 /dev/zero | tr '\\0' x; echo; echo last words; exit 7";
    let mut berth = Berth::new();
    let go = berth.path("go");
    std::fs::create_dir(&go).unwrap();
    let mount = format!("[[mount]]\nsource = \"{}\"\ntarget = \"/go\"\n", go.display());
    let manifest = shell(script) + "restart = \"no\"\nenv = { MARK = \"last-words\" }\n" + &mount;
    berth.write("web.toml", &manifest);
    berth.up();
    berth.wait_log("web", "ready");
    let init = berth.pid("web") as i32;
    berth.kill_both();
    std::fs::write(go.join("now"), "").unwrap();
    berth.wait("the payload to end", || support::processes_with("MARK=last-words") == 0);
    assert!(is_running(init));
    berth.up();
    berth.wait_log("web", "last words");
    berth.wait_status("web", "exited");
    assert_eq!(berth.logs("web").len(), "ready\n".len() + 30001 + "last words\n".len());
    assert_eq!(berth.inspect("web")["State"]["ExitCode"], 7);
    assert!(!is_running(init));
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

/// An order to end that falls into `reexec`, at whatever instant, is carried out.
#[test]
fn an_order_to_end_survives_reexec() {
    let mut random = Random(0x5eed_0009);
    for _ in 0..8 {
        let mut berth = Berth::up_with(&[("a.toml", &shell("sleep 1000"))]);
        berth.wait_status("a", "running");
        let pid = i32::try_from(berth.pid("a")).unwrap();
        let keeper = berth.keeper_pid();
        berth.ok(&["reexec"]);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        assert!(is_running(keeper));
        assert_eq!(berth.down(), Some(0));
        assert!(!is_running(pid));
    }
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

/// Whoever is killed at whatever instant: the containers go on, and each of their
/// lines is there once.
#[test]
fn killing_anyone_at_random_costs_nothing() {
    let names = ["a", "b", "c"];
    let logs = [
        "[log]\nmax-size = \"1GiB\"\n",
        "[log]\nmax-size = \"32KiB\"\nmax-files = 10000\n",
        "[log]\nmax-size = \"256KiB\"\nmax-files = 10000\ncompress = false\n",
    ];
    let mut berth = Berth::new();
    for (name, log) in names.into_iter().zip(logs) {
        berth.write(&format!("{name}.toml"), &counter(log));
    }
    berth.up();
    for name in names {
        berth.wait_log(name, "line 10");
    }
    let pids = names.map(|name| berth.pid(name));
    let mut random = Random(0x5eed_0003);
    for round in 0..24 {
        std::thread::sleep(Duration::from_millis(random.below(60)));
        match random.below(3) {
            0 => {
                if let Some(engine) = berth.engine_pid() {
                    kill(engine, 9);
                }
            }
            1 => {
                // The engine ends by itself; the next keeper waits for it.
                berth.kill_keeper();
                berth.up();
            }
            _ => {
                berth.kill_both();
                std::thread::sleep(Duration::from_millis(random.below(30)));
                berth.up();
            }
        }
        for pid in pids {
            assert!(is_running(pid as i32), "round {round}\n{}", berth.log());
        }
    }
    berth.wait("the engine to be back", || berth.cli(&["ps"]).status.success());
    assert_eq!(names.map(|name| berth.pid(name)), pids, "nothing was restarted");
    assert_eq!(names.map(|name| berth.restarts(name)), [0; 3]);
    for name in names {
        berth.ok(&["stop", "-t", "0", name]);
        assert!(counted(&berth.logs(name)) > 100, "{name}");
    }
}

/// moby 26374: the monitor of a container is killed, and the container can neither
/// be stopped nor removed.
#[test]
fn an_adopted_container_is_stopped_started_and_removed() {
    let mark = |name: &str, berth: &Berth| {
        let mark = format!("ADOPTED={name}-{}", berth.root().display());
        (format!("env = {{ ADOPTED = \"{}\" }}\n", &mark["ADOPTED=".len()..]), mark)
    };
    let mut berth = Berth::new();
    let (env, stopped) = mark("stopped", &berth);
    berth.write("stopped.toml", &(shell("echo ready; sleep 1000 & sleep 1000") + &env));
    let (env, removed) = mark("removed", &berth);
    berth.write("removed.toml", &(shell("echo ready; sleep 1000 & sleep 1000") + &env));
    berth.up();
    berth.wait_log("stopped", "ready");
    berth.wait_log("removed", "ready");
    berth.kill_keeper();
    berth.up();
    berth.ok(&["stop", "-t", "1", "stopped"]);
    assert_eq!(berth.status("stopped"), "exited");
    assert_eq!(support::processes_with(&stopped), 0);
    berth.ok(&["start", "stopped"]);
    berth.wait_status("stopped", "running");
    berth.remove("removed.toml");
    berth.wait("it to be gone", || berth.inspect("removed").is_null());
    assert_eq!(support::processes_with(&removed), 0);
}

/// moby 11777: after a restart containers start in any order, and one that shares
/// another's network fails for good. `a` comes before `db` by name.
#[test]
fn who_shares_a_network_comes_back_after_a_restart_of_everything() {
    let guest =
        shell("readlink /proc/self/ns/net; sleep 1000") + "network = { mode = \"container:db\" }\n";
    let mut berth = Berth::up_with(&[
        ("a.toml", &guest),
        ("db.toml", &shell("sleep 0.2; echo ready; sleep 1000")),
    ]);
    berth.wait_log("a", "net:");
    for crash in [false, true] {
        if crash {
            let pids = [berth.pid("a") as i32, berth.pid("db") as i32];
            berth.kill_both();
            for pid in pids {
                kill(pid, 9);
                berth.wait("the container to end", || !is_running(pid));
            }
        } else {
            assert_eq!(berth.down(), Some(0));
        }
        berth.up();
        let ns = |name: &str| std::fs::read_link(format!("/proc/{}/ns/net", berth.pid(name))).ok();
        berth.wait("both to share again", || ns("db").is_some() && ns("db") == ns("a"));
        assert_eq!(berth.inspect("a")["State"]["Error"], "");
    }
}

/// What a reboot leaves: nothing runs, /run is empty, the boot id is another.
/// What lies in memory alone is that of all who have the volume, also under the engines that
/// come after; with the last of them it goes.
#[test]
fn a_volume_in_memory_outlives_the_engine() {
    let volume = "\n[[mount]]\nsource = \"memory\"\ntarget = \"/tmp\"\n\
                  options = { type = \"tmpfs\", device = \"tmpfs\", o = \"size=1m\" }\n";
    let once = |script: &str| format!("restart = \"no\"\n{}{volume}", shell(script));
    // Linux before 6.3 shows others' files in memory as nobody's: all may write it.
    let holder = "echo kept > /tmp/x; chmod 666 /tmp/x; echo ready; sleep 1000";
    let holder = format!("{}{volume}", shell(holder));
    let mut berth = Berth::up_with(&[("holder.toml", &holder)]);
    berth.wait_log("holder", "ready");
    let read = |berth: &Berth, name: &str| {
        berth.write(&format!("{name}.toml"), &once("cat /tmp/x; echo from $HOSTNAME >> /tmp/x"));
        berth.wait(name, || berth.status(name) == "exited");
        assert_eq!(berth.inspect(name)["State"]["ExitCode"], 0, "{}", berth.inspect(name)["State"]);
        berth.logs(name)
    };
    assert_eq!(read(&berth, "one"), "kept\n");
    kill(berth.engine_pid().unwrap(), 9);
    assert_eq!(read(&berth, "two"), "kept\nfrom one\n");
    kill(berth.engine_pid().unwrap(), 9);
    berth.ok(&["stop", "-t", "0", "holder"]);
    assert_eq!(read(&berth, "three").lines().next(), None);
    // What is put in before the first launch is in what the mount says, and in no folder.
    let folder = berth.path("var/lib/berth/volumes/early/_data");
    let early = volume.replace("memory", "early").replace("/tmp", "/srv");
    berth.write(
        "early.toml",
        &format!("if-exists = [\"/no/such\"]\n{}{early}", shell("sleep 1000")),
    );
    berth.wait("its record", || berth.cli(&["inspect", "early"]).status.success());
    let file = berth.path("put");
    std::fs::write(&file, "x").unwrap();
    berth.ok(&["cp", file.to_str().unwrap(), "early:/srv/put"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    // Whoever says something else of it is told so, and does not get it.
    berth.remove("early.toml");
    let other = early.replace("size=1m", "size=2m");
    berth.write("other.toml", &format!("restart = \"no\"\n{}{other}", shell("true")));
    berth.wait("the refusal", || {
        berth.inspect("other")["State"]["Error"]
            .as_str()
            .is_some_and(|e| e.contains("other options"))
    });
    // Nothing of it was ever in the host's table.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("volumes/memory"));
    berth.down();
}

/// Who shares another's processes and shared memory goes and comes back with it, whoever is
/// killed when.
#[test]
fn who_shares_processes_comes_back_with_their_owner() {
    let owner = format!("{}\n[namespaces]\nipc = \"shareable\"\n", shell("echo up; sleep 1111"));
    let guest = format!(
        "restart = \"no\"\n{}\n[namespaces]\npid = \"container:owner\"\nipc = \"container:owner\"\n",
        shell("echo $$ > /dev/shm/guest; echo up; sleep 2222")
    );
    let mut berth = Berth::up_with(&[("owner.toml", &owner), ("guest.toml", &guest)]);
    berth.wait_log("guest", "up");
    let namespace = |berth: &Berth, name: &str, kind: &str| {
        std::fs::read_link(format!("/proc/{}/ns/{kind}", berth.pid(name))).unwrap()
    };
    for kind in ["pid", "ipc", "user"] {
        assert_eq!(namespace(&berth, "owner", kind), namespace(&berth, "guest", kind), "{kind}");
    }
    assert_ne!(namespace(&berth, "owner", "mnt"), namespace(&berth, "guest", "mnt"));
    assert_ne!(berth.ok(&["exec", "owner", "cat", "/dev/shm/guest"]), "");
    kill(berth.engine_pid().unwrap(), 9);
    assert_eq!(berth.status("guest"), "running");
    // It dies, and the kernel ends whoever is in its pid namespace.
    let before = ["owner", "guest"].map(|name| berth.pid(name));
    kill(i32::try_from(before[0]).unwrap(), 9);
    berth.wait("both to be back", || {
        // The number of a namespace that is gone may be the next one's.
        ["owner", "guest"]
            .iter()
            .all(|name| berth.status(name) == "running" && !before.contains(&berth.pid(name)))
            && namespace(&berth, "owner", "pid") == namespace(&berth, "guest", "pid")
    });
    berth.kill_both();
    berth.up();
    berth.ok(&["stop", "-t", "1", "owner"]);
    berth.wait("the guest to end", || berth.status("guest") != "running");
    berth.ok(&["start", "owner"]);
    berth.wait("both to be back again", || berth.status("guest") == "running");
    assert_eq!(namespace(&berth, "owner", "pid"), namespace(&berth, "guest", "pid"));
}

#[test]
fn after_a_reboot_what_should_run_is_started_with_its_id_and_counts() {
    let mut berth = Berth::up_with(&[
        ("web.toml", &shell("echo ready; sleep 1000")),
        ("unless.toml", &(shell("echo ready; sleep 1000") + "restart = \"unless-stopped\"\n")),
        ("stopped.toml", &shell("echo ready; sleep 1000")),
    ]);
    for name in ["web", "unless", "stopped"] {
        berth.wait_log(name, "ready");
    }
    kill(berth.pid("web") as i32, 9);
    berth.wait("a restart", || berth.restarts("web") == 1 && berth.status("web") == "running");
    berth.ok(&["stop", "-t", "0", "unless"]);
    berth.ok(&["stop", "-t", "0", "stopped"]);
    let id = berth.inspect("web")["Id"].clone();
    let record = berth.path("var/lib/berth/records/web.json");
    berth.wait("the count to be on disk", || {
        std::fs::read_to_string(&record).unwrap().contains("\"restarts\": 1")
    });
    let pid = berth.pid("web") as i32;
    berth.kill_both();
    kill(pid, 9);
    berth.wait("the container to end", || !is_running(pid));
    std::fs::remove_dir_all(berth.path("run")).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for entry in std::fs::read_dir(record.parent().unwrap()).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert!(text.contains(boot.trim()));
        std::fs::write(entry.path(), text.replace(boot.trim(), "another-boot")).unwrap();
    }
    berth.up();
    berth.wait_status("web", "running");
    berth.wait_status("stopped", "running");
    assert_eq!(berth.inspect("web")["Id"], id);
    assert_eq!(berth.restarts("web"), 1);
    assert_eq!(berth.status("unless"), "exited");
    assert_eq!(berth.logs("web").matches("ready").count(), 3);
}
