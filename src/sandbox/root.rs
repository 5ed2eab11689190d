//! The part of the child's sequence that makes the container's file tree: mounts,
//! devices, masks, kernel parameters, then `pivot_root`. As in [`super::child`],
//! nothing here allocates, locks or panics.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::child::{Head, Inherited, Stepped, at, borrowed, descriptor, errno_of, read};
use super::plan;
use super::status::Step;
use super::tape::Reader;
use crate::sys::mount::{RDONLY, set_attributes};
use crate::sys::process;

/// Does all of it; with a root of its own the process is in it afterwards.
pub(super) fn enter(
    head: Head,
    tape: &mut Reader<'_>,
    inherited: &Inherited<'_>,
    new_namespaces: u64,
) -> Stepped {
    let has_root = read(tape.word())?;
    if new_namespaces & process::flags::NEWNS != 0 {
        // Nothing that is mounted from here on may reach the host, and nothing
        // that the host mounts later may come in (mount_namespaces(7)).
        at(
            Step::Private,
            0,
            rustix::mount::mount_change(
                c"/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            ),
        )?;
    }
    let root = if has_root == u64::MAX {
        None
    } else {
        let index = usize::try_from(has_root).unwrap_or(usize::MAX);
        Some(borrowed(read(inherited.fds.get(index).copied())?))
    };
    if let Some(root) = root {
        // On top of "/", the one directory that is there for every user; from
        // then on the descriptor is the attached root.
        at(
            Step::AttachRoot,
            0,
            rustix::mount::move_mount(
                root,
                c"",
                CWD,
                c"/",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            ),
        )?;
    }
    let base = root.unwrap_or(CWD);

    for index in 0..read(tape.number::<usize>())? {
        mount_one(tape, inherited, base, index)?;
    }
    for index in 0..read(tape.number::<usize>())? {
        let (path, target) = (read(tape.bytes())?, read(tape.string())?);
        match link_in_root(base, path, target) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return at(Step::Symlink, index, Err(errno)),
        }
    }
    // Before /proc/sys is made read-only, after it is the container's own.
    for index in 0..read(tape.number::<usize>())? {
        let (path, value) = (read(tape.string())?, read(tape.bytes())?);
        at(Step::Sysctl, index, write_in_root(base, path, value))?;
    }
    let mut cover = None;
    for index in 0..read(tape.number::<usize>())? {
        at(Step::Mask, index, mask(base, read(tape.string())?, &mut cover))?;
    }
    for index in 0..read(tape.number::<usize>())? {
        at(Step::ReadOnlyPath, index, read_only_path(base, read(tape.string())?))?;
    }
    let hostname = read(tape.bytes())?;
    if !hostname.is_empty() {
        at(Step::Hostname, 0, rustix::system::sethostname(hostname))?;
    }
    let workdir = read(tape.bytes())?;
    if let Some(root) = root {
        at(Step::Workdir, 0, open_or_make(root, workdir, false).map(drop))?;
        if head.flags & plan::flags::READ_ONLY_ROOT != 0 {
            // Only now: the targets of the mounts had to be made in it.
            at(Step::ReadOnlyRoot, 0, set_attributes(root, RDONLY, false).map_err(errno_of))?;
        }
        // pivot_root and not chroot: a chroot can be left again (pivot_root(2)).
        // The old root lands on top of the new one and is unmounted from there.
        at(Step::PivotRoot, 0, rustix::process::fchdir(root))?;
        at(Step::PivotRoot, 1, rustix::process::pivot_root(c".", c"."))?;
        at(Step::PivotRoot, 2, rustix::mount::unmount(c".", UnmountFlags::DETACH))?;
        at(Step::PivotRoot, 3, rustix::process::chdir(c"/"))?;
    }
    if head.flags & plan::flags::LOOPBACK != 0 {
        at(Step::Loopback, 0, loopback_up())?;
    }
    // Before the user changes: a directory of root's must not end the launch.
    let entered = with_path(workdir, |path| rustix::process::chdir(path));
    at(Step::Workdir, 1, entered)
}

fn mount_one(
    tape: &mut Reader<'_>,
    inherited: &Inherited<'_>,
    root: BorrowedFd<'_>,
    index: usize,
) -> Stepped {
    let opened = match read(tape.word())? {
        0 => {
            let kind = read(tape.string())?;
            let mut result = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC);
            if let Ok(fs) = &result {
                // What mount(8) shows as the device.
                let _ = rustix::mount::fsconfig_set_string(fs, c"source", kind);
            }
            for _ in 0..read(tape.number::<usize>())? {
                let (key, has_value) = (read(tape.string())?, read(tape.word())? != 0);
                let value = read(tape.string())?;
                if let Ok(fs) = &result {
                    let set = if has_value {
                        rustix::mount::fsconfig_set_string(fs, key, value)
                    } else {
                        rustix::mount::fsconfig_set_flag(fs, key)
                    };
                    if let Err(errno) = set {
                        result = Err(errno);
                    }
                }
            }
            Opened::Filesystem(result)
        }
        1 => {
            // The host's tree is still there, below the root on top of it; its
            // own "/" is where this process's root still is.
            let path = read(tape.string())?;
            Opened::Mount(rustix::mount::open_tree(
                CWD,
                path,
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
            ))
        }
        _ => Opened::Given(descriptor(tape, inherited)?),
    };
    let attributes = MountAttrFlags::from_bits_retain(read(tape.number::<u32>())?);
    let bits = read(tape.word())?;
    let (file, optional) = (bits & 1 != 0, bits & 2 != 0);
    let target = read(tape.bytes())?;
    let mounted = mount_opened(opened, attributes, root, target, file);
    match mounted {
        Err(_) if optional => Ok(()),
        mounted => at(Step::Mount, index, mounted),
    }
}

