//! The child's way from clone3(2) to execve(2), told in the order in which it
//! happens. It reads the plan's tape front to back; each step stands where it
//! does for the reason beside it. Nothing here allocates, locks or panics.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::init;
use super::plan::{self, MAGIC};
use super::status::{Failure, Step, append};
use super::tape::Reader;
use crate::sys::mount::{RDONLY, set_attributes};
use crate::sys::process::{Clone, clone3, close_from, close_on_exec_from, execve, exit_now};
use crate::sys::{process, signals};

/// What a child inherits from the keeper beside the tape.
#[derive(Debug)]
pub struct Inherited<'a> {
    /// The descriptors that came with the launch, by index.
    pub fds: &'a [RawFd],
    /// The launch's status file, open for appending.
    pub status: RawFd,
    /// The engine's end closes when the payload was executed (close-on-exec).
    pub error_pipe: RawFd,
    /// Read: one byte comes when the keeper has written the child's pid down.
    pub go: RawFd,
    /// The other end, which the child must not keep open: the keeper's death
    /// must be an end of file.
    pub go_write: RawFd,
    /// Where the first of two steps says the second's pid.
    pub second: &'a AtomicI32,
}

/// What the keeper itself reads of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// See [`plan::flags`].
    pub flags: u64,
    /// The index of the cgroup2 directory to clone into.
    pub cgroup: Option<usize>,
}

/// Reads a tape's head; `None` if it is of another version.
pub fn read_head(tape: &mut Reader<'_>) -> Option<Head> {
    if tape.word()? != MAGIC {
        return None;
    }
    let flags = tape.word()?;
    let cgroup = tape.word()?;
    Some(Head {
        flags,
        cgroup: if cgroup == u64::MAX {
            None
        } else {
            cgroup.try_into().ok()
        },
    })
}

type Stepped<T = ()> = Result<T, Failure>;

fn at<T, E: Into<Errno>>(step: Step, index: usize, result: Result<T, E>) -> Stepped<T> {
    result.map_err(|errno| Failure {
        step,
        index,
        errno: errno.into(),
    })
}

/// A tape that ends too early or has a number that can't be is a bug of the
/// engine; it must not become one of the keeper's.
fn read<T>(value: Option<T>) -> Stepped<T> {
    value.ok_or(Failure {
        step: Step::Plan,
        index: 0,
        errno: Errno::INVAL,
    })
}

/// Everything the child does; `tape` stands behind the head. Never returns.
///
/// All signals must be blocked.
pub fn run(head: Head, mut tape: Reader<'_>, inherited: &Inherited<'_>) -> ! {
    let Err(failure) = sequence(head, &mut tape, inherited);
    fail(inherited, failure)
}

/// Writes the failure where the engine finds it, and ends with Docker's status.
fn fail(inherited: &Inherited<'_>, failure: Failure) -> ! {
    let numbers = [
        failure.step as u64,
        failure.index as u64,
        failure.errno.raw_os_error() as u64,
    ];
    for fd in [inherited.status, inherited.error_pipe] {
        // SAFETY: the keeper keeps both open for its children's time before exec.
        append(unsafe { process::borrow(fd) }, "error", &numbers);
    }
    exit_now(failure.exit_code())
}

