//! What keeper and engine say to each other: one fixed-size message a packet on a
//! `SOCK_SEQPACKET` pair, descriptors beside it (unix(7), SCM_RIGHTS). Both ends
//! are the same binary, except in the moment of an upgrade: the first byte is
//! the protocol's version.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::sandbox::status::End;

/// The version of this protocol.
pub const VERSION: u8 = 1;
/// The most descriptors in one message: the kernel's SCM_MAX_FD.
pub const MAX_FDS: usize = 253;
/// Bytes of a tag.
pub const TAG_LEN: usize = 96;
const LEN: usize = 48 + TAG_LEN;

/// What the engine calls a process or a held descriptor; the keeper only keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; TAG_LEN]);

impl Tag {
    /// Of a text; `None` when it is too long.
    pub fn new(text: &str) -> Option<Self> {
        let mut tag = [0; TAG_LEN];
        tag.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Tag(tag))
    }

    /// The empty tag.
    pub const EMPTY: Tag = Tag([0; TAG_LEN]);

    /// The text.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(TAG_LEN);
        std::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }

    /// The bytes, padded with zeros.
    pub fn bytes(&self) -> &[u8; TAG_LEN] {
        &self.0
    }

    /// From bytes as [`Tag::bytes`] gives them.
    pub fn from_bytes(bytes: [u8; TAG_LEN]) -> Self {
        Tag(bytes)
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a message says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $code,)* }

        impl Kind {
            fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Kind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Engine: tell all you have. Answered by `Process` and `Held`, then `Told`.
    Hello = 1,
    /// Engine: clone. Descriptors: the plan, the status file, the error pipe, then
    /// those that the plan names. Answered by `Launched` or `Refused`.
    Launch = 2,
    /// Engine: watch a process that an earlier keeper cloned. Descriptor: its
    /// pidfd.
    Adopt = 3,
    /// Engine: the exit of `key` is on disk; forget it.
    Acknowledge = 4,
    /// Engine: hold this descriptor under `tag`, in place of an earlier one.
    Hold = 5,
    /// Engine: close what is held under `tag`.
    Release = 6,
    /// Engine: all is stopped; end with status `code`.
    Finish = 7,
    /// Engine: replace yourself by the binary that is now at your path.
    Reexec = 8,
    /// Engine: the answer to `Ping`.
    Pong = 9,
    /// Engine: what was to run can't; if this is a machine's init, a shell on the
    /// console helps.
    Rescue = 10,
    /// Engine: for a while nothing was launched; memory of use for that alone can go.
    Rest = 11,
    /// Engine: close what is held under `tag`, which can take long: a child does it.
    ReleaseApart = 12,
    /// Keeper: a process it has. Descriptor: its pidfd.
    Process = 32,
    /// Keeper: a descriptor it holds.
    Held = 33,
    /// Keeper: that was all.
    Told = 34,
    /// Keeper: `key` was cloned. Descriptor: its pidfd.
    Launched = 35,
    /// Keeper: `key` could not be cloned; `code` is the errno.
    Refused = 36,
    /// Keeper: `key` has ended.
    Exited = 37,
    /// Keeper: the supervisor received signal `code`.
    Signal = 38,
    /// Keeper: the binary at its path can't be executed; `code` is the errno.
    NotReplaced = 39,
    /// Keeper: are you well? Answered by `Pong`; anything else that is said will do.
    Ping = 40,
}

/// One message. Fields that a kind does not use are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it says.
    pub kind: Kind,
    /// The engine's number for a launch.
    pub key: u64,
    /// A process id, as the keeper sees it.
    pub pid: i32,
    /// An errno, a signal or an exit status, as the kind says.
    pub code: i32,
    /// How a process ended; `None` while it runs, or when nobody can know.
    pub end: Option<End>,
    /// Whether it has ended.
    pub ended: bool,
    /// Start time in clock ticks since boot (proc_pid_stat(5)).
    pub start: u64,
    /// The engine's name for it.
    pub tag: Tag,
}

impl Message {
    /// A message with nothing but its kind.
    pub const fn new(kind: Kind) -> Self {
        Message {
            kind,
            key: 0,
            pid: 0,
            code: 0,
            end: None,
            ended: false,
            start: 0,
            tag: Tag::EMPTY,
        }
    }

