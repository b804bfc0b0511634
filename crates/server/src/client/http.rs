//! Requests to a server.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde::Deserialize;

use crate::{
    config::secret::Secret,
    exit::{Code, Failure},
};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest answer that is read whole, in bytes.
const LONGEST_ANSWER: usize = 4 << 20;

/// A server, and the token to show it.
#[derive(Debug)]
pub(crate) struct Server {
    base: String,
    authorization: Option<HeaderValue>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The command line names no address that can be used.
    #[error("{0}")]
    Use(String),
    /// No connection came about: nothing was sent.
    #[error("cannot reach {url}: {why}; is the server running?")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        why: String,
    },
    /// The connection broke, or went silent, before the answer.
    #[error("the connection to {url} broke before an answer came: {why}")]
    Broken {
        /// The address.
        url: String,
        /// Why.
        why: String,
    },
    /// The server said no.
    #[error("{0}")]
    Refused(Refusal),
}

/// The server's no, as `application/problem+json` says it.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) status: StatusCode,
    /// What the server says about it.
    pub(crate) detail: String,
    /// After how long it may be worth another try.
    pub(crate) retry_after: Option<Duration>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server refused ({}): {}", self.status, self.detail)?;
        match self.status {
            StatusCode::UNAUTHORIZED => f.write_str(
                "; give a token with FANFARE_TOKEN or --token (`fanfare token` makes one)",
            ),
            _ => Ok(()),
        }
    }
}

impl Refusal {
    /// Whether the same request may go through later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        ) || self.status.is_server_error()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Use(_) => Code::Usage,
            ClientError::Refused(refusal) if !refusal.is_temporary() => Code::Refused,
            _ => Code::Failed,
        };
        Self::new(code, error)
    }
}

/// A question to the server.
#[derive(Debug)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(path)
        }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Server {
    /// Takes an address such as `http://127.0.0.1:8080`; nothing is sent yet.
    pub(crate) fn new(url: &str, token: Option<&Secret>) -> Result<Self, ClientError> {
        let bad = |why: &str| {
            let shown = crate::config::secret::redacted(url);
            ClientError::Use(format!("the address {shown:?} {why}"))
        };
        let uri: Uri = url
            .parse()
            .map_err(|_| bad("is no URL, such as http://127.0.0.1:8080"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("needs to begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad(
                "has a user in it; a token goes into FANFARE_TOKEN or --token",
            ));
        }
        let authorization = token.map(|token| {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            value.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(is_secure)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let scheme = if is_secure { "https" } else { "http" };
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            base: format!("{scheme}://{authority}{path}"),
            authorization: authorization.transpose().map_err(|_| {
                ClientError::Use("the token has characters that no header takes".into())
            })?,
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// The answer's head is good (2xx); its body is still to be read.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{}{}", self.base, ask.path));
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::new(ask.body))
            .map_err(|error| ClientError::Use(format!("the request cannot be made: {error}")))?;
        let answer = match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => {
                let why = root(&error);
                return Err(ClientError::Unreachable {
                    url: self.base.clone(),
                    why,
                });
            }
            Ok(Err(error)) => return Err(self.broken(root(&error))),
            Err(_) => return Err(self.broken(format!("no answer within {ANSWER:?}"))),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(ClientError::Refused(self.refusal(answer).await))
    }

    /// Asks, and reads the whole answer.
    pub(crate) async fn ask_whole(&self, ask: Ask) -> Result<Bytes, ClientError> {
        let body = self.ask(ask).await?.into_body();
        let read = tokio::time::timeout(ANSWER, Limited::new(body, LONGEST_ANSWER).collect()).await;
        match read {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.broken(error.to_string())),
            Err(_) => Err(self.broken(format!("the answer did not end within {ANSWER:?}"))),
        }
    }

    fn broken(&self, why: String) -> ClientError {
        ClientError::Broken {
            url: self.base.clone(),
            why,
        }
    }

    async fn refusal(&self, answer: Response<Incoming>) -> Refusal {
        let status = answer.status();
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect();
        let body = tokio::time::timeout(ANSWER, body).await;
        let body = body
            .ok()
            .and_then(Result::ok)
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        Refusal {
            status,
            detail: said(&body).unwrap_or_else(|| "no reason given".into()),
            retry_after,
        }
    }
}

/// Trusts what the machine trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name other authorities. They
/// are read only where they are needed.
fn tls(is_secure: bool) -> Result<ClientConfig, ClientError> {
    let bad = |why: String| ClientError::Use(format!("https cannot be used: {why}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    let builder = if is_secure {
        let native = builder.with_native_roots();
        native.map_err(|error| bad(format!("no authorities are trusted here: {error}")))?
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

/// What a problem document says, or the first line of any other text.
fn said(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Document {
        title: Option<String>,
        detail: Option<String>,
    }
    if let Ok(Document { title, detail }) = serde_json::from_slice(body)
        && let Some(text) = detail.or(title)
    {
        return Some(printable(&text));
    }
    let text = String::from_utf8_lossy(body);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(printable(line))
}

/// Text from elsewhere, fit for a terminal: short, without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// A text as part of a path or a query.
pub(crate) fn escaped(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The last cause: the client's own words say "client error (Connect)".
fn root(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(cause) => root(cause),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_never_show_a_password() {
        for (url, word) in [
            ("h:80", "http://"),
            ("http://u:hunter2@h", "FANFARE_TOKEN"),
            ("ftp://h", "http://"),
            ("::", "URL"),
        ] {
            let error = Server::new(url, None).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(
            Server::new("http://h:1/base/", None).unwrap().base,
            "http://h:1/base"
        );
        let secure = Server::new("https://h/", None).unwrap();
        assert_eq!(secure.base, "https://h");
        let token = Secret::new("abc");
        let server = Server::new("http://h", Some(&token)).unwrap();
        assert!(!format!("{server:?}").contains("abc"));
    }

    #[test]
    fn what_a_refusal_says_is_short_and_printable() {
        let problem =
            br#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"no grant"}"#;
        assert_eq!(said(problem).unwrap(), "no grant");
        assert_eq!(said(br#"{"title":"Forbidden"}"#).unwrap(), "Forbidden");
        assert_eq!(
            said(b"\n\x1b[31mbad gateway\n more").unwrap(),
            "[31mbad gateway"
        );
        assert_eq!(said(b""), None);
    }
}
