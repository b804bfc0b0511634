//! Logging in: what lets us in, what a refusal says, and what is renewed.

use std::{path::PathBuf, time::Duration};

use fanfare_core::{Broker, BrokerError, BrokerMetrics, ErrorKind};
use fanfare_nats::{Credentials, NatsBroker, NatsConfig, Tls};
use fanfare_testkit::{Certificates, NatsOperator};
use nkeys::KeyPair;
use tempfile::TempDir;

use crate::support::{Server, until};

const LONG: Duration = Duration::from_secs(3600);

async fn connect(config: NatsConfig) -> Result<NatsBroker, BrokerError> {
    NatsBroker::connect(config, BrokerMetrics::unregistered("nats")).await
}

async fn works(config: NatsConfig) {
    connect(config).await.unwrap().probe().await.unwrap();
}

/// It is refused at once, by this setting, and nothing shows a secret.
async fn refused(config: NatsConfig, setting: &str) {
    let shown = format!("{config:?}");
    let error = connect(config).await.unwrap_err();
    let text = format!("{error} {error:?} {shown}");
    assert_eq!(error.kind(), ErrorKind::Rejected, "{text}");
    assert!(error.to_string().contains(setting), "{text}");
    assert!(
        !text.contains("s3cret") && !text.contains("wr0ng"),
        "{text}"
    );
}

fn file(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn with_credentials(server: &Server, credentials: Credentials) -> NatsConfig {
    NatsConfig {
        credentials,
        ..server.config(&[])
    }
}

#[tokio::test]
async fn a_password_or_a_token_lets_us_in_and_another_does_not() {
    let users = "authorization { users = [ { user: u, password: \"s3cret/@\" } ] }";
    let Some(server) = Server::start(users).await else {
        return;
    };
    let with = |user: &str, password: &str| {
        let credentials = Credentials {
            user: Some(user.into()),
            password: Some(password.into()),
            ..Credentials::default()
        };
        with_credentials(&server, credentials)
    };
    works(with("u", "s3cret/@")).await;
    refused(with("u", "wr0ng"), "broker.nats.credentials.user").await;
    let at = |log_in: &str| NatsConfig {
        urls: vec![format!("nats://{log_in}127.0.0.1:{}", server.port)],
        ..server.config(&[])
    };
    works(at("u:s3cret%2F%40@")).await;
    refused(at("u:wr0ng@"), "broker.nats.url").await;
    refused(at(""), "broker.nats.url").await;

    let Some(server) = Server::start("authorization { token: s3cret }").await else {
        return;
    };
    let with = |token: &str| {
        let credentials = Credentials {
            token: Some(token.into()),
            ..Credentials::default()
        };
        with_credentials(&server, credentials)
    };
    works(with("s3cret")).await;
    refused(with("wr0ng"), "broker.nats.credentials.token").await;
    works(NatsConfig {
        urls: vec![format!("nats://s3cret@127.0.0.1:{}", server.port)],
        ..server.config(&[])
    })
    .await;
}

#[tokio::test]
async fn an_nkey_lets_us_in_and_another_does_not() {
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
    let with = |path: PathBuf| {
        let credentials = Credentials {
            nkey_seed_file: Some(path),
            ..Credentials::default()
        };
        with_credentials(&server, credentials)
    };
    let setting = "broker.nats.credentials.nkey_seed_file";
    works(with(file(&dir, "known", known.seed().unwrap()))).await;
    refused(
        with(file(&dir, "stranger", stranger.seed().unwrap())),
        setting,
    )
    .await;
    refused(with(file(&dir, "other", "s3cret")), setting).await;
    refused(with(dir.path().join("absent")), setting).await;
}

#[tokio::test]
async fn a_credentials_file_lets_us_in_and_another_does_not() {
    let (dir, operator) = (TempDir::new().unwrap(), NatsOperator::make());
    let Some(server) = Server::start(&operator.server_config()).await else {
        return;
    };
    let with = |name: &str, text: &str| {
        let credentials = Credentials {
            credentials_file: Some(file(&dir, name, text)),
            ..Credentials::default()
        };
        with_credentials(&server, credentials)
    };
    let setting = "broker.nats.credentials.credentials_file";
    works(with("ours", &operator.credentials(LONG))).await;
    let others = NatsOperator::make().credentials(LONG);
    refused(with("others", &others), setting).await;
    refused(with("none", "s3cret"), setting).await;
}

#[tokio::test]
async fn a_renewed_credentials_file_counts_from_the_next_log_in_on() {
    const SHORT: Duration = Duration::from_secs(4);
    let (dir, operator) = (TempDir::new().unwrap(), NatsOperator::make());
    let Some(mut server) = Server::start(&operator.server_config()).await else {
        return;
    };
    let path = file(&dir, "ours", operator.credentials(SHORT));
    let credentials = Credentials {
        credentials_file: Some(path.clone()),
        ..Credentials::default()
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let config = with_credentials(&server, credentials);
    let broker = NatsBroker::connect(config, metrics.clone()).await.unwrap();
    broker.probe().await.unwrap();
    // The server ends the link once the token is over.
    std::fs::write(&path, operator.credentials(LONG)).unwrap();
    until("the link is back", async || metrics.reconnects.get() == 1).await;
    broker.probe().await.unwrap();
    // A file that is away for a moment costs nothing.
    std::fs::remove_file(&path).unwrap();
    server.nats.restart().await;
    until("and again", async || metrics.reconnects.get() == 2).await;
    broker.probe().await.unwrap();
}

#[tokio::test]
async fn tls_is_used_where_it_is_asked_for_and_checked() {
    let certificates = Certificates::make();
    let Some(server) = Server::start(&certificates.nats_config(false)).await else {
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
    let broker = connect(trusting(Some(certificates.ca()))).await.unwrap();
    broker.probe().await.unwrap();
    assert_eq!(
        server.monitor("/connz").await["connections"][0]["tls_version"],
        "1.3"
    );
    let stranger = Certificates::make();
    let absent = PathBuf::from("/nonexistent/ca.pem");
    for ca_file in [None, Some(stranger.ca()), Some(absent)] {
        refused(trusting(ca_file), "broker.nats.tls").await;
    }
}

#[tokio::test]
async fn a_certificate_of_ours_is_shown_to_a_server_that_wants_one() {
    let certificates = Certificates::make();
    let Some(server) = Server::start(&certificates.nats_config(true)).await else {
        return;
    };
    let showing = |ours: Option<(PathBuf, PathBuf)>| {
        let (cert_file, key_file) = ours.unzip();
        NatsConfig {
            tls: Tls {
                required: true,
                ca_file: Some(certificates.ca()),
                cert_file,
                key_file,
            },
            ..server.config(&[])
        }
    };
    works(showing(Some(certificates.client()))).await;
    refused(showing(None), "broker.nats.tls").await;
    let stranger = Certificates::make();
    refused(showing(Some(stranger.client())), "broker.nats.tls").await;
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
    refused(config, "broker.nats.tls").await;
}
