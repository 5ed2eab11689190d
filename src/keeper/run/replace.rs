//! The keeper becomes another binary: its table goes over execve(2) in a memfd.

use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::Keeper;
use crate::keeper::protocol::{Kind, Message};
use crate::keeper::say::say;
use crate::keeper::table::Table;
use crate::sys::process::{remove_variable, replace};
use crate::sys::signals;

/// The table of a keeper that replaced itself comes by this descriptor number.
pub const RESUME: &str = "BERTH_RESUME_FD";

impl Keeper {
    /// Becomes the binary that is at our path now, with the same pid, children
    /// and descriptors. The engine is the new keeper's first to reap.
    pub(super) fn reexec(&mut self) {
        let binary = self.settings.binary.clone();
        let found = rustix::fs::access(binary.as_c_str(), rustix::fs::Access::EXEC_OK);
        let Err(errno) = found.and_then(|()| self.try_reexec(&binary));
        say!("berth: can't become the new binary: {errno}");
        self.tell(Message { code: errno.raw_os_error(), ..Message::new(Kind::NotReplaced) });
    }

    pub(super) fn try_reexec(&mut self, binary: &CStr) -> Result<std::convert::Infallible, Errno> {
        // What comes from here on, and what has come and was not looked at, stays pending
        // over execve(2): signals without a handler would be lost.
        let mask = signals::block_all();
        signals::raise_again(self.caught.take());
        let Err(errno) = self.execute(binary);
        signals::restore(mask);
        Err(errno)
    }

    fn execute(&self, binary: &CStr) -> Result<std::convert::Infallible, Errno> {
        use rustix::fs::{MemfdFlags, memfd_create};
        use rustix::io::FdFlags;
        let memfd = memfd_create(c"berth-table", MemfdFlags::empty())?;
        let bytes = self.table.encode();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let written = rustix::io::write(&memfd, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0))?;
        let kept = |table: &Table, flags: FdFlags| {
            for process in &table.processes {
                let _ = rustix::io::fcntl_setfd(&process.pidfd, flags);
            }
            for held in &table.held {
                let _ = rustix::io::fcntl_setfd(&held.fd, flags);
            }
        };
        kept(&self.table, FdFlags::empty());
        let resume =
            CString::new(format!("{RESUME}={}", memfd.as_raw_fd())).map_err(|_| Errno::INVAL)?;
        let argv: Vec<_> = self.settings.keeper_argv.iter().map(CString::as_c_str).collect();
        let envp: Vec<_> = self
            .settings
            .environment
            .iter()
            .map(CString::as_c_str)
            .chain([resume.as_c_str()])
            .collect();
        let error = replace(binary, &argv, &envp);
        kept(&self.table, FdFlags::CLOEXEC);
        Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

/// The table that an earlier self left, if this program was executed by it. Before there
/// is a second thread.
pub fn resumed_table() -> Option<Table> {
    use std::io::Read;
    let fd: i32 = std::env::var(RESUME).ok()?.parse().ok()?;
    // Once taken over, the number may become another's.
    remove_variable(RESUME);
    let fd = crate::sys::process::inherited(fd)?;
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes).ok()?;
    Some(Table::decode(&bytes))
}
