//! What a container sees and may do.

mod support;

use support::{Berth, shell};

/// `restart` must come before any table of the manifest.
fn once(script: &str, more: &str) -> String {
    format!("restart = \"no\"\n{}{more}", shell(script))
}

/// Runs a manifest to its end and gives what it printed.
fn run(berth: &Berth, name: &str, manifest: &str) -> String {
    berth.write(&format!("{name}.toml"), manifest);
    berth.wait(&format!("{name} to end"), || berth.status(name) == "exited");
    berth.logs(name)
}

#[test]
fn a_view_of_the_host_has_its_programs_and_not_its_secrets() {
    let berth = Berth::up_with(&[]);
    let script = "ls /root /home /var/lib /var/log /tmp /run /boot 2>/dev/null | grep -v : | grep -v ^$ | wc -l; \
                  cat /etc/shadow /etc/gshadow 2>/dev/null | wc -c; cat /etc/passwd | head -1 | cut -d: -f1; \
                  find /etc -not -perm -o+r -type f 2>/dev/null | wc -l";
    let text = run(&berth, "view", &once(script, ""));
    assert_eq!(text.lines().collect::<Vec<_>>(), ["0", "0", "root", "0"], "{text}");
}

#[test]
fn writes_never_reach_the_host() {
    let berth = Berth::up_with(&[]);
    let name = format!("berth-was-here-{}", std::process::id());
    let script = format!(
        "echo x > /etc/{name}; echo y > /tmp/{name}; mkdir -p /usr/local/{name}; cat /etc/{name}; \
         echo changed >> /etc/hostname && tail -1 /etc/hostname"
    );
    let text = run(&berth, "writer", &once(&script, ""));
    assert_eq!(text, "x\nchanged\n");
    for dir in ["/etc", "/tmp", "/usr/local"] {
        assert!(!std::path::Path::new(dir).join(&name).exists());
    }
}

#[test]
fn ids_inside_are_not_those_of_the_host() {
    let berth =
        Berth::up_with(&[("web.toml", &shell("id -u; cat /proc/self/uid_map; sleep 1000"))]);
    berth.wait_log("web", "65536");
    assert!(berth.logs("web").starts_with("0\n"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", berth.pid("web"))).unwrap();
    let uid: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap();
    assert!(uid >= 0x7000_0000, "{uid}");
}

/// Who shares with somebody that has it of the host has what the host has.
#[test]
fn what_is_shared_with_who_has_the_hosts_is_the_hosts() {
    let script = "test -d /proc/1 && test -w /dev/shm && echo up; sleep 1000";
    let of = |namespaces: &str| format!("{}\n[namespaces]\n{namespaces}", shell(script));
    let berth = Berth::up_with(&[
        ("a.toml", &of("pid = \"host\"\nipc = \"host\"\nuts = \"host\"\n")),
        ("b.toml", &of("pid = \"container:a\"\nipc = \"container:a\"\nuts = \"container:a\"\n")),
        ("c.toml", &of("pid = \"container:b\"\nuts = \"container:b\"\n")),
    ]);
    for name in ["a", "b", "c"] {
        berth.wait_log(name, "up");
        let link =
            |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let pid = berth.pid(name).to_string();
        for kind in ["pid", "uts"] {
            assert_eq!(link("self", kind), link(&pid, kind), "{name} {kind}");
        }
        assert_eq!(link("self", "ipc") == link(&pid, "ipc"), name != "c", "{name}");
        assert_ne!(link("self", "user"), link(&pid, "user"), "{name}");
    }
}

/// A manifest has the last word on what is at a place.
#[test]
fn what_is_shared_covers_nothing_of_the_manifest() {
    let mount = |target: &str| {
        format!("[[mount]]\ntarget = \"{target}\"\ntype = \"tmpfs\"\nsize = \"1MiB\"\n")
    };
    let script = |target: &str| format!("df -k {target} | tail -n 1");
    let of = |target: &str, namespaces: &str| {
        once(&script(target), &format!("\n[namespaces]\n{namespaces}\n{}", mount(target)))
    };
    let owner = format!("{}\n[namespaces]\nipc = \"shareable\"\n", shell("echo up; sleep 1000"));
    let berth = Berth::up_with(&[("owner.toml", &owner)]);
    berth.wait_log("owner", "up");
    for (name, target, namespaces) in [
        ("theirs", "/dev/shm", "ipc = \"container:owner\""),
        ("hosts", "/dev/shm", "ipc = \"host\""),
        ("groups", "/sys/fs/cgroup", "cgroup = \"host\""),
    ] {
        let said = run(&berth, name, &of(target, namespaces));
        assert!(said.contains(" 1024 "), "{name}: {said}");
    }
}

#[test]
fn namespaces_are_its_own() {
    let berth = Berth::up_with(&[("web.toml", &shell("echo ready; sleep 1000"))]);
    berth.wait_log("web", "ready");
    let pid = berth.pid("web");
    for kind in ["mnt", "uts", "ipc", "net", "user", "cgroup"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of("self"), of(&pid.to_string()), "{kind}");
    }
    let text = run(
        &berth,
        "look",
        &once("hostname; echo $$; ls /sys/class/net; ls /proc | grep -c '^[0-9]'", ""),
    );
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "look");
    assert_eq!(lines[1], "2", "its init is 1");
    assert_eq!(lines[2], "lo");
}

