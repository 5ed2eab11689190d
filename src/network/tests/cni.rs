use std::path::PathBuf;

use super::*;
use crate::network::cni::{Attachment, Conflist};

/// With Debian's containernetworking-plugins; where they are not installed there is
/// nothing to be tried.
#[test]
fn debians_plugins_make_a_network_and_take_it_away() {
    let plugins = [PathBuf::from("/usr/lib/cni")];
    if !plugins[0].join("bridge").is_file() {
        eprintln!("not tried: no /usr/lib/cni/bridge");
        return;
    }
    on_a_host(|| {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(
            state.path().join("10-test.conflist"),
            serde_json::json!({
                "cniVersion": "0.4.0",
                "name": "test",
                "plugins": [
                    {
                        "type": "bridge", "bridge": "cni0", "isGateway": true,
                        "ipam": {
                            "type": "host-local", "subnet": "10.72.0.0/24",
                            "dataDir": state.path().join("ipam"),
                        },
                    },
                    { "type": "tuning", "mtu": 1400 },
                ],
            })
            .to_string(),
        )
        .unwrap();
        let list = Conflist::find(state.path(), "test").unwrap();
        assert!(Conflist::find(state.path(), "other").is_err());
        let netns = container_netns();
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()));
        let place = Attachment { container: "web", netns: Some(&path), interface: "eth0" };
        let added = list.add(&plugins, place).unwrap();
        assert_eq!(added.addresses, [ip("10.72.0.2")]);
        list.check(&plugins, place, &added.result).unwrap();
        serve_tcp(&netns, 80);
        assert!(tcp("10.72.0.2", 80).is_some());
        list.delete(&plugins, place, Some(&added.result)).unwrap();
        assert!(tcp("10.72.0.2", 80).is_none());
        let missing = list.add(&[state.path().into()], place).unwrap_err().to_string();
        assert!(missing.contains("containernetworking-plugins"), "{missing}");
    });
}

#[test]
fn a_list_that_would_run_something_else_is_refused() {
    for kind in ["", "../sh", "a/b", ".x"] {
        let text = serde_json::json!({
            "cniVersion": "1.0.0", "name": "x", "plugins": [{ "type": kind }],
        });
        assert!(Conflist::parse(&text.to_string()).is_err(), "{kind}");
    }
    assert!(Conflist::parse("{}").is_err());
}

#[test]
fn a_plugin_that_hangs_is_ended_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("sleepy");
    // Nor does it read its input, which is more than a pipe holds.
    std::fs::write(&program, "#!/bin/sh\nsleep 1000\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let much = "x".repeat(300_000);
    let text = serde_json::json!({
        "cniVersion": "1.0.0", "name": "x", "plugins": [{ "type": "sleepy", "much": much }],
    });
    let list =
        Conflist::parse(&text.to_string()).unwrap().with_patience(Duration::from_millis(100));
    let place = Attachment { container: "c", netns: None, interface: "eth0" };
    let began = std::time::Instant::now();
    let error = list.add(&[dir.path().into()], place).unwrap_err().to_string();
    assert!(error.contains("did not end within 100ms"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_plugin_is_given_all_its_input_and_may_leave_something_running() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("busy");
    let script = "#!/bin/sh\nsleep 30 &\necho $! >$0.pid\nn=$(wc -c)\necho \"{\\\"n\\\": $n}\"\n";
    std::fs::write(&program, script).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let text = serde_json::json!({
        "cniVersion": "1.0.0", "name": "x",
        "plugins": [{ "type": "busy", "much": "x".repeat(300_000) }],
    });
    let list = Conflist::parse(&text.to_string()).unwrap().with_patience(Duration::from_secs(20));
    let place = Attachment { container: "c", netns: None, interface: "eth0" };
    let began = std::time::Instant::now();
    let added = list.add(&[dir.path().into()], place).unwrap();
    assert!(added.result["n"].as_u64().unwrap() > 300_000, "{:?}", added.result);
    assert!(began.elapsed() < Duration::from_secs(20));
    let left: i32 =
        std::fs::read_to_string(dir.path().join("busy.pid")).unwrap().trim().parse().unwrap();
    let left = nix::unistd::Pid::from_raw(left);
    nix::sys::signal::kill(left, nix::sys::signal::Signal::SIGKILL).unwrap();
}
