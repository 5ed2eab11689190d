//! Who the machine is, and what time it has.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::mount::MountFlags;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::Done;
use crate::sys::machine;

/// The host name: this one, or that of /etc/hostname (hostname(5)).
pub fn hostname(name: Option<&str>) -> Done {
    let text = match name {
        Some(name) => name.to_owned(),
        None => fs::read_to_string("/etc/hostname").unwrap_or_default(),
    };
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    match name {
        Some(name) => rustix::system::sethostname(name.as_bytes())
            .map_err(|errno| format!("setting it to {name:?}: {errno}")),
        None => Ok(()),
    }
}

const MACHINE_ID: &str = "/etc/machine-id";

/// Makes /etc/machine-id where it is missing or empty (machine-id(5)). On a root that
/// can't be written to it is laid over for this boot.
pub fn machine_id() -> Done {
    let known = fs::read_to_string(MACHINE_ID).unwrap_or_default();
    if known.trim().len() == 32 {
        return Ok(());
    }
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| format!("reading /dev/urandom: {error}"))?;
    // A random UUID (RFC 9562, version 4), as systemd makes it.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = format!("{}\n", hex::encode(bytes));
    if write_whole(Path::new(MACHINE_ID), text.as_bytes(), 0o444).is_ok() {
        return Ok(());
    }
    let temporary = "/run/machine-id";
    fs::write(temporary, text).map_err(|error| format!("writing {temporary}: {error}"))?;
    rustix::mount::mount_bind(temporary, MACHINE_ID)
        .and_then(|()| {
            rustix::mount::mount_remount(MACHINE_ID, MountFlags::BIND | MountFlags::RDONLY, c"")
        })
        .map_err(|errno| format!("laying {temporary} over {MACHINE_ID}: {errno}"))
}

/// Replaces a file so that after a power cut it is the old one or the new one. Only init
/// writes these: what an earlier boot left half written has the same name.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = dir.join(name);
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

/// The system's clock from the hardware's, where the kernel has not done it, and
/// never before what is known to have been: the last shutdown's files.
pub fn clock() -> Done {
    let mut now = clock_gettime(ClockId::Realtime).tv_sec;
    let begun = now;
    let by_kernel = fs::read_to_string("/sys/class/rtc/rtc0/hctosys");
    let mut problem = None;
    if !by_kernel.is_ok_and(|text| text.trim() == "1") {
        match File::open("/dev/rtc0") {
            Ok(rtc) => match machine::rtc_seconds(rtc.as_fd()) {
                Ok(seconds) => now = seconds,
                Err(error) => problem = Some(format!("reading /dev/rtc0: {error}")),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => problem = Some(format!("opening /dev/rtc0: {error}")),
        }
    }
    let least = fs::metadata(super::seed::PATH)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(0));
    now = now.max(least);
    if now != begun {
        clock_settime(ClockId::Realtime, Timespec { tv_sec: now, tv_nsec: 0 })
            .map_err(|errno| format!("setting the clock: {errno}"))?;
    }
    problem.map_or(Ok(()), Err)
}
