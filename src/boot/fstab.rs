//! `/etc/fstab` (fstab(5)) and mount options to what mount(2) takes. Pure.

use std::path::PathBuf;

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
            "strictatime" => (MountFlags::STRICTATIME, true),
            "lazytime" => (MountFlags::LAZYTIME, true),
            "silent" => (MountFlags::SILENT, true),
            "bind" => (MountFlags::BIND, true),
            "rbind" => (MountFlags::BIND | MountFlags::REC, true),
            // For mount(8), other programs and people.
            "defaults" | "auto" | "noauto" | "nofail" | "user" | "nouser" | "users" | "owner"
            | "group" | "_netdev" | "" => continue,
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
