use super::*;
use crate::network::firewall::others;
use crate::network::firewall::watch::Heard;

/// Every origin, both families, both protocols.
#[test]
fn published_ports_are_reached_from_everywhere() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let other = world.network("front", 2);
        let (a, at) = world.container(&net, "a");
        let (b, _) = world.container(&net, "b");
        let (c, _) = world.container(&other, "c");
        serve_tcp(&a, 80);
        serve_udp(&a, 53);
        world.publish(None, 8080, at, 80, Protocol::Tcp);
        world.publish(None, 5353, at, 53, Protocol::Udp);
        world.publish(Some(ip("127.0.0.1")), 9090, at, 80, Protocol::Tcp);
        within(&outside, || {
            // The container sees who it is.
            assert_eq!(tcp(HOST4, 8080).as_deref(), Some(OUTSIDE4));
            assert_eq!(tcp(HOST6, 8080).as_deref(), Some(OUTSIDE6));
            assert_eq!(udp(HOST4, 5353).as_deref(), Some(OUTSIDE4));
            assert_eq!(udp(HOST6, 5353).as_deref(), Some(OUTSIDE6));
            assert_eq!(tcp(HOST4, 9090), None);
        });
        for to in [HOST4, HOST6, "127.0.0.1", "10.70.1.1"] {
            assert!(tcp(to, 8080).is_some(), "tcp from the host to {to}");
            assert!(udp(to, 5353).is_some(), "udp from the host to {to}");
        }
        assert!(tcp("127.0.0.1", 9090).is_some());
        // Who asks the host at a bridge's address from the host itself is nobody else.
        let own = TcpListener::bind("10.70.1.1:7070").unwrap();
        let _client = TcpStream::connect("10.70.1.1:7070").unwrap();
        assert_eq!(own.accept().unwrap().1.ip(), ip("10.70.1.1"));
        for (netns, who) in [(&b, "neighbour"), (&c, "other network"), (&a, "itself")] {
            within(netns, || {
                for to in [HOST4, HOST6] {
                    assert!(tcp(to, 8080).is_some(), "tcp from {who} to {to}");
                    assert!(udp(to, 5353).is_some(), "udp from {who} to {to}");
                }
            });
        }
    });
}

#[test]
fn the_hosts_input_rules_hold_for_published_ports() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        serve_tcp(&a, 80);
        world.publish(None, 8080, at, 80, Protocol::Tcp);
        nft(
            "table inet admin {\n chain input {\n type filter hook input priority 0; policy drop;\n \
             ct state established,related accept\n iifname \"lo\" accept\n meta l4proto ipv6-icmp accept\n }\n}\n",
        );
        within(&outside, || {
            assert_eq!(tcp(HOST4, 8080), None);
            assert_eq!(tcp(HOST6, 8080), None);
        });
        nft("add rule inet admin input tcp dport 8080 ip saddr 192.0.2.9 accept\n");
        within(&outside, || {
            assert_eq!(tcp(HOST4, 8080).as_deref(), Some(OUTSIDE4));
            assert_eq!(tcp(HOST6, 8080), None);
        });
        // Whoever wants it otherwise says so.
        world.plan.published[0].bypass = true;
        world.firewall.apply(&world.plan).unwrap();
        within(&outside, || assert_eq!(tcp(HOST6, 8080).as_deref(), Some(OUTSIDE6)));
    });
}

