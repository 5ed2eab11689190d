//! Container init: PID 1 of a container. It forwards every signal to the
//! payload, reaps orphans, writes the payload's exit status down, and ends as
//! the payload ended. It owns one descriptor, the status file.

use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::time::{ClockId, clock_gettime};

use super::status::{End, append};
use crate::sys::process::exit_now;
use crate::sys::signals;

/// Stays until `payload` has ended. Every signal must be blocked already: blocked
/// signals are queued even for PID 1, which otherwise would not get those that
/// it has no handler for (pid_namespaces(7)).
pub fn run(payload: Pid, status: OwnedFd) -> ! {
    loop {
        match signals::wait_any() {
            libc::SIGCHLD => {
                if let Some(end) = reap(payload) {
                    record(status.as_fd(), end);
                    leave(end);
                }
            }
            signal => {
                // The payload may have ended just now; its exit is next.
                let _ = signals::kill(payload.as_raw_nonzero().get(), signal);
            }
        }
    }
}

/// Reaps whoever has ended; gives the payload's end if it was among them.
fn reap(payload: Pid) -> Option<End> {
    let mut payload_end = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == payload {
            payload_end = end_of(status);
        }
    }
    payload_end
}

/// How a process ended, from its wait status.
pub fn end_of(status: WaitStatus) -> Option<End> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(End::Exit(code)),
        (_, Some(signal)) => Some(End::Signal(signal)),
        _ => None,
    }
}

/// Writes the end down with the time of now.
pub fn record(status: std::os::fd::BorrowedFd<'_>, end: End) {
    let now = clock_gettime(ClockId::Realtime);
    let nanos = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    match end {
        End::Exit(code) => append(status, "exit", &[code as u64, nanos]),
        End::Signal(signal) => append(status, "signal", &[signal as u64, nanos]),
    }
}

/// Ends as the payload did. PID 1 of a namespace can't end by a signal of its
/// own (pid_namespaces(7)): then, like a shell, by 128 + the signal.
fn leave(end: End) -> ! {
    if let End::Signal(signal) = end
        && rustix::process::getpid().as_raw_nonzero().get() != 1
    {
        signals::reset_all();
        let _ = signals::kill(rustix::process::getpid().as_raw_nonzero().get(), signal);
        signals::restore(0);
    }
    exit_now(end.code())
}
