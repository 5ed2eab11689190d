//! The API over TCP: TLS on both sides (RFC 8446, 4.3.2). Whoever has a certificate of
//! the named authority is root on this machine.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::serve::serve_tls;
use crate::engine::handle::Handle;
use crate::engine::start::Tcp;

/// Serves until the runtime ends.
///
/// # Errors
/// A file can't be read or means nothing, or the address can't be had.
pub async fn listen(tcp: &Tcp, handle: Handle) -> io::Result<()> {
    let tls = TlsAcceptor::from(Arc::new(config(tcp)?));
    let listener = TcpListener::bind(tcp.address)?;
    tracing::info!("the API is served at {} with TLS", tcp.address);
    serve_tls(listener, handle, tls).await
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(list) if list.is_empty() => Err(wrong(path, "there is no certificate in it")),
        Ok(list) => Ok(list),
        Err(error) => Err(wrong(path, error)),
    }
}

fn config(tcp: &Tcp) -> io::Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tcp.ca)? {
        roots.add(certificate).map_err(|error| wrong(&tcp.ca, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| wrong(&tcp.ca, error))?;
    let key = PrivateKeyDer::from_pem_file(&tcp.key).map_err(|error| wrong(&tcp.key, error))?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&tcp.cert, error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tcp.cert)?, key)
        .map_err(|error| wrong(&tcp.cert, error))
}
