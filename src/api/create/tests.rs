use serde_json::json;

use super::*;
use crate::manifest::model::{Cpus, Mount, MountKind, Publish, Userns};

fn made(value: Value) -> Result<Made, String> {
    let mut count = 0;
    let mut volume = || {
        count += 1;
        format!("anonymous{count}")
    };
    let container = |which: &str| {
        matches!(which, "db" | "d0").then(|| {
            let data = volume_mount("data", "/data");
            ("db".to_owned(), Container { mounts: vec![data], ..Container::default() })
        })
    };
    let image = |_: &str| Process {
        env: vec!["PATH=/bin".to_owned(), "LANG=C".to_owned()],
        exposed_ports: vec!["5432/tcp".to_owned()],
        ..Default::default()
    };
    let mut around = Surroundings {
        name: "web",
        image: &image,
        container: &container,
        network: &|which| match which {
            "back" => Some(which.to_owned()),
            "bridge" => Some("default".to_owned()),
            _ => None,
        },
        address: &|which| (which == "db").then(|| "10.0.0.7".parse().unwrap()),
        processors: 2,
        volume: &mut volume,
    };
    manifest(parse(value)?, &mut around)
}

fn volume_mount(source: &str, target: &str) -> Mount {
    super::volume(Some(source), target)
}

#[test]
fn what_the_docker_command_sends_becomes_a_manifest() {
    let made = made(json!({
        "Hostname": "", "Tty": true, "OpenStdin": true, "StdinOnce": true,
        "Env": ["A=1", "B=x=y"], "Cmd": ["sh", "-c", "true"], "Image": "/",
        "Volumes": {"/var/lib": {}}, "WorkingDir": "/tmp", "Entrypoint": null,
        "Labels": {"team": "shop"}, "StopSignal": "SIGINT", "StopTimeout": 3,
        "HostConfig": {
            "Binds": ["/srv:/srv:ro", "data:/data"], "NetworkMode": "default",
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4},
            "ConsoleSize": [0, 0], "Memory": 67108864, "MemorySwap": 134217728,
            "NanoCpus": 1500000000, "PidsLimit": 50, "CpuShares": 512,
            "Tmpfs": {"/run": "size=64m,mode=1770"}, "Isolation": "", "CgroupnsMode": "",
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": -1}],
            "LogConfig": {"Type": "", "Config": {}}, "ShmSize": 0,
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}],
                             "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}]},
        },
        "NetworkingConfig": {"EndpointsConfig": {}},
    }))
    .unwrap();
    let Made { container, warnings } = made;
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(container.rootfs.as_deref(), Some(std::path::Path::new("/")));
    assert!(container.tty && container.stdin && container.stdin_once);
    assert_eq!(container.env["B"], "x=y");
    assert_eq!(container.entrypoint, None);
    assert_eq!(container.restart.policy, RestartPolicy::OnFailure { max: Some(4) });
    assert_eq!(container.resources.swap, Some(Size(64 << 20)));
    assert_eq!(container.resources.cpus, Some(Cpus { milli: 1500 }));
    assert_eq!(container.resources.cpu_weight, Some(50));
    let published: Vec<String> =
        container.network.publish.iter().map(|one| one.mapping.to_string()).collect();
    assert_eq!(published, ["127.0.0.1:5353:53/udp", "8080:80"]);
    assert!(!container.security.no_new_privileges);
    assert_eq!(container.rlimits["nofile"], Rlimit { soft: 10, hard: u64::MAX });
    let kinds: Vec<_> =
        container.mounts.iter().map(|m| (m.target.to_str().unwrap(), m.kind())).collect();
    assert_eq!(
        kinds,
        [
            ("/var/lib", MountKind::Volume),
            ("/srv", MountKind::Bind),
            ("/data", MountKind::Volume),
            ("/run", MountKind::Tmpfs)
        ]
    );
    assert_eq!(container.mounts[0].source.as_deref(), Some("anonymous1"));
    assert!(container.mounts[1].read_only);
    assert_eq!(container.mounts[3].size, Some(Size(64 << 20)));
    let alone = Container { network: Default::default(), ..container };
    assert_eq!(crate::manifest::objections(&alone), Vec::<String>::new());
}

