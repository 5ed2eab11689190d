//! A blob's bytes from a registry, over as many connections as it needs.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::image::document::{CONFIG_MAX, Descriptor, Manifest};
use crate::image::progress::{Reporter, Status};
use crate::image::registry::Client;
use crate::image::{Digest, Error, Kind, Reference};

impl Client {
    /// The configuration of an image, into memory, verified.
    ///
    /// # Errors
    /// As [`Client::blob`]; [`Kind::TooLarge`], and [`Kind::Corrupt`] if it has not the
    /// digest that the manifest says.
    pub async fn config(
        &self,
        name: &Reference,
        manifest: &Manifest,
        reporter: &Reporter,
    ) -> Result<Vec<u8>, Error> {
        let blob = &manifest.config;
        if blob.size > CONFIG_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "the configuration of {} has {} bytes, at most {CONFIG_MAX} are read",
                    name.familiar(),
                    blob.size
                ),
            ));
        }
        let mut taker = Taker::Memory(Vec::new());
        self.fetch(name, blob, 0, reporter, &mut taker).await?;
        let Taker::Memory(bytes) = taker else {
            return Ok(Vec::new());
        };
        if Digest::of(&bytes) != blob.digest {
            return Err(Error::corrupt(format!(
                "the configuration of {} has not the digest {}",
                name.familiar(),
                blob.digest
            )));
        }
        Ok(bytes)
    }

    /// Gives a blob's bytes from `offset` on to `take`, over as many connections as
    /// it needs, until all have come or `take` says no more.
    pub(super) async fn fetch(
        &self,
        name: &Reference,
        blob: &Descriptor,
        mut offset: u64,
        reporter: &Reporter,
        taker: &mut Taker,
    ) -> Result<(), Error> {
        let mut failed = 0;
        // An empty blob has a digest too, and is asked for to be sure.
        while offset < blob.size || blob.size == 0 {
            let before = offset;
            let error = match self.blob(name, blob, offset, reporter).await {
                Err(error) => return Err(error),
                Ok(mut stream) => loop {
                    match stream.piece().await {
                        Ok(Some(piece)) => {
                            offset += piece.len() as u64;
                            if !taker.take(piece).await {
                                return Ok(());
                            }
                        }
                        Ok(None) => return Ok(()),
                        Err(error) => break error,
                    }
                },
            };
            if error.kind() != Kind::Unavailable {
                return Err(error);
            }
            failed = if offset > before { 1 } else { failed + 1 };
            if failed >= self.retry().attempts {
                return Err(error);
            }
            self.pause(failed, None, &error, reporter).await;
        }
        Ok(())
    }
}

/// Where fetched bytes go.
pub(super) enum Taker {
    /// Into memory: small blobs.
    Memory(Vec<u8>),
    /// To the thread that writes, and into the count.
    Queue { pieces: mpsc::Sender<Bytes>, counter: Reporter, done: u64, size: u64 },
}

impl Taker {
    /// False if no more are wanted.
    async fn take(&mut self, piece: Bytes) -> bool {
        match self {
            Taker::Memory(bytes) => {
                bytes.extend_from_slice(&piece);
                true
            }
            Taker::Queue { pieces, counter, done, size } => {
                *done += piece.len() as u64;
                counter.count(Status::Downloading, *done, Some(*size));
                pieces.send(piece).await.is_ok()
            }
        }
    }
}
