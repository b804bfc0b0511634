//! The sections of the edge: `[server]`, `[admin]`, `[limits]`, `[auth]`, `[cors]`, `[probe]`,
//! `[page]`. What each key means and its default stand in `fanfare_edge::config` and
//! `docs/config.toml`.

use std::path::PathBuf;

use fanfare_edge::config::{
    AdminConfig, AnonymousConfig, AuthConfig, CorsConfig, JwtConfig, LimitsConfig, PageConfig,
    ProbeConfig, ServerConfig,
};
use serde::{Deserialize, Serialize};

use super::{
    secret::Secret,
    section::{Setting, section},
    tls::Tls,
    values::{Address, Bytes, Maybe, Network, Refusal, Selector, Span, WebOrigin, list},
};

section! {
    /// The public listener and the life of a connection.
    Server of ServerConfig {
        listen: Address,
        node: String,
        drain_window: Span,
        drain_delay: Span,
        drain_grace: Span,
        max_age: Maybe<Span>,
        head_timeout: Span,
        idle_timeout: Span,
        head_bytes: Bytes,
        peer_timeout: Span,
        send_buffer: Maybe<Bytes>,
        backlog: u32,
        sockets: usize,
        answer_timeout: Span,
        broker_timeout: Span,
        hook_timeout: Span,
        tls: Option<Tls>,
    }
}

section! {
    /// The listener for operators.
    Admin of AdminConfig {
        listen: Address,
        sockets: usize,
    }
}

section! {
    /// How much anybody may take.
    Limits of LimitsConfig {
        connections: usize,
        connections_per_client: usize,
        channels_per_connection: usize,
        event_bytes: Bytes,
        batch_bytes: Bytes,
        batch_items: usize,
        publishes: usize,
        histories: usize,
        subscribe_bytes: Bytes,
        body_timeout: Span,
        ndjson_idle: Span,
        poll_timeout: Span,
        filter_classes: usize,
        retry_after: Span,
        refusal: Refusal,
        #[serde(deserialize_with = "list")]
        trusted_proxies: Vec<Network>,
    }
}

section! {
    /// Which other origins' pages may read.
    Cors of CorsConfig {
        #[serde(deserialize_with = "list")]
        origins: Vec<WebOrigin>,
        credentials: bool,
    }
}

section! {
    /// How the broker's health is watched.
    Probe of ProbeConfig {
        interval: Span,
        timeout: Span,
    }
}

section! {
    /// The page at `/`.
    Page of PageConfig {
        enabled: bool,
        title: String,
        #[serde(deserialize_with = "list")]
        channels: Vec<Selector>,
        demo: bool,
    }
}

section! {
    /// What those without a token may do.
    Anonymous of AnonymousConfig {
        #[serde(deserialize_with = "list")]
        subscribe: Vec<Selector>,
        #[serde(deserialize_with = "list")]
        publish: Vec<Selector>,
    }
}

/// Who may do what.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Auth {
    pub(crate) anonymous: Option<Anonymous>,
    pub(crate) jwt: Option<Jwt>,
}

/// How tokens are checked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Jwt {
    pub(crate) secret: Option<Secret>,
    pub(crate) secret_file: Option<PathBuf>,
    /// No secret, but long and of no use in print.
    pub(crate) public_key: Option<Secret>,
    pub(crate) public_key_file: Option<PathBuf>,
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks_refresh: Span,
    pub(crate) jwks_max_age: Span,
    #[serde(deserialize_with = "list")]
    pub(crate) audience: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub(crate) issuer: Vec<String>,
    pub(crate) leeway: Span,
    pub(crate) query: bool,
    pub(crate) cookie: String,
    pub(crate) token_bytes: Bytes,
    pub(crate) patterns: usize,
}

impl Default for Jwt {
    fn default() -> Self {
        let room = JwtConfig::default();
        Self {
            secret: None,
            secret_file: None,
            public_key: None,
            public_key_file: None,
            jwks_url: room.jwks_url,
            jwks_refresh: Span(room.jwks_refresh),
            jwks_max_age: Span(room.jwks_max_age),
            audience: room.audience,
            issuer: room.issuer,
            leeway: Span(room.leeway),
            query: room.query,
            cookie: room.cookie,
            token_bytes: Bytes(room.token_bytes),
            patterns: room.patterns,
        }
    }
}

impl Auth {
    /// As the edge wants it; the contents of `*_file` settings are in their places already.
    pub(crate) fn to_room(&self) -> AuthConfig {
        AuthConfig {
            anonymous: self.anonymous.as_ref().map(Anonymous::to_room),
            jwt: self.jwt.as_ref().map(Jwt::to_room),
        }
    }
}

impl Jwt {
    fn to_room(&self) -> JwtConfig {
        let secret = self.secret.as_ref();
        JwtConfig {
            secret: secret.map(|secret| fanfare_edge::auth::Secret::new(secret.expose())),
            public_key: self.public_key.as_ref().map(|key| key.expose().to_owned()),
            jwks_url: self.jwks_url.clone(),
            jwks_refresh: self.jwks_refresh.0,
            jwks_max_age: self.jwks_max_age.0,
            audience: self.audience.clone(),
            issuer: self.issuer.clone(),
            leeway: self.leeway.to_room(),
            query: self.query,
            cookie: self.cookie.clone(),
            token_bytes: self.token_bytes.0,
            patterns: self.patterns,
        }
    }
}
