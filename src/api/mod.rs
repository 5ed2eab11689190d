//! Stub until the room is merged.
/// x
pub async fn serve(_: std::os::unix::net::UnixListener, h: crate::engine::handle::Handle) -> std::io::Result<()> { std::mem::forget(h); Ok(()) }
