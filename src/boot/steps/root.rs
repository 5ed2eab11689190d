//! From an initramfs to the root that stays: a file system on a disk, or a copy of
//! the initramfs in memory.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{Done, devices, modules};
use crate::boot::fstab::flags;
use crate::boot::init::{NEW_ROOT, is_mounted};
use crate::rootfs::mountinfo;

/// Whether the root is the kernel's own (`rootfs`): the last mount at `/` counts.
pub fn is_initramfs() -> bool {
    let mounts = mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap_or_default());
    let root = mounts.iter().rfind(|mount| mount.point == Path::new("/"));
    root.is_some_and(|mount| mount.fs_type == "rootfs")
}

/// Mounts the root file system where PID 1 moves to it.
pub fn mount(source: &str, kind: Option<&str>, options: &str, wait: Duration) -> Done {
    if is_there_already() {
        return Ok(());
    }
    let device = devices::find(source, wait)?;
    let kind = match kind {
        Some(kind) if kind != "auto" => kind.to_owned(),
        _ => devices::identify_device(&device).map(|found| found.kind.to_owned()).ok_or_else(
            || format!("what is on {} is not known; say rootfstype=", device.display()),
        )?,
    };
    // Built in, or loaded already, or by now.
    let _ = modules::load(&kind);
    fs::create_dir_all(NEW_ROOT).map_err(|error| format!("making {NEW_ROOT}: {error}"))?;
    let (flags, data) = flags(options.split(','));
    let data = CString::new(data).map_err(|_| "a NUL in its options".to_owned())?;
    rustix::mount::mount(&device, NEW_ROOT, kind.as_str(), flags, data.as_c_str())
        .map_err(|errno| format!("mounting {} as {kind}: {errno}", device.display()))
}

/// Whether somebody at the emergency shell has mounted a root already. What an earlier
/// attempt left there without an init goes.
fn is_there_already() -> bool {
    while is_mounted(Path::new(NEW_ROOT)) {
        if find_init(None).is_ok() {
            return true;
        }
        if rustix::mount::unmount(NEW_ROOT, UnmountFlags::DETACH).is_err() {
            break;
        }
    }
    false
}

/// The program to become there.
pub fn find_init(asked: Option<&str>) -> Result<String, String> {
    let usual = ["/sbin/init", "/usr/sbin/init", "/etc/init", "/bin/init", "/init"];
    let exists = |path: &str| {
        // A link there may be absolute, which is not below NEW_ROOT from here.
        fs::symlink_metadata(format!("{NEW_ROOT}{path}")).is_ok()
    };
    if let Some(asked) = asked {
        if exists(asked) {
            return Ok(asked.to_owned());
        }
        return Err(format!("init={asked} is not on the root file system"));
    }
    usual
        .into_iter()
        .find(|path| exists(path))
        .map(str::to_owned)
        .ok_or_else(|| format!("there is no init on it: none of {}", usual.join(", ")))
}

/// Copies the initramfs into a tmpfs: on the initramfs itself pivot_root(2) is refused,
/// and no container could have a root of its own.
pub fn copy() -> Done {
    if is_there_already() {
        return Ok(());
    }
    fs::create_dir_all(NEW_ROOT).map_err(|error| format!("making {NEW_ROOT}: {error}"))?;
    rustix::mount::mount("tmpfs", NEW_ROOT, "tmpfs", MountFlags::empty(), c"mode=0755,size=90%")
        .map_err(|errno| format!("mounting a tmpfs at {NEW_ROOT}: {errno}"))?;
    let device = fs::metadata("/").map_err(|error| format!("looking at /: {error}"))?.dev();
    copy_folder(Path::new("/"), Path::new(NEW_ROOT), device).map_err(|error| {
        // Half of it must not be taken for all.
        let _ = rustix::mount::unmount(NEW_ROOT, UnmountFlags::DETACH);
        format!("copying the initramfs: {error}")
    })
}

/// One folder with all below it on the same device. No deeper than an initramfs can
/// sensibly be, which the caller made itself.
fn copy_folder(from: &Path, to: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let source = entry.path();
        if source == Path::new(NEW_ROOT) {
            continue;
        }
        let target = to.join(entry.file_name());
        let meta = fs::symlink_metadata(&source)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            fs::create_dir(&target)?;
            // What is mounted there moves along by itself.
            if meta.dev() == device {
                copy_folder(&source, &target, device)?;
            }
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
            let kind = FileType::from_raw_mode(meta.mode());
            let mode = Mode::from_raw_mode(meta.mode() & 0o7777);
            rustix::fs::mknodat(CWD, &target, kind, mode, meta.rdev())?;
        } else {
            continue;
        }
        let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
        rustix::fs::chownat(CWD, &target, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !kind.is_symlink() {
            fs::set_permissions(&target, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
        let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &target, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Removes all below the old root that is on its device: memory that nobody can
/// reach any more.
pub fn empty(root: &File) {
    if let Ok(meta) = root.metadata() {
        empty_folder(root, meta.dev(), 0);
    }
}

fn empty_folder(dir: &File, device: u64, depth: usize) {
    const DEEP: usize = 64;
    let Ok(entries) = Dir::read_from(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || depth > DEEP {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(inner) = rustix::fs::openat(dir, name, flags, Mode::empty()) else { continue };
        let inner = File::from(inner);
        if inner.metadata().is_ok_and(|meta| meta.dev() == device) {
            empty_folder(&inner, device, depth + 1);
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_folder_is_copied_as_it_is_and_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), "text").unwrap();
        fs::set_permissions(from.join("a/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("../nowhere", from.join("a/b/link")).unwrap();
        let device = fs::metadata(&from).unwrap().dev();
        copy_folder(&from, &to, device).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/file")).unwrap(), "text");
        assert_eq!(fs::metadata(to.join("a/file")).unwrap().mode() & 0o7777, 0o4711);
        assert_eq!(fs::read_link(to.join("a/b/link")).unwrap(), PathBuf::from("../nowhere"));
        empty(&File::open(&to).unwrap());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        assert!(from.join("a/file").exists());
    }
}