    fn encode(&self) -> [u8; LEN] {
        let (how, value) = match self.end {
            None => (0, 0),
            Some(End::Exit(code)) => (1, code),
            Some(End::Signal(signal)) => (2, signal),
        };
        let mut bytes = [0; LEN];
        bytes[0] = VERSION;
        bytes[1] = self.kind as u8;
        bytes[2] = how;
        bytes[3] = u8::from(self.ended);
        bytes[4..8].copy_from_slice(&self.pid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.code.to_le_bytes());
        bytes[20..24].copy_from_slice(&i32::to_le_bytes(value));
        bytes[24..32].copy_from_slice(&self.start.to_le_bytes());
        bytes[48..].copy_from_slice(self.tag.bytes());
        bytes
    }

    fn decode(bytes: &[u8; LEN]) -> Option<Self> {
        fn part<const N: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
            let mut part = [0; N];
            part.copy_from_slice(&bytes[at..at + N]);
            part
        }
        if bytes[0] != VERSION {
            return None;
        }
        let value = i32::from_le_bytes(part(bytes, 20));
        Some(Message {
            kind: Kind::from_code(bytes[1])?,
            key: u64::from_le_bytes(part(bytes, 8)),
            pid: i32::from_le_bytes(part(bytes, 4)),
            code: i32::from_le_bytes(part(bytes, 16)),
            end: match bytes[2] {
                1 => Some(End::Exit(value)),
                2 => Some(End::Signal(value)),
                _ => None,
            },
            ended: bytes[3] != 0,
            start: u64::from_le_bytes(part(bytes, 24)),
            tag: Tag::from_bytes(part(bytes, 48)),
        })
    }
}

/// Sends a message. `EAGAIN` when the other end is slow.
pub fn send(socket: impl AsFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let bytes = message.encode();
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
    })?;
    Ok(())
}

/// Descriptors that came with a message, without allocating.
#[derive(Debug)]
pub struct Fds {
    fds: [Option<OwnedFd>; MAX_FDS],
    len: usize,
    cut_off: bool,
}

impl Default for Fds {
    fn default() -> Self {
        Fds { fds: [const { None }; MAX_FDS], len: 0, cut_off: false }
    }
}

impl Fds {
    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether some were lost: the receiver had no numbers left for them
    /// (unix(7), MSG_CTRUNC).
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<&OwnedFd> {
        self.fds.get(index)?.as_ref()
    }

    /// Takes one of them.
    pub fn take(&mut self, index: usize) -> Option<OwnedFd> {
        self.fds.get_mut(index)?.take()
    }

    pub(super) fn push(&mut self, fd: OwnedFd) {
        // What does not fit is closed by being dropped.
        if let Some(place) = self.fds.get_mut(self.len) {
            *place = Some(fd);
            self.len += 1;
        }
    }
}

/// What came over the socket.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Message),
    /// A packet of another version or form.
    Unknown,
    /// The other end is closed.
    Closed,
}

/// Receives one message; its descriptors are put into `fds`.
pub fn receive(socket: impl AsFd, fds: &mut Fds) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; LEN];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )
    })?;
    fds.cut_off = received.flags.contains(ReturnFlags::CTRUNC);
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            received.for_each(|fd| fds.push(fd));
        }
    }
    match received.bytes {
        0 => Ok(Received::Closed),
        LEN => Ok(Message::decode(&bytes).map_or(Received::Unknown, Received::Message)),
        _ => Ok(Received::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let message = Message {
            key: 9,
            pid: 4711,
            code: -3,
            end: Some(End::Signal(15)),
            ended: true,
            start: u64::MAX,
            tag: Tag::new("web").unwrap(),
            ..Message::new(Kind::Process)
        };
        let fds: Vec<_> = (0..MAX_FDS).map(|_| a.as_fd()).collect();
        send(&a, &message, &fds).unwrap();
        let mut got = Fds::default();
        match receive(&b, &mut got).unwrap() {
            Received::Message(other) => assert_eq!(other, message),
            other => panic!("{other:?}"),
        }
        assert_eq!(got.len(), MAX_FDS);
        drop((a, got));
        assert!(matches!(receive(&b, &mut Fds::default()), Ok(Received::Closed)));
        assert!(Tag::new(&"x".repeat(TAG_LEN + 1)).is_none());
    }
}
