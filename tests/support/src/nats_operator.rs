//! Who vouches for NATS users by signed tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account, as `nsc` makes them: servers know the operator's key, users show
/// tokens that the account has signed.
///
/// Source: <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt>.
#[derive(Debug)]
pub struct NatsOperator {
    operator: KeyPair,
    account: KeyPair,
}

impl NatsOperator {
    /// Makes one that nobody else knows.
    pub fn make() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            account: KeyPair::new_account(),
        }
    }

    /// Lines for the configuration of a server that trusts this operator.
    ///
    /// # Panics
    /// If a token cannot be signed.
    pub fn server_config(&self) -> String {
        let operator = token(
            &self.operator,
            &self.operator.public_key(),
            None,
            json!({"type": "operator", "version": 2}),
        );
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1,
        });
        let id = self.account.public_key();
        let account = token(
            &self.operator,
            &id,
            None,
            json!({"type": "account", "version": 2, "limits": limits}),
        );
        format!("operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {id}: {account} }}\n")
    }

    /// The text of a credentials file of a new user, good for so long.
    ///
    /// # Panics
    /// If a token cannot be signed.
    pub fn credentials(&self, good_for: Duration) -> String {
        let user = KeyPair::new_user();
        let rights = json!({
            "type": "user", "version": 2, "pub": {}, "sub": {},
            "subs": -1, "data": -1, "payload": -1,
        });
        let expires = now() + good_for.as_secs();
        let token = token(&self.account, &user.public_key(), Some(expires), rights);
        let seed = user.seed().expect("a key with its seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn token(issuer: &KeyPair, subject: &str, expires: Option<u64>, rights: Value) -> String {
    let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let mut claims = json!({
        "jti": subject, "iat": now(), "iss": issuer.public_key(), "sub": subject,
        "name": "test", "nats": rights,
    });
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("a key that signs");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
