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
