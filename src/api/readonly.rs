//! What a client of the read-only socket may ask: what is there and how it does.
//! Everybody on the machine may, so nothing is answered that can hold a secret: no
//! files, no output, no environment (which an image's history tells, too, and a ps(1)
//! that is asked for it), and nothing is changed. What walks over the disk is left out
//! as well: anybody could keep it busy.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::respond::{Answer, failure};
use super::route::{self, Query};
use crate::engine::handle::Handle;

/// Answers one request of such a client.
pub async fn answer(handle: Handle, request: Request<Incoming>) -> Answer {
    let path = route::path(&request);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let looks = [Method::GET, Method::HEAD].contains(request.method());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if !looks || !is_open(&parts, &query) {
        let message = "this socket is for looking only, and not at what may be secret or takes \
                       long; use berth.sock as root or in the group berth";
        super::body::discard(request.into_body()).await;
        return failure(StatusCode::FORBIDDEN, message);
    }
    route::answer(handle.without_secrets(), request).await
}

fn is_open(parts: &[&str], query: &Query) -> bool {
    match parts {
        ["containers", "json"] | ["containers", _, "json"] => !query.is_on("size"),
        ["containers", _, "top"] => query.get("ps_args").is_none(),
        ["_ping" | "version" | "info" | "events"]
        | ["images", "json"]
        | ["containers", _, "stats"]
        | ["networks" | "volumes"]
        | ["networks" | "volumes", _]
        | ["berth", "containers"]
        | ["berth", "containers", _]
        | ["berth", "containers", _, "stats"] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_no_secret_is_open() {
        let open = |path: &str| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            is_open(&parts, &Query::parse(query))
        };
        for path in [
            "/_ping",
            "/containers/json?all=1&size=0",
            "/containers/web/stats",
            "/containers/web/top",
            "/images/json",
        ] {
            assert!(open(path), "{path}");
        }
        for path in [
            "/containers/web/logs",
            "/containers/json?size=1",
            "/containers/web/json?size=true",
            "/containers/web/top?ps_args=e",
            "/containers/web/changes",
            "/images/a/b/history",
            "/system/df",
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
