//! The child's way from clone3(2) to execve(2), told in the order in which it
//! happens. It reads the plan's tape front to back; each step stands where it
//! does for the reason beside it. Nothing here allocates, locks or panics.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicI32;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::plan::{self, MAGIC, OUTPUT_MAX};
use super::status::{Failure, Step, append};
use super::tape::Reader;
use super::{init, payload, root};
use crate::sys::process::{Clone, clone3, close_from, exit_now};
use crate::sys::{process, signals};

/// What a child inherits from the keeper beside the tape.
#[derive(Debug, Clone, Copy)]
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
    /// Where the second step's pid is written before that runs.
    pub second: &'a AtomicI32,
    /// The keeper's own arguments.
    pub arguments: process::Arguments,
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
    Some(Head { flags, cgroup: if cgroup == u64::MAX { None } else { cgroup.try_into().ok() } })
}

pub(super) type Stepped<T = ()> = Result<T, Failure>;

pub(super) fn at<T, E: Into<Errno>>(step: Step, index: usize, result: Result<T, E>) -> Stepped<T> {
    result.map_err(|errno| Failure { step, index, errno: errno.into() })
}

/// A tape that ends too early or has a number that can't be is a bug of the
/// engine; it must not become one of the keeper's.
pub(super) fn read<T>(value: Option<T>) -> Stepped<T> {
    value.ok_or(Failure { step: Step::Plan, index: 0, errno: Errno::INVAL })
}

/// Whether the first process of a launch only makes the second one.
pub fn is_two_step(head: &Head) -> bool {
    head.flags & plan::flags::TWO_STEP != 0
}

