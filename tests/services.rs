//! Services of a machine: who is ready when, who waits for whom, what is run at times,
//! and going down while starting. Tests that stand for a complaint about s6-overlay
//! name it.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Berth, binary, is_running, shell};

/// A plain process with keys of its own.
fn plain(keys: &str, script: &str) -> String {
    format!(
        "isolation = \"none\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n\
         stop = {{ timeout = \"2s\" }}\n{keys}\n"
    )
}

/// A script that writes its name into a file of the root, then something more.
fn note(berth: &Berth, name: &str, then: &str) -> String {
    format!("echo {name} >> {}; {then}", berth.path("order").display())
}

fn order(berth: &Berth) -> Vec<String> {
    let text = std::fs::read_to_string(berth.path("order")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// s6-overlay 112, 178, 265: one service is not started before another is ready,
/// whichever way that says so.
#[test]
fn whoever_is_waited_for_is_ready_first() {
    let mut berth = Berth::new();
    let notify = format!("{} notify READY=1", binary().display());
    let slow = |name: &str, ready: &str| {
        note(
            &berth,
            &format!("{name}-begun"),
            &format!("sleep 0.4; echo {name} >> {}; {ready}", berth.path("order").display()),
        )
    };
    let files = [
        ("once.toml", plain("type = \"oneshot\"", &slow("once", ":"))),
        (
            "told.toml",
            plain(
                "type = \"notify\"\nrequires = [\"once\"]",
                &slow("told", &format!("{notify}; sleep 1000")),
            ),
        ),
        (
            "pipe.toml",
            plain(
                "ready = { fd = 7 }\nrequires = [\"told\"]",
                &slow("pipe", "echo >&7; sleep 1000"),
            ),
        ),
        ("goal.toml", "wants = [\"pipe\", \"nobody\"]\n".to_owned()),
        ("last.toml", plain("after = [\"goal\"]", &note(&berth, "last", "sleep 1000"))),
    ];
    for (file, text) in &files {
        berth.write(file, text);
    }
    berth.up();
    berth.wait("the last one", || order(&berth).contains(&"last".to_owned()));
    let expected = ["once-begun", "once", "told-begun", "told", "pipe-begun", "pipe", "last"]
        .map(str::to_owned);
    assert_eq!(order(&berth), expected);
    berth.ok(&["apply", "--wait", "--timeout", "60s"]);
    let chain = berth.ok(&["critical-chain", "last"]);
    let names: Vec<&str> = chain
        .lines()
        .skip(1)
        .map(|line| line.trim_start_matches([' ', '└', '─']).split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["last", "goal", "pipe", "told", "once"], "{chain}");
    let status = berth.ok(&["status"]);
    assert!(status.contains("reached") && status.contains("5 ready"), "{status}");
    assert!(berth.ok(&["plot"]).contains("</svg>"));
    assert!(berth.ok(&["blame"]).contains("once"));
}

/// The engine dies while a service is about to say that it is ready.
#[test]
fn what_is_said_to_a_dead_engine_is_heard() {
    let notify = format!("{} notify READY=1 STATUS=well", binary().display());
    let berth = Berth::up_with(&[]);
    let flag = berth.path("go");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done", flag.display());
    berth.write("told.toml", &plain("type = \"notify\"", &format!("{wait}; {notify}; sleep 1000")));
    berth.write("user.toml", &plain("requires = [\"told\"]", "echo runs; sleep 1000"));
    berth.wait_status("told", "running");
    let engine = berth.engine_pid().unwrap();
    support::kill(engine, 19);
    std::fs::write(&flag, "").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    support::kill(engine, 9);
    berth.wait_log("user", "runs");
    assert_eq!(berth.restarts("told"), 0);
    assert!(berth.ok(&["status", "told"]).contains("says: well"));
}

#[test]
fn who_is_not_ready_in_time_is_started_again() {
    let berth = Berth::up_with(&[(
        "late.toml",
        &plain("type = \"notify\"\nready = { timeout = \"300ms\" }", "echo begun; sleep 1000"),
    )]);
    berth.wait("two more attempts", || berth.restarts("late") >= 2);
    let out = berth.cli(&["apply", "--wait", "--timeout", "30s"]);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stdout));
}

