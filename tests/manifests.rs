//! What editors, config tools and mistakes put into the directory.

mod support;

use std::process::Command;

use support::{Berth, shell};

const SLEEPER: &str = "echo ready; sleep 1000";

#[test]
fn a_bad_manifest_changes_nothing_and_is_seen() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    for bad in ["", "command = [", "comand = [\"true\"]\n", "rootfs = \"/\"\ncommand = [\"sl"] {
        berth.write("web.toml", bad);
        berth.wait("ps to show the error", || berth.ok(&["ps", "-a"]).contains("web.toml"));
        assert_eq!(berth.pid("web"), pid, "the last good version stays for {bad:?}");
    }
    berth.write("new.toml", "rootfs = \"/\"\ncomand = [\"true\"]\n");
    berth.wait("the new one to be seen", || berth.ok(&["ps", "-a"]).contains("new.toml"));
    berth.write("web.toml", &shell(SLEEPER));
    assert_eq!(berth.pid("web"), pid);
}

#[test]
fn a_bad_manifest_stays_harmless_over_a_restart_of_berth() {
    let mut berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    berth.write("web.toml", "broken");
    berth.wait("the error", || berth.ok(&["ps", "-a"]).contains("web.toml"));
    assert_eq!(berth.down(), Some(0));
    berth.up();
    berth.wait_status("web", "running");
}

#[test]
fn leftovers_of_editors_and_tools_are_no_containers() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    for name in [
        "web.toml.backup",
        "web.toml~",
        ".web.toml.swp",
        "#web.toml#",
        "web.toml.dpkg-new",
        "web.toml.rpmsave",
        ".hidden.toml",
        "4913",
        "web.yaml",
        "web.toml.d.bak",
    ] {
        std::fs::write(berth.manifests().join(name), shell("echo ghost; sleep 1000")).unwrap();
    }
    berth.write("last.toml", &shell(SLEEPER));
    berth.wait_log("last", "ready");
    let list: serde_json::Value =
        serde_json::from_str(&berth.ok(&["ps", "-a", "--format", "json"])).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    let check = berth.cli(&["check", berth.manifests().to_str().unwrap()]);
    assert!(check.status.success());
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert!(said.contains("web.toml.backup"), "what was passed over is named: {said}");
}

#[test]
fn files_that_are_no_files_are_errors_of_their_own() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    let dir = berth.manifests();
    assert!(Command::new("mkfifo").arg(dir.join("fifo.toml")).status().unwrap().success());
    std::os::unix::fs::symlink("/nowhere", dir.join("dangling.toml")).unwrap();
    std::fs::write(dir.join("latin.toml"), [b'a', 0xe9, b'\n']).unwrap();
    std::fs::write(dir.join("nul.toml"), b"rootfs = \"/\"\0\n").unwrap();
    std::fs::write(dir.join("deep.toml"), "x = ".to_owned() + &"[".repeat(100_000)).unwrap();
    std::fs::write(dir.join("deep.kdl"), "a { ".repeat(100_000)).unwrap();
    let huge = std::fs::File::create(dir.join("huge.toml")).unwrap();
    huge.set_len(100 << 20).unwrap();
    std::fs::create_dir(dir.join("folder.toml")).unwrap();
    berth.write("last.toml", &shell(SLEEPER));
    berth.wait_log("last", "ready");
    assert_eq!(berth.status("web"), "running");
    let check = berth.cli(&["check", dir.to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(1));
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    for name in [
        "fifo.toml",
        "dangling.toml",
        "latin.toml",
        "nul.toml",
        "deep.toml",
        "deep.kdl",
        "huge.toml",
    ] {
        assert!(said.contains(name), "{name} is missing in: {said}");
    }
}

#[test]
fn toml_and_kdl_mean_the_same() {
    let kdl = "rootfs \"/\"\ncommand \"sh\" \"-c\" \"echo ready; sleep 1000\"\nresources memory=\"64MiB\" pids=20\n";
    let berth = Berth::up_with(&[("web.kdl", kdl)]);
    berth.wait_log("web", "ready");
    assert_eq!(berth.inspect("web")["HostConfig"]["PidsLimit"], 20);
}

#[test]
fn plan_says_what_would_change_and_exits_accordingly() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER)), ("old.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    berth.wait_log("old", "ready");
    assert_eq!(berth.cli(&["plan"]).status.code(), Some(0));
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("web.toml", &(shell(SLEEPER) + "[resources]\npids = 5\n"));
    write("new.toml", &shell(SLEEPER));
    let output = berth.cli(&["plan", dir.path().to_str().unwrap(), "--format", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kind = |name: &str| {
        plan.as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == name)
            .map(|c| c["kind"].clone())
            .unwrap()
    };
    assert_eq!(kind("web"), "change-in-place");
    assert_eq!(kind("new"), "create");
    assert_eq!(kind("old"), "stop");
    write("bad.toml", "nonsense");
    assert_eq!(berth.cli(&["plan", dir.path().to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn a_directory_that_vanished_is_no_order_to_stop() {
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    let (dir, away) = (berth.manifests(), berth.path("etc/away"));
    std::fs::rename(&dir, &away).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(berth.pid("web"), pid);
    std::fs::rename(&away, &dir).unwrap();
    berth.write("back.toml", &shell(SLEEPER));
    berth.wait_log("back", "ready");
    assert_eq!(berth.pid("web"), pid);
}

#[test]
fn a_directory_swapped_by_a_symlink_is_read_anew() {
    let mut berth = Berth::new();
    std::fs::remove_dir(berth.manifests()).unwrap();
    for (version, text) in [("v1", "echo one; sleep 1000"), ("v2", "echo two; sleep 1000")] {
        std::fs::create_dir(berth.path("etc").join(version)).unwrap();
        std::fs::write(berth.path("etc").join(version).join("web.toml"), shell(text)).unwrap();
    }
    std::os::unix::fs::symlink("v1", berth.manifests()).unwrap();
    berth.up();
    berth.wait_log("web", "one");
    std::os::unix::fs::symlink("v2", berth.path("etc/next")).unwrap();
    std::fs::rename(berth.path("etc/next"), berth.manifests()).unwrap();
    berth.wait_log("web", "two");
}

#[test]
fn templates_make_instances() {
    let text =
        "instances = [\"1\", \"2\"]\n".to_owned() + &shell("echo I am {{instance}}; sleep 1000");
    let berth = Berth::up_with(&[("worker@.toml", &text)]);
    berth.wait_log("worker@1", "I am 1");
    berth.wait_log("worker@2", "I am 2");
}
