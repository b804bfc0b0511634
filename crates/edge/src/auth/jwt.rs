//! Tokens: JSON Web Tokens (RFC 7519) whose algorithm is the key's, never the header's choice.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fanfare_core::Pattern;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{
    Grant, Identity, Inner,
    key_set::{Key, KeySet},
};
use crate::{
    config::{ConfigError, JwtConfig},
    metrics::Metrics,
    problem::Refusal,
    readiness::Readiness,
};

/// Checks tokens, with one key or with those that are published at a URL. A key has one algorithm.
pub struct Verifier {
    keys: Keys,
    query: bool,
    cookie: String,
    token_bytes: usize,
    patterns: usize,
}

enum Keys {
    One(Arc<Key>),
    Published(Arc<KeySet>),
}

/// What a token must say, whatever its key.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    leeway: Duration,
    audience: Vec<String>,
    issuer: Vec<String>,
}

impl Rules {
    pub(super) fn new(config: &JwtConfig) -> Self {
        Self {
            leeway: config.leeway,
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
        }
    }

    /// For tokens of one algorithm.
    pub(super) fn of(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        // A token for somebody else's audience is refused only where this edge knows its own.
        validation.validate_aud = !self.audience.is_empty();
        if !self.audience.is_empty() {
            validation.set_audience(&self.audience);
            required.push("aud");
        }
        if !self.issuer.is_empty() {
            validation.set_issuer(&self.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

impl Verifier {
    /// A verifier of this configuration.
    ///
    /// # Errors
    /// Where there is no usable key.
    pub fn new(config: &JwtConfig) -> Result<Self, ConfigError> {
        let rules = Rules::new(config);
        let keys = match &config.jwks_url {
            Some(url) => Keys::Published(Arc::new(KeySet::new(url, config, rules)?)),
            None => {
                let (decoding, algorithm) = key(config)?;
                let validation = rules.of(algorithm);
                Keys::One(Arc::new(Key {
                    decoding,
                    validation,
                }))
            }
        };
        Ok(Self {
            keys,
            query: config.query,
            cookie: config.cookie.clone(),
            token_bytes: config.token_bytes,
            patterns: config.patterns,
        })
    }

    /// Fetches published keys for as long as the verifier is held. Ends at once where there are
    /// none.
    pub(super) fn keep_keys(
        &self,
        readiness: Readiness,
        metrics: Metrics,
    ) -> impl Future<Output = ()> + Send + 'static {
        let set = match &self.keys {
            Keys::One(_) => None,
            Keys::Published(set) => Some(Arc::downgrade(set)),
        };
        let awaited = set
            .as_ref()
            .map(|_| "the keys of tokens have not been fetched yet");
        readiness.set_keys(awaited.map(Into::into));
        async move {
            if let Some(set) = set {
                KeySet::keep(set, readiness, metrics).await;
            }
        }
    }

    pub(super) fn takes_query_token(&self) -> bool {
        self.query
    }

    pub(super) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Checks a token. What anybody may do, its holder may do too.
    pub(super) fn verify(&self, token: &str, anonymous: &Grant) -> Result<Identity, Refusal> {
        if token.len() > self.token_bytes {
            let told = format!(
                "the token has {} bytes; at most {} are allowed",
                token.len(),
                self.token_bytes
            );
            return Err(Refusal::bad_token(told));
        }
        let key = match &self.keys {
            Keys::One(key) => key.clone(),
            Keys::Published(set) => set.find(token)?,
        };
        let Key {
            decoding,
            validation,
        } = &*key;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, decoding, validation)
            .map_err(|error| Refusal::bad_token(why(error.kind())))?
            .claims;
        let subject = match claims.get("sub") {
            None => None,
            Some(Value::String(subject)) => Some(Arc::from(subject.as_str())),
            Some(_) => return Err(Refusal::bad_token("the token's `sub` is not a string")),
        };
        let own = Grant::new(
            self.patterns(&claims, "subscribe")?,
            self.patterns(&claims, "publish")?,
        );
        let expires_at = claims
            .get("exp")
            .and_then(Value::as_f64)
            .and_then(|seconds| end(seconds, validation.leeway));
        let inner = Inner {
            subject,
            grant: own.with(anonymous),
            expires_at,
            claims,
            anonymous: false,
        };
        Ok(Identity {
            inner: Arc::new(inner),
        })
    }

    fn patterns(&self, claims: &Map<String, Value>, name: &str) -> Result<Vec<Pattern>, Refusal> {
        let list = match claims.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(_) => {
                let told = format!("the token's `{name}` is not a list of channels and patterns");
                return Err(Refusal::bad_token(told));
            }
        };
        if list.len() > self.patterns {
            let told = format!(
                "the token's `{name}` has {} entries; at most {} (auth.jwt.patterns) are allowed",
                list.len(),
                self.patterns
            );
            return Err(Refusal::bad_token(told));
        }
        let parse = |value: &Value| {
            let text = value.as_str().ok_or_else(|| {
                Refusal::bad_token(format!("the token's `{name}` holds what is not a string"))
            })?;
            Pattern::parse(text).map_err(|error| {
                Refusal::bad_token(format!("an entry of the token's `{name}` {error}"))
            })
        };
        list.iter().map(parse).collect()
    }
}

/// When a token of this `exp` ends; one that lives on the leeway alone, with the leeway. `None`
/// lies beyond the clock.
fn end(exp: f64, leeway: u64) -> Option<SystemTime> {
    let exp = SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)?;
    if exp > SystemTime::now() {
        Some(exp)
    } else {
        exp.checked_add(Duration::from_secs(leeway))
    }
}

fn key(config: &JwtConfig) -> Result<(DecodingKey, Algorithm), ConfigError> {
    if let Some(secret) = &config.secret {
        return Ok((DecodingKey::from_secret(secret.bytes()), Algorithm::HS256));
    }
    let pem = config.public_key.as_deref().unwrap_or_default().as_bytes();
    // Each constructor takes only PEM of its own family, so that the key decides the algorithm.
    let families = [
        (DecodingKey::from_rsa_pem(pem), Algorithm::RS256),
        (DecodingKey::from_ec_pem(pem), Algorithm::ES256),
        (DecodingKey::from_ed_pem(pem), Algorithm::EdDSA),
    ];
    let found = families
        .into_iter()
        .find_map(|(key, algorithm)| Some((key.ok()?, algorithm)));
    found.ok_or_else(|| {
        ConfigError::value(
            "auth.jwt.public_key",
            "unreadable",
            "a public key in PEM is allowed: RSA (RS256), EC P-256 (ES256) or Ed25519 (EdDSA)",
        )
    })
}

/// Why a token is refused, without a word of the token.
fn why(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet (`nbf`)",
        ErrorKind::InvalidSignature => "the token's signature does not match",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            "the token's algorithm is not the one of the configured key"
        }
        ErrorKind::InvalidAudience => "the token is for another audience (`aud`)",
        ErrorKind::InvalidIssuer => "the token is of another issuer (`iss`)",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "the token has no `exp`",
            "aud" => "the token has no `aud`",
            "iss" => "the token has no `iss`",
            _ => "the token lacks a claim",
        },
        ErrorKind::InvalidClaimFormat(_) => "a claim of the token is not of the right type",
        _ => "the token is malformed",
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(key) => write!(f, "{:?}", key.validation.algorithms),
            Self::Published(set) => set.fmt(f),
        }
    }
}