#[test]
fn a_watchdog_that_hears_nothing_bites() {
    let notify = format!("{} notify WATCHDOG=1", binary().display());
    let feed = format!(
        "i=0; while [ $i -lt 8 ]; do {notify}; sleep 0.2; i=$((i+1)); done; echo tired; sleep 1000"
    );
    let berth = Berth::up_with(&[("fed.toml", &plain("watchdog = \"4s\"", &feed))]);
    berth.wait_log("fed", "tired");
    assert_eq!(berth.restarts("fed"), 0, "it was fed");
    berth.wait("the watchdog", || berth.restarts("fed") == 1);
}

#[test]
fn what_is_run_at_times_is_run_again_and_again() {
    let berth = Berth::up_with(&[
        ("often.toml", &plain("every = \"1s\"", "echo run")),
        ("second.toml", &plain("schedule = \"*-*-* *:*:*\"", "echo run")),
        ("never.toml", &plain("schedule = \"2037-01-01 00:00\"", "echo run")),
    ]);
    for name in ["often", "second"] {
        berth.wait("three runs", || berth.logs(name).matches("run").count() >= 3);
    }
    assert_eq!(berth.logs("never"), "");
    assert!(berth.ok(&["ps", "-a"]).contains("next run in"), "{}", berth.ok(&["ps", "-a"]));
    // By hand at once, and by its time as before.
    berth.ok(&["start", "never"]);
    berth.wait_log("never", "run");
    berth.ok(&["apply", "--wait", "--timeout", "60s"]);
}

#[test]
fn conditions_that_do_not_hold_are_as_good_as_done() {
    let berth = Berth::up_with(&[
        ("skipped.toml", &plain("if-exists = [\"/nowhere/at/all\"]", "echo run")),
        ("kernel.toml", &plain("if-kernel = [\"!no.such.word\"]", "echo run; sleep 1000")),
        ("user.toml", &plain("requires = [\"skipped\", \"kernel\"]", "echo run; sleep 1000")),
    ]);
    berth.wait_log("user", "run");
    assert_eq!(berth.logs("skipped"), "");
    let status = berth.ok(&["status"]);
    assert!(status.contains("not run: /nowhere/at/all does not exist"), "{status}");
}

/// s6-overlay 566: a shutdown asked for during start-up deadlocked.
#[test]
fn going_down_while_starting() {
    let mut berth = Berth::new();
    berth.write(
        "never.toml",
        &plain("type = \"notify\"", "trap \"exit 0\" TERM; while :; do sleep 0.1; done"),
    );
    berth.write("once.toml", &plain("type = \"oneshot\"\nrequires = [\"never\"]", "sleep 1000"));
    berth.write("web.toml", &plain("requires = [\"once\"]", "sleep 1000"));
    berth.up();
    berth.wait_status("never", "running");
    let begun = Instant::now();
    assert_eq!(berth.down(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(30), "the stop timeout is 2s");
}

/// s6-overlay 350: zombies while shutting down.
#[test]
fn no_zombies_while_shutting_down() {
    let orphans = "trap \"\" TERM; while :; do (sleep 0.01 & ) ; done";
    let mut berth = Berth::up_with(&[("web.toml", &plain("init = false", orphans))]);
    berth.wait_status("web", "running");
    let keeper = berth.keeper_pid();
    let mut most = 0;
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut most = 0;
            while is_running(keeper) {
                most = most.max(zombies_of(keeper));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        std::thread::sleep(Duration::from_millis(300));
        berth.down();
        most = most.max(counting.join().unwrap());
    });
    assert!(most < 50, "{most} zombies at once");
}

fn zombies_of(parent: i32) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
            let mut fields = rest.split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&parent.to_string())
        })
        .count()
}

/// s6-overlay 114: the main command runs when all services are up, and its end is the
/// end of all, with its exit status.
#[test]
fn the_main_command_comes_last_and_ends_all() {
    let berth = Berth::new();
    berth.write("base.toml", &plain("type = \"oneshot\"", &note(&berth, "base", "sleep 0.3")));
    let main = note(&berth, "main", "exit 7");
    berth.write("main.toml", &plain("restart = \"no\"\nrequires = [\"base\"]", &main));
    berth.write("other.toml", &plain("after = [\"base\"]", "sleep 1000"));
    let status = Command::new(binary())
        .arg("--root")
        .arg(berth.root())
        .args(["up", "--quiet", "--main", "main"])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(7));
    assert_eq!(order(&berth), ["base", "main"]);
}

