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
    std::os::unix::fs::symlink("loop.toml", dir.join("loop.toml")).unwrap();
    let device = ["c", "1", "5"];
    let made = Command::new("mknod").arg(dir.join("device.toml")).args(device).status();
    assert!(made.unwrap().success());
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
        "loop.toml",
        "device.toml",
        "folder.toml",
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

/// Root reads everything; who does not is told which file it was.
#[test]
fn an_unreadable_manifest_is_an_error_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open.clone()).unwrap();
    let binary = dir.path().join("berth");
    // By another process: a child of another test's would hold it open for writing.
    let copied = Command::new("cp").arg(support::binary()).arg(&binary).status().unwrap();
    assert!(copied.success());
    std::fs::set_permissions(&binary, open.clone()).unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::set_permissions(&manifests, open).unwrap();
    for name in ["secret.toml", "web.toml"] {
        std::fs::write(manifests.join(name), shell(SLEEPER)).unwrap();
    }
    let mode = |name: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(manifests.join(name), permissions).unwrap();
    };
    mode("web.toml", 0o644);
    mode("secret.toml", 0o600);
    let output =
        Command::new(&binary).arg("check").arg(&manifests).uid(65534).gid(65534).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("secret.toml") && said.contains("ermission denied"), "{said}");
    assert!(!said.contains("web.toml"), "{said}");
}

/// Kubernetes mounts a ConfigMap as links into `..data`, itself a link that is
/// swapped: https://kubernetes.io/docs/concepts/configuration/configmap/
#[test]
fn a_configmap_style_swap_is_read_anew() {
    use std::os::unix::fs::symlink;
    let berth = Berth::up_with(&[]);
    let dir = berth.manifests();
    let version = |name: &str, text: &str| {
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("web.toml"), shell(text)).unwrap();
    };
    version("..1", "echo one; sleep 1000");
    symlink("..1", dir.join("..data")).unwrap();
    symlink("..data/web.toml", dir.join("web.toml")).unwrap();
    berth.wait_log("web", "one");
    version("..2", "echo two; sleep 1000");
    symlink("..2", dir.join("..next")).unwrap();
    std::fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    std::fs::remove_dir_all(dir.join("..1")).unwrap();
    berth.wait_log("web", "two");
    let list: serde_json::Value =
        serde_json::from_str(&berth.ok(&["ps", "-a", "--format", "json"])).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
}

/// podman 18778, 29804: a file with an error just isn't loaded, and nobody says why.
#[test]
fn a_broken_manifest_is_listed_with_its_error_and_check_fails() {
    let berth = Berth::up_with(&[("bad.toml", "rootfs = \"/\"\ncomand = [\"true\"]\n")]);
    berth.wait("ps to list it", || {
        let ps = berth.ok(&["ps"]);
        ps.contains("bad") && ps.contains("comand")
    });
    let check = berth.cli(&["check", berth.manifests().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(said.contains("bad.toml:2:1") && said.contains("command"), "{said}");
    // One of another Berth's eyes, by a program.
    let json = berth.cli(&["check", "--format", "json", berth.manifests().to_str().unwrap()]);
    assert_eq!(json.status.code(), Some(1));
    let problems: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(problems.to_string().contains("bad.toml"), "{problems}");
}

#[test]
fn a_manifest_written_in_two_halves_is_taken_when_it_is_whole() {
    let berth = Berth::up_with(&[("web.toml", &shell("echo one; sleep 1000"))]);
    berth.wait_log("web", "one");
    let pid = berth.pid("web");
    let text = shell("echo two; sleep 1000");
    let path = berth.manifests().join("web.toml");
    // The first half by itself parses: only a whole line more makes it complete.
    std::fs::write(&path, &text[..text.find("stop").unwrap() - 20]).unwrap();
    berth.wait("the half to be refused", || berth.ok(&["ps"]).contains("web.toml"));
    assert_eq!(berth.pid("web"), pid);
    std::fs::write(&path, text).unwrap();
    berth.wait_log("web", "two");
}

#[test]
fn a_file_that_is_touched_or_has_another_mode_restarts_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let berth = Berth::up_with(&[("web.toml", &shell(SLEEPER))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    let path = berth.manifests().join("web.toml");
    assert!(Command::new("touch").arg(&path).status().unwrap().success());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    // By rename, with the same content in another order of bytes.
    berth.write("web.toml", &("# a comment\n".to_owned() + &shell(SLEEPER)));
    berth.write("other.toml", &shell(SLEEPER));
    berth.wait_log("other", "ready");
    assert_eq!((berth.pid("web"), berth.restarts("web")), (pid, 0));
}

#[test]
fn two_files_of_one_name_and_a_cycle_are_errors_that_say_all() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, more: &str| {
        std::fs::write(dir.path().join(name), shell(SLEEPER) + more).unwrap();
    };
    write("web.toml", "");
    std::fs::write(dir.path().join("web.kdl"), "rootfs \"/\"\ncommand \"true\"\n").unwrap();
    write("a.toml", "requires = [\"b\"]\n");
    write("b.toml", "requires = [\"c\"]\n");
    write("c.toml", "requires = [\"a\"]\n");
    let berth = Berth::new();
    let check = berth.cli(&["check", dir.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(said.contains("web.toml") && said.contains("web.kdl"), "{said}");
    assert!(said.contains("a → b → c → a"), "{said}");
}

#[test]
fn drop_ins_are_laid_over_and_taken_away_again() {
    let berth = Berth::up_with(&[
        ("web.toml", &shell("echo $GREETING; sleep 1000")),
        ("web.toml.d/20-last.toml", "env = { GREETING = \"last\" }\n"),
        ("web.toml.d/10-first.toml", "env = { GREETING = \"first\" }\n[resources]\npids = 33\n"),
    ]);
    berth.wait_log("web", "last");
    assert_eq!(berth.inspect("web")["HostConfig"]["PidsLimit"], 33);
    berth.remove("web.toml.d/20-last.toml");
    berth.wait_log("web", "first");
    berth.write("web.toml.d/30-bad.toml", "nonsense = 1\n");
    berth.wait("the error to be told", || berth.ok(&["ps"]).contains("30-bad.toml"));
    assert_eq!(berth.status("web"), "running");
}

#[test]
fn an_instance_by_symlink_comes_and_goes() {
    let berth = Berth::up_with(&[("worker@.toml", &shell("echo I am {{instance}}; sleep 1000"))]);
    let link = berth.manifests().join("worker@x.toml");
    std::os::unix::fs::symlink("worker@.toml", &link).unwrap();
    berth.wait_log("worker@x", "I am x");
    std::fs::remove_file(&link).unwrap();
    berth.wait("it to be gone", || berth.inspect("worker@x").is_null());
}
