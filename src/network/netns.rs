//! Work inside a network namespace, on a thread that lives as long as the work.
//!
//! Namespaces belong to a thread (setns(2)): one of a pool would keep the network
//! for its next job.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::error::{Error, Result};

/// Runs `work` in the network namespace `netns`. Sockets that it opens stay in that
/// namespace and work on any thread.
pub fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let failed = |error: io::Error| Error::new("enter", "the network namespace", error);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || {
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| failed(errno.into()))?;
                work()
            })
            .map_err(failed)?;
        thread.join().unwrap_or_else(|_| Err(failed(io::Error::other("the thread panicked"))))
    })
}

/// A new network namespace of the host's user namespace, its loopback interface up.
pub fn make() -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::new("make", "a network namespace", error);
    let netns = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(
            scope,
            || -> io::Result<OwnedFd> {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
            },
        )?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    });
    let netns = netns.map_err(failed)?;
    crate::sys::userns::loopback_up(&netns).map_err(failed)?;
    Ok(netns)
}

/// The calling thread's own network namespace.
pub fn current() -> Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// A network namespace that something else manages, such as `/run/netns/blue`
/// (ip-netns(8)).
///
/// # Errors
/// There is no such file, or it is something else than a network namespace.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let failed =
        |error| Error::new("open the network namespace", path.display().to_string(), error);
    let fd = OwnedFd::from(File::open(path).map_err(failed)?);
    // A thread of its own enters it, as the check: only a namespace lets itself be
    // entered.
    inside(fd.as_fd(), || Ok(())).map_err(|error| {
        error.with_remedy(format!("{} is not a network namespace", path.display()))
    })?;
    Ok(fd)
}
