//! The standard streams of a process that is to be launched: pipes, FIFOs, terminals.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::pipe::{PipeFlags, pipe_with};

use super::Preparation;
use crate::engine::paths::doing;
use crate::engine::terminal::{self, Size};
use crate::spec::compile::Parts;

/// The engine's ends of a process's standard streams, as far as they don't lead to
/// the container's log. All of them are non-blocking.
#[derive(Debug, Default)]
pub struct Ends {
    /// The terminal's master, which is all three of them.
    pub terminal: Option<OwnedFd>,
    /// Where its standard input is written to; closed, it is at its end.
    pub stdin: Option<OwnedFd>,
    /// Where its standard output is read from.
    pub stdout: Option<OwnedFd>,
    /// Where its standard error is read from.
    pub stderr: Option<OwnedFd>,
}

impl Ends {
    /// The same ends once more.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn copy(&self) -> io::Result<Ends> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Ends {
            terminal: copy(&self.terminal)?,
            stdin: copy(&self.stdin)?,
            stdout: copy(&self.stdout)?,
            stderr: copy(&self.stderr)?,
        })
    }
}

impl Preparation<'_> {
    /// The terminal of a container, in a devpts of its own if it is isolated.
    pub(super) fn console(
        &mut self,
        first: u32,
        isolated: bool,
        size: Size,
        parts: &mut Parts,
    ) -> Result<terminal::Pty, String> {
        if !isolated {
            return terminal::host(size);
        }
        let console = terminal::console(first, size)?;
        let devpts = self.add(console.devpts);
        parts.binds.insert(PathBuf::from("/dev/pts"), (devpts, false));
        parts.console = Some(self.add(console.node));
        Ok(console.pty)
    }

    /// A terminal as all three standard streams.
    pub(super) fn terminal(
        &mut self,
        pty: terminal::Pty,
        uid: u32,
        parts: &mut Parts,
    ) -> Result<(), String> {
        terminal::give_to(pty.slave.as_fd(), uid)?;
        parts.stdio = [self.add(pty.slave); 3];
        self.ends.terminal = Some(pty.master);
        Ok(())
    }

    /// A pipe as standard input if it is wanted, or nothing to read.
    pub(super) fn stdin(
        &mut self,
        wanted: bool,
        owner: (u32, u32),
        parts: &mut Parts,
    ) -> Result<(), String> {
        if wanted {
            let (ours, its) = pipe_to(owner)?;
            self.ends.stdin = Some(ours);
            parts.stdio[0] = self.add(its);
        } else {
            let null = File::open("/dev/null").map_err(doing("opening", Path::new("/dev/null")))?;
            parts.stdio[0] = self.add(null);
        }
        Ok(())
    }
}

/// A pipe that the process reads: our end, non-blocking, and its.
fn pipe_to(owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), String> {
    let (its, ours) = new_pipe(owner)?;
    nonblocking(&ours)?;
    Ok((ours, its))
}

/// A pipe that the process writes: our end, non-blocking, and its.
pub(super) fn pipe_from(owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), String> {
    let (ours, its) = new_pipe(owner)?;
    nonblocking(&ours)?;
    Ok((ours, its))
}

fn new_pipe(owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), String> {
    let pipe = pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("making a pipe: {error}"))?;
    // So that the process can open `/dev/stdin` and the like again.
    std::os::unix::fs::fchown(&pipe.0, Some(owner.0), Some(owner.1))
        .map_err(|error| format!("giving a pipe to the user: {error}"))?;
    Ok(pipe)
}

fn nonblocking(fd: &OwnedFd) -> Result<(), String> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|error| format!("setting up a pipe: {error}"))
}
