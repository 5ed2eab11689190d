//! Specs as a whole, and what `build` refuses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::Value;

use super::devices::{DeviceKind, HostDevice};
use super::users::ResolvedUser;
use super::{CgroupVersion, Context, Error, IdRange, ImageDefaults, KernelVersion, Netns, build};
use crate::manifest::model::Container;

fn container(toml: &str) -> Container {
    toml::from_str(toml).unwrap()
}

fn context() -> Context {
    Context {
        hostname: None,
        has_mqueue: true,
        name: "web".to_owned(),
        root: PathBuf::from("/run/berth/web/root"),
        ids: Some(IdRange { first: 100_000, count: 65_536 }),
        user: ResolvedUser { home: PathBuf::from("/root"), ..ResolvedUser::root() },
        env: Vec::new(),
        sources: BTreeMap::new(),
        devices: BTreeMap::new(),
        network: Netns::Own,
        cgroup_version: CgroupVersion::V2,
        cgroups_path: None,
        seccomp_profile: None,
        kernel: KernelVersion(6, 1),
        image: ImageDefaults::default(),
        etc: BTreeMap::new(),
        open_files: None,
        oom_score_adj: None,
    }
}

/// On the host's ids.
fn host_context() -> Context {
    Context { ids: None, ..context() }
}

fn spec(toml: &str, context: &Context) -> Spec {
    build(&container(toml), context).unwrap()
}

fn refused(toml: &str, context: &Context) -> Error {
    build(&container(toml), context).unwrap_err()
}

/// JSON with all that is a set or a map in Rust in one order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<String, Value> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(map.into_iter().collect())
        }
        Value::Array(mut items) => {
            if items.iter().all(|item| item.as_str().is_some_and(|text| text.starts_with("CAP_"))) {
                items.sort_by_key(ToString::to_string);
            }
            Value::Array(items.into_iter().map(sorted).collect())
        }
        value => value,
    }
}

fn json(spec: &Spec) -> Value {
    sorted(serde_json::to_value(spec).unwrap())
}

fn mount_options(spec: &Spec, target: &str) -> Vec<String> {
    let mounts = spec.mounts().as_ref().unwrap();
    let mount = mounts.iter().find(|mount| mount.destination() == Path::new(target)).unwrap();
    mount.options().clone().unwrap()
}

fn env(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().env().clone().unwrap()
}

#[test]
fn the_spec_of_a_container_that_asks_for_nothing() {
    let spec =
        spec("rootfs = '/'\ncommand = ['/bin/true']\nsecurity.seccomp = 'unconfined'", &context());
    insta::assert_json_snapshot!("default", json(&spec));
}

#[test]
fn the_spec_of_a_plain_process() {
    let spec = spec(
        "isolation = 'none'\ncommand = ['/bin/true']\nlabels = { team = 'shop' }",
        &Context { network: Netns::Host, ..context() },
    );
    insta::assert_json_snapshot!("isolation_none", json(&spec));
}

#[test]
fn the_spec_of_a_container_that_asks_for_much() {
    let device = HostDevice { kind: DeviceKind::Char, major: 10, minor: 229, mode: 0o100_666 };
    let context = Context {
        env: vec![("FROM".to_owned(), "file".to_owned()), ("BOTH".to_owned(), "file".to_owned())],
        sources: BTreeMap::from([("data".to_owned(), PathBuf::from("/vol/data"))]),
        devices: BTreeMap::from([(PathBuf::from("/dev/fuse"), device)]),
        network: Netns::Shared(PathBuf::from("/run/netns/db")),
        cgroup_version: CgroupVersion::Hybrid,
        cgroups_path: Some(PathBuf::from("/berth/web")),
        user: ResolvedUser {
            uid: 33,
            gid: 33,
            additional: vec![33, 50],
            home: PathBuf::from("/var/www"),
            name: Some("www-data".to_owned()),
        },
        ..host_context()
    };
    let spec = spec(
        "image = 'x'
        entrypoint = ['/bin/sh', '-c']
        command = ['sleep 1']
        hostname = 'shop.example'
        tty = true
        workdir = '/srv'
        env = { BOTH = 'manifest', OWN = 'é' }
        devices = ['/dev/fuse:/dev/f:rw']
        oom-score-adj = -5
        shm-size = '1MiB'
        sysctls = { 'kernel.shmmax' = '4096' }
        rlimits = { nofile = 1024, core = { soft = 0, hard = 'unlimited' } }
        labels = { a = 'b' }
        mount = [
          { source = 'data', target = '/var/lib/web/' },
          { source = '/etc/ssl', target = '/etc/ssl', read-only = true },
          { target = '/tmp', size = '16MiB', mode = '0700' },
          { target = '/dev/shm' },
        ]
        [security]
        cap-add = ['NET_ADMIN']
        cap-drop = ['MKNOD']
        seccomp = 'unconfined'
        read-only = true",
        &context,
    );
    insta::assert_json_snapshot!("much", json(&spec));
}

