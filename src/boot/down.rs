//! The end: the keeper has stopped the services, or given up on them. What is left
//! gets SIGTERM and SIGKILL, file systems are unmounted or made read-only, then
//! reboot(2). Each wait has an end: nothing that hangs can keep the machine up.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{WaitOptions, wait};

use super::config::Config;
use super::fstab::unescape;
use super::init::{seconds, told};
use super::{console, steps};
use crate::keeper::duty::Watchdog;
use crate::keeper::ending::Ending;
use crate::rootfs::mountinfo::{self, HostMount};
use crate::sys::{machine, signals};
use console::tell;

/// How long the dead may take to be gone.
const DEAD: Duration = Duration::from_secs(3);
/// How long all file systems together may take.
const FILE_SYSTEMS: Duration = Duration::from_secs(60);
/// How long one of them may take.
const FILE_SYSTEM: Duration = Duration::from_secs(15);

/// Ends everything and the machine. Every signal must be blocked. The watchdog is fed while
/// something is waited for, which has an end; what hangs after that it resets.
pub fn go_down(ending: Ending, watchdog: Option<Watchdog>) -> ! {
    let fed = watchdog.as_ref();
    end_processes(fed);
    // In a child: a file system that hangs takes whoever touches it along.
    match machine::fork(leave_file_systems) {
        Ok(pid) if !reap_until(FILE_SYSTEMS, fed, |reaped| reaped == Some(pid)) => {
            tell("file systems hang; going on without");
        }
        Ok(_) => {}
        Err(error) => tell(&format!("making a process to unmount: {error}")),
    }
    tell(&format!("{}: now", ending.word()));
    // A machine that is to stand still must not be reset for it.
    if let Some(watchdog) = watchdog {
        match ending {
            Ending::Halt => watchdog.disarm(),
            // Left open: closing it could be taken for its end.
            _ => std::mem::forget(watchdog),
        }
    }
    if let Err(errno) = rustix::system::reboot(ending.command()) {
        tell(&format!("{}: {errno}", ending.word()));
    }
    // In a container there is no machine to end; elsewhere something is better than
    // nothing.
    if Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists() {
        std::process::exit(0);
    }
    for ending in [Ending::Reboot, Ending::Halt] {
        let _ = rustix::system::reboot(ending.command());
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// SIGTERM, time to obey, SIGKILL. All processes are children of ours in the end:
/// when there is no child there is no process.
fn end_processes(watchdog: Option<&Watchdog>) {
    let patience = seconds(told::KILL, Config::default().kill_timeout);
    let _ = signals::kill(-1, libc::SIGTERM);
    // What is stopped hears SIGTERM only when it goes on.
    let _ = signals::kill(-1, libc::SIGCONT);
    if reap_until(patience, watchdog, |reaped| reaped.is_none()) {
        return;
    }
    tell(&format!("ending by force: {}", names().join(", ")));
    let _ = signals::kill(-1, libc::SIGKILL);
    if !reap_until(DEAD, watchdog, |reaped| reaped.is_none()) {
        tell(&format!("not even SIGKILL ends: {}", names().join(", ")));
    }
}

/// Reaps until `is_enough` of a pid, or of `None`: there is no child. Whether that
/// came in time.
fn reap_until(
    patience: Duration,
    watchdog: Option<&Watchdog>,
    is_enough: impl Fn(Option<i32>) -> bool,
) -> bool {
    let begun = Instant::now();
    loop {
        if let Some(watchdog) = watchdog {
            watchdog.feed();
        }
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) if is_enough(Some(pid.as_raw_nonzero().get())) => return true,
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => return is_enough(None),
        }
        let left = patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return false;
        }
        let _ = signals::wait_for(watchdog.map_or(left, |watchdog| left.min(watchdog.period)));
    }
}

/// The names of the processes that are there, without the kernel's.
fn names() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let name = |pid: u32| {
        // A kernel thread has no program, a zombie no more either.
        fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("{} ({pid})", name.trim()))
    };
    pids.filter(|pid| *pid != 1).filter_map(name).take(10).collect()
}

/// Of /proc/self/mountinfo, the last mounted first.
fn mounted(table: &[u8]) -> Vec<HostMount> {
    let mut all = mountinfo::parse(table);
    all.reverse();
    all
}

/// Whether there is nothing to lose in it.
fn is_of_no_matter(mount: &HostMount) -> bool {
    let points = ["/dev", "/run", "/dev/shm"];
    mount.is_kernels() || points.iter().any(|point| mount.point == Path::new(point))
}

