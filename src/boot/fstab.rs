//! `/etc/fstab` (fstab(5)) and mount options to what mount(2) takes. Pure.

use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::rootfs::mountinfo::unescaped;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A device, `UUID=…`, `LABEL=…`, `PARTUUID=…`, or a name that means nothing.
    pub source: String,
    /// Where; `none` or `swap` for swap.
    pub target: PathBuf,
    /// The file system's type, or `swap`, `auto`, `none`.
    pub kind: String,
    /// Options as they stand.
    pub options: Vec<String>,
    /// In which pass it is checked; 0 never.
    pub pass: u32,
}

impl Entry {
    /// Whether an option stands there.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|other| other == option)
    }

    /// The value of `key=value`.
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut values = self.options.iter().filter_map(|option| option.split_once('='));
        values.find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Whether it is swap.
    pub fn is_swap(&self) -> bool {
        self.kind == "swap"
    }

    /// How long its device is waited for: what may be missing (`nofail`) not for long, if
    /// it does not say so itself.
    pub fn patience(&self) -> Duration {
        const USUAL: Duration = Duration::from_secs(10);
        let said = self.value("x-systemd.device-timeout").and_then(|text| {
            let seconds = text.parse().map(Duration::from_secs).ok();
            seconds.or_else(|| humantime::parse_duration(text).ok())
        });
        said.unwrap_or(if self.has("nofail") { USUAL / 5 } else { USUAL })
    }

    /// Whether it wants something of mount(8) that mount(2) does not have: loop devices,
    /// and file systems that are programs.
    pub fn is_for_program(&self) -> bool {
        let of_loop = ["loop", "offset", "sizelimit"];
        let is_of_loop = |option: &String| {
            of_loop.contains(&option.split_once('=').map_or(option.as_str(), |(name, _)| name))
        };
        self.kind.starts_with("fuse") || self.options.iter().any(is_of_loop)
    }

    /// Whether a boot mounts it: not with `noauto`, and not what needs a network that
    /// is a service's to bring up.
    pub fn is_local(&self) -> bool {
        let network = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p-net", "glusterfs", "sshfs"];
        !self.has("noauto") && !self.has("_netdev") && !network.contains(&self.kind.as_str())
    }
}

/// Reads the file; lines that are none are told by their number.
pub fn parse(text: &str) -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<String> = line.split_whitespace().map(unescape).collect();
        let [source, target, kind, rest @ ..] = &fields[..] else {
            problems.push(format!("/etc/fstab:{number}: fewer than three fields; passed over"));
            continue;
        };
        entries.push(Entry {
            source: source.clone(),
            target: PathBuf::from(target),
            kind: kind.clone(),
            options: rest
                .first()
                .map(|options| options.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            pass: rest.get(2).and_then(|pass| pass.parse().ok()).unwrap_or(0),
        });
    }
    (entries, problems)
}

/// `\040` is a space (fstab(5)).
pub fn unescape(text: &str) -> String {
    String::from_utf8_lossy(&unescaped(text.as_bytes())).into_owned()
}

/// Options of mount(8) as flags of mount(2), and what is left for the file system.
pub fn flags<'a>(options: impl IntoIterator<Item = &'a str>) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut rest: Vec<&str> = Vec::new();
    for option in options {
        let (flag, on) = match option {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "relatime" => (MountFlags::RELATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "lazytime" => (MountFlags::LAZYTIME, true),
            "nolazytime" => (MountFlags::LAZYTIME, false),
            "silent" => (MountFlags::SILENT, true),
            "bind" => (MountFlags::BIND, true),
            "rbind" => (MountFlags::BIND | MountFlags::REC, true),
            // For mount(8), other programs and people.
            "defaults" | "auto" | "noauto" | "nofail" | "user" | "nouser" | "users" | "owner"
            | "group" | "_netdev" | "loud" | "" => continue,
            _ if option.starts_with("x-") || option.starts_with("comment=") => continue,
            _ => {
                rest.push(option);
                continue;
            }
        };
        flags.set(flag, on);
    }
    (flags, rest.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "# a comment\n\nUUID=1 / ext4 errors=remount-ro 0 1\n\
            /dev/sda2 /my\\040data xfs ro,nofail,x-systemd.automount\n\
            /swapfile none swap sw,pri=5 0 0\nnas:/x /net nfs defaults 0 0\nbroken line\n";
        let (entries, problems) = parse(text);
        assert_eq!(entries.len(), 4);
        assert_eq!(problems, ["/etc/fstab:7: fewer than three fields; passed over"]);
        assert_eq!(entries[0].pass, 1);
        assert_eq!(entries[1].target, PathBuf::from("/my data"));
        assert!(entries[1].has("nofail") && entries[1].is_local());
        assert!(entries[2].is_swap());
        assert_eq!(entries[2].value("pri"), Some("5"));
        assert!(!entries[3].is_local());
        let seconds = |n: usize| entries[n].patience().as_secs();
        assert_eq!((seconds(0), seconds(1)), (10, 2));
        let (more, _) = parse(
            "/a /b auto nofail,x-systemd.device-timeout=1min\n/c /d iso9660 ro,loop 0 0\n\
             /e /f ext4 offset=512\nx /g fuse.sshfs\n/h /i ext4 errors=loop\n",
        );
        assert_eq!(more[0].patience(), Duration::from_secs(60));
        let programs: Vec<bool> = more.iter().map(Entry::is_for_program).collect();
        assert_eq!(programs, [false, true, true, true, false]);
        let (flags, rest) = flags(entries[1].options.iter().map(String::as_str));
        assert_eq!((flags, rest.as_str()), (MountFlags::RDONLY, ""));
    }

    #[test]
    fn the_last_of_two_opposite_options_counts() {
        let (flags, rest) = flags("nosuid,ro,suid,size=1m,noexec,mode=755".split(','));
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOEXEC);
        assert_eq!(rest, "size=1m,mode=755");
    }
}
