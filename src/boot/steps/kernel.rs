//! Kernel parameters, resource limits, cgroup v1.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, setrlimit};

use super::{Done, glob};
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
    let mut lines = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        lines.extend(text.lines().filter_map(parse).map(|line| (line, file.display().to_string())));
    }
    let ours = settings.iter().map(|(key, value)| {
        let line = Line { key: key.clone(), value: Some(value.clone()), optional: false };
        (line, crate::boot::config::PATH.to_owned())
    });
    lines.extend(ours);
    // Who is named is not meant by a pattern, wherever that stands.
    let named: BTreeSet<PathBuf> = lines
        .iter()
        .filter(|(line, _)| !glob::is_pattern(&line.key))
        .filter_map(|(line, _)| Some(Path::new(BASE).join(relative(&line.key)?)))
        .collect();
    let mut wrong = Vec::new();
    for (line, file) in lines {
        let Line { key, value: Some(value), optional } = line else { continue };
        if let Err(error) = set(&key, &value, &named)
            && !optional
        {
            wrong.push(format!("{file}: {error}"));
        }
    }
    all_well(wrong)
}

/// A line of sysctl.d(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    key: String,
    /// None: `-key` alone, which only takes it out of patterns.
    value: Option<String>,
    /// `-key = value`: no failure if it can't be set.
    optional: bool,
}

fn parse(line: &str) -> Option<Line> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = match line.split_once('=') {
        Some((key, value)) => (key, Some(value.trim().to_owned())),
        None if line.starts_with('-') => (line, None),
        None => return None,
    };
    let optional = key.starts_with('-');
    Some(Line { key: key.trim_start_matches('-').trim().to_owned(), value, optional })
}

const BASE: &str = "/proc/sys";

/// `net/ipv4/ip_forward` or `net.ipv4.ip_forward`; whichever separator comes first
/// counts, so that an interface's name may contain the other (sysctl.d(5)).
fn relative(key: &str) -> Option<String> {
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
    is_plain.then_some(relative)
}

fn set(key: &str, value: &str, named: &BTreeSet<PathBuf>) -> Result<(), String> {
    let path = relative(key).ok_or_else(|| format!("{key:?} is not a kernel parameter"))?;
    let paths = match glob::is_pattern(&path) {
        true => glob::expand(Path::new(BASE), &path),
        false => vec![Path::new(BASE).join(path)],
    };
    let is_meant = |path: &&PathBuf| !glob::is_pattern(key) || !named.contains(*path);
    let write = |path: &PathBuf| {
        fs::write(path, value).map_err(|error| format!("{} = {value}: {error}", path.display()))
    };
    all_well(paths.iter().filter(is_meant).filter_map(|path| write(path).err()).collect())
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
        let at = |key: &str| relative(key);
        assert_eq!(at("net.ipv4.ip_forward").as_deref(), Some("net/ipv4/ip_forward"));
        for key in ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"] {
            assert_eq!(at(key).as_deref(), Some("net/ipv4/conf/eth0.1/forwarding"));
        }
        assert_eq!(at("../../etc/passwd"), None);
        assert_eq!(at("a//b"), None);
        let line = |key: &str, value: Option<&str>, optional| Line {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            optional,
        };
        let text = "# x\n; y\nkernel.panic=5\n-a.b = c d \nnonsense\n-a.*.c\na.*.c = 1\n";
        assert_eq!(
            text.lines().filter_map(parse).collect::<Vec<_>>(),
            [
                line("kernel.panic", Some("5"), false),
                line("a.b", Some("c d"), true),
                line("a.*.c", None, true),
                line("a.*.c", Some("1"), false),
            ]
        );
    }
}
