//! The client: sends requests, with authentication and patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::auth::{self, Challenge, Ticket};
use super::credentials::{Credentials, Login};
use super::endpoint::{Endpoint, endpoints};
use super::retry::Retry;
use super::settings::Settings;
use crate::image::error::root_cause;
use crate::image::progress::{Reporter, Status};
use crate::image::{Error, Kind, Reference};

/// The most of an error's answer that is read, in bytes.
const COMPLAINT_MAX: u64 = 64 << 10;

/// Speaks to registries. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// A login that goes before those of the file, for one registry.
    login: Option<(String, Login)>,
    tickets: Arc<Mutex<Tickets>>,
}

/// By the address and the scopes that they are for.
type Tickets = HashMap<(String, Vec<String>), Ticket>;

struct Inner {
    settings: Settings,
    credentials: Credentials,
    retry: Retry,
    endpoints: Mutex<HashMap<(String, bool), Vec<Endpoint>>>,
}

impl Client {
    /// A client that reaches registries as `settings` say, as whom `credentials` say.
    pub fn new(settings: Settings, credentials: Credentials, retry: Retry) -> Client {
        let endpoints = Mutex::default();
        Client {
            inner: Arc::new(Inner { settings, credentials, retry, endpoints }),
            login: None,
            tickets: Arc::default(),
        }
    }

    /// The same client, but to one registry as somebody else: what a Docker client
    /// sends in `X-Registry-Auth`.
    pub fn with_login(&self, registry: &str, login: Login) -> Client {
        Client {
            inner: self.inner.clone(),
            login: Some((registry.to_owned(), login)),
            tickets: Arc::default(),
        }
    }

    /// How patient it is.
    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(in crate::image) fn retry(&self) -> Retry {
        self.inner.retry
    }

    /// Checks a login with the registry.
    ///
    /// # Errors
    /// [`Kind::Denied`] if it is refused.
    pub async fn check_login(&self, registry: &str, login: Login) -> Result<(), Error> {
        let client = self.with_login(registry, login);
        for endpoint in client.endpoints(registry, true)? {
            let url = endpoint.path("/v2/")?;
            let reporter = Reporter::new(&crate::image::progress::silent(), None);
            let what = format!("log in to {registry}");
            let answer =
                client.send(&endpoint, &[], &what, &reporter, || endpoint.http.get(url.clone()));
            let answer = answer.await?;
            if !answer.status().is_success() {
                return Err(refused(answer, &what, registry).await);
            }
        }
        Ok(())
    }

    /// Checks a login and keeps it in Docker's `config.json`.
    ///
    /// # Errors
    /// [`Kind::Denied`] if it is refused.
    pub async fn log_in(&self, registry: &str, login: Login) -> Result<(), Error> {
        self.check_login(registry, login.clone()).await?;
        self.inner.credentials.store(registry, &login).await?;
        self.forget_tickets();
        Ok(())
    }

    /// Forgets a login; whether there was one.
    ///
    /// # Errors
    /// If the file can't be written.
    pub async fn log_out(&self, registry: &str) -> Result<bool, Error> {
        self.forget_tickets();
        self.inner.credentials.erase(registry).await
    }

    fn forget_tickets(&self) {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn endpoints(&self, registry: &str, for_push: bool) -> Result<Vec<Endpoint>, Error> {
        let key = (registry.to_owned(), for_push);
        let mut known = self.inner.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&key) {
            return Ok(found.clone());
        }
        let found = endpoints(&self.inner.settings, registry, for_push)?;
        known.insert(key, found.clone());
        Ok(found)
    }

    /// Sends a request that can be repeated, until it is answered with other than a
    /// failure that may pass. Answers of 4xx are given as they are, but for 401 and
    /// 429, which are dealt with.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        what: &str,
        reporter: &Reporter,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response, Error> {
        let mut failed = 0;
        // A mirror that fails is passed over, not waited for.
        let attempts = if endpoint.mirror { 2 } else { self.inner.retry.attempts };
        loop {
            let (why, asked) = match self.send_once(endpoint, scopes, what, build()).await {
                Ok(response) if passes(response.status()) => {
                    let asked = self.inner.retry.asked(response.headers());
                    let error = refused(response, what, &endpoint.registry).await;
                    (error, asked)
                }
                Ok(response) => return Ok(response),
                Err(error) if error.kind() == Kind::Unavailable => (error, None),
                Err(error) => return Err(error),
            };
            failed += 1;
            if failed >= attempts {
                return Err(why);
            }
            self.pause(failed, asked, &why, reporter).await;
        }
    }

    /// Waits after the `failed`-th failure in a row, and tells of it.
    pub(in crate::image) async fn pause(
        &self,
        failed: u32,
        asked: Option<Duration>,
        why: &Error,
        reporter: &Reporter,
    ) {
        let own = self.inner.retry.pause(failed);
        let pause = asked.map_or(own, |asked| asked.max(own));
        reporter.tell(Status::Retrying(pause, why.to_string()));
        tokio::time::sleep(pause).await;
    }

