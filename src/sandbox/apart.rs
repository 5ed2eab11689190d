//! What may take the kernel as long as somebody else likes is done by a child: the keeper
//! waits for nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::child::keep_only;
use crate::sys::process::{Clone, clone3, exit_now};
use crate::sys::signals;

/// Closes a descriptor that may be the last of a file system, whose server or disk may
/// not answer. The child is reaped as anybody's is.
///
/// # Errors
/// No pipe (pipe2(2)) or no child (clone3(2)) can be made: the descriptor stays open.
pub fn close(fd: OwnedFd) -> io::Result<()> {
    let made = pipe_with(PipeFlags::CLOEXEC);
    let (told, tell) = match made {
        Ok(ends) => ends,
        Err(error) => return stays_open(fd, error.into()),
    };
    let mask = signals::block_all();
    // SAFETY: this process has one thread, and the child makes system calls alone.
    let cloned = unsafe { clone3(0, None, None) };
    if let Ok(Clone::Child) = cloned {
        // Nothing else of the keeper's lives on in here, however long it takes.
        let kept = keep_only([told.as_raw_fd(), fd.as_raw_fd()]);
        if let [Some(told), Some(_last)] = &kept {
            // Only when the keeper has closed its own is ours the last.
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(told, &mut [0u8][..]));
        }
        // It is closed by this.
        exit_now(0);
    }
    signals::restore(mask);
    match cloned {
        Ok(_) => {
            drop(fd);
            drop(tell);
            Ok(())
        }
        Err(error) => stays_open(fd, error),
    }
}

fn stays_open(fd: OwnedFd, error: io::Error) -> io::Result<()> {
    std::mem::forget(fd);
    Err(error)
}
