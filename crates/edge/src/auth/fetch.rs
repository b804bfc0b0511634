//! Fetching a small document over HTTPS.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio::time;

use crate::config::ConfigError;

/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document, in bytes.
const MAX_BYTES: usize = 256 << 10;
const KEY: &str = "auth.jwt.jwks_url";

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Where a document is, and the way there.
pub(super) struct Source {
    uri: Uri,
    /// Made at the first fetch: the authorities that this machine trusts are read then.
    client: Mutex<Option<HttpsClient>>,
}

impl Source {
    /// # Errors
    /// Where the URL is none, or plain and not on this machine: whoever stands between could
    /// answer with keys of their own.
    pub(super) fn new(url: &str) -> Result<Self, ConfigError> {
        let allowed = "an https:// address is allowed, or http:// on loopback";
        let refused = || ConfigError::value(KEY, "what was given", allowed);
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?;
        let host = authority.host().trim_matches(['[', ']']);
        let is_local =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_safe = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => is_local,
            _ => false,
        };
        if !is_safe || authority.as_str().contains('@') {
            return Err(refused());
        }
        Ok(Self {
            uri,
            client: Mutex::default(),
        })
    }

    /// Fetches the document. Redirects are not followed.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) async fn fetch(&self) -> Result<Bytes, String> {
        let client = self.client()?;
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let fetch = async {
            let answer = client
                .request(request)
                .await
                .map_err(|error| root(&error))?;
            if answer.status() != StatusCode::OK {
                return Err(format!("the answer is {}", answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            body.map(|body| body.to_bytes())
                .map_err(|error| format!("the answer broke off or is too large: {error}"))
        };
        let late = |_| format!("no answer within {TIMEOUT:?}");
        time::timeout(TIMEOUT, fetch).await.map_err(late)?
    }

    fn client(&self) -> Result<HttpsClient, String> {
        let mut client = self.client.lock();
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let tls = match self.uri.scheme_str() {
            Some("https") => tls.with_native_roots().map_err(|error| {
                format!("no certificate authorities are trusted on this machine: {error}")
            })?,
            _ => tls.with_root_certificates(RootCertStore::empty()),
        };
        let made = Client::builder(TokioExecutor::new()).build(
            HttpsConnectorBuilder::new()
                .with_tls_config(tls.with_no_client_auth())
                .https_or_http()
                .enable_http1()
                .build(),
        );
        *client = Some(made.clone());
        Ok(made)
    }
}

/// The last cause: the client's own words say "client error (Connect)".
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => root(cause),
        None => error.to_string(),
    }
}

impl fmt::Display for Source {
    /// Without the query, which may hold what is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let scheme = self.uri.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{authority}{}", self.uri.path())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
