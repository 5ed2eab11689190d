//! What a client of the read-only socket may ask: what is there and how it does.
//! Everybody on the machine may, so nothing is answered that can hold a secret: no
//! files, no output, no environment, and nothing is changed.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::respond::{Answer, failure};
use super::route;
use crate::engine::handle::Handle;

/// Answers one request of such a client.
pub async fn answer(handle: Handle, request: Request<Incoming>) -> Answer {
    let path = route::path(&request);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let looks = [Method::GET, Method::HEAD].contains(request.method());
    if !looks || !is_open(&parts) {
        let message = "this socket is for looking only, and not at what may be secret; use \
                       berth.sock as root or in the group berth";
        super::body::discard(request.into_body()).await;
        return failure(StatusCode::FORBIDDEN, message);
    }
    route::answer(handle.without_secrets(), request).await
}

fn is_open(parts: &[&str]) -> bool {
    matches!(
        parts,
        ["_ping" | "version" | "info" | "events"]
            | ["system", "df"]
            | ["containers", "json"]
            | ["containers", _, "json" | "stats" | "top" | "changes"]
            | ["images", "json"]
            | ["images", .., "history"]
            | ["networks" | "volumes"]
            | ["networks" | "volumes", _]
            | ["berth", "containers"]
            | ["berth", "containers", _]
            | ["berth", "containers", _, "stats"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_no_secret_is_open() {
        let open = |path: &str| {
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            is_open(&parts)
        };
        for path in ["/_ping", "/containers/json", "/containers/web/stats", "/images/a/b/history"] {
            assert!(open(path), "{path}");
        }
        for path in [
            "/containers/web/logs",
            "/containers/web/archive",
            "/containers/web/export",
            "/containers/web/attach/ws",
            "/images/get",
            "/images/web/json",
            "/images/web/get",
            "/exec/x/json",
            "/berth/plan",
            "/",
        ] {
            assert!(!open(path), "{path}");
        }
    }
}
