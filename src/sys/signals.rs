//! Signals: caught ones as bits and a readable descriptor, resetting what a new
//! program must not inherit, waiting for the next one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

/// Signals that arrived, and a descriptor that is readable while there are some.
#[derive(Debug)]
pub struct Caught {
    pending: Arc<AtomicU64>,
    read: OwnedFd,
}

impl Caught {
    /// Catches `signals` (numbers of signal(7), 1 to 64) from now on.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let write = Arc::new(write);
        let pending = Arc::new(AtomicU64::new(0));
        for &signal in signals {
            let (write, pending) = (Arc::clone(&write), Arc::clone(&pending));
            let caught = move || {
                pending.fetch_or(1 << (signal - 1), Ordering::SeqCst);
                // A full pipe is readable already, which is all that matters.
                let _ = rustix::io::write(&*write, b"!");
            };
            // SAFETY: the action does what a signal handler may: an atomic
            // operation and write(2); it neither allocates nor locks.
            unsafe { signal_hook::low_level::register(signal, caught) }?;
        }
        Ok(Caught { pending, read })
    }

    /// Takes the signals that arrived since the last call, as bits: signal N is
    /// bit N-1.
    pub fn take(&self) -> u64 {
        let mut bytes = [0u8; 64];
        while matches!(rustix::io::read(&self.read, &mut bytes[..]), Ok(n) if n == bytes.len()) {}
        self.pending.swap(0, Ordering::SeqCst)
    }
}

impl AsFd for Caught {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// A set of signals, as the kernel has it.
type Mask = u64;

fn set_mask(how: libc::c_int, mask: Mask) -> Mask {
    let mut old: Mask = 0;
    // SAFETY: both pointers are to 8-byte masks, the size that is given; the raw
    // call also reaches the two signals that glibc keeps for itself.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            std::ptr::from_ref(&mask),
            std::ptr::from_mut(&mut old),
            size_of::<Mask>(),
        )
    };
    old
}

/// Blocks every signal in this thread; gives what was blocked before.
pub fn block_all() -> u64 {
    set_mask(libc::SIG_BLOCK, Mask::MAX)
}

/// Sets which signals are blocked in this thread.
pub fn restore(mask: u64) {
    set_mask(libc::SIG_SETMASK, mask);
}

/// Gives every signal its default action: handlers of the parent must not run in
/// a child, and ignored signals (Rust ignores SIGPIPE) would survive execve(2).
pub fn reset_all() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid action for any signal; those that can't be
        // changed (SIGKILL, SIGSTOP, glibc's own) are refused harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Waits for the next blocked signal, whichever it is (sigwaitinfo(2)).
pub fn wait_any() -> i32 {
    let mask = Mask::MAX;
    loop {
        // SAFETY: the mask is 8 bytes, the size given; no siginfo and no timeout
        // are asked for.
        let signal = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                std::ptr::from_ref(&mask),
                std::ptr::null_mut::<libc::siginfo_t>(),
                std::ptr::null::<libc::timespec>(),
                size_of::<Mask>(),
            )
        };
        if signal > 0 {
            return signal as i32;
        }
    }
}

/// The next blocked signal, or nothing after `patience` (sigtimedwait(2)).
pub fn wait_for(patience: std::time::Duration) -> Option<i32> {
    let mask = Mask::MAX;
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(patience.subsec_nanos() as i32),
    };
    // SAFETY: the mask is 8 bytes, the size given; the timeout outlives the call.
    let signal = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            std::ptr::from_ref(&mask),
            std::ptr::null_mut::<libc::siginfo_t>(),
            std::ptr::from_ref(&timeout),
            size_of::<Mask>(),
        )
    };
    (signal > 0).then_some(signal as i32)
}

/// kill(2): sends signal number `signal` to `pid`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) touches no memory of this process.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends this process the signals of [`Caught::take`] once more. Blocked, they stay pending
/// over execve(2).
pub fn raise_again(signals: u64) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for signal in (1..=64).filter(|signal| signals & (1 << (signal - 1)) != 0) {
        let _ = kill(own, signal);
    }
}

/// pidfd_send_signal(2) by signal number, so that real-time signals work too.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    send_with(pidfd, signal, 0)
}

/// Sends a signal to the process group that the process behind `pidfd` is or was the leader
/// of, whoever has its number by now. EINVAL before Linux 6.9.
pub fn send_to_group(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 4;
    send_with(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

fn send_with(pidfd: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is borrowed, no siginfo is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
