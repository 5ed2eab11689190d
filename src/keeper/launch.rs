//! One launch: map the plan, clone, write down who was born, let it go.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::process::{pidfd, start_time};
use super::protocol::{Fds, MAX_FDS};
use crate::sandbox::child::{self, Inherited};
use crate::sandbox::plan::flags;
use crate::sandbox::status::append;
use crate::sandbox::tape::Reader;
use crate::sys::process::{self, Clone, Mapping, SharedPid, clone3};
use crate::sys::signals;

/// Where the descriptors that every launch has stand in its message.
const PLAN: usize = 0;
const STATUS: usize = 1;
const ERROR_PIPE: usize = 2;
/// The first of those that the plan counts.
const FIRST: usize = 3;

/// A process that was just cloned.
#[derive(Debug)]
pub struct Born {
    /// Its id.
    pub pid: i32,
    /// It by descriptor.
    pub pidfd: OwnedFd,
    /// Its start time.
    pub start: u64,
}

/// Clones the process that a launch message asks for. The error is what the
/// system said; then nothing is left of the attempt.
///
/// `fds` is what came with the message and is closed by the caller afterwards.
pub fn launch(fds: &Fds, second: &SharedPid) -> Result<Born, Errno> {
    let plan = fds.get(PLAN).ok_or(Errno::INVAL)?;
    let status = fds.get(STATUS).ok_or(Errno::INVAL)?;
    let error_pipe = fds.get(ERROR_PIPE).ok_or(Errno::INVAL)?;
    let len = usize::try_from(rustix::fs::fstat(plan)?.st_size).map_err(|_| Errno::INVAL)?;
    let mut mapping = Mapping::private(plan, len).map_err(errno_of)?;
    let mut tape = Reader::new(mapping.bytes());
    let head = child::read_head(&mut tape).ok_or(Errno::PROTO)?;

    let mut raw: [RawFd; MAX_FDS] = [-1; MAX_FDS];
    for (index, raw) in raw.iter_mut().enumerate() {
        match fds.get(FIRST + index) {
            Some(fd) => *raw = fd.as_raw_fd(),
            None => break,
        }
    }
    let given = &raw[..fds.len().saturating_sub(FIRST)];
    let cgroup = match head.cgroup {
        Some(index) => Some(fds.get(FIRST + index).ok_or(Errno::INVAL)?.as_fd()),
        None => None,
    };

    let (go, go_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let two_step = head.flags & flags::TWO_STEP != 0;
    second.get().store(0, Ordering::SeqCst);
    // The child starts with every signal blocked: handlers of the keeper must
    // not run in it, and init must lose none that comes early.
    let mask = signals::block_all();
    // The first of two steps shares nothing and ends soon; VFORK saves a wait.
    let clone_flags = if two_step { process::flags::VFORK } else { 0 };
    // SAFETY: the keeper has one thread; the child only runs `child::run`, which
    // keeps to async-signal-safe calls and never returns.
    let cloned = unsafe { clone3(clone_flags, cgroup) };
    if let Ok(Clone::Child) = cloned {
        let inherited = Inherited {
            fds: given,
            status: status.as_raw_fd(),
            error_pipe: error_pipe.as_raw_fd(),
            go: go.as_raw_fd(),
            go_write: go_write.as_raw_fd(),
            second: second.get(),
        };
        child::run(head, tape, &inherited)
    }
    signals::restore(mask);
    let Clone::Parent(first) = cloned.map_err(errno_of)? else {
        return Err(Errno::INVAL);
    };

    let pid = if two_step {
        reap(first);
        match second.get().load(Ordering::SeqCst) {
            // It failed before the second clone and has said so in the status file.
            0 => return Err(Errno::CANCELED),
            pid => pid,
        }
    } else {
        first
    };
    let born = pidfd(pid).map(|pidfd| Born {
        pid,
        pidfd,
        start: start_time(pid),
    });
    match born {
        Ok(born) => {
            append(status.as_fd(), "pid", &[pid as u64, born.start]);
            rustix::io::write(&go_write, b"!")?;
            Ok(born)
        }
        Err(errno) => {
            // No descriptor left for it: with no record it must not run. The end
            // of file on the pipe stops it.
            drop(go_write);
            drop(go);
            reap(pid);
            Err(errno)
        }
    }
}

fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
