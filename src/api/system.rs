//! `/_ping`, `/version`, `/info`.

use std::collections::HashMap;

use bollard_stubs::models::{
    Commit, IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig, Runtime, SwarmInfo,
    SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemInfoIsolationEnum,
    SystemVersion, SystemVersionComponents, SystemVersionPlatform,
};

use hyper::header::{self, HeaderValue};
use serde_json::{Value, json};

use super::model::timestamp;
use super::respond::{API_OLDEST, API_VERSION, Answer, json as as_json, text};
use super::route::Query;
use crate::engine::handle::Handle;
use crate::engine::images::blocking;

/// Docker's and our own version number, for clients that compare.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn ping() -> Answer {
    let mut answer = text("OK");
    let never = HeaderValue::from_static("no-cache, no-store, must-revalidate");
    answer.headers_mut().insert(header::CACHE_CONTROL, never);
    answer.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    answer
}

fn api(version: (u32, u32)) -> String {
    format!("{}.{}", version.0, version.1)
}

pub fn version() -> Answer {
    let uname = rustix::system::uname();
    let details = HashMap::from([
        ("ApiVersion".to_owned(), api(API_VERSION)),
        ("MinAPIVersion".to_owned(), api(API_OLDEST)),
        ("Os".to_owned(), "linux".to_owned()),
        ("Arch".to_owned(), architecture().to_owned()),
        ("KernelVersion".to_owned(), uname.release().to_string_lossy().into_owned()),
        ("Experimental".to_owned(), "false".to_owned()),
        ("GitCommit".to_owned(), String::new()),
        ("GoVersion".to_owned(), String::new()),
        ("BuildTime".to_owned(), String::new()),
    ]);
    as_json(&SystemVersion {
        platform: Some(SystemVersionPlatform { name: "Berth".to_owned() }),
        components: Some(vec![SystemVersionComponents {
            name: "Engine".to_owned(),
            version: VERSION.to_owned(),
            details: Some(details),
        }]),
        version: Some(VERSION.to_owned()),
        api_version: Some(api(API_VERSION)),
        min_api_version: Some(api(API_OLDEST)),
        git_commit: Some(String::new()),
        go_version: Some(String::new()),
        os: Some("linux".to_owned()),
        arch: Some(architecture().to_owned()),
        kernel_version: Some(uname.release().to_string_lossy().into_owned()),
        experimental: Some(false),
        build_time: Some(String::new()),
    })
}

/// A value of os-release(5).
fn unquoted(text: &str) -> String {
    text.trim_matches('"').to_owned()
}

/// As Docker names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Of a program that has no part in this: clients read its id without asking.
fn no_commit() -> Commit {
    Commit { id: Some(String::new()) }
}

/// What clients of old look for, whatever registries there are.
fn registries() -> RegistryServiceConfig {
    let hub = IndexInfo {
        name: Some("docker.io".to_owned()),
        mirrors: Some(Vec::new()),
        secure: Some(true),
        official: Some(true),
    };
    RegistryServiceConfig {
        insecure_registry_cidrs: Some(["::1/128", "127.0.0.0/8"].map(str::to_owned).to_vec()),
        index_configs: Some(HashMap::from([("docker.io".to_owned(), hub)])),
        mirrors: Some(Vec::new()),
    }
}