#[test]
fn what_can_t_be_is_said_in_docker_s_words() {
    let host = |host: Value| made(json!({"Image": "/", "Cmd": ["x"], "HostConfig": host}));
    let error = |value: Value| host(value).unwrap_err();
    assert!(made(json!({"Cmd": ["x"]})).unwrap_err().contains("image"));
    assert!(error(json!({"Memory": 1})).contains("6MB"));
    assert!(error(json!({"Memory": 8 << 20, "MemorySwap": 7 << 20})).contains("memoryswap"));
    assert!(error(json!({"NanoCpus": 1, "CpuQuota": 1000})).contains("Conflicting"));
    let gpu = error(json!({"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu", "x"]]}]}));
    assert!(gpu.starts_with("could not select device driver \"\" with capabilities: [[gpu x]]"));
    assert!(error(json!({"Binds": ["./x:/y"]})).contains("absolute"));
    assert!(error(json!({"Binds": ["a:b:c:d"]})).contains("invalid volume"));
    assert!(error(json!({"Binds": ["x:y"]})).contains("must be absolute"));
    assert!(error(json!({"NetworkMode": "container:nobody"})).contains("No such container"));
    assert!(error(json!({"NetworkMode": "a/b"})).contains("not a network's name"));
    let later = host(json!({"NetworkMode": "shop"})).unwrap().container;
    assert_eq!(later.network.members()[0].name, "shop");
    let endpoint = |settings: Value| {
        let config = json!({"EndpointsConfig": {"bridge": settings}});
        made(json!({"Image": "x", "NetworkingConfig": config}))
    };
    let refused = endpoint(json!({"DriverOpts": {"com.docker.network.endpoint.ifname": "a/b"}}));
    assert!(refused.unwrap_err().contains("can't be the name of an interface"));
    let kept = endpoint(json!({"DriverOpts": {"a": "b"}, "GwPriority": 5})).unwrap().container;
    let member = &kept.network.networks[0];
    assert_eq!((member.priority, member.options["a"].as_str()), (5, "b"));
    // What clients send of what they once were told means nothing.
    let echoed = json!({"IPAMConfig": {"IPv6Address": "", "LinkLocalIPs": null}, "Links": null,
                        "DriverOpts": {}, "GwPriority": 0, "GlobalIPv6Address": "fd00::9"});
    endpoint(echoed).unwrap();
    assert!(
        error(json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}))
            .contains("AutoRemove")
    );
    assert!(
        error(json!({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}))
            .contains("on-failure")
    );
    assert!(error(json!({"Isolation": "hyperv"})).contains("invalid isolation"));
    assert!(error(json!({"Runtime": "nvidia"})).contains("unknown or invalid runtime"));
    assert!(error(json!({"CapAdd": ["FLY"]})).contains("unknown capability: \"CAP_FLY\""));
    assert!(error(json!({"BlkioWeight": 5})).contains("from 10 to 1000"));
    assert!(
        error(json!({"Memory": 8 << 20, "MemoryReservation": 9 << 20})).contains("reservation")
    );
    assert!(error(json!({"CpuPeriod": 1})).contains("CPU cfs period"));
    let silent = json!({"OomKillDisable": true, "CgroupParent": "/x", "MemorySwappiness": 10});
    assert_eq!(host(silent).unwrap().warnings.len(), 3);
    assert!(made(json!([])).is_err());
    assert!(made(json!({"Image": 3})).is_err());
}