/// A client that never stops sending keeps its flow alive.
#[test]
fn datagrams_follow_their_port_to_another_container() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        let (b, b_at) = world.container(&net, "b");
        for netns in [&a, &b] {
            serve_udp(netns, 53);
        }
        world.publish(None, 5353, at, 53, Protocol::Udp);
        world.publish(None, 5354, b_at, 53, Protocol::Udp);
        let client = |port: u16| {
            within(&outside, || {
                let socket = UdpSocket::bind((OUTSIDE4, 0)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect((HOST4, port)).unwrap();
                socket
            })
        };
        let says = |socket: &UdpSocket| {
            let mut bytes = [0; 64];
            socket.send(b"x").is_ok() && socket.recv(&mut bytes).is_ok()
        };
        let (moved, stays) = (client(5353), client(5354));
        assert!(says(&moved) && says(&stays));
        let tracked = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        let of = |lease: Lease| tracked().matches(&format!("src={} ", lease.v4)).count();
        assert_eq!((of(at), of(b_at)), (1, 1), "{}", tracked());
        world.plan.published[0].to = b_at;
        assert!(world.firewall.apply(&world.plan).unwrap());
        forget_flows(&world.plan);
        assert!(says(&moved) && says(&stays));
        assert_eq!((of(at), of(b_at)), (0, 2), "{}", tracked());
        // Nobody goes on to who has the address, when the port is closed.
        world.plan.published.clear();
        assert!(world.firewall.apply(&world.plan).unwrap());
        forget_flows(&world.plan);
        assert_eq!(of(b_at), 0, "{}", tracked());
    });
}

/// Who asks before a port is published, and goes on asking, is let through once it is.
#[test]
fn who_comes_too_early_is_served_all_the_same() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        serve_tcp(&a, 80);
        serve_udp(&a, 53);
        // So that the kernel translates something already.
        world.publish(None, 9999, at, 80, Protocol::Tcp);
        let claims = [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| super::super::ports::claim(None, 8080, protocol).unwrap());
        std::thread::scope(|scope| {
            let early = scope.spawn(|| {
                within(&outside, || {
                    let to = SocketAddr::new(ip(HOST4), 8080);
                    let mut stream = TcpStream::connect_timeout(&to, 10 * PATIENCE).ok()?;
                    read_line(&mut stream)
                })
            });
            let sender = scope.spawn(|| {
                within(&outside, || {
                    let socket = UdpSocket::bind((OUTSIDE4, 0)).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    socket.connect((HOST4, 8080)).unwrap();
                    let mut bytes = [0; 64];
                    (0..50).any(|_| socket.send(b"x").is_ok() && socket.recv(&mut bytes).is_ok())
                })
            });
            std::thread::sleep(Duration::from_millis(300));
            world.publish(None, 8080, at, 80, Protocol::Tcp);
            world.publish(None, 8080, at, 53, Protocol::Udp);
            assert_eq!(early.join().unwrap().as_deref(), Some(OUTSIDE4));
            assert!(sender.join().unwrap());
        });
        drop(claims);
    });
}

/// As firewalld does for IPv6, and others for both families.
#[test]
fn a_firewall_that_checks_sources_lets_published_ports_in() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        serve_tcp(&a, 80);
        world.publish(None, 8080, at, 80, Protocol::Tcp);
        nft("table inet strict {\n chain check {\n type filter hook prerouting priority 10;\n \
             fib saddr . mark . iif oif missing drop\n }\n}\n");
        within(&outside, || {
            assert_eq!(tcp(HOST4, 8080).as_deref(), Some(OUTSIDE4));
            assert_eq!(tcp(HOST6, 8080).as_deref(), Some(OUTSIDE6));
        });
        // Once more is no other; in the end nothing of it is left.
        let rules = || {
            let mut all = Vec::new();
            for family in ["-4", "-6"] {
                let said =
                    std::process::Command::new("ip").args([family, "rule"]).output().unwrap();
                all.extend(said.stdout);
            }
            String::from_utf8(all).unwrap()
        };
        let mark = format!("{:#x}", world.plan.instance.admission_mark());
        world.host.ensure_admission().unwrap();
        assert_eq!(rules().matches(&format!("fwmark {mark}")).count(), 2, "{}", rules());
        world.host.remove_admission().unwrap();
        world.host.remove_admission().unwrap();
        assert!(!rules().contains(&mark), "{}", rules());
    });
}

