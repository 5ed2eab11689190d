//! What only a machine's init asks of the kernel: forking a helper, swap, the
//! hardware's clock, entropy, power keys, watchdogs, kexec.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// fork(2): a child that does `work` and ends with the status it gives, 101 after a
/// panic. For a process with one thread only. Gives the child's pid.
pub fn fork(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: this process has one thread, so the child may do what it likes; it
    // never returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            super::signals::reset_all();
            super::signals::restore(0);
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            super::process::exit_now(code.unwrap_or(101))
        }
        pid => Ok(pid),
    }
}

/// Makes descriptor 0 the controlling terminal of this session (ioctl_tty(2)).
pub fn take_terminal() -> io::Result<()> {
    // SAFETY: an ioctl on descriptor 0 with a plain number.
    checked(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 1) })
}

/// swapon(2), with a priority if one is given.
pub fn swap_on(path: &CStr, priority: Option<u16>, discard: bool) -> io::Result<()> {
    const PREFER: libc::c_int = 0x8000;
    const DISCARD: libc::c_int = 0x1_0000;
    let flags = priority.map_or(0, |priority| PREFER | libc::c_int::from(priority & 0x7fff))
        | if discard { DISCARD } else { 0 };
    // SAFETY: a NUL-terminated path that outlives the call.
    checked(unsafe { libc::swapon(path.as_ptr(), flags) })
}

/// swapoff(2).
pub fn swap_off(path: &CStr) -> io::Result<()> {
    // SAFETY: a NUL-terminated path that outlives the call.
    checked(unsafe { libc::swapoff(path.as_ptr()) })
}

/// The hardware clock in seconds since 1970, taken for UTC (rtc(4)).
pub fn rtc_seconds(rtc: BorrowedFd<'_>) -> io::Result<i64> {
    const RTC_RD_TIME: libc::Ioctl = 0x8024_7009;
    // `struct rtc_time`: nine integers, laid out as the first nine of `struct tm`.
    let mut fields = [0 as libc::c_int; 9];
    // SAFETY: the kernel writes exactly these nine integers.
    checked(unsafe { libc::ioctl(rtc.as_raw_fd(), RTC_RD_TIME, fields.as_mut_ptr()) })?;
    // SAFETY: all-zero bytes are a valid `tm`, which has only numbers and a pointer.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    [time.tm_sec, time.tm_min, time.tm_hour, time.tm_mday, time.tm_mon, time.tm_year] =
        [fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]];
    // SAFETY: `time` is a valid `tm`; timegm(3) keeps nothing of it.
    Ok(unsafe { libc::timegm(&mut time) })
}

/// Gives the kernel's random number generator bytes that nobody else knows, as good
/// for `bits` bits (random(4), RNDADDENTROPY).
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8], bits: u32) -> io::Result<()> {
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    let len = bytes.len().min(512);
    let mut pool = vec![0u8; 8 + len];
    pool[..4].copy_from_slice(&bits.to_ne_bytes());
    pool[4..8].copy_from_slice(&(len as u32).to_ne_bytes());
    pool[8..].copy_from_slice(&bytes[..len]);
    // SAFETY: `struct rand_pool_info`: two integers and as many bytes as the second
    // says; the kernel reads no more.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) })
}

/// Whether an input device has a key of that code (EVIOCGBIT(EV_KEY)).
pub fn has_key(input: BorrowedFd<'_>, code: u16) -> bool {
    const KEYS: usize = 0x300 / 8;
    // _IOC(_IOC_READ, 'E', 0x20 + EV_KEY, KEYS)
    const EVIOCGBIT_KEY: libc::Ioctl = 0x8000_4521 | (KEYS as libc::Ioctl) << 16;
    let mut bits = [0u8; KEYS];
    // SAFETY: the kernel writes at most `KEYS` bytes, the size in the request.
    let len = unsafe { libc::ioctl(input.as_raw_fd(), EVIOCGBIT_KEY, bits.as_mut_ptr()) };
    let (byte, bit) = (usize::from(code / 8), code % 8);
    len >= 0 && bits.get(byte).is_some_and(|bits| bits & (1 << bit) != 0)
}