/// In a child: writes down what the next boot wants, then leaves every file system
/// clean. Those of servers go first, by force, so that no other waits for them.
fn leave_file_systems() -> i32 {
    apart(Path::new(steps::seed::PATH), || {
        steps::seed::save();
        Ok(())
    });
    let all = mounted(&fs::read("/proc/self/mountinfo").unwrap_or_default());
    let (remote, local): (Vec<&HostMount>, Vec<&HostMount>) = all
        .iter()
        .filter(|mounted| !is_of_no_matter(mounted) && mounted.point != Path::new("/"))
        .partition(|mounted| mounted.is_remote());
    // All at once: each may hang as long as one may.
    let leaving = remote.into_iter().filter_map(|mounted| {
        begin(&mounted.point, || {
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
            rustix::mount::unmount(&mounted.point, flags)
        })
    });
    await_all(leaving.collect());
    swap_off();
    for mounted in local {
        apart(&mounted.point, || leave(&mounted.point));
    }
    let root = Path::new("/");
    apart(root, || {
        if let Ok(dir) = File::open(root) {
            let _ = rustix::fs::syncfs(&dir);
        }
        rustix::mount::mount_remount(root, MountFlags::RDONLY, c"")
    });
    // Of all that is left, a server that is gone may be, which this waits for.
    apart(Path::new("what is not mounted any more"), || {
        rustix::fs::sync();
        Ok(())
    });
    0
}

/// Unmounts; what is in use becomes read-only, which is as clean.
fn leave(point: &Path) -> rustix::io::Result<()> {
    match rustix::mount::unmount(point, UnmountFlags::empty()) {
        // Something else was mounted over it, or it went with another.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(_) => {
            if let Ok(dir) = File::open(point) {
                let _ = rustix::fs::syncfs(&dir);
            }
            rustix::mount::mount_remount(point, MountFlags::RDONLY, c"")?;
            let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
            Ok(())
        }
    }
}

/// In a process of its own, and not for longer than one may take.
fn apart(what: &Path, work: impl FnOnce() -> rustix::io::Result<()>) {
    await_all(begin(what, work).into_iter().collect());
}

/// Begins something in a process of its own.
fn begin(what: &Path, work: impl FnOnce() -> rustix::io::Result<()>) -> Option<(i32, &Path)> {
    let child = machine::fork(|| match work() {
        Ok(()) => 0,
        Err(errno) => {
            tell(&format!("leaving {}: {errno}", what.display()));
            1
        }
    });
    child.ok().map(|child| (child, what))
}

/// Waits for what was begun, for no longer than one of them may take.
fn await_all(mut children: Vec<(i32, &Path)>) {
    // SIGCHLD is not blocked here, so the wait is in small steps.
    let end = Instant::now() + FILE_SYSTEM;
    while !children.is_empty() {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) => {
                children.retain(|(child, _)| *child != pid.as_raw_nonzero().get());
            }
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => break,
        }
    }
    for (_, what) in children {
        tell(&format!("leaving {} takes too long; going on", what.display()));
    }
}

fn swap_off() {
    let table = fs::read_to_string("/proc/swaps").unwrap_or_default();
    for line in table.lines().skip(1) {
        let path = unescape(line.split_whitespace().next().unwrap_or_default());
        if let Ok(name) = std::ffi::CString::new(path.clone()) {
            apart(Path::new(&path), || {
                machine::swap_off(&name).map_err(|error| {
                    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
                })
            });
        }
    }
}

/// For `-f`: at once, from whoever asks; only what the kernel has is written.
pub fn at_once(ending: Ending) -> std::io::Result<()> {
    rustix::fs::sync();
    Ok(rustix::system::reboot(ending.command())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mounted_last_goes_first() {
        let table = b"1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /proc rw - proc proc rw\n\
            3 1 8:1 / /my\\040data rw shared:1 - xfs /dev/sda1 rw\n\
            4 3 0:9 / /my\\040data/net rw - nfs4 nas:/x rw\n5 1 0:3 / /run rw - tmpfs tmpfs rw\n";
        let all = mounted(table);
        let points: Vec<_> = all.iter().map(|m| m.point.to_str().unwrap()).collect();
        assert_eq!(points, ["/run", "/my data/net", "/my data", "/proc", "/"]);
        let kernels: Vec<_> = all.iter().map(is_of_no_matter).collect();
        assert_eq!(kernels, [true, false, false, true, false]);
        assert!(all[1].is_remote() && !all[2].is_remote());
    }
}
