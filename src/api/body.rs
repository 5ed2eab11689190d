//! JSON bodies of requests: bounded, and their errors in Docker's words.

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::respond::{Answer, failure};

/// Larger than anything that the API's types can sensibly be.
const MOST: usize = 4 << 20;
/// A body that has not come by then is not waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Reads a body whole and parses it; an empty one is `{}`.
///
/// # Errors
/// The answer that says what is wrong with it.
pub async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Box<Answer>> {
    let refuse = |status, message: &str| Box::new(failure(status, message));
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, MOST).collect()).await;
    let bytes = match collected {
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
        Ok(Err(error)) => {
            let status = match error.is::<http_body_util::LengthLimitError>() {
                true => StatusCode::PAYLOAD_TOO_LARGE,
                false => StatusCode::BAD_REQUEST,
            };
            return Err(refuse(status, &format!("reading the body: {error}")));
        }
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    let text: &[u8] = match bytes.trim_ascii() {
        b"" | b"null" => b"{}",
        text => text,
    };
    serde_json::from_slice(text).map_err(|error| {
        refuse(StatusCode::BAD_REQUEST, &format!("invalid JSON: {error}"))
    })
}
