//! What the keeper owes beside its containers: to a machine whose init it is, and
//! to an engine that may hang. When to do what is decided here; pure.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::ending::Ending;

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
    /// The hardware's watchdog, and how often it is fed.
    pub watchdog: Option<(OwnedFd, Duration)>,
    /// Starts a shell on the console and gives its pid.
    pub rescue: Option<fn() -> Option<i32>>,
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
            Some(asked) if now >= asked + period * 2 => Due::End,
            Some(asked) => Due::Nothing(asked + period * 2),
            None if now >= self.heard + period => {
                self.asked = Some(now);
                Due::Ask
            }
            None => Due::Nothing(self.heard + period),
        }
    }
}

/// An order to go down that is being carried out.
#[derive(Debug, Clone, Copy)]
pub struct Going {
    /// Which one.
    pub ending: Ending,
    /// Then it goes on without the engine.
    pub until: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
