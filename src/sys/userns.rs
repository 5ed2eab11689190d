//! User namespaces as descriptors, with nobody in them.
//!
//! A namespace exists as long as a process or a descriptor holds it. A child that
//! shares our memory is cloned into it, waits while its mapping is written and the
//! descriptors are opened, and is killed. It never returns into Rust code.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::process::{Clone, clone3, errno, exit_now};

/// Consecutive ids of the host: `first` is the container's 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct IdRange {
    /// The host's id that is 0 in the namespace.
    pub first: u32,
    /// How many ids there are; 65536 covers every id that distributions use.
    pub count: u32,
}

impl IdRange {
    /// The line for `/proc/PID/uid_map`, user_namespaces(7); EINVAL when it is
    /// empty or goes past the last id.
    pub fn map_line(self) -> io::Result<String> {
        match (self.count, self.first.checked_add(self.count)) {
            (0, _) | (_, None) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            (count, Some(_)) => Ok(format!("0 {} {count}\n", self.first)),
        }
    }
}

/// A new user namespace in which ids from 0 are those of `range`.
///
/// ENOSPC or EUSERS: `/proc/sys/user/max_user_namespaces` is reached.
pub fn userns_with_range(range: IdRange) -> io::Result<OwnedFd> {
    let map = range.map_line()?;
    let waiter = Waiter::spawn(libc::CLONE_NEWUSER)?;
    waiter.map(&map)?;
    waiter.namespace("user")
}

/// A new user namespace as [`userns_with_range`] makes it, and a network namespace
/// that it owns, with its loopback interface up.
pub fn userns_and_netns(range: IdRange) -> io::Result<(OwnedFd, OwnedFd)> {
    let map = range.map_line()?;
    let waiter = Waiter::spawn(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    waiter.map(&map)?;
    let (user, net) = (waiter.namespace("user")?, waiter.namespace("net")?);
    drop(waiter);
    loopback_up(&net)?;
    Ok((user, net))
}

/// A new network namespace that belongs to a user namespace which is there already, its
/// loopback interface up.
pub fn netns_of(user: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let parent = std::process::id();
    // The child has copies of our signal handlers, which must not run in it.
    let all = nix::sys::signal::SigSet::all();
    let before = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
    // Only a process of one thread can change its user namespace (setns(2)).
    // SAFETY: the child makes system calls alone, and never comes back from them.
    let cloned = unsafe { clone3(0, None, None) };
    if let Ok(Clone::Child) = cloned {
        // SAFETY: numbers alone; the descriptor is open in this copy, too.
        let made = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // In that user namespace somebody may trace us, and we have a copy of what the
            // engine knows, and the host's root (ptrace(2), PTRACE_MODE_ATTACH).
            libc::prctl(libc::PR_SET_DUMPABLE, 0);
            if libc::getppid().unsigned_abs() != parent {
                exit_now(0);
            }
            libc::setns(user.as_raw_fd(), libc::CLONE_NEWUSER) == 0
                && libc::unshare(libc::CLONE_NEWNET) == 0
        };
        let errno = if made { 0 } else { errno().raw_os_error() as u8 };
        let _ = rustix::io::write(&tell, &[errno]);
        loop {
            // SAFETY: no argument. It is killed by its parent, or with it.
            unsafe { libc::pause() };
        }
    }
    before.thread_set_mask()?;
    let pid = match cloned? {
        Clone::Parent(pid) => pid,
        Clone::Child => exit_now(0),
    };
    drop(tell);
    let waiter = Waiter { pid, _stack: Vec::new() };
    let mut errno = [0u8];
    match rustix::io::retry_on_intr(|| rustix::io::read(&told, &mut errno[..]))? {
        0 => return Err(io::Error::other("the process that was to make it is gone")),
        _ if errno[0] != 0 => return Err(io::Error::from_raw_os_error(errno[0].into())),
        _ => {}
    }
    let net = waiter.namespace("net")?;
    drop(waiter);
    loopback_up(&net)?;
    Ok(net)
}

/// Sets the loopback interface of a network namespace up. A thread of its own
/// enters the namespace, so that no other thread is ever in the wrong one.
pub fn loopback_up(netns: &OwnedFd) -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("loopback".into()).spawn_scoped(
            scope,
            || -> io::Result<()> {
                nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                interface_up(b"lo")
            },
        )?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the loopback thread panicked")))
    })
}

/// Sets an interface of the own network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn interface_up(name: &[u8]) -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name).take(libc::IFNAMSIZ - 1) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the descriptor is an open socket, the request is a live ifreq whose
    // name is NUL-terminated, as SIOCSIFFLAGS wants it.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A child that waits to be killed, and its stack; dropped, it is gone.
