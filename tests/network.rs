//! Containers' networks with real traffic, through the binary: Berth runs on a host
//! that is a network namespace of the test, with a second machine beside it.

#[path = "network/addresses.rs"]
mod addresses;
#[path = "network/drivers.rs"]
mod drivers;
#[path = "network/held.rs"]
mod held;
mod support;

use std::time::{Duration, Instant};

use support::net::Machine;
use support::{Berth, shell};

/// A page that says who serves it, at port 80, and an answer to datagrams at 53.
const WEB: &str = r#"
rootfs = "/"
command = ["sh", "-c", """
mkdir -p /tmp/www
hostname > /tmp/www/who
perl -MSocket=:all -e '
  socket(S, PF_INET6, SOCK_DGRAM, 0); setsockopt(S, IPPROTO_IPV6, IPV6_V6ONLY, pack("i", 0));
  bind(S, pack_sockaddr_in6(53, inet_pton(AF_INET6, "::"))) or die;
  while (my $from = recv(S, my $b, 99, 0)) { send(S, "pong\n", 0, $from) }' &
exec busybox httpd -f -p 80 -h /tmp/www
"""]
stop = { timeout = "0s" }
"#;
const IDLE: &str =
    "rootfs = \"/\"\ncommand = [\"sleep\", \"100000\"]\nstop = { timeout = \"0s\" }\n";

fn web(network: &str) -> String {
    format!("{WEB}[network]\nmode = \"bridge\"\n{network}\n")
}

fn idle(network: &str) -> String {
    format!("{IDLE}[network]\nmode = \"bridge\"\n{network}\n")
}

/// A Berth on a machine of its own.
fn berth_on(host: &Machine, manifests: &[(&str, &str)]) -> Berth {
    let mut berth = Berth::in_network(&host.path());
    for (file, text) in manifests {
        berth.write(file, text);
    }
    berth.up();
    for (file, _) in manifests {
        if !file.contains(".network.") {
            let name = file.split('.').next().unwrap();
            berth.wait_status(name, "running");
        }
    }
    berth
}

fn address(berth: &Berth, name: &str, network: &str) -> String {
    let inspected = berth.inspect(name);
    let place = &inspected["NetworkSettings"]["Networks"][network];
    place["IPAddress"].as_str().unwrap_or_default().to_owned()
}

/// What a container gets from a page, by its own resolver.
fn page(berth: &Berth, from: &str, url: &str) -> String {
    let words = ["exec", from, "curl", "-s", "-g", "-m", "3", url];
    String::from_utf8_lossy(&berth.cli(&words).stdout).into_owned()
}

#[test]
fn a_published_port_is_reached_from_everywhere_in_both_families() {
    let host = Machine::new();
    let outside = host.neighbour();
    let published = "publish = [\"8080:80\", \"127.0.0.1:9000-9001:80-81\", \"[::1]:8443:80\", \
                     \"5353:53/udp\", \"81\"]";
    let berth = berth_on(&host, &[("web.toml", &web(published)), ("b.toml", &idle(""))]);
    berth.wait("the page", || host.get("http://127.0.0.1:8080/who") == "web\n");
    assert_eq!(host.get("http://[::1]:8080/who"), "web\n");
    assert_eq!(host.get("http://10.77.0.1:8080/who"), "web\n");
    assert_eq!(outside.get("http://10.77.0.1:8080/who"), "web\n");
    assert_eq!(outside.get("http://[fd77::1]:8080/who"), "web\n");
    assert_eq!(host.get("http://127.0.0.1:9000/who"), "web\n");
    assert_eq!(outside.get("http://10.77.0.1:9000/who"), "", "loopback is the host's own");
    assert_eq!(host.get("http://[::1]:8443/who"), "web\n");
    berth.wait("datagrams from outside", || outside.udp("10.77.0.1", 5353) == "pong\n");
    berth.wait("datagrams by IPv6", || outside.udp("fd77::1", 5353) == "pong\n");
    berth.wait("datagrams from the host", || host.udp("127.0.0.1", 5353) == "pong\n");
    berth.wait("datagrams on ::1", || host.udp("::1", 5353) == "pong\n");
    // Hairpin: by the host's address, from another container and from itself.
    assert_eq!(page(&berth, "b", "http://10.77.0.1:8080/who"), "web\n");
    assert_eq!(page(&berth, "web", "http://10.77.0.1:8080/who"), "web\n");
    let ports = berth.inspect("web")["NetworkSettings"]["Ports"].clone();
    let chosen = ports["81/tcp"][0]["HostPort"].as_str().unwrap().to_owned();
    assert_ne!(chosen, "0");
    // A free port that was chosen stays over the engine's death.
    support::kill(berth.engine_pid().unwrap(), 9);
    berth.wait("the next engine", || {
        berth.inspect("web")["NetworkSettings"]["Ports"]["81/tcp"][0]["HostPort"] == chosen
    });
    assert_eq!(outside.get("http://10.77.0.1:8080/who"), "web\n");
}

