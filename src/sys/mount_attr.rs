//! mount_setattr(2), which `rustix` lacks.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Adds `MOUNT_ATTR_*` bits to the mount at `fd`, to those below it too when
/// `recursive` (mount_setattr(2), Linux 5.12).
pub fn add_attributes(
    fd: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> rustix::io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` a valid mount_attr of the
    // size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(
            rustix::io::Errno::from_io_error(&io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::IO),
        )
    }
}
