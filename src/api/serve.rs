//! Connections: how many there may be, how long they may take, which of them go when
//! there is no room, and what each may do.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::plain::Plain;
use super::respond::Answer;
use super::seats::{Admission, Seats};
use super::unix::{Client, Reader, Writer};
use super::{readonly, route};
use crate::engine::handle::Handle;
use crate::sys::readiness::Hangup;
use crate::sys::rights;

/// A client that has not sent its request's head by then is hung up on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of a head that is buffered.
const HEAD_MAX: usize = 32 << 10;
/// So many connections there may be at once on a socket. For one more the one goes that
/// has been silent the longest; where something is under way on all, it waits.
const CONNECTIONS: usize = 4096;
/// So many of them a user of the read-only socket may have; root may have all.
const CONNECTIONS_OF_ONE: usize = 256;
/// So many clients may be in the middle of a handshake of TLS; for one more the one goes
/// that is at it the longest. And how long it may take.
const HANDSHAKES: usize = 64;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a socket's clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything: they are root.
    Full,
    /// Look, without what may be secret.
    ReadOnly,
}

/// Serves a unix socket until the runtime ends.
///
/// # Errors
/// The listener can't be used.
pub async fn serve(listener: UnixListener, handle: Handle, access: Access) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    rights::refuse(listener.as_fd());
    let server = Server::new(handle, access);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let user = stream.peer_cred().map(|peer| peer.uid()).ok();
                let bounded = access == Access::ReadOnly && user != Some(0);
                match server.seat(user.filter(|_| bounded)).await {
                    Some(seat) => drop(server.take(seat, async move {
                        let client = Client::new(stream).ok()?;
                        let hangup = Hangup::of(client.as_fd()).ok()?;
                        Some((client, Some(hangup)))
                    })),
                    // If there is no room for a word either, the end says it.
                    None => drop(stream.try_write(TOO_MANY)),
                }
                // What it has sent already is read before it can count as silent for
                // the next one.
                tokio::task::yield_now().await;
            }
            Err(error) => out_of_room(&error).await,
        }
    }
}

/// Said to a user who has as many connections as one may.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    connection: close\r\ncontent-length: 53\r\n\r\n\
    {\"message\":\"you have too many connections to Berth\"}\n";

/// Serves TCP, with TLS, to clients with a certificate that `tls` knows.
///
/// # Errors
/// The listener can't be used.
pub async fn serve_tls(
    listener: std::net::TcpListener,
    handle: Handle,
    tls: TlsAcceptor,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let server = Server::new(handle, Access::Full);
    let strangers: Shared = Arc::new(Mutex::new(Seats::new(HANDSHAKES, HANDSHAKES)));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let _ = keep_alive(&stream);
                let Some(seat) = server.seat(None).await else { continue };
                let admission = locked(&strangers).admit(None);
                let Admission::Seat(stranger, slowest) = admission else { continue };
                if let Some(slowest) = slowest {
                    slowest.abort();
                }
                let stranger =
                    Seat { seats: strangers.clone(), key: stranger, freed: Arc::default() };
                let key = stranger.key;
                let handshake = tls.accept(stream);
                let task = server.take(seat, async move {
                    let shaken = tokio::time::timeout(HANDSHAKE, handshake).await;
                    drop(stranger);
                    match shaken {
                        // Over TCP a client that is gone looks like one that only sends
                        // nothing more: its end is taken for the former.
                        Ok(Ok(stream)) => Some((stream, None)),
                        Ok(Err(error)) => {
                            tracing::warn!("a client of the API from {peer}: {error}");
                            None
                        }
                        Err(_) => None,
                    }
                });
                locked(&strangers).sit(key, task);
            }
            Err(error) => out_of_room(&error).await,
        }
    }
}

/// A client that went without a word is noticed within two minutes, also on a connection
/// that is quiet (tcp(7)).
fn keep_alive(stream: &tokio::net::TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
    };
    set_tcp_keepidle(stream, Duration::from_secs(60))?;
    set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    set_tcp_keepcnt(stream, 4)?;
    set_socket_keepalive(stream, true)
}

