//! `/auth` and `/distribution/{name}/json`: what a registry says of a login and of a
//! name, without anything being pulled.

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::body;
use super::images::refused;
use super::respond::{Answer, failure, json as as_json};
use super::transfer::{login, login_of};
use crate::engine::handle::Handle;
use crate::image::config::ImageConfig;
use crate::image::document::Document;
use crate::image::progress::{Reporter, silent};
use crate::image::{Error, Kind, Reference};

/// Docker's own registry under its old name, and URLs, as clients send them.
fn registry_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// Tries a login; nothing is kept here, that is the client's part.
pub async fn auth(handle: &Handle, body: Incoming) -> Answer {
    let asked: Value = match body::read(body).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    let Some(login) = login_of(&asked) else {
        return failure(StatusCode::BAD_REQUEST, "a name and a password, or a token, are missing");
    };
    let registry = registry_of(asked["serveraddress"].as_str().unwrap_or_default());
    let tried = async { handle.images.client()?.check_login(&registry, login).await };
    match tried.await {
        Ok(()) => as_json(&json!({ "Status": "Login Succeeded", "IdentityToken": "" })),
        Err(error) if error.kind() == Kind::Denied => {
            failure(StatusCode::UNAUTHORIZED, &error.to_string())
        }
        Err(error) => refused(&error),
    }
}

/// What a registry has under a name: digest, size and platforms.
pub async fn distribution(handle: &Handle, head: &Parts, name: &str) -> Answer {
    let login = match login(head) {
        Ok(login) => login,
        Err(message) => return failure(StatusCode::BAD_REQUEST, &message),
    };
    let asked = async {
        let name: Reference = name.parse()?;
        let mut client = handle.images.client()?;
        if let Some(login) = login {
            client = client.with_login(name.registry(), login);
        }
        let reporter = Reporter::new(&silent(), None);
        let found = client.manifest(&name, &reporter).await?;
        let document = Document::parse(&found.bytes, found.media_type.as_deref())?;
        let platforms: Vec<Value> = match &document {
            Document::Index(index) => {
                let known = index.manifests.iter().filter_map(|m| m.platform.as_ref());
                known.map(|platform| serde_json::to_value(platform).unwrap_or_default()).collect()
            }
            // A single image says it in its configuration alone.
            Document::Manifest(manifest) => {
                let bytes = client.config(&name, manifest, &reporter).await?;
                let platform = ImageConfig::parse(&bytes)?.platform();
                vec![serde_json::to_value(platform).unwrap_or_default()]
            }
        };
        Ok::<_, Error>(json!({
            "Descriptor": {
                "mediaType": found.media_type,
                "digest": found.digest.to_string(),
                "size": found.bytes.len(),
            },
            "Platforms": platforms,
        }))
    };
    match asked.await {
        Ok(answer) => as_json(&answer),
        Err(error) if error.kind() == Kind::Denied => {
            failure(StatusCode::UNAUTHORIZED, &error.to_string())
        }
        Err(error) => refused(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_by_their_host() {
        assert_eq!(registry_of("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(registry_of("127.0.0.1:5000"), "127.0.0.1:5000");
    }
}