#[test]
fn the_default_filter_follows_the_capabilities() {
    let names = |toml: &str| {
        let spec = spec(toml, &context());
        let filter = spec.linux().as_ref().unwrap().seccomp().clone().unwrap();
        filter.syscalls().as_ref().unwrap()[0].names().clone()
    };
    let has = |names: &[String], name: &str| names.iter().any(|known| known == name);
    let plain = names("command = ['x']");
    assert!(has(&plain, "read") && has(&plain, "chroot") && !has(&plain, "mount"));
    let admin = names("command = ['x']\nsecurity.cap-add = ['SYS_ADMIN']");
    assert!(has(&admin, "mount") && has(&admin, "clone3") && !has(&admin, "reboot"));
    let dropped = names("command = ['x']\nsecurity.cap-drop = ['SYS_CHROOT']");
    assert!(!has(&dropped, "chroot"));
}

#[test]
fn a_profile_replaces_the_filter() {
    let toml = "command = ['x']\nsecurity.seccomp = '/p.json'";
    assert_eq!(refused(toml, &context()).key, "security.seccomp");
    let profile = br#"{"defaultAction": "SCMP_ACT_LOG"}"#.to_vec();
    let spec = spec(toml, &Context { seccomp_profile: Some(profile), ..context() });
    let filter = spec.linux().as_ref().unwrap().seccomp().clone().unwrap();
    assert_eq!(filter.default_action().to_string(), "SCMP_ACT_LOG");
}

#[test]
fn the_network_decides_namespace_sysctls_and_sys() {
    let network = |spec: &Spec| {
        let linux = spec.linux().as_ref().unwrap();
        let namespaces = linux.namespaces().as_ref().unwrap();
        let network = namespaces.iter().find(|ns| ns.typ() == LinuxNamespaceType::Network);
        (network.map(|ns| ns.path().clone()), linux.sysctl().clone().unwrap_or_default().len())
    };
    let own = spec("command = ['x']", &context());
    assert_eq!(network(&own), (Some(None), 2));
    let host = Context { network: Netns::Host, ..context() };
    assert_eq!(network(&spec("command = ['x']", &host)), (None, 0));
    let path = PathBuf::from("/run/netns/db");
    let shared = Context { network: Netns::Shared(path.clone()), ..context() };
    let shared = spec("command = ['x']", &shared);
    assert_eq!(network(&shared), (Some(Some(path)), 0));
    assert!(mount_options(&shared, "/sys").contains(&"rbind".to_owned()));
    let sysctl = "command = ['x']\nsysctls = { 'net.ipv4.ip_forward' = '1' }";
    assert_eq!(refused(sysctl, &host).key, "sysctls");
    assert!(build(&container(sysctl), &context()).is_ok());
}

