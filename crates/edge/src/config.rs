//! What an edge can be told. The server crate reads files into these; every limit has a default.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use fanfare_core::Pattern;
use fanfare_delivery::DeliveryConfig;
use ipnet::IpNet;

use crate::auth::Secret;

mod check;
mod tls;
pub use check::ConfigError;
pub use tls::TlsConfig;

/// Everything an edge can be told. The default serves anonymous clients on loopback.
#[derive(Clone, Debug, Default)]
pub struct EdgeConfig {
    /// The public listener and the life of a connection.
    pub server: ServerConfig,
    /// The listener for operators.
    pub admin: AdminConfig,
    /// How much anybody may take.
    pub limits: LimitsConfig,
    /// Who may do what.
    pub auth: AuthConfig,
    /// Which other origins' pages may read.
    pub cors: CorsConfig,
    /// Bounds and times of delivery; its `node` is overwritten with [`ServerConfig::node`].
    pub delivery: DeliveryConfig,
    /// How the broker's health is watched.
    pub probe: ProbeConfig,
    /// The page at `/`.
    pub page: PageConfig,
}

/// The public listener and the life of a connection.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// This node's name, shown in `fanfare.hello`, logs and the admin listener.
    pub node: String,
    /// Over how long a drain spreads the ends of streams.
    pub drain_window: Duration,
    /// How long a drain goes on accepting after readiness turned red, so that load balancers
    /// hear of it first. Zero: not at all.
    pub drain_delay: Duration,
    /// How long, after the window, requests under way may still take before they are cut.
    pub drain_grace: Duration,
    /// The greatest age of a stream, jittered downwards by up to a tenth, so that connections
    /// spread over new nodes; `None`: no bound.
    pub max_age: Option<Duration>,
    /// How long a client may take from connecting, or from the first byte of a later request, to
    /// the end of the request's head.
    pub head_timeout: Duration,
    /// How long a connection may stand idle between requests.
    pub idle_timeout: Duration,
    /// The largest request head in bytes, request line included; at least 8192.
    pub head_bytes: usize,
    /// After how long without an acknowledgement the kernel gives a peer up (`TCP_USER_TIMEOUT`,
    /// and TCP keep-alive at the same pace).
    pub peer_timeout: Duration,
    /// The kernel's send buffer for one connection in bytes, which bounds what a slow reader
    /// takes of the kernel's memory; `None` leaves it to the kernel.
    pub send_buffer: Option<usize>,
    /// The kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// The most open sockets of the public listener, streams and all else. Never more than the
    /// process may open files, less a reserve of 256 or a quarter of them.
    pub sockets: usize,
    /// How long a client may take to read a page of history or of a poll before it is cut off.
    pub answer_timeout: Duration,
    /// How long a call of the broker may take before the edge gives it up.
    pub broker_timeout: Duration,
    /// How long a call of a hook may take before the request is refused.
    pub hook_timeout: Duration,
    /// TLS on the public listener; `None`: it is plain, behind a load balancer that ends TLS.
    pub tls: Option<TlsConfig>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            node: "fanfare".into(),
            drain_window: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
            drain_grace: Duration::from_secs(5),
            max_age: None,
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            head_bytes: 16 << 10,
            peer_timeout: Duration::from_secs(30),
            send_buffer: Some(256 << 10),
            backlog: 4096,
            sockets: 210_000,
            answer_timeout: Duration::from_secs(60),
            broker_timeout: Duration::from_secs(10),
            hook_timeout: Duration::from_secs(2),
            tls: None,
        }
    }
}

/// The listener for operators. It asks for no token: keep it off public networks.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The most open sockets of this listener.
    pub sockets: usize,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            sockets: 256,
        }
    }
}

/// How much anybody may take.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// The most streams and polls on this node.
    pub connections: usize,
    /// The most streams and polls of one client: a token's subject, else an address (IPv6: a /64).
    pub connections_per_client: usize,
    /// The most channels and patterns on one connection.
    pub channels_per_connection: usize,
    /// The most data bytes of one event.
    pub event_bytes: usize,
    /// The most bytes of a JSON body of several publications.
    pub batch_bytes: usize,
    /// The most publications in a JSON array. NDJSON has no such bound.
    pub batch_items: usize,
    /// The most publish requests under way at once.
    pub publishes: usize,
    /// The most history requests under way at once, on the node; of one client,
    /// `connections_per_client`. Each holds a page of up to 2 MiB.
    pub histories: usize,
    /// The most bytes of the body of `POST /events`.
    pub subscribe_bytes: usize,
    /// How long a request's body may take to arrive; for NDJSON, one line of it.
    pub body_timeout: Duration,
    /// How long an NDJSON body may send nothing at all before its answer is ended.
    pub ndjson_idle: Duration,
    /// The longest wait that a poll may ask for.
    pub poll_timeout: Duration,
    /// The most filter classes that live at the same time.
    pub filter_classes: usize,
    /// After how long a client that was refused for now may come back.
    pub retry_after: Duration,
    /// How a stream that is refused for now is told.
    pub refusal: RefusalMode,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 200_000,
            connections_per_client: 32,
            channels_per_connection: 128,
            event_bytes: 1 << 20,
            batch_bytes: 4 << 20,
            batch_items: 10_000,
            publishes: 1024,
            histories: 256,
            subscribe_bytes: 256 << 10,
            body_timeout: Duration::from_secs(30),
            ndjson_idle: Duration::from_secs(300),
            poll_timeout: Duration::from_secs(60),
            filter_classes: 10_000,
            retry_after: Duration::from_secs(2),
            refusal: RefusalMode::Auto,
            trusted_proxies: Vec::new(),
        }
    }
}