enum Opened<'a> {
    Filesystem(Result<OwnedFd, Errno>),
    Mount(Result<OwnedFd, Errno>),
    Given(BorrowedFd<'a>),
}

fn mount_opened(
    opened: Opened<'_>,
    attributes: MountAttrFlags,
    root: BorrowedFd<'_>,
    target: &[u8],
    file: bool,
) -> Result<(), Errno> {
    let target = open_or_make(root, target, file)?;
    let made;
    let mount = match opened {
        Opened::Filesystem(fs) => {
            let fs = fs?;
            rustix::mount::fsconfig_create(fs.as_fd())?;
            made = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
            made.as_fd()
        }
        Opened::Mount(mount) => {
            made = mount?;
            made.as_fd()
        }
        Opened::Given(mount) => mount,
    };
    attach(mount, target.as_fd())
}

fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::mount::move_mount(
        mount,
        c"",
        target,
        c"",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Everything inside a root is reached through the kernel's own resolution
/// within that root: a symbolic link in it, even one that changes meanwhile, can
/// only lead to another place in it (openat2(2)).
fn open_in_root(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a path of the root; makes the directories that are missing on the way,
/// and the last one, or an empty file.
fn open_or_make(root: BorrowedFd<'_>, path: &[u8], file: bool) -> Result<OwnedFd, Errno> {
    let whole = path.len();
    match open_prefix(root, path, whole) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    // Most often the last one alone is missing.
    let above = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let (mut parent, mut start) = match open_prefix(root, path, above) {
        Ok(parent) => (parent, above),
        Err(Errno::NOENT) => (open_prefix(root, path, 0)?, 0),
        Err(errno) => return Err(errno),
    };
    while start < whole {
        if path.get(start) == Some(&b'/') {
            start += 1;
            continue;
        }
        let len = path[start..].iter().position(|&byte| byte == b'/').unwrap_or(whole - start);
        let end = start + len;
        let last = path[end..].iter().all(|&byte| byte == b'/');
        let made = with_path(&path[start..end], |name| {
            if last && file {
                rustix::fs::openat(
                    &parent,
                    name,
                    OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY,
                    Mode::from_raw_mode(0o644),
                )
                .map(drop)
            } else {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
            }
        });
        match made {
            Ok(()) | Err(Errno::EXIST) => parent = open_prefix(root, path, end)?,
            Err(errno) => return Err(errno),
        }
        start = end;
    }
    Ok(parent)
}

/// Opens the first `end` bytes of `path` inside the root.
fn open_prefix(root: BorrowedFd<'_>, path: &[u8], end: usize) -> Result<OwnedFd, Errno> {
    with_path(path.get(..end).ok_or(Errno::INVAL)?, |path| {
        open_in_root(root, if path.is_empty() { c"/" } else { path }, OFlags::PATH)
    })
}

/// `path` as a C string on the stack.
fn with_path<T>(path: &[u8], act: impl FnOnce(&CStr) -> Result<T, Errno>) -> Result<T, Errno> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    let (last, room) = buffer.split_last_mut().ok_or(Errno::NAMETOOLONG)?;
    *last = 0;
    room.get_mut(..path.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(path);
    act(CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?)
}

fn link_in_root(root: BorrowedFd<'_>, path: &[u8], target: &CStr) -> Result<(), Errno> {
    let slash = path.iter().rposition(|&byte| byte == b'/').ok_or(Errno::INVAL)?;
    let parent = open_prefix(root, path, slash)?;
    with_path(&path[slash + 1..], |name| rustix::fs::symlinkat(target, &parent, name))
}

fn write_in_root(root: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = open_in_root(root, path, OFlags::WRONLY)?;
    rustix::io::write(&file, value).map(drop)
}

/// Hides a path: a directory behind an empty read-only one, a file behind
/// /dev/null (runtime-spec, config-linux "Masked Paths"). What is not there
/// needs no hiding. `empty` becomes the directory that all of them are hidden behind.
fn mask(root: BorrowedFd<'_>, path: &CStr, empty: &mut Option<OwnedFd>) -> Result<(), Errno> {
    const CLONE: OpenTreeFlags =
        OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

    let target = match open_in_root(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        target => target?,
    };
    let kind = rustix::fs::statat(&target, c"", AtFlags::EMPTY_PATH)?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::Directory {
        let null = rustix::mount::open_tree(CWD, c"/dev/null", CLONE)?;
        return attach(null.as_fd(), target.as_fd());
    }
    if let Some(empty) = empty {
        let again = rustix::mount::open_tree(&*empty, c"", CLONE | OpenTreeFlags::AT_EMPTY_PATH)?;
        return attach(again.as_fd(), target.as_fd());
    }
    let fs = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, c"size", c"0")?;
    rustix::mount::fsconfig_create(&fs)?;
    let flags = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY);
    let first = rustix::mount::fsmount(&fs, flags.0, flags.1)?;
    attach(first.as_fd(), target.as_fd())?;
    *empty = Some(first);
    Ok(())
}

fn read_only_path(root: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let target = match open_in_root(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        target => target?,
    };
    let clone = rustix::mount::open_tree(
        &target,
        c"",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )?;
    set_attributes(clone.as_fd(), RDONLY, true).map_err(errno_of)?;
    attach(clone.as_fd(), target.as_fd())
}

fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is a valid value of the C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    use std::os::fd::AsRawFd;
    // SAFETY: SIOCSIFFLAGS reads the ifreq behind the pointer (netdevice(7)).
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } < 0 {
        return Err(process::errno());
    }
    Ok(())
}
