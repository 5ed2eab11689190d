//! The resolver's sockets: UDP and TCP on a network's gateway, and the questions that
//! go on to the host's servers. Memory is bounded: so many questions at once and no
//! more, each of at most 64 KiB (TCP) or 4 KiB (UDP), each for a few seconds; and no
//! container can take the places of all others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_proto::rr::RecordType;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::{Answer, Zone, answer, failure};
use crate::network::error::{Error, Result};
use crate::network::netns;

/// Questions that wait for an upstream server, and TCP connections, at once.
const AT_ONCE: usize = 256;
/// The same of one that asks: a container has two addresses at a network.
const AT_ONCE_EACH: usize = 32;
/// The largest datagram that is taken.
const DATAGRAM: usize = 4096;
/// Names whose turn is remembered.
const TURNS: usize = 4096;
/// What every client takes by UDP (RFC 1035, section 2.3.4).
const SHORT: usize = 512;
/// How long a socket rests that gives one error after the other.
const REST: Duration = Duration::from_millis(50);
/// How long one upstream server is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Both sockets of a resolver.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both in the calling thread's network namespace; in a tokio runtime.
    pub async fn bind(address: SocketAddr) -> Result<Sockets> {
        let failed = |error| {
            Error::new("serve names on", address.to_string(), error)
                .with_remedy("another resolver may listen there on all addresses")
        };
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        let at = udp.local_addr().map_err(failed)?;
        Ok(Sockets { udp, tcp: TcpListener::bind(at).await.map_err(failed)? })
    }

    /// From sockets that somebody else bound; in a tokio runtime.
    pub fn of(udp: OwnedFd, tcp: OwnedFd) -> io::Result<Sockets> {
        let (udp, tcp) = (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp));
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Sockets { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
    }

    /// Where they are bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// The servers of the host, read again when their file has changed.
#[derive(Debug)]
pub struct Upstream {
    path: PathBuf,
    known: Mutex<(Option<SystemTime>, Vec<IpAddr>)>,
}

impl Upstream {
    /// Those that a file in the form of resolv.conf(5) names.
    pub fn of_file(path: impl Into<PathBuf>) -> Upstream {
        Upstream { path: path.into(), known: Mutex::default() }
    }

    fn servers(&self) -> Vec<IpAddr> {
        let changed = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        let Ok(mut known) = self.known.lock() else { return Vec::new() };
        if known.0 != changed || changed.is_none() {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            *known = (changed, crate::network::files::read_resolv_conf(&text).servers);
        }
        known.1.clone()
    }
}

/// Places for what takes time, so many in all and so many for each that asks.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    each: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    source: IpAddr,
    _one: OwnedSemaphorePermit,
}

impl Places {
    fn new() -> Arc<Places> {
        Arc::new(Places { all: Arc::new(Semaphore::new(AT_ONCE)), each: Mutex::default() })
    }

    /// A place for this one, unless it has its share already, or there is none.
    fn take(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        self.share(source, one)
    }

    fn share(self: &Arc<Self>, source: IpAddr, one: OwnedSemaphorePermit) -> Option<Place> {
        let source = source.to_canonical();
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = each.entry(source).or_default();
        if *count >= AT_ONCE_EACH {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), source, _one: one })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut each = self.places.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = each.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                each.remove(&self.source);
            }
        }
    }
}

struct Resolver {
    zone: watch::Receiver<Arc<Zone>>,
    upstream: Arc<Upstream>,
    /// How often each name with several addresses was asked for.
    turns: Mutex<HashMap<(String, RecordType), usize>>,
    places: Arc<Places>,
    /// The only one who asks, if there is but one: its network namespace, in which the
    /// servers that it named itself are asked.
    within: Option<Arc<OwnedFd>>,
}

/// Answers until it is dropped. A change of the zone counts from the next query on.
/// `within` is the network namespace of who asks, if all are one.
pub async fn serve(
    sockets: Sockets,
    zone: watch::Receiver<Arc<Zone>>,
    upstream: Arc<Upstream>,
    within: Option<Arc<OwnedFd>>,
) {
    let (turns, places) = (Mutex::default(), Places::new());
    let resolver = Arc::new(Resolver { zone, upstream, turns, places, within });
    let Sockets { udp, tcp } = sockets;
    tokio::join!(
        datagrams(Arc::new(udp), Arc::clone(&resolver)),
        connections(tcp, Arc::clone(&resolver)),
    );
}

impl Resolver {
    fn look(&self, query: &[u8], source: SocketAddr, limit: usize) -> Answer {
        let zone = Arc::clone(&self.zone.borrow());
        let source = source.ip().to_canonical();
        answer(query, &zone, source, |name, kind| self.turn(name, kind), limit)
    }

    fn turn(&self, name: &str, kind: RecordType) -> usize {
        let Ok(mut turns) = self.turns.lock() else { return 0 };
        // Names of containers that are gone are not kept for ever.
        if turns.len() > TURNS {
            turns.clear();
        }
        let turn = turns.entry((name.to_owned(), kind)).or_default();
        *turn = turn.wrapping_add(1);
        *turn
    }

    /// Where a query goes on to, and the namespace from which.
    fn onward(&self, named: Vec<IpAddr>) -> Onward {
        let (servers, within) = match named.is_empty() {
            true => (self.upstream.servers(), None),
            false => (named, self.within.clone()),
        };
        let servers = servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
        Onward { servers, within }
    }

    /// Who asks, for the count of their places: one who may choose among addresses is one.
    fn asker(&self, from: SocketAddr) -> IpAddr {
        match self.within {
            Some(_) => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            None => from.ip(),
        }
    }
}