    /// Sends a request once, or twice if the first answer is a challenge that can be
    /// met. A body that can't be repeated goes along only the first time, so what
    /// has one must have been authenticated before.
    pub(super) async fn send_once(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        what: &str,
        request: RequestBuilder,
    ) -> Result<Response, Error> {
        let again = request.try_clone();
        let known = self.ticket(endpoint, scopes);
        let request = match &known {
            Some(ticket) => ticket.attach(request),
            None => request,
        };
        let response = request.send().await.map_err(|e| failed(what, endpoint, e))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return Ok(response);
        };
        // A password that was refused once will be again; a token may have ended.
        if matches!(known, Some(Ticket::Basic(..))) {
            return Err(refused(response, what, &endpoint.registry).await);
        }
        let login = self.login(&endpoint.registry).await?;
        let ticket = auth::answer(endpoint, &challenge, scopes, login.as_ref())
            .await
            .map_err(|e| e.context(format_args!("cannot {what}")))?;
        self.tickets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((endpoint.base.to_string(), scopes.to_vec()), ticket.clone());
        let Some(again) = again else {
            return Err(Error::new(
                Kind::Unavailable,
                format!("cannot {what}: {} wants a new login midway", endpoint.registry),
            ));
        };
        let response = ticket.attach(again).send().await.map_err(|e| failed(what, endpoint, e))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.forget_tickets();
            return Err(refused(response, what, &endpoint.registry).await);
        }
        Ok(response)
    }

    fn ticket(&self, endpoint: &Endpoint, scopes: &[String]) -> Option<Ticket> {
        let tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = tickets.get(&(endpoint.base.to_string(), scopes.to_vec()))?;
        ticket.lasts().then(|| ticket.clone())
    }

    async fn login(&self, registry: &str) -> Result<Option<Login>, Error> {
        match &self.login {
            Some((of, login)) if of == registry => Ok(Some(login.clone())),
            _ => self.inner.credentials.get(registry).await,
        }
    }
}

/// The addresses of a registry failing one after another: the mirrors are passed
/// over with a word in the log, and the last one's error is the answer.
#[derive(Default)]
pub(super) struct Failures(Option<Error>);

impl Failures {
    pub fn add(&mut self, endpoint: &Endpoint, error: Error) {
        if endpoint.mirror {
            tracing::warn!("the mirror {} is passed over: {error}", endpoint.base);
        }
        self.0 = Some(error);
    }

    pub fn last(self, name: &Reference) -> Error {
        self.0.unwrap_or_else(|| {
            Error::new(Kind::Unavailable, format!("{} has no address", name.registry()))
        })
    }
}

/// What a token must allow.
pub(super) fn scope(name: &Reference, actions: &str) -> String {
    format!("repository:{}:{actions}", name.repository())
}

/// Whether a failure may pass.
fn passes(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

/// A request that got no answer.
pub(super) fn failed(what: &str, endpoint: &Endpoint, error: reqwest::Error) -> Error {
    let cause = root_cause(&error);
    let host = endpoint.base.as_str().trim_end_matches('/');
    let hint = if cause.contains("certificate") {
        "; name its authority with `ca` in registries.toml"
    } else if cause.contains("InvalidContentType") || cause.contains("corrupt message") {
        "; if it speaks plain HTTP, say `plain-http = true` in registries.toml"
    } else {
        ""
    };
    // A redirect that is refused, or a URL that can't be asked, will not pass.
    let kind = if error.is_redirect() || error.is_builder() || cause.contains("certificate") {
        Kind::Denied
    } else {
        Kind::Unavailable
    };
    Error::caused(kind, format!("cannot {what}: {host}: {cause}{hint}"), error)
}

/// The error that a registry's refusal is, with its own words.
pub(super) async fn refused(response: Response, what: &str, registry: &str) -> Error {
    let status = response.status();
    let (kind, hint) = match status.as_u16() {
        401 => {
            (Kind::Denied, format!("; `berth login {registry}`, or see whether the name is right"))
        }
        403 => (Kind::Denied, String::new()),
        404 => (Kind::NotFound, String::new()),
        413 => (Kind::TooLarge, String::new()),
        429 => (Kind::Unavailable, "; the registry asks for patience".to_owned()),
        code if code >= 500 => (Kind::Unavailable, String::new()),
        _ => (Kind::Invalid, String::new()),
    };
    let words = match read_limited(response, COMPLAINT_MAX).await {
        Ok(body) => complaint(&body),
        Err(_) => String::new(),
    };
    Error::new(kind, format!("cannot {what}: {registry} answered {status}{words}{hint}"))
}

/// The first error in a registry's answer (distribution-spec, error codes).
fn complaint(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &body["errors"][0];
    let words = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    // A terminal shows it: no control characters, no novels.
    let words: String = words.chars().filter(|c| !c.is_control()).take(200).collect();
    if words.is_empty() { words } else { format!(" ({words})") }
}

/// Reads an answer of at most `max` bytes.
pub(super) async fn read_limited(mut response: Response, max: u64) -> Result<Vec<u8>, Error> {
    let too_large = |size: u64| {
        Error::new(
            Kind::TooLarge,
            format!("the answer has {size} bytes or more; at most {max} are read"),
        )
    };
    if let Some(size) = response.content_length()
        && size > max
    {
        return Err(too_large(size));
    }
    let mut bytes = Vec::new();
    loop {
        let piece = response.chunk().await.map_err(|e| {
            let cause = root_cause(&e);
            Error::caused(Kind::Unavailable, format!("the answer broke off: {cause}"), e)
        })?;
        let Some(piece) = piece else {
            return Ok(bytes);
        };
        if (bytes.len() + piece.len()) as u64 > max {
            return Err(too_large((bytes.len() + piece.len()) as u64));
        }
        bytes.extend_from_slice(&piece);
    }
}

/// A header as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
