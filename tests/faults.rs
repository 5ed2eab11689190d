//! What the machine lacks: room, descriptors, processes, memory. A launch fails, is
//! tried again, and nobody else notices.

mod support;

use std::path::PathBuf;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::{Berth, SmallDisk, counted, processes_with, shell};

const COUNTER: &str = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";

#[test]
fn a_full_disk_is_said_once_and_containers_go_on() {
    let mut berth = Berth::new();
    let disks = [
        SmallDisk::mount(berth.path("var/log"), "512k"),
        SmallDisk::mount(berth.path("var/lib/berth/records"), "512k"),
        SmallDisk::mount(berth.path("run/berth/records"), "512k"),
    ];
    berth.write("web.toml", &shell(COUNTER));
    berth.write("other.toml", &shell("echo ready; sleep 1000"));
    berth.up();
    berth.wait_log("web", "line 10");
    berth.wait_log("other", "ready");
    let pid = berth.pid("web");
    disks.iter().for_each(SmallDisk::fill);
    berth.wait("the log to stall", || berth.log().contains("its container waits"));
    // State changes all the same, and is known although it can't be written down.
    berth.ok(&["stop", "-t", "0", "other"]);
    assert_eq!(berth.status("other"), "exited");
    berth.wait("the records' complaint", || berth.log().contains("writing the record"));
    // Long enough for several tries.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(berth.pid("web"), pid);
    assert_eq!(berth.log().matches("its container waits").count(), 1, "{}", berth.log());
    disks.iter().for_each(SmallDisk::clear);
    berth.wait("the log to go on", || berth.log().contains("is written again"));
    berth.wait("the records to be written", || berth.log().contains("can be written again"));
    assert_eq!(berth.log().matches("containers go on").count(), 1, "{}", berth.log());
    let before = berth.logs("web").lines().count();
    berth.wait("more lines", || berth.logs("web").lines().count() > before + 100);
    assert_eq!(berth.pid("web"), pid);
    let record = std::fs::read_to_string(berth.path("var/lib/berth/records/other.json")).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&record).is_ok());
    berth.ok(&["stop", "-t", "0", "web"]);
    assert!(counted(&berth.logs("web")) > 200);
    assert_eq!(berth.down(), Some(0));
    // Who was stopped while it could not be written down is known to be so.
    berth.up();
    assert_eq!(berth.status("other"), "exited");
    assert_eq!(berth.down(), Some(0));
}

