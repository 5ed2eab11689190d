//! `/proc/self/mountinfo`, proc_pid_mountinfo(5): where the host's mounts are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// Where it is.
    pub point: PathBuf,
    /// Such as `ext4`.
    pub fs_type: String,
}

/// File systems that are the kernel's own state.
const KERNEL: [&str; 23] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "cgroup",
    "cgroup2",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "bpf",
    "configfs",
    "nfsd",
    "rpc_pipefs",
    "fusectl",
    "binfmt_misc",
    "hugetlbfs",
    "efivarfs",
    "autofs",
    "nsfs",
    "rootfs",
    "ramfs",
];

/// Those of other machines or programs, which may be gone and hang whoever asks.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "fuse"];

impl HostMount {
    /// Whether it is the kernel's own, with no files to lose or to show.
    pub fn is_kernels(&self) -> bool {
        KERNEL.contains(&self.fs_type.as_str())
    }

    /// Whether it is a server's that may not answer.
    pub fn is_remote(&self) -> bool {
        REMOTE.contains(&self.fs_type.as_str()) || self.fs_type.starts_with("fuse.")
    }
}

/// The mounts, in the table's order; lines that can't be read are passed over.
pub fn parse(table: &[u8]) -> Vec<HostMount> {
    table.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
fn line(line: &[u8]) -> Option<HostMount> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescaped(fields.nth(4)?);
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(HostMount {
        point: PathBuf::from(OsString::from_vec(point)),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
    })
}

/// Space, tab, newline and backslash are written as a backslash and three octal
/// digits, here as in fstab(5).
pub fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|d| *byte == b'\\' && d.iter().all(is_octal));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0u32, |v, d| v * 8 + u32::from(d - b'0'));
                plain.push(value as u8);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    plain
}

fn is_octal(digit: &u8) -> bool {
    (b'0'..=b'7').contains(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_types_are_found_and_unescaped() {
        let table =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134 rw,noatime master:1 shared:3 - ext4 /dev/root rw\n\
                      37 35 0:1 / /proc rw - proc proc rw\n\
                      garbage\n";
        let mount =
            |point: &str, fs_type: &str| HostMount { point: point.into(), fs_type: fs_type.into() };
        assert_eq!(parse(table), [mount("/mnt 2\\", "ext4"), mount("/proc", "proc")]);
    }

    #[test]
    fn the_machines_own_table_has_a_root() {
        let table = std::fs::read("/proc/self/mountinfo").unwrap();
        assert!(parse(&table).iter().any(|m| m.point == std::path::Path::new("/")));
    }
}
