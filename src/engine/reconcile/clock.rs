//! The instant a decision is made at, handed in by the caller.

use std::time::Duration;

/// An instant, on both clocks, within one boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: never set, goes on through a suspend, begins again with a
    /// boot. Everything that has to happen at some time is kept on this clock.
    pub mono: Duration,
    /// Nanoseconds since 1970. Only shown to people: it may jump either way.
    pub wall: i64,
    /// `/proc/sys/kernel/random/boot_id`: which boot `mono` belongs to.
    pub boot_id: String,
}
