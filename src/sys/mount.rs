//! `mount_setattr(2)`: attributes and id mappings of mounts.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `MOUNT_ATTR_RDONLY`: nothing can be written through this mount.
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`: set-user-ID bits and file capabilities have no effect.
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`: device files can't be opened.
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`: programs can't be executed.
pub const NOEXEC: u64 = 0x8;

/// `MOUNT_ATTR_NOATIME`: access times are not kept.
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`: access times are always kept.
pub const STRICTATIME: u64 = 0x20;

/// `MOUNT_ATTR__ATIME`: all that say which access times are kept.
const ATIME: u64 = 0x70;
const IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Sets attributes (`RDONLY` and the like) of a mount that is known by its
/// descriptor, and of all below it when `recursive`.
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    // Access times are a choice and no flag: another one takes the place of what was.
    let clear = if set & ATIME == 0 { 0 } else { ATIME };
    setattr(mount, &MountAttr { set, clear, propagation: 0, userns: 0 }, recursive)
}

/// Takes a mount out of its peer group: a clone of one that is shared (systemd makes all of
/// a machine so) passes on what is mounted on it to the one that it was cloned from.
pub fn make_private(mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let propagation = libc::MS_PRIVATE;
    setattr(mount, &MountAttr { set: 0, clear: 0, propagation, userns: 0 }, recursive)
}

/// Makes a detached mount show its files with the ids of a user namespace: id 0
/// on disk is the first id of the namespace's mapping, and the other way round for
/// what is written. The mount must be new and detached.
///
/// EINVAL: the file system can't be idmapped (tmpfs before Linux 6.3, overlay,
/// NFS). EPERM: the mount is idmapped already, or is in use by a mount namespace.
pub fn idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns = userns.as_raw_fd() as u64;
    setattr(mount, &MountAttr { set: IDMAP, clear: 0, propagation: 0, userns }, recursive)
}

fn setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let at_recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` points to a live
    // structure of the size that is passed, and the kernel only reads both.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | at_recursive,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
