//! `/_ping`, `/version`, `/info`.

use std::collections::HashMap;

use bollard_stubs::models::{
    SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemVersion,
    SystemVersionComponents, SystemVersionPlatform,
};

use super::respond::{API_OLDEST, API_VERSION, Answer, json, text};
use crate::engine::handle::Handle;

/// Docker's and our own version number, for clients that compare.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub fn ping() -> Answer {
    text("OK")
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
    ]);
    json(&SystemVersion {
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

/// As Docker names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub async fn info(handle: &Handle) -> Answer {
    let views = handle.list().await;
    let count = |state: &str| views.iter().filter(|view| view.state == state).count() as i64;
    let (running, paused) = (count("running"), count("paused"));
    let uname = rustix::system::uname();
    let hierarchy = crate::cgroup::Hierarchy::detect().ok();
    let is_v2 = hierarchy.as_ref().is_some_and(|h| h.version() == crate::spec::CgroupVersion::V2);
    let memory = rustix::system::sysinfo();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json(&SystemInfo {
        id: Some(handle.paths.cgroup_name()),
        containers: Some(views.len() as i64),
        containers_running: Some(running),
        containers_paused: Some(paused),
        containers_stopped: Some(views.len() as i64 - running - paused),
        images: Some(0),
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
        operating_system: Some(pretty.unwrap_or("Linux").trim_matches('"').to_owned()),
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
    })
}
