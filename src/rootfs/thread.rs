//! File system work under other ids, in a thread that lives as long as the work.
//!
//! Credentials and mount namespaces belong to a thread (credentials(7)): a thread
//! of a pool would keep them for its next job.

use std::io;
use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::{
    CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits,
};

/// Runs `work` in a thread of its own whose file system ids are these; what it
/// makes is theirs. It keeps all capabilities.
pub(super) fn with_ids<T: Send>(
    uid: u32,
    gid: u32,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("rootfs".into()).spawn_scoped(scope, move || {
                take_ids(uid, gid)?;
                work()
            })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// Runs `work` in a thread of its own that is in another mount namespace.
pub(super) fn in_mounts_of<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    apart(move || {
        // Root and working directory must not be shared with other threads (setns(2)).
        nix::sched::unshare(CloneFlags::CLONE_FS)?;
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNS)?;
        work()
    })
}

/// Runs `work` in a thread of its own, which it may put into other namespaces.
pub(super) fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mounts".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

fn take_ids(uid: u32, gid: u32) -> io::Result<()> {
    // Without it the kernel drops CAP_DAC_OVERRIDE and its like as soon as the
    // fsuid is no longer 0, capabilities(7).
    let bits = capabilities_secure_bits()? | CapabilitiesSecureBits::NO_SETUID_FIXUP;
    set_capabilities_secure_bits(bits)?;
    // A refusal is silent, setfsuid(2): ask again to see whether it worked.
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    let taken = setfsgid(Gid::from_raw(gid)).as_raw() == gid
        && setfsuid(Uid::from_raw(uid)).as_raw() == uid;
    if taken { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}
