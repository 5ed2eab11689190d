//! Connections to `[::1]` of the host, carried to a container.
//!
//! Everything else is translated by the kernel ([`super::firewall`]); a packet from
//! `::1` can't leave the loopback interface (RFC 4291, section 2.5.3), so these few
//! go through a socket. Only processes of the host itself use it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections carried at once by one listener; more wait in its backlog.
const AT_ONCE: usize = 512;

/// Carries every connection that `listener` accepts to `to`, until it is dropped.
pub async fn tcp(listener: TcpListener, to: SocketAddr) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            // Out of descriptors, or the client has gone: neither ends the listener.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn bytes_go_both_ways_and_ends_are_passed_on() {
        let server = TcpListener::bind("[::1]:0").await.unwrap();
        let to = server.local_addr().unwrap();
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let task = tokio::spawn(tcp(listener, to));
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let mut bytes = Vec::new();
        accepted.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"ping");
        accepted.write_all(b"pong").await.unwrap();
        drop(accepted);
        bytes.clear();
        client.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"pong");
        task.abort();
    }
}
