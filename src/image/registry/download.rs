//! A file from a URL, for `import`.

use bytes::Bytes;
use futures_util::Stream;
use reqwest::Url;

use super::Client;
use super::endpoint::{client, host_and_port};
use crate::image::{Error, Kind};

impl Client {
    /// The body of what an `http` or `https` URL names, with the certificates that
    /// `registries.toml` has for its host.
    ///
    /// # Errors
    /// If the URL is malformed, the host can't be reached or answers with a failure.
    pub async fn download(
        &self,
        url: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + use<>, Error> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(parsed) = parsed else {
            return Err(Error::new(Kind::Invalid, format!("{url:?} is no http or https URL")));
        };
        let host = host_and_port(&parsed);
        let http = client(&self.settings().of(&host), &host, parsed.scheme() == "http")?;
        let failed = |error: reqwest::Error| {
            let cause = crate::image::error::root_cause(&error);
            Error::caused(Kind::Unavailable, format!("cannot download {url}: {cause}"), error)
        };
        let answer = http.get(parsed).send().await.map_err(failed)?;
        Ok(answer.error_for_status().map_err(failed)?.bytes_stream())
    }
}
