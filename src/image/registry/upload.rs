//! Blobs to a registry (distribution-spec, push): not sent if it has them, taken
//! over from another of its repositories if it can, resumed if the way breaks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Body, Response, StatusCode, Url};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::client::{Client, header, refused, scope};
use super::endpoint::Endpoint;
use crate::image::document::Descriptor;
use crate::image::progress::{Reporter, Status};
use crate::image::{Error, Kind, Reference};

/// One blob to be sent.
pub struct Upload<'a> {
    /// Whereto.
    pub name: &'a Reference,
    /// What.
    pub blob: &'a Descriptor,
    /// Where its content lies.
    pub path: &'a Path,
    /// A repository of the same registry that should have it.
    pub mount_from: Option<&'a Reference>,
    /// The greatest piece, in bytes; `None` sends all at once, unless the registry
    /// asks for pieces.
    pub chunk: Option<u64>,
}

/// How a blob came to be in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Had,
    /// It was taken from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

impl Client {
    /// Sees to it that the registry has the blob.
    ///
    /// # Errors
    /// [`Kind::Denied`], or what the registry complains of.
    pub async fn upload(
        &self,
        upload: &Upload<'_>,
        reporter: &mut Reporter,
    ) -> Result<Uploaded, Error> {
        let mut answer = Uploaded::Had;
        for endpoint in self.endpoints(upload.name.registry(), true)? {
            answer = self.upload_to(&endpoint, upload, reporter).await?;
        }
        Ok(answer)
    }

    async fn upload_to(
        &self,
        endpoint: &Endpoint,
        upload: &Upload<'_>,
        reporter: &mut Reporter,
    ) -> Result<Uploaded, Error> {
        let digest = upload.blob.digest;
        let name = upload.name;
        let what = format!("push the blob {} to {}", digest.short(), name.familiar_name());
        let mut scopes = vec![scope(name, "pull,push")];
        let url = endpoint.url(name, &format!("blobs/{digest}"))?;
        let head = self
            .send(endpoint, &scopes, &what, reporter, || endpoint.http.head(url.clone()))
            .await?;
        match head.status() {
            StatusCode::OK => return Ok(Uploaded::Had),
            StatusCode::NOT_FOUND => {}
            _ => return Err(refused(head, &what, &endpoint.registry).await),
        }
        let mut begin = endpoint.url(name, "blobs/uploads/")?;
        let from = upload.mount_from.filter(|from| {
            from.registry() == name.registry() && from.repository() != name.repository()
        });
        if let Some(from) = from {
            begin
                .query_pairs_mut()
                .append_pair("mount", &digest.to_string())
                .append_pair("from", from.repository());
            scopes.push(scope(from, "pull"));
        }
        let begun = self.begin(endpoint, &scopes, &what, &begin, reporter).await?;
        if begun.status() == StatusCode::CREATED {
            return Ok(Uploaded::Mounted);
        }
        // Without a mount, or when it was refused, an upload has begun.
        let asked = header(begun.headers(), "oci-chunk-min-length").and_then(|n| n.parse().ok());
        let chunk = match (upload.chunk, asked) {
            (Some(own), Some(asked)) => Some(own.max(asked)),
            (own, _) => own,
        }
        .unwrap_or(u64::MAX)
        .max(1);
        let session = Session { client: self, endpoint, scopes: &scopes[..1], what: &what, upload };
        session.run(location(endpoint, &begun)?, chunk, reporter).await?;
        Ok(Uploaded::Sent)
    }

    async fn begin(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        what: &str,
        url: &Url,
        reporter: &Reporter,
    ) -> Result<Response, Error> {
        let response = self
            .send(endpoint, scopes, what, reporter, || {
                endpoint.http.post(url.clone()).header(CONTENT_LENGTH, "0")
            })
            .await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED => Ok(response),
            _ => Err(refused(response, what, &endpoint.registry).await),
        }
    }
}

/// One upload's state in the registry.
struct Session<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    scopes: &'a [String],
    what: &'a str,
    upload: &'a Upload<'a>,
}

