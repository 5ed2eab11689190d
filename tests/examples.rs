//! The examples of `manifests/` are good, and run.

mod support;

use support::Berth;
use support::net::Machine;

fn dir() -> std::path::PathBuf {
    let here = std::env::var_os("BERTH_MANIFESTS").map(std::path::PathBuf::from);
    here.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"))
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn the_examples_are_good_and_run() {
    if !dir().is_dir() {
        eprintln!("skipped: no examples here");
        return;
    }
    // A network of its own: one of the examples makes bridges.
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    let check = berth.cli(&["check", dir().to_str().unwrap()]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    copy(&dir(), &berth.manifests());
    berth.up();
    for (name, text) in [
        ("clock", ":"),
        ("greeter", "good day from greeter, user nobody"),
        ("flaky", "working as pid 2"),
        ("worker@a", "a"),
        ("worker@b", "b"),
        ("disk", "/"),
    ] {
        berth.wait_log(name, text);
    }
    berth.wait("the shop's page", || {
        host.get("http://127.0.0.1:8088/").starts_with("Welcome to the shop: 1 sold so far")
    });
    berth.ok(&["reload", "greeter"]);
    berth.wait_log("greeter", "reloaded");
    assert_eq!(berth.down(), Some(0));
}
