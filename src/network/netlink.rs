//! One rtnetlink(7) socket, one request at a time. Messages are those of the
//! library; the calls block, since set-up runs on threads that may, some of them
//! inside a container's namespace.

use std::io;
use std::os::fd::AsFd;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What a request does when its object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Makes it; EEXIST when it is there.
    Create,
    /// Makes it or replaces it.
    Replace,
    /// Changes or removes what is there.
    Change,
}

/// A socket of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A socket for questions to the kernel, and its port, in the calling thread's network
/// namespace.
pub(super) fn socket(protocol: isize) -> io::Result<(Socket, u32)> {
    let mut socket = Socket::new(protocol)?;
    let port = socket.bind_auto()?.port_number();
    // A kernel that does not answer must not hang a launch for ever.
    let patience = nix::sys::time::TimeVal::new(10, 0);
    let _ = nix::sys::socket::setsockopt(
        &socket.as_fd(),
        nix::sys::socket::sockopt::ReceiveTimeout,
        &patience,
    );
    Ok((socket, port))
}

impl Netlink {
    /// Opens it in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Netlink> {
        let (socket, _) = socket(NETLINK_ROUTE)?;
        // The kernel's own words on what was wrong, where it has any.
        let _ = socket.set_ext_ack(true);
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a request and waits for its acknowledgement.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, mode: Mode) -> io::Result<()> {
        let flags = NLM_F_ACK
            | match mode {
                Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
                Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
                Mode::Change => 0,
            };
        self.exchange(message, flags, |_| ())
    }

    /// Asks for one object, or with `all` for every one.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        all: bool,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        let flags = if all { NLM_F_DUMP } else { NLM_F_ACK };
        self.exchange(message, flags, |message| found.push(message))?;
        Ok(found)
    }

    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        loop {
            let (bytes, from) = self.socket.recv_from_full()?;
            // Only the kernel has port 0: anybody may send to a netlink socket.
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = bytes.as_slice();
            while rest.len() >= 16 {
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
                    return Err(io::Error::other("the kernel's answer can't be read"));
                };
                let length = message.header.length as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => {
                                Err(io::Error::from_raw_os_error(code.get().saturating_abs()))
                            }
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => take(message),
                    _ => {}
                }
            }
        }
    }
}
