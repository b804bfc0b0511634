//! `fanfare token`: makes a token for `auth.jwt.secret` (HS256).

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_core::Pattern;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use crate::{
    cli::Token,
    config::{read_secret, secret::Secret},
    exit::Failure,
};

/// RFC 7518, section 3.2: a key of HS256 is at least as long as its hash.
const SHORTEST_SECRET: usize = 32;

/// What a token says. The edge's `auth` reads it.
#[derive(Debug, Serialize)]
pub(crate) struct Claims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aud: Option<&'a str>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) subscribe: Vec<&'a str>,
    pub(crate) publish: Vec<&'a str>,
}

/// Makes a token of the options.
///
/// # Errors
/// Where there is no secret, or it is too short, or the token would allow nothing.
pub(crate) fn make(options: &Token) -> Result<String, Failure> {
    let secret = match (&options.secret_file, &options.secret_env) {
        (Some(file), _) => read_secret(file)
            .map_err(|why| Failure::usage(format!("--secret-file {}: {why}", file.display())))?,
        (None, Some(name)) => std::env::var(name).map_err(|_| {
            Failure::usage(format!(
                "--secret-env {name}: the variable is not set, or no text"
            ))
        })?,
        (None, None) => return Err(Failure::usage("--secret-file or --secret-env is needed")),
    };
    if options.subscribe.is_empty() && options.publish.is_empty() {
        return Err(Failure::usage(
            "the token would allow nothing; give --subscribe PATTERN or --publish PATTERN",
        ));
    }
    let texts =
        |patterns: &'_ [Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (subscribe, publish) = (texts(&options.subscribe), texts(&options.publish));
    let now = unix_seconds();
    sign(
        &Secret::new(secret),
        &Claims {
            sub: options.sub.as_deref(),
            iss: options.issuer.as_deref(),
            aud: options.audience.as_deref(),
            iat: now,
            exp: now.saturating_add(options.ttl.0.as_secs().max(1)),
            subscribe: subscribe.iter().map(String::as_str).collect(),
            publish: publish.iter().map(String::as_str).collect(),
        },
    )
}

/// Signs claims with HS256.
///
/// # Errors
/// Where the secret is too short.
pub(crate) fn sign(secret: &Secret, claims: &Claims<'_>) -> Result<String, Failure> {
    let secret = secret.expose().as_bytes();
    if secret.len() < SHORTEST_SECRET {
        return Err(Failure::usage(format!(
            "the secret has {} bytes; HS256 needs at least {SHORTEST_SECRET}, such as those of \
             `openssl rand -base64 32`",
            secret.len()
        )));
    }
    jsonwebtoken::encode(
        &Header::default(),
        claims,
        &EncodingKey::from_secret(secret),
    )
    .map_err(|error| Failure::failed(format!("cannot sign: {error}")))
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
