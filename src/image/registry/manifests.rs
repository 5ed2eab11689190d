//! Manifests and indexes, got and put.

use reqwest::StatusCode;

use super::client::{Client, Failures, header, read_limited, refused, scope};
use super::endpoint::Endpoint;
use crate::image::document::{MANIFEST_MAX, media};
use crate::image::progress::{Reporter, Status};
use crate::image::{Digest, Error, Kind, Reference};

const DIGEST: &str = "docker-content-digest";

/// A manifest or an index as a registry gave it.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What the registry says it is.
    pub media_type: Option<String>,
    /// The digest of the bytes.
    pub digest: Digest,
}

impl Client {
    /// Gets a manifest or an index, by the reference's digest or else its tag.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Denied`], [`Kind::TooLarge`], and
    /// [`Kind::Corrupt`] if the content has not the digest that was asked for.
    pub async fn manifest(&self, name: &Reference, reporter: &Reporter) -> Result<Fetched, Error> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints(name.registry(), false)? {
            match self.manifest_from(&endpoint, name, reporter).await {
                Ok(fetched) => return Ok(fetched),
                Err(e) => failures.add(&endpoint, e),
            }
        }
        Err(failures.last(name))
    }

    async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        name: &Reference,
        reporter: &Reporter,
    ) -> Result<Fetched, Error> {
        let what = format!("get the manifest of {}", name.familiar());
        let url = endpoint.url(name, &format!("manifests/{}", name.selector()))?;
        let scopes = [scope(name, "pull")];
        let mut failed = 0;
        loop {
            let response = self
                .send(endpoint, &scopes, &what, reporter, || {
                    endpoint.http.get(url.clone()).header("accept", accept())
                })
                .await?;
            if response.status() != StatusCode::OK {
                return Err(refused(response, &what, &endpoint.registry).await);
            }
            let said = header(response.headers(), DIGEST).and_then(|text| text.parse().ok());
            let media_type = header(response.headers(), "content-type").map(str::to_owned);
            let bytes = match read_limited(response, MANIFEST_MAX).await {
                Ok(bytes) => bytes,
                Err(e) => {
                    failed += 1;
                    if e.kind() != Kind::Unavailable || failed >= self.retry().attempts {
                        return Err(e.context(format_args!("cannot {what}")));
                    }
                    self.pause(failed, None, &e, reporter).await;
                    continue;
                }
            };
            let digest = Digest::of(&bytes);
            let wanted: Option<Digest> = name.digest().or(said);
            if wanted.is_some_and(|wanted| wanted != digest) {
                return Err(Error::corrupt(format!(
                    "cannot {what}: {} gave content with the digest {digest}",
                    endpoint.registry
                )));
            }
            return Ok(Fetched { bytes, media_type, digest });
        }
    }

    /// The digest that a tag has in the registry now, without getting the manifest.
    ///
    /// # Errors
    /// As [`Client::manifest`].
    pub async fn digest(&self, name: &Reference, reporter: &Reporter) -> Result<Digest, Error> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints(name.registry(), false)? {
            match self.digest_from(&endpoint, name, reporter).await {
                Ok(Some(digest)) => return Ok(digest),
                Ok(None) => return Ok(self.manifest(name, reporter).await?.digest),
                Err(e) => failures.add(&endpoint, e),
            }
        }
        Err(failures.last(name))
    }

    async fn digest_from(
        &self,
        endpoint: &Endpoint,
        name: &Reference,
        reporter: &Reporter,
    ) -> Result<Option<Digest>, Error> {
        let what = format!("ask for {}", name.familiar());
        let url = endpoint.url(name, &format!("manifests/{}", name.selector()))?;
        let scopes = [scope(name, "pull")];
        let response = self
            .send(endpoint, &scopes, &what, reporter, || {
                endpoint.http.head(url.clone()).header("accept", accept())
            })
            .await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response, &what, &endpoint.registry).await);
        }
        Ok(header(response.headers(), DIGEST).and_then(|text| text.parse().ok()))
    }

    /// Puts a manifest under the reference's tag, or its digest.
    ///
    /// # Errors
    /// [`Kind::Denied`], or what the registry complains of.
    pub async fn put_manifest(
        &self,
        name: &Reference,
        media_type: &str,
        bytes: &[u8],
        reporter: &Reporter,
    ) -> Result<(), Error> {
        let what = format!("put the manifest of {}", name.familiar());
        let scopes = [scope(name, "pull,push")];
        for endpoint in self.endpoints(name.registry(), true)? {
            let url = endpoint.url(name, &format!("manifests/{}", name.selector()))?;
            let response = self
                .send(&endpoint, &scopes, &what, reporter, || {
                    endpoint
                        .http
                        .put(url.clone())
                        .header("content-type", media_type)
                        .body(bytes.to_vec())
                })
                .await?;
            if !response.status().is_success() {
                return Err(refused(response, &what, &endpoint.registry).await);
            }
        }
        reporter.tell(Status::Note(format!(
            "{}: digest: {} size: {}",
            name.selector(),
            Digest::of(bytes),
            bytes.len()
        )));
        Ok(())
    }
}

fn accept() -> String {
    [media::OCI_MANIFEST, media::OCI_INDEX, media::DOCKER_MANIFEST, media::DOCKER_LIST].join(", ")
}