#[test]
fn what_is_in_the_way_of_containers_is_told_until_somebody_thought_of_them() {
    on_a_host(|| {
        let mut world = World::new();
        let _net = world.network("back", 1);
        let instance = world.plan.instance.clone();
        assert!(others::in_the_way(&instance).unwrap().is_empty());
        nft("table ip filter {\n chain DOCKER-USER {\n }\n chain FORWARD {\n \
             type filter hook forward priority 0; policy drop;\n jump DOCKER-USER\n }\n}\n");
        let said = others::in_the_way(&instance).unwrap();
        let bridges = instance.bridges();
        let command = format!("iptables -I DOCKER-USER -i {bridges}+ -j ACCEPT");
        assert!(said.len() == 1 && said.first().unwrap().contains(&command), "{said:?}");
        nft(&format!("insert rule ip filter DOCKER-USER iifname \"{bridges}*\" accept\n"));
        assert!(others::in_the_way(&instance).unwrap().is_empty());
    });
}

#[test]
fn networks_are_apart_and_the_hosts_loopback_is_its_own() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let other = world.network("front", 2);
        let mut secret = NetworkSpec::bridge("secret", "10.70.3.0/24".parse().unwrap(), None);
        secret.internal = true;
        let secret = world.add(secret);
        let mut lonely = NetworkSpec::bridge("lonely", "10.70.4.0/24".parse().unwrap(), None);
        lonely.isolated = true;
        let lonely = world.add(lonely);
        let (a, at) = world.container(&net, "a");
        let (c, _) = world.container(&other, "c");
        let (s, _) = world.container(&secret, "s");
        let (x, x_at) = world.container(&lonely, "x");
        let (y, _) = world.container(&lonely, "y");
        for netns in [&a, &x, &outside] {
            serve_tcp(netns, 80);
        }
        let local = TcpListener::bind("127.0.0.1:7777").unwrap();
        // To the outside with the host's address, but not from an internal network.
        within(&c, || {
            assert_eq!(tcp(OUTSIDE4, 80).as_deref(), Some(HOST4));
            assert_eq!(tcp(OUTSIDE6, 80).as_deref(), Some(HOST6));
            assert_eq!(tcp(&at.v4.to_string(), 80), None);
            assert_eq!(tcp(&at.v6.unwrap().to_string(), 80), None);
        });
        within(&s, || {
            let mut links = Links::open().unwrap();
            links.add_default_route("eth0", secret.gateway.into()).unwrap();
            assert_eq!(tcp(OUTSIDE4, 80), None);
            assert_eq!(tcp(&at.v4.to_string(), 80), None);
        });
        within(&y, || {
            assert_eq!(tcp(&x_at.v4.to_string(), 80), None);
            assert_eq!(tcp(OUTSIDE4, 80).as_deref(), Some(HOST4));
        });
        // From the outside to a container's own address.
        within(&outside, || {
            let mut links = Links::open().unwrap();
            links.add_default_route("eth0", ip(HOST4)).unwrap();
            assert_eq!(tcp(&at.v4.to_string(), 80), None);
        });
        // A container that sends 127.0.0.1 over its bridge to the host.
        let reach =
            || TcpStream::connect_timeout(&"127.0.0.1:7777".parse().unwrap(), PATIENCE).is_ok();
        within(&a, || {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            ip_command(&["address", "del", "127.0.0.1/8", "dev", "lo"]);
            ip_command(&["route", "add", "127.0.0.0/8", "via", "10.70.1.1"]);
            assert!(!reach());
        });
        // It is our rule that stops it.
        world.firewall.remove(&world.plan.instance).unwrap();
        assert!(within(&a, reach));
        drop(local);
    });
}