#[test]
fn volumes_of_others_come_along_and_later_mounts_replace() {
    let made = made(json!({
        "Image": "/", "Cmd": "sleep", "Entrypoint": [""],
        "HostConfig": {
            "VolumesFrom": ["db:ro"], "Binds": ["other:/data"], "Privileged": true,
            "Mounts": [{"Type": "tmpfs", "Target": "/t",
                        "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}}],
        },
    }))
    .unwrap();
    let container = made.container;
    assert_eq!(container.command, ["sleep"]);
    assert_eq!(container.entrypoint, Some(Vec::new()));
    assert_eq!(container.mounts.len(), 2);
    assert_eq!(container.mounts[0].source.as_deref(), Some("other"));
    assert_eq!(container.mounts[1].mode.as_deref(), Some("0700"));
    assert_eq!(container.security.userns, Userns::Host);
    assert_eq!(made.warnings.len(), 1);
}

#[test]
fn sizes_are_docker_s() {
    for (text, size) in
        [("64m", 64 << 20), ("1.5g", 3 << 29), ("10", 10), ("2KB", 2048), ("1MiB", 1 << 20)]
    {
        assert_eq!(docker_size(text), Ok(Size(size)), "{text}");
    }
    assert!(docker_size("x").is_err() && docker_size("1q").is_err() && docker_size("").is_err());
}

#[test]
fn a_part_of_a_volume_is_not_taken_for_the_whole() {
    let asked = json!({"Image": "/", "HostConfig": {"Mounts": [{
        "Type": "volume", "Source": "data", "Target": "/mnt",
        "VolumeOptions": {"Subpath": "inner"},
    }]}});
    let mount = made(asked.clone()).unwrap().container.mounts.remove(0);
    assert_eq!(mount.subpath.as_deref(), Some(std::path::Path::new("inner")));
    for bad in ["../x", "/x", "a/../../b"] {
        let mut asked = asked.clone();
        asked["HostConfig"]["Mounts"][0]["VolumeOptions"]["Subpath"] = json!(bad);
        assert!(made(asked).unwrap_err().contains("relative path within"), "{bad}");
    }
}

#[test]
fn a_hardware_address_of_the_container_is_that_of_its_first_network() {
    let said = json!({"MacAddress": "02:42:ac:11:00:0a"});
    let mut container = Container::default();
    endpoints::hardware_address(&said, &mut container).unwrap();
    assert_eq!(container.network.members()[0].mac.unwrap().0.to_string(), "02:42:ac:11:00:0a");
    let mut container = Container::default();
    container.network.mode = Some("host".parse().unwrap());
    endpoints::hardware_address(&said, &mut container).unwrap();
    assert_eq!(container.network.mac, None);
    assert!(
        endpoints::hardware_address(&json!({"MacAddress": "x"}), &mut Container::default())
            .is_err()
    );
}

#[test]
fn links_are_names_that_only_this_container_knows() {
    let linked = |links: Value, mode: &str| {
        made(json!({"Image": "x", "HostConfig": {"Links": links, "NetworkMode": mode}}))
    };
    let hosts = |made: &Made| {
        let all = made.container.network.extra_hosts.iter();
        all.map(|one| (one.name.clone(), one.address)).collect::<Vec<_>>()
    };
    let address = Some("10.0.0.7".parse().unwrap());
    for link in ["db:database", "/db:/web/database"] {
        let made = linked(json!([link]), "default").unwrap();
        assert_eq!(hosts(&made), [("database".to_owned(), address)], "{link}");
        assert_eq!(made.warnings, Vec::<String>::new());
    }
    // The resolver knows it by its name.
    assert_eq!(hosts(&linked(json!(["db", "db:db"]), "default").unwrap()), []);
    assert!(linked(json!(["nobody:x"]), "default").unwrap_err().contains("No such container"));
    // On a network it may come later, as with Docker, and is what the resolver says then.
    let config = json!({"EndpointsConfig": {"back": {"Links": ["nobody:x", "db"]}}});
    let asked = json!({"Image": "x", "HostConfig": {"NetworkMode": "back"},
                       "NetworkingConfig": config});
    let later = made(asked).unwrap();
    let links: Vec<String> =
        later.container.network.networks[0].link.iter().map(ToString::to_string).collect();
    assert_eq!((links, hosts(&later)), (vec!["nobody:x".to_owned(), "db:db".to_owned()], vec![]));
    assert!(later.warnings.is_empty() && later.container.env.is_empty());
    let alone = linked(json!(["/db:/web/x"]), "back").unwrap().container;
    assert_eq!(alone.network.networks[0].link[0].to_string(), "db:x");
    let short = linked(json!(["d0:x"]), "back").unwrap().container;
    assert_eq!(short.network.networks[0].link[0].to_string(), "db:x", "by an id's beginning");
    let wrong = json!({"EndpointsConfig": {"back": {"Links": ["a:b:c"]}}});
    assert!(made(json!({"Image": "x", "NetworkingConfig": wrong})).unwrap_err().contains("link"));
    assert_eq!(hosts(&linked(json!(["db:x"]), "none").unwrap()), []);
}

#[test]
fn a_link_goes_by_its_name() {
    let asked = json!({"Image": "x", "HostConfig": {"Links": ["db:a", "/db:/web/b"]}});
    let mut container = made(asked.clone()).unwrap().container;
    container.docker = remembered(&asked, &container);
    assert_eq!(without_link(&container, "db"), None);
    let one = without_link(&container, "b").unwrap();
    let hosts: Vec<_> = one.network.extra_hosts.iter().map(|extra| &extra.name).collect();
    assert_eq!(hosts, ["a"]);
    assert_eq!(one.docker["HostConfig.Links"], "[\"db:a\"]");
    assert_eq!(without_link(&one, "b"), None);
}

#[test]
fn links_of_the_default_network_tell_of_the_other_in_the_environment() {
    let asked = json!({"Image": "x", "Env": ["DB_ENV_LANG=own"],
                       "HostConfig": {"Links": ["db"]}});
    let env = made(asked).unwrap().container.env;
    let wanted = [
        ("DB_NAME", "/web/db"),
        ("DB_PORT", "tcp://10.0.0.7:5432"),
        ("DB_PORT_5432_TCP", "tcp://10.0.0.7:5432"),
        ("DB_PORT_5432_TCP_ADDR", "10.0.0.7"),
        ("DB_PORT_5432_TCP_PORT", "5432"),
        ("DB_PORT_5432_TCP_PROTO", "tcp"),
        ("DB_ENV_LANG", "own"),
    ];
    let wanted = wanted.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(env, wanted.into_iter().collect());
}

#[test]
fn limits_of_old_clients_count() {
    let mut asked = json!({"Image": "x", "CpuShares": 50, "Memory": 0, "Cpuset": "0",
                           "HostConfig": {"CpusetCpus": "1"}});
    to_their_place(&mut asked);
    assert_eq!(asked["HostConfig"], json!({"CpusetCpus": "1", "CpuShares": 50}));
    let mut alone = json!({"Memory": 7, "HostConfig": null});
    to_their_place(&mut alone);
    assert_eq!(alone["HostConfig"], json!({"Memory": 7}));
    let mut other = json!("text");
    to_their_place(&mut other);
    assert_eq!(other, "text");
}

#[test]
fn a_runtime_is_told_as_it_was_called_and_another_one_is_refused() {
    for asked in [
        json!({"Image": "x", "Runtime": "runc"}),
        json!({"Image": "x", "HostConfig": {"Runtime": "runc"}}),
    ] {
        let container = made(asked.clone()).unwrap().container;
        assert_eq!(remembered(&asked, &container)["HostConfig.Runtime"], "\"runc\"");
    }
    let other = made(json!({"Image": "x", "HostConfig": {"Runtime": "kata"}})).unwrap_err();
    assert_eq!(other, "unknown or invalid runtime name: kata");
}

#[test]
fn ports_on_all_addresses_are_told_as_they_were_asked_for() {
    let bindings = json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8081"}]});
    let asked = json!({"Image": "/", "HostConfig": {"PortBindings": bindings}});
    let mut container = made(asked.clone()).unwrap().container;
    container.docker = remembered(&asked, &container);
    let told = |container: &Container| {
        let mut host = super::super::inspect::host_config(container);
        tell(container, &mut json!({}), &mut host);
        host["PortBindings"].clone()
    };
    assert_eq!(told(&container), bindings);
    // What is published now is not what was asked for then.
    container.network.publish.clear();
    container.network.publish.push(Publish::of("9090:90".parse().unwrap()));
    assert_eq!(told(&container), json!({"90/tcp": [{"HostIp": "", "HostPort": "9090"}]}));
}

#[test]
fn a_quota_of_processor_time_is_told_in_its_own_words_alone() {
    let asked = json!({"Image": "/", "HostConfig": {"CpuQuota": 50_000, "CpuPeriod": 100_000}});
    let mut container = made(asked.clone()).unwrap().container;
    container.docker = remembered(&asked, &container);
    let mut host = super::super::inspect::host_config(&container);
    tell(&container, &mut json!({}), &mut host);
    assert_eq!([&host["CpuQuota"], &host["CpuPeriod"], &host["NanoCpus"]], [50_000, 100_000, 0]);
    // What it is told is what it can be made of again.
    made(json!({"Image": "/", "HostConfig": host})).unwrap();
}

#[test]
fn who_has_another_s_network_says_nothing_of_it() {
    let shared = |mut body: Value| {
        body["Image"] = json!("/");
        body["HostConfig"]["NetworkMode"] = json!("container:db");
        made(body)
    };
    shared(json!({"HostConfig": {}})).unwrap();
    for body in [
        json!({"Hostname": "x", "HostConfig": {}}),
        json!({"HostConfig": {"Dns": ["1.1.1.1"]}}),
        json!({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}}),
        json!({"ExposedPorts": {"80/tcp": {}}, "HostConfig": {}}),
    ] {
        assert!(shared(body.clone()).unwrap_err().starts_with("conflicting options"), "{body}");
    }
}

#[test]
fn docker_s_words_for_what_is_wrong() {
    let host = |host: Value| made(json!({"Image": "/", "HostConfig": host})).unwrap_err();
    assert_eq!(host(json!({"UTSMode": "x"})), "invalid UTS mode: x");
    assert_eq!(host(json!({"PidMode": "container"})), "invalid PID mode: container");
    assert!(host(json!({"IpcMode": "container:db"})).contains("non-shareable IPC"));
    assert!(host(json!({"PidMode": "container:nobody"})).contains("No such container"));
    let clash = json!({"Image": "/", "Hostname": "x", "HostConfig": {"UTSMode": "host"}});
    assert_eq!(made(clash).unwrap_err(), "conflicting options: hostname and the UTS mode");
    let volume = |options: Value| {
        let driver = json!({"DriverConfig": {"Options": options}});
        host(json!({"Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": driver}]}))
    };
    assert!(volume(json!({"foo": "1"})).ends_with("invalid option: \"foo\""));
    assert!(volume(json!({"type": "nfs"})).ends_with("missing required option: \"device\""));
    let of = |binds: &str| json!({"VolumeDriver": "nfs", "Binds": [binds]});
    assert!(host(of("data:/data")).contains("plugin \"nfs\" not found"));
    assert_eq!(made(json!({"Image": "/", "HostConfig": of("/srv:/data")})).err(), None);
    assert!(host(json!({"Tmpfs": {"/t": "foo=1"}})).contains("invalid tmpfs option"));
    assert!(host(json!({"RestartPolicy": {"Name": "often"}})).contains("unknown policy 'often'"));
    assert!(host(json!({"CpuShares": -1})).contains("positive integer"));
    assert!(host(json!({"Tmpfs": {"//": ""}})).contains("can't be '/'"));
    assert!(made(json!({})).unwrap_err().contains("config cannot be empty"));
    assert!(made(json!({"Image": "/", "Env": [""]})).unwrap_err().contains("environment"));
    let health = json!({"Image": "/", "Healthcheck": {"Test": ["CMD", "x"], "Interval": 999}});
    assert!(made(health).unwrap_err().contains("1ms"));
    let id = "0".repeat(64);
    let named = made(json!({"Image": id, "WorkingDir": "/tmp/"})).unwrap().container;
    assert_eq!(named.image, Some(format!("sha256:{id}")));
    assert_eq!(named.workdir.unwrap().as_os_str(), "/tmp");
}

