//! Tokens: JSON Web Tokens (RFC 7519) whose algorithm is the key's, never the header's choice.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fanfare_core::Pattern;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{Grant, Identity, Inner};
use crate::{
    config::{ConfigError, JwtConfig},
    problem::Refusal,
};

/// Checks tokens with one key of one algorithm.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    query: bool,
    cookie: String,
    token_bytes: usize,
    patterns: usize,
}

impl Verifier {
    /// A verifier of this configuration.
    ///
    /// # Errors
    /// Where there is no usable key.
    pub fn new(config: &JwtConfig) -> Result<Self, ConfigError> {
        let (key, algorithm) = key(config)?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = config.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        // A token for somebody else's audience is refused only where this edge knows its own.
        validation.validate_aud = !config.audience.is_empty();
        if !config.audience.is_empty() {
            validation.set_audience(&config.audience);
            required.push("aud");
        }
        if !config.issuer.is_empty() {
            validation.set_issuer(&config.issuer);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            key,
            validation,
            query: config.query,
            cookie: config.cookie.clone(),
            token_bytes: config.token_bytes,
            patterns: config.patterns,
        })
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
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.validation)
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
            .and_then(|seconds| self.end(seconds));
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

    /// When a token of this `exp` ends; one that lives on the leeway alone, with the leeway.
    /// `None` lies beyond the clock.
    fn end(&self, exp: f64) -> Option<SystemTime> {
        let exp = SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)?;
        let leeway = Duration::from_secs(self.validation.leeway);
        if exp > SystemTime::now() {
            Some(exp)
        } else {
            exp.checked_add(leeway)
        }
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
            .field("algorithms", &self.validation.algorithms)
            .finish_non_exhaustive()
    }
}
