//! HTTP on a unix socket: the Docker Engine API where it has a route, `/berth/` for
//! the rest. What comes from a client is hostile: heads and bodies are bounded, a
//! slow reader slows only itself, nobody can make another wait.
//!
//! Called by the engine's start, on its thread; talks to the loop through
//! [`Handle`] alone. Knows nothing of the kernel.

mod attach;
mod body;
mod clone;
mod containers;
pub mod create;
mod events;
mod exec;
mod files;
mod hijack;
mod images;
mod inspect;
mod list;
mod login;
mod logs;
mod model;
mod names;
mod own;
mod respond;
mod route;
mod settings;
mod stats;
mod system;
mod top;
mod transfer;
mod usage;
mod volumes;
mod wait;
mod websocket;

pub(crate) use body::reader_of;
pub use hijack::DetachKeys;
pub use model::{age, command_line, status as status_sentence};

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::engine::handle::Handle;

/// A client that has not sent its request's head by then is hung up on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of a head that is buffered.
const HEAD_MAX: usize = 32 << 10;
/// More connections at once than this wait in the socket's backlog.
const CONNECTIONS: usize = 4096;

/// Serves until the runtime ends.
///
/// # Errors
/// The listener can't be used.
pub async fn serve(listener: UnixListener, handle: Handle) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let room = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = std::sync::Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors left: those that are served give some back.
                tracing::warn!("accepting a client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handle = handle.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let handle = handle.clone();
                async move { Ok::<_, Infallible>(route::answer(handle, request).await) }
            });
            // What a client does wrong ends its connection and nothing else.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            drop(place);
        });
    }
}
