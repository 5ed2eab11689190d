//! The machine's console: where init speaks, and where a shell helps when nothing
//! else does.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::config::Config;
use crate::keeper::duty::LAUNCHED;
use crate::keeper::say::patiently;
use crate::sys::{machine, process, signals};

/// The variable in which init keeps what is executed as a shell, words apart by
/// spaces, commands by colons.
pub const SHELL: &str = "BERTH_SHELL";

/// Says a line on the console. A console that is gone, or takes nothing, is no reason to
/// end or to wait for long.
pub fn tell(text: &str) {
    patiently(format!("berth: {text}\n").as_bytes());
}

/// Makes the console standard input, output and error of this process.
pub fn open() {
    let console = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/console")
        .or_else(|_| File::options().read(true).write(true).open("/dev/null"));
    if let Ok(console) = console {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// What a configuration's shells are in the environment.
pub fn shells_as_text(config: &Config) -> String {
    config.shell.iter().map(|words| words.join(" ")).collect::<Vec<_>>().join(":")
}

/// Runs a shell on the console until it ends. To be called in a child of init.
pub fn shell(why: &str, shells: &str) {
    tell(&format!("{why}; a shell on the console, the boot goes on when it ends"));
    match machine::fork(|| become_shell(shells)) {
        Ok(pid) => drop(wait_for(pid)),
        Err(error) => tell(&format!("making a process for a shell: {error}")),
    }
}

/// Starts a shell on the console while the machine runs on, unless somebody has the
/// console already: a login there is better. Gives the pid of a process that ends with it,
/// and that ends it when it is told by [`LAUNCHED`] and somebody else took the console:
/// two who read from one terminal get half of it each.
pub fn rescue() -> Option<i32> {
    let started = machine::fork(|| {
        // This process outlives a keeper that becomes another program, and must keep nothing
        // of it: an engine ends by the end of its socket, a watchdog is opened by one only.
        process::close_from(3);
        signals::block_all();
        // A login that is being started should have it.
        std::thread::sleep(A_MOMENT);
        if console_is_taken(0) {
            return 0;
        }
        tell("a shell on the console helps out; `berth status` and /var/log/berth tell more");
        let told = std::env::var(SHELL).ok();
        let shells = told.unwrap_or_else(|| shells_as_text(&Config::default()));
        machine::fork(|| become_shell(&shells)).map_or(1, watch_over)
    });
    started.ok()
}

/// How long a login takes to have the console as its terminal.
const A_MOMENT: Duration = Duration::from_secs(3);

/// When to look who has the console: a moment after something was launched, however much is
/// launched meanwhile, and a few times more, for a login may be slow.
#[derive(Debug, Default)]
struct Looks {
    at: Option<Instant>,
    left: u32,
}

impl Looks {
    fn launched(&mut self, now: Instant) {
        self.at = self.at.or(Some(now + A_MOMENT));
        self.left = 5;
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if self.at.is_none_or(|at| now < at) {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.at = (self.left > 0).then_some(now + A_MOMENT);
        true
    }
}

/// Waits for the end of a shell, or ends it. Every signal must be blocked.
fn watch_over(shell: i32) -> i32 {
    let mut looks = Looks::default();
    loop {
        let signal = match looks.at {
            Some(at) => signals::wait_for(at.saturating_duration_since(Instant::now())),
            None => Some(signals::wait_any()),
        };
        match signal {
            Some(libc::SIGCHLD) if has_ended(shell) => return 0,
            Some(LAUNCHED) => looks.launched(Instant::now()),
            _ => {}
        }
        if looks.is_due(Instant::now()) && console_is_taken(shell) {
            // As when a terminal is gone; the leader of a session leads its group.
            for signal in [libc::SIGHUP, libc::SIGCONT] {
                let _ = signals::kill(-shell, signal);
            }
            looks = Looks::default();
        }
    }
}

/// Whether a child has ended, and not only been stopped; it is reaped then.
pub(super) fn has_ended(child: i32) -> bool {
    let child = rustix::process::Pid::from_raw(child);
    let waited = rustix::process::waitpid(child, rustix::process::WaitOptions::NOHANG);
    !matches!(waited, Ok(None))
}

/// Waits for one child.
pub fn wait_for(pid: i32) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    let waited = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
    });
    let (_, status) = waited.ok()??;
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

fn become_shell(shells: &str) -> i32 {
    let _ = rustix::process::setsid();
    open_for_shell();
    let _ = machine::take_terminal();
    for words in shells.split(':') {
        let mut words = words.split(' ').filter(|word| !word.is_empty());
        let Some(program) = words.next() else { continue };
        let error = Command::new(program)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("TERM", "linux")
            .current_dir("/")
            .exec();
        if error.kind() != io::ErrorKind::NotFound {
            tell(&format!("{program}: {error}"));
        }
    }
    tell("there is no shell: none of boot.toml's `shell` can be executed");
    process::exit_now(127)
}

/// The device behind /dev/console: that one itself can't be a controlling terminal.
fn device() -> Option<std::path::PathBuf> {
    let active = fs::read_to_string("/sys/class/tty/console/active").ok()?;
    let shown = fs::read_to_string("/sys/class/tty/tty0/active").unwrap_or_default();
    Some(std::path::Path::new("/dev").join(terminal(&active, &shown)?))
}

/// The last of the active consoles, which is that one. `tty0` is whichever virtual terminal
/// is shown: a login has that one's number.
fn terminal<'a>(active: &'a str, shown: &'a str) -> Option<&'a str> {
    let name = active.split_whitespace().next_back()?;
    Some(shown.split_whitespace().next().filter(|_| name == "tty0").unwrap_or(name))
}

fn open_for_shell() {
    let terminal = device().and_then(|path| File::options().read(true).write(true).open(path).ok());
    match terminal {
        Some(terminal) => {
            for dup in
                [rustix::stdio::dup2_stdin, rustix::stdio::dup2_stdout, rustix::stdio::dup2_stderr]
            {
                let _ = dup(terminal.as_fd());
            }
        }
        None => open(),
    }
}

/// Whether some process that is not of this session has the console as its terminal
/// (proc_pid_stat(5), fields 6 and 7).
fn console_is_taken(session: i32) -> bool {
    let Some(device) = device().and_then(|path| fs::metadata(path).ok()).map(|meta| meta.rdev())
    else {
        return false;
    };
    let wanted = kernel_number(device);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    });
    numbers.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok()).any(|stat| {
        let behind_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let mut fields = behind_name.split_whitespace().skip(3);
        let mut number = || fields.next().and_then(|field| field.parse::<i64>().ok());
        let (of, terminal) = (number(), number());
        of != Some(session.into()) && terminal == Some(wanted.into())
    })
}

