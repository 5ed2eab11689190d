//! Authentication: what a registry's challenge asks for, and getting it
//! (RFC 9110, 11.6.1; distribution, spec/auth/token.md and oauth.md).

use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::client::read_limited;
use super::credentials::Login;
use super::endpoint::Endpoint;
use crate::image::{Error, Kind};

/// The greatest answer of a token service, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// How long a token lasts that says nothing (token.md).
const LIFETIME: u64 = 60;

/// What is sent along with requests.
#[derive(Clone)]
pub(super) enum Ticket {
    /// A bearer token, and until when it lasts.
    Bearer(String, Instant),
    /// A name and a password.
    Basic(String, String),
}

impl Ticket {
    /// Whether it can still be used.
    pub fn lasts(&self) -> bool {
        match self {
            Ticket::Bearer(_, until) => Instant::now() < *until,
            Ticket::Basic(..) => true,
        }
    }

    /// Puts it on a request.
    pub fn attach(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Ticket::Bearer(token, _) => request.bearer_auth(token),
            Ticket::Basic(user, password) => request.basic_auth(user, Some(password)),
        }
    }
}

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of this service.
    Bearer {
        /// The service's URL.
        realm: String,
        /// What it calls the registry.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
    /// A name and a password.
    Basic,
}

impl Challenge {
    /// The challenge among an answer's headers; a bearer's before a basic one.
    pub fn of(headers: &HeaderMap) -> Option<Challenge> {
        let all: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| parse(value.to_str().ok()?))
            .collect();
        let bearer = all.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        bearer.or(all.first()).cloned()
    }
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (name, value) in parameters(rest) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// `name="value"` or `name=value`, with commas between them, also within quotes.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([',', ' ', '\t']).to_owned();
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
            rest = &quoted[end..];
        } else {
            let (token, after) = after.split_once(',').unwrap_or((after, ""));
            value.push_str(token.trim());
            rest = after;
        }
        found.push((name, value));
    }
    found
}

/// Gets what the challenge asks for. `scopes` is what we want to do.
pub(super) async fn answer(
    endpoint: &Endpoint,
    challenge: &Challenge,
    scopes: &[String],
    login: Option<&Login>,
) -> Result<Ticket, Error> {
    let registry = &endpoint.registry;
    match challenge {
        Challenge::Basic => match login {
            Some(Login::Password { user, password }) => {
                Ok(Ticket::Basic(user.clone(), password.clone()))
            }
            _ => Err(Error::new(
                Kind::Denied,
                format!("{registry} wants a name and a password: `berth login {registry}`"),
            )),
        },
        Challenge::Bearer { realm, service, scope } => {
            let url = Url::parse(realm).map_err(|e| {
                Error::caused(
                    Kind::Unavailable,
                    format!("{registry} names a token service that is no URL, {realm:?}: {e}"),
                    e,
                )
            })?;
            let secure = url.scheme() == "https";
            if !secure && (url.scheme() != "http" || endpoint.base.scheme() == "https") {
                return Err(Error::new(
                    Kind::Denied,
                    format!(
                        "{registry} names the token service {realm}, which is not reached by TLS: \
                         no password is sent there"
                    ),
                ));
            }
            let scopes: Vec<&str> = match scopes {
                [] => scope.as_deref().into_iter().flat_map(|s| s.split(' ')).collect(),
                scopes => scopes.iter().map(String::as_str).collect(),
            };
            token(endpoint, url, service.as_deref(), &scopes, login).await
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn token(
    endpoint: &Endpoint,
    mut url: Url,
    service: Option<&str>,
    scopes: &[&str],
    login: Option<&Login>,
) -> Result<Ticket, Error> {
    let request = match login {
        Some(Login::Identity(refresh)) => {
            let mut form = url.clone();
            form.set_query(None);
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("client_id", "berth")
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", refresh);
            let body = form.query().unwrap_or_default().to_owned();
            endpoint
                .http
                .post(url.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body)
        }
        _ => {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
                if let Some(Login::Password { user, .. }) = login {
                    query.append_pair("account", user);
                }
            }
            let request = endpoint.http.get(url.clone());
            match login {
                Some(Login::Password { user, password }) => {
                    request.basic_auth(user, Some(password))
                }
                _ => request,
            }
        }
    };
    let host = url.host_str().unwrap_or_default().to_owned();
    let fail = |why: String, kind| {
        Error::new(kind, format!("cannot get a token for {} from {host}: {why}", endpoint.registry))
    };
    let response = request
        .send()
        .await
        .map_err(|e| fail(crate::image::error::root_cause(&e), Kind::Unavailable))?;
    let status = response.status();
    let body = read_limited(response, ANSWER_MAX).await?;
    if !status.is_success() {
        let kind = if status.is_client_error() && status.as_u16() != 429 {
            Kind::Denied
        } else {
            Kind::Unavailable
        };
        let hint = match login {
            Some(_) => "are name and password right?",
            None => "perhaps a login is needed",
        };
        return Err(fail(format!("it answered {status}; {hint}"), kind));
    }
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|e| fail(format!("its answer can't be read: {e}"), Kind::Unavailable))?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| fail("its answer holds no token".to_owned(), Kind::Unavailable))?;
    let lifetime = answer.expires_in.unwrap_or(LIFETIME).clamp(10, 24 * 3600);
    // A little less, for the way that requests take.
    Ok(Ticket::Bearer(token, Instant::now() + Duration::from_secs(lifetime * 9 / 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let challenge = parse(
            r#"Bearer realm="https://auth.example/token?x=1",service="reg,istry", scope="repository:a/b:pull,push""#,
        );
        assert_eq!(
            challenge,
            Some(Challenge::Bearer {
                realm: "https://auth.example/token?x=1".into(),
                service: Some("reg,istry".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
        assert_eq!(parse("Bearer service=x"), None);
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parameters("a=\"x\\\"y, b=").len(), 1);
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=\"https://t\"".parse().unwrap());
        assert!(matches!(Challenge::of(&headers), Some(Challenge::Bearer { .. })));
    }
}
