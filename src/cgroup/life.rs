//! Freezing, killing, waiting for the end, removing.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;

use super::{Cgroup, Error, Result};

/// Those who hold a group still while they look at what it works on.
#[derive(Debug, Default)]
pub(super) struct Still {
    holders: u32,
    /// How many there were so far.
    times: u64,
    /// Whether it goes on after the last of them: not if it was frozen before, or
    /// somebody has frozen it meanwhile.
    thaw_after: bool,
}

/// How often a v1 group is frozen, killed and thawed before it is given up.
const ROUNDS: usize = 100;

impl Cgroup {
    /// The folder that processes are followed in: cgroup2's, else the freezer's.
    fn tracking(&self) -> Option<&PathBuf> {
        self.v2.as_ref().or_else(|| self.dir_of("freezer")).or_else(|| self.dir_of("pids"))
    }

    fn events(&self) -> Option<PathBuf> {
        Some(self.v2.as_ref()?.join("cgroup.events"))
    }

    /// Whether any process is in it.
    pub fn is_populated(&self) -> bool {
        match self.events() {
            Some(events) => fs::read_to_string(events).is_ok_and(|text| populated(&text)),
            None => !self.procs().is_empty(),
        }
    }

    /// Waits until no process is in it, without polling.
    ///
    /// # Errors
    /// The group can't be read any more.
    pub async fn wait_empty(&self) -> Result<()> {
        let Some(path) = self.events() else {
            let pids = self.procs();
            // Without a cgroup2 tree there is no such event: one process after the
            // other is waited for.
            return tokio::task::spawn_blocking(move || wait_for(&pids))
                .await
                .map_err(|error| Error::new("waiting for processes", io::Error::other(error)))?;
        };
        let failed = |error| Error::new(format!("waiting on {}", path.display()), error);
        let file = match File::open(&path) {
            Ok(file) => OwnedFd::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // A change of the file shows as POLLPRI (kernfs; cgroup-v2 "cgroup.events").
        let watched = crate::sys::readiness::watch(file, Interest::PRIORITY | Interest::ERROR)
            .map_err(failed)?;
        loop {
            let mut text = [0u8; 256];
            match rustix::io::pread(watched.get_ref(), &mut text[..], 0) {
                Ok(len) if populated(&String::from_utf8_lossy(&text[..len])) => {}
                // Removed meanwhile: nobody is in it.
                _ => return Ok(()),
            }
            let mut guard =
                watched.ready(Interest::PRIORITY | Interest::ERROR).await.map_err(failed)?;
            guard.clear_ready();
        }
    }

    /// Ends every process of it at once, also one that forks as fast as it can.
    /// Returns when nobody is left. Blocks.
    ///
    /// # Errors
    /// A process could not be ended: it hangs in the kernel.
    pub fn kill(&self) -> Result<()> {
        if let Some(dir) = self.v2.as_ref().filter(|dir| dir.join("cgroup.kill").exists()) {
            let path = dir.join("cgroup.kill");
            self.was_killed.store(true, std::sync::atomic::Ordering::Relaxed);
            let pids = self.procs();
            fs::write(&path, "1")
                .map_err(|error| Error::new(format!("writing {}", path.display()), error))?;
            wait_for(&pids)?;
            return wait_for(&self.procs());
        }
        for _ in 0..ROUNDS {
            let pids = self.procs();
            if pids.is_empty() {
                return Ok(());
            }
            // Frozen they can't fork; the signal takes effect when they thaw.
            let _ = self.set_frozen(true);
            for pid in self.procs() {
                signal(pid);
            }
            let _ = self.set_frozen(false);
            wait_for(&pids)?;
        }
        Err(Error::new(
            "ending the processes of the cgroup",
            io::Error::other("they go on forking"),
        ))
    }

    /// Stops every process of it where it is.
    pub fn freeze(&self) -> Result<()> {
        let mut still = self.still();
        still.thaw_after = false;
        self.set_frozen(true)
    }

    /// Lets them go on; once nobody holds them still any more, if somebody does.
    pub fn thaw(&self) -> Result<()> {
        let mut still = self.still();
        match still.holders {
            0 => self.set_frozen(false),
            _ => {
                still.thaw_after = true;
                Ok(())
            }
        }
    }

    /// Stops every process of it for a while, until as many have called
    /// [`Cgroup::let_go`]. What is frozen already, or is meanwhile, stays so.
    pub fn hold_still(&self) -> Result<()> {
        let mut still = self.still();
        if still.holders == 0 {
            still.thaw_after = !self.is_frozen();
            if still.thaw_after {
                self.set_frozen(true)?;
            }
        }
        still.holders += 1;
        still.times += 1;
        Ok(())
    }

    /// Whether somebody holds it still.
    pub fn is_held(&self) -> bool {
        self.still().holders > 0
    }

    /// How often it was held still so far. Whoever gets the same number twice knows that
    /// nobody began to in between.
    pub fn standstills(&self) -> u64 {
        self.still().times
    }

    /// The end of [`Cgroup::hold_still`].
    pub fn let_go(&self) -> Result<()> {
        let mut still = self.still();
        still.holders = still.holders.saturating_sub(1);
        match still.holders == 0 && still.thaw_after {
            true => self.set_frozen(false),
            false => Ok(()),
        }
    }

    fn still(&self) -> MutexGuard<'_, Still> {
        // A lock that somebody died with still holds a whole count.
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let none = || Error::new("freezing", io::Error::from(io::ErrorKind::Unsupported));
        let (path, value) = match (&self.v2, self.dir_of("freezer")) {
            (Some(dir), _) => (dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
            (None, Some(dir)) => {
                (dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
            }
            (None, None) => return Err(none()),
        };
        fs::write(&path, value)
            .map_err(|error| Error::new(format!("writing {}", path.display()), error))
    }

    /// Whether it was frozen.
    pub fn is_frozen(&self) -> bool {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        match (&self.v2, self.dir_of("freezer")) {
            (Some(dir), _) => read(dir.join("cgroup.freeze")).trim() == "1",
            (None, Some(dir)) => read(dir.join("freezer.state")).trim() != "THAWED",
            (None, None) => false,
        }
    }

    /// Whether all of its processes stand still by now: freezing takes its time.
    pub fn is_still(&self) -> bool {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        match (&self.v2, self.dir_of("freezer")) {
            (Some(dir), _) => read(dir.join("cgroup.events")).lines().any(|l| l == "frozen 1"),
            (None, Some(dir)) => read(dir.join("freezer.state")).trim() == "FROZEN",
            (None, None) => false,
        }
    }

    /// Removes it from every hierarchy. What is still in it is ended first.
    ///
    /// # Errors
    /// A process hangs in it.
    pub fn remove(&self) -> Result<()> {
        if self.is_populated() {
            self.kill()?;
        }
        for dir in self.dirs() {
            remove_tree(dir)
                .map_err(|error| Error::new(format!("removing {}", dir.display()), error))?;
        }
        Ok(())
    }

    /// How many processes of it the kernel has ended for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(dir) = self.dir_of("memory") else {
            return 0;
        };
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Whether the folder that processes are followed in is there.
    pub fn exists(&self) -> bool {
        self.tracking().is_some_and(|dir| dir.is_dir())
    }
}

fn populated(events: &str) -> bool {
    events.lines().any(|line| line == "populated 1")
}

fn signal(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid)
        && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
    {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

/// Waits until each of these processes has ended.
fn wait_for(pids: &[i32]) -> Result<()> {
    for &pid in pids {
        let Some(pid) = Pid::from_raw(pid) else {
            continue;
        };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))
            .map_err(|errno| Error::new("waiting for a process to end", errno.into()))?;
    }
    Ok(())
}

/// A group's folder goes by rmdir(2) alone, those below it first.
pub(super) fn remove_tree(dir: &std::path::Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let mut left = 100;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that has ended leaves its group a moment later (v1).
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && left > 0 => {
                left -= 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            result => return result,
        }
    }
}
