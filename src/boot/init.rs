//! PID 1 itself. It mounts what is fixed, forks a child for the steps of the boot,
//! moves to another root if that child found one, and becomes the keeper; when the
//! keeper is told to go down, it ends what is left. It reads nothing that a person
//! wrote, and what it can't do it says and goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, wait};

use super::config::{Config, PowerButton};
use super::plan::{Planned, plan};
use super::{console, down, steps};
use crate::keeper;
use crate::keeper::duty::{Duty, Watchdog};
use crate::keeper::ending::Ending;
use crate::sys::{machine, process, signals};
use console::tell;

/// What is mounted before anything is read: source and type, where, flags, options.
const FIRST: [(&str, &str, MountFlags, &str); 7] = {
    let secure = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
    let data = MountFlags::NOSUID.union(MountFlags::NODEV);
    [
        ("proc", "/proc", secure, ""),
        ("sysfs", "/sys", secure, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        ("devpts", "/dev/pts", MountFlags::NOSUID, "mode=0620,gid=5,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", data, "mode=1777"),
        ("tmpfs", "/run", data, "mode=0755"),
        ("cgroup2", "/sys/fs/cgroup", secure, ""),
    ]
};

/// Where an initramfs mounts the root that it moves to.
pub const NEW_ROOT: &str = "/sysroot";
/// Those of [`FIRST`] that move along, with all that is mounted below them.
const MOVED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What the child of the boot tells PID 1, as variables of the environment: they
/// survive `reexec`, and a keeper reads nothing else.
pub mod told {
    /// Seconds that a shutdown may take.
    pub const PATIENCE: &str = "BERTH_SHUTDOWN_TIMEOUT";
    /// Seconds between SIGTERM and SIGKILL to what is left.
    pub const KILL: &str = "BERTH_KILL_TIMEOUT";
    /// Seconds between two questions to the engine.
    pub const HEARTBEAT: &str = "BERTH_HEARTBEAT";
    /// Seconds of the watchdog, and its device behind a colon.
    pub const WATCHDOG: &str = "BERTH_WATCHDOG";
    /// `ignore`, or anything else.
    pub const BUTTON: &str = "BERTH_POWER_BUTTON";
    /// Directories of manifests, apart by colons.
    pub const MANIFESTS: &str = "BERTH_MANIFESTS";
    /// The program to execute on a new root.
    pub const ROOT: &str = "BERTH_NEW_INIT";
    /// All that PID 1 listens to.
    pub const ALL: [&str; 8] =
        [PATIENCE, KILL, HEARTBEAT, WATCHDOG, BUTTON, MANIFESTS, ROOT, super::console::SHELL];
}

/// Whether this process is to be the machine's init: PID 1, and called so.
pub fn is_init() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    std::process::id() == 1 && Path::new(&name).file_name().is_some_and(|name| name == "init")
}

/// How a boot went on.
enum Booted {
    /// Services are next.
    Up,
    /// Another root is mounted, with this program on it.
    Moved(String),
    /// Somebody asked to go down meanwhile.
    Down(Ending),
}

/// Is init. Returns never: a machine whose init ends stands still (panic(9)).
pub fn main() -> ! {
    // Whoever is PID 1 loses a signal that it has no handler for. So none comes but where
    // it is asked for, until the keeper has its handlers: an order waits till then.
    signals::block_all();
    // After `reexec` it would be that of the binary.
    let _ = rustix::thread::set_name(c"init");
    if std::env::var_os(keeper::run::RESUME).is_none() {
        first_mounts();
        console::open();
        // Ctrl-Alt-Del becomes SIGINT to us instead of a reboot at once (reboot(2)).
        let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
        match boot() {
            Booted::Up => {}
            Booted::Moved(init) => move_to(&init),
            Booted::Down(ending) => down::go_down(ending, None),
        }
    }
    let mut rescuer = None;
    loop {
        let manifests = std::env::var(told::MANIFESTS).unwrap_or_default();
        let dirs = manifests.split(':').filter(|dir| !dir.is_empty()).map(str::to_owned);
        let engine: Vec<String> = ["--root", "/", "engine", "--quiet"]
            .map(str::to_owned)
            .into_iter()
            .chain(dirs)
            .collect();
        let up = || keeper::start::up(Path::new("/run/berth/berth.pid"), &engine, duty(rescuer));
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(up));
        signals::block_all();
        match ran {
            Ok(Ok(finished)) => {
                rescuer = finished.rescuer;
                if let Some(ending) = finished.ending {
                    down::go_down(ending, finished.watchdog);
                }
                tell("the supervisor ended without an order to go down; starting it again");
            }
            Ok(Err(error)) => tell(&format!("the supervisor can't run: {error}")),
            Err(_) => tell("a bug where the supervisor starts; trying again"),
        }
        // The keeper may have reaped it.
        rescuer = rescuer.filter(|pid| !console::has_ended(*pid)).or_else(console::rescue);
        hold_out(Duration::from_secs(1), &mut rescuer);
    }
}

