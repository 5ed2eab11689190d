//! The last part of the child's sequence: from the container's root to execve(2). As
//! in [`super::child`], nothing here allocates, locks or panics.

use std::os::fd::RawFd;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::child::{Head, Inherited, Stepped, at, borrowed, limit_open_files, read};
use super::plan::{self, SOCKETS_MAX};
use super::status::{Failure, Step};
use super::tape::Reader;
use crate::sys::process::{self, close_on_exec_from, execve};
use crate::sys::signals;

/// Becomes the payload: its standard input and output, its user, its rights, its
/// program. Returns only on failure.
pub(super) fn become_payload(
    head: Head,
    tape: &mut Reader<'_>,
    inherited: &Inherited<'_>,
    open_files: Option<(u64, u64)>,
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
    let mut sockets = [0; SOCKETS_MAX];
    let count = read(tape.number::<usize>())?;
    for index in 0..count {
        let index_of = read(tape.number::<usize>())?;
        *read(sockets.get_mut(index))? = read(inherited.fds.get(index_of).copied())?;
    }
    let mut given = Given { sockets: count, ready: None, open_files };
    let (index, number) = (read(tape.word())?, read(tape.number::<RawFd>())?);
    if index != u64::MAX {
        let index = read(usize::try_from(index).ok())?;
        given.ready = Some((read(inherited.fds.get(index).copied())?, number));
    }
    if count == 0 && given.ready.is_none() {
        return with_rights(head, tape, given);
    }
    let sockets = read(sockets.get_mut(..count))?;
    let moved = at(Step::Stdio, 1, hand_over(sockets, &mut given, inherited))?;
    // Where a failure is told from here on.
    let Err(failure) = with_rights(head, tape, given);
    super::child::fail(&moved, failure)
}

/// What the payload is given beside its standard streams.
#[derive(Debug, Clone, Copy)]
struct Given {
    /// Listening sockets, from descriptor 3 on.
    sockets: usize,
    /// What it says that it is ready with, and the number that this becomes.
    ready: Option<(RawFd, RawFd)>,
    /// How many descriptors it may have, soft and hard.
    open_files: Option<(u64, u64)>,
}

/// Puts the sockets where sd_listen_fds(3) looks for them: from descriptor 3 on. What
/// is there, or where the payload is promised another, moves away first.
fn hand_over<'a>(
    sockets: &mut [RawFd],
    given: &mut Given,
    inherited: &Inherited<'a>,
) -> Result<Inherited<'a>, Errno> {
    use std::os::fd::IntoRawFd;
    let first_free = 3 + sockets.len() as RawFd;
    let promised = given.ready.map_or(-1, |(_, number)| number);
    if (3..first_free).contains(&promised) {
        return Err(Errno::INVAL);
    }
    let away = |fd: RawFd| -> Result<RawFd, Errno> {
        let dup = |above| {
            rustix::io::fcntl_dupfd_cloexec(borrowed(fd), above).map(IntoRawFd::into_raw_fd)
        };
        match dup(first_free)? {
            moved if moved == promised => dup(promised.saturating_add(1)),
            moved => Ok(moved),
        }
    };
    for socket in sockets.iter_mut() {
        *socket = away(*socket)?;
    }
    if let Some((fd, _)) = &mut given.ready {
        *fd = away(*fd)?;
    }
    let moved = Inherited {
        fds: &[],
        status: away(inherited.status)?,
        error_pipe: away(inherited.error_pipe)?,
        ..*inherited
    };
    for (number, socket) in (3..).zip(sockets) {
        // SAFETY: what this process still uses was moved above these numbers.
        if unsafe { libc::dup3(*socket, number, 0) } < 0 {
            return Err(process::errno());
        }
    }
    Ok(moved)
}

/// From the terminal on, which is descriptor 0, to the program.
fn with_rights(
    head: Head,
    tape: &mut Reader<'_>,
    given: Given,
) -> Stepped<std::convert::Infallible> {
    if head.flags & plan::flags::TTY != 0 {
        at(Step::Terminal, 0, take_terminal())?;
    }
    rustix::process::umask(Mode::from_raw_mode(read(tape.number::<u32>())?));

    // Nothing is opened from here on, and the filter need not allow it.
    if let Some(limits) = given.open_files {
        at(Step::Rlimit, 0, limit_open_files(limits))?;
    }
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
    at(Step::Groups, 0, rustix::thread::set_thread_groups(read(groups.get(..count))?))?;
    at(Step::Groups, 1, rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    // Keep the permitted set over the change of user, so that the wanted sets can
    // be put in force after it (capabilities(7)).
    at(Step::User, 0, rustix::thread::set_keep_capabilities(limited))?;
    at(Step::User, 1, rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    if limited {
        // Berth itself may have been started without some (it runs in somebody
        // else's container): what it does not have it can't give.
        let held = at(Step::Capabilities, 1, rustix::thread::capabilities(None))?.permitted;
        let sets = CapabilitySets {
            effective: effective & held,
            permitted: permitted & held,
            inheritable: inheritable & held,
        };
        at(Step::Capabilities, 1, rustix::thread::set_capabilities(None, sets))?;
        for capability in (ambient & held).iter() {
            at(
                Step::Capabilities,
                2,
                rustix::thread::configure_capability_in_ambient_set(capability, true),
            )?;
        }
    }
    if no_new_privs {
        at(Step::Capabilities, 3, rustix::thread::set_no_new_privs(true))?;
        // Last of all: the filter need not allow what the steps before it took.
        if !filter.is_empty() {
            at(Step::Seccomp, 0, install_filter(filter))?;
        }
    }

    let argv = read(tape.pointers())?;
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let envp = read(tape.pointers_with((given.sockets > 0).then_some(own)))?;
    close_on_exec_from(3 + given.sockets as RawFd);
    if let Some((fd, number)) = given.ready {
        // SAFETY: nothing in this process uses `number` any more.
        if unsafe { libc::dup3(fd, number, 0) } < 0 {
            return at(Step::Stdio, 2, Err(process::errno()));
        }
    }
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
    Err(Failure { step: Step::Exec, index, errno })
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
        libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    if result == 0 { Ok(()) } else { Err(process::errno()) }
}