fn sequence(
    head: Head,
    tape: &mut Reader<'_>,
    inherited: &Inherited<'_>,
) -> Stepped<std::convert::Infallible> {
    signals::reset_all();

    // 1. With the host's rights: what a user namespace could not do any more.
    let procs = read(tape.number::<usize>())?;
    for index in 0..procs {
        let fd = descriptor(tape, inherited)?;
        // "0" is the writer itself (cgroups(7), v1 "cgroup.procs").
        at(Step::Cgroup, index, rustix::io::write(fd, b"0"))?;
    }
    let oom_score = read(tape.signed())?;
    if oom_score != i64::MAX {
        at(
            Step::OomScore,
            0,
            write_number(c"/proc/self/oom_score_adj", oom_score),
        )?;
    }
    for index in 0..read(tape.number::<usize>())? {
        let resource = read(tape.number::<u32>())?;
        let (soft, hard) = (read(tape.word())?, read(tape.word())?);
        at(Step::Rlimit, index, set_rlimit(resource, soft, hard))?;
    }

    // 2. Into namespaces that exist: the network before the user namespace, for
    // entering it takes rights over the namespace that owns it (setns(2)).
    for index in 0..read(tape.number::<usize>())? {
        let fd = descriptor(tape, inherited)?;
        let kind = read(tape.number::<i32>())?;
        at(Step::JoinNamespace, index, setns(fd, kind))?;
        if kind & libc::CLONE_NEWUSER != 0 {
            // We are still the host's root, who has no id in there; what is made
            // from here on must belong to the container's.
            at(Step::JoinNamespace, index, become_root())?;
        }
    }
    let new_namespaces = read(tape.word())?;
    if head.flags & plan::flags::TWO_STEP != 0 {
        // A pid namespace takes in only children (pid_namespaces(7)); as our
        // parent's child (CLONE_PARENT) the second step is the keeper's to reap.
        // SAFETY: this process has one thread, and both sides keep to
        // async-signal-safe calls until they exec or exit.
        match at(
            Step::Clone,
            0,
            unsafe { clone3(new_namespaces | process::flags::PARENT, None) }.map_err(errno_of),
        )? {
            Clone::Parent(pid) => {
                inherited.second.store(pid, Ordering::SeqCst);
                exit_now(0);
            }
            Clone::Child => {}
        }
    }

    // 3. Not a step further before the keeper has written down who we are: then
    // a container without a record can't exist, whoever is killed when.
    // SAFETY: nothing else in this process uses the descriptor.
    unsafe { libc::close(inherited.go_write) };
    let mut byte = [0u8];
    // SAFETY: the keeper opened it for this child.
    let go = unsafe { process::borrow(inherited.go) };
    if at(
        Step::Keeper,
        0,
        rustix::io::retry_on_intr(|| rustix::io::read(go, &mut byte[..])),
    )? != 1
    {
        exit_now(125);
    }

    // 4. The root filesystem and what is mounted in it.
    mount_all(head, tape, inherited, new_namespaces)?;

    // 5. The payload, under its init or as the first process itself.
    if head.flags & plan::flags::INIT != 0 {
        // An init that is not PID 1 adopts orphans only when it says so (prctl(2)).
        at(
            Step::Fork,
            0,
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())),
        )?;
        // SAFETY: as above, one thread; the parent goes on in `init::run`.
        match at(Step::Fork, 0, unsafe { clone3(0, None) }.map_err(errno_of))? {
            Clone::Parent(pid) => become_init(pid, inherited),
            Clone::Child => {}
        }
    }
    become_payload(head, tape, inherited)
}

/// The parent of the payload gives up all that init does not need.
fn become_init(payload: i32, inherited: &Inherited<'_>) -> ! {
    // Nobody in the container may read what the keeper's copied memory holds.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let _ = rustix::thread::set_name(c"berth-init");
    let _ = rustix::process::setsid();
    // SAFETY: the keeper opened it for this launch.
    let status = unsafe { process::borrow(inherited.status) };
    let own = rustix::io::fcntl_dupfd_cloexec(status, 3);
    // The status file becomes descriptor 3, everything else is closed: pipes,
    // locks and sockets of the keeper must not live on in here.
    if let Ok(own) = own
        && let Some(payload) = rustix::process::Pid::from_raw(payload)
    {
        use std::os::fd::{FromRawFd, IntoRawFd};
        let own = own.into_raw_fd();
        // SAFETY: descriptors 0 to 3 belong to nothing else in this process.
        let kept = unsafe {
            if own != 3 {
                libc::dup3(own, 3, libc::O_CLOEXEC);
            }
            for stdio in 0..3 {
                libc::close(stdio);
            }
            OwnedFd::from_raw_fd(3)
        };
        close_from(4);
        keep_only_kill();
        init::run(payload, kept)
    }
    exit_now(125)
}