fn open_files(pid: i32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

fn limit_files(pid: i32, limit: u64) {
    // The hard limit stays: to raise it again needs CAP_SYS_RESOURCE.
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let hard = line.split_whitespace().nth(4).unwrap().parse().ok();
    let limit = Rlimit { current: Some(limit), maximum: hard };
    prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
}

/// Gives `pid` too few descriptors for one more launch, then enough.
fn without_descriptors(pid: fn(&Berth) -> i32, spare: u64) {
    let berth = Berth::up_with(&[("web.toml", &shell(COUNTER))]);
    berth.wait_log("web", "line 10");
    let (web, starved) = (berth.pid("web"), pid(&berth));
    limit_files(starved, open_files(starved) + spare);
    berth.write("new.toml", &shell("echo ready; sleep 1000"));
    berth.wait("the launch to fail", || {
        berth.inspect("new")["State"]["Error"].as_str().is_some_and(|error| !error.is_empty())
    });
    let error = berth.inspect("new")["State"]["Error"].clone();
    assert!(error.as_str().unwrap().contains("file"), "{error}");
    berth.wait("it to be tried again", || berth.restarts("new") >= 2);
    assert_eq!((berth.pid("web"), pid(&berth)), (web, starved), "nobody died of it");
    limit_files(starved, 4096);
    berth.wait_log("new", "ready");
    assert_eq!(berth.restarts("web"), 0);
    berth.ok(&["stop", "-t", "0", "web"]);
    assert!(counted(&berth.logs("web")) > 10);
}

#[test]
fn an_engine_without_descriptors_launches_later() {
    without_descriptors(|berth| berth.engine_pid().unwrap(), 4);
}

#[test]
fn a_keeper_without_descriptors_launches_later() {
    without_descriptors(Berth::keeper_pid, 3);
}

/// The cgroup that all of this Berth's are below, where processes are limited.
fn pids_parent(pid: i64) -> PathBuf {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |line: &str| line.rsplit(':').next().unwrap().trim_start_matches('/').to_owned();
    let v1 = groups.lines().find(|line| line.split(':').nth(1) == Some("pids"));
    let group = match v1 {
        Some(line) => PathBuf::from("/sys/fs/cgroup/pids").join(path(line)),
        None => PathBuf::from("/sys/fs/cgroup").join(path(groups.lines().next().unwrap())),
    };
    group
        .ancestors()
        .find(|dir| {
            dir.ends_with(dir.file_name().unwrap())
                && dir.file_name().unwrap().to_str().unwrap().starts_with("berth-")
        })
        .unwrap()
        .to_owned()
}

#[test]
fn a_launch_without_processes_left_is_tried_again() {
    let limited = |text: &str| shell(text) + "[resources]\npids = 50\n";
    let berth = Berth::up_with(&[("web.toml", &limited("echo ready; sleep 1000"))]);
    berth.wait_log("web", "ready");
    let web = berth.pid("web");
    let parent = pids_parent(web);
    let now = std::fs::read_to_string(parent.join("pids.current")).unwrap();
    std::fs::write(parent.join("pids.max"), now.trim()).unwrap();
    berth.write("new.toml", &limited("echo ready; sleep 1000"));
    berth.wait("the launch to fail", || {
        berth.inspect("new")["State"]["Error"]
            .as_str()
            .is_some_and(|error| error.contains("no more processes"))
    });
    berth.wait("it to be tried again", || berth.restarts("new") >= 2);
    std::fs::write(parent.join("pids.max"), "max").unwrap();
    berth.wait_log("new", "ready");
    assert_eq!((berth.pid("web"), berth.restarts("web")), (web, 0));
}

/// One process is for container init; none is left for the payload.
#[test]
fn a_limit_that_leaves_no_process_for_the_payload_is_named() {
    let berth = Berth::up_with(&[(
        "web.toml",
        &(shell("echo ready; sleep 1000") + "[resources]\npids = 1\n"),
    )]);
    berth.wait("the launch to fail", || {
        berth.inspect("web")["State"]["Error"]
            .as_str()
            .is_some_and(|error| error.contains("resources.pids"))
    });
    berth.write("web.toml", &(shell("echo ready; sleep 1000") + "[resources]\npids = 10\n"));
    berth.wait_log("web", "ready");
}

#[test]
fn a_launch_without_memory_fails_alone_and_is_tried_again() {
    let tight = "[resources]\nmemory = \"512KiB\"\nswap = 0\n";
    // Some kernels count so roughly that a mere shell fits into the least that there is.
    let hungry = "x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000";
    let berth =
        Berth::up_with(&[("web.toml", &shell(COUNTER)), ("tight.toml", &(shell(hungry) + tight))]);
    berth.wait_log("web", "line 10");
    let web = berth.pid("web");
    berth.wait("it to be tried again", || berth.restarts("tight") >= 2);
    berth.write("tight.toml", &shell(hungry));
    berth.wait_log("tight", "ready");
    assert_eq!((berth.pid("web"), berth.restarts("web")), (web, 0));
}

/// moby 31971: a start that fails is not tried again although the policy says so.
#[test]
fn a_launch_that_failed_is_tried_again_until_it_can_be() {
    let berth = Berth::new();
    let late = "rootfs = \"/\"\ncommand = [\"/late/program\"]\nrestart = \"always\"\n\
                [[mount]]\nsource = \"late\"\ntarget = \"/late\"\n";
    let mut berth = berth;
    berth.write("web.toml", late);
    berth.up();
    berth.wait("two failures", || berth.restarts("web") >= 2);
    assert_eq!(berth.inspect("web")["State"]["ExitCode"], 127);
    let program = berth.path("var/lib/berth/volumes/late/_data/program");
    let temporary = program.with_extension("new");
    std::fs::write(&temporary, "#!/bin/sh\necho ready\nexec sleep 1000\n").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&temporary, open).unwrap();
    std::fs::rename(&temporary, &program).unwrap();
    berth.wait_log("web", "ready");
    assert_eq!(berth.inspect("web")["State"]["Error"], "");
}

/// Whatever it does, nothing of it is left after a stop.
#[test]
fn nothing_of_an_awkward_payload_is_left() {
    let mut berth = Berth::new();
    let root = berth.root().display().to_string();
    let payloads = [
        ("bomb", "f() { f | f & }; while :; do f; done"),
        (
            "daemon",
            "(setsid sh -c \"trap : TERM HUP INT; while :; do sleep 1; done\" &); exec sleep 1000",
        ),
        ("closed", "exec >&- 2>&-; trap : TERM; while :; do sleep 1; done"),
        ("endless", "trap : TERM; while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"),
    ];
    for (name, script) in payloads {
        for isolation in ["full", "none"] {
            let text = format!(
                "{}env = {{ AWKWARD = \"{name}-{isolation}-{root}\" }}\n[resources]\npids = 40\n\
                 [log]\nmax-size = \"1MiB\"\nmax-files = 1\n",
                shell(script).replace("2s", "100ms")
            );
            let text = match isolation {
                "none" => text.replace("rootfs = \"/\"", "isolation = \"none\""),
                _ => text,
            };
            berth.write(&format!("{name}-{isolation}.toml"), &text);
        }
    }
    berth.up();
    for (name, _) in payloads {
        for isolation in ["full", "none"] {
            let (container, mark) =
                (format!("{name}-{isolation}"), format!("AWKWARD={name}-{isolation}-{root}"));
            berth.wait(&format!("{container} to run"), || processes_with(&mark) > 0);
            berth.ok(&["stop", &container]);
            assert_eq!(berth.status(&container), "exited");
            assert_eq!(processes_with(&mark), 0, "{container}");
        }
    }
    assert_eq!(berth.down(), Some(0));
}
