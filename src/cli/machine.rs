//! Commands about the machine whose init Berth is: what a boot does, and how it goes
//! down. They reach PID 1 by a signal, not through the engine, which may hang.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use jiff::tz::TimeZone;

use super::{Result, print};
use crate::boot;
use crate::engine::paths::Paths;
use crate::engine::start::local_zone;
use crate::keeper::ending::Ending;
use crate::manifest::calendar::Calendar;
use crate::manifest::scalar::Signal;
use crate::sys::{machine, signals};

/// How the machine goes down.
#[derive(Debug, Clone, ClapArgs)]
#[command(args_override_self = true)]
pub struct Down {
    /// At once, without stopping anything: only what the kernel holds is written.
    #[arg(short, long)]
    pub force: bool,
    /// Power off, whichever command it is: `halt -p`.
    #[arg(short, long)]
    pub poweroff: bool,
}

impl Down {
    /// What the command stands for with these options.
    pub fn ending(&self, usual: Ending) -> Ending {
        if self.poweroff { Ending::PowerOff } else { usual }
    }
}

/// kexec: another kernel without the firmware.
#[derive(Debug, Clone, ClapArgs)]
pub struct Kexec {
    /// The kernel; without it the one that was loaded before (kexec(8)).
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    #[arg(long, requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its command line; that of the running kernel otherwise.
    #[arg(long, requires = "kernel")]
    pub append: Option<String>,
    /// At once, without stopping anything.
    #[arg(short, long)]
    pub force: bool,
}

/// `shutdown`, as sysvinit and systemd have it: `-h` is not for help.
#[derive(Debug, Clone, ClapArgs)]
#[command(disable_help_flag = true, args_override_self = true)]
pub struct Shutdown {
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Power off (the default).
    #[arg(short = 'P', long, conflicts_with_all = ["reboot", "halt"])]
    pub poweroff: bool,
    /// The same, unless something else is asked for: the agents of virtual machines and
    /// daemons for the power button call `shutdown -h -P` and `shutdown -h -r`.
    #[arg(short = 'h')]
    pub down: bool,
    /// Reboot.
    #[arg(short, long, conflicts_with = "halt")]
    pub reboot: bool,
    /// Halt.
    #[arg(short = 'H', long)]
    pub halt: bool,
    /// Say nothing on the console.
    #[arg(long)]
    pub no_wall: bool,
    /// `now`, `+MINUTES` or `HH:MM`: until then this command waits, and ending it calls it
    /// off.
    #[arg(default_value = "+1", allow_hyphen_values = false)]
    pub time: String,
    /// What is told on the console.
    pub message: Vec<String>,
}

/// As an init of one command.
#[derive(Debug, Clone, ClapArgs)]
pub struct Init {
    /// Give the command a session of its own with the terminal, send signals to all of
    /// its process group, and SIGTERM to what is left of it at the end (dumb-init's way).
    #[arg(long)]
    pub session: bool,
    /// Send signals to the command's process group.
    #[arg(short, long)]
    pub group: bool,
    /// Adopt orphans also when this is not PID 1.
    #[arg(short, long)]
    pub subreaper: bool,
    /// Tell which orphans are reaped.
    #[arg(short, long)]
    pub warn: bool,
    /// An exit status that counts as 0.
    #[arg(short, long = "expect", value_name = "STATUS", value_parser = clap::value_parser!(u8))]
    pub expected: Vec<u8>,
    /// The signal to this program when its parent ends.
    #[arg(short, long, value_name = "SIGNAL")]
    pub parent_death: Option<Signal>,
    /// Pass a signal on as another one, `15:3`; as 0 it is not passed on.
    #[arg(short, long = "rewrite", value_name = "FROM:TO", value_parser = rewrite)]
    pub rewrite: Vec<(i32, i32)>,
    /// Tell what is done.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl Shutdown {
    fn ending(&self) -> Ending {
        match (self.reboot, self.halt) {
            (true, _) => Ending::Reboot,
            (_, true) => Ending::Halt,
            _ => Ending::PowerOff,
        }
    }
}

fn rewrite(text: &str) -> std::result::Result<(i32, i32), String> {
    let numbers = text.split_once(':').and_then(|(from, to)| {
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        ((1..=64).contains(&from) && (0..=64).contains(&to)).then_some((from, to))
    });
    numbers.ok_or_else(|| format!("{text:?} is not FROM:TO with numbers of signals"))
}

