//! The end of a download that writes and unpacks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::image::progress::{Reporter, Sink, Status};
use crate::image::store::{Lease, Partial, Store, UnpackedLayer};
use crate::image::{Digest, Error, Kind};

/// The end of a download that writes, on a thread that may block.
pub(super) struct Receiver {
    pub store: Store,
    pub lease: Arc<Lease>,
    pub diff_id: Digest,
    pub chain_id: Digest,
    pub sink: Sink,
    pub layer: String,
    pub size: u64,
}

impl Receiver {
    /// Gives the layer back if it waits for those below it.
    pub fn receive(
        self,
        mut partial: Partial,
        mut queue: mpsc::Receiver<Bytes>,
        tell_offset: oneshot::Sender<u64>,
    ) -> Result<Option<UnpackedLayer>, Error> {
        let mut counter = Reporter::new(&self.sink, Some(self.layer.clone()));
        let size = self.size;
        let unpacker = match self.store.layer(self.diff_id, self.chain_id) {
            Some(_) => None,
            None => Some(self.store.unpacker(Box::new(move |done| {
                // While bytes still come, that is what counts; then this.
                if done * 10 > size * 9 {
                    counter.count(Status::Extracting, done, Some(size));
                }
            }))?),
        };
        let mut alive = true;
        partial.resume(|piece| {
            if let Some(unpacker) = &unpacker {
                alive = alive && unpacker.push(Bytes::copy_from_slice(piece));
            }
            Ok(())
        })?;
        let _ = tell_offset.send(partial.length());
        let mut ended = false;
        while alive && let Some(piece) = queue.blocking_recv() {
            if piece.is_empty() {
                ended = true;
                break;
            }
            partial.append(&piece)?;
            if let Some(unpacker) = &unpacker {
                alive = unpacker.push(piece);
            }
        }
        // The fetch is over or given up; nobody waits on a full queue.
        drop(queue);
        let reporter = Reporter::new(&self.sink, Some(self.layer.clone()));
        if alive && !ended {
            return Err(Error::new(Kind::Unavailable, "the download was given up"));
        }
        if alive {
            partial.verify()?;
            reporter.tell(Status::Downloaded);
        }
        let mut waiting = None;
        if let Some(unpacker) = unpacker {
            let unpacked = unpacker
                .finish()
                .map_err(|e| e.context(format_args!("the layer {}", self.layer)))?;
            unpacked.check(self.diff_id)?;
            // Only what is verified whole becomes a layer.
            partial.verify()?;
            match unpacked.depends() {
                true => waiting = Some(unpacked),
                false => unpacked.finish(self.chain_id, &[], &self.lease)?,
            }
        }
        partial.publish(&self.lease)?;
        reporter.tell(Status::Complete);
        Ok(waiting)
    }
}
