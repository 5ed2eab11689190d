//! What the engine holds in memory of a container: descriptors and the like. All
//! of it can be found again after `kill -9`; nothing here is the truth.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::changes::Changes;
use super::output::Output;
use super::prepare::{Ends, Kept, Signs};
use super::probe::Probes;
use super::terminal::{Pump, Size};
use crate::cgroup::Cgroup;
use crate::keeper::process::{has_ended, start_time};
use crate::logs::Capture;
use crate::sys::signals;

/// A process of a container that the keeper watches.
#[derive(Debug)]
pub struct Process {
    /// Which launch it is.
    pub incarnation: u64,
    /// It by descriptor.
    pub pidfd: OwnedFd,
    /// Its id on the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot; 0 where that could not be told.
    pub start: u64,
}

impl Process {
    /// Ends its process group, also when it is gone: then the number can be somebody
    /// else's by now.
    pub fn end_group(&self) {
        match signals::send_to_group(self.pidfd.as_fd(), libc::SIGKILL) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            _ => return,
        }
        // Before Linux 6.9: a group that outlives its leader keeps the number from being
        // given to a new process.
        if !self.is_anothers() {
            let _ = signals::kill(-self.pid, libc::SIGKILL);
        }
    }

    /// Whether its number is somebody else's by now. Nobody reaped it while it is still in
    /// /proc with its own start time.
    fn is_anothers(&self) -> bool {
        let start = start_time(self.pid);
        has_ended(self.pidfd.as_fd()) && start != 0 && start != self.start
    }
}

/// A container's side in the engine.
#[derive(Debug, Default)]
pub struct Live {
    /// What it keeps between launches; taken while one is prepared.
    pub kept: Kept,
    /// Its payload's supervisor.
    pub process: Option<Process>,
    /// Moves its output to its log.
    pub capture: Option<Capture>,
    /// Says that its launch takes too long to be made ready.
    pub overdue: Option<tokio::task::AbortHandle>,
    /// The task that looks after its health.
    pub probing: Option<tokio::task::AbortHandle>,
    /// What its health checks said last.
    pub probes: Arc<Mutex<Probes>>,
    /// Which run of it that is about, and since when it was looked at.
    pub watched: Option<(u64, tokio::time::Instant)>,
    /// Kills that are under way: while there is one, nothing may be born in the
    /// cgroup, for it would be killed too.
    pub kills: u32,
    /// The FIFOs of its output.
    pub output: Option<Output>,
    /// Its terminal or the way to its standard input, if it has one.
    pub ends: Ends,
    /// Where it says how it is.
    pub signs: Signs,
    /// The tasks that listen to it.
    pub listening: Vec<tokio::task::AbortHandle>,
    /// What it last said of itself (sd_notify(3), `STATUS=`).
    pub said: Option<String>,
    /// Moves what its terminal prints to its log.
    pub pump: Option<Arc<Pump>>,
    /// The size that its terminal has, or will have.
    pub size: Size,
    /// How many processes of it the kernel had ended for memory at its launch.
    pub oom_kills: u64,
    /// Changes of it while it runs.
    pub changes: Changes,
    /// The range of ids of an adopted container whose namespaces we don't hold.
    pub reserved: Option<u32>,
}

impl Live {
    /// Its cgroup, if it has one.
    pub fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.kept.cgroup.clone()
    }

    /// What its health checks said last.
    pub fn probes(&self) -> Probes {
        self.probes.lock().map(|probes| probes.clone()).unwrap_or_default()
    }

    /// The process of an incarnation, if that is what runs.
    pub fn running(&self, incarnation: u64) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.incarnation == incarnation)
    }
}

/// So long nothing may move, before a log that can't be written is left behind.
pub const STUCK: Duration = Duration::from_millis(200);
/// The same while a client is attached, which the log may be waiting for (longer than
/// the log's own patience).
pub const SLOW_READER: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::process::pidfd;

    /// What a process leaves in its group is ended with it, also when it has been reaped.
    #[test]
    fn a_group_outlives_its_leader_and_is_ended() {
        use std::os::unix::process::CommandExt;
        let (reader, writer) = std::io::pipe().unwrap();
        let mut leader = std::process::Command::new("sh")
            .args(["-c", "sleep 1000 <&- 2>&- & echo $!; sleep 0.2"])
            .stdout(writer)
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = i32::try_from(leader.id()).unwrap();
        let start = start_time(pid);
        let process = Process { incarnation: 1, pidfd: pidfd(pid).unwrap(), pid, start };
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(&reader), &mut line).unwrap();
        let left = pidfd(line.trim().parse().unwrap()).unwrap();
        leader.wait().unwrap();
        assert!(!has_ended(left.as_fd()));
        process.end_group();
        // It holds the pipe open until it is gone.
        let _ = std::io::read_to_string(reader).unwrap();
        let mut fds = [rustix::event::PollFd::new(&left, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
    }

    #[test]
    fn a_process_that_nobody_reaped_has_its_number() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own =
            Process { incarnation: 1, pidfd: pidfd(pid).unwrap(), pid, start: start_time(pid) };
        let mut fds = [rustix::event::PollFd::new(&own.pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        assert!(has_ended(own.pidfd.as_fd()) && !own.is_anothers());
        assert!(Process { start: own.start + 1, ..own }.is_anothers());
        child.wait().unwrap();
    }
}
