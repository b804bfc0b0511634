//! TLS on the public listener: the handshake, and certificates that can be renewed meanwhile.

use std::{fmt, io, sync::Arc, time::Duration};

use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    config::{ConfigError, TlsConfig},
    metrics::{HandshakeFailure, Metrics},
};

const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";

/// What makes a socket of the public listener a secure one.
pub(crate) struct Tls {
    inner: RwLock<Inner>,
    /// Outlives renewals, so that clients resume their sessions across them.
    tickets: Arc<dyn ProducesTickets>,
    metrics: Metrics,
}

struct Inner {
    acceptor: TlsAcceptor,
    handshake_timeout: Duration,
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting that cannot be used, and never shows a key.
    pub(crate) fn new(config: &TlsConfig, metrics: Metrics) -> Result<Self, ConfigError> {
        let tickets = aws_lc_rs::Ticketer::new()
            .map_err(|error| ConfigError::value("server.tls", "set", error.to_string()))?;
        let inner = Inner::new(config, &tickets)?;
        metrics.certificate_expiry.set(expiry(config)?);
        Ok(Self {
            inner: RwLock::new(inner),
            tickets,
            metrics,
        })
    }

    /// Takes another certificate for every handshake from now on.
    ///
    /// # Errors
    /// As [`new`](Self::new); nothing has changed then.
    pub(crate) fn renew(&self, config: &TlsConfig) -> Result<(), ConfigError> {
        let inner = Inner::new(config, &self.tickets)?;
        self.metrics.certificate_expiry.set(expiry(config)?);
        *self.inner.write() = inner;
        Ok(())
    }

    /// Shakes hands. `None` where that failed, which is counted.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let (accept, patience) = {
            let inner = self.inner.read();
            (inner.acceptor.accept(stream), inner.handshake_timeout)
        };
        let failure = match time::timeout(patience, accept).await {
            Ok(Ok(stream)) => return Some(stream),
            Err(_) => HandshakeFailure::Timeout,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                match error.kind() {
                    io::ErrorKind::InvalidData => HandshakeFailure::Protocol,
                    _ => HandshakeFailure::Closed,
                }
            }
        };
        self.metrics.handshake_failure(failure);
        None
    }
}

/// Whether the client and the listener agreed on HTTP/2.
pub(crate) fn is_h2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

/// Checks what a listener would be made of.
///
/// # Errors
/// The setting that cannot be used.
pub(crate) fn check(config: &TlsConfig) -> Result<(), ConfigError> {
    if config.handshake_timeout.is_zero() {
        let allowed = "more than zero is allowed";
        return Err(ConfigError::value(
            "server.tls.handshake_timeout",
            "0s",
            allowed,
        ));
    }
    if config.http2_streams == 0 {
        let allowed = "at least 1 is allowed";
        return Err(ConfigError::value("server.tls.http2_streams", 0, allowed));
    }
    server_config(config)?;
    expiry(config).map(drop)
}

impl Inner {
    fn new(config: &TlsConfig, tickets: &Arc<dyn ProducesTickets>) -> Result<Self, ConfigError> {
        let mut server = server_config(config)?;
        server.ticketer = tickets.clone();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            handshake_timeout: config.handshake_timeout,
        })
    }
}

fn server_config(config: &TlsConfig) -> Result<ServerConfig, ConfigError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::value("server.tls", "set", error.to_string()))?;
    let clients = match &config.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(pem) => client_verifier(pem, provider)?,
    };
    let chain = certificates("server.tls.cert_file", &config.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(config.key.bytes()).map_err(|_| {
        let allowed = "a private key in PEM is needed (PKCS #8, PKCS #1 or SEC 1)";
        ConfigError::value("server.tls.key_file", "what was given", allowed)
    })?;
    let mut server = versions
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| {
            let allowed = format!("certificate and key cannot be used together: {error}");
            ConfigError::value("server.tls.key_file", "what was given", allowed)
        })?;
    server.alpn_protocols = match config.http2 {
        true => vec![H2.to_vec(), HTTP_11.to_vec()],
        false => vec![HTTP_11.to_vec()],
    };
    Ok(server)
}

fn client_verifier(
    pem: &str,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
    const KEY: &str = "server.tls.client_ca_file";
    let refused = |why: String| ConfigError::value(KEY, "what was given", why);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, pem)? {
        roots
            .add(certificate)
            .map_err(|error| refused(format!("no certificate authority: {error}")))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| refused(error.to_string()))
}

fn certificates(key: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => {
            let allowed = "certificates in PEM are needed";
            Err(ConfigError::value(key, "what was given", allowed))
        }
    }
}

/// When the server's own certificate ends, in Unix seconds.
fn expiry(config: &TlsConfig) -> Result<i64, ConfigError> {
    const KEY: &str = "server.tls.cert_file";
    let chain = certificates(KEY, &config.certificate)?;
    let first = chain.first().map_or(&[][..], |first| first);
    let (_, certificate) = x509_parser::parse_x509_certificate(first)
        .map_err(|_| ConfigError::value(KEY, "what was given", "a certificate is needed"))?;
    Ok(certificate.validity().not_after.timestamp())
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