struct Waiter {
    pid: libc::pid_t,
    _stack: Vec<u8>,
}

const STACK: usize = 32 * 1024;

impl Waiter {
    fn spawn(namespaces: libc::c_int) -> io::Result<Waiter> {
        let mut stack = vec![0u8; STACK];
        let top = stack.as_mut_ptr_range().end;
        let parent = std::process::id() as usize;
        // The child has copies of our signal handlers, which must not run in it.
        let all = nix::sys::signal::SigSet::all();
        let before = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
        // SAFETY: `wait_for_death` uses only the stack that is passed here, which
        // lives until the child is reaped in `drop`; the stack's end is aligned
        // down by clone(2)'s wrapper in the C library. Without CLONE_SIGHAND, CLONE_FS and
        // CLONE_FILES nothing but memory is shared, and the child writes none of
        // it. No exit signal: nobody else's wait sees the child.
        let pid = unsafe {
            libc::clone(
                wait_for_death,
                top.cast(),
                libc::CLONE_VM | namespaces,
                parent as *mut libc::c_void,
            )
        };
        let failed = (pid < 0).then(io::Error::last_os_error);
        before.thread_set_mask()?;
        match failed {
            Some(error) => Err(error),
            None => Ok(Waiter { pid, _stack: stack }),
        }
    }

    fn map(&self, line: &str) -> io::Result<()> {
        fs::write(format!("/proc/{}/uid_map", self.pid), line)?;
        fs::write(format!("/proc/{}/gid_map", self.pid), line)
    }

    fn namespace(&self, kind: &str) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/{}/ns/{kind}", self.pid))?.into())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // SAFETY: kill and waitpid take no pointers here but a null one that
        // waitpid(2) allows; the pid is our own unreaped child's.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            while libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) < 0
                && *libc::__errno_location() == libc::EINTR
            {}
        }
    }
}

/// The child's whole life. It shares the parent's memory and thread-local storage,
/// errno included, so it makes only calls that can't fail.
extern "C" fn wait_for_death(parent: *mut libc::c_void) -> libc::c_int {
    // SAFETY: these calls take and return numbers only.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // The parent may have died before it was asked to take us along.
        if libc::syscall(libc::SYS_getppid) != parent as libc::c_long {
            libc::syscall(libc::SYS_exit, 0);
        }
        loop {
            libc::syscall(libc::SYS_pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children() -> String {
        fs::read_to_string("/proc/thread-self/children").unwrap()
    }

    #[test]
    fn a_namespace_has_its_mapping_and_no_process_stays() {
        let range = IdRange { first: 700_000, count: 65536 };
        let userns = userns_with_range(range).unwrap();
        assert_eq!(children(), "");
        // A detached clone of the root shows id 0 of the disk as the first id.
        let root = rustix::mount::open_tree(
            rustix::fs::CWD,
            "/",
            rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE,
        )
        .unwrap();
        use std::os::fd::AsFd;
        super::super::mount::idmap(root.as_fd(), userns.as_fd(), false).unwrap();
        assert_eq!(rustix::fs::fstat(&root).unwrap().st_uid, 700_000);
    }

    #[test]
    fn a_network_namespace_belongs_to_a_user_namespace_that_is_there() {
        let userns = userns_with_range(IdRange { first: 700_000, count: 65536 }).unwrap();
        let net = netns_of(std::os::fd::AsFd::as_fd(&userns)).unwrap();
        assert_eq!(children(), "");
        // SAFETY: NS_GET_USERNS (ioctl_nsfs(2)) takes no argument and gives a descriptor.
        let owner = unsafe { libc::ioctl(net.as_raw_fd(), 0xb701) };
        assert!(owner >= 0);
        // SAFETY: it was made just now.
        let owner: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(owner) };
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(&owner), inode(&userns));
    }

    #[test]
    fn a_network_namespace_has_its_loopback_up() {
        let (_user, net) = userns_and_netns(IdRange { first: 700_000, count: 65536 }).unwrap();
        let flags = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    nix::sched::setns(&net, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    // A connection to oneself needs the interface and its address.
                    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                    let to = server.local_addr().unwrap();
                    server.send_to(b"x", to).unwrap()
                })
                .join()
                .unwrap()
        });
        assert_eq!(flags, 1);
        assert_eq!(children(), "");
    }

    #[test]
    fn an_impossible_range_is_refused() {
        for range in [IdRange { first: 1, count: 0 }, IdRange { first: u32::MAX, count: 2 }] {
            let error = userns_with_range(range).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
