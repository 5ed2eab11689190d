//! Terminals: a pty in a container's own devpts, its size, and the way of what is
//! printed on it to the log.
//!
//! The master is made here and held by the keeper, so that neither the engine's death
//! nor a client's ends a session. Output goes by `splice(2)` from the master to the
//! container's stdout FIFO: the engine can be killed between any two calls and no byte
//! was ever in its memory alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::pipe::SpliceFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::sys::readiness;

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS: i64 = 0x1cd1;
/// The group `tty`, as distributions have it.
const TTY_GID: u32 = 5;

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

impl Default for Size {
    /// What a terminal has that nobody measured.
    fn default() -> Self {
        Size { rows: 24, columns: 80 }
    }
}

/// Both ends of a pty.
#[derive(Debug)]
pub struct Pty {
    /// What is typed goes in here, what is printed comes out.
    pub master: OwnedFd,
    /// The process's end.
    pub slave: OwnedFd,
}

/// A devpts of a container's own with the pty that is its console.
#[derive(Debug)]
pub struct Console {
    /// The console.
    pub pty: Pty,
    /// The detached mount for `/dev/pts`.
    pub devpts: OwnedFd,
    /// The detached mount for `/dev/console`.
    pub node: OwnedFd,
}

fn doing(what: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {}", std::io::Error::from(errno))
}

