use super::*;

#[test]
fn containers_of_a_network_reach_each_other_and_are_counted() {
    on_a_host(|| {
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        let (b, _) = world.container(&net, "b");
        serve_tcp(&a, 80);
        serve_udp(&a, 53);
        let b_seen = world.leases.of("b").unwrap().v4.to_string();
        let v6 = at.v6.unwrap().to_string();
        within(&b, || {
            assert_eq!(tcp(&at.v4.to_string(), 80), Some(b_seen.clone()));
            assert!(tcp(&v6, 80).unwrap().starts_with("fd70:1::"));
            assert_eq!(udp(&at.v4.to_string(), 53), Some(b_seen.clone()));
            assert!(udp(&v6, 53).is_some());
        });
        // The host reaches it too.
        assert_eq!(tcp(&at.v4.to_string(), 80).as_deref(), Some("10.70.1.1"));
        let traffic = crate::network::host::traffic(b.as_fd()).unwrap();
        assert_eq!(traffic.len(), 1);
        assert_eq!(traffic[0].0, "eth0");
        assert!(traffic[0].1.rx_packets > 4 && traffic[0].1.tx_bytes > 200, "{traffic:?}");
    });
}

#[test]
fn several_networks_fixed_mtu_and_macvlan() {
    on_a_host(|| {
        let mut world = World::new();
        let one = world.network("one", 1);
        let mut two = NetworkSpec::bridge("two", "10.70.2.0/24".parse().unwrap(), None);
        two.mtu = Some(1400);
        let two = world.add(two);
        let (netns, _) = world.container(&one, "a");
        let lease = Leases::default()
            .lease(world.host.instance(), &two, "a", Wish::default(), &BTreeSet::new())
            .unwrap();
        let second = Endpoint {
            container: "a",
            interface: "eth1",
            lease,
            link_local: &[],
            is_default_route: false,
        };
        world.host.attach(&two, &second, netns.as_fd()).unwrap();
        let _outside = outside();
        let mut lan = NetworkSpec::bridge("lan", "192.0.2.0/24".parse().unwrap(), None);
        lan.driver = crate::network::spec::Driver::Macvlan;
        lan.parent = Some("uplink".into());
        world.host.ensure(&lan).unwrap();
        let lease = Lease { v4: "192.0.2.50".parse().unwrap(), v6: None, mac: lease.mac };
        let third = Endpoint {
            container: "a",
            interface: "eth2",
            lease,
            link_local: &[],
            is_default_route: false,
        };
        world.host.attach(&lan, &third, netns.as_fd()).unwrap();
        within(&netns, || {
            let mut links = Links::open().unwrap();
            let mut names: Vec<String> =
                links.all().unwrap().into_iter().map(|link| link.name).collect();
            names.sort();
            assert_eq!(names, ["eth0", "eth1", "eth2", "lo"]);
            let eth1 = links.find("eth1").unwrap().unwrap();
            assert_eq!(eth1.mac, Some(lease.mac));
            assert!(links.addresses("eth2").unwrap().contains(&ip("192.0.2.50")));
        });
    });
}

#[test]
fn a_subnet_that_the_host_has_is_refused_with_its_owner() {
    on_a_host(|| {
        let _outside = outside();
        let mut host = Host::open(Instance::of_root("/test")).unwrap();
        let spec = NetworkSpec::bridge("back", "192.0.2.0/25".parse().unwrap(), None);
        let error = host.check(&spec).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1/24 of uplink"), "{error}");
    });
}

#[test]
fn a_deleted_bridge_is_repaired_under_its_containers() {
    on_a_host(|| {
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, at) = world.container(&net, "a");
        serve_tcp(&a, 80);
        let bridge = world.host.instance().bridge("back");
        world.host.links().remove(&bridge).unwrap();
        assert!(!world.host.is_whole(&net).unwrap());
        world.host.ensure(&net).unwrap();
        world.host.reattach(&net, "a").unwrap();
        assert!(world.host.is_whole(&net).unwrap());
        assert!(tcp(&at.v4.to_string(), 80).is_some());
    });
}

#[test]
fn nothing_leaks_over_many_rounds_that_end_anywhere() {
    on_a_host(|| {
        let instance = Instance::of_root("/test");
        let mut before = Links::open().unwrap().all().unwrap().len();
        // Another Berth's interface, which no sweep may take.
        let mut other = Host::open(Instance::of_root("/other")).unwrap();
        let spec = NetworkSpec::bridge("x", "10.71.0.0/24".parse().unwrap(), None);
        other.ensure(&spec).unwrap();
        before += 1;
        let net = NetworkSpec::bridge("back", "10.70.1.0/24".parse().unwrap(), None);
        for round in 0..100u32 {
            // An engine that ends after a step: its sockets close, no tear-down runs.
            let netns = container_netns();
            let mut host = Host::open(instance.clone()).unwrap();
            let steps = round % 5;
            if steps > 0 {
                host.ensure(&net).unwrap();
            }
            for step in 1..steps {
                let lease = Lease {
                    v4: std::net::Ipv4Addr::new(10, 70, 1, 10 + step as u8),
                    v6: None,
                    mac: format!("02:00:00:00:01:{step:02x}").parse().unwrap(),
                };
                let (name, interface) = (format!("c{step}"), format!("eth{step}"));
                let endpoint = Endpoint {
                    container: &name,
                    interface: &interface,
                    lease,
                    link_local: &[],
                    is_default_route: false,
                };
                host.attach(&net, &endpoint, netns.as_fd()).unwrap();
            }
            drop(host);
            let mut next = Host::open(instance.clone()).unwrap();
            // The next engine knows one of the containers.
            let known = [("c1", "back")];
            let swept = next.sweep(["back"], known).unwrap();
            assert_eq!(swept.len() as u32, steps.saturating_sub(2), "round {round}");
            next.sweep([], []).unwrap();
            assert_eq!(Links::open().unwrap().all().unwrap().len(), before, "round {round}");
        }
    });
}