fn up_main(berth: &Berth, main: &str) -> (Option<i32>, String) {
    let out = Command::new(binary())
        .arg("--root")
        .arg(berth.root())
        .args(["up", "--quiet", "--main", main])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Each `up --main` is an order of its own, and its end is the end whatever the manifest's
/// restart policy: whoever started Berth decides whether all begins again.
#[test]
fn the_main_command_runs_each_time_and_once() {
    let berth = Berth::new();
    berth.write("main.toml", &plain("restart = \"always\"", &note(&berth, "main", "exit 3")));
    berth.write("other.toml", &plain("", "sleep 1000"));
    for count in 1..=2 {
        assert_eq!(up_main(&berth, "main").0, Some(3));
        assert_eq!(order(&berth).len(), count);
    }
    berth.write("main.toml", &plain("restart = \"on-failure:1\"", &note(&berth, "main", "exit 4")));
    assert_eq!(up_main(&berth, "main").0, Some(4));
    assert_eq!(order(&berth).len(), 4, "once more after a failure");
    berth.write("main.toml", "isolation = \"none\"\ncommand = [\"/nowhere\"]\n");
    assert_eq!(up_main(&berth, "main").0, Some(127));
    berth.write("main.toml", &plain("if-exists = [\"/nowhere\"]", "exit 5"));
    assert_eq!(up_main(&berth, "main").0, Some(0), "as good as done");
}

#[test]
fn a_main_command_that_can_never_end_is_refused() {
    let berth = Berth::new();
    berth.write("web.toml", &plain("", "sleep 1000"));
    berth.write("all.toml", "wants = [\"web\"]\n");
    berth.write("often.toml", &plain("every = \"1h\"", "exit 0"));
    berth.write("bad.toml", "command = 3\n");
    for (name, code, why) in [
        ("wbe", 1, "no manifest declares it; did you mean web?"),
        ("all", 1, "it runs nothing"),
        ("often", 1, "it is run at times"),
        ("bad", 125, "without bad there is nothing to do"),
    ] {
        let (status, said) = up_main(&berth, name);
        assert_eq!(status, Some(code), "{name}: {said}");
        assert!(said.contains(why), "{name}: {said}");
    }
}

/// A health check of a container that is paused fails nobody, and a watchdog does not bite.
#[test]
fn who_is_paused_need_not_say_anything() {
    let notify = format!("{} notify WATCHDOG=1", binary().display());
    let feed = format!("while :; do {notify}; sleep 0.1; done");
    let berth = Berth::up_with(&[(
        "fed.toml",
        &plain(
            "watchdog = \"2s\"\n[health]\nexec = [\"true\"]\ninterval = \"100ms\"\nretries = 1",
            &feed,
        ),
    )]);
    let health = || berth.inspect("fed")["State"]["Health"]["Status"].clone();
    berth.wait("it to be well", || health() == "healthy");
    berth.ok(&["pause", "fed"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((berth.status("fed").as_str(), health()), ("paused", "healthy".into()));
    let exec = berth.cli(&["exec", "fed", "true"]);
    assert!(String::from_utf8_lossy(&exec.stderr).contains("paused"), "{exec:?}");
    berth.ok(&["unpause", "fed"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((berth.restarts("fed"), health()), (0, "healthy".into()));
    assert_eq!(berth.status("fed"), "running");
}

/// Nor does one that is held still for a commit.
#[test]
fn who_is_committed_need_not_say_anything() {
    let probed = "[health]\nexec = [\"true\"]\ninterval = \"50ms\"\nretries = 1\n";
    let script = "head -c 200M /dev/urandom > /big; echo written; sleep 1000";
    let berth = Berth::up_with(&[("web.toml", &(shell(script) + probed))]);
    let health = || berth.inspect("web")["State"]["Health"].clone();
    berth.wait_log("web", "written");
    berth.wait("it to be well", || health()["Status"] == "healthy");
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| berth.ok(&["commit", "web", "kept:1"]));
        while !commit.is_finished() {
            assert_eq!(health()["Status"], "healthy", "{:?}", health()["Log"]);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(begun.elapsed() > Duration::from_millis(300), "it was over at once");
    assert_eq!(health()["Status"], "healthy");
    assert_eq!(health()["FailingStreak"], 0);
}

/// Berth knows nothing of it, and neither an exec nor a health check waits in there.
#[test]
fn a_cgroup_that_somebody_froze_holds_nobody_else() {
    let probed = "[health]\nexec = [\"true\"]\ninterval = \"50ms\"\n";
    let berth = Berth::up_with(&[("web.toml", &(shell("sleep 1000") + probed))]);
    let health = || berth.inspect("web")["State"]["Health"]["Status"].clone();
    berth.wait("it to be well", || health() == "healthy");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", berth.pid("web"))).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let unified = std::path::Path::new("/sys/fs/cgroup/unified");
    let base = if unified.is_dir() { unified } else { std::path::Path::new("/sys/fs/cgroup") };
    let file = base.join(group.trim_start_matches('/')).join("cgroup.freeze");
    std::fs::write(&file, "1").unwrap();
    let exec = berth.cli(&["exec", "web", "true"]);
    // Where Docker's command line says it, too.
    assert!(String::from_utf8_lossy(&exec.stdout).contains("stands still"), "{exec:?}");
    berth.write("other.toml", &shell("echo runs; sleep 1000"));
    berth.wait_log("other", "runs");
    berth.wait("it to be unwell", || health() == "unhealthy");
    std::fs::write(&file, "0").unwrap();
    berth.wait("it to be well again", || health() == "healthy");
    berth.ok(&["exec", "web", "true"]);
    assert_eq!(berth.restarts("web"), 0);
}

#[test]
fn applying_tells_by_its_exit_status() {
    let berth = Berth::up_with(&[("good.toml", &plain("", "sleep 1000"))]);
    berth.ok(&["apply", "--wait", "--timeout", "60s"]);
    berth.write("slow.toml", &plain("type = \"oneshot\"", "sleep 1000"));
    let out = berth.cli(&["apply", "--wait", "--timeout", "500ms"]);
    assert_eq!(out.status.code(), Some(124), "{}", String::from_utf8_lossy(&out.stderr));
    berth.remove("slow.toml");
    berth.write("bad.toml", &plain("restart = \"no\"", "exit 3"));
    berth.wait_status("bad", "exited");
    let out = berth.cli(&["apply", "--wait", "--timeout", "60s"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stdout).contains("bad: failed"));
    assert_eq!(berth.cli(&["status"]).status.code(), Some(1));
}

/// In a container with a root of its own the socket and the descriptor are there too.
#[test]
fn isolated_containers_say_how_they_are() {
    let berth = Berth::up_with(&[]);
    let socket = "command -v socat >/dev/null || exit 0; printf READY=1 | socat - UNIX-SENDTO:$NOTIFY_SOCKET";
    berth.write("pipe.toml", &format!("{}ready = {{ fd = 5 }}\n", shell("echo >&5; sleep 1000")));
    berth.write("user.toml", &format!("{}requires = [\"pipe\"]\n", shell("echo runs; sleep 1000")));
    berth.wait_log("user", "runs");
    berth.write(
        "told.toml",
        &format!(
            "{}type = \"notify\"\n",
            shell(&format!("test -S $NOTIFY_SOCKET && echo socket; {socket}; sleep 1000"))
        ),
    );
    berth.wait_log("told", "socket");
}

/// What another engine allows to the first process of its container is enough for Berth:
/// here it is Berth's own container, which allows what Docker's does.
#[test]
fn it_supervises_inside_of_a_container() {
    let berth = Berth::up_with(&[]);
    let inner =
        "isolation = \"none\"\ncommand = [\"sh\", \"-c\", \"echo from inside; sleep 1000\"]";
    let script = format!(
        "mkdir /tmp/m && cat > /tmp/m/hello.toml <<end\n{inner}\nend\n\
         exec /mnt/berth --root /tmp/r up /tmp/m"
    );
    let mount = format!(
        "[[mount]]\nsource = \"{}\"\ntarget = \"/mnt/berth\"\nread-only = true\n",
        binary().display()
    );
    berth.write("outer.toml", &(shell(&script) + &mount));
    berth.wait_log("outer", "hello | from inside");
    berth.ok(&["stop", "outer"]);
    let outer = berth.ok(&["inspect", "outer"]);
    assert!(outer.contains("\"ExitCode\": 0"), "{outer}");
}

#[test]
fn the_examples_of_packaging_are_good() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["packaging/init", "packaging/entrypoint/containers.d", "tests/vm/manifests"] {
        let path = top.join(dir);
        if !path.is_dir() {
            // In the virtual machine there are only the tests.
            continue;
        }
        let out = Command::new(binary()).arg("check").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{dir}: {said}");
    }
}
