//! Where a registry is: its own address and its mirrors.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Certificate, Url, redirect};

use super::settings::{RegistrySettings, Settings};
use crate::image::{Error, Kind, Reference};

/// How many redirects are followed.
const REDIRECTS: usize = 10;
/// How long a connection may take to come about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing may come: between two pieces, not for the whole, as layers may
/// be large.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// One address to ask.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// The host as credentials and settings name it.
    pub registry: String,
    /// `https://host:port`, without a path.
    pub base: Url,
    /// Speaks to this address only, with its certificates.
    pub http: reqwest::Client,
    /// Whether it only mirrors another.
    pub mirror: bool,
}

impl Endpoint {
    /// The URL of something in a repository: `/v2/NAME/REST`.
    pub fn url(&self, name: &Reference, rest: &str) -> Result<Url, Error> {
        self.path(&format!("/v2/{}/{rest}", name.repository()))
    }

    /// The URL of a path at this address.
    pub fn path(&self, path: &str) -> Result<Url, Error> {
        self.base.join(path).map_err(|e| {
            Error::caused(
                Kind::Invalid,
                format!("cannot make a URL of {}{path}: {e}", self.base),
                e,
            )
        })
    }
}

/// The addresses of a registry: for pulls the mirrors first.
pub(super) fn endpoints(
    settings: &Settings,
    registry: &str,
    for_push: bool,
) -> Result<Vec<Endpoint>, Error> {
    let own = settings.of(registry);
    if own.blocked {
        return Err(Error::new(
            Kind::Denied,
            format!("the registry {registry} is blocked in registries.toml"),
        ));
    }
    let mut endpoints = Vec::new();
    if !for_push {
        for mirror in &own.mirrors {
            let url = Url::parse(mirror).map_err(|e| {
                Error::caused(Kind::Invalid, format!("the mirror {mirror} is not a URL: {e}"), e)
            })?;
            let host = host_and_port(&url);
            let settings = settings.of(&host);
            if settings.blocked {
                continue;
            }
            let http = client(&settings, &host, url.scheme() == "http")?;
            endpoints.push(Endpoint { registry: host, base: url, http, mirror: true });
        }
    }
    let plain = own
        .plain_http
        .unwrap_or_else(|| is_loopback(registry) && own.ca.is_empty() && !own.insecure);
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let scheme = if plain { "http" } else { "https" };
    let base = Url::parse(&format!("{scheme}://{host}")).map_err(|e| {
        Error::caused(Kind::Invalid, format!("{registry} is not a registry's address: {e}"), e)
    })?;
    let http = client(&own, registry, plain)?;
    endpoints.push(Endpoint { registry: registry.to_owned(), base, http, mirror: false });
    Ok(endpoints)
}

pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether a registry is on this machine, by its address alone: no name is looked up.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn client(
    settings: &RegistrySettings,
    host: &str,
    plain: bool,
) -> Result<reqwest::Client, Error> {
    // Once for the process; an error means it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut certificates = Vec::new();
    for path in &settings.ca {
        let pem = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        certificates.extend(Certificate::from_pem_bundle(&pem).map_err(|e| {
            let text = format!("{} holds no PEM certificate: {e}", path.display());
            Error::caused(Kind::Invalid, text, e)
        })?);
    }
    let prepare = |any_authority: bool| {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects())
            .connect_timeout(CONNECT_PATIENCE)
            .read_timeout(READ_PATIENCE)
            .tls_danger_accept_invalid_certs(settings.insecure);
        // A proxy's loopback is not ours.
        let builder = if is_loopback(host) { builder.no_proxy() } else { builder };
        if any_authority {
            builder.tls_certs_merge(certificates.clone()).build()
        } else {
            builder.tls_certs_only(certificates.clone()).build()
        }
    };
    // A machine without any authorities (an initramfs) can still speak to its own
    // registry, and to one whose authority it was told.
    let built = match prepare(true) {
        Err(_) if plain || !certificates.is_empty() => prepare(false),
        built => built,
    };
    built.map_err(|e| {
        let cause = crate::image::error::root_cause(&e);
        Error::caused(Kind::System, format!("cannot prepare for HTTP: {cause}"), e)
    })
}

fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
        if secure && attempt.url().scheme() != "https" {
            return attempt.error("it redirects from TLS to plain HTTP");
        }
        if attempt.previous().len() > REDIRECTS {
            return attempt.error("it redirects too often");
        }
        // To another host reqwest takes `Authorization` off.
        attempt.follow()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_the_address() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example", "10.0.0.1:5000", "docker.io", "[::2]", "127.0.0.1.example"]
        {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn mirrors_come_first_and_never_for_pushes() {
        let settings = Settings::parse(
            "[registry.\"docker.io\"]\nmirrors = [\"http://10.0.0.1:5000\"]\n\
             [registry.\"b.example\"]\nblocked = true",
        )
        .unwrap();
        let bases = |for_push| {
            let found = endpoints(&settings, "docker.io", for_push).unwrap();
            found.iter().map(|e| e.base.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(bases(false), ["http://10.0.0.1:5000/", "https://registry-1.docker.io/"]);
        assert_eq!(bases(true), ["https://registry-1.docker.io/"]);
        assert!(endpoints(&settings, "b.example", false).is_err());
    }
}