/// Init sends signals to a payload of another user; it needs nothing else.
fn keep_only_kill() {
    let kill = CapabilitySet::KILL;
    let sets = CapabilitySets {
        effective: kill,
        permitted: kill,
        inheritable: CapabilitySet::empty(),
    };
    let _ = rustix::thread::set_capabilities(None, sets);
}

fn mount_all(
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
    for index in 0..read(tape.number::<usize>())? {
        at(Step::Mask, index, mask(base, read(tape.string())?))?;
    }
    for index in 0..read(tape.number::<usize>())? {
        at(
            Step::ReadOnlyPath,
            index,
            read_only_path(base, read(tape.string())?),
        )?;
    }
    let hostname = read(tape.bytes())?;
    if !hostname.is_empty() {
        at(Step::Hostname, 0, rustix::system::sethostname(hostname))?;
    }
    let workdir = read(tape.bytes())?;
    if let Some(root) = root {
        at(
            Step::Workdir,
            0,
            open_or_make(root, workdir, false).map(drop),
        )?;
        if head.flags & plan::flags::READ_ONLY_ROOT != 0 {
            // Only now: the targets of the mounts had to be made in it.
            at(
                Step::ReadOnlyRoot,
                0,
                set_attributes(root, RDONLY, false).map_err(errno_of),
            )?;
        }
        // pivot_root and not chroot: a chroot can be left again (pivot_root(2)).
        // The old root lands on top of the new one and is unmounted from there.
        at(Step::PivotRoot, 0, rustix::process::fchdir(root))?;
        at(Step::PivotRoot, 1, rustix::process::pivot_root(c".", c"."))?;
        at(
            Step::PivotRoot,
            2,
            rustix::mount::unmount(c".", UnmountFlags::DETACH),
        )?;
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
    let mut parent = open_in_root(root, c"/", OFlags::PATH | OFlags::DIRECTORY)?;
    let mut start = 0;
    while start < whole {
        if path.get(start) == Some(&b'/') {
            start += 1;
            continue;
        }
        let len = path[start..]
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(whole - start);
        let end = start + len;
        match open_prefix(root, path, end) {
            Ok(found) => parent = found,
            Err(Errno::NOENT) => {
                let last = path[end..].iter().all(|&byte| byte == b'/');
                with_path(&path[start..end], |name| {
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
                })?;
                parent = open_prefix(root, path, end)?;
            }
            Err(errno) => return Err(errno),
        }
        start = end;
    }
    Ok(parent)
}

/// Opens the first `end` bytes of `path` inside the root.
fn open_prefix(root: BorrowedFd<'_>, path: &[u8], end: usize) -> Result<OwnedFd, Errno> {
    with_path(path.get(..end).ok_or(Errno::INVAL)?, |path| {
        open_in_root(
            root,
            if path.is_empty() { c"/" } else { path },
            OFlags::PATH,
        )
    })
}

/// `path` as a C string on the stack.
fn with_path<T>(path: &[u8], act: impl FnOnce(&CStr) -> Result<T, Errno>) -> Result<T, Errno> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    let (last, room) = buffer.split_last_mut().ok_or(Errno::NAMETOOLONG)?;
    *last = 0;
    room.get_mut(..path.len())
        .ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(path);
    act(CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?)
}

fn link_in_root(root: BorrowedFd<'_>, path: &[u8], target: &CStr) -> Result<(), Errno> {
    let slash = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .ok_or(Errno::INVAL)?;
    let parent = open_prefix(root, path, slash)?;
    with_path(&path[slash + 1..], |name| {
        rustix::fs::symlinkat(target, &parent, name)
    })
}

fn write_in_root(root: BorrowedFd<'_>, path: &CStr, value: &[u8]) -> Result<(), Errno> {
    let file = open_in_root(root, path, OFlags::WRONLY)?;
    rustix::io::write(&file, value).map(drop)
}

