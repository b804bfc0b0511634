//! TLS on the public listener.

use std::time::Duration;

use crate::auth::Secret;

/// TLS 1.2 and 1.3 on the public listener, and HTTP/2 with it.
#[derive(Clone, PartialEq, Debug)]
pub struct TlsConfig {
    /// The certificate chain in PEM, the server's own first.
    pub certificate: String,
    /// Its private key in PEM.
    pub key: Secret,
    /// Certificate authorities in PEM: only clients that show a certificate of one of them are
    /// let in. `None`: clients need none.
    pub client_ca: Option<String>,
    /// Whether HTTP/2 is offered (ALPN). Each stream of it counts as a connection.
    pub http2: bool,
    /// The most requests and streams at once on one HTTP/2 connection (RFC 9113, section 6.5.2).
    pub http2_streams: u32,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

impl TlsConfig {
    /// With a certificate chain and its key, both in PEM.
    pub fn new(certificate: impl Into<String>, key: Secret) -> Self {
        Self {
            certificate: certificate.into(),
            key,
            client_ca: None,
            http2: true,
            http2_streams: 256,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}
