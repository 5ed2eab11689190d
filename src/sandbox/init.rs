//! Container init: PID 1 of a container. It forwards every signal to the
//! payload, reaps orphans, writes the payload's exit status down, and ends as
//! the payload ended. It owns the status file, and the FIFOs of the payload's output,
//! which must not go with it while something waits in them and nobody is there to read.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use rustix::time::{ClockId, clock_gettime};

use super::plan::OUTPUT_MAX;
use super::status::{End, append};
use crate::sys::process::exit_now;
use crate::sys::signals;

/// Stays until `payload` has ended. Every signal must be blocked already: blocked
/// signals are queued even for PID 1, which otherwise would not get those that
/// it has no handler for (pid_namespaces(7)).
pub fn run(payload: Pid, status: OwnedFd, output: [Option<OwnedFd>; OUTPUT_MAX]) -> ! {
    loop {
        match signals::wait_any() {
            libc::SIGCHLD => {
                if let Some(end) = reap(payload) {
                    record(status.as_fd(), end);
                    if is_left_alone(&output) {
                        wait_for_reader(&output);
                    }
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

/// Whether something waits in the FIFOs, and neither engine nor keeper has them: with the
/// last who has them open the kernel forgets what is in them (fifo(7)).
fn is_left_alone(output: &[Option<OwnedFd>; OUTPUT_MAX]) -> bool {
    let waits = |fifo: &OwnedFd| rustix::io::ioctl_fionread(fifo).is_ok_and(|bytes| bytes > 0);
    if !output.iter().flatten().any(waits) {
        return false;
    }
    // The lock on the last, which the payload does not have, is theirs as long as one of
    // the two lives.
    let Some(locked) = &output[OUTPUT_MAX - 1] else { return false };
    match flock(locked, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => flock(locked, FlockOperation::Unlock).is_ok(),
        Err(_) => false,
    }
}

/// Berth was killed, keeper and engine. The next one reads what is here, or sends a signal.
fn wait_for_reader(output: &[Option<OwnedFd>; OUTPUT_MAX]) {
    if rustix::process::getpid().as_raw_nonzero().get() == 1 {
        // All others in the namespace, as its end would; it goes on only for what they
        // have written (kill(2)).
        let _ = signals::kill(-1, libc::SIGKILL);
    }
    // No descriptor tells when somebody locks a file.
    const LOOK_AGAIN: Duration = Duration::from_millis(200);
    // What was for the payload came too late.
    while signals::wait_for(Duration::ZERO).is_some() {}
    while is_left_alone(output) {
        match signals::wait_for(LOOK_AGAIN) {
            None | Some(libc::SIGWINCH | libc::SIGCONT | libc::SIGURG) => {}
            Some(libc::SIGCHLD) => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
            Some(_) => return,
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
