//! What the keeper does for a machine whose init it is, and for an engine that
//! hangs: the clock's part of the loop.

use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use super::{Engine, Keeper, WELL, now};
use crate::keeper::duty::{Due, Going, Pulse, pause_after_panic};
use crate::keeper::ending::Ending;
use crate::keeper::protocol::{Kind, Message};
use crate::keeper::say::say;
use crate::sys::signals;

/// An engine that died young as often as this won't get well by itself.
const HOPELESS: u32 = 5;

impl Keeper {
    /// What is due by the clock: the engine's pulse, the watchdog, the end of patience.
    /// Gives the time at which the next of these is.
    pub(super) fn keep_time(&mut self) -> Option<Duration> {
        let now = now();
        if self.table.orders.panics > 0 && now >= self.begun.saturating_add(WELL) {
            self.table.orders.panics = 0;
        }
        self.give_up_launches(now);
        let mut next: Option<Duration> = None;
        let mut sooner = |at: Duration| next = Some(next.map_or(at, |next| next.min(at)));
        if let Some(at) = self.launches.due() {
            sooner(at);
        }
        if let (Some(period), Engine::Running { pid, .. }) =
            (self.settings.duty.heartbeat, &self.engine)
        {
            match self.pulse.due(period, now) {
                Due::Nothing(at) => sooner(at),
                Due::Ask => {
                    sooner(now.saturating_add(period));
                    self.tell(Message::new(Kind::Ping));
                }
                Due::End => {
                    say!("berth: the engine does not answer; ending it");
                    let _ = signals::kill(*pid, libc::SIGKILL);
                    self.pulse = Pulse::begin(now);
                    sooner(now.saturating_add(period));
                }
            }
        }
        if let Some(watchdog) = &self.settings.duty.watchdog {
            if now >= self.feed {
                watchdog.feed();
                self.feed = now.saturating_add(watchdog.period);
            }
            sooner(self.feed);
        }
        if let Some(Going { until: Some(until), .. }) = self.table.orders.going {
            if now >= until && self.finish.is_none() {
                say!("berth: not everything could be stopped in time; going on without");
                self.finish = Some(0);
            }
            sooner(until);
        }
        next
    }

    /// Launches that stand still: whoever asked for them need not wait any longer.
    fn give_up_launches(&mut self, now: Duration) {
        while let Some(order) = self.launches.overdue(now) {
            let code = Errno::TIMEDOUT.raw_os_error();
            self.tell(Message { key: order.key, code, ..Message::new(Kind::Refused) });
        }
    }

    /// The machine is to go down: the engine stops everything first. Who asks again
    /// wants no more waiting.
    pub(super) fn go_down(&mut self, ending: Ending) {
        say!("berth: the machine is going down ({})", ending.word());
        let until = match self.table.orders.going {
            Some(going) => going.until,
            None => self.settings.duty.patience.map(|patience| now().saturating_add(patience)),
        };
        self.table.orders.going = Some(Going { ending, until });
        self.told_to_end();
        self.tell(Message { code: libc::SIGTERM, ..Message::new(Kind::Signal) });
    }

    /// A power key that was pressed (`struct input_event`: time, type EV_KEY, code
    /// KEY_POWER or KEY_SLEEP's neighbour KEY_POWER2, value 1).
    pub(super) fn look_at_buttons(&mut self) {
        const EVENT: usize = 24;
        let mut pressed = false;
        let Keeper { settings, epoll, .. } = self;
        settings.duty.buttons.retain(|button| {
            let mut bytes = [0u8; EVENT * 16];
            match rustix::io::read(button, &mut bytes[..]) {
                Ok(len) => {
                    for event in bytes.get(..len).unwrap_or_default().chunks_exact(EVENT) {
                        let word = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
                        pressed |=
                            word(16) == 1 && matches!(word(18), 116 | 0x164) && word(20) == 1;
                    }
                    true
                }
                Err(Errno::AGAIN) => true,
                // It was unplugged: readable for ever.
                Err(_) => {
                    let _ = epoll::delete(&*epoll, button);
                    false
                }
            }
        });
        if pressed {
            say!("berth: the power button was pressed");
            self.go_down(Ending::PowerOff);
        }
    }

    /// After a panic: becomes a new keeper with the same table. What caused it may
    /// come again, so there is a pause.
    pub(super) fn begin_anew(&mut self) {
        let Some(pause) = pause_after_panic(&self.table.orders) else {
            say!("berth: a bug in the keeper again and again; going down without it");
            self.finish = Some(0);
            return;
        };
        self.table.orders.panics = self.table.orders.panics.saturating_add(1);
        say!("berth: a bug in the keeper; it begins anew with what it has");
        std::thread::sleep(pause);
        let Err(errno) = self.try_reexec(c"/proc/self/exe");
        say!("berth: can't begin anew: {errno}; going on");
    }

    /// The engine died young once more. A machine whose engine can't live gets a shell
    /// on its console; one that goes down does so without it.
    pub(super) fn despair(&mut self) {
        if self.young < HOPELESS || !self.settings.duty.is_init {
            return;
        }
        if self.table.orders.going.is_some() {
            say!("berth: the engine can't stop anything; going on without");
            self.finish = Some(0);
        } else if self.table.orders.rescuer.is_none() {
            say!("berth: the engine ended {} times in a row; services go on", self.young);
            self.rescue();
        }
    }

    /// A shell on the console, if there is none of ours.
    pub(super) fn rescue(&mut self) {
        if let (None, Some(rescue)) = (self.table.orders.rescuer, self.settings.duty.rescue) {
            self.table.orders.rescuer = rescue();
        }
    }
}
