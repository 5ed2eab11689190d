//! Which function answers which path.

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};

use super::filters::Filters;
use super::respond::{API_OLDEST, API_VERSION, Answer, failure};
use super::{
    attach, containers, events, exec, files, images, list, login, logs, networks, own, stats,
    system, top, update, usage, volumes, wait,
};
use crate::engine::handle::Handle;

/// The query of a request, decoded. A parameter that stands twice: the last.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    /// The version of the API that the path names; the newest if it names none.
    version: Option<(u32, u32)>,
}

impl Query {
    /// Of the text behind the `?`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Query { pairs: pairs.collect(), version: None }
    }

    /// Whether the client speaks an older version of the API than this.
    pub fn is_before(&self, version: (u32, u32)) -> bool {
        self.version.is_some_and(|said| said < version)
    }

    /// A parameter's text.
    pub fn get(&self, key: &str) -> Option<&str> {
        let last = self.pairs.iter().rfind(|(name, _)| name == key);
        last.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All texts of a parameter that may stand several times.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.pairs.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a parameter is on, as Docker's daemon reads it.
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| {
            !matches!(value.to_ascii_lowercase().as_str(), "0" | "no" | "false" | "none")
        })
    }

    /// Docker's filters: `{"name":["web"]}` or, of old, `{"name":{"web":true}}`.
    pub fn filters(&self) -> Result<Filters, String> {
        let Some(text) = self.get("filters") else {
            return Ok(Filters::new());
        };
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("invalid filter: {error}"))?;
        let object = value.as_object().ok_or("invalid filter: not an object")?;
        // What is not understood must not count as not said: a prune would take everything.
        let read = |(key, values): (&String, &serde_json::Value)| {
            let strings = match values {
                serde_json::Value::Array(list) => {
                    list.iter().map(|value| value.as_str().map(str::to_owned)).collect()
                }
                serde_json::Value::Object(map) => Some(map.keys().cloned().collect()),
                _ => None,
            };
            let values: Option<Vec<String>> = strings;
            Ok((key.clone(), values.ok_or(format!("invalid filter '{key}': not a list of words"))?))
        };
        object.iter().map(read).collect()
    }

    /// The same, of which these are known.
    ///
    /// # Errors
    /// The answer that names the one that is not, or says what can't be read.
    pub fn filters_among(&self, known: &[&str]) -> Result<Filters, Box<Answer>> {
        let refuse = |message: &str| Box::new(failure(StatusCode::BAD_REQUEST, message));
        let filters = self.filters().map_err(|message| refuse(&message))?;
        match filters.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => Err(refuse(&format!("invalid filter '{unknown}'"))),
            None => Ok(filters),
        }
    }
}

/// Percent-decoding (RFC 3986, 2.1), `+` as a space as in forms.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [a, b, more @ ..]) if hex(*a).is_some() && hex(*b).is_some() => {
                bytes.push(hex(*a).unwrap_or(0) << 4 | hex(*b).unwrap_or(0));
                rest = more;
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The path of a request without the API's version.
pub fn path(request: &Request<Incoming>) -> String {
    let path = decode(request.uri().path());
    versioned(&path).map(str::to_owned).unwrap_or_default()
}

/// Answers one request.
pub async fn answer(handle: Handle, request: Request<Incoming>) -> Answer {
    let mut query = Query::parse(request.uri().query().unwrap_or_default());
    let path = decode(request.uri().path());
    query.version = said_version(&path).map(|(version, _)| version);
    let refused = match versioned(&path) {
        Ok(rest) => {
            let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
            takes(&parts, &request).err()
        }
        Err(message) => Some(message),
    };
    if let Some(message) = refused {
        super::body::discard(request.into_body()).await;
        return failure(StatusCode::BAD_REQUEST, &message);
    }
    let rest = said_version(&path).map_or(path.as_str(), |(_, rest)| rest);
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        // These take the connection over.
        ["containers", which, "exec"] if *request.method() == Method::POST => {
            exec::create(&handle, which, request).await
        }
        ["containers", which, "attach"] if *request.method() == Method::POST => {
            attach::attach(&handle, which, &query, request).await
        }
        ["containers", which, "attach", "ws"] if *request.method() == Method::GET => {
            attach::attach_websocket(&handle, which, &query, request).await
        }
        ["exec", id, "start"] if *request.method() == Method::POST => {
            exec::start(&handle, id, request).await
        }
        ["berth", "exec", id, "join"] if *request.method() == Method::POST => {
            exec::join(&handle, id, request).await
        }
        parts => {
            let (head, body) = request.into_parts();
            with_body(handle, &head, parts, &query, body).await
        }
    }
}