/// Makes a devpts for a container whose id 0 is the host's `first`, and a pty in it.
///
/// # Errors
/// A sentence with what the system said.
pub fn console(first: u32, size: Size) -> Result<Console, String> {
    let fs = rustix::mount::fsopen(c"devpts", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(doing("making a devpts"))?;
    let gid = (first + TTY_GID).to_string();
    for (key, value) in [("gid", gid.as_str()), ("mode", "0620"), ("ptmxmode", "0666")] {
        rustix::mount::fsconfig_set_string(&fs, key, value)
            .map_err(doing("setting up a devpts"))?;
    }
    let _ = rustix::mount::fsconfig_set_string(&fs, "source", "devpts");
    rustix::mount::fsconfig_create(&fs).map_err(doing("making a devpts"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let devpts = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(doing("mounting a devpts"))?;
    let master = rustix::fs::openat(&devpts, "ptmx", MASTER, Mode::empty())
        .map_err(doing("opening a terminal"))?;
    let pty = pair(master, size)?;
    let (devpts, node) = crate::rootfs::with_part(devpts, "0")
        .map_err(|error| format!("mounting a terminal for /dev/console: {error}"))?;
    Ok(Console { pty, devpts, node })
}

const MASTER: OFlags =
    OFlags::RDWR.union(OFlags::NOCTTY).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A further pty in the devpts of a running container, reached through its root.
///
/// # Errors
/// There is no devpts at `/dev/pts` in it, or what the system said.
pub fn inside(root: BorrowedFd<'_>, size: Size) -> Result<Pty, String> {
    // Whatever the container mounted there: only a devpts gives terminals, and only
    // its multiplexer is opened for more than a look.
    let path = rustix::fs::openat2(
        root,
        "dev/pts",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(doing("looking for /dev/pts in the container"))?;
    let kind = rustix::fs::fstatfs(&path).map_err(doing("looking at the container's /dev/pts"))?;
    if kind.f_type as i64 != DEVPTS {
        return Err("the container has no devpts at /dev/pts, so it can't have a terminal".into());
    }
    let master = rustix::fs::openat(&path, "ptmx", MASTER | OFlags::NOFOLLOW, Mode::empty())
        .map_err(doing("opening a terminal in the container"))?;
    pair(master, size)
}

/// A pty of the host's own devpts, for a process that is not isolated.
///
/// # Errors
/// What the system said.
pub fn host(size: Size) -> Result<Pty, String> {
    let master =
        rustix::fs::open("/dev/ptmx", MASTER, Mode::empty()).map_err(doing("opening /dev/ptmx"))?;
    pair(master, size)
}

fn pair(master: OwnedFd, size: Size) -> Result<Pty, String> {
    rustix::pty::unlockpt(&master).map_err(doing("unlocking a terminal"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(doing("opening a terminal's other end"))?;
    resize(master.as_fd(), size).map_err(doing("setting a terminal's size"))?;
    Ok(Pty { master, slave })
}

/// Tells a terminal its size; the foreground process gets SIGWINCH.
pub fn resize(master: BorrowedFd<'_>, size: Size) -> Result<(), Errno> {
    rustix::termios::tcsetwinsize(
        master,
        Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 },
    )
}

/// Gives a terminal to the user of the process on it; its group stays `tty`.
pub fn give_to(slave: BorrowedFd<'_>, uid: u32) -> Result<(), String> {
    let uid = rustix::fs::Uid::from_raw(uid);
    rustix::fs::chownat(slave, "", Some(uid), None, AtFlags::EMPTY_PATH)
        .map_err(doing("giving the terminal to the user"))
}

/// Moves what a terminal prints to a FIFO.
#[derive(Debug)]
pub struct Pump {
    task: AbortHandle,
    ending: Arc<Notify>,
    /// Closed when it has come to its end.
    over: watch::Receiver<()>,
}

impl Pump {
    /// From this master into this FIFO (open for writing, non-blocking).
    ///
    /// # Errors
    /// One of them can't be watched.
    pub fn start(master: OwnedFd, fifo: OwnedFd) -> std::io::Result<Self> {
        let master = readiness::watch(master, Interest::READABLE)?;
        let fifo = readiness::watch(fifo, Interest::WRITABLE)?;
        let ending = Arc::new(Notify::new());
        let told = Arc::clone(&ending);
        let (goes_on, over) = watch::channel(());
        let task = tokio::task::spawn_local(async move {
            pump(&master, &fifo, &told).await;
            drop(goes_on);
        });
        Ok(Pump { task: task.abort_handle(), ending, over })
    }

    /// No process is left: waits until all that they printed is in the FIFO. Whoever asks
    /// for it waits for the same end.
    /// A FIFO that nobody empties (a full disk) holds the container up for `patience`.
    pub async fn finish(&self, patience: Duration) {
        self.ending.notify_one();
        if tokio::time::timeout(patience, self.end()).await.is_err() {
            self.task.abort();
            self.end().await;
        }
    }

    async fn end(&self) {
        let mut over = self.over.clone();
        while over.changed().await.is_ok() {}
    }

    /// Whether it has come to its end.
    pub fn is_over(&self) -> bool {
        self.over.has_changed().is_err()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often it is looked whether somebody opened the terminal again.
const NOBODY: Duration = Duration::from_millis(100);
/// The most that is moved at once.
const PART: usize = 64 << 10;

async fn pump(master: &AsyncFd<OwnedFd>, fifo: &AsyncFd<OwnedFd>, ending: &Notify) {
    let mut ends = false;
    loop {
        let flags = SpliceFlags::NONBLOCK;
        match rustix::pipe::splice(master.get_ref(), None, fifo.get_ref(), None, PART, flags) {
            Ok(0) | Err(Errno::IO) => {
                // Every process has closed it. All it held was handed out before
                // this answer (pty(7)); while the payload lives it may be opened again.
                if ends {
                    return;
                }
                tokio::select! {
                    () = ending.notified() => ends = true,
                    () = tokio::time::sleep(NOBODY) => {}
                }
            }
            Ok(_) => tokio::task::coop::consume_budget().await,
            Err(Errno::AGAIN) => {
                // Of the two it is the FIFO that is full, or the terminal empty.
                let full = rustix::event::poll(
                    &mut [rustix::event::PollFd::new(
                        fifo.get_ref(),
                        rustix::event::PollFlags::OUT,
                    )],
                    Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }),
                ) == Ok(0);
                if full {
                    let Ok(mut guard) = fifo.writable().await else { return };
                    guard.clear_ready();
                } else {
                    tokio::select! {
                        guard = master.readable() => match guard {
                            Ok(mut guard) => guard.clear_ready(),
                            Err(_) => return,
                        },
                        () = ending.notified(), if !ends => ends = true,
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::warn!("reading a terminal: {}", std::io::Error::from(errno));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::io::Write;

    /// The end of a container is looked for twice: after its payload, and after the last of
    /// its processes was swept up.
    #[tokio::test]
    async fn whoever_waits_for_the_end_of_a_terminal_waits_for_all_it_printed() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let Pty { master, slave } = host(Size::default()).unwrap();
                let (read, write) = std::io::pipe().unwrap();
                let (read, mut full) = (OwnedFd::from(read), write.try_clone().unwrap());
                let write = OwnedFd::from(write);
                for end in [&read, &write] {
                    rustix::io::ioctl_fionbio(end, true).unwrap();
                }
                while full.write(&[b'x'; 4096]).is_ok() {}
                let pump = Arc::new(Pump::start(master, write).unwrap());
                std::fs::File::from(slave).write_all(b"last words").unwrap();
                let first = Arc::clone(&pump);
                let first = tokio::task::spawn_local(async move {
                    first.finish(Duration::from_secs(60)).await;
                });
                tokio::time::sleep(Duration::from_millis(20)).await;
                let second = pump.finish(Duration::from_secs(60));
                tokio::pin!(second);
                let early = tokio::time::timeout(Duration::from_millis(20), &mut second);
                assert!(early.await.is_err() && !pump.is_over());
                let mut seen = Vec::new();
                let mut bytes = [0; 8192];
                while second.as_mut().now_or_never().is_none() {
                    match rustix::io::read(&read, &mut bytes[..]) {
                        Ok(len) => seen.extend_from_slice(&bytes[..len]),
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
                first.await.unwrap();
                assert!(pump.is_over());
                let left = rustix::io::read(&read, &mut bytes[..]).unwrap_or(0);
                seen.extend_from_slice(&bytes[..left]);
                assert!(seen.ends_with(b"last words"), "{:?}", &seen[seen.len() - 20..]);
            })
            .await;
    }

    #[tokio::test]
    async fn a_terminal_that_nobody_reads_is_over_once_it_was_waited_for() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let Pty { master, slave } = host(Size::default()).unwrap();
                let (_read, write) = std::io::pipe().unwrap();
                let mut full = write.try_clone().unwrap();
                rustix::io::ioctl_fionbio(&write, true).unwrap();
                while full.write(&[b'x'; 4096]).is_ok() {}
                let pump = Pump::start(master, write.into()).unwrap();
                std::fs::File::from(slave).write_all(b"last words").unwrap();
                pump.finish(Duration::from_millis(20)).await;
                assert!(pump.is_over());
            })
            .await;
    }
}
