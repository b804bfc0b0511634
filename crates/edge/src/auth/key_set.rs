//! Keys that an identity provider publishes (JWKS, RFC 7517, section 5) and rotates.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use super::{fetch::Source, jwt::Rules};
use crate::{
    config::{ConfigError, JwtConfig},
    metrics::Metrics,
    problem::Refusal,
    readiness::Readiness,
};

/// The most keys that are taken of a set.
const MAX_KEYS: usize = 100;
/// How long after a fetch tokens of unknown keys are no reason for another one: strangers can name
/// keys that never were.
const COOLDOWN: Duration = Duration::from_secs(5);
/// The most unknown keys that wait for a fetch at once, and the longest name of one, in bytes.
const MAX_ASKED: usize = 64;
const MAX_ID_BYTES: usize = 256;
/// When somebody may come back whose token's key is being fetched.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// The waits after fetches that failed.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A key, and how tokens of it are judged.
pub(super) struct Key {
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

/// The keys behind a URL.
pub(super) struct KeySet {
    source: Source,
    rules: Rules,
    refresh: Duration,
    max_age: Duration,
    state: Mutex<State>,
    /// A token of an unknown key came.
    wanted: Arc<Notify>,
}

#[derive(Default)]
struct State {
    keys: Vec<(Option<Box<str>>, Arc<Key>)>,
    /// When the last good fetch began.
    fetched: Option<Instant>,
    /// Names of keys that were not there, and that nobody has looked for since.
    asked: HashSet<String>,
    /// Names that were not there when they were looked for.
    missing: HashSet<String>,
}

/// A document of keys; those of kinds that are not known are passed over one by one.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// # Errors
    /// Where the URL is none that keys may come from.
    pub(super) fn new(url: &str, config: &JwtConfig, rules: Rules) -> Result<Self, ConfigError> {
        Ok(Self {
            source: Source::new(url)?,
            rules,
            refresh: config.jwks_refresh,
            max_age: config.jwks_max_age,
            state: Mutex::default(),
            wanted: Arc::default(),
        })
    }

    /// The key that a token names.
    ///
    /// # Errors
    /// 401 where there is no such key; 503 where that cannot be known yet.
    pub(super) fn find(&self, token: &str) -> Result<Arc<Key>, Refusal> {
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| Refusal::bad_token("the token is malformed"))?;
        let mut state = self.state.lock();
        if state.fetched.is_none_or(|at| at.elapsed() >= self.max_age) {
            return Err(unknown_yet());
        }
        let fits = |(id, key): &&(Option<Box<str>>, Arc<Key>)| {
            let named = header.kid.is_none() || header.kid.as_deref() == id.as_deref();
            named && key.validation.algorithms.contains(&header.alg)
        };
        let mut fitting = state.keys.iter().filter(fits).map(|(_, key)| key.clone());
        let (first, second) = (fitting.next(), fitting.next());
        drop(fitting);
        match first {
            Some(_) if header.kid.is_none() && second.is_some() => Err(Refusal::bad_token(
                "the token does not name its key (`kid`)",
            )),
            Some(key) => Ok(key),
            None if state.asks(header.kid.as_deref().unwrap_or_default()) => {
                self.wanted.notify_one();
                Err(unknown_yet())
            }
            None => Err(Refusal::bad_token(
                "the token's key is not in the published set (`kid`, `alg`)",
            )),
        }
    }

    /// Fetches the keys, again and again, for as long as anybody holds the set.
    pub(super) async fn keep(held: Weak<Self>, readiness: Readiness, metrics: Metrics) {
        let mut backoff = FIRST_BACKOFF;
        while let Some(set) = held.upgrade() {
            let url = set.source.to_string();
            let began = Instant::now();
            let asked = std::mem::take(&mut set.state.lock().asked);
            let fetched = match set.source.fetch().await {
                Ok(document) => set.take(&document, began, asked),
                Err(why) => Err(why),
            };
            metrics.key_fetch(fetched.is_ok());
            let wait = match fetched {
                Ok(count) => {
                    tracing::debug!(url, count, "fetched the keys of tokens");
                    metrics.keys.set(i64::try_from(count).unwrap_or(i64::MAX));
                    readiness.set_keys(None);
                    backoff = FIRST_BACKOFF;
                    set.refresh
                }
                Err(why) => {
                    tracing::warn!(url, why, "the keys of tokens cannot be fetched");
                    if set.is_stale() {
                        readiness.set_keys(Some(format!("no keys from {url}: {why}")));
                    }
                    let wait = backoff;
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                    wait
                }
            };
            // Nodes that began together do not ask together.
            let wait = wait.mul_f64(0.9 + fastrand::f64() / 10.0);
            let wanted = set.wanted.clone();
            let asked_for = async {
                time::sleep_until(began + COOLDOWN).await;
                wanted.notified().await;
            };
            // Nobody may need the keys any more when the wait is over.
            drop(set);
            tokio::select! {
                () = time::sleep(wait) => {}
                () = asked_for => {}
            }
        }
    }

    /// Takes a document in place of the one before.
    fn take(
        &self,
        document: &[u8],
        began: Instant,
        asked: HashSet<String>,
    ) -> Result<usize, String> {
        let document: Document =
            serde_json::from_slice(document).map_err(|_| "the answer is no key set".to_owned())?;
        let read = |value| self.read(serde_json::from_value(value).ok()?);
        let keys: Vec<_> = (document.keys.into_iter().take(MAX_KEYS))
            .filter_map(read)
            .collect();
        if keys.is_empty() {
            return Err("the set has no key that signs tokens (RSA, EC, Ed25519)".into());
        }
        let count = keys.len();
        let mut state = self.state.lock();
        (state.keys, state.fetched, state.missing) = (keys, Some(began), asked);
        Ok(count)
    }

    /// Whether there are no keys that may still be used.
    fn is_stale(&self) -> bool {
        let state = self.state.lock();
        state.fetched.is_none_or(|at| at.elapsed() >= self.max_age)
    }

    fn read(&self, jwk: Jwk) -> Option<(Option<Box<str>>, Arc<Key>)> {
        let signs = jwk.common.public_key_use.as_ref();
        if signs.is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        let key = Key {
            decoding: DecodingKey::from_jwk(&jwk).ok()?,
            validation: self.rules.of(algorithm(&jwk)?),
        };
        Some((jwk.common.key_id.map(Into::into), Arc::new(key)))
    }
}

impl State {
    /// Whether a key that is not there is worth a fetch, which is then to be made.
    fn asks(&mut self, id: &str) -> bool {
        if self.missing.contains(id) || id.len() > MAX_ID_BYTES {
            return false;
        }
        let known = self.asked.contains(id);
        if !known && self.asked.len() < MAX_ASKED {
            self.asked.insert(id.to_owned());
        }
        known || self.asked.contains(id)
    }
}

/// The one algorithm of a key: its own word, where that fits its kind, else the usual one of its
/// kind. Never a symmetric one: what is published is no secret.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let usual: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(_) => &[EdDSA],
        _ => return None,
    };
    match jwk.common.key_algorithm {
        None => usual.first().copied(),
        Some(named) => {
            let named = Algorithm::try_from(named).ok()?;
            usual.contains(&named).then_some(named)
        }
    }
}

fn unknown_yet() -> Refusal {
    Refusal::KeysUnavailable {
        retry_after: RETRY_AFTER,
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
