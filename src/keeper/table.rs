//! The keeper's table: processes and held descriptors, in memory that is taken at
//! the start and bounded. Written as a flat file for `reexec`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use super::duty::{Going, Orders};
use super::ending::Ending;
use super::protocol::{TAG_LEN, Tag};
use crate::sandbox::status::End;
use crate::sys::process::inherited;

/// How many processes: containers, and commands run in them.
pub const PROCESSES: usize = 16384;
/// How many held descriptors: three a container, and sockets and terminals.
pub const HELD: usize = 3 * PROCESSES + 4096;

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It has ended; kept until the engine acknowledges. `None`: an adopted
    /// process, whose status only its status file knows.
    Exited(Option<End>),
}

/// A process that the keeper watches.
#[derive(Debug)]
pub struct Process {
    /// The engine's number for it.
    pub key: u64,
    /// Its id.
    pub pid: i32,
    /// Its start time, clock ticks since boot.
    pub start: u64,
    /// The engine's name for it.
    pub tag: Tag,
    /// It by descriptor.
    pub pidfd: OwnedFd,
    /// Where it stands.
    pub state: State,
    /// Cloned by another keeper: not our child, watched through the pidfd.
    pub adopted: bool,
}

/// A descriptor kept for the engine.
#[derive(Debug)]
pub struct Held {
    /// The engine's name for it.
    pub tag: Tag,
    /// It.
    pub fd: OwnedFd,
}

/// Everything that must outlive the engine.
#[derive(Debug)]
pub struct Table {
    /// The processes, in no order.
    pub processes: Vec<Process>,
    /// The descriptors, in no order.
    pub held: Vec<Held>,
    /// What it was told to do.
    pub orders: Orders,
}

/// Why something does not enter the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Default for Table {
    fn default() -> Self {
        // Reserved now and never grown: pages of it that are not used cost nothing.
        Table {
            processes: Vec::with_capacity(PROCESSES),
            held: Vec::with_capacity(HELD),
            orders: Orders::default(),
        }
    }
}