/// While there is no keeper: reaps whoever ends and obeys whoever says that the machine is
/// to go down. Every signal must be blocked.
fn hold_out(time: Duration, rescuer: &mut Option<i32>) {
    let begun = Instant::now();
    loop {
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            if *rescuer == Some(pid.as_raw_nonzero().get()) {
                *rescuer = None;
            }
        }
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return;
        }
        obey(signals::wait_for(left));
    }
}

/// Goes down if that is what a signal asks for.
fn obey(signal: Option<i32>) {
    if let Some(ending) = signal.and_then(Ending::of_signal) {
        tell(&format!("asked to {}", ending.word()));
        down::go_down(ending, None);
    }
}

/// Mounts that every machine has. One that is there already stays.
fn first_mounts() {
    for (kind, target, flags, options) in FIRST {
        if is_mounted(Path::new(target)) {
            continue;
        }
        let _ = std::fs::create_dir_all(target);
        let options = std::ffi::CString::new(options).unwrap_or_default();
        if let Err(error) = rustix::mount::mount(kind, target, kind, flags, options.as_c_str()) {
            tell(&format!("mounting {kind} at {target}: {error}"));
        }
    }
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(to, link);
    }
}

/// Whether something is mounted there: it is another device than what is above it.
pub(super) fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let above = path.parent().and_then(device);
    device(path).is_some_and(|device| Some(device) != above)
}

/// Runs the steps in a child and waits for it, reaping whoever else ends.
fn boot() -> Booted {
    let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC) else { return Booted::Up };
    let child = match machine::fork(|| steps::run(&mut File::from(write))) {
        Ok(child) => child,
        Err(error) => {
            tell(&format!("making a process for the boot: {error}; services begin at once"));
            return Booted::Up;
        }
    };
    let mut asked: Option<(Ending, u32)> = None;
    let code = loop {
        // Only while somebody waits for the child to end there is a clock.
        let signal = match asked {
            None => Some(signals::wait_any()),
            Some(_) => signals::wait_for(Duration::from_secs(1)),
        };
        if let Some(ending) = signal.and_then(Ending::of_signal) {
            tell(&format!("asked to {} while booting", ending.word()));
            asked = Some((ending, 0));
            let _ = signals::kill(child, libc::SIGTERM);
        }
        if let Some((_, seconds)) = &mut asked
            && signal.is_none()
        {
            *seconds += 1;
            if *seconds > 3 {
                // It may hang in the kernel; nothing of it is needed to go down.
                let _ = signals::kill(child, libc::SIGKILL);
                break None;
            }
        }
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                ended = Some(status.exit_status());
            }
        }
        if let Some(code) = ended {
            break code;
        }
    };
    if let Some((ending, _)) = asked {
        return Booted::Down(ending);
    }
    if code != Some(0) {
        tell("the boot did not end well; going on with the services");
    }
    let mut text = Vec::new();
    let _ = File::from(read).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let mut new_init = None;
    for (name, value) in text.split('\0').filter_map(|line| line.split_once('=')) {
        match told::ALL.iter().find(|known| **known == name) {
            Some(&told::ROOT) => new_init = Some(value.to_owned()),
            Some(known) => process::set_variable(known, value),
            None => {}
        }
    }
    new_init.map_or(Booted::Up, Booted::Moved)
}

/// Makes the mounted root the root of everything and executes its init
/// (Documentation/filesystems/ramfs-rootfs-initramfs.rst: move, not pivot).
fn move_to(init: &str) -> ! {
    let old = File::open("/").ok();
    let moved = || -> rustix::io::Result<()> {
        for path in MOVED {
            let target = format!("{NEW_ROOT}{path}");
            // The new root may be read-only, and its folders missing.
            let _ = std::fs::create_dir(&target);
            if rustix::mount::mount_move(path, target.as_str()).is_err() {
                let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
            }
        }
        rustix::process::chdir(NEW_ROOT)?;
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    if let Err(errno) = moved() {
        tell(&format!("moving to the new root: {errno}"));
    } else if let Some(old) = old {
        // The initramfs is memory that nobody can reach any more.
        let _ = machine::fork(|| {
            steps::root::empty(&old);
            0
        });
    }
    let Ok(program) = std::ffi::CString::new(init) else { down::go_down(Ending::Reboot, None) };
    let variables = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"];
    let environment: Vec<_> =
        variables.into_iter().filter_map(|text| std::ffi::CString::new(text).ok()).collect();
    let environment: Vec<_> = environment.iter().map(|text| text.as_c_str()).collect();
    // An order that came meanwhile; the new program, whose it may be, expects no signal to
    // be blocked.
    while let Some(signal) = signals::wait_for(Duration::ZERO) {
        obey(Some(signal));
    }
    signals::restore(0);
    // A program of another name than `init` would not know what it is.
    let is_named = Path::new(init).file_name().is_some_and(|name| name == "init");
    let name = if is_named { program.as_c_str() } else { c"init" };
    let error = process::replace(&program, &[name], &environment);
    tell(&format!("executing {init} on the new root: {error}"));
    signals::block_all();
    console::shell("the new root has no init", "/bin/sh:/bin/busybox sh");
    down::go_down(Ending::Reboot, None)
}

/// What PID 1 was told, or what is usual where the child of the boot did not come to tell
/// it.
pub(super) fn seconds(name: &str, usual: Duration) -> Duration {
    /// As good as for ever, and no sum of times ends beyond all numbers.
    const YEAR: u64 = 365 * 24 * 3600;
    let told = std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    told.map_or(usual, |seconds| Duration::from_secs(seconds.min(YEAR)))
}

/// What the keeper owes this machine.
fn duty(rescuer: Option<i32>) -> Duty {
    let buttons = match std::env::var(told::BUTTON).as_deref() {
        Ok("ignore") => Vec::new(),
        _ => power_buttons(),
    };
    let usual = Config::default();
    Duty {
        is_init: true,
        patience: Some(seconds(told::PATIENCE, usual.shutdown_timeout)),
        heartbeat: Some(seconds(told::HEARTBEAT, usual.heartbeat)),
        buttons,
        watchdog: watchdog(),
        rescue: Some(console::rescue),
        rescuer,
    }
}

/// Input devices that have a power key (KEY_POWER is 116).
fn power_buttons() -> Vec<OwnedFd> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir("/dev/input")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().starts_with("/dev/input/event"))
        .collect();
    paths.sort();
    let open = |path: PathBuf| {
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map(OwnedFd::from)
            .ok()
    };
    use std::os::fd::AsFd;
    paths.into_iter().filter_map(open).filter(|fd| machine::has_key(fd.as_fd(), 116)).collect()
}

