//! Who is asking, and what they may do.
//!
//! A request's token becomes an [`Identity`] with a [`Grant`]. Nothing behind this room sees a
//! token.

mod fetch;
mod grant;
mod jwt;
mod key_set;
mod secret;
mod token;

use std::{sync::Arc, time::SystemTime};

use fanfare_core::Pattern;
use http::request::Parts;
use serde_json::{Map, Value};

pub use grant::{Action, Grant};
pub use jwt::Verifier;
pub use secret::Secret;

use crate::{
    config::{AuthConfig, ConfigError, CorsConfig},
    metrics::Metrics,
    origin::Origins,
    problem::Refusal,
    readiness::Readiness,
};

/// Who is asking. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Identity {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    subject: Option<Arc<str>>,
    claims: Map<String, Value>,
    grant: Grant,
    expires_at: Option<SystemTime>,
    anonymous: bool,
}

impl Identity {
    fn anonymous(grant: Grant) -> Self {
        let inner = Inner {
            subject: None,
            claims: Map::new(),
            grant,
            expires_at: None,
            anonymous: true,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Somebody without a token who may do nothing.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self::anonymous(Grant::default())
    }

    /// Whether there is no token.
    pub fn is_anonymous(&self) -> bool {
        self.inner.anonymous
    }

    /// The token's `sub`.
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.inner.subject.as_ref()
    }

    /// A claim of the token, among them its own: those that Fanfare does not know are kept.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.inner.claims.get(name)
    }

    /// What it may do.
    pub fn grant(&self) -> &Grant {
        &self.inner.grant
    }

    /// When the token ends.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at
    }
}

/// Answers who is asking.
#[derive(Debug)]
pub(crate) struct Authenticator {
    anonymous: Identity,
    verifier: Option<Arc<Verifier>>,
    origins: Origins,
}

impl Authenticator {
    pub(crate) fn new(auth: &AuthConfig, cors: &CorsConfig) -> Result<Self, ConfigError> {
        let verifier = auth.jwt.as_ref().map(Verifier::new).transpose()?;
        Ok(Self::with(auth, cors, verifier.map(Arc::new)))
    }

    /// In place of this one, whose settings were `before`. What was fetched is not fetched again.
    pub(crate) fn replaced(
        &self,
        before: &AuthConfig,
        auth: &AuthConfig,
        cors: &CorsConfig,
    ) -> Result<Self, ConfigError> {
        if auth.jwt == before.jwt {
            return Ok(Self::with(auth, cors, self.verifier.clone()));
        }
        Self::new(auth, cors)
    }

    fn with(auth: &AuthConfig, cors: &CorsConfig, verifier: Option<Arc<Verifier>>) -> Self {
        let grant = match &auth.anonymous {
            _ if auth.is_open() => Grant::everything(),
            Some(anonymous) => Grant::new(anonymous.subscribe.clone(), anonymous.publish.clone()),
            None => Grant::default(),
        };
        Self {
            anonymous: Identity::anonymous(grant),
            verifier,
            origins: Origins::new(cors),
        }
    }

    /// Fetches published keys for as long as this is held, where that is not under way.
    pub(crate) fn keep_keys(
        &self,
        before: Option<&Self>,
        readiness: Readiness,
        metrics: Metrics,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let verifier = self.verifier.as_ref();
        let kept = before.and_then(|before| before.verifier.as_ref());
        if let (Some(verifier), Some(kept)) = (verifier, kept)
            && Arc::ptr_eq(verifier, kept)
        {
            return None;
        }
        match verifier {
            Some(verifier) => Some(verifier.keep_keys(readiness, metrics)),
            None => {
                readiness.set_keys(None);
                None
            }
        }
    }

    /// Whether a token may stand in the URL as `access_token`.
    pub(crate) fn takes_query_token(&self) -> bool {
        self.verifier
            .as_ref()
            .is_some_and(|verifier| verifier.takes_query_token())
    }

    /// Who is asking. A token that is there must be good: falling back to anonymous would hide
    /// from its owner that it is not.
    pub(crate) fn identify(&self, parts: &Parts) -> Result<Identity, Refusal> {
        let Some(verifier) = &self.verifier else {
            return Ok(self.anonymous.clone());
        };
        let Some(token) = token::find(parts, verifier)? else {
            return Ok(self.anonymous.clone());
        };
        if token.from_cookie {
            // A browser sends a cookie whoever's page asks.
            self.origins.admit(parts)?;
        }
        verifier.verify(&token.text, self.anonymous.grant())
    }

    /// Who is asking, to publish: no page of a foreign origin publishes with what its visitor's
    /// browser adds by itself, be it a cookie or its place on the loopback network.
    pub(crate) fn identify_publisher(&self, parts: &Parts) -> Result<Identity, Refusal> {
        let identity = self.identify(parts)?;
        if !parts.headers.contains_key(http::header::AUTHORIZATION) {
            self.origins.admit(parts)?;
        }
        Ok(identity)
    }

    /// Whether `identity` may do `action` on all of `channels`.
    pub(crate) fn authorize(
        &self,
        identity: &Identity,
        action: Action,
        channels: &[Pattern],
    ) -> Result<(), Refusal> {
        let Some(denied) = channels
            .iter()
            .find(|wanted| !identity.grant().covers(action, wanted))
        else {
            return Ok(());
        };
        // 401 says "come with a token": only where one would help.
        if identity.is_anonymous() && self.verifier.is_some() {
            return Err(Refusal::TokenNeeded {
                action,
                channel: denied.clone(),
            });
        }
        Err(Refusal::NotGranted {
            action,
            channel: denied.clone(),
        })
    }
}