/// Hides a path: a directory behind an empty read-only one, a file behind
/// /dev/null (runtime-spec, config-linux "Masked Paths"). What is not there
/// needs no hiding.
fn mask(root: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let target = match open_in_root(root, path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        target => target?,
    };
    let kind = rustix::fs::statat(&target, c"", AtFlags::EMPTY_PATH)?.st_mode;
    let cover = if FileType::from_raw_mode(kind) == FileType::Directory {
        let fs = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&fs, c"size", c"0")?;
        rustix::mount::fsconfig_create(&fs)?;
        rustix::mount::fsmount(
            &fs,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )?
    } else {
        rustix::mount::open_tree(
            CWD,
            c"/dev/null",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )?
    };
    attach(cover.as_fd(), target.as_fd())
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

fn become_payload(
    head: Head,
    tape: &mut Reader<'_>,
    inherited: &Inherited<'_>,
) -> Stepped<std::convert::Infallible> {
    // A session of its own: the terminal of whoever started Berth sends no
    // signals here.
    let _ = rustix::process::setsid();
    let mut stdio = [0; 3];
    for fd in &mut stdio {
        let index = read(tape.number::<usize>())?;
        *fd = read(inherited.fds.get(index).copied())?;
    }
    at(Step::Stdio, 0, set_stdio(stdio))?;
    if head.flags & plan::flags::TTY != 0 {
        at(Step::Terminal, 0, take_terminal())?;
    }
    rustix::process::umask(Mode::from_raw_mode(read(tape.number::<u32>())?));

    let no_new_privs = head.flags & plan::flags::NO_NEW_PRIVS != 0;
    let mut groups = [Gid::ROOT; 256];
    let count = read(tape.number::<usize>())?;
    for index in 0..count {
        let group = Gid::from_raw(read(tape.number::<u32>())?);
        *read(groups.get_mut(index))? = group;
    }
    let gid = Gid::from_raw(read(tape.number::<u32>())?);
    let uid = Uid::from_raw(read(tape.number::<u32>())?);
    let limited = read(tape.word())? != 0;
    let mut sets = [CapabilitySet::empty(); 5];
    for set in &mut sets {
        *set = CapabilitySet::from_bits_retain(read(tape.word())?);
    }
    let [bounding, effective, permitted, inheritable, ambient] = sets;
    let filter = read(tape.bytes())?;

    // The bounding set first: dropping from it takes CAP_SETPCAP.
    if limited {
        at(Step::Capabilities, 0, drop_bounding(bounding))?;
    }
    // Without no_new_privs the filter can only be installed with CAP_SYS_ADMIN,
    // so before that is dropped (seccomp(2)).
    if !no_new_privs && !filter.is_empty() {
        at(Step::Seccomp, 0, install_filter(filter))?;
    }
    // Groups before the user: afterwards the right to set them is gone.
    at(
        Step::Groups,
        0,
        rustix::thread::set_thread_groups(read(groups.get(..count))?),
    )?;
    at(
        Step::Groups,
        1,
        rustix::thread::set_thread_res_gid(gid, gid, gid),
    )?;
    // Keep the permitted set over the change of user, so that the wanted sets can
    // be put in force after it (capabilities(7)).
    at(
        Step::User,
        0,
        rustix::thread::set_keep_capabilities(limited),
    )?;
    at(
        Step::User,
        1,
        rustix::thread::set_thread_res_uid(uid, uid, uid),
    )?;
    if limited {
        // Berth itself may have been started without some (it runs in somebody
        // else's container): what it does not have it can't give.
        let held = at(Step::Capabilities, 1, rustix::thread::capabilities(None))?.permitted;
        let sets = CapabilitySets {
            effective: effective & held,
            permitted: permitted & held,
            inheritable: inheritable & held,
        };
        at(
            Step::Capabilities,
            1,
            rustix::thread::set_capabilities(None, sets),
        )?;
        for capability in (ambient & held).iter() {
            at(
                Step::Capabilities,
                2,
                rustix::thread::configure_capability_in_ambient_set(capability, true),
            )?;
        }
    }
    if no_new_privs {
        at(
            Step::Capabilities,
            3,
            rustix::thread::set_no_new_privs(true),
        )?;
        // Last of all: the filter need not allow what the steps before it took.
        if !filter.is_empty() {
            at(Step::Seccomp, 0, install_filter(filter))?;
        }
    }

    let (argv, envp) = (read(tape.pointers())?, read(tape.pointers())?);
    close_on_exec_from(3);
    signals::restore(0);
    let mut refused = None;
    let mut last = Errno::NOENT;
    let mut tried = 0;
    for index in 0..read(tape.number::<usize>())? {
        let program = read(tape.string())?;
        // SAFETY: both arrays were built NULL-terminated by the tape's reader.
        last = unsafe { execve(program, argv, envp) };
        tried = index;
        match last {
            Errno::NOENT | Errno::NOTDIR => {}
            // As execvp(3) does: another directory may have one that can be run.
            Errno::ACCESS => refused = Some((index, last)),
            _ => break,
        }
    }
    let (index, errno) = match (refused, last) {
        (Some(refused), Errno::NOENT | Errno::NOTDIR) => refused,
        _ => (tried, last),
    };
    Err(Failure {
        step: Step::Exec,
        index,
        errno,
    })
}

