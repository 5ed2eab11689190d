//! Device nodes below a container's `/dev`: those that every container has
//! (OCI runtime-spec, config-linux.md "Default Devices"), those that its manifest
//! asks for, and the rules of the device cgroup that go with both.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

/// Symbolic links that the runtime makes below `/dev`, and what they point to.
pub const SYMLINKS: [(&str, &str); 6] = [
    ("/dev/core", "/proc/kcore"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
];

/// Name, major and minor number of the character devices that all containers have.
const DEFAULT: [(&str, i64, i64); 6] = [
    ("/dev/full", 1, 7),
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/tty", 5, 0),
    ("/dev/urandom", 1, 9),
    ("/dev/zero", 1, 5),
];

/// What stat(2) says of a device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDevice {
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
}

/// The two kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// One entry of `devices`: `HOST[:CONTAINER][:ACCESS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The device on the host, absolute.
    pub host: PathBuf,
    /// Where it is in the container, below `/dev`.
    pub container: PathBuf,
    /// Some of `r`, `w` and `m` (mknod).
    pub access: String,
}

impl FromStr for DeviceRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?} is not a device; write /dev/fuse or /dev/a:/dev/b:rwm");
        let parts: Vec<&str> = text.split(':').collect();
        let (host, container, access) = match parts[..] {
            [host] => (host, host, "rwm"),
            [host, second] if is_access(second) => (host, host, second),
            [host, second] => (host, second, "rwm"),
            [host, container, access] if is_access(access) => (host, container, access),
            _ => return Err(usage()),
        };
        if !is_plain(Path::new(host)) || !is_plain(Path::new(container)) {
            return Err(usage());
        }
        let below_dev = Path::new(container).strip_prefix("/dev");
        if !below_dev.is_ok_and(|rest| rest.components().next().is_some()) {
            return Err(format!("{text:?}: in the container a device must be below /dev"));
        }
        Ok(DeviceRequest {
            host: PathBuf::from(host),
            container: PathBuf::from(container),
            access: access.to_owned(),
        })
    }
}

fn is_access(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| "rwm".contains(c))
        && text.chars().all(|c| text.matches(c).count() == 1)
}

/// Absolute, and without `..` or a NUL byte.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}

impl DeviceRequest {
    /// The node in the container.
    pub fn node(&self, host: &HostDevice) -> LinuxDevice {
        node(&self.container, oci_kind(host.kind), host.major.into(), host.minor.into(), host.mode)
    }

    /// The rule of the device cgroup that lets the container use it.
    pub fn rule(&self, host: &HostDevice) -> LinuxDeviceCgroup {
        let (major, minor) = (Some(host.major.into()), Some(host.minor.into()));
        rule(true, oci_kind(host.kind), major, minor, &self.access)
    }
}

/// The nodes that every container has. In a user namespace mknod(2) is refused:
/// there the host's node of the same path is bind-mounted instead.
pub fn default_nodes() -> Vec<LinuxDevice> {
    DEFAULT
        .iter()
        .map(|(path, major, minor)| {
            node(Path::new(path), LinuxDeviceType::C, *major, *minor, 0o666)
        })
        .collect()
}

/// The rules of the device cgroup: nothing but the default devices, terminals, and
/// the making (not the opening) of any node, as Docker has it.
pub fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let character = LinuxDeviceType::C;
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, character, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    rules.extend(
        DEFAULT
            .iter()
            .map(|(_, major, minor)| rule(true, character, Some(*major), Some(*minor), "rwm")),
    );
    // /dev/ptmx, and the terminals below /dev/pts.
    rules.push(rule(true, character, Some(5), Some(2), "rwm"));
    rules.push(rule(true, character, Some(136), None, "rwm"));
    rules
}

fn oci_kind(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}

fn node(path: &Path, kind: LinuxDeviceType, major: i64, minor: i64, mode: u32) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(path.to_owned())
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(Some(mode & 0o777))
        .set_uid(Some(0))
        .set_gid(Some(0));
    node
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_three_forms() {
        let parse = |text: &str| {
            let device: DeviceRequest = text.parse().unwrap();
            (
                device.host.display().to_string(),
                device.container.display().to_string(),
                device.access,
            )
        };
        let expected = |host: &str, container: &str, access: &str| {
            (host.to_owned(), container.to_owned(), access.to_owned())
        };
        assert_eq!(parse("/dev/fuse"), expected("/dev/fuse", "/dev/fuse", "rwm"));
        assert_eq!(parse("/dev/fuse:r"), expected("/dev/fuse", "/dev/fuse", "r"));
        assert_eq!(parse("/dev/a:/dev/b"), expected("/dev/a", "/dev/b", "rwm"));
        assert_eq!(parse("/dev/a:/dev/x/b:rw"), expected("/dev/a", "/dev/x/b", "rw"));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for bad in [
            "",
            "fuse",
            "/dev/a:b",
            "/dev/a:/dev/b:rr",
            "/dev/a:/dev/b:x",
            "/dev/a:/dev/../etc/b",
            "/dev/a:/etc/b",
            "/dev/a:/dev",
            "/dev/a:/dev/b:rw:m",
            "/dev/a\0",
        ] {
            assert!(bad.parse::<DeviceRequest>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_first_rule_denies_everything() {
        let rules = default_rules();
        assert_eq!(rules[0].to_string(), "a *:* rwm");
        assert!(!rules[0].allow());
        assert!(rules.iter().any(|rule| rule.to_string() == "c 1:3 rwm" && rule.allow()));
    }
}
