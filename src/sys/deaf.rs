//! Sockets that hear next to nothing (socket(7), SO_ATTACH_FILTER).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const fn step(code: u32, jump: (u8, u8), k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump.0, jf: jump.1, k }
}

/// Has a socket drop every packet that is not to `::1`, as if it had been lost on the way.
pub fn but_for_loopback6(socket: BorrowedFd<'_>) -> io::Result<()> {
    // From the network header on (linux/filter.h).
    let header = libc::SKF_NET_OFF as u32;
    let load = libc::BPF_LD | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        // The version of IP.
        step(load | libc::BPF_B, (0, 0), header),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, (0, 0), 0xf0),
        step(equal, (0, 9), 0x60),
        // The destination.
        step(load | libc::BPF_W, (0, 0), header.wrapping_add(24)),
        step(equal, (0, 7), 0),
        step(load | libc::BPF_W, (0, 0), header.wrapping_add(28)),
        step(equal, (0, 5), 0),
        step(load | libc::BPF_W, (0, 0), header.wrapping_add(32)),
        step(equal, (0, 3), 0),
        step(load | libc::BPF_W, (0, 0), header.wrapping_add(36)),
        step(equal, (0, 1), 1),
        step(give, (0, 0), u32::MAX),
        step(give, (0, 0), 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option is a pointer to a program and its length, which outlive the call;
    // the kernel copies it.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn loopback6_alone_is_heard() {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        but_for_loopback6(socket.as_fd()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let hears = |from: &str, to: &str| {
            let client = UdpSocket::bind((from, 0)).unwrap();
            client.send_to(b"x", (to, port)).unwrap();
            socket.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(hears("::1", "::1"));
        assert!(!hears("127.0.0.1", "127.0.0.1"));
        assert!(hears("::1", "::1"));
    }
}
