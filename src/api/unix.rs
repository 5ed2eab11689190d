//! A client's connection over a unix socket. It may send descriptors, and nobody here wants
//! any ([`crate::sys::rights`]): where the kernel does not refuse them, each read looks
//! first, and whoever sends one is hung up on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::sys::rights;

/// A connection.
#[derive(Debug)]
pub struct Client {
    // Closed before the guard, so that this is never what closes it for good.
    stream: UnixStream,
    guard: Option<Guard>,
}

/// The reading side.
#[derive(Debug)]
pub struct Reader {
    half: OwnedReadHalf,
    guard: Option<Guard>,
}

/// The writing side; dropped, the client reads an end.
#[derive(Debug)]
pub struct Writer {
    half: OwnedWriteHalf,
    _guard: Option<Guard>,
}

/// Closes the connection when all sides are dropped.
type Guard = Arc<Closing>;

#[derive(Debug)]
struct Closing(Option<OwnedFd>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(rights::close);
    }
}

impl Client {
    /// Over an accepted connection.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let guard = match rights::refuse(stream.as_fd()) {
            true => None,
            false => Some(Arc::new(Closing(Some(stream.as_fd().try_clone_to_owned()?)))),
        };
        Ok(Client { stream, guard })
    }

    /// Its two sides.
    pub fn into_split(self) -> (Reader, Writer) {
        let (read, write) = self.stream.into_split();
        let _guard = self.guard.clone();
        (Reader { half: read, guard: self.guard }, Writer { half: write, _guard })
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Reads what is there; of a guarded connection nothing that comes with descriptors.
fn read(
    stream: &UnixStream,
    guard: Option<&Guard>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(context))?;
        let read = stream.try_io(Interest::READABLE, || {
            let room = buffer.initialize_unfilled();
            if guard.is_none() {
                return Ok(rustix::io::read(stream, room)?);
            }
            let (len, has_fds) = rights::peek(stream.as_fd(), room)?;
            if has_fds {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were sent"));
            }
            let room = room.get_mut(..len).unwrap_or_default();
            Ok(if len == 0 { 0 } else { rustix::io::read(stream, room)? })
        });
        match read {
            Ok(len) => {
                buffer.advance(len);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        read(&self.stream, self.guard.as_ref(), context, buffer)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        read(self.half.as_ref(), self.guard.as_ref(), context, buffer)
    }
}

macro_rules! write_to {
    ($type:ty, $field:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$field).poll_write(context, bytes)
            }

            fn poll_flush(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$field).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$field).poll_shutdown(context)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
                parts: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$field).poll_write_vectored(context, parts)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }
        }
    };
}

write_to!(Client, stream);
write_to!(Writer, half);

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// As on a kernel that does not refuse them.
    #[tokio::test]
    async fn whoever_sends_a_descriptor_is_hung_up_on() {
        let (ours, mut its) = UnixStream::pair().unwrap();
        let copy = ours.as_fd().try_clone_to_owned().unwrap();
        let guard = Some(Arc::new(Closing(Some(copy))));
        let mut client = Client { stream: ours, guard };
        its.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 64];
        assert_eq!(client.read(&mut bytes).await.unwrap(), 5);
        let (mut reader, mut writer) = client.into_split();
        writer.write_all(b"well").await.unwrap();
        assert_eq!(its.read(&mut bytes).await.unwrap(), 4);
        let (end, sent) = io::pipe().unwrap();
        {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = [sent.as_fd()];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
            let text = [io::IoSlice::new(b"take this")];
            rustix::net::sendmsg(&its, &text, &mut ancillary, SendFlags::empty()).unwrap();
        }
        drop(sent);
        let refused = reader.read(&mut bytes).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        drop((reader, writer));
        // Another thread closes it.
        let closed = tokio::task::spawn_blocking(|| io::read_to_string(end)).await.unwrap();
        assert_eq!(closed.unwrap(), "");
        assert_eq!(its.read(&mut bytes).await.unwrap_or(0), 0);
    }
}