fn set_stdio(from: [RawFd; 3]) -> Result<(), Errno> {
    // First out of the way of 0, 1 and 2, so that none is overwritten early.
    let mut moved = [0; 3];
    for (moved, fd) in moved.iter_mut().zip(from) {
        use std::os::fd::IntoRawFd;
        *moved = rustix::io::fcntl_dupfd_cloexec(borrowed(fd), 3)?.into_raw_fd();
    }
    for (number, fd) in (0..).zip(moved) {
        // SAFETY: 0, 1 and 2 belong to nothing else in this process.
        if unsafe { libc::dup3(fd, number, 0) } < 0 {
            return Err(process::errno());
        }
    }
    Ok(())
}

fn take_terminal() -> Result<(), Errno> {
    // SAFETY: an ioctl on descriptor 0 with a plain number.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(process::errno());
    }
    Ok(())
}

fn drop_bounding(keep: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn install_filter(filter: &[u8]) -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let program = libc::sock_fprog {
        len: (filter.len() / size_of::<libc::sock_filter>()) as u16,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` points to `len` instructions on the tape, which is
    // aligned to 8 bytes and outlives the call; the kernel copies and checks it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            0,
            std::ptr::from_ref(&program),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(process::errno())
    }
}

fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let resource = match resource {
        0 => Resource::Cpu,
        1 => Resource::Fsize,
        2 => Resource::Data,
        3 => Resource::Stack,
        4 => Resource::Core,
        5 => Resource::Rss,
        6 => Resource::Nproc,
        7 => Resource::Nofile,
        8 => Resource::Memlock,
        9 => Resource::As,
        10 => Resource::Locks,
        11 => Resource::Sigpending,
        12 => Resource::Msgqueue,
        13 => Resource::Nice,
        14 => Resource::Rtprio,
        15 => Resource::Rttime,
        _ => return Err(Errno::INVAL),
    };
    let limit = |value: u64| if value == u64::MAX { None } else { Some(value) };
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: limit(soft),
            maximum: limit(hard),
        },
    )
}

fn setns(fd: BorrowedFd<'_>, kinds: i32) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // SAFETY: a borrowed descriptor and flags; touches no memory.
    if unsafe { libc::setns(fd.as_raw_fd(), kinds) } < 0 {
        return Err(process::errno());
    }
    Ok(())
}

fn become_root() -> Result<(), Errno> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
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

fn write_number(path: &CStr, number: i64) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0u8; 24];
    let mut at = text.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        text[at] = b'-';
    }
    rustix::io::write(&file, &text[at..]).map(drop)
}

fn descriptor(tape: &mut Reader<'_>, inherited: &Inherited<'_>) -> Stepped<BorrowedFd<'static>> {
    let index = read(tape.number::<usize>())?;
    Ok(borrowed(read(inherited.fds.get(index).copied())?))
}

fn borrowed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: descriptors of a launch stay open in the child until execve.
    unsafe { process::borrow(fd) }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