#[test]
fn spoofed_sources_are_dropped() {
    on_a_host(|| {
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        let (b, b_at) = world.container(&net, "b");
        serve_udp(&a, 53);
        within(&b, || {
            let mut links = Links::open().unwrap();
            // Another address than the leased one.
            links.add_address("eth0", ip("10.70.1.200"), 24).unwrap();
            links.add_address("eth0", ip("fd70:1::200"), 64).unwrap();
            let from = |address: &str, to: &str| {
                let socket = UdpSocket::bind((ip(address), 0)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect((ip(to), 53)).unwrap();
                socket.send(b"x").unwrap();
                let mut bytes = [0; 64];
                socket.recv(&mut bytes).is_ok()
            };
            let (v4, v6) = (at.v4.to_string(), at.v6.unwrap().to_string());
            assert!(from(&b_at.v4.to_string(), &v4));
            assert!(!from("10.70.1.200", &v4));
            assert!(from(&b_at.v6.unwrap().to_string(), &v6));
            assert!(!from("fd70:1::200", &v6));
            // Another hardware address.
            links.set_mac("eth0", "02:00:00:00:00:99".parse().unwrap()).unwrap();
            assert!(!from(&b_at.v4.to_string(), &v4));
            links.set_mac("eth0", b_at.mac).unwrap();
            assert!(from(&b_at.v4.to_string(), &v4));
        });
    });
}

#[test]
fn a_flush_passes_owned_tables_by_and_others_are_put_back() {
    on_a_host(|| {
        let outside = outside();
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        serve_tcp(&a, 80);
        world.publish(None, 8080, at, 80, Protocol::Tcp);
        assert!(world.firewall.is_owner());
        nft("flush ruleset\n");
        within(&outside, || assert!(tcp(HOST4, 8080).is_some()));
        // A new engine takes the tables over.
        let plan = world.plan.clone();
        world.firewall = Firewall::open().unwrap();
        within(&outside, || assert!(tcp(HOST4, 8080).is_some()));
        world.firewall.apply(&plan).unwrap();
        assert!(world.firewall.is_owner());
        world.firewall.remove(&plan.instance).unwrap();

        // As on a kernel that knows no owners.
        world.firewall = Firewall::open().unwrap();
        world.firewall.disown();
        world.firewall.apply(&plan).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watcher =
                super::super::firewall::watch::Watcher::open(&plan.instance, &world.firewall);
            let mut watcher = watcher.unwrap();
            let mut long = within(&outside, || {
                TcpStream::connect_timeout(&SocketAddr::new(ip(HOST4), 8080), PATIENCE).unwrap()
            });
            assert_eq!(read_line(&mut long).as_deref(), Some(OUTSIDE4));
            let began = std::time::Instant::now();
            nft("flush ruleset\n");
            assert_eq!(watcher.heard().await.unwrap(), Heard::Removed);
            world.firewall.restore().unwrap();
            assert!(began.elapsed() < Duration::from_secs(1));
            long.write_all(b"still here\n").unwrap();
            assert_eq!(read_line(&mut long).as_deref(), Some("still here"));
            within(&outside, || assert!(tcp(HOST4, 8080).is_some()));
            // Its own changes are not news.
            world.firewall.restore().unwrap();
            let quiet = tokio::time::timeout(Duration::from_millis(100), watcher.heard()).await;
            assert!(quiet.is_err());
            nft("add table inet theirs\nadd chain inet theirs forward\n");
            assert_eq!(watcher.heard().await.unwrap(), Heard::Others);
        });
    });
}

#[test]
fn one_port_more_beside_a_thousand_is_one_element() {
    on_a_host(|| {
        let mut world = World::new();
        let net = world.network("back", 1);
        let (_a, at) = world.container(&net, "a");
        for port in 10_000..11_000 {
            world.plan.published.push(Published {
                host: None,
                port,
                protocol: Protocol::Tcp,
                to: at,
                to_port: 80,
                bypass: false,
            });
        }
        let began = std::time::Instant::now();
        world.firewall.apply(&world.plan).unwrap();
        let all = began.elapsed();
        let began = std::time::Instant::now();
        world.publish(None, 9999, at, 80, Protocol::Tcp);
        println!("1,000 ports: {all:?}; one more: {:?}", began.elapsed());
        let began = std::time::Instant::now();
        world.firewall.restore().unwrap();
        println!("the whole ruleset again: {:?}", began.elapsed());
    });
}