#[test]
fn an_image_gives_what_the_manifest_leaves_out() {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let context = Context {
        image: ImageDefaults {
            entrypoint: texts(&["/entry"]),
            command: texts(&["serve"]),
            env: texts(&["PATH=/app", "LANG=C"]),
            workdir: Some(PathBuf::from("/app")),
        },
        ..context()
    };
    let args =
        |toml: &str| spec(toml, &context).process().as_ref().unwrap().args().clone().unwrap();
    assert_eq!(args(""), ["/entry", "serve"]);
    assert_eq!(args("command = ['check']"), ["/entry", "check"]);
    assert_eq!(args("entrypoint = ['/other']"), ["/other"]);
    let spec = spec("env = { LANG = 'de' }", &context);
    assert_eq!(env(&spec), ["PATH=/app", "HOSTNAME=web", "HOME=/root", "LANG=de"]);
    assert_eq!(spec.process().as_ref().unwrap().cwd(), Path::new("/app"));
}

#[test]
fn mounts_of_the_manifest_replace_defaults_and_come_parents_first() {
    let context = host_context();
    let spec = spec(
        "command = ['x']
        mount = [
          { target = '/a/b/c' }, { source = '/s', target = '/a' }, { target = '/dev/shm' },
          { source = '/d', target = '/dev' },
        ]",
        &context,
    );
    let targets: Vec<String> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| mount.destination().display().to_string())
        .collect();
    assert_eq!(targets.iter().filter(|target| *target == "/dev/shm").count(), 1);
    let at = |wanted: &str| targets.iter().position(|target| target == wanted).unwrap();
    assert!(at("/a") < at("/a/b/c") && at("/dev") < at("/dev/shm"));
    assert_eq!(mount_options(&spec, "/a"), ["rbind", "rprivate"]);
}

#[test]
fn in_a_user_namespace_volumes_are_idmapped_and_devices_bound() {
    let device = HostDevice { kind: DeviceKind::Block, major: 8, minor: 0, mode: 0o660 };
    let devices = BTreeMap::from([(PathBuf::from("/dev/sda"), device)]);
    let context = Context { devices, ..context() };
    let spec = spec(
        "command = ['x']\ndevices = ['/dev/sda']\nmount = [{ source = '/s', target = '/a' }]",
        &context,
    );
    assert!(mount_options(&spec, "/a").contains(&"idmap".to_owned()));
    assert!(mount_options(&spec, "/dev/sda").contains(&"bind".to_owned()));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.devices().as_ref().unwrap().len(), 6);
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert!(rules.iter().any(|rule| rule.to_string() == "b 8:0 rwm"));
}

#[test]
fn what_can_not_be_is_refused_with_its_key() {
    for (toml, key) in [
        ("", "command"),
        ("command = ['']", "command"),
        ("command = [\"a\\u0000\"]", "command"),
        ("command = ['x']\nenv = { 'A=B' = '1' }", "env"),
        ("command = ['x']\nworkdir = 'srv'", "workdir"),
        ("command = ['x']\nhostname = 'a b'", "hostname"),
        ("command = ['x']\nrlimits = { files = 1 }", "rlimits"),
        ("command = ['x']\nrlimits = { core = { soft = 2, hard = 1 } }", "rlimits"),
        ("command = ['x']\noom-score-adj = 2000", "oom-score-adj"),
        ("command = ['x']\nsysctls = { 'kernel.panic' = '1' }", "sysctls"),
        ("command = ['x']\nsysctls = { 'net...etc' = '1' }", "sysctls"),
        ("command = ['x']\nsysctls = { 'net./x' = '1' }", "sysctls"),
        ("command = ['x']\ndevices = ['/dev/none']", "devices"),
        ("command = ['x']\nsecurity.cap-add = ['ROOT']", "security.cap-add/cap-drop"),
        ("command = ['x']\nmount = [{ source = 'v', target = '/v' }]", "mount"),
        ("command = ['x']\nmount = [{ target = '/../v' }]", "mount"),
        ("command = ['x']\nmount = [{ target = 'v' }]", "mount"),
        ("command = ['x']\nmount = [{ target = '/' }]", "mount"),
        ("command = ['x']\nmount = [{ target = '/proc/self' }]", "mount"),
        ("command = ['x']\nmount = [{ target = '/v' }, { target = '/v/' }]", "mount"),
        ("command = ['x']\nmount = [{ target = '/v', mode = '9' }]", "mount"),
        ("command = ['x']\nlabels = { '' = 'x' }", "labels"),
        ("command = ['x']\nisolation = 'none'\nmount = [{ target = '/v' }]", "mount"),
        ("command = ['x']\nisolation = 'none'\nsecurity.read-only = true", "security.read-only"),
    ] {
        let error = refused(toml, &context());
        assert_eq!(error.key, key, "{toml}: {error}");
    }
    let high = ResolvedUser { uid: 70_000, ..ResolvedUser::root() };
    let context = Context { user: high, ..context() };
    let error = refused("command = ['x']", &context);
    assert!(error.to_string().contains("70000"), "{error}");
    assert!(build(&container("command = ['x']"), &Context { ids: None, ..context }).is_ok());
}

