//! Kernel parameters, resource limits, cgroup v1.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, setrlimit};

use super::Done;
use crate::manifest::variants::Rlimit;

/// The files of a configuration directory in its three places (sysctl.d(5) and its
/// like): by name, the administrator's before those of run time and of packages.
pub fn drop_ins(dir: &str, end: &str) -> Vec<PathBuf> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for place in ["/usr/lib", "/run", "/etc"] {
        for entry in fs::read_dir(format!("{place}/{dir}")).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && name.ends_with(end)
            {
                files.insert(name, entry.path());
            }
        }
    }
    // A link to /dev/null switches a package's file off.
    files.into_values().filter(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file())).collect()
}

/// /etc/sysctl.conf and sysctl.d, then these.
pub fn sysctls(settings: &BTreeMap<String, String>) -> Done {
    let mut files = drop_ins("sysctl.d", ".conf");
    files.push(PathBuf::from("/etc/sysctl.conf"));
    let mut wrong = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (key, value, optional) in parse(&text) {
            if let Err(error) = set(&key, &value)
                && !optional
            {
                wrong.push(format!("{}: {error}", file.display()));
            }
        }
    }
    for (key, value) in settings {
        wrong.extend(set(key, value).err());
    }
    all_well(wrong)
}

/// `key = value` lines; a `-` before the key makes it optional.
fn parse(text: &str) -> Vec<(String, String, bool)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let optional = key.starts_with('-');
            let key = key.trim_start_matches('-').trim();
            Some((key.to_owned(), value.trim().to_owned(), optional))
        })
        .collect()
}

/// `net/ipv4/ip_forward` or `net.ipv4.ip_forward`; whichever separator comes first
/// counts, so that an interface's name may contain the other (sysctl.d(5)).
fn path(key: &str) -> Option<PathBuf> {
    let slashed = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let relative = match slashed {
        true => key.to_owned(),
        false => key.chars().map(swap).collect(),
    };
    let is_plain = !relative.split('/').any(|part| matches!(part, "" | "." | ".."));
    is_plain.then(|| PathBuf::from("/proc/sys").join(relative))
}

fn set(key: &str, value: &str) -> Result<(), String> {
    let path = path(key).ok_or_else(|| format!("{key:?} is not a kernel parameter"))?;
    fs::write(path, value).map_err(|error| format!("{key} = {value}: {error}"))
}

fn all_well(wrong: Vec<String>) -> Done {
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// The limits of the parent, PID 1, which all that runs inherits (prlimit(2)).
pub fn rlimits(limits: &BTreeMap<String, Rlimit>) -> Done {
    let mut wrong = Vec::new();
    for (name, limit) in limits {
        let Some(resource) = resource(name) else {
            wrong.push(format!("{name} is not a limit of getrlimit(2)"));
            continue;
        };
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let limit =
            rustix::process::Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
        let init = rustix::process::getppid();
        let set = rustix::process::prlimit(init, resource, limit).map(drop);
        if let Err(errno) = set.and_then(|()| setrlimit(resource, limit)) {
            wrong.push(format!("{name}: {errno}"));
        }
    }
    all_well(wrong)
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// Hierarchies of v1 with these controllers, and v2 beside them at `unified`, as
/// systemd's hybrid layout has it.
pub fn cgroup_v1(controllers: &[String]) -> Done {
    let base = "/sys/fs/cgroup";
    let fail = |what: &str, errno: rustix::io::Errno| format!("{what}: {errno}");
    rustix::mount::unmount(base, UnmountFlags::DETACH).map_err(|errno| fail(base, errno))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", base, "tmpfs", flags, c"mode=0755")
        .map_err(|errno| fail("mounting a tmpfs for them", errno))?;
    let mut wrong = Vec::new();
    let all = controllers.iter().map(|name| (name.as_str(), "cgroup"));
    for (name, kind) in all.chain([("unified", "cgroup2")]) {
        let dir = format!("{base}/{name}");
        let options = std::ffi::CString::new(if kind == "cgroup" { name } else { "" });
        let mounted = fs::create_dir(&dir).map_err(|error| error.to_string()).and_then(|()| {
            rustix::mount::mount(
                kind,
                dir.as_str(),
                kind,
                flags,
                options.unwrap_or_default().as_c_str(),
            )
            .map_err(|errno| errno.to_string())
        });
        wrong.extend(mounted.err().map(|error| format!("{name}: {error}")));
    }
    all_well(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_paths() {
        let at = |key: &str| path(key).map(|path| path.display().to_string());
        assert_eq!(at("net.ipv4.ip_forward").as_deref(), Some("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(
            at("net.ipv4.conf.eth0/1.forwarding").as_deref(),
            Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(
            at("net/ipv4/conf/eth0.1/forwarding").as_deref(),
            Some("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(at("../../etc/passwd"), None);
        assert_eq!(at("a//b"), None);
        assert_eq!(
            parse("# x\n; y\nkernel.panic=5\n-a.b = c d \nnonsense\n"),
            [
                ("kernel.panic".to_owned(), "5".to_owned(), false),
                ("a.b".to_owned(), "c d".to_owned(), true)
            ]
        );
    }
}