/// A device's number as /proc writes it: minor 0-7, major 8-19, the rest of the minor.
fn kernel_number(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & 0xfff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_over_the_shell_holds_nothing_of_the_keeper() {
        let (reader, writer) = io::pipe().unwrap();
        let watcher = rescue().unwrap();
        drop(writer);
        let mut fds = [rustix::event::PollFd::new(&reader, rustix::event::PollFlags::IN)];
        let soon = rustix::event::Timespec { tv_sec: 2, tv_nsec: 0 };
        let closed = rustix::event::poll(&mut fds, Some(&soon));
        // Before it comes to the console.
        signals::kill(watcher, libc::SIGKILL).unwrap();
        wait_for(watcher);
        assert_eq!(closed, Ok(1));
    }

    #[test]
    fn launches_one_after_the_other_keep_nobody_from_looking() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut looks = Looks::default();
        assert!(!looks.is_due(at(0)));
        for second in 0..3 {
            looks.launched(at(second));
            assert!(!looks.is_due(at(second)));
        }
        assert!(looks.is_due(at(3)));
        assert!(!looks.is_due(at(4)));
        let more = (2..20).filter(|n| looks.is_due(at(n * 3))).count();
        assert_eq!((more, looks.at), (4, None), "a few times, and then never again");
    }

    #[test]
    fn the_console_of_a_screen_is_what_is_shown() {
        assert_eq!(terminal("ttyS0 tty0\n", "tty1\n"), Some("tty1"));
        assert_eq!(terminal("tty0 ttyS0\n", "tty1\n"), Some("ttyS0"));
        assert_eq!(terminal("tty0\n", ""), Some("tty0"));
        assert_eq!(terminal("", "tty1"), None);
    }

    #[test]
    fn shells_are_words_in_a_variable() {
        assert_eq!(
            shells_as_text(&Config::default()),
            "/sbin/sulogin:/usr/sbin/sulogin:/bin/sh:/bin/busybox sh"
        );
        assert_eq!(kernel_number(rustix::fs::makedev(4, 64)), 0x440);
    }
}