#[test]
fn a_name_becomes_a_host_name() {
    let context = Context { name: "worker_a@1".to_owned(), ..context() };
    let spec = spec("command = ['x']", &context);
    assert_eq!(spec.hostname().as_deref(), Some("worker-a-1"));
    assert!(env(&spec).contains(&"HOSTNAME=worker-a-1".to_owned()));
}

/// The Spec is one that another runtime runs, and understands as it was meant.
#[test]
fn runc_runs_it() {
    let (runc, busybox) = ("/usr/sbin/runc", "/bin/busybox");
    if let Some(missing) = [runc, busybox].iter().find(|path| !std::path::Path::new(path).exists())
    {
        eprintln!("left out: {missing} is not installed");
        return;
    }
    let bundle = tempfile::tempdir().unwrap();
    let bin = bundle.path().join("rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy(busybox, bin.join("busybox")).unwrap();
    let toml = "command = ['/bin/busybox', 'sh', '-c', 'echo $$ $GREETING; /bin/busybox hostname; \
                /bin/busybox id; echo x > /proc/sys/kernel/hostname || echo read-only; \
                ulimit -n']\n\
                env = { GREETING = 'hello' }\nhostname = 'judge'\nuser = '7:8'\n\
                rlimits = { nofile = 99 }";
    let context = Context {
        root: bundle.path().join("rootfs"),
        ids: None,
        user: ResolvedUser { uid: 7, gid: 8, additional: vec![9], ..ResolvedUser::root() },
        cgroup_version: CgroupVersion::Hybrid,
        ..context()
    };
    spec(toml, &context).save(bundle.path().join("config.json")).unwrap();
    let output = std::process::Command::new(runc)
        .arg("--root")
        .arg(bundle.path().join("state"))
        .args(["run", &format!("berth-judge-{}", std::process::id())])
        .current_dir(bundle.path())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stdout, "1 hello\njudge\nuid=7 gid=8 groups=9\nread-only\n99\n", "{stderr}");
}

#[test]
fn open_files_have_the_usual_limit_unless_the_manifest_says_another() {
    let context = Context { open_files: Some((1024, 4096)), ..context() };
    let limits = |toml| {
        let spec = build(&container(toml), &context).unwrap();
        let limits = spec.process().as_ref().unwrap().rlimits().clone().unwrap();
        limits.iter().map(|limit| (limit.soft(), limit.hard())).collect::<Vec<_>>()
    };
    assert_eq!(limits("command = ['x']"), [(1024, 4096)]);
    assert_eq!(limits("command = ['x']\nrlimits = { nofile = 64 }"), [(64, 64)]);
}

/// Berth's own score, which may protect it, is not for containers.
#[test]
fn the_oom_score_is_the_manifests_or_the_usual() {
    let context = Context { oom_score_adj: Some(0), ..context() };
    let score = |toml| {
        let spec = build(&container(toml), &context).unwrap();
        spec.process().as_ref().unwrap().oom_score_adj()
    };
    assert_eq!(score("command = ['x']"), Some(0));
    assert_eq!(score("command = ['x']\noom-score-adj = -100"), Some(-100));
}
