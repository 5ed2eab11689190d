//! What the keeper owes beside its containers: to a machine whose init it is, and
//! to an engine that may hang. When to do what is decided here; pure.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::ending::Ending;

/// What the process of [`Duty::rescue`] is told when something was launched. By default it
/// is ignored.
pub const LAUNCHED: i32 = libc::SIGURG;

/// The duties of one keeper, told before its loop begins.
#[derive(Debug, Default)]
pub struct Duty {
    /// It is the machine's init: signals are orders to go down, and it goes down
    /// after [`Duty::patience`] whatever the engine says.
    pub is_init: bool,
    /// How long the engine may take to stop everything.
    pub patience: Option<Duration>,
    /// How often the engine is asked whether it is well; never without.
    pub heartbeat: Option<Duration>,
    /// Input devices with a power key, non-blocking (`struct input_event`).
    pub buttons: Vec<OwnedFd>,
    /// The hardware's watchdog.
    pub watchdog: Option<Watchdog>,
    /// Starts a shell on the console and gives its pid.
    pub rescue: Option<fn() -> Option<i32>>,
    /// The pid of one that was started already, by whoever starts the keeper.
    pub rescuer: Option<i32>,
}

/// The hardware's watchdog, which resets the machine when nobody feeds it.
#[derive(Debug)]
pub struct Watchdog {
    /// Its device.
    pub device: OwnedFd,
    /// How often it is fed.
    pub period: Duration,
}

impl Watchdog {
    /// Any byte but `V` feeds it (Documentation/watchdog/watchdog-api.rst).
    pub fn feed(&self) {
        let _ = rustix::io::write(&self.device, b".");
    }

    /// Tells it that it is not needed any more, where the hardware allows that.
    pub fn disarm(self) {
        let _ = rustix::io::write(&self.device, b"V");
    }
}

/// Whether the engine is well, by asking it now and then.
#[derive(Debug, Default)]
pub struct Pulse {
    /// When the question that has no answer yet was put.
    asked: Option<Duration>,
    /// When something was last heard.
    heard: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before that time.
    Nothing(Duration),
    /// Ask it.
    Ask,
    /// It does not answer: end it.
    End,
}

impl Pulse {
    /// Of an engine that was just started.
    pub fn begin(now: Duration) -> Self {
        Pulse { asked: None, heard: now }
    }

    /// The engine said something: it is well.
    pub fn heard(&mut self, now: Duration) {
        *self = Pulse { asked: None, heard: now };
    }

    /// What is due now; asked every `period`, it has twice as long to answer, for a
    /// machine that is out of memory makes everybody slow.
    pub fn due(&mut self, period: Duration, now: Duration) -> Due {
        match self.asked {
            Some(asked) => match asked.saturating_add(period.saturating_mul(2)) {
                until if now >= until => Due::End,
                until => Due::Nothing(until),
            },
            None => match self.heard.saturating_add(period) {
                until if now >= until => {
                    self.asked = Some(now);
                    Due::Ask
                }
                until => Due::Nothing(until),
            },
        }
    }
}

/// An order to go down that is being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Going {
    /// Which one.
    pub ending: Ending,
    /// Then it goes on without the engine.
    pub until: Option<Duration>,
}

/// What the keeper was told and has not finished. A keeper that replaces itself goes on
/// with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// How often the supervisor was told to end, for an engine that can't answer.
    pub told_to_end: u32,
    /// How the machine goes down.
    pub going: Option<Going>,
    /// How often in a row a bug stopped the keeper's loop.
    pub panics: u32,
    /// The process of [`Duty::rescue`], while there is one: a child of ours, so nobody else
    /// can have its number.
    pub rescuer: Option<i32>,
}

/// How long to wait after the loop was stopped by a bug so often in a row, which may come
/// again at once; `None`: a machine that is going down goes on without the keeper.
pub fn pause_after_panic(orders: &Orders) -> Option<Duration> {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    const ENOUGH: u32 = 3;
    if orders.going.is_some() && orders.panics >= ENOUGH {
        return None;
    }
    Some(FIRST.saturating_mul(1 << orders.panics.min(16)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_that_panics_again_and_again_waits_longer_and_goes_down_without() {
        let orders = |panics, going| Orders { panics, going, ..Orders::default() };
        let millis = |orders: Orders| pause_after_panic(&orders).map(|pause| pause.as_millis());
        assert_eq!(millis(orders(0, None)), Some(100));
        assert_eq!(millis(orders(3, None)), Some(800));
        assert_eq!(millis(orders(u32::MAX, None)), Some(5000));
        let going = Some(Going { ending: Ending::PowerOff, until: None });
        assert_eq!(millis(orders(2, going)), Some(400));
        assert_eq!(millis(orders(3, going)), None);
    }

    #[test]
    fn times_without_end_do_no_harm() {
        let mut pulse = Pulse::begin(Duration::from_secs(1));
        assert_eq!(
            pulse.due(Duration::MAX, Duration::MAX - Duration::from_secs(1)),
            Due::Nothing(Duration::MAX)
        );
    }

    #[test]
    fn a_silent_engine_is_asked_and_then_ended() {
        let seconds = Duration::from_secs;
        let period = seconds(20);
        let mut pulse = Pulse::begin(seconds(100));
        assert_eq!(pulse.due(period, seconds(110)), Due::Nothing(seconds(120)));
        assert_eq!(pulse.due(period, seconds(120)), Due::Ask);
        assert_eq!(pulse.due(period, seconds(121)), Due::Nothing(seconds(160)));
        pulse.heard(seconds(130));
        assert_eq!(pulse.due(period, seconds(149)), Due::Nothing(seconds(150)));
        assert_eq!(pulse.due(period, seconds(150)), Due::Ask);
        assert_eq!(pulse.due(period, seconds(190)), Due::End);
    }
}