impl Session<'_> {
    /// Sends all from wherever the registry is, then closes the upload.
    async fn run(&self, at: Url, chunk: u64, reporter: &mut Reporter) -> Result<(), Error> {
        let size = self.upload.blob.size;
        let (mut at, mut offset, mut failed, mut gained) = (at, 0, 0, 0);
        loop {
            let sent = self.send_from(&mut at, &mut offset, chunk, reporter).await;
            let error = match sent {
                Ok(()) => match self.close(&at, reporter).await {
                    Ok(()) => return Ok(()),
                    Err(e) => e,
                },
                Err(e) => e,
            };
            if error.kind() != Kind::Unavailable {
                return Err(error);
            }
            // Only failures without a gain between them count up.
            failed = if offset > gained { 1 } else { failed + 1 };
            gained = gained.max(offset);
            if failed >= self.client.retry().attempts {
                return Err(error);
            }
            self.client.pause(failed, None, &error, reporter).await;
            match self.status(&mut at, reporter).await? {
                Some(there) => offset = there.min(size),
                None => {
                    // The registry forgot the upload, or finished it unheard.
                    if self.is_there(reporter).await? {
                        return Ok(());
                    }
                    let begin = self.endpoint.url(self.upload.name, "blobs/uploads/")?;
                    let begun = self
                        .client
                        .begin(self.endpoint, self.scopes, self.what, &begin, reporter)
                        .await?;
                    at = location(self.endpoint, &begun)?;
                    (offset, gained) = (0, 0);
                }
            }
        }
    }

    async fn send_from(
        &self,
        at: &mut Url,
        offset: &mut u64,
        chunk: u64,
        reporter: &mut Reporter,
    ) -> Result<(), Error> {
        let size = self.upload.blob.size;
        while *offset < size {
            let length = chunk.min(size - *offset);
            let counted = Arc::new(AtomicU64::new(*offset));
            let body = self.body(*offset, length, &counted).await?;
            let request = self
                .endpoint
                .http
                .patch(at.clone())
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, length)
                .header(CONTENT_RANGE, format!("{}-{}", *offset, *offset + length - 1))
                .body(body);
            let send = self.client.send_once(self.endpoint, self.scopes, self.what, request);
            tokio::pin!(send);
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
            let response = loop {
                tokio::select! {
                    response = &mut send => break response?,
                    _ = tick.tick() => {
                        reporter.count(Status::Pushing, counted.load(Ordering::Relaxed), Some(size));
                    }
                }
            };
            match response.status() {
                status if status.is_success() => {
                    *at = location(self.endpoint, &response)?;
                    *offset += length;
                    reporter.count(Status::Pushing, *offset, Some(size));
                }
                // Where to go on is asked for next.
                StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_FOUND => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("cannot {}: the registry lost its place", self.what),
                    ));
                }
                _ => return Err(refused(response, self.what, &self.endpoint.registry).await),
            }
        }
        Ok(())
    }

    async fn body(
        &self,
        offset: u64,
        length: u64,
        counted: &Arc<AtomicU64>,
    ) -> Result<Body, Error> {
        let fail = |e| Error::io("read", self.upload.path, e);
        let mut file = tokio::fs::File::open(self.upload.path).await.map_err(fail)?;
        file.seek(std::io::SeekFrom::Start(offset)).await.map_err(fail)?;
        let counted = counted.clone();
        let pieces =
            ReaderStream::with_capacity(file.take(length), 128 << 10).inspect_ok(move |piece| {
                counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
            });
        Ok(Body::wrap_stream(pieces))
    }

    async fn close(&self, at: &Url, reporter: &Reporter) -> Result<(), Error> {
        let mut url = at.clone();
        url.query_pairs_mut().append_pair("digest", &self.upload.blob.digest.to_string());
        let response = self
            .client
            .send(self.endpoint, self.scopes, self.what, reporter, || {
                self.endpoint.http.put(url.clone()).header(CONTENT_LENGTH, "0")
            })
            .await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Err(Error::new(
                Kind::Unavailable,
                format!("cannot {}: the registry lost the upload", self.what),
            )),
            _ => Err(refused(response, self.what, &self.endpoint.registry).await),
        }
    }

    /// How many bytes the registry has of the upload; `None` if it knows it no more.
    async fn status(&self, at: &mut Url, reporter: &Reporter) -> Result<Option<u64>, Error> {
        let url = at.clone();
        let response = self
            .client
            .send(self.endpoint, self.scopes, self.what, reporter, || {
                self.endpoint.http.get(url.clone())
            })
            .await?;
        if response.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let Some((_, last)) = header(response.headers(), "range")
            .and_then(|text| text.trim_start_matches("bytes=").split_once('-'))
        else {
            return Ok(None);
        };
        let Ok(last) = last.trim().parse::<u64>() else {
            return Ok(None);
        };
        *at = location(self.endpoint, &response)?;
        // `0-0` is one byte, and what registries say of none: begin anew then.
        Ok((last > 0).then_some(last + 1))
    }

    async fn is_there(&self, reporter: &Reporter) -> Result<bool, Error> {
        let digest = self.upload.blob.digest;
        let url = self.endpoint.url(self.upload.name, &format!("blobs/{digest}"))?;
        let head = self
            .client
            .send(self.endpoint, self.scopes, self.what, reporter, || {
                self.endpoint.http.head(url.clone())
            })
            .await?;
        Ok(head.status() == StatusCode::OK)
    }
}

/// Where an upload goes on. Only on the registry itself: what is sent there has our
/// token with it.
fn location(endpoint: &Endpoint, response: &Response) -> Result<Url, Error> {
    let refuse = |why: &str| {
        Error::new(Kind::Unavailable, format!("{} began an upload {why}", endpoint.registry))
    };
    let text =
        header(response.headers(), "location").ok_or_else(|| refuse("without saying where"))?;
    let url = endpoint.base.join(text).map_err(|_| refuse("at no URL"))?;
    if url.host_str() != endpoint.base.host_str()
        || endpoint.base.scheme() == "https" && url.scheme() != "https"
    {
        return Err(Error::new(
            Kind::Denied,
            format!("{} sends the upload to another host, {url}", endpoint.registry),
        ));
    }
    Ok(url)
}