/// Sets the time after which a watchdog that is not fed resets the machine; gives the
/// time that it has, which for some hardware is a fixed one
/// (Documentation/watchdog/watchdog-api.rst).
pub fn set_watchdog(watchdog: BorrowedFd<'_>, seconds: i32) -> io::Result<i32> {
    const WDIOC_SETTIMEOUT: libc::Ioctl = 0xc004_5706;
    const WDIOC_GETTIMEOUT: libc::Ioctl = 0x8004_5707;
    let mut time = seconds;
    // SAFETY: the kernel reads and writes one integer.
    let set = checked(unsafe { libc::ioctl(watchdog.as_raw_fd(), WDIOC_SETTIMEOUT, &mut time) });
    // SAFETY: the kernel writes one integer.
    let got = checked(unsafe { libc::ioctl(watchdog.as_raw_fd(), WDIOC_GETTIMEOUT, &mut time) });
    got.or(set).map(|()| time)
}

/// kexec_file_load(2): the kernel that reboot(2) with LINUX_REBOOT_CMD_KEXEC starts.
pub fn kexec_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    command_line: &CStr,
) -> io::Result<()> {
    const NO_INITRAMFS: libc::c_ulong = 4;
    let bytes = command_line.to_bytes_with_nul();
    // SAFETY: two open descriptors, and a string with the length that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.map_or(-1, |fd| fd.as_raw_fd()),
            bytes.len(),
            bytes.as_ptr(),
            if initrd.is_some() { 0 } else { NO_INITRAMFS },
        )
    };
    checked(result as libc::c_int)
}

/// The signal that this process gets when its parent ends (prctl(2), PR_SET_PDEATHSIG).
pub fn signal_at_parent_death(signal: i32) {
    // SAFETY: prctl(2) with plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
}

/// Gives the controlling terminal up (ioctl_tty(2), TIOCNOTTY); whether there was one.
pub fn leave_terminal() -> bool {
    // SAFETY: an ioctl on descriptor 0 without an argument.
    unsafe { libc::ioctl(0, libc::TIOCNOTTY) == 0 }
}

/// Starts a program that is looked for in `PATH`, with signals as this process found
/// them: `mask` blocked, SIGPIPE at its default, which Rust's start changes. Either in a
/// session of its own with the terminal of descriptor 0, or in a process group of its own
/// in the terminal's foreground. Gives its pid; it ends with 127 if there is no such
/// program and 126 if it can't be executed.
pub fn start(command: &[std::ffi::CString], session: bool, mask: u64) -> io::Result<i32> {
    let argv: Vec<*const libc::c_char> =
        command.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    // SAFETY: this process has one thread; the child only calls async-signal-safe
    // functions, and execvp(3), until it is another program or ends. `argv` is
    // NULL-terminated and its strings outlive the call.
    unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            pid => return Ok(pid),
        }
        if session {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        } else {
            libc::setpgid(0, 0);
            // From the background this would stop us, but that signal is blocked.
            libc::tcsetpgrp(0, libc::getpid());
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        super::signals::restore(mask);
        libc::execvp(argv[0], argv.as_ptr());
        let error = io::Error::last_os_error();
        let text = match error.raw_os_error() {
            Some(libc::ENOENT) => "No such file or directory",
            Some(libc::EACCES) => "Permission denied",
            _ => "it can't be executed",
        };
        for part in [&b"[berth] "[..], command[0].to_bytes(), b": ", text.as_bytes(), b"\n"] {
            libc::write(2, part.as_ptr().cast(), part.len());
        }
        libc::_exit(match error.raw_os_error() {
            Some(libc::ENOENT) => 127,
            Some(libc::EACCES) => 126,
            _ => 1,
        })
    }
}