impl Table {
    /// Adds a process.
    pub fn add(&mut self, process: Process) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        self.processes.push(process);
        Ok(())
    }

    /// Whether no further process fits.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many further processes fit.
    pub fn room(&self) -> usize {
        PROCESSES.saturating_sub(self.processes.len())
    }

    /// The process with an id, if it still runs.
    pub fn running(&mut self, pid: i32) -> Option<&mut Process> {
        self.processes
            .iter_mut()
            .find(|process| process.pid == pid && process.state == State::Running)
    }

    /// The process with a key.
    pub fn by_key(&self, key: u64) -> Option<&Process> {
        self.processes.iter().find(|process| process.key == key)
    }

    /// Forgets a process that has ended.
    pub fn acknowledge(&mut self, key: u64) {
        let ended = |process: &Process| process.key == key && process.state != State::Running;
        if let Some(index) = self.processes.iter().position(ended) {
            self.processes.swap_remove(index);
        }
    }

    /// Holds a descriptor, in place of an earlier one with the same tag.
    pub fn hold(&mut self, tag: Tag, fd: OwnedFd) -> Result<(), Full> {
        self.release(tag);
        if self.held.len() >= HELD {
            return Err(Full);
        }
        self.held.push(Held { tag, fd });
        Ok(())
    }

    /// The descriptor that is held under a tag, most likely at this place.
    pub fn held_at(&self, place: u64, tag: Tag) -> Option<BorrowedFd<'_>> {
        let place = usize::try_from(place).ok()?;
        let there = self.held.get(place).filter(|held| held.tag == tag);
        there.map(|held| held.fd.as_fd()).or_else(|| self.held_as(tag))
    }

    /// The descriptor that is held under a tag.
    pub fn held_as(&self, tag: Tag) -> Option<BorrowedFd<'_>> {
        self.held.iter().find(|held| held.tag == tag).map(|held| held.fd.as_fd())
    }

    /// Closes a held descriptor.
    pub fn release(&mut self, tag: Tag) {
        drop(self.take(tag));
    }

    /// Gives a held descriptor away.
    pub fn take(&mut self, tag: Tag) -> Option<OwnedFd> {
        let index = self.held.iter().position(|held| held.tag == tag)?;
        Some(self.held.swap_remove(index).fd)
    }

    /// The table as bytes; its descriptors by number, for a program that keeps
    /// them (execve(2) of the new binary).
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD * (1 + self.processes.len() + self.held.len()));
        for process in &self.processes {
            let (state, value) = match process.state {
                State::Running => (0, 0),
                State::Exited(None) => (1, 0),
                State::Exited(Some(End::Exit(code))) => (2, code),
                State::Exited(Some(End::Signal(signal))) => (3, signal),
            };
            bytes.push(b'P');
            bytes.push(state);
            bytes.push(u8::from(process.adopted));
            bytes.push(0);
            bytes.extend_from_slice(&value.to_le_bytes());
            bytes.extend_from_slice(&process.key.to_le_bytes());
            bytes.extend_from_slice(&process.start.to_le_bytes());
            bytes.extend_from_slice(&process.pid.to_le_bytes());
            bytes.extend_from_slice(&process.pidfd.as_raw_fd().to_le_bytes());
            bytes.extend_from_slice(process.tag.bytes());
        }
        for held in &self.held {
            let start = bytes.len();
            bytes.push(b'H');
            bytes.resize(start + 28, 0);
            bytes.extend_from_slice(&held.fd.as_raw_fd().to_le_bytes());
            bytes.extend_from_slice(held.tag.bytes());
        }
        let Orders { told_to_end, going, panics, rescuer } = self.orders;
        let until = going.and_then(|going| u64::try_from(going.until?.as_nanos()).ok());
        bytes.extend_from_slice(b"O\0\0\0");
        let ending = going.map_or(0, |going| going.ending.signal());
        bytes.extend_from_slice(&ending.to_le_bytes());
        bytes.extend_from_slice(&until.unwrap_or(NEVER).to_le_bytes());
        bytes.extend_from_slice(&u64::from(panics).to_le_bytes());
        bytes.extend_from_slice(&told_to_end.to_le_bytes());
        // A binary that does not know this record takes it for a descriptor that is not
        // open.
        bytes.extend_from_slice(&RawFd::MAX.to_le_bytes());
        let end = bytes.len() + TAG_LEN;
        bytes.extend_from_slice(&rescuer.unwrap_or(0).to_le_bytes());
        bytes.resize(end, 0);
        bytes
    }

    /// Reads what [`Table::encode`] wrote, taking the descriptors over.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut table = Table::default();
        for record in bytes.chunks_exact(RECORD) {
            let number = |at: usize| i32::from_le_bytes(array(record, at));
            let long = |at: usize| u64::from_le_bytes(array(record, at));
            let raw: RawFd = number(28);
            let tag = Tag::from_bytes(array(record, 32));
            // A keeper of before wrote no rescuer there, which is 0.
            if record[0] == b'O' {
                let until = Some(long(8)).filter(|until| *until != NEVER);
                table.orders = Orders {
                    told_to_end: number(24).unsigned_abs(),
                    going: Ending::of_order(number(4))
                        .map(|ending| Going { ending, until: until.map(Duration::from_nanos) }),
                    panics: u32::try_from(long(16)).unwrap_or(u32::MAX),
                    rescuer: Some(number(32)).filter(|pid| *pid > 0),
                };
                continue;
            }
            let Some(fd) = inherited(raw) else { continue };
            let added = match record[0] {
                b'P' => table.add(Process {
                    key: long(8),
                    pid: number(24),
                    start: long(16),
                    tag,
                    pidfd: fd,
                    state: match record[1] {
                        0 => State::Running,
                        1 => State::Exited(None),
                        2 => State::Exited(Some(End::Exit(number(4)))),
                        _ => State::Exited(Some(End::Signal(number(4)))),
                    },
                    adopted: record[2] != 0,
                }),
                _ => table.hold(tag, fd),
            };
            // A smaller table in the new binary: the engine finds the rest again
            // by their status files.
            let _ = added;
        }
        table
    }
}

const RECORD: usize = 32 + TAG_LEN;
/// A time that never comes.
const NEVER: u64 = u64::MAX;

fn array<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&record[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn an_exit_is_kept_until_it_is_acknowledged() {
        let mut table = Table::default();
        let process = Process {
            key: 1,
            pid: 100,
            start: 5,
            tag: Tag::new("web").unwrap(),
            pidfd: fd(),
            state: State::Running,
            adopted: false,
        };
        table.add(process).unwrap();
        table.acknowledge(1);
        assert_eq!(table.processes.len(), 1, "a running process is not forgotten");
        table.running(100).unwrap().state = State::Exited(Some(End::Exit(3)));
        assert!(table.running(100).is_none(), "its pid may be another's by now");
        table.acknowledge(1);
        assert!(table.processes.is_empty());
    }

    #[test]
    fn a_table_goes_through_its_bytes() {
        let mut table = Table::default();
        for (key, state) in [
            (1, State::Running),
            (2, State::Exited(None)),
            (3, State::Exited(Some(End::Signal(9)))),
            (4, State::Exited(Some(End::Exit(-1)))),
        ] {
            let tag = Tag::new(&format!("c{key}")).unwrap();
            table
                .add(Process { key, pid: 7, start: 8, tag, pidfd: fd(), state, adopted: key == 2 })
                .unwrap();
        }
        table.hold(Tag::new("api").unwrap(), fd()).unwrap();
        let going = Going { ending: Ending::Halt, until: Some(Duration::from_millis(90_001)) };
        table.orders =
            Orders { told_to_end: 2, going: Some(going), panics: 1, rescuer: Some(70_000) };
        let (orders, bytes) = (table.orders, table.encode());
        std::mem::forget(table);
        let again = Table::decode(&bytes);
        assert_eq!(again.encode(), bytes);
        assert_eq!(again.orders, orders);
        assert_eq!(again.processes.len(), 4);
        assert_eq!(again.held[0].tag.as_str(), "api");
    }
}