#[test]
fn namespaces_options_and_images_become_keys_and_are_told_again() {
    let said = json!({"Image": "x", "HostConfig": {
        "PidMode": "container:db", "UTSMode": "host", "IpcMode": "none", "CgroupnsMode": "host",
        "Tmpfs": {"/t": "exec,size=1m,uid=5"},
        "Mounts": [
            {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {
                "NoCopy": true,
                "DriverConfig": {"Name": "local",
                    "Options": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}}},
            {"Type": "image", "Source": "base:1", "Target": "/i", "ImageOptions": {"Subpath": "etc"}},
        ],
    }});
    let container = made(said.clone()).unwrap().container;
    assert_eq!(container.namespaces.pid.to_string(), "container:db");
    assert_eq!(container.namespaces.cgroup.to_string(), "host");
    let at = |target: &str| {
        container.mounts.iter().find(|mount| mount.target == std::path::Path::new(target)).unwrap()
    };
    assert_eq!((at("/v").options["o"].as_str(), at("/v").no_copy), ("size=1m", true));
    assert_eq!((at("/i").kind(), at("/i").subpath.clone()), (MountKind::Image, Some("etc".into())));
    assert_eq!(
        at("/t").options,
        [("exec", ""), ("uid", "5")].map(|(k, v)| (k.into(), v.into())).into()
    );
    assert_eq!(crate::manifest::objections(&container), Vec::<String>::new());
    let told = super::super::inspect::host_config(&container);
    for key in ["PidMode", "UTSMode", "IpcMode", "CgroupnsMode"] {
        assert_eq!(told[key], said["HostConfig"][key], "{key}");
    }
    let kept = remembered(&said, &container);
    assert!(kept.contains_key("HostConfig.Mounts"), "{kept:?}");
}