#[test]
fn rights_are_few() {
    let berth = Berth::up_with(&[]);
    let script = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t '; \
                  mount -t tmpfs x /mnt 2>/dev/null && echo mounted; \
                  echo 1 > /proc/sys/kernel/panic 2>/dev/null && echo wrote; \
                  mknod /tmp/disk b 8 0 2>/dev/null && echo made; unshare -U true 2>/dev/null && echo unshared; \
                  wc -c < /proc/kcore; true";
    let text = run(&berth, "web", &once(script, ""));
    assert!(text.contains("CapEff:00000000a80425fb"), "{text}");
    assert!(text.contains("NoNewPrivs:1") && text.contains("Seccomp:2"), "{text}");
    for bad in ["mounted", "wrote", "made", "unshared"] {
        assert!(!text.contains(bad), "{text}");
    }
}

#[test]
fn manifest_keys_shape_the_process() {
    let berth = Berth::up_with(&[]);
    let more = "user = \"nobody\"\nworkdir = \"/var/made/for/it\"\nhostname = \"db1\"\n\
                env = { GREETING = \"hello\" }\noom-score-adj = 300\nsysctls = { \"net.ipv4.ip_default_ttl\" = \"77\" }\n\
                [rlimits]\nnofile = 123\ncore = { soft = 0, hard = \"unlimited\" }\n\
                [[mount]]\ntarget = \"/scratch\"\nsize = \"1MiB\"\n[[mount]]\nsource = \"data\"\ntarget = \"/data\"\n\
                [security]\ncap-add = [\"NET_ADMIN\"]\ncap-drop = [\"CHOWN\"]\n";
    let script = "id -un; pwd; hostname; echo $GREETING; cat /proc/self/oom_score_adj; \
                  cat /proc/sys/net/ipv4/ip_default_ttl; ulimit -n; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2; \
                  grep CapBnd /proc/self/status | tr -d '\\t '; grep ' /data ' /proc/self/mountinfo | wc -l";
    let text = run(&berth, "web", &once(script, more));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "nobody",
            "/var/made/for/it",
            "db1",
            "hello",
            "300",
            "77",
            "123",
            "1024",
            "CapBnd:00000000a80435fa",
            "1"
        ],
        "{text}"
    );
}

