//! Networks that are no bridge of ours.

use super::*;

#[test]
fn a_namespace_of_somebody_else_and_a_macvlan_are_joined() {
    let host = Machine::new();
    let outside = host.neighbour();
    let other = Machine::new();
    other.ok("ip link add only0 type bridge");
    let mode = format!("{IDLE}[network]\nmode = \"ns:{}\"\n", other.path().display());
    let lan = "driver = \"macvlan\"\nparent = \"up0\"\nsubnet = \"10.77.0.0/24\"\ngateway = \"10.77.0.2\"\n";
    let berth = berth_on(
        &host,
        &[
            ("joined.toml", &mode),
            ("lan.network.toml", lan),
            ("onlan.toml", &web("networks = [\"lan\"]\nip = \"10.77.0.50\"")),
        ],
    );
    let links = berth.ok(&["exec", "joined", "ip", "-br", "link"]);
    assert!(links.contains("only0"), "{links}");
    berth.wait("the page on the LAN", || outside.get("http://10.77.0.50/who") == "onlan\n");
}

/// The range has no other free address but the host's own.
#[test]
fn the_hosts_own_address_on_a_macvlan_is_given_to_nobody() {
    let host = Machine::new();
    let _outside = host.neighbour();
    let lan = "driver = \"macvlan\"\nparent = \"up0\"\nsubnet = \"10.77.0.0/24\"\n\
               gateway = \"10.77.0.2\"\nip-range = \"10.77.0.0/30\"\n";
    let berth =
        berth_on(&host, &[("lan.network.toml", lan), ("a.toml", &idle("networks = [\"lan\"]"))]);
    assert_eq!(address(&berth, "a", "lan"), "10.77.0.3");
}

/// Answers every question for an IPv4 address with 10.99.0.1.
const SERVER: &str = r#"
rootfs = "/"
command = ["perl", "-MSocket", "-e", """
socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, pack_sockaddr_in(53, INADDR_ANY)) or die $!;
while (my $from = recv(S, my $q, 999, 0)) {
  my $is = substr($q, -4, 2) eq pack("n", 1);
  my $head = substr($q, 0, 2) . pack("nnnnn", 0x8180, 1, $is ? 1 : 0, 0, 0);
  my $answer = $is ? pack("nnnNnC4", 0xc00c, 1, 1, 5, 4, 10, 99, 0, 1) : "";
  send(S, $head . substr($q, 12) . $answer, 0, $from);
}
"""]
stop = { timeout = "0s" }
"#;

/// What is on a macvlan reaches no address of the host, and has names all the same; also
/// one that takes port 53 itself, as every `WEB` does.
#[test]
fn containers_on_a_macvlan_find_each_other_by_name() {
    let host = Machine::new();
    let _outside = host.neighbour();
    let lan = "driver = \"macvlan\"\nparent = \"up0\"\nsubnet = \"10.77.0.0/24\"\ngateway = \"10.77.0.2\"\n";
    let member = "networks = [{ name = \"lan\", alias = [\"app\"] }]";
    let server = format!("{SERVER}[network]\nnetworks = [\"lan\"]\nip = \"10.77.0.53\"\n");
    let asker = "networks = [\"lan\"]\ndns = [\"10.77.0.53\"]";
    let berth = berth_on(
        &host,
        &[
            ("lan.network.toml", lan),
            ("one.toml", &web(member)),
            ("two.toml", &web(member)),
            ("server.toml", &server),
            ("asker.toml", &idle(asker)),
        ],
    );
    berth.wait("a page by name", || page(&berth, "one", "http://two/who") == "two\n");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        seen.insert(page(&berth, "asker", "http://app/who"));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["one\n", "two\n"]);
    // Its own servers are asked from where it is: the host does not reach this one.
    let other = ["exec", "asker", "getent", "ahostsv4", "elsewhere.example"];
    assert!(berth.ok(&other).starts_with("10.99.0.1 "));
    let by_tcp = ["exec", "asker", "sh", "-c", "RES_OPTIONS=use-vc getent ahostsv4 one"];
    assert!(berth.ok(&by_tcp).starts_with("10.77.0."));
    // While there is no engine, a query waits for the next one.
    support::kill(berth.engine_pid().unwrap(), 9);
    assert!(berth.ok(&["exec", "asker", "getent", "hosts", "one"]).contains("one"));
    berth.ok(&["restart", "-t", "0", "asker"]);
    berth.ok(&["exec", "asker", "getent", "hosts", "one"]);
    berth.ok(&["stop", "two"]);
    for _ in 0..4 {
        assert_eq!(page(&berth, "asker", "http://app/who"), "one\n");
    }
}

/// With the kernel's module it works; without it the reason is said and nobody else is
/// kept from running.
#[test]
fn an_ipvlan_works_or_says_what_the_kernel_lacks() {
    let host = Machine::new();
    let outside = host.neighbour();
    let lan = "driver = \"ipvlan\"\nparent = \"up0\"\nsubnet = \"10.77.0.0/24\"\ngateway = \"10.77.0.2\"\n";
    let mut berth = Berth::in_network(&host.path());
    berth.write("lan.network.toml", lan);
    berth.write("onlan.toml", &web("networks = [\"lan\"]\nip = \"10.77.0.50\""));
    berth.write("plain.toml", IDLE);
    berth.up();
    berth.wait_status("plain", "running");
    berth.wait("the page on the LAN, or the reason", || {
        let ps = berth.ok(&["ps", "-a"]);
        outside.get("http://10.77.0.50/who") == "onlan\n"
            || ps.contains("cannot make the ipvlan of up0") && ps.contains("kernel lacks this")
    });
    if berth.status("onlan") == "running" {
        assert_eq!(page(&berth, "onlan", "http://onlan/who"), "onlan\n");
    }
}

/// Debian's plugins, where they are installed.
#[test]
fn plugins_make_a_network() {
    if !std::path::Path::new("/usr/lib/cni/bridge").exists() {
        eprintln!("not tried: no /usr/lib/cni/bridge");
        return;
    }
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    let data = berth.path("ipam");
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "shop", "plugins": [
            {{"type": "bridge", "bridge": "cni7", "isGateway": true,
              "ipam": {{"type": "host-local", "subnet": "10.72.0.0/24", "dataDir": "{}"}}}}]}}"#,
        data.display()
    );
    std::fs::create_dir_all(berth.path("etc/cni/net.d")).unwrap();
    std::fs::write(berth.path("etc/cni/net.d/10-shop.conflist"), list).unwrap();
    berth.write("web.toml", &format!("{WEB}[network]\nmode = \"cni:shop\"\n"));
    berth.write("lost.toml", &format!("{IDLE}[network]\nmode = \"cni:nowhere\"\n"));
    berth.up();
    berth.wait("the page", || host.get("http://10.72.0.2/who") == "web\n");
    berth.wait("the reason", || berth.ok(&["ps", "-a"]).contains("nowhere in "));
    let leases = || {
        std::fs::read_dir(data.join("shop"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
            .count()
    };
    assert_eq!(leases(), 1);
    // An engine that starts forgets nothing that plugins have to take back.
    support::kill(berth.engine_pid().unwrap(), 9);
    berth.wait_status("web", "running");
    berth.remove("web.toml");
    berth.wait("its address to be given back", || leases() == 0);
}