/// Refuses a body of another kind than JSON where JSON is read, as Docker's daemon does.
/// One that says no kind is taken for it.
fn takes(parts: &[&str], request: &Request<Incoming>) -> Result<(), String> {
    let reads_json = *request.method() == Method::POST
        && matches!(
            parts,
            ["commit" | "auth"]
                | ["containers" | "networks" | "volumes", "create"]
                | ["containers", _, "update" | "exec"]
                | ["exec", _, "start"]
                | ["networks", _, "connect" | "disconnect"]
        );
    let said = request.headers().get(hyper::header::CONTENT_TYPE);
    let kind = said.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bare = kind.split(';').next().unwrap_or_default().trim();
    match !reads_json || bare.is_empty() || bare.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => {
            Err(format!("unsupported Content-Type header ({kind}): must be 'application/json'"))
        }
    }
}

/// The routes that read the request's body, and all others.
async fn with_body(
    handle: Handle,
    head: &Parts,
    parts: &[&str],
    query: &Query,
    body: Incoming,
) -> Answer {
    let method = &head.method;
    match parts {
        ["images", rest @ ..] => images::dispatch(&handle, head, rest, query, body).await,
        ["commit"] if *method == Method::POST => files::make_image(&handle, query, body).await,
        ["containers", "create"] if *method == Method::POST => {
            containers::create(&handle, query, body).await
        }
        ["containers", which, "update"] if *method == Method::POST => {
            update::update(&handle, which, body).await
        }
        ["volumes", "create"] if *method == Method::POST => volumes::create(&handle, body).await,
        ["networks", "create"] if *method == Method::POST => networks::create(&handle, body).await,
        ["networks", which, "connect"] if *method == Method::POST => {
            networks::connect(&handle, which, body).await
        }
        ["networks", which, "disconnect"] if *method == Method::POST => {
            networks::disconnect(&handle, which, body).await
        }
        ["auth"] if *method == Method::POST => login::auth(&handle, body).await,
        ["distribution", name @ .., "json"] if *method == Method::GET => {
            login::distribution(&handle, head, &name.join("/")).await
        }
        ["containers", which, "archive"]
            if [Method::GET, Method::HEAD, Method::PUT].contains(method) =>
        {
            files::archive(&handle, which, method, query, body).await
        }
        _ => {
            super::body::discard(body).await;
            dispatch(handle, method, parts, query).await
        }
    }
}

/// The version that a path names (`/v1.41`), and the rest of it.
fn said_version(path: &str) -> Option<((u32, u32), &str)> {
    let tail = path.strip_prefix("/v")?;
    let (version, rest) = tail.find('/').map_or((tail, ""), |at| tail.split_at(at));
    let (major, minor) = version.split_once('.')?;
    Some(((major.parse().ok()?, minor.parse().ok()?), rest))
}

/// The path without its version, which must be one that we speak.
fn versioned(path: &str) -> Result<&str, String> {
    let Some((asked, rest)) = said_version(path) else {
        return Ok(path);
    };
    let text = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if asked > API_VERSION {
        return Err(format!(
            "client version {} is too new. Maximum supported API version is {}",
            text(asked),
            text(API_VERSION)
        ));
    }
    if asked < API_OLDEST {
        return Err(format!(
            "client version {} is too old. Minimum supported API version is {}, please upgrade \
             your client to a newer version",
            text(asked),
            text(API_OLDEST)
        ));
    }
    Ok(rest)
}

