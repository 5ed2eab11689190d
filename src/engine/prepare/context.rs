//! What the OCI Spec of a launch is made of beside its manifest: the machine and the files
//! that the manifest names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Preparation;
use crate::engine::paths::doing;
use crate::manifest::model::Container;
use crate::spec::{self, devices, users::ResolvedUser};

impl Preparation<'_> {
    pub(super) fn context(
        &self,
        name: &str,
        manifest: &Container,
        user: ResolvedUser,
        sources: BTreeMap<String, PathBuf>,
    ) -> Result<spec::Context, String> {
        let mut env = Vec::new();
        for path in &manifest.env_file {
            let bytes = fs::read(path).map_err(doing("reading the env-file", path))?;
            // A name alone would take its value from whoever started Berth.
            let lines = spec::env_file::parse(&bytes, |_| None)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            env.extend(lines);
        }
        let mut host_devices = BTreeMap::new();
        for text in &manifest.devices {
            let request: devices::DeviceRequest = text.parse()?;
            let device = host_device(&request.host)?;
            host_devices.insert(request.host, device);
        }
        let profile = match manifest.security.seccomp.as_str() {
            "default" | "unconfined" => None,
            text if text.starts_with('{') => Some(text.as_bytes().to_vec()),
            path => Some(
                fs::read(path).map_err(doing("reading the seccomp profile", Path::new(path)))?,
            ),
        };
        Ok(spec::Context {
            name: name.to_owned(),
            hostname: None,
            root: PathBuf::from("rootfs"),
            ids: None,
            user,
            env,
            sources,
            devices: host_devices,
            network: spec::Netns::Own,
            has_mqueue: false,
            cgroup_version: self.workshop.parent.version(),
            cgroups_path: None,
            seccomp_profile: profile,
            kernel: kernel_version(),
            image: spec::ImageDefaults::default(),
            etc: BTreeMap::new(),
            open_files: open_files(),
            oom_score_adj: oom_score_adj(),
        })
    }
}

/// Who protects Berth from the kernel's choice of whom to end for lack of memory does not
/// mean its containers.
fn oom_score_adj() -> Option<i32> {
    let own = fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    own.trim().parse::<i32>().is_ok_and(|own| own < 0).then_some(0)
}

fn host_device(path: &Path) -> Result<devices::HostDevice, String> {
    let meta = fs::metadata(path).map_err(doing("looking at the device", path))?;
    let kind = meta.file_type();
    let kind = if kind.is_char_device() {
        devices::DeviceKind::Char
    } else if kind.is_block_device() {
        devices::DeviceKind::Block
    } else {
        return Err(format!("{} is not a device", path.display()));
    };
    Ok(devices::HostDevice {
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.permissions().mode() & 0o7777,
    })
}

fn kernel_version() -> spec::KernelVersion {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    spec::KernelVersion(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The soft limit that select(2) can live with, as everywhere; whoever can use more
/// raises it. The hard one is Berth's own.
fn open_files() -> Option<(u64, u64)> {
    const SOFT: u64 = 1024;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = own.maximum.unwrap_or(u64::MAX);
    Some((hard.min(SOFT), hard))
}