/// No descriptors left: those that are served give some back.
async fn out_of_room(error: &io::Error) {
    tracing::warn!("accepting a client: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

type Shared = Arc<Mutex<Seats<AbortHandle>>>;

fn locked(seats: &Shared) -> std::sync::MutexGuard<'_, Seats<AbortHandle>> {
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A seat, until this is dropped.
#[derive(Debug)]
struct Seat {
    seats: Shared,
    key: u64,
    /// Told to one that waits for a seat.
    freed: Arc<Notify>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _connection = locked(&self.seats).leave(self.key);
        self.freed.notify_one();
    }
}

/// A connection with its seat, which it keeps also as a hijacked one.
#[derive(Debug)]
pub struct Seated<S> {
    stream: S,
    seat: Arc<Seat>,
    plain: Plain,
}

impl<S> Seated<S> {
    fn new(stream: S, seat: Arc<Seat>) -> Self {
        Seated { stream, seat, plain: Plain::default() }
    }

    /// The connection itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl Seated<Client> {
    /// Both directions, each of which keeps the seat.
    pub fn into_split(self) -> (Seated<Reader>, Seated<Writer>) {
        let (reader, writer) = self.stream.into_split();
        // What is sent from here on is no request and no answer.
        let plain = Plain::over;
        let seat = Arc::clone(&self.seat);
        let reader = Seated { stream: reader, seat, plain: plain() };
        (reader, Seated { stream: writer, seat: self.seat, plain: plain() })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Seated { stream, plain, .. } = self.get_mut();
        plain.poll_read(stream, context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Seated { stream, plain, .. } = self.get_mut();
        match plain.poll_write(stream, context, bytes) {
            Some(written) => written,
            None => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Seated { stream, plain, .. } = self.get_mut();
        let first = slices.iter().find(|slice| !slice.is_empty());
        match first.and_then(|first| plain.poll_write(stream, context, first)) {
            Some(written) => written,
            None => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }
}

/// A request is under way, from its head until its answer is out.
struct Speaking {
    seat: Arc<Seat>,
    /// The connection goes on in another protocol, and is never silent again.
    goes_on: bool,
}

impl Speaking {
    fn on(seat: Arc<Seat>) -> Self {
        locked(&seat.seats).speak(seat.key);
        Speaking { seat, goes_on: false }
    }

    /// The answer, which ends this with its own end.
    fn with(mut self, answer: Answer) -> Answer {
        self.goes_on = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        answer.map(|body| Spoken { body, _speaking: self }.boxed_unsync())
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        if !self.goes_on {
            locked(&self.seat.seats).fall_silent(self.seat.key);
            self.seat.freed.notify_one();
        }
    }
}

/// An answer's body.
struct Spoken<B> {
    body: B,
    _speaking: Speaking,
}

impl<B: Body<Data = Bytes, Error = io::Error> + Unpin> Body for Spoken<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Server {
    handle: Handle,
    access: Access,
    seats: Shared,
    freed: Arc<Notify>,
}

impl Server {
    fn new(handle: Handle, access: Access) -> Self {
        let seats = Arc::new(Mutex::new(Seats::new(CONNECTIONS, CONNECTIONS_OF_ONE)));
        Server { handle, access, seats, freed: Arc::default() }
    }

    /// A seat for one more connection; none for a user who has too many.
    async fn seat(&self, user: Option<u32>) -> Option<Seat> {
        loop {
            let admission = locked(&self.seats).admit(user);
            match admission {
                Admission::Seat(key, silent) => {
                    if let Some(silent) = silent {
                        silent.abort();
                    }
                    let (seats, freed) = (self.seats.clone(), self.freed.clone());
                    return Some(Seat { seats, key, freed });
                }
                Admission::TooMany => return None,
                // Nobody is hung up on in the middle of something: it waits, also for
                // one that falls silent.
                Admission::Full => self.freed.notified().await,
            }
        }
    }

    /// Serves what `connect` gives, on a task of its own. Where it tells when its client is
    /// gone, one that only sends nothing more is answered.
    fn take<S>(
        &self,
        seat: Seat,
        connect: impl Future<Output = Option<(S, Option<Hangup>)>> + 'static,
    ) -> AbortHandle
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (handle, access) = (self.handle.clone(), self.access);
        let (key, seat) = (seat.key, Arc::new(seat));
        let task = tokio::task::spawn_local(async move {
            let Some((stream, hangup)) = connect.await else { return };
            let stream = Seated::new(stream, Arc::clone(&seat));
            let service = service_fn(move |request| {
                let speaking = Speaking::on(Arc::clone(&seat));
                let handle = handle.clone();
                async move {
                    let answer = match access {
                        Access::Full => route::answer(handle, request).await,
                        Access::ReadOnly => readonly::answer(handle, request).await,
                    };
                    Ok::<_, Infallible>(speaking.with(answer))
                }
            });
            // What a client does wrong ends its connection and nothing else.
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_MAX)
                .half_close(hangup.is_some())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            match hangup {
                // What it sent before it left is read first.
                Some(hangup) => tokio::select! {
                    biased;
                    _ = served => {}
                    () = hangup.wait() => {}
                },
                None => drop(served.await),
            }
        });
        let task = task.abort_handle();
        locked(&self.seats).sit(key, task.clone());
        task
    }
}