async fn datagrams(socket: Arc<UdpSocket>, resolver: Arc<Resolver>) {
    let mut bytes = [0; DATAGRAM];
    let mut failed = false;
    loop {
        let (length, from) = match socket.recv_from(&mut bytes).await {
            Ok(received) => received,
            Err(_) => {
                // One error is that of an earlier answer (ICMP unreachable): the next is
                // fine. Of one after the other nothing good comes at once.
                if std::mem::replace(&mut failed, true) {
                    tokio::time::sleep(REST).await;
                }
                continue;
            }
        };
        failed = false;
        let query = &bytes[..length];
        match resolver.look(query, from, SHORT) {
            Answer::Ignore => {}
            Answer::Reply(reply) => {
                let _ = socket.try_send_to(&reply, from);
            }
            Answer::Forward(named) => {
                // Too many wait already: the client asks again.
                let Some(place) = resolver.places.take(resolver.asker(from)) else { continue };
                let (query, socket) = (query.to_vec(), Arc::clone(&socket));
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move {
                    let reply = match resolver.onward(named).ask(&query).await {
                        Some(reply) => Some(reply),
                        None => failure(&query),
                    };
                    if let Some(reply) = reply {
                        let _ = socket.send_to(&reply, from).await;
                    }
                    drop(place);
                });
            }
        }
    }
}

/// Servers that know more.
struct Onward {
    servers: Vec<SocketAddr>,
    /// The network namespace from which they are asked; our own without one.
    within: Option<Arc<OwnedFd>>,
}

impl Onward {
    /// A socket in that namespace; within a runtime.
    async fn socket(&self, server: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = move || rustix::net::socket_with(family, kind, flags, None);
        let Some(netns) = self.within.clone() else { return Ok(open()?) };
        // Namespaces belong to a thread: it takes one.
        let opened = tokio::task::spawn_blocking(move || {
            netns::inside(netns.as_fd(), || {
                open().map_err(|error| Error::new("open", "a socket in a container", error))
            })
        });
        opened.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Asks one server after the other by UDP, from a port that the kernel chooses anew
    /// each time: an answer can't be guessed (RFC 5452).
    async fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        for server in &self.servers {
            let asked = timeout(PATIENCE, async {
                let socket = self.socket(*server, SocketType::DGRAM).await?;
                let socket = UdpSocket::from_std(socket.into())?;
                socket.connect(server).await?;
                socket.send(query).await?;
                let mut bytes = vec![0; DATAGRAM];
                loop {
                    let length = socket.recv(&mut bytes).await?;
                    // Its number must be that of the question.
                    if length >= 12 && bytes[..2] == query[..2] {
                        bytes.truncate(length);
                        return io::Result::Ok(bytes);
                    }
                }
            });
            if let Ok(Ok(reply)) = asked.await {
                return Some(reply);
            }
        }
        None
    }

    async fn ask_by_tcp(&self, query: &[u8]) -> Option<Vec<u8>> {
        for server in &self.servers {
            let asked = timeout(PATIENCE, async {
                let socket = self.socket(*server, SocketType::STREAM).await?;
                let mut stream = TcpSocket::from_std_stream(socket.into()).connect(*server).await?;
                stream.write_u16(u16::try_from(query.len()).map_err(io::Error::other)?).await?;
                stream.write_all(query).await?;
                let mut reply = vec![0; usize::from(stream.read_u16().await?)];
                stream.read_exact(&mut reply).await?;
                io::Result::Ok(reply)
            });
            if let Ok(Ok(reply)) = asked.await {
                return Some(reply);
            }
        }
        None
    }
}

async fn connections(listener: TcpListener, resolver: Arc<Resolver>) {
    let places = Places::new();
    loop {
        let Ok(one) = Arc::clone(&places.all).acquire_owned().await else { return };
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let Some(place) = places.share(resolver.asker(from), one) else { continue };
        let resolver = Arc::clone(&resolver);
        tokio::spawn(async move {
            // Who says nothing for long makes room for others.
            let _ = timeout(PATIENCE * 3, conversation(stream, from, &resolver)).await;
            drop(place);
        });
    }
}

async fn conversation(
    mut stream: TcpStream,
    from: SocketAddr,
    resolver: &Resolver,
) -> io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let reply = match resolver.look(&query, from, usize::from(u16::MAX)) {
            Answer::Ignore => return Ok(()),
            Answer::Reply(reply) => Some(reply),
            Answer::Forward(named) => match resolver.onward(named).ask_by_tcp(&query).await {
                Some(reply) => Some(reply),
                None => failure(&query),
            },
        };
        let Some(reply) = reply else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&reply).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_much_leaves_places_to_others() {
        let places = Places::new();
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut greedy: Vec<Place> = std::iter::from_fn(|| places.take(ip(2))).collect();
        assert_eq!(greedy.len(), AT_ONCE_EACH);
        assert!(places.take(ip(3)).is_some());
        greedy.pop();
        // The same container by its other notation.
        let mapped = IpAddr::V6("::ffff:10.0.0.2".parse().unwrap());
        let again = places.take(mapped);
        assert!(again.is_some() && places.take(ip(2)).is_none());
        drop((greedy, again));
        assert!(places.each.lock().unwrap().is_empty());
        let all: Vec<Place> = (0..=u8::MAX).flat_map(|last| places.take(ip(last))).collect();
        assert_eq!(all.len(), AT_ONCE);
        assert!(places.take(ip(1)).is_none());
    }
}
