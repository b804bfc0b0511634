//! Logging in: TLS, users, tokens, nkeys, credentials files, and what a refusal says.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::{Path, PathBuf};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use fanfare_core::{Broker, BrokerError, BrokerMetrics, ErrorKind};
use fanfare_nats::{Credentials, NatsBroker, NatsConfig, Tls};
use fanfare_testkit::Certificates;
use nkeys::KeyPair;
use serde_json::{Value, json};
use support::Server;
use tempfile::TempDir;

async fn connect(config: NatsConfig) -> Result<NatsBroker, BrokerError> {
    NatsBroker::connect(config, BrokerMetrics::unregistered("nats")).await
}

fn seed_file(dir: &TempDir, key: &KeyPair) -> PathBuf {
    let path = dir.path().join(key.public_key());
    std::fs::write(&path, key.seed().unwrap()).unwrap();
    path
}

fn with_seed(path: &Path) -> Credentials {
    Credentials {
        nkey_seed_file: Some(path.into()),
        ..Credentials::default()
    }
}

#[tokio::test]
async fn an_nkey_logs_in_and_another_does_not() {
    let (dir, known, stranger) = (
        TempDir::new().unwrap(),
        KeyPair::new_user(),
        KeyPair::new_user(),
    );
    let users = format!(
        "authorization {{ users = [ {{ nkey: {} }} ] }}",
        known.public_key()
    );
    let Some(server) = Server::start(&users).await else {
        return;
    };
    let with = |key: &KeyPair| NatsConfig {
        credentials: with_seed(&seed_file(&dir, key)),
        ..server.config(&[])
    };
    connect(with(&known)).await.unwrap().probe().await.unwrap();
    let error = connect(with(&stranger)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(
        error
            .to_string()
            .contains("broker.nats.credentials.nkey_seed_file"),
        "{error}"
    );
}

/// Refused for good, by a sentence that names the setting and shows nothing secret.
async fn refused(config: NatsConfig, setting: &str) {
    let error = connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    let told = format!("{error} {error:?}");
    assert!(told.contains(setting), "{told}");
    assert!(!told.contains("hunter"), "{told}");
}

#[tokio::test]
async fn a_user_logs_in_by_settings_or_by_the_url() {
    let users = "authorization { user: \"ann\", password: \"hunter2/@\" }";
    let Some(server) = Server::start(users).await else {
        return;
    };
    let with = |password: &str| NatsConfig {
        credentials: Credentials {
            user: Some("ann".into()),
            password: Some(password.into()),
            ..Credentials::default()
        },
        ..server.config(&[])
    };
    connect(with("hunter2/@"))
        .await
        .unwrap()
        .probe()
        .await
        .unwrap();
    refused(with("hunter3"), "broker.nats.credentials.user").await;
    let at = |user: &str| NatsConfig {
        urls: vec![server.url().replace("nats://", &format!("nats://{user}@"))],
        ..server.config(&[])
    };
    let broker = connect(at("ann:hunter2%2F%40")).await.unwrap();
    broker.probe().await.unwrap();
    refused(at("ann:hunter3"), "broker.nats.url").await;
    refused(server.config(&[]), "broker.nats.url").await;
}

#[tokio::test]
async fn a_token_logs_in_and_another_does_not() {
    let Some(server) = Server::start("authorization { token: \"hunter2\" }").await else {
        return;
    };
    let with = |token: &str| NatsConfig {
        credentials: Credentials {
            token: Some(token.into()),
            ..Credentials::default()
        },
        ..server.config(&[])
    };
    connect(with("hunter2"))
        .await
        .unwrap()
        .probe()
        .await
        .unwrap();
    refused(with("hunter3"), "broker.nats.credentials.token").await;
}

/// A JWT as NATS has them: signed with an nkey.
///
/// Source: <https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt>.
fn jwt(issuer: &KeyPair, subject: &KeyPair, what: Value) -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": subject.public_key(), "iat": 1, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": what,
    });
    let signed = format!(
        "{}.{}",
        part(json!({"typ": "JWT", "alg": "ed25519-nkey"})),
        part(claims)
    );
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_credentials_file_logs_in_and_one_of_another_account_does_not() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let of_operator = jwt(
        &operator,
        &operator,
        json!({"type": "operator", "version": 2}),
    );
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1,
    });
    let what = json!({"type": "account", "version": 2, "limits": limits});
    let of_account = jwt(&operator, &account, what);
    let config = format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    );
    let Some(server) = Server::start(&config).await else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let with = |account: &KeyPair| {
        let user = KeyPair::new_user();
        let what = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        let (token, seed) = (jwt(account, &user, what), user.seed().unwrap());
        let file = dir.path().join(user.public_key());
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&file, text).unwrap();
        NatsConfig {
            credentials: Credentials {
                credentials_file: Some(file),
                ..Credentials::default()
            },
            ..server.config(&[])
        }
    };
    connect(with(&account))
        .await
        .unwrap()
        .probe()
        .await
        .unwrap();
    let setting = "broker.nats.credentials.credentials_file";
    refused(with(&KeyPair::new_account()), setting).await;
}

#[tokio::test]
async fn tls_is_used_where_it_is_asked_for_and_checked() {
    let made = Certificates::make();
    let (cert, key) = made.server();
    let tls = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    let Some(server) = Server::start(&tls).await else {
        return;
    };
    let trusting = |ca_file| NatsConfig {
        tls: Tls {
            ca_file,
            ..Tls::default()
        },
        ..server.config(&[])
    };
    // The server asks for it; the URL need not.
    let broker = connect(trusting(Some(made.ca()))).await.unwrap();
    broker.probe().await.unwrap();
    assert_eq!(
        server.monitor("/connz").await["connections"][0]["tls_version"],
        "1.3"
    );
    for ca_file in [
        None,
        Some(Certificates::make().ca()),
        Some(cert.join("absent")),
    ] {
        let error = connect(trusting(ca_file)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains("TLS"), "{error}");
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let made = Certificates::make();
    let ((cert, key), ca) = (made.server(), made.ca());
    let tls =
        format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}");
    let Some(server) = Server::start(&tls).await else {
        return;
    };
    let showing = |pair: Option<(PathBuf, PathBuf)>| {
        let (cert_file, key_file) = pair.unzip();
        NatsConfig {
            tls: Tls {
                ca_file: Some(made.ca()),
                cert_file,
                key_file,
                ..Tls::default()
            },
            ..server.config(&[])
        }
    };
    let broker = connect(showing(Some(made.client()))).await.unwrap();
    broker.probe().await.unwrap();
    let strangers = Certificates::make();
    for pair in [None, Some(strangers.client())] {
        // With TLS 1.3 a client hears of it only once it has begun to speak.
        assert!(connect(showing(pair)).await.is_err());
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let config = NatsConfig {
        tls: Tls {
            required: true,
            ..Tls::default()
        },
        ..server.config(&[])
    };
    assert!(connect(config).await.is_err());
}