/// Runs one command under an init; ends as it does.
pub fn init(args: Init) -> Result {
    use std::os::unix::ffi::OsStringExt;
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let options = boot::mere::Options {
        session: args.session,
        group: args.group || is_set("TINI_KILL_PROCESS_GROUP"),
        subreaper: args.subreaper || is_set("TINI_SUBREAPER"),
        warn: args.warn,
        expected: args.expected.iter().map(|code| i32::from(*code)).collect(),
        parent_death: args.parent_death.map(|signal| signal.0),
        rewrite: args.rewrite.into_iter().collect(),
        verbose: args.verbose > 0,
    };
    let mut command = Vec::new();
    for word in args.command {
        command.push(CString::new(word.into_vec()).map_err(|_| "a NUL in the command")?);
    }
    let code = boot::mere::run(&options, &command);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The names by which the binary can be called to bring the machine down.
const NAMES: [&str; 4] = ["poweroff", "reboot", "halt", "shutdown"];

/// The arguments, with the command put in where the program is called by its name.
pub fn by_name(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let name = args.first().and_then(|first| Path::new(first).file_name()).map(OsString::from);
    if let Some(name) = name.filter(|name| NAMES.iter().any(|other| name == other)) {
        args.splice(0..1, ["berth".into(), name]);
    }
    args
}

/// Sends lines of sd_notify(3) to whoever supervises this process.
pub fn notify(lines: &[String]) -> Result {
    let path = std::env::var_os("NOTIFY_SOCKET")
        .ok_or("NOTIFY_SOCKET is not set: say type = \"notify\" or `watchdog` in the manifest")?;
    let text = if lines.is_empty() { "READY=1".to_owned() } else { lines.join("\n") };
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket
        .send_to(text.as_bytes(), Path::new(&path))
        .map_err(|error| format!("sending to {}: {error}", path.to_string_lossy()))?;
    Ok(ExitCode::SUCCESS)
}

/// What a boot of this machine does, step by step.
pub fn plan() -> Result {
    let (plan, problems) = boot::plan_of_this_machine();
    let mut text = String::new();
    for problem in &problems {
        text += &format!("\x1b[31mproblem\x1b[0m: {problem}\n");
    }
    for planned in plan {
        let essential = if planned.essential { "  (a shell if it fails)" } else { "" };
        text += &format!("{}{essential}\n", planned.step);
    }
    print(&text)?;
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Orders the machine's init to go down.
pub fn down(paths: &Paths, ending: Ending, force: bool) -> Result {
    if !rustix::process::geteuid().is_root() {
        return Err(format!("{}: only root may do that", ending.word()).into());
    }
    if force {
        boot::at_once(ending).map_err(|error| format!("{}: {error}", ending.word()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let keeper = std::fs::read_to_string(paths.lock()).unwrap_or_default();
    let init = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    // systemd knows the same signals (systemd(1)); it is still the init where Berth was
    // made the next one. A Berth with a root of its own has nothing to do with it.
    let is_of_systemd = init.trim() == "systemd" && paths.root() == std::path::Path::new("/");
    if keeper.trim() != "1" && !is_of_systemd {
        return Err(format!(
            "Berth is not the init of this machine, {} is: use its own command, or --force",
            init.trim()
        )
        .into());
    }
    signals::kill(1, ending.signal())
        .map_err(|error| format!("sending signal {} to PID 1: {error}", ending.signal()))?;
    Ok(ExitCode::SUCCESS)
}

/// Loads a kernel, if one is named, and goes down into it.
pub fn kexec(paths: &Paths, args: &Kexec) -> Result {
    if let Some(kernel) = &args.kernel {
        let open = |path: &Path| {
            File::open(path).map_err(|error| format!("opening {}: {error}", path.display()))
        };
        let line = match &args.append {
            Some(line) => line.clone(),
            None => std::fs::read_to_string("/proc/cmdline")?.trim().to_owned(),
        };
        let initrd = args.initrd.as_deref().map(open).transpose()?;
        machine::kexec_load(
            open(kernel)?.as_fd(),
            initrd.as_ref().map(AsFd::as_fd),
            &CString::new(line).map_err(|_| "a NUL in the command line")?,
        )
        .map_err(|error| format!("loading {}: {error}", kernel.display()))?;
    }
    let loaded = std::fs::read_to_string("/sys/kernel/kexec_loaded").unwrap_or_default();
    if loaded.trim() != "1" {
        return Err("no kernel is loaded to go on with: name one".into());
    }
    down(paths, Ending::Kexec, args.force)
}

/// Waits for the time, says what is to come, and orders it.
pub fn shutdown(paths: &Paths, args: &Shutdown) -> Result {
    let ending = args.ending();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(0));
    let wait = until(&args.time, now, &local_zone())?;
    let message = args.message.join(" ");
    if !args.no_wall && (!message.is_empty() || !wait.is_zero()) {
        let when = match wait.as_secs().div_ceil(60) {
            0 => "now".to_owned(),
            minutes => format!("in {minutes} min"),
        };
        let text = format!("\r\nThe machine goes down ({}) {when}. {message}\r\n", ending.word());
        // The console, where there is one; nobody else need be there.
        let _ = std::fs::write("/dev/console", text);
    }
    std::thread::sleep(wait);
    down(paths, ending, false)
}

/// How long it is until a time of shutdown(8): `now`, minutes with or without a `+`, or
/// the next `HH:MM`. `now` is in nanoseconds since 1970.
fn until(time: &str, now: i64, zone: &TimeZone) -> std::result::Result<Duration, String> {
    let fail = || format!("{time:?} is not a time: now, +MINUTES or HH:MM");
    if time == "now" {
        return Ok(Duration::ZERO);
    }
    if let Some((hours, minutes)) = time.split_once(':') {
        // A schedule may be more than a time.
        let is_number = |text: &str| text.parse::<u8>().is_ok();
        if !is_number(hours) || !is_number(minutes) {
            return Err(fail());
        }
        let calendar: Calendar = format!("*-*-* {time}").parse().map_err(|_| fail())?;
        let at = calendar.next(now, zone).ok_or_else(fail)?;
        return Ok(Duration::from_nanos(at.saturating_sub(now).unsigned_abs()));
    }
    let minutes = time.strip_prefix('+').unwrap_or(time);
    if !minutes.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fail());
    }
    let minutes = minutes.parse::<u32>().map_err(|_| fail())?;
    Ok(Duration::from_secs(u64::from(minutes) * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_command() {
        let args = |words: &[&str]| by_name(words.iter().map(OsString::from));
        assert_eq!(args(&["/sbin/poweroff", "-f"]), ["berth", "poweroff", "-f"]);
        assert_eq!(args(&["berth", "ps"]), ["berth", "ps"]);
        assert_eq!(args(&[]), Vec::<OsString>::new());
    }

    #[test]
    fn shutdown_is_asked_for_in_many_ways() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Shutdown,
        }
        let line = |line: &str| {
            let words = ["shutdown"].into_iter().chain(line.split(' '));
            let args = <Line as clap::Parser>::try_parse_from(words).ok()?.args;
            Some((args.ending(), args.time, args.message))
        };
        let is = |ending, time: &str, message: &[&str]| {
            let message = message.iter().map(|word| (*word).to_owned()).collect();
            Some((ending, time.to_owned(), message))
        };
        // A guest agent's, a power button's, an administration tool's, people's.
        assert_eq!(line("-h -P +0 bye"), is(Ending::PowerOff, "+0", &["bye"]));
        assert_eq!(line("-h -r +0 bye"), is(Ending::Reboot, "+0", &["bye"]));
        assert_eq!(line("-h -H +0"), is(Ending::Halt, "+0", &[]));
        assert_eq!(line("-h -P now pressed"), is(Ending::PowerOff, "now", &["pressed"]));
        assert_eq!(line("-r 0 by a tool"), is(Ending::Reboot, "0", &["by", "a", "tool"]));
        assert_eq!(line("-hP --no-wall now"), is(Ending::PowerOff, "now", &[]));
        assert_eq!(line("-h now"), is(Ending::PowerOff, "now", &[]));
        assert_eq!(line("-r -H now"), None);
    }

    #[test]
    fn times_of_a_shutdown_are_understood() {
        const MINUTE: u64 = 60;
        // 1970-01-01 01:30 in a zone an hour east.
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let wait = |time: &str| until(time, 30 * 60 * 1_000_000_000, &zone).ok();
        assert_eq!(wait("now"), Some(Duration::ZERO));
        for (time, minutes) in
            [("0", 0), ("+0", 0), ("5", 5), ("+5", 5), ("01:31", 1), ("1:20", 23 * 60 + 50)]
        {
            assert_eq!(wait(time), Some(Duration::from_secs(minutes * MINUTE)), "{time}");
        }
        for time in ["", "soon", "-1", "+", "25:00", "1:2:3:4", "*:00", "++1", "0/5:00"] {
            assert_eq!(wait(time), None, "{time}");
        }
    }
}
