//! One overlay as a detached mount, on the kernels from 6.1 on.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sched::CloneFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use super::thread;

/// What is laid over what: the topmost lower layer first. `branch` is a mount of
/// the folder that has `upper` and `work`.
pub(super) struct Layers<'a> {
    pub lowers: Vec<BorrowedFd<'a>>,
    /// None for a root that can only be read.
    pub branch: Option<BorrowedFd<'a>>,
    /// The host's id that is the container's root: what overlayfs makes on its
    /// own account (`work/work`) must be writable under the id mapping.
    pub root: u32,
}

/// How layers are told to the kernel, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `lowerdir+` once per layer, any number of them (since Linux 6.8).
    Appended,
    /// All in one `lowerdir`, which may have 255 bytes: 60 layers or so, since the
    /// thread's directory is that of the descriptors, and their names are numbers.
    Joined,
    /// As `Joined`, with the layers attached in a mount namespace of the thread's:
    /// a detached mount can't be a layer before Linux 6.15 (EINVAL).
    Attached,
}

const FORMS: [Form; 3] = [Form::Appended, Form::Joined, Form::Attached];

/// The index of the form that worked last: a kernel does not change its mind, and
/// writes each refusal into its log.
static WORKS: AtomicU8 = AtomicU8::new(0);

/// A failed mount: the error, and what the kernel wrote about it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub error: io::Error,
    pub log: String,
}

/// Mounts the overlay, detached.
pub(super) fn mount(layers: &Layers<'_>) -> Result<OwnedFd, Refusal> {
    let first = usize::from(WORKS.load(Ordering::Relaxed));
    let mut refusal = None;
    for (index, form) in FORMS.iter().enumerate().skip(first) {
        match mount_as(layers, *form) {
            Ok(mount) => {
                WORKS.store(index as u8, Ordering::Relaxed);
                return Ok(mount);
            }
            Err(refused) if refused.error.raw_os_error() == Some(libc::EINVAL) => {
                refusal.get_or_insert(refused);
            }
            Err(refused) => return Err(refused),
        }
    }
    Err(refusal.unwrap_or(Refusal {
        error: io::Error::from_raw_os_error(libc::EINVAL),
        log: String::new(),
    }))
}

/// Mounts the overlay in one certain form.
pub(super) fn mount_as(layers: &Layers<'_>, form: Form) -> Result<OwnedFd, Refusal> {
    let mut log = String::new();
    thread::with_ids(layers.root, layers.root, || {
        match form {
            Form::Appended => {}
            Form::Joined => {
                nix::sched::unshare(CloneFlags::CLONE_FS)?;
                rustix::process::chdir("/proc/self/fd")?;
            }
            Form::Attached => {
                attach(layers)?;
                rustix::process::chdir("/proc/self/fd")?;
            }
        }
        configure(layers, form, &mut log)
    })
    .map_err(|error| Refusal { error, log })
}

fn configure(layers: &Layers<'_>, form: Form, log: &mut String) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mounted = set(context.as_fd(), layers, form);
    if mounted.is_err() {
        *log = kernel_log(context);
    }
    mounted
}

fn set(context: BorrowedFd<'_>, layers: &Layers<'_>, form: Form) -> io::Result<OwnedFd> {
    fsconfig_set_string(context, "source", "berth")?;
    let numbers = layers.lowers.iter().map(|fd| fd.as_raw_fd().to_string());
    match form {
        Form::Appended => {
            for number in numbers {
                fsconfig_set_string(context, "lowerdir+", format!("/proc/self/fd/{number}"))?;
            }
        }
        Form::Joined | Form::Attached => {
            let joined = numbers.collect::<Vec<_>>().join(":");
            fsconfig_set_string(context, "lowerdir", joined)?;
        }
    }
    if let Some(branch) = layers.branch.map(|branch| branch.as_raw_fd()) {
        fsconfig_set_string(context, "upperdir", format!("/proc/self/fd/{branch}/upper"))?;
        fsconfig_set_string(context, "workdir", format!("/proc/self/fd/{branch}/work"))?;
    }
    // Whatever the kernel's defaults are, an upper directory must be readable as a
    // layer of its own: commit and diff know no redirected or half-copied files.
    fsconfig_set_string(context, "redirect_dir", "off")?;
    fsconfig_set_string(context, "metacopy", "off")?;
    fsconfig_set_string(context, "index", "off")?;
    fsconfig_create(context)?;
    let mount = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    // A work directory that can't be used turns an overlay read-only without an
    // error, which would only be found by the container.
    let flags = rustix::fs::fstatvfs(&mount)?.f_flag;
    if layers.branch.is_some() && flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(io::Error::from_raw_os_error(libc::EROFS));
    }
    Ok(mount)
}

/// Attaches the layers in a new mount namespace of this thread. All of them on one
/// another: they are reached by their descriptors, and the namespace goes with the
/// thread.
fn attach(layers: &Layers<'_>) -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    // Or the mounts would propagate to the host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for layer in layers.lowers.iter().chain(&layers.branch) {
        // On `/` they cover nothing: a path is walked from the thread's root
        // directory, which stays the one below them.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(layer, "", rustix::fs::CWD, "/", flags)?;
    }
    Ok(())
}

/// The messages of a filesystem context: one per read, `e` and a space before an
/// error.
pub(super) fn kernel_log(context: OwnedFd) -> String {
    let mut context = std::fs::File::from(context);
    let mut said = Vec::new();
    let mut line = [0u8; 512];
    while let Ok(length @ 1..) = context.read(&mut line) {
        let text = String::from_utf8_lossy(line.get(..length).unwrap_or_default());
        said.push(text.trim_start_matches("e ").trim().to_owned());
    }
    said.join("; ")
}
