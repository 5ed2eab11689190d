//! The engine's life: started, and started again whenever it ended.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Engine, Keeper, MAX_PAUSE, MIN_PAUSE, WELL, now};
use crate::keeper::duty::Pulse;
use crate::keeper::say::say;
use crate::sys::signals;

/// The engine's end of the socket.
pub const ENGINE_FD: i32 = 3;

impl Keeper {
    pub(super) fn engine_ended(&mut self) {
        if let Engine::Running { since, .. } = self.engine {
            if now().saturating_sub(since) >= WELL {
                self.pause = MIN_PAUSE;
                self.young = 0;
            }
            self.young = self.young.saturating_add(1);
            self.outbox.clear();
            // The next one knows nothing of them, and begins them anew.
            self.launches.give_up_all();
            say!("berth: the engine ended; starting it again in {} ms", self.pause.as_millis());
            self.engine = Engine::Down { until: now().saturating_add(self.pause) };
            self.pause = self.pause.saturating_mul(2).min(MAX_PAUSE);
            self.despair();
        }
    }

    pub(super) fn start_engine_when_due(&mut self) {
        match self.engine {
            Engine::Down { until } if now() >= until => {}
            _ => return,
        }
        match self.start_engine() {
            Ok((pid, socket)) => {
                self.pulse = Pulse::begin(now());
                self.engine = Engine::Running { pid, socket, since: now() };
            }
            Err(errno) => {
                say!("berth: can't start the engine: {errno}");
                self.engine = Engine::Down { until: now().saturating_add(self.pause) };
                self.pause = self.pause.saturating_mul(2).min(MAX_PAUSE);
            }
        }
    }

    fn start_engine(&self) -> Result<(i32, OwnedFd), Errno> {
        let (ours, its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mask = signals::block_all();
        let cloned = crate::sys::process::spawn_engine(
            its.as_raw_fd(),
            ENGINE_FD,
            &self.settings.engine_argv,
            &self.settings.environment,
        );
        signals::restore(mask);
        match cloned {
            Ok(pid) => Ok((pid, ours)),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}
