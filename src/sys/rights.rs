//! Descriptors that strangers send along with what they say (unix(7), SCM_RIGHTS), and that
//! nobody here wants. Not taken, they are closed in passing, and closing one can take as
//! long as its maker likes: a socket that lingers, a terminal that drains. Whoever may not
//! wait must not be the one who does that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, SocketType, recv};

/// Has the kernel refuse them at the sender (SO_PASSRIGHTS, Linux 6.16). Of a socket that
/// listens those that it accepts inherit it. Whether the kernel does.
pub fn refuse(socket: BorrowedFd<'_>) -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    // SAFETY: an option that is one integer, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            std::ptr::from_ref(&no).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    set == 0
}

/// Looks at what comes next and leaves it there: how much there is of it, at most
/// `buffer`, and whether descriptors come with it. EAGAIN when nothing is there.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid `msghdr` without names, parts and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    // SAFETY: the message has one part, which is `buffer`, and no room for control data:
    // the kernel says so (MSG_CTRUNC) when there was some.
    let len = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok((len, message.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Closes a socket that nobody reads any more, and empties it, for others may have it open
/// too and must not be the ones to close what strangers sent over it. A thread that has
/// nothing else to do does that.
pub fn close(socket: OwnedFd) {
    // Nobody adds to it from here on.
    let _ = rustix::net::shutdown(&socket, Shutdown::Read);
    let mut buffer = [0; 4096];
    loop {
        match peek(socket.as_fd(), &mut buffer) {
            Ok((len, false)) if len > 0 => {}
            // The end, or a message that is empty.
            Ok((0, false)) if !has_messages(&socket) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => return close_elsewhere(socket),
        }
        if recv(&socket, &mut buffer, RecvFlags::DONTWAIT).is_err() {
            return close_elsewhere(socket);
        }
    }
}

/// Whether what comes over it are messages, which may be empty.
fn has_messages(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_type(socket) == Ok(SocketType::DGRAM)
}

/// Takes all out of a socket to which nobody can add.
fn empty(socket: &OwnedFd) {
    let has_messages = has_messages(socket);
    let mut failed = false;
    loop {
        match recv(socket, &mut [0u8; 64], RecvFlags::DONTWAIT) {
            Ok((_, 0)) if !has_messages => return,
            Ok(_) => failed = false,
            Err(Errno::AGAIN) => return,
            // An error that a socket kept is told once (ECONNRESET), before what is in it.
            Err(_) if failed => return,
            Err(_) => failed = true,
        }
    }
}

fn close_elsewhere(socket: OwnedFd) {
    static THREAD: Mutex<Option<Sender<OwnedFd>>> = Mutex::new(None);
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if thread.is_none() {
        let (sender, sockets) = channel::<OwnedFd>();
        let close = move || sockets.into_iter().for_each(|socket| empty(&socket));
        let started = std::thread::Builder::new().name("closing".into()).spawn(close);
        // Without a thread left on this machine it is closed here; the next one tries again.
        *thread = started.ok().map(|_| sender);
    }
    if let Some(sender) = &*thread {
        let _ = sender.send(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn send(socket: impl AsFd, text: &[u8], fd: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(&fd))));
        let text = [io::IoSlice::new(text)];
        rustix::net::sendmsg(socket, &text, &mut ancillary, SendFlags::NOSIGNAL)
    }

    #[test]
    fn they_are_seen_and_closed_without_anybody_waiting() {
        let (ours, its) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut buffer = [0; 64];
        assert!(peek(ours.as_fd(), &mut buffer).is_err(), "nothing is there");
        rustix::io::write(&its, b"plain").unwrap();
        assert_eq!(peek(ours.as_fd(), &mut buffer).unwrap(), (5, false));
        send(&its, b"more", writer.as_fd()).unwrap();
        assert!(peek(ours.as_fd(), &mut buffer).unwrap().1);
        drop(writer);
        close(ours.into());
        assert_eq!(io::read_to_string(reader).unwrap(), "", "the last copy is closed");
        assert!(rustix::net::send(&its, b"x", SendFlags::NOSIGNAL).is_err());
    }

    #[test]
    fn the_same_of_messages() {
        let (ours, its) = UnixDatagram::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        its.send(b"plain").unwrap();
        send(&its, b"more", writer.as_fd()).unwrap();
        drop(writer);
        close(ours.into());
        assert_eq!(io::read_to_string(reader).unwrap(), "");
    }

    #[test]
    fn they_are_closed_also_while_others_have_the_socket_open() {
        let (ours, its) = UnixDatagram::pair().unwrap();
        let others = ours.try_clone().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        its.send(b"").unwrap();
        send(&its, b"", writer.as_fd()).unwrap();
        drop(writer);
        close(ours.into());
        let mut fds = [rustix::event::PollFd::new(&reader, rustix::event::PollFlags::IN)];
        let long = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&long)), Ok(1), "the last copy is closed");
        assert!(its.send(b"x").is_err());
        drop(others);
    }

    #[test]
    fn the_kernel_refuses_them_where_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        if !refuse(listener.as_fd()) {
            return;
        }
        let client = UnixStream::connect(dir.path().join("s")).unwrap();
        assert_eq!(send(&client, b"x", client.as_fd()), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::io::write(&client, b"x"), Ok(1));
    }
}
