//! Blobs, streamed from any offset.

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::{Response, StatusCode};

use super::client::{Client, Failures, header, refused, scope};
use super::endpoint::Endpoint;
use crate::image::document::Descriptor;
use crate::image::error::root_cause;
use crate::image::progress::Reporter;
use crate::image::{Digest, Error, Kind, Reference};

/// A blob's bytes, as they come.
pub struct BlobStream {
    response: Response,
    /// Bytes to leave out, where a registry sends all though a part was asked for.
    skip: u64,
    /// Bytes still to come.
    left: u64,
    digest: Digest,
}

impl Client {
    /// Begins to get a blob at `offset`. A reader goes on to [`BlobStream::piece`]
    /// until the end; after an error the rest is asked for by another call.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Denied`]; [`Kind::Corrupt`] if the registry says
    /// another length than the manifest.
    pub async fn blob(
        &self,
        name: &Reference,
        blob: &Descriptor,
        offset: u64,
        reporter: &Reporter,
    ) -> Result<BlobStream, Error> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints(name.registry(), false)? {
            match self.blob_from(&endpoint, name, blob, offset, reporter).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failures.add(&endpoint, e),
            }
        }
        Err(failures.last(name))
    }

    async fn blob_from(
        &self,
        endpoint: &Endpoint,
        name: &Reference,
        blob: &Descriptor,
        offset: u64,
        reporter: &Reporter,
    ) -> Result<BlobStream, Error> {
        let digest = blob.digest;
        let what = format!("get the blob {} of {}", digest.short(), name.familiar_name());
        let url = endpoint.url(name, &format!("blobs/{digest}"))?;
        let scopes = [scope(name, "pull")];
        let response = self
            .send(endpoint, &scopes, &what, reporter, || {
                // Compression on the way would make lengths and ranges mean nothing.
                let request = endpoint.http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
                match offset {
                    0 => request,
                    offset => request.header(RANGE, format!("bytes={offset}-")),
                }
            })
            .await?;
        let (skip, said) = match response.status() {
            StatusCode::OK => (offset, response.content_length()),
            StatusCode::PARTIAL_CONTENT => {
                let range = header(response.headers(), "content-range").and_then(begin_and_total);
                match range {
                    Some((begin, total)) if begin == offset => (0, total),
                    _ => {
                        return Err(Error::corrupt(format!(
                            "cannot {what}: {} answered with another range than it was asked for",
                            endpoint.registry
                        )));
                    }
                }
            }
            _ => return Err(refused(response, &what, &endpoint.registry).await),
        };
        if let Some(said) = said
            && said != blob.size
        {
            return Err(Error::corrupt(format!(
                "cannot {what}: it has {said} bytes in {}, but {} in its manifest",
                endpoint.registry, blob.size
            )));
        }
        let left = blob.size - offset.min(blob.size);
        Ok(BlobStream { response, skip, left, digest })
    }
}

impl BlobStream {
    /// The next bytes; `None` once all have come.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if the connection breaks or the content ends too soon,
    /// [`Kind::Corrupt`] if it is too long.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let piece = self.response.chunk().await.map_err(|e| {
                let cause = root_cause(&e);
                Error::caused(
                    Kind::Unavailable,
                    format!("the blob {} broke off: {cause}", self.digest.short()),
                    e,
                )
            })?;
            let Some(mut piece) = piece else {
                if self.left > 0 {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("the blob {} ended {} bytes short", self.digest, self.left),
                    ));
                }
                return Ok(None);
            };
            let skip = self.skip.min(piece.len() as u64);
            self.skip -= skip;
            let piece = piece.split_off(usize::try_from(skip).unwrap_or(piece.len()));
            if piece.is_empty() {
                continue;
            }
            self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(|| {
                Error::corrupt(format!("the blob {} is longer than its manifest says", self.digest))
            })?;
            return Ok(Some(piece));
        }
    }
}

/// `bytes 5-9/10` begins at 5 of 10 (RFC 9110, 14.4).
fn begin_and_total(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (begin, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((begin.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::begin_and_total;

    #[test]
    fn ranges_are_read() {
        assert_eq!(begin_and_total("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(begin_and_total("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes */10", "items 1-2/3", "bytes 1/2", "bytes a-b/c"] {
            assert_eq!(begin_and_total(bad), None, "{bad}");
        }
    }
}