pub async fn info(handle: &Handle, query: &Query) -> Answer {
    let views = handle.list().await;
    let count = |state: &str| views.iter().filter(|view| view.state == state).count() as i64;
    let (running, paused) = (count("running"), count("paused"));
    let uname = rustix::system::uname();
    let hierarchy = crate::cgroup::Hierarchy::detect().ok();
    let is_v2 = hierarchy.as_ref().is_some_and(|h| h.version() == crate::spec::CgroupVersion::V2);
    let memory = rustix::system::sysinfo();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let said = |key: &str| os.lines().find_map(|line| line.strip_prefix(key)).map(unquoted);
    let store = handle.images.store().await;
    let images = match store {
        Ok(store) => blocking(move || store.list()).await.map_or(0, |list| list.len() as i64),
        Err(_) => 0,
    };
    let is_on = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
    let runtime = Runtime { path: Some("berth".to_owned()), ..Runtime::default() };
    let info = SystemInfo {
        id: Some(handle.paths.cgroup_name()),
        containers: Some(views.len() as i64),
        containers_running: Some(running),
        containers_paused: Some(paused),
        containers_stopped: Some(views.len() as i64 - running - paused),
        images: Some(images),
        driver: Some("overlay".to_owned()),
        driver_status: Some(vec![vec![
            "Cgroups".to_owned(),
            hierarchy.map(|hierarchy| hierarchy.describe()).unwrap_or_default(),
        ]]),
        docker_root_dir: Some(handle.paths.state_dir().display().to_string()),
        memory_limit: Some(true),
        pids_limit: Some(true),
        cpu_set: Some(true),
        cpu_shares: Some(true),
        logging_driver: Some("json-file".to_owned()),
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: Some(match is_v2 {
            true => SystemInfoCgroupVersionEnum::_2,
            false => SystemInfoCgroupVersionEnum::_1,
        }),
        kernel_version: Some(uname.release().to_string_lossy().into_owned()),
        operating_system: Some(said("PRETTY_NAME=").unwrap_or_else(|| "Linux".to_owned())),
        os_version: Some(said("VERSION_ID=").unwrap_or_default()),
        plugins: Some(PluginsInfo {
            volume: Some(vec!["local".to_owned()]),
            network: Some(["bridge", "host", "null"].map(str::to_owned).to_vec()),
            authorization: None,
            log: Some(vec!["json-file".to_owned()]),
        }),
        swap_limit: Some(true),
        cpu_cfs_period: Some(true),
        cpu_cfs_quota: Some(true),
        ipv4_forwarding: Some(is_on("/proc/sys/net/ipv4/ip_forward")),
        debug: Some(false),
        oom_kill_disable: Some(false),
        system_time: Some(timestamp(std::time::SystemTime::now())),
        index_server_address: Some("https://index.docker.io/v1/".to_owned()),
        registry_config: Some(registries()),
        nfd: Some(std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as i64)),
        n_goroutines: Some(0),
        n_events_listener: Some(handle.events.listeners() as i64),
        containerd_commit: Some(no_commit()),
        runc_commit: Some(no_commit()),
        init_commit: Some(no_commit()),
        http_proxy: Some(String::new()),
        https_proxy: Some(String::new()),
        no_proxy: Some(String::new()),
        labels: Some(Vec::new()),
        experimental_build: Some(false),
        runtimes: Some(HashMap::from([("berth".to_owned(), runtime)])),
        swarm: Some(SwarmInfo {
            node_id: Some(String::new()),
            node_addr: Some(String::new()),
            local_node_state: Some(LocalNodeState::INACTIVE),
            control_available: Some(false),
            error: Some(String::new()),
            ..SwarmInfo::default()
        }),
        live_restore_enabled: Some(true),
        isolation: Some(SystemInfoIsolationEnum::EMPTY),
        os_type: Some("linux".to_owned()),
        architecture: Some(uname.machine().to_string_lossy().into_owned()),
        ncpu: std::thread::available_parallelism().ok().map(|count| count.get() as i64),
        mem_total: Some((memory.totalram as u64 * u64::from(memory.mem_unit)) as i64),
        name: Some(uname.nodename().to_string_lossy().into_owned()),
        server_version: Some(VERSION.to_owned()),
        init_binary: Some("berth".to_owned()),
        default_runtime: Some("berth".to_owned()),
        security_options: Some(vec![
            "name=seccomp,profile=builtin".to_owned(),
            "name=userns".to_owned(),
        ]),
        warnings: Some(Vec::new()),
        ..SystemInfo::default()
    };
    as_json(&of_version(serde_json::to_value(info).unwrap_or_default(), query))
}

/// What Docker's daemon tells as null, and what it tells by the version of its API.
fn of_version(mut told: Value, query: &Query) -> Value {
    told["Plugins"]["Authorization"] = Value::Null;
    told["Swarm"]["RemoteManagers"] = Value::Null;
    told["GenericResources"] = Value::Null;
    let mut lists: Vec<&str> = Vec::new();
    if query.is_before((1, 49)) {
        for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            told[commit]["Expected"] = "".into();
        }
        lists.extend(["CIDRs", "Hostnames"]);
    } else {
        told["FirewallBackend"] = json!({ "Driver": "nftables" });
    }
    for kind in lists {
        told["RegistryConfig"][format!("AllowNondistributableArtifacts{kind}")] = json!([]);
    }
    if query.is_before((1, 50)) {
        told["BridgeNfIptables"] = false.into();
        told["BridgeNfIp6tables"] = false.into();
    }
    if !query.is_before((1, 44)) {
        told["CDISpecDirs"] = json!([]);
    }
    told
}
