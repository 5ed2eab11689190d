//! Limits hold, and what breaks them is said.

mod support;

use support::{Berth, shell};

#[test]
fn an_oom_kill_is_told_as_such() {
    let text = "restart = \"no\"\n".to_owned()
        + &shell("x=0123456789abcdef; while :; do x=$x$x; done")
        + "[resources]\nmemory = \"24MiB\"\nswap = 0\n";
    let berth = Berth::up_with(&[("web.toml", &text)]);
    berth.wait_status("web", "exited");
    let state = &berth.inspect("web")["State"];
    assert_eq!(state["OOMKilled"], true, "{state}");
    assert_eq!(state["ExitCode"], 137);
}

#[test]
fn a_fork_bomb_is_contained_and_stoppable() {
    let text = shell("f() { f | f & }; while :; do f; done") + "[resources]\npids = 40\n";
    let berth =
        Berth::up_with(&[("bomb.toml", &text), ("web.toml", &shell("echo ready; sleep 1000"))]);
    berth.wait_log("web", "ready");
    berth.wait_status("bomb", "running");
    berth.ok(&["stop", "-t", "1", "bomb"]);
    assert_eq!(berth.status("bomb"), "exited");
    assert_eq!(berth.status("web"), "running");
}

#[test]
fn statistics_move() {
    let berth = Berth::up_with(&[("web.toml", &shell("while :; do :; done"))]);
    berth.wait_status("web", "running");
    berth.wait("processor time", || {
        let text = berth.ok(&["stats", "--no-stream", "--format", "json"]);
        text.contains("web")
    });
    let table = berth.ok(&["stats", "--no-stream"]);
    assert!(table.contains("web"), "{table}");
}

#[test]
fn awkward_payloads_are_contained_and_stoppable() {
    let berth = Berth::up_with(&[
        ("daemon.toml", &shell("(setsid sleep 1000 &) ; echo gone")),
        ("closed.toml", &shell("exec >&- 2>&-; sleep 1000")),
        (
            "endless.toml",
            &(shell("while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")
                + "[log]\nmax-size = \"256KiB\"\nmax-files = 2\n"),
        ),
    ]);
    berth.wait("the daemon's parent to be restarted", || berth.restarts("daemon") >= 1);
    berth.wait_status("closed", "running");
    berth.wait_status("endless", "running");
    berth.wait("rotation without a line end", || {
        std::fs::read_dir(berth.path("var/log/berth/endless")).is_ok_and(|dir| dir.count() > 3)
    });
    for name in ["daemon", "closed", "endless"] {
        berth.ok(&["stop", "-t", "1", name]);
        assert_eq!(berth.status(name), "exited", "{name}");
    }
}

/// Where a controller has a container, and whether that is cgroup2.
fn group(pid: i64, controller: &str) -> (std::path::PathBuf, bool) {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |line: &str| line.rsplit(':').next().unwrap().trim_start_matches('/').to_owned();
    let v1 = groups
        .lines()
        .find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == controller)));
    let top = std::path::Path::new("/sys/fs/cgroup");
    match v1 {
        Some(line) => (top.join(controller).join(path(line)), false),
        None => {
            (top.join(path(groups.lines().find(|line| line.starts_with("0::")).unwrap())), true)
        }
    }
}

#[test]
fn limits_are_what_the_kernel_has_and_change_in_place() {
    let limits = |memory: &str, cpus: &str, pids: u32| {
        shell("echo ready; sleep 1000")
            + &format!(
                "[resources]\nmemory = \"{memory}\"\ncpus = {cpus}\ncpu-weight = 50\npids = {pids}\n"
            )
    };
    let berth = Berth::up_with(&[("web.toml", &limits("32MiB", "0.5", 20))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    let read = |controller: &str, v2: &str, v1: &str| {
        let (dir, unified) = group(pid, controller);
        assert!(dir.ends_with("web"), "{controller} has it at {}", dir.display());
        let text = std::fs::read_to_string(dir.join(if unified { v2 } else { v1 })).unwrap();
        text.split_whitespace().next().unwrap().to_owned()
    };
    let memory = || read("memory", "memory.max", "memory.limit_in_bytes");
    let cpu = || read("cpu", "cpu.max", "cpu.cfs_quota_us");
    let pids = || read("pids", "pids.max", "pids.max");
    assert_eq!((memory(), cpu(), pids()), ("33554432".into(), "50000".into(), "20".into()));
    if group(pid, "cpu").1 {
        assert_eq!(read("cpu", "cpu.weight", ""), "50");
        assert!(group(pid, "cpu").0.join("cgroup.kill").exists(), "this kernel kills by it");
    }
    berth.write("web.toml", &limits("64MiB", "1.5", 30));
    berth.wait("the new limits", || {
        (memory(), cpu(), pids()) == ("67108864".into(), "150000".into(), "30".into())
    });
    assert_eq!(berth.pid("web"), pid);
}

/// Where the kernel has controllers on cgroup2 alone, a container is born in its own.
#[test]
fn io_limits_hold_where_the_kernel_has_them() {
    let text = shell("echo ready; sleep 1000") + "[resources]\nio-weight = 50\n";
    let berth = Berth::up_with(&[("web.toml", &text)]);
    berth.wait_log("web", "ready");
    let (dir, unified) = group(berth.pid("web"), "blkio");
    let file = dir.join("io.weight");
    if !unified || !file.exists() {
        eprintln!("skipped: no io.weight on cgroup2 here");
        return;
    }
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("50"), "{text}");
}

/// Java's way of looking for its limits needs all four.
#[test]
fn the_usual_hierarchies_of_v1_are_there_together() {
    let usual = ["cpu", "cpuacct", "cpuset", "memory"];
    if !usual.iter().all(|name| std::path::Path::new("/sys/fs/cgroup").join(name).exists()) {
        return;
    }
    let list = "ls /sys/fs/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let limits = "restart = \"no\"\n[resources]\nmemory = \"64MiB\"\n";
    let berth = Berth::up_with(&[("web.toml", &(shell(list) + limits))]);
    berth.wait_status("web", "exited");
    let log = berth.logs("web");
    for name in usual {
        assert!(log.lines().any(|line| line == name), "{name}: {log}");
    }
    assert!(log.ends_with("67108864\n"), "{log}");
}
