//! Checking, mounting and swapping as /etc/fstab says.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountFlags;

use super::{Done, devices};
use crate::boot::console::tell;
use crate::boot::fstab::{Entry, flags};
use crate::sys::{machine, mount as attributes};

/// fsck(8)'s exit status bits: corrected; should reboot; errors left.
const REBOOT: i32 = 2;
const ERRORS: i32 = 4;

/// Checks a file system with the program for its type, if there is one.
pub fn check(device: &Path, kind: &str, force: bool) -> Done {
    let found = devices::identify_device(device);
    let kind = match (kind, &found) {
        ("auto", Some(found)) => found.kind,
        (kind, _) => kind,
    };
    // As fsck(8) does it: a type that nobody can check is not checked.
    let Some(program) = program(&format!("fsck.{kind}")) else { return Ok(()) };
    let mut command = Command::new(&program);
    command.arg("-a");
    if force && kind.starts_with("ext") {
        command.arg("-f");
    }
    let status = command
        .arg(device)
        .status()
        .map_err(|error| format!("executing {}: {error}", program.display()))?;
    match status.code() {
        Some(code) if code & ERRORS == 0 && code & REBOOT == 0 => Ok(()),
        Some(code) if code & ERRORS == 0 => {
            // The root was changed under the kernel, which must read it anew (fsck(8)).
            tell("the file system was repaired; rebooting");
            let _ = crate::sys::signals::kill(1, crate::keeper::ending::Ending::Reboot.signal());
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        code => Err(format!(
            "{} {} ended with {}: errors are left; repair them by hand",
            program.display(),
            device.display(),
            code.map_or("a signal".to_owned(), |code| format!("status {code}"))
        )),
    }
}

/// The root with the options of its line; writable if it does not say `ro`.
pub fn remount_root(options: &[String]) -> Done {
    let (flags, data) = flags(options.iter().map(String::as_str));
    let data = CString::new(data).map_err(|_| "a NUL in its options".to_owned())?;
    rustix::mount::mount_remount("/", flags, data.as_c_str())
        .map_err(|errno| format!("{errno}; options: {}", options.join(",")))
}

/// A program of the system, wherever it is.
fn program(name: &str) -> Option<PathBuf> {
    ["/sbin", "/usr/sbin", "/bin", "/usr/bin"]
        .map(|dir| Path::new(dir).join(name))
        .into_iter()
        .find(|path| path.exists())
}

/// The device of a line; none where it is missing and may be.
fn device(entry: &Entry) -> Result<Option<PathBuf>, String> {
    match devices::find(&entry.source, entry.patience()) {
        Ok(path) => Ok(Some(path)),
        Err(why) if entry.has("nofail") => {
            tell(&format!("{why}; it may be missing (nofail)"));
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

/// One line of /etc/fstab.
pub fn mount(entry: &Entry) -> Done {
    if entry.is_for_program() || program(&format!("mount.{}", entry.kind)).is_some() {
        return by_program(entry);
    }
    let (flags, data) = flags(entry.options.iter().map(String::as_str));
    let is_device = entry.source.starts_with('/') || entry.source.contains('=');
    let is_bind = flags.contains(MountFlags::BIND);
    let source = match is_device && !is_bind {
        true => match device(entry)? {
            Some(path) => path,
            None => return Ok(()),
        },
        false => entry.source.clone().into(),
    };
    let kind = match entry.kind.as_str() {
        _ if is_bind => "none",
        "auto" => devices::identify_device(&source).map(|found| found.kind).ok_or_else(|| {
            format!("what is on {} is not known; name its type", source.display())
        })?,
        kind => kind,
    };
    make_target(&entry.target, is_bind && source.is_file())?;
    let data = CString::new(data).map_err(|_| "a NUL in its options".to_owned())?;
    let mounted = rustix::mount::mount(&source, &entry.target, kind, flags, data.as_c_str());
    match mounted {
        Ok(()) => {}
        Err(rustix::io::Errno::NODEV) => {
            super::modules::load(kind).map_err(|error| format!("{kind}: {error}"))?;
            rustix::mount::mount(&source, &entry.target, kind, flags, data.as_c_str())
                .map_err(|errno| sentence(&source, kind, errno))?;
        }
        Err(errno) => return Err(sentence(&source, kind, errno)),
    }
    if is_bind { restrict(&entry.target, flags) } else { Ok(()) }
}

/// The restrictions of a bind mount, which mount(2) passes over when it makes one. Those
/// that it has of its source stay.
fn restrict(target: &Path, flags: MountFlags) -> Done {
    let known = [
        (MountFlags::RDONLY, attributes::RDONLY),
        (MountFlags::NOSUID, attributes::NOSUID),
        (MountFlags::NODEV, attributes::NODEV),
        (MountFlags::NOEXEC, attributes::NOEXEC),
    ];
    let set = known.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |set, (_, a)| set | a);
    if set == 0 {
        return Ok(());
    }
    let open = OFlags::PATH | OFlags::CLOEXEC;
    let restricted = rustix::fs::openat(CWD, target, open, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|mount| attributes::set_attributes(mount.as_fd(), set, false));
    restricted.map_err(|error| {
        // Without them it would be open to what it must not be.
        let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        format!("restricting {} as its options say: {error}", target.display())
    })
}

/// By mount(8), which has loop devices and helpers of file systems.
fn by_program(entry: &Entry) -> Done {
    let Some(program) = program("mount") else {
        return Err("there is no mount(8), which its options need".to_owned());
    };
    make_target(&entry.target, false)?;
    // What it says goes to the console.
    let status = Command::new(&program)
        .arg(&entry.target)
        .status()
        .map_err(|error| format!("executing {}: {error}", program.display()))?;
    match status.success() || entry.has("nofail") {
        true => Ok(()),
        false => Err(format!("{} {}: {status}", program.display(), entry.target.display())),
    }
}

/// What something can be mounted on: a folder, or for a file of its own a file.
fn make_target(target: &Path, file: bool) -> Done {
    if target.exists() {
        return Ok(());
    }
    let folder = if file { target.parent().unwrap_or(target) } else { target };
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("making the folder {}: {error}", folder.display()))?;
    if file {
        std::fs::File::create_new(target)
            .map_err(|error| format!("making {} to mount on: {error}", target.display()))?;
    }
    Ok(())
}

fn sentence(source: &Path, kind: &str, errno: rustix::io::Errno) -> String {
    let why = match errno {
        rustix::io::Errno::INVAL => " (another file system, or an option that it does not know?)",
        rustix::io::Errno::NODEV => " (the kernel does not know this type: is its module there?)",
        rustix::io::Errno::BUSY => " (is it mounted already?)",
        _ => "",
    };
    format!("mounting {} as {kind}: {errno}{why}", source.display())
}

/// A line of /etc/fstab that is swap.
pub fn swap(entry: &Entry) -> Done {
    let Some(path) = device(entry)? else { return Ok(()) };
    let name = CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| "a NUL in its path".to_owned())?;
    let priority = entry.value("pri").and_then(|text| text.parse().ok());
    machine::swap_on(&name, priority, entry.has("discard"))
        .map_err(|error| format!("swapon {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mounted_on_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("a/file"), dir.path().join("b/folder"));
        for _ in 0..2 {
            make_target(&file, true).unwrap();
            make_target(&folder, false).unwrap();
        }
        assert!(file.is_file() && folder.is_dir());
    }
}
