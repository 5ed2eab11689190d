//! Lines on standard error, which for a machine's init is the console. A console that
//! takes nothing (a serial line with flow control, a terminal that was stopped) must not
//! keep anybody: what it does not take in time is lost.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// So long a line waits for a serial line to take what was said before.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same in the keeper's loop.
const LITTLE: Duration = Duration::from_millis(50);

/// Says a line, and waits for a console that is slow.
pub fn patiently(line: &[u8]) {
    say_within(PATIENCE, line);
}

/// The same for whoever has no time. Does not allocate.
pub fn briefly(line: &[u8]) {
    say_within(LITTLE, line);
}

/// For a console that took nothing nobody waits again until it does.
fn say_within(patience: Duration, line: &[u8]) {
    static STUCK: AtomicBool = AtomicBool::new(false);
    let stuck = STUCK.load(Ordering::Relaxed);
    let patience = if stuck { Duration::ZERO } else { patience };
    let taken = within(patience, rustix::stdio::stderr(), line);
    STUCK.store(!taken, Ordering::Relaxed);
}

/// Writes a line if it is taken within `patience`; whether it was.
fn within(patience: Duration, to: BorrowedFd<'_>, line: &[u8]) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    let ready = poll(&mut fds, Some(&timeout)).is_ok_and(|count| count > 0)
        && fds[0].revents().contains(PollFlags::OUT);
    ready && rustix::io::write(to, line).is_ok()
}

/// Says something without allocating, and without waiting for long.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write;
        let mut line = [0u8; 256];
        let room = line.len();
        let mut rest = &mut line[..];
        let _ = writeln!(rest, $($arg)*);
        let len = room - rest.len();
        $crate::keeper::say::briefly(&line[..len]);
    }};
}

pub(crate) use say;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn nobody_waits_for_what_takes_nothing() {
        let (_reader, mut writer) = std::io::pipe().unwrap();
        assert!(within(PATIENCE, writer.as_fd(), b"a line\n"));
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while writer.write(&[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        assert!(!within(Duration::ZERO, writer.as_fd(), b"a line\n"));
        assert!(!within(Duration::from_millis(10), writer.as_fd(), b"a line\n"));
    }
}
