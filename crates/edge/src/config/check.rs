//! What a configuration must keep before an edge is built from it.

use std::time::Duration;

use super::{AuthConfig, CorsConfig, EdgeConfig, JwtConfig, Origin};
use crate::{auth::Verifier, tls};

/// RFC 7518, section 3.2: a key of HS256 is at least as long as its hash.
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// What hyper needs for a request head.
const MIN_HEAD_BYTES: usize = 8192;

/// Why no edge can be built from a configuration. Every message names the setting and what is
/// allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Open to anybody on an address that anybody can reach.
    #[error(
        "server.listen = \"{0}\" can be reached from other machines, and no auth is configured: \
         anybody could read and publish everything. Either set auth.jwt.secret (or \
         auth.jwt.public_key) to ask for tokens, or auth.anonymous = {{ subscribe = [...], \
         publish = [...] }} to say what anybody may do, or server.listen = \"127.0.0.1:{port}\"",
        port = .0.port()
    )]
    OpenToAll(std::net::SocketAddr),
    /// A value outside of what is allowed.
    #[error("{key} = {value}: {allowed}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What it was set to; secrets are left out.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

impl ConfigError {
    pub(crate) fn value(
        key: &'static str,
        value: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Value {
            key,
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

impl EdgeConfig {
    /// Checks everything that does not need a socket.
    ///
    /// # Errors
    /// The first setting that is not allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_auth()?;
        self.server.tls.as_ref().map_or(Ok(()), tls::check)?;
        check_cors(&self.cors)?;
        self.check_limits()
    }

    fn check_auth(&self) -> Result<(), ConfigError> {
        if self.auth.is_open() && !self.server.listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::OpenToAll(self.server.listen));
        }
        let AuthConfig { jwt: Some(jwt), .. } = &self.auth else {
            return Ok(());
        };
        check_jwt(jwt)?;
        Verifier::new(jwt).map(drop)
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        let (server, limits) = (&self.server, &self.limits);
        let at_least_one = [
            ("limits.connections", limits.connections),
            (
                "limits.connections_per_client",
                limits.connections_per_client,
            ),
            (
                "limits.channels_per_connection",
                limits.channels_per_connection,
            ),
            ("limits.event_bytes", limits.event_bytes),
            ("limits.batch_bytes", limits.batch_bytes),
            ("limits.batch_items", limits.batch_items),
            ("limits.publishes", limits.publishes),
            ("limits.histories", limits.histories),
            ("limits.subscribe_bytes", limits.subscribe_bytes),
            ("limits.filter_classes", limits.filter_classes),
            ("server.sockets", server.sockets),
            ("admin.sockets", self.admin.sockets),
            ("delivery.shards", self.delivery.shards),
        ];
        if let Some((key, value)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::value(key, value, "at least 1 is allowed"));
        }
        if server.head_bytes < MIN_HEAD_BYTES {
            let allowed = format!("at least {MIN_HEAD_BYTES} bytes are allowed");
            return Err(ConfigError::value(
                "server.head_bytes",
                server.head_bytes,
                allowed,
            ));
        }
        let positive = [
            ("server.head_timeout", server.head_timeout),
            ("server.idle_timeout", server.idle_timeout),
            ("server.peer_timeout", server.peer_timeout),
            ("server.answer_timeout", server.answer_timeout),
            ("server.broker_timeout", server.broker_timeout),
            ("server.hook_timeout", server.hook_timeout),
            ("limits.body_timeout", limits.body_timeout),
            ("limits.ndjson_idle", limits.ndjson_idle),
            ("probe.interval", self.probe.interval),
            ("probe.timeout", self.probe.timeout),
            ("server.max_age", server.max_age.unwrap_or(Duration::MAX)),
        ];
        if let Some((key, value)) = positive.into_iter().find(|(_, value)| value.is_zero()) {
            let allowed = "more than zero is allowed";
            return Err(ConfigError::value(key, format!("{value:?}"), allowed));
        }
        Ok(())
    }
}

fn check_cors(cors: &CorsConfig) -> Result<(), ConfigError> {
    if cors.credentials && cors.origins.contains(&Origin::Any) {
        return Err(ConfigError::value(
            "cors.origins",
            "*",
            "with cors.credentials = true every origin must be named; any page of the web could \
             read with its visitor's cookies otherwise",
        ));
    }
    Ok(())
}

fn check_jwt(jwt: &JwtConfig) -> Result<(), ConfigError> {
    for (key, value) in [
        ("auth.jwt.jwks_refresh", jwt.jwks_refresh),
        ("auth.jwt.jwks_max_age", jwt.jwks_max_age),
    ] {
        if value.is_zero() {
            return Err(ConfigError::value(key, "0s", "more than zero is allowed"));
        }
    }
    let sources = [
        ("secret", jwt.secret.is_some()),
        ("public_key", jwt.public_key.is_some()),
        ("jwks_url", jwt.jwks_url.is_some()),
    ];
    let given: Vec<_> = sources
        .iter()
        .filter_map(|(name, given)| given.then_some(*name))
        .collect();
    match (given.as_slice(), &jwt.secret) {
        ([], _) => Err(ConfigError::value(
            "auth.jwt",
            "no key",
            "secret (HS256), public_key (PEM: RSA, EC P-256, Ed25519) or jwks_url is needed",
        )),
        ([_], Some(secret)) if secret.bytes().len() < MIN_SECRET_BYTES => Err(ConfigError::value(
            "auth.jwt.secret",
            format!("{} bytes", secret.bytes().len()),
            format!("at least {MIN_SECRET_BYTES} bytes are allowed (RFC 7518, section 3.2)"),
        )),
        ([_], _) => Ok(()),
        (_, _) => Err(ConfigError::value(
            "auth.jwt",
            given.join(" and "),
            "one of secret, public_key and jwks_url is allowed",
        )),
    }
}
