//! Whose an address is, and stays.

use super::*;

#[test]
fn an_address_is_the_same_after_restarts_and_nothing_is_left_at_the_end() {
    let host = Machine::new();
    let before = host.inventory();
    let mut berth = berth_on(&host, &[("web.toml", &web("publish = [\"8080:80\"]"))]);
    let first = address(&berth, "web", "bridge");
    assert!(!first.is_empty());
    berth.ok(&["restart", "-t", "0", "web"]);
    assert_eq!(address(&berth, "web", "bridge"), first);
    berth.ok(&["stop", "web"]);
    berth.wait("its port to be free", || host.get("http://127.0.0.1:8080/who").is_empty());
    berth.wait("its interface to be gone", || !host.ok("ip -br link").contains("@if"));
    berth.ok(&["start", "web"]);
    assert_eq!(address(&berth, "web", "bridge"), first);
    berth.kill_both();
    berth.up();
    berth.wait_status("web", "running");
    assert_eq!(address(&berth, "web", "bridge"), first);
    berth.wait("the page", || host.get("http://127.0.0.1:8080/who") == "web\n");
    berth.down();
    assert_eq!(host.inventory(), before, "{}", berth.log());
}

/// It has all rights over its own interface, and still is heard as nobody else.
#[test]
fn who_takes_anothers_address_is_not_heard() {
    let host = Machine::new();
    let evil = format!("security.cap-add = [\"NET_ADMIN\"]\n{}", idle("networks = [\"back\"]"));
    let berth = berth_on(
        &host,
        &[
            ("back.network.toml", "subnet = \"10.66.0.0/24\"\n"),
            ("web.toml", &web("networks = [\"back\"]")),
            ("evil.toml", &evil),
        ],
    );
    let served = || page(&berth, "evil", "http://web/who") == "web\n";
    berth.wait("the page", served);
    let own = berth.ok(&["exec", "evil", "cat", "/sys/class/net/eth0/address"]);
    berth.ok(&["exec", "evil", "ip", "address", "add", "10.66.0.200/24", "dev", "eth0"]);
    let url = format!("http://{}/who", address(&berth, "web", "back"));
    let as_other = |from: &str| {
        let words = ["exec", "evil", "curl", "-s", "-m", "3", "--interface", from, &url];
        String::from_utf8_lossy(&berth.cli(&words).stdout).into_owned()
    };
    assert_eq!(as_other(&address(&berth, "evil", "back")), "web\n");
    assert_eq!(as_other("10.66.0.200"), "");
    let set = |mac: &str| {
        berth.ok(&["exec", "evil", "ip", "link", "set", "dev", "eth0", "address", mac]);
    };
    set("02:00:00:00:00:99");
    assert_eq!(page(&berth, "evil", &url), "");
    set(own.trim());
    berth.wait("the page as itself", served);
}

/// Whoever is launched first, with more containers than other addresses.
#[test]
fn an_address_that_a_manifest_fixes_is_nobody_elses() {
    let host = Machine::new();
    let mut manifests = vec![("back.network.toml", "subnet = \"10.66.0.0/29\"\n".to_owned())];
    let others = ["a", "b", "c", "d"];
    for file in ["a.toml", "b.toml", "c.toml", "d.toml"] {
        manifests.push((file, idle("networks = [\"back\"]")));
    }
    let last = format!(
        "after = [\"a\", \"b\", \"c\", \"d\"]\n{}",
        idle("networks = [\"back\"]\nip = \"10.66.0.4\"")
    );
    manifests.push(("last.toml", last));
    let manifests: Vec<_> = manifests.iter().map(|(file, text)| (*file, text.as_str())).collect();
    let berth = berth_on(&host, &manifests);
    assert_eq!(address(&berth, "last", "back"), "10.66.0.4");
    let mut all: Vec<String> = others.map(|name| address(&berth, name, "back")).into();
    all.sort();
    assert_eq!(all, ["10.66.0.2", "10.66.0.3", "10.66.0.5", "10.66.0.6"]);
}

/// What runs keeps its addresses: a wrong edit of its network, a route of the host that
/// came later and a torn file of leases take nobody offline.
#[test]
fn what_runs_keeps_its_addresses_whatever_comes() {
    let host = Machine::new();
    let _outside = host.neighbour();
    let berth = berth_on(
        &host,
        &[
            ("back.network.toml", "subnet = \"10.66.0.0/24\"\n"),
            ("web.toml", &web("networks = [{ name = \"back\", mac = \"02:00:00:00:00:77\" }]")),
            ("b.toml", &idle("networks = [\"back\", \"default\"]")),
        ],
    );
    let (first, other) = (address(&berth, "web", "back"), address(&berth, "b", "bridge"));
    berth.wait("a page by name", || page(&berth, "b", "http://web/who") == "web\n");
    // The subnet of the host's own cable.
    berth.write("back.network.toml", "subnet = \"10.77.0.0/25\"\n");
    berth.wait("the refusal", || berth.log().contains("it stays as it is"));
    assert_eq!(address(&berth, "web", "back"), first);
    assert_eq!(page(&berth, "b", "http://web/who"), "web\n");
    // What the kernel refuses only when it is made: it has no such parent for it.
    berth.write(
        "back.network.toml",
        "driver = \"macvlan\"\nparent = \"lo\"\nsubnet = \"10.66.0.0/24\"\n",
    );
    berth.wait("what was, put back", || berth.log().contains("it is put back as it was"));
    berth.wait("the page again", || page(&berth, "b", "http://web/who") == "web\n");
    assert_eq!(address(&berth, "web", "back"), first);
    // A good edit: the same addresses, the same names.
    berth.write("back.network.toml", "subnet = \"10.66.0.0/24\"\nmtu = 1400\n");
    berth.wait("the new size", || berth.ok(&["exec", "web", "ip", "link"]).contains("mtu 1400"));
    assert!(berth.ok(&["exec", "web", "ip", "link"]).contains("02:00:00:00:00:77"));
    berth.wait("a page by name again", || page(&berth, "b", "http://web/who") == "web\n");
    assert!(!berth.log().contains("are not served"), "{}", berth.log());
    // A route over its subnet, and leases that can't be read, for the next engine.
    host.ok("ip route add 10.64.0.0/10 via 10.77.0.2");
    std::fs::write(berth.path("var/lib/berth/networks/leases/back.json"), "{ half").unwrap();
    support::kill(berth.engine_pid().unwrap(), 9);
    berth.wait("the torn file to be set aside", || {
        berth.path("var/lib/berth/networks/leases/back.json.bad").exists()
    });
    berth.wait("the same address", || address(&berth, "web", "back") == first);
    assert_eq!(address(&berth, "b", "bridge"), other);
    berth.wait("the page still", || page(&berth, "b", "http://web/who") == "web\n");
    // A file that is wrong, or gone, when an engine starts.
    for wrong in [true, false] {
        match wrong {
            true => berth.write("back.network.toml", "subnet = 7\n"),
            false => berth.remove("back.network.toml"),
        };
        let before = berth.engine_pid().unwrap();
        support::kill(before, 9);
        berth.wait("another engine", || berth.engine_pid().is_some_and(|pid| pid != before));
        berth.wait("the same address again", || address(&berth, "web", "back") == first);
        berth.wait("the page on it", || page(&berth, "b", "http://web/who") == "web\n");
    }
}
