//! What the keeper asks the kernel about a process, without allocating.

use std::os::fd::BorrowedFd;

use rustix::fs::{CWD, Mode, OFlags};

/// The start time of a process in clock ticks since boot (field 22 of
/// /proc/PID/stat, proc_pid_stat(5)). With the boot id and the pid it names one
/// process for good. 0 when /proc can't tell.
pub fn start_time(pid: i32) -> u64 {
    let mut path = [0u8; 32];
    let mut text = [0u8; 1024];
    read_stat(pid, &mut path, &mut text).unwrap_or(0)
}

fn read_stat(pid: i32, path: &mut [u8; 32], text: &mut [u8; 1024]) -> Option<u64> {
    use std::io::Write;
    write!(&mut path[..], "/proc/{pid}/stat\0").ok()?;
    let name = std::ffi::CStr::from_bytes_until_nul(path).ok()?;
    let file =
        rustix::fs::openat(CWD, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let len = rustix::io::read(&file, &mut text[..]).ok()?;
    parse_start_time(text.get(..len)?)
}

/// Field 22; fields are counted behind the last `)`, for the name in brackets may
/// contain anything.
pub fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let bracket = stat.iter().rposition(|&byte| byte == b')')?;
    let field = stat.get(bracket + 1..)?.split(|&byte| byte == b' ').nth(20)?;
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

/// The pidfd of a process (pidfd_open(2)).
pub fn pidfd(pid: i32) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// Whether the process behind a pidfd has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_read_behind_any_name() {
        let stat = b"12 (a) b (c)) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n";
        assert_eq!(parse_start_time(stat), Some(987654));
        assert_eq!(parse_start_time(b""), None);
        assert_eq!(parse_start_time(b"1 (x) S"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own) > 0);
        assert_eq!(start_time(-1), 0);
    }
}
