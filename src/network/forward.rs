//! Connections to `[::1]` of the host, carried to a container.
//!
//! Everything else is translated by the kernel ([`super::firewall`]); a packet from
//! `::1` can't leave the loopback interface (RFC 4291, section 2.5.3), so these few
//! go through a socket. Only processes of the host itself use it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};

/// Connections carried at once by one listener; more wait in its backlog.
const AT_ONCE: usize = 512;

/// How long a socket rests that gives errors.
const REST: Duration = Duration::from_millis(50);

/// Carries every connection that `listener` accepts to `to`, until it is dropped.
pub async fn tcp(listener: TcpListener, to: SocketAddr) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            // Out of descriptors, or the client has gone: neither ends the listener.
            Err(_) => {
                tokio::time::sleep(REST).await;
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

/// The largest datagram.
const DATAGRAM: usize = 65_535;
/// A client that says nothing for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Carries datagrams that `socket` receives to `to`, and the answers back, each client
/// from a port of its own.
pub async fn udp(socket: UdpSocket, to: SocketAddr) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut bytes = vec![0; DATAGRAM];
    let mut failed = false;
    loop {
        let Ok((length, from)) = socket.recv_from(&mut bytes).await else {
            // One error is that of an earlier answer; one after the other would spin.
            if std::mem::replace(&mut failed, true) {
                tokio::time::sleep(REST).await;
            }
            continue;
        };
        failed = false;
        let datagram = bytes[..length].to_vec();
        let refused = match clients.get(&from) {
            Some(client) => match client.try_send(datagram) {
                Err(mpsc::error::TrySendError::Closed(datagram)) => Some(datagram),
                // One that is too fast loses datagrams, as anywhere else.
                _ => None,
            },
            None => Some(datagram),
        };
        let Some(datagram) = refused else { continue };
        clients.retain(|_, client| !client.is_closed());
        if clients.len() >= AT_ONCE {
            continue;
        }
        let (client, datagrams) = mpsc::channel(16);
        let _ = client.try_send(datagram);
        clients.insert(from, client);
        tokio::spawn(client_of(Arc::clone(&socket), from, to, datagrams));
    }
}

async fn client_of(
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    to: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
) {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let Ok(own) = UdpSocket::bind(any).await else { return };
    if own.connect(to).await.is_err() {
        return;
    }
    let mut bytes = vec![0; DATAGRAM];
    loop {
        let either = tokio::time::timeout(FORGOTTEN, async {
            tokio::select! {
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => own.send(&datagram).await.is_ok(),
                    None => false,
                },
                answer = own.recv(&mut bytes) => match answer {
                    Ok(length) => socket.send_to(&bytes[..length], from).await.is_ok(),
                    Err(_) => true,
                },
            }
        });
        if !either.await.unwrap_or(false) {
            return;
        }
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
