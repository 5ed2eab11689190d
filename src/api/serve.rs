//! Connections: how many there may be, how long they may take, which of them go when
//! there is no room, and what each may do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::unix::Client;
use super::{readonly, route};
use crate::engine::handle::Handle;
use crate::sys::rights;

/// A client that has not sent its request's head by then is hung up on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of a head that is buffered.
const HEAD_MAX: usize = 32 << 10;
/// So many connections there may be at once on a socket. For one more the one goes that
/// has been silent the longest; where all have asked something, it waits.
const CONNECTIONS: usize = 4096;
/// How long a handshake of TLS may take.
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
        let place = server.place().await;
        match listener.accept().await {
            Ok((stream, _)) => server.take(place, async move { Client::new(stream).ok() }),
            Err(error) => out_of_room(&error).await,
        }
    }
}

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
    loop {
        let place = server.place().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let handshake = tls.accept(stream);
                server.take(place, async move {
                    match tokio::time::timeout(HANDSHAKE, handshake).await {
                        Ok(Ok(stream)) => Some(stream),
                        Ok(Err(error)) => {
                            tracing::warn!("a client of the API from {peer}: {error}");
                            None
                        }
                        Err(_) => None,
                    }
                });
            }
            Err(error) => out_of_room(&error).await,
        }
    }
}

/// No descriptors left: those that are served give some back.
async fn out_of_room(error: &io::Error) {
    tracing::warn!("accepting a client: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Connections that have not asked anything yet, the oldest first.
#[derive(Default)]
struct Silent {
    next: u64,
    tasks: BTreeMap<u64, tokio::task::AbortHandle>,
}

struct Server {
    handle: Handle,
    access: Access,
    room: Arc<Semaphore>,
    silent: Rc<RefCell<Silent>>,
}

impl Server {
    fn new(handle: Handle, access: Access) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        Server { handle, access, room, silent: Rc::default() }
    }

    /// A place for one more connection.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if self.room.available_permits() == 0
            && let Some((_, silent)) = self.silent.borrow_mut().tasks.pop_first()
        {
            silent.abort();
        }
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// Serves what `connect` gives, on a task of its own.
    fn take<S>(
        &self,
        place: Option<OwnedSemaphorePermit>,
        connect: impl Future<Output = Option<S>> + 'static,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (handle, access, silent) = (self.handle.clone(), self.access, self.silent.clone());
        let key = {
            let mut silent = silent.borrow_mut();
            silent.next += 1;
            silent.next
        };
        let heard = silent.clone();
        let task = tokio::task::spawn_local(async move {
            if let Some(stream) = connect.await {
                let service = service_fn(move |request| {
                    heard.borrow_mut().tasks.remove(&key);
                    let handle = handle.clone();
                    async move {
                        let answer = match access {
                            Access::Full => route::answer(handle, request).await,
                            Access::ReadOnly => readonly::answer(handle, request).await,
                        };
                        Ok::<_, Infallible>(answer)
                    }
                });
                // What a client does wrong ends its connection and nothing else.
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(HEAD_MAX)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            }
            silent.borrow_mut().tasks.remove(&key);
            drop(place);
        });
        self.silent.borrow_mut().tasks.insert(key, task.abort_handle());
    }
}
