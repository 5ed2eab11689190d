//! On the real kernel: limits that take effect, and nothing left behind.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::manifest::scalar::Size;

/// A group of a test's own, removed even when the test fails.
struct Own {
    parent: Parent,
    group: Cgroup,
}

impl Own {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-test-{}-{number}", std::process::id());
        let parent = Hierarchy::detect().unwrap().parent(&name).unwrap();
        let group = Cgroup::create(&parent, "web").unwrap();
        Own { parent, group }
    }

    /// Runs a shell inside the group.
    fn sh(&self, script: &str) -> Child {
        let join: String = self
            .group
            .dirs()
            .filter(|dir| dir.is_dir())
            .map(|dir| format!("echo $$ > {}/cgroup.procs; ", dir.display()))
            .collect();
        Command::new("sh")
            .args(["-c", &format!("{join} {script}")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.group.remove();
        self.parent.remove();
    }
}

#[test]
fn memory_is_limited_and_an_oom_kill_is_counted() {
    let own = Own::new();
    let resources = Resources {
        memory: Some(Size(32 << 20)),
        swap: Some(Size(0)),
        pids: Some(50),
        ..Resources::default()
    };
    own.group.apply(&resources).unwrap();
    assert_eq!(own.group.oom_kills(), 0);
    // A shell that grows a variable without end.
    let mut child = own.sh("x=0123456789abcdef; while :; do x=$x$x; done");
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert!(own.group.oom_kills() >= 1);
    let stats = own.group.stats().unwrap();
    assert_eq!((stats.memory_limit, stats.pids_limit), (Some(32 << 20), Some(50)));
    assert!(stats.cpu_total > 0 && stats.memory_peak > 0, "{stats:?}");
    own.group.apply(&Resources::default()).unwrap();
    let stats = own.group.stats().unwrap();
    assert_eq!((stats.memory_limit, stats.pids_limit), (None, None), "limits are lifted");
}

#[test]
fn a_fork_bomb_is_contained_and_ended() {
    let own = Own::new();
    own.group.apply(&Resources { pids: Some(40), ..Resources::default() }).unwrap();
    // Not a shell's: that one gives up when a fork fails, and may be gone by itself.
    let mut child = own.sh("exec perl -e 'fork while 1'");
    while own.group.stats().unwrap().pids < 30 {
        std::thread::yield_now();
    }
    assert!(own.group.is_populated());
    own.group.kill().unwrap();
    child.wait().unwrap();
    while own.group.is_populated() {
        std::thread::yield_now();
    }
    assert_eq!(own.group.procs(), [] as [i32; 0]);
}

#[test]
fn a_frozen_group_stays_and_can_be_ended() {
    let own = Own::new();
    let mut child = own.sh("while :; do :; done");
    while own.group.procs().is_empty() {
        std::thread::yield_now();
    }
    own.group.freeze().unwrap();
    assert!(own.group.is_frozen());
    own.group.kill().unwrap();
    child.wait().unwrap();
}

/// Who holds a group still undoes only what they did.
#[test]
fn what_is_held_still_goes_on_as_it_was() {
    let own = Own::new();
    let group = &own.group;
    group.hold_still().unwrap();
    group.hold_still().unwrap();
    group.let_go().unwrap();
    assert!(group.is_frozen(), "another one still looks at it");
    assert_eq!((group.standstills(), group.is_held()), (2, true));
    group.let_go().unwrap();
    assert!(!group.is_frozen() && !group.is_held());
    // Frozen before, by whomever.
    group.freeze().unwrap();
    group.hold_still().unwrap();
    group.let_go().unwrap();
    assert!(group.is_frozen());
    // Thawed meanwhile: after the last of them.
    group.hold_still().unwrap();
    group.thaw().unwrap();
    assert!(group.is_frozen());
    group.let_go().unwrap();
    assert!(!group.is_frozen());
    // Frozen meanwhile.
    group.hold_still().unwrap();
    group.freeze().unwrap();
    group.let_go().unwrap();
    assert!(group.is_frozen());
    group.thaw().unwrap();
    assert!(!group.is_frozen());
}

#[test]
fn groups_are_found_and_removed() {
    let own = Own::new();
    Cgroup::create(&own.parent, "db").unwrap();
    assert_eq!(Cgroup::list(&own.parent).unwrap(), ["db", "web"]);
    let db = Cgroup::open_existing(&own.parent, "db").unwrap().unwrap();
    db.remove().unwrap();
    assert!(Cgroup::open_existing(&own.parent, "db").unwrap().is_none());
    db.remove().unwrap();
}

#[test]
fn a_quota_and_a_cpuset_take_their_values() {
    let own = Own::new();
    let resources = Resources {
        cpus: Some(serde_json::from_str("0.5").unwrap()),
        cpu_weight: Some(200),
        cpuset: Some("0".into()),
        ..Resources::default()
    };
    let missing = own.group.apply(&resources).unwrap();
    if missing.is_empty() {
        let dir = own.group.dir_of("cpuset").unwrap();
        assert_eq!(fs::read_to_string(dir.join("cpuset.cpus")).unwrap().trim(), "0");
    }
    let bad = Resources { cpuset: Some("4000".into()), ..Resources::default() };
    let error = own.group.apply(&bad).unwrap_err().to_string();
    assert!(error.contains("cpuset") && error.contains("4000"), "{error}");
}