#[test]
fn names_are_answered_and_replicas_take_turns() {
    let host = Machine::new();
    let member = |name: &str| format!("networks = [{{ name = \"{name}\", alias = [\"app\"] }}]");
    let berth = berth_on(
        &host,
        &[
            ("back.network.toml", "internal = true\n"),
            ("one.toml", &web(&member("back"))),
            ("two.toml", &web(&member("back"))),
            (
                "asker.toml",
                &idle(
                    "networks = [\"default\", \"back\"]\nextra-hosts = [\"gate:host-gateway\", \"x.y:10.0.0.9\"]\ndns-search = [\"shop.example\"]",
                ),
            ),
            ("stranger.toml", &idle("")),
        ],
    );
    berth.wait("a page by name", || page(&berth, "asker", "http://one/who") == "one\n");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        seen.insert(page(&berth, "asker", "http://app/who"));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["one\n", "two\n"]);
    let one = address(&berth, "one", "back");
    let reverse = berth.ok(&["exec", "asker", "getent", "hosts", &one]);
    assert!(reverse.trim_end().ends_with(" one"), "{reverse}");
    let hosts =
        berth.ok(&["exec", "asker", "cat", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"]);
    assert!(hosts.contains("\tgate\n") && hosts.contains("10.0.0.9\tx.y\n"), "{hosts}");
    assert!(hosts.contains("search shop.example\n") && hosts.ends_with("asker\n"), "{hosts}");
    // On another network nobody knows them, nor gets there.
    assert!(!berth.cli(&["exec", "stranger", "getent", "hosts", "one"]).status.success());
    assert_eq!(page(&berth, "stranger", &format!("http://{one}/who")), "");
    // While there is no engine, a query waits for the next one.
    support::kill(berth.engine_pid().unwrap(), 9);
    assert!(berth.cli(&["exec", "asker", "getent", "hosts", "app"]).status.success());
    // A replica that is stopped is not answered any more.
    berth.ok(&["stop", "two"]);
    for _ in 0..4 {
        assert_eq!(page(&berth, "asker", "http://app/who"), "one\n");
    }
}

#[test]
fn internal_and_isolated_networks_keep_their_word() {
    let host = Machine::new();
    let outside = host.neighbour();
    let www = "exec busybox httpd -f -p 8000 -h /etc";
    let mut server = outside.command(&["sh", "-c", www]).spawn().unwrap();
    let berth = berth_on(
        &host,
        &[
            ("back.network.toml", "internal = true\n"),
            ("shut.network.toml", "isolated = true\n"),
            ("inner.toml", &web("networks = [\"back\"]")),
            ("inner2.toml", &idle("networks = [\"back\"]")),
            ("shut1.toml", &web("networks = [\"shut\"]")),
            ("shut2.toml", &idle("networks = [\"shut\"]")),
        ],
    );
    let url = "http://10.77.0.2:8000/hostname";
    berth.wait("the page of the other machine", || !host.get(url).is_empty());
    assert_eq!(page(&berth, "inner", url), "");
    berth.wait("a page within", || page(&berth, "inner2", "http://inner/who") == "inner\n");
    assert_ne!(page(&berth, "shut1", url), "");
    let shut1 = address(&berth, "shut1", "shut");
    assert_eq!(page(&berth, "shut2", &format!("http://{shut1}/who")), "");
    // The host's loopback is nobody else's.
    let mut own = host.command(&["busybox", "httpd", "-f", "-p", "127.0.0.1:7000", "-h", "/etc"]);
    let mut own = own.spawn().unwrap();
    berth.wait("the host's own page", || !host.get("http://127.0.0.1:7000/hostname").is_empty());
    assert_eq!(page(&berth, "shut1", "http://127.0.0.1:7000/hostname"), "");
    for child in [&mut server, &mut own] {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// moby 22054, 4737, for-linux 690: a published port went around the host's firewall.
#[test]
fn what_the_administrator_closed_is_closed_for_published_ports() {
    let host = Machine::new();
    let outside = host.neighbour();
    host.nft("table inet admin { chain in { type filter hook input priority 0; policy accept; iifname \"up0\" tcp dport 8081 drop; }; }");
    let published = "publish = [\"8080:80\", \"8081:80\", { host = 8082, container = 80, firewall = \"bypass\" }]";
    let berth = berth_on(&host, &[("web.toml", &web(published))]);
    berth.wait("the open port", || outside.get("http://10.77.0.1:8080/who") == "web\n");
    assert_eq!(outside.get("http://10.77.0.1:8081/who"), "");
    assert_eq!(host.get("http://127.0.0.1:8081/who"), "web\n");
    host.nft("add rule inet admin in iifname up0 tcp dport { 8080, 8082 } drop");
    assert_eq!(outside.get("http://10.77.0.1:8080/who"), "");
    assert_eq!(outside.get("http://10.77.0.1:8082/who"), "web\n");
}

/// Its files say what its host name is, and it is not found by that of another.
#[test]
fn a_shared_host_name_is_in_its_files() {
    let network = "[network]\nmode = \"bridge\"\n";
    let owner = format!("hostname = \"theirs\"\n{}\n{network}", shell("echo up; sleep 1000"));
    let guest = |owner: &str| {
        let say = "hostname; cat /etc/hostname; grep -c theirs /etc/hosts; echo up; sleep 1000";
        format!("{}\n{network}[namespaces]\nuts = \"container:{owner}\"\n", shell(say))
    };
    let host = Machine::new();
    let berth = berth_on(
        &host,
        &[
            ("owner.toml", &owner),
            ("guest.toml", &guest("owner")),
            ("further.toml", &guest("guest")),
        ],
    );
    for name in ["guest", "further"] {
        berth.wait_log(name, "up");
        let said = berth.logs(name);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..2], ["theirs", "theirs"], "{name}: {said}");
        assert_ne!(lines[2], "0", "{name}: {said}");
    }
}

/// A firewall's reload took all published ports away until the daemon was restarted.
#[test]
fn a_flushed_ruleset_and_a_deleted_bridge_are_put_back() {
    let host = Machine::new();
    let outside = host.neighbour();
    let berth =
        berth_on(&host, &[("web.toml", &web("publish = [\"8080:80\"]")), ("b.toml", &idle(""))]);
    berth.wait("the page", || outside.get("http://10.77.0.1:8080/who") == "web\n");
    let tables = host.ok("nft list tables");
    let began = Instant::now();
    host.nft("flush ruleset");
    berth.wait("the tables", || host.ok("nft list tables") == tables);
    assert_eq!(outside.get("http://10.77.0.1:8080/who"), "web\n");
    assert!(began.elapsed() < Duration::from_secs(5));
    let links = host.ok("ip -br link");
    let bridge = links.lines().find(|line| line.starts_with("br")).unwrap();
    let bridge = bridge.split_whitespace().next().unwrap();
    host.ok(&format!("ip link delete {bridge}"));
    berth.wait("the bridge", || host.ok("ip -br link").contains(bridge));
    berth.wait("the page again", || outside.get("http://10.77.0.1:8080/who") == "web\n");
    assert_eq!(page(&berth, "b", "http://web/who"), "web\n");
    // And every container's own interface.
    let links = host.ok("ip -br link");
    let ports = links.lines().filter_map(|line| line.split('@').next());
    for port in ports.filter(|name| name.starts_with("bt")) {
        host.ok(&format!("ip link delete {port}"));
    }
    berth.wait("the page once more", || outside.get("http://10.77.0.1:8080/who") == "web\n");
    berth.wait("the neighbour", || page(&berth, "b", "http://web/who") == "web\n");
}

#[test]
fn ports_and_networks_change_in_a_container_that_runs() {
    let host = Machine::new();
    let berth = berth_on(
        &host,
        &[
            ("web.toml", &web("publish = [\"8080:80\"]")),
            ("b.toml", &idle("publish = [\"7000:1\"]")),
        ],
    );
    let pid = berth.pid("web");
    berth.wait("the page", || host.get("http://127.0.0.1:8080/who") == "web\n");
    berth.write("web.toml", &web("publish = [\"8081:80\"]"));
    berth.wait("the new port", || host.get("http://127.0.0.1:8081/who") == "web\n");
    assert_eq!(host.get("http://127.0.0.1:8080/who"), "");
    // A port in use names its owner, and leaves all as it was.
    berth.write("web.toml", &web("publish = [\"7000:80\"]"));
    berth.wait("the refusal", || berth.ok(&["ps"]).contains("published by the container b"));
    assert_eq!(host.get("http://127.0.0.1:8081/who"), "web\n");
    let mut other =
        host.command(&["busybox", "httpd", "-f", "-p", "7001", "-h", "/etc"]).spawn().unwrap();
    berth.wait("another program", || !host.get("http://127.0.0.1:7001/hostname").is_empty());
    berth.write("web.toml", &web("publish = [\"7001:80\"]"));
    let owner = format!("(pid {}) has it", other.id());
    berth.wait("its name", || berth.ok(&["ps"]).contains(&owner));
    let _ = other.kill();
    let _ = other.wait();
    // Another network, with a fixed address; the first one goes.
    berth.write(
        "back.network.toml",
        "subnet = \"10.66.0.0/24\"\nsubnet6 = \"fd66::/64\"\nmtu = 1400\n",
    );
    berth.write(
        "web.toml",
        &web("networks = [\"back\"]\nip = \"10.66.0.77\"\nip6 = \"fd66::abc\"\nmac = \"02:00:00:00:00:77\""),
    );
    berth.wait("the address", || address(&berth, "web", "back") == "10.66.0.77");
    berth.wait("the page there", || host.get("http://10.66.0.77/who") == "web\n");
    berth.wait("the page by IPv6", || host.get("http://[fd66::abc]/who") == "web\n");
    let link = berth.ok(&["exec", "web", "ip", "-o", "link"]);
    assert!(link.contains("mtu 1400") && link.contains("02:00:00:00:00:77"), "{link}");
    assert_eq!(berth.pid("web"), pid, "it was never stopped");
    // The network changes under it.
    berth.write("back.network.toml", "subnet = \"10.67.0.0/24\"\n");
    berth.wait("the new subnet", || address(&berth, "web", "back").starts_with("10.67.0."));
    let moved = format!("http://{}/who", address(&berth, "web", "back"));
    berth.wait("the page of the new subnet", || host.get(&moved) == "web\n");
    assert_eq!(berth.pid("web"), pid);
    // Its files tell of where it is now.
    let address = address(&berth, "web", "back");
    berth.wait("its own address in its files", || {
        berth.ok(&["exec", "web", "cat", "/etc/hosts"]).contains(&address)
    });
    let resolver = berth.ok(&["exec", "web", "cat", "/etc/resolv.conf"]);
    assert!(resolver.contains("nameserver 10.67.0.1"), "{resolver}");
    // The address that its manifest asks for is none of that network, and an engine that
    // starts leaves it where it is.
    let engine = berth.engine_pid().unwrap();
    support::kill(engine, 9);
    berth.wait("the next engine", || berth.engine_pid().is_some_and(|pid| pid != engine));
    berth.wait("the same address", || self::address(&berth, "web", "back") == address);
    berth.wait("the page after it", || host.get(&moved) == "web\n");
    assert_eq!(berth.pid("web"), pid);
}

#[test]
fn a_network_that_becomes_internal_is_no_way_out() {
    let host = Machine::new();
    let berth = berth_on(
        &host,
        &[
            ("front.network.toml", "subnet = \"10.66.0.0/24\"\n"),
            ("back.network.toml", "subnet = \"10.67.0.0/24\"\n"),
            ("c.toml", &idle("networks = [\"front\", \"back\"]")),
        ],
    );
    let says = |command: &[&str], text: &str| {
        let words = [&["exec", "c"], command].concat();
        berth.ok(&words).contains(text)
    };
    assert!(says(&["ip", "route"], "default via 10.66.0.1"));
    for (internal, gateway) in [(true, "10.67.0.1"), (false, "10.66.0.1")] {
        let front = format!("subnet = \"10.66.0.0/24\"\ninternal = {internal}\n");
        berth.write("front.network.toml", &front);
        berth.wait("another way out", || says(&["ip", "route"], &format!("default via {gateway}")));
        let routes = berth.ok(&["exec", "c", "ip", "route"]);
        assert_eq!(routes.matches("default").count(), 1, "{routes}");
        let resolver = format!("nameserver {gateway}");
        berth.wait("its resolver", || says(&["cat", "/etc/resolv.conf"], &resolver));
    }
}

/// `kill -9` of engine or keeper at any instant of a set-up leaves nothing behind.
/// `BERTH_ROUNDS=500` for as many rounds as one likes.
#[test]
fn nothing_leaks_when_either_is_killed_in_the_middle() {
    let rounds: u32 =
        std::env::var("BERTH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let host = Machine::new();
    let before = host.inventory();
    let mut berth = Berth::in_network(&host.path());
    berth.write("stays.toml", &idle("publish = [\"8000:80\"]"));
    berth.up();
    berth.wait_status("stays", "running");
    let with_one = host.inventory();
    for round in 0..rounds {
        for name in ["x", "y"] {
            let port = if name == "x" { "publish = [\"8001:80\"]" } else { "" };
            berth.write(&format!("{name}.toml"), &idle(port));
        }
        std::thread::sleep(Duration::from_micros(u64::from(round * 7919 % 60_000)));
        match (round % 2, berth.engine_pid()) {
            (0, Some(engine)) => support::kill(engine, 9),
            _ => {
                berth.kill_both();
                berth.up();
            }
        }
        berth.remove("x.toml");
        berth.remove("y.toml");
        berth.wait("what was begun to be gone", || {
            berth.status("x") == "none" && berth.status("y") == "none"
        });
        berth.wait("the network as it was", || host.inventory() == with_one);
    }
    let leases = std::fs::read_to_string(berth.path("var/lib/berth/networks/leases/default.json"));
    assert_eq!(leases.unwrap().matches("\"v4\"").count(), 1);
    berth.down();
    assert_eq!(host.inventory(), before, "{}", berth.log());
}

#[test]
fn a_host_without_ipv6_and_one_with_an_address_that_overlaps() {
    let host = Machine::new();
    host.ok("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1");
    host.ok("ip link add dummy0 type bridge");
    host.ok("ip address add 10.66.0.1/24 dev dummy0");
    host.ok("ip link set dummy0 up");
    let mut berth = Berth::in_network(&host.path());
    berth.write("taken.network.toml", "subnet = \"10.66.0.0/16\"\n");
    berth.write("web.toml", &web("publish = [\"8080:80\"]"));
    berth.write("bad.toml", &idle("networks = [\"taken\"]"));
    berth.write("missing.toml", &idle("networks = [\"nowhere\"]"));
    berth.up();
    berth.wait("the page", || host.get("http://127.0.0.1:8080/who") == "web\n");
    berth.wait("the reason", || {
        let ps = berth.ok(&["ps", "-a"]);
        ps.contains("10.66.0.0/16 overlaps")
            && ps.contains("dummy0")
            && ps.contains("there is no network nowhere")
    });
    // One that comes later is told of.
    let own = address(&berth, "web", "bridge");
    let (net, _) = own.rsplit_once('.').unwrap();
    host.ok(&format!("ip address add {net}.250/30 dev dummy0"));
    berth.wait("the warning", || {
        berth.log().contains(&format!("the address {net}.250/30 of dummy0, which is within"))
    });
}

/// What only a bridge needs keeps nobody else from running.
#[test]
fn a_host_that_has_no_bridges_says_so_and_runs_the_others() {
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    berth.write("web.toml", &web(""));
    berth.write("plain.toml", IDLE);
    // Without the right to change the network nothing can be made.
    berth.up_with_less("cap_net_admin");
    berth.wait_status("plain", "running");
    berth.wait("the reason", || {
        let ps = berth.ok(&["ps", "-a"]);
        ps.contains("web: error: ") && ps.contains("CAP_NET_ADMIN")
    });
    assert_eq!(berth.status("plain"), "running");
}

#[test]
fn networks_are_made_listed_connected_and_removed_by_hand() {
    let host = Machine::new();
    let berth = berth_on(&host, &[]);
    berth.ok(&["network", "create", "back", "--subnet", "10.66.0.0/24", "--internal"]);
    let again = berth.cli(&["network", "create", "back"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    let overlap = berth.cli(&["network", "create", "other", "--subnet", "10.66.0.0/25"]);
    assert!(String::from_utf8_lossy(&overlap.stderr).contains("the network back"), "{overlap:?}");
    berth.ok(&[
        "run",
        "-d",
        "--name",
        "c",
        "--net",
        "back",
        "--ip",
        "10.66.0.9",
        "--net-alias",
        "sea",
        "/",
        "sleep",
        "100000",
    ]);
    berth.ok(&["run", "-d", "--name", "d", "/", "sleep", "100000"]);
    assert_eq!(address(&berth, "c", "back"), "10.66.0.9");
    assert_eq!(address(&berth, "d", "bridge"), "");
    let pid = berth.pid("c");
    berth.ok(&["network", "connect", "bridge", "c"]);
    assert_ne!(address(&berth, "c", "bridge"), "");
    assert_eq!(berth.pid("c"), pid);
    let interfaces = berth.ok(&["exec", "c", "ip", "-br", "link"]);
    assert!(interfaces.contains("eth1"), "{interfaces}");
    let busy = berth.cli(&["network", "rm", "back"]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("active endpoints: c"));
    let list = berth.ok(&["network", "ls"]);
    assert!(list.contains("10.66.0.0/24") && list.contains("internal"), "{list}");
    berth.ok(&["network", "disconnect", "back", "c"]);
    assert_eq!(address(&berth, "c", "back"), "");
    let route = berth.ok(&["exec", "c", "ip", "route"]);
    assert!(route.contains("default via"), "{route}");
    assert_eq!(berth.pid("c"), pid);
    berth.ok(&["network", "rm", "back"]);
    assert!(!berth.ok(&["network", "ls", "-q"]).contains("back"));
    berth.ok(&["network", "create", "unused"]);
    assert_eq!(berth.ok(&["network", "prune"]), "unused\n");
    let inspected = berth.ok(&["network", "inspect", "bridge"]);
    assert!(inspected.contains("\"Name\": \"c\""), "{inspected}");
    let refused = berth.cli(&["network", "create", "host"]);
    assert!(!refused.status.success());
}

#[test]
fn traffic_is_counted() {
    let host = Machine::new();
    let berth = berth_on(&host, &[("web.toml", &web("publish = [\"8080:80\"]"))]);
    berth.wait("the page", || host.get("http://127.0.0.1:8080/who") == "web\n");
    let stats = berth.ok(&["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert!(stats["networks"]["eth0"]["rx-bytes"].as_u64().unwrap() > 100, "{stats}");
}
