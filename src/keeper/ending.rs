//! The ways in which a machine goes down, and the signals to its init that ask
//! for them: systemd's real-time signals, and those of busybox's and sysvinit's
//! commands, so that whatever `poweroff` is there works.

use rustix::system::RebootCommand;

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its power is switched off.
    PowerOff,
    /// It boots again.
    Reboot,
    /// It stands still, powered.
    Halt,
    /// The kernel that was loaded before (kexec_load(2)) takes over.
    Kexec,
}

/// glibc's SIGRTMIN, which systemd's numbers are counted from.
const RTMIN: i32 = 34;

impl Ending {
    /// What a signal to init asks for. SIGINT is Ctrl-Alt-Del (reboot(2)), SIGPWR a
    /// failing power supply or the end of an LXC container.
    pub fn of_signal(signal: i32) -> Option<Ending> {
        match signal {
            libc::SIGINT | libc::SIGTERM => Some(Ending::Reboot),
            libc::SIGPWR | libc::SIGUSR2 => Some(Ending::PowerOff),
            libc::SIGUSR1 => Some(Ending::Halt),
            _ => Ending::of_order(signal),
        }
    }

    /// The one that [`Ending::signal`] stands for.
    pub fn of_order(signal: i32) -> Option<Ending> {
        [Ending::Halt, Ending::PowerOff, Ending::Reboot, Ending::Kexec]
            .into_iter()
            .find(|ending| ending.signal() == signal)
    }

    /// The signal that asks init for it.
    pub fn signal(self) -> i32 {
        RTMIN
            + match self {
                Ending::Halt => 3,
                Ending::PowerOff => 4,
                Ending::Reboot => 5,
                Ending::Kexec => 6,
            }
    }

    /// The argument of reboot(2).
    pub fn command(self) -> RebootCommand {
        match self {
            Ending::PowerOff => RebootCommand::PowerOff,
            Ending::Reboot => RebootCommand::Restart,
            Ending::Halt => RebootCommand::Halt,
            Ending::Kexec => RebootCommand::Kexec,
        }
    }

    /// In a sentence.
    pub fn word(self) -> &'static str {
        match self {
            Ending::PowerOff => "power off",
            Ending::Reboot => "reboot",
            Ending::Halt => "halt",
            Ending::Kexec => "kexec",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_orders() {
        for ending in [Ending::PowerOff, Ending::Reboot, Ending::Halt, Ending::Kexec] {
            assert_eq!(Ending::of_signal(ending.signal()), Some(ending));
        }
        // As systemd.special(7) and busybox have them.
        assert_eq!(Ending::of_signal(37), Some(Ending::Halt));
        assert_eq!(Ending::of_signal(38), Some(Ending::PowerOff));
        assert_eq!(Ending::of_signal(libc::SIGUSR2), Some(Ending::PowerOff));
        assert_eq!(Ending::of_signal(libc::SIGINT), Some(Ending::Reboot));
        assert_eq!(Ending::of_signal(libc::SIGHUP), None);
        assert_eq!(Ending::of_signal(libc::SIGCHLD), None);
    }
}