/// Clones the first process of a launch, into `cgroup` if there is one; gives its pid.
/// To be called with all signals blocked: none may run a handler of the caller's in the
/// child, and container init must lose none that comes early.
pub fn spawn(
    head: Head,
    tape: Reader<'_>,
    inherited: &Inherited<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> std::io::Result<i32> {
    // Not CLONE_VFORK: in a cgroup that is frozen the caller would stand still with it.
    // SAFETY: the child only runs `run`, which keeps to async-signal-safe calls and
    // never returns.
    match unsafe { clone3(0, cgroup, None) }? {
        Clone::Parent(pid) => Ok(pid),
        Clone::Child => run(head, tape, inherited),
    }
}

/// Everything the child does; `tape` stands behind the head. Never returns.
///
/// All signals must be blocked.
fn run(head: Head, mut tape: Reader<'_>, inherited: &Inherited<'_>) -> ! {
    let Err(failure) = sequence(head, &mut tape, inherited);
    fail(inherited, failure)
}

/// Writes the failure where the engine finds it, and ends with Docker's status.
pub(super) fn fail(inherited: &Inherited<'_>, failure: Failure) -> ! {
    let numbers = [failure.step as u64, failure.index as u64, failure.errno.raw_os_error() as u64];
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
    // Whoever may trace in the namespaces that are entered next must not trace us, who have
    // the keeper's memory and the host's root (ptrace(2)). execve(2) sets it anew.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    signals::reset_all();

    // 1. With the host's rights: what a user namespace could not do any more.
    let procs = read(tape.number::<usize>())?;
    for index in 0..procs {
        let fd = descriptor(tape, inherited)?;
        // "0" is the writer itself (cgroups(7), v1 "tasks").
        at(Step::Cgroup, index, rustix::io::write(fd, b"0"))?;
    }
    let oom_score = read(tape.signed())?;
    if oom_score != i64::MAX {
        at(Step::OomScore, 0, write_number(c"/proc/self/oom_score_adj", oom_score))?;
    }
    let mut open_files = None;
    for index in 0..read(tape.number::<usize>())? {
        let resource = read(tape.number::<u32>())?;
        let (soft, hard) = (read(tape.word())?, read(tape.word())?);
        if resource == libc::RLIMIT_NOFILE {
            // What was inherited has higher numbers than a payload may have; it is closed,
            // and the limit lowered, when nothing is opened any more.
            at(Step::Rlimit, index, raise_open_files(hard))?;
            open_files = Some((soft, hard));
            continue;
        }
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
        let flags = new_namespaces | process::flags::PARENT;
        // SAFETY: this process has one thread, and both sides keep to
        // async-signal-safe calls until they exec or exit.
        let cloned = unsafe { clone3(flags, None, Some(inherited.second)) };
        match at(Step::Clone, 0, cloned.map_err(errno_of))? {
            Clone::Parent(_) => exit_now(0),
            Clone::Child => {}
        }
    }

    // 3. The root filesystem and what is mounted in it, which goes with us. Meanwhile
    // the keeper writes down who we are.
    // SAFETY: nothing else in this process uses the descriptor.
    unsafe { libc::close(inherited.go_write) };
    root::enter(head, tape, inherited, new_namespaces)?;

    // 4. Not a step further before it has: then nothing of a payload can run without a
    // record, whoever is killed when.
    let mut byte = [0u8];
    // SAFETY: the keeper opened it for this child.
    let go = unsafe { process::borrow(inherited.go) };
    if at(Step::Keeper, 0, rustix::io::retry_on_intr(|| rustix::io::read(go, &mut byte[..])))? != 1
    {
        exit_now(125);
    }

    // 5. The payload, under its init or as the first process itself.
    let mut output = [-1; OUTPUT_MAX];
    for index in 0..read(tape.number::<usize>())? {
        let fd = read(tape.number::<usize>())?;
        *read(output.get_mut(index))? = read(inherited.fds.get(fd).copied())?;
    }
    if head.flags & plan::flags::INIT != 0 {
        // An init that is not PID 1 adopts orphans only when it says so (prctl(2)).
        at(Step::Fork, 0, rustix::process::set_child_subreaper(Some(rustix::process::getpid())))?;
        // SAFETY: as above, one thread; the parent goes on in `init::run`.
        let cloned = unsafe { clone3(0, None, None) };
        match at(Step::Fork, 0, cloned.map_err(errno_of))? {
            Clone::Parent(pid) => become_init(pid, inherited, output, open_files),
            Clone::Child => {}
        }
    }
    payload::become_payload(head, tape, inherited, open_files)
}

/// The parent of the payload gives up all that init does not need.
fn become_init(
    payload: i32,
    inherited: &Inherited<'_>,
    output: [RawFd; OUTPUT_MAX],
    open_files: Option<(u64, u64)>,
) -> ! {
    // Nobody in the container may read what the keeper's copied memory holds.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let _ = rustix::thread::set_name(c"berth-init");
    // How Berth was started is nobody's business in there either.
    // SAFETY: a fork of the keeper, which took a copy of its arguments at its start.
    unsafe { inherited.arguments.replace(b"berth-init") };
    let _ = rustix::process::setsid();
    let kept = keep_only([inherited.status, output[0], output[1], output[2]]);
    if let Some(limits) = open_files {
        let _ = limit_open_files(limits);
    }
    keep_only_kill();
    if let ([Some(status), output @ ..], Some(payload)) =
        (kept, rustix::process::Pid::from_raw(payload))
    {
        init::run(payload, status, output)
    }
    exit_now(125)
}

/// Closes everything but these, for pipes, locks and sockets of the keeper must not live on
/// in here. They become the descriptors from 3 on; those that are negative are none.
pub(crate) fn keep_only<const N: usize>(fds: [RawFd; N]) -> [Option<OwnedFd>; N] {
    use std::os::fd::{FromRawFd, IntoRawFd};
    const FIRST: RawFd = 3;
    let end = FIRST + N as RawFd;
    // All away first, so that none is overwritten early.
    let away = fds.map(|fd| {
        let copy = (fd >= 0).then(|| rustix::io::fcntl_dupfd_cloexec(borrowed(fd), end));
        copy.and_then(Result::ok).map(IntoRawFd::into_raw_fd)
    });
    let mut number = FIRST;
    let kept = away.map(|fd| {
        let to = number;
        number += 1;
        let moved = fd.is_some_and(|fd| {
            // SAFETY: what had this number was copied above, or is not needed.
            unsafe { libc::dup3(fd, to, libc::O_CLOEXEC) >= 0 }
        });
        if !moved {
            // SAFETY: as above.
            unsafe { libc::close(to) };
        }
        // SAFETY: it was made just now, and belongs to nothing else in this process.
        moved.then(|| unsafe { OwnedFd::from_raw_fd(to) })
    });
    for stdio in 0..FIRST {
        // SAFETY: nothing in this process uses them from here on.
        unsafe { libc::close(stdio) };
    }
    close_from(end);
    kept
}

/// Init sends signals to a payload of another user; it needs nothing else.
fn keep_only_kill() {
    let kill = CapabilitySet::KILL;
    let sets =
        CapabilitySets { effective: kill, permitted: kill, inheritable: CapabilitySet::empty() };
    let _ = rustix::thread::set_capabilities(None, sets);
}

/// Raising a hard limit takes the host's rights, lowering it takes none (setrlimit(2)).
fn raise_open_files(hard: u64) -> Result<(), Errno> {
    let own = rustix::process::getrlimit(Resource::Nofile);
    let wanted = if hard == u64::MAX { None } else { Some(hard) };
    let is_enough = match (own.maximum, wanted) {
        (None, _) => true,
        (Some(own), Some(wanted)) => wanted <= own,
        (Some(_), None) => false,
    };
    if is_enough {
        return Ok(());
    }
    rustix::process::setrlimit(Resource::Nofile, Rlimit { maximum: wanted, ..own })
}

/// The last word on how many descriptors there may be, for the payload and its init.
pub(super) fn limit_open_files((soft, hard): (u64, u64)) -> Result<(), Errno> {
    set_rlimit(libc::RLIMIT_NOFILE, soft, hard)
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
    rustix::process::setrlimit(resource, Rlimit { current: limit(soft), maximum: limit(hard) })
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

pub(super) fn descriptor(
    tape: &mut Reader<'_>,
    inherited: &Inherited<'_>,
) -> Stepped<BorrowedFd<'static>> {
    let index = read(tape.number::<usize>())?;
    Ok(borrowed(read(inherited.fds.get(index).copied())?))
}

pub(super) fn borrowed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: descriptors of a launch stay open in the child until execve.
    unsafe { process::borrow(fd) }
}

pub(super) fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