#[test]
fn a_health_check_without_a_test_changes_that_of_the_image() {
    let image = crate::image::config::Healthcheck {
        test: vec!["CMD".to_owned(), "probe".to_owned()],
        interval: 7_000_000_000,
        retries: 5,
        ..Default::default()
    };
    let said = |said: Value| {
        let said: HealthConfig = serde_json::from_value(said).unwrap();
        health_of_image(Some(&said), Some(&image)).unwrap()
    };
    let merged = said(json!({"Interval": 2_000_000_000_i64})).unwrap();
    assert_eq!(merged.exec, Some(vec!["probe".to_owned()]));
    assert_eq!((merged.interval, merged.retries), (Duration::from_secs(2), 5));
    assert_eq!(said(json!({"Test": ["NONE"]})), None);
    let bad = crate::image::config::Healthcheck { test: vec!["DO".into()], ..image.clone() };
    let times = HealthConfig { interval: Some(2_000_000), ..Default::default() };
    let why = health_of_image(Some(&times), Some(&bad)).unwrap_err();
    assert!(why.starts_with("the image's HEALTHCHECK") && why.contains("\"DO\""), "{why}");
    assert_eq!(health_of_image(None, Some(&image)).unwrap(), None);
}

/// What Docker's daemon refuses is refused in its words, whatever it could be made of.
#[test]
fn what_is_said_twice_or_of_another_kind_is_refused() {
    let host = |host: Value| {
        let body = parse(json!({"Image": "x", "HostConfig": host}));
        body.and_then(|body| {
            let mut volume = || "v".repeat(64);
            let container = |name: &str| Some((name.to_owned(), Container::default()));
            let mut surroundings = Surroundings {
                name: "web",
                image: &|_| Default::default(),
                address: &|_| None,
                container: &container,
                network: &|_| None,
                processors: 2,
                volume: &mut volume,
            };
            manifest(body, &mut surroundings)
        })
    };
    for (asked, why) in [
        (json!({"Binds": ["/tmp:/z", "/etc:/z/"]}), "Duplicate mount point: /z"),
        (
            json!({"Binds": ["/tmp:/z"], "Mounts": [{"Type": "volume", "Target": "/z"}]}),
            "Duplicate mount point: /z",
        ),
        (json!({"Binds": ["/tmp:/z"], "Tmpfs": {"/z": ""}}), "Duplicate mount point: /z"),
        (
            json!({"Mounts": [{"Type": "volume", "Target": "/z", "BindOptions": {}}]}),
            "BindOptions must not be specified on mount type \"volume\"",
        ),
        (
            json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/z",
                               "TmpfsOptions": {"Mode": 7}}]}),
            "TmpfsOptions must not be specified on mount type \"bind\"",
        ),
        (
            json!({"Mounts": [{"Type": "other", "Target": "/z"}]}),
            "invalid mount config for type \"other\": mount type unknown",
        ),
        (
            json!({"Mounts": [{"Type": "tmpfs"}]}),
            "invalid mount config for type \"tmpfs\": field Target must not be empty",
        ),
        (json!({"VolumesFrom": ["db:foo"]}), "invalid mode: foo"),
        (json!({"CgroupnsMode": "other"}), "invalid cgroup namespace mode: other"),
        (json!({"OomScoreAdj": 2000}), "Invalid value 2000, range for oom score adj is"),
        (json!({"ExtraHosts": ["x"]}), "bad format for add-host: \"x\""),
        (json!({"LogConfig": {"Type": "other"}}), "error looking up logging plugin other"),
    ] {
        let said = host(asked.clone()).unwrap_err();
        assert!(said.starts_with(why), "{asked}: {said}");
    }
    let fine = json!({"VolumesFrom": ["db:ro", "other:z"], "Binds": ["/tmp:/z"],
                      "Mounts": [{"Type": "tmpfs", "Target": "/y", "TmpfsOptions": {}}]});
    assert!(host(fine).is_ok());
}
