//! `berth init -- COMMAND`: nothing but an init for one command, as tini and dumb-init
//! are, for PID 1 of a container that somebody else makes. Signals go to the command,
//! whoever ends is reaped, and it ends as the command did.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io::Write;

use rustix::process::{WaitOptions, wait};

use crate::sys::{machine, signals};

/// How it behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The command gets a session of its own with the terminal, signals go to its whole
    /// process group, and what is left of that gets SIGTERM at the end.
    pub session: bool,
    /// Signals go to the command's process group.
    pub group: bool,
    /// Adopt orphans although we are not PID 1.
    pub subreaper: bool,
    /// Tell whom we reap.
    pub warn: bool,
    /// Exit statuses that count as 0.
    pub expected: BTreeSet<i32>,
    /// The signal that we get when our parent ends.
    pub parent_death: Option<i32>,
    /// Tell what is done.
    pub verbose: bool,
    /// Signals that are passed on as others; 0 is not passed on.
    pub rewrite: BTreeMap<i32, i32>,
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "[berth] {text}");
}

/// Signals that stop a process that touches a terminal which is not its own.
const OF_TERMINALS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Runs the command to its end; gives the exit status.
pub fn run(options: &Options, command: &[CString]) -> i32 {
    if options.subreaper
        && let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
    {
        tell(&format!("becoming a subreaper: {errno}"));
        return 1;
    }
    if let Some(signal) = options.parent_death {
        machine::signal_at_parent_death(signal);
    }
    let is_subreaper = rustix::process::child_subreaper().is_ok_and(|set| set.is_some());
    if std::process::id() != 1 && !is_subreaper && !options.session {
        tell(
            "this is neither PID 1 nor a subreaper (-s), so zombie reaping won't work for \
             processes that lose their parent",
        );
    }
    let inherited = signals::block_all();
    let mut skip: BTreeSet<i32> = BTreeSet::new();
    if options.session && machine::leave_terminal() && is_session_leader() {
        // Giving a terminal up as its session's leader brings these two (ioctl_tty(2)).
        skip.extend([libc::SIGHUP, libc::SIGCONT]);
    }
    let child = match machine::start(command, options.session, inherited) {
        Ok(child) => child,
        Err(error) => {
            tell(&format!("making a process: {error}"));
            return 1;
        }
    };
    if options.verbose {
        tell(&format!("started process {child}"));
    }
    // Where it was started may be unmounted as long as the command itself does not mind.
    let _ = rustix::process::chdir("/");
    let target = if options.session || options.group { -child } else { child };
    let pass_on = |signal: i32| {
        let of_session = options.session && OF_TERMINALS.contains(&signal);
        let signal = match options.rewrite.get(&signal) {
            Some(other) => *other,
            // In a session without a terminal of a shell nobody would stop by them.
            None if of_session => libc::SIGSTOP,
            None => signal,
        };
        if options.verbose {
            tell(&format!("passing on signal {signal}"));
        }
        if signal != 0 {
            let _ = signals::kill(target, signal);
        }
    };
    loop {
        let signal = signals::wait_any();
        if signal == libc::SIGCHLD {
            let mut end = None;
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let pid = pid.as_raw_nonzero().get();
                if pid == child {
                    let by_signal = status.terminating_signal().map(|signal| 128 + signal);
                    end = status.exit_status().or(by_signal);
                } else if options.warn {
                    tell(&format!("Reaped zombie process with pid={pid}"));
                }
            }
            if let Some(code) = end {
                if options.session {
                    pass_on(libc::SIGTERM);
                }
                return if options.expected.contains(&code) { 0 } else { code };
            }
        } else if skip.remove(&signal) {
            if options.verbose {
                tell(&format!("not passing on signal {signal}, of the terminal given up"));
            }
        } else {
            pass_on(signal);
            if OF_TERMINALS.contains(&signal) && std::process::id() != 1 {
                // A shell that suspends the job suspends us with it.
                let _ = signals::kill(process_id(), libc::SIGSTOP);
            }
        }
    }
}

fn process_id() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn is_session_leader() -> bool {
    rustix::process::getsid(None).is_ok_and(|leader| leader == rustix::process::getpid())
}