/// How a stream that is refused for now (429, 503) is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RefusalMode {
    /// By its status and problem+json. A browser's `EventSource` gives up for good.
    Status,
    /// By a 200 stream of `retry:` and `fanfare.close` that ends, so that it comes back by itself.
    RetryStream,
    /// [`RetryStream`](Self::RetryStream) for a browser's `EventSource`, told by `Sec-Fetch-Mode`
    /// with `Accept: text/event-stream`; [`Status`](Self::Status) for everyone else.
    #[default]
    Auto,
}

impl FromStr for RefusalMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "status" => Ok(Self::Status),
            "retry-stream" => Ok(Self::RetryStream),
            "auto" => Ok(Self::Auto),
            other => Err(UnknownMode(other.into())),
        }
    }
}

impl fmt::Display for RefusalMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::RetryStream => "retry-stream",
            Self::Auto => "auto",
        })
    }
}

/// A text that is no [`RefusalMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no refusal mode; `status`, `retry-stream` and `auto` are allowed")]
pub struct UnknownMode(pub String);

/// Who may do what. With neither part, anybody may do anything, on a loopback listener only.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// What those without a token may do.
    pub anonymous: Option<AnonymousConfig>,
    /// How tokens are checked.
    pub jwt: Option<JwtConfig>,
}

impl AuthConfig {
    /// Whether nothing is configured, so that anybody may do anything.
    pub fn is_open(&self) -> bool {
        self.anonymous.is_none() && self.jwt.is_none()
    }
}

/// What those without a token may do. Whoever has a token may do this too.
#[derive(Clone, Debug, Default)]
pub struct AnonymousConfig {
    /// Channels that may be followed.
    pub subscribe: Vec<Pattern>,
    /// Channels that may be published on.
    pub publish: Vec<Pattern>,
}

/// How tokens are checked: exactly one of `secret`, `public_key` and `jwks_url`.
#[derive(Clone, PartialEq, Debug)]
pub struct JwtConfig {
    /// A shared secret for HS256, at least 32 bytes.
    pub secret: Option<Secret>,
    /// A public key in PEM: RSA (RS256), EC P-256 (ES256) or Ed25519 (EdDSA).
    pub public_key: Option<String>,
    /// Where a key set is published (RFC 7517, section 5): `https://`, or `http://` on loopback.
    /// A token names its key by `kid`; a key that is not known is fetched, at most every 10 s.
    pub jwks_url: Option<String>,
    /// How often the key set is fetched.
    pub jwks_refresh: Duration,
    /// How long fetched keys are used while they cannot be fetched again.
    pub jwks_max_age: Duration,
    /// Tokens must name one of these in `aud`; empty: not checked.
    pub audience: Vec<String>,
    /// Tokens must name one of these in `iss`; empty: not checked.
    pub issuer: Vec<String>,
    /// How far the clocks of issuer and edge may be apart.
    pub leeway: Duration,
    /// Whether a token may stand in the URL, as `access_token`. URLs end up in logs of proxies.
    pub query: bool,
    /// The cookie that may hold a token.
    pub cookie: String,
    /// The longest token, in bytes.
    pub token_bytes: usize,
    /// The most patterns in a token's `subscribe`, and in its `publish`.
    pub patterns: usize,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            secret: None,
            public_key: None,
            jwks_url: None,
            jwks_refresh: Duration::from_secs(600),
            jwks_max_age: Duration::from_secs(24 * 3600),
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::from_secs(10),
            query: false,
            cookie: "fanfare_token".into(),
            token_bytes: 8 << 10,
            patterns: 128,
        }
    }
}

/// Which other origins' pages may read, and publish with a cookie.
#[derive(Clone, Debug, Default)]
pub struct CorsConfig {
    /// The origins; empty: only pages of the edge's own origin.
    pub origins: Vec<Origin>,
    /// Whether their browsers may send cookies along. Not together with [`Origin::Any`].
    pub credentials: bool,
}

/// An origin as browsers send it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `*`: every origin.
    Any,
    /// `scheme://host[:port]`, in lower case.
    Exact(String),
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let authority = lower
            .strip_prefix("https://")
            .or_else(|| lower.strip_prefix("http://"));
        let plain = |authority: &str| {
            !authority.contains(['/', '@', '?', '#', '*', ','])
                && authority.bytes().all(|b| b.is_ascii_graphic())
                && authority.parse::<http::uri::Authority>().is_ok()
        };
        match authority {
            Some(authority) if plain(authority) => Ok(Self::Exact(lower)),
            _ => Err(InvalidOrigin(text.into())),
        }
    }
}

/// A text that is no [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no origin; `scheme://host[:port]` without a path is allowed, or `*`")]
pub struct InvalidOrigin(pub String);

/// How the broker's health is watched. Readiness is red at the latest `interval` + `timeout` after
/// a probe could not go through any more.
#[derive(Clone, Copy, Debug)]
pub struct ProbeConfig {
    /// How long after a probe's end the next one begins.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
}

impl Default for ProbeConfig {
    /// 2 s and 2 s: red within 4 s.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
        }
    }
}

/// The page at `/`.
#[derive(Clone, Debug)]
pub struct PageConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Its title.
    pub title: String,
    /// The channels that it follows when it is opened.
    pub channels: Vec<Pattern>,
    /// Whether it shows itself as a demo: plots first.
    pub demo: bool,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            title: "Fanfare".into(),
            channels: Vec::new(),
            demo: false,
        }
    }
}

#[cfg(test)]
mod tests;
