//! Pauses shorter than a millisecond, the least that the runtime's timers know.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of its own (timerfd_create(2)); one descriptor.
#[derive(Debug)]
pub struct Pause(AsyncFd<OwnedFd>);

impl Pause {
    /// # Errors
    /// There is no descriptor left.
    pub fn new() -> io::Result<Pause> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Pause(super::readiness::watch(timer, Interest::READABLE)?))
    }

    /// Lets `time` pass, which is less than a second.
    ///
    /// # Errors
    /// What the system said of the timer.
    pub async fn pass(&self, time: Duration) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: zero,
            it_value: Timespec { tv_nsec: time.subsec_nanos().max(1).into(), ..zero },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let mut count = [0; 8];
        loop {
            let mut guard = self.0.readable().await?;
            match rustix::io::read(self.0.get_ref(), &mut count[..]) {
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_passes_again_and_again() {
        let pause = Pause::new().unwrap();
        let begun = std::time::Instant::now();
        for _ in 0..5 {
            pause.pass(Duration::from_micros(300)).await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_micros(1500));
    }
}
