//! Checking, mounting and swapping as /etc/fstab says.

use std::ffi::CString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::mount::MountFlags;

use super::{Done, devices};
use crate::boot::fstab::{Entry, flags};
use crate::sys::machine;

/// How long a device of /etc/fstab is waited for.
const WAIT: Duration = Duration::from_secs(10);
/// fsck(8)'s exit status bits: corrected; should reboot; errors left.
const REBOOT: i32 = 2;
const ERRORS: i32 = 4;

/// Checks a file system with the program for its type, if there is one.
pub fn check(source: &str, kind: &str, force: bool) -> Done {
    let device = devices::find(source, WAIT)?;
    let found = devices::identify_device(&device);
    let kind = match (kind, &found) {
        ("auto", Some(found)) => found.kind,
        (kind, _) => kind,
    };
    let name = format!("fsck.{kind}");
    let program = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"]
        .map(|dir| Path::new(dir).join(&name))
        .into_iter()
        .find(|path| path.exists());
    // As fsck(8) does it: a type that nobody can check is not checked.
    let Some(program) = program else { return Ok(()) };
    let mut command = Command::new(&program);
    command.arg("-a");
    if force && kind.starts_with("ext") {
        command.arg("-f");
    }
    let status = command
        .arg(&device)
        .status()
        .map_err(|error| format!("executing {}: {error}", program.display()))?;
    match status.code() {
        Some(code) if code & ERRORS == 0 && code & REBOOT == 0 => Ok(()),
        Some(code) if code & ERRORS == 0 => {
            // The root was changed under the kernel, which must read it anew (fsck(8)).
            crate::boot::console::tell("the file system was repaired; rebooting");
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

/// One line of /etc/fstab.
pub fn mount(entry: &Entry) -> Done {
    let (flags, data) = flags(entry.options.iter().map(String::as_str));
    let is_device = entry.source.starts_with('/') || entry.source.contains('=');
    let is_bind = flags.contains(MountFlags::BIND);
    let source = match is_device && !is_bind {
        true => devices::find(&entry.source, if entry.has("nofail") { WAIT / 5 } else { WAIT })?,
        false => entry.source.clone().into(),
    };
    let kind = match entry.kind.as_str() {
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
    // A bind mount takes its other options only the second time (mount(2)).
    if is_bind && flags.contains(MountFlags::RDONLY) {
        rustix::mount::mount_remount(&entry.target, flags | MountFlags::BIND, c"")
            .map_err(|errno| format!("making it read-only: {errno}"))?;
    }
    Ok(())
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
    let path = devices::find(&entry.source, if entry.has("nofail") { WAIT / 5 } else { WAIT })?;
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