async fn dispatch(handle: Handle, method: &Method, parts: &[&str], query: &Query) -> Answer {
    let get = *method == Method::GET;
    let post = *method == Method::POST;
    match parts {
        ["_ping"] if get || *method == Method::HEAD => system::ping(),
        ["version"] if get => system::version(),
        ["info"] if get => system::info(&handle, query).await,
        ["events"] if get => events::stream(&handle, query),
        ["containers", "json"] if get => list::list(&handle, query).await,
        ["containers", which, "json"] if get => containers::inspect(&handle, which, query).await,
        ["containers", which, "logs"] if get => logs::logs(&handle, which, query).await,
        ["containers", which, "stats"] if get => stats::stream(&handle, which, query).await,
        ["containers", which, "changes"] if get => files::changes(&handle, which).await,
        ["containers", which, "export"] if get => files::export(&handle, which).await,
        ["containers", which, "top"] if get => top::top(&handle, which, query).await,
        ["containers", which, "wait"] if post => wait::wait(&handle, which, query).await,
        ["containers", "prune"] if post => list::prune(&handle, query).await,
        ["containers", which, "rename"] if post => containers::rename(&handle, which, query).await,
        ["containers", which, "resize"] if post => attach::resize(&handle, which, query).await,
        ["containers", which, verb] if post => containers::act(&handle, which, verb, query).await,
        ["containers", which] if *method == Method::DELETE => {
            containers::remove(&handle, which, query).await
        }
        ["containers", which, alias] if *method == Method::DELETE && query.is_on("link") => {
            containers::remove_link(&handle, which, alias).await
        }
        ["exec", id, "json"] if get => exec::inspect(&handle, id).await,
        ["exec", id, "resize"] if post => exec::resize(&handle, id, query).await,
        ["berth", rest @ ..] => own::dispatch(&handle, method, rest, query).await,
        ["volumes"] if get => volumes::list(&handle, query).await,
        ["volumes", "prune"] if post => volumes::prune(&handle, query).await,
        ["volumes", name] if get => volumes::inspect(&handle, name),
        ["volumes", name] if *method == Method::DELETE => {
            volumes::remove(&handle, name, query).await
        }
        ["networks"] if get => networks::list(&handle, query).await,
        ["networks", "prune"] if post => networks::prune(&handle, query).await,
        ["networks", which] if get => networks::inspect(&handle, which, query).await,
        ["networks", which] if *method == Method::DELETE => networks::remove(&handle, which).await,
        ["system", "df"] if get => usage::df(&handle, query).await,
        // There is no builder, so there is nothing that it has kept.
        ["build", "prune"] if post => {
            super::respond::json(&serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
        }
        // `docker inspect NAME` looks for it among plugins, too.
        ["plugins", name, "json"] if get => {
            failure(StatusCode::NOT_FOUND, &format!("plugin {name:?} not found"))
        }
        // Docker's daemon says it so, and clients take it for done.
        ["session" | "grpc"] if post => {
            failure(StatusCode::NOT_IMPLEMENTED, "Berth has no builder")
        }
        ["swarm", "leave"] if post => {
            failure(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm")
        }
        [
            "swarm" | "build" | "plugins" | "services" | "nodes" | "tasks" | "secrets" | "configs",
            ..,
        ] => failure(StatusCode::NOT_IMPLEMENTED, "Berth has no swarm, no builder and no plugins"),
        _ => failure(StatusCode::NOT_FOUND, "page not found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_negotiated() {
        assert_eq!(versioned("/v1.41/info"), Ok("/info"));
        assert_eq!(versioned("/version"), Ok("/version"));
        assert!(versioned("/v1.99/info").unwrap_err().contains("too new"));
        assert!(versioned("/v1.3/info").unwrap_err().contains("too old"));
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("all=1&name=a%2Fb+c&x&filters=%7B%22name%22%3A%5B%22w%22%5D%7D");
        assert!(query.is_on("all") && !query.is_on("none"));
        assert_eq!(query.get("name"), Some("a/b c"));
        assert_eq!(query.filters().unwrap()["name"], ["w"]);
        for wrong in ["x", "{\"label\":\"x\"}", "{\"label\":[1]}", "{\"label\":null}", "[]"] {
            assert!(Query::parse(&format!("filters={wrong}")).filters().is_err(), "{wrong}");
        }
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
