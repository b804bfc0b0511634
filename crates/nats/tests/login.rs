//! Logging in: TLS, nkeys, and what a refusal says.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use fanfare_core::{Broker, BrokerError, BrokerMetrics, ErrorKind};
use fanfare_nats::{Credentials, NatsBroker, NatsConfig, Tls};
use nkeys::KeyPair;
use support::Server;
use tempfile::TempDir;

/// A certificate for 127.0.0.1 that vouches for itself.
fn certificate(dir: &TempDir) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=fanfare test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    match made {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some((cert, key))
        }
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "openssl: {why}");
            eprintln!("SKIPPED: no openssl ({why}); apt install openssl");
            None
        }
    }
}

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

#[tokio::test]
async fn tls_is_used_where_it_is_asked_for_and_checked() {
    let dir = TempDir::new().unwrap();
    let Some((cert, key)) = certificate(&dir) else {
        return;
    };
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
    let broker = connect(trusting(Some(cert.clone()))).await.unwrap();
    broker.probe().await.unwrap();
    assert_eq!(
        server.monitor("/connz").await["connections"][0]["tls_version"],
        "1.3"
    );

    let other = TempDir::new().unwrap();
    let Some((stranger, _)) = certificate(&other) else {
        return;
    };
    for ca_file in [None, Some(stranger), Some(dir.path().join("absent"))] {
        let error = connect(trusting(ca_file)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains("TLS"), "{error}");
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