/// The hardware's watchdog, armed; fed three times within its time.
fn watchdog() -> Option<Watchdog> {
    use std::os::fd::AsFd;
    let text = std::env::var(told::WATCHDOG).ok()?;
    let (wanted, device) = text.split_once(':')?;
    let wanted: i32 = wanted.parse().ok()?;
    let opened = when_free(|| File::options().write(true).open(device));
    let device = match opened {
        Ok(file) => OwnedFd::from(file),
        Err(error) => {
            tell(&format!("opening the watchdog {device}: {error}"));
            return None;
        }
    };
    let time = machine::set_watchdog(device.as_fd(), wanted).unwrap_or(wanted);
    let period = Duration::from_secs(time.unsigned_abs().max(1).into()) / 3;
    Some(Watchdog { device, period })
}

/// Opens what one process only may have open, whose descriptor may just be closing.
fn when_free<T>(mut open: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    const TRIES: u32 = 10;
    for _ in 1..TRIES {
        match open() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(100));
            }
            opened => return opened,
        }
    }
    open()
}

/// What [`steps::run`] tells PID 1 before anything can go wrong in it. It is read when the
/// child has ended: all of it must have room in a pipe.
pub(super) fn tell_init(pipe: &mut File, config: &Config) {
    const LONGEST: usize = 8192;
    let mut text = String::new();
    let mut say = |name: &str, value: &str| match value {
        value if value.len() > LONGEST || value.contains('\0') => {
            tell(&format!("what boot.toml says for {name} is too long, or has a NUL in it"));
        }
        value => text += &format!("{name}={value}\0"),
    };
    say(told::PATIENCE, &config.shutdown_timeout.as_secs().to_string());
    say(told::KILL, &config.kill_timeout.as_secs().to_string());
    say(told::HEARTBEAT, &config.heartbeat.as_secs().max(1).to_string());
    say(console::SHELL, &console::shells_as_text(config));
    if let Some(time) = config.watchdog {
        let device = config.watchdog_device.display();
        let seconds = i32::try_from(time.as_secs()).unwrap_or(i32::MAX).max(1);
        say(told::WATCHDOG, &format!("{seconds}:{device}"));
    }
    if config.power_button == PowerButton::Ignore {
        say(told::BUTTON, "ignore");
    }
    let dirs: Vec<String> = config.manifests.iter().map(|dir| dir.display().to_string()).collect();
    say(told::MANIFESTS, &dirs.join(":"));
    let _ = pipe.write_all(text.as_bytes());
}

/// Where PID 1 moves to.
pub(super) fn tell_root(pipe: &mut File, init: &str) {
    let _ = pipe.write_all(format!("{}={init}\0", told::ROOT).as_bytes());
}

/// What a boot of this machine would do now, for people.
pub fn plan_of_this_machine() -> (Vec<Planned>, Vec<String>) {
    let (config, line, facts, problems) = steps::look();
    (plan(&config, &line, &facts), problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_device_is_tried_again_and_a_missing_one_is_not() {
        let errors = |errno, times: u32| {
            let mut tried = 0;
            let opened = when_free(|| {
                tried += 1;
                match tried <= times {
                    true => Err(std::io::Error::from_raw_os_error(errno)),
                    false => Ok(()),
                }
            });
            (opened.is_ok(), tried)
        };
        assert_eq!(errors(libc::EBUSY, 2), (true, 3));
        assert_eq!(errors(libc::EBUSY, u32::MAX), (false, 10));
        assert_eq!(errors(libc::ENOENT, 2), (false, 1));
    }
}
