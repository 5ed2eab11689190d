use super::*;
use crate::manifest::model::Container;
use crate::manifest::model::{Network, NetworkMode};

fn view(manifest: Container) -> View {
    serde_json::from_value(json!({
        "name": "web", "kept": "web", "id": "ab", "state": "running", "detail": null, "is-awaited": false, "pid": 7,
        "manifest": manifest, "source": null, "manifest-error": null, "error": null,
        "restarts": 1, "created": {"secs_since_epoch": 0, "nanos_since_epoch": 0},
        "started": null, "finished": null, "exit-code": 3, "oom-killed": false,
        "stopped-by-hand": false, "health": null,
    }))
    .unwrap()
}

/// The types of the published API read what is sent.
#[test]
fn the_published_types_read_it() {
    let manifest = Container {
        image: Some("web:1".to_owned()),
        network: Network { mode: Some(NetworkMode::Bridge), ..Network::default() },
        env: [("A".to_owned(), "2".to_owned())].into(),
        ..Container::default()
    };
    let base = Base {
        id: "sha256:00".to_owned(),
        process: Process {
            env: vec!["A=1".to_owned(), "B=1".to_owned()],
            entrypoint: vec!["/entry".to_owned()],
            cmd: vec!["serve".to_owned()],
            ..Process::default()
        },
    };
    let value = inspect(&view(manifest), &base, &Places::default());
    let typed: bollard_stubs::models::ContainerInspectResponse =
        serde_json::from_value(value.clone()).unwrap();
    assert_eq!(typed.path.as_deref(), Some("/entry"));
    assert_eq!(typed.args, Some(vec!["serve".to_owned()]));
    assert_eq!(value["Config"]["Env"], json!(["B=1", "A=2"]));
    assert_eq!(value["State"]["ExitCode"], 0, "of what runs nothing is known yet");
    assert_eq!(value["NetworkSettings"]["Networks"]["bridge"]["IPAddress"], "");
}

/// Who runs unchecked has no health; who has ended and was checked is not well.
#[test]
fn health_is_of_who_is_checked() {
    use crate::image::config::Healthcheck;
    use crate::manifest::model::Health;
    let check = Healthcheck { test: vec!["CMD".to_owned(), "x".to_owned()], ..Default::default() };
    let process = Process { healthcheck: Some(check), ..Process::default() };
    let base = Base { process, ..Base::default() };
    let health = |none: bool, state: &str| {
        let own = none.then(|| Health { none, ..Health::default() });
        let mut view = view(Container { health: own, ..Container::default() });
        view.started = Some(SystemTime::UNIX_EPOCH);
        view.state = state.to_owned();
        inspect(&view, &base, &Places::default())["State"]["Health"]["Status"].clone()
    };
    assert_eq!(health(true, "running"), Value::Null);
    assert_eq!(health(true, "exited"), Value::Null);
    assert_eq!(health(false, "running"), Value::Null, "nothing is known yet");
    assert_eq!(health(false, "exited"), "unhealthy");
}

/// What was made of Docker's JSON says the same in Docker's JSON.
#[test]
fn what_was_asked_for_is_told() {
    let asked = json!({
        "Image": "/", "Cmd": ["x"], "StopTimeout": 4,
        "HostConfig": {
            "Memory": 64 << 20, "MemorySwap": 96 << 20, "NanoCpus": 1_500_000_000i64,
            "CpuShares": 512, "PidsLimit": 9, "Binds": ["/a:/b:ro"],
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
            "PortBindings": {"53/udp": [{"HostIp": "::1", "HostPort": "5353"}]},
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}],
            "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse",
                         "CgroupPermissions": "rw"}],
        },
    });
    let mut volume = String::new;
    let none = |_: &str| None;
    let mut surroundings = crate::api::create::Surroundings {
        name: "web",
        image: &|_| Default::default(),
        address: &|_| None,
        container: &none,
        network: &|_| None,
        processors: 2,
        volume: &mut volume,
    };
    let body = crate::api::create::parse(asked.clone()).unwrap();
    let made = crate::api::create::manifest(body, &mut surroundings).unwrap();
    let told = inspect(&view(made.container), &Base::default(), &Places::default());
    for (key, value) in asked["HostConfig"].as_object().unwrap() {
        assert_eq!(&told["HostConfig"][key], value, "{key}");
    }
    assert_eq!(told["Config"]["StopTimeout"], 4);
}