#[test]
fn a_volume_outlives_its_container_and_belongs_to_it() {
    let berth = Berth::up_with(&[]);
    let mount = "[[mount]]\nsource = \"data\"\ntarget = \"/data\"\n";
    run(&berth, "one", &once("echo kept > /data/file; chown 1000:1000 /data/file", mount));
    let text = run(&berth, "two", &once("cat /data/file; stat -c %u /data/file", mount));
    assert_eq!(text, "kept\n1000\n");
    let read_only = "[[mount]]\nsource = \"data\"\ntarget = \"/data\"\nread-only = true\n";
    let text = run(&berth, "three", &once("echo x > /data/file || echo refused", read_only));
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_read_only_root_stays_as_it_is() {
    let berth = Berth::up_with(&[]);
    let more = "[security]\nread-only = true\n";
    let text = run(
        &berth,
        "web",
        &once("touch /etc/x || echo refused; touch /dev/shm/y && echo ok", more),
    );
    assert!(text.contains("refused") && text.contains("ok"), "{text}");
}

#[test]
fn the_host_user_namespace_opens_no_devices() {
    let berth = Berth::up_with(&[]);
    let more = "[security]\nuserns = \"host\"\n";
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; mknod /tmp/disk b 254 0 && head -c1 /tmp/disk >/dev/null 2>&1 && echo opened; \
                  echo x > /dev/null && echo null";
    let text = run(&berth, "web", &once(script, more));
    assert!(text.contains(" 0 0 4294967295") && text.contains("null"), "{text}");
    assert!(!text.contains("opened"), "{text}");
}

#[test]
fn failures_before_exec_say_why() {
    let berth = Berth::up_with(&[]);
    let cases = [
        ("missing", "rootfs = \"/\"\ncommand = [\"no-such-program\"]\n", 127, "no-such-program"),
        ("not-exec", "rootfs = \"/\"\ncommand = [\"/etc/passwd\"]\n", 126, "/etc/passwd"),
        (
            "no-user",
            "rootfs = \"/\"\ncommand = [\"true\"]\nuser = \"nosuchuser\"\n",
            125,
            "nosuchuser",
        ),
        (
            "no-bind",
            "rootfs = \"/\"\ncommand = [\"true\"]\n[[mount]]\nsource = \"/no/such/dir\"\ntarget = \"/x\"\n",
            125,
            "/no/such/dir",
        ),
        ("no-root", "rootfs = \"/no/such/root\"\ncommand = [\"true\"]\n", 125, "/no/such/root"),
    ];
    for (name, manifest, code, word) in cases {
        berth.write(&format!("{name}.toml"), &format!("restart = \"no\"\n{manifest}"));
        berth.wait(&format!("{name} to fail"), || {
            let state = &berth.inspect(name)["State"];
            state["ExitCode"] == code && state["Error"].as_str().is_some_and(|e| e.contains(word))
        });
    }
    let ps = berth.ok(&["ps", "-a"]);
    assert!(ps.contains("no-such-program"), "{ps}");
}

#[test]
fn without_isolation_it_is_a_process_of_the_host() {
    let berth = Berth::up_with(&[]);
    let manifest = "restart = \"no\"\nisolation = \"none\"\ncommand = [\"sh\", \"-c\", \"readlink /proc/self/ns/mnt; cat /proc/self/uid_map | tr -s ' '\"]\n";
    let text = run(&berth, "plain", manifest);
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert!(text.starts_with(own.to_str().unwrap()), "{text}");
    // What is run in it, and its health check, is where it is.
    berth.write("long.toml", "isolation = \"none\"\ncommand = [\"sleep\", \"1000\"]\n");
    berth.wait_status("long", "running");
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let link = format!("/proc/self/ns/{kind}");
        let keeper = format!("/proc/{}/ns/{kind}", berth.keeper_pid());
        let own = std::fs::read_link(keeper).unwrap();
        assert_eq!(berth.ok(&["exec", "long", "readlink", &link]).trim(), own.to_str().unwrap());
    }
}

#[test]
fn without_init_the_payload_is_the_first_process() {
    let berth = Berth::up_with(&[]);
    let text = run(&berth, "web", &once("echo $$; exit 5", "init = false\n"));
    assert_eq!(text, "1\n");
    assert_eq!(berth.inspect("web")["State"]["ExitCode"], 5);
}
