//! Tokens whose keys an identity provider publishes and rotates.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{PATIENCE, Server, config, memory, serve};
use fanfare_edge::{EdgeConfig, Reloader, config::JwtConfig};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time,
};

const ED: &[u8] = include_bytes!("keys/ed25519.pem");
const EC: &[u8] = include_bytes!("keys/p256.pem");

/// A provider of keys: what it answers, and how often it was asked.
#[derive(Clone)]
struct Provider {
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    address: SocketAddr,
}

impl Provider {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            answer: Arc::default(),
            asked: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        provider.publish(keys);
        let serving = provider.clone();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                while let Ok(1..) = socket.read(&mut request).await {
                    serving.asked.fetch_add(1, Ordering::SeqCst);
                    let (status, body) = serving.answer.lock().clone();
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            }
        });
        provider
    }

    fn publish(&self, keys: &[Value]) {
        *self.answer.lock() = (200, json!({ "keys": keys }).to_string());
    }

    fn fail(&self) {
        *self.answer.lock() = (500, String::new());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn config(&self, change: impl FnOnce(&mut JwtConfig)) -> EdgeConfig {
        let mut config = config();
        let mut jwt = JwtConfig {
            jwks_url: Some(format!("http://{}/keys?x=y", self.address)),
            ..JwtConfig::default()
        };
        change(&mut jwt);
        config.auth.jwt = Some(jwt);
        config
    }
}

fn private(id: &str) -> (Algorithm, EncodingKey) {
    match id {
        "new" => (Algorithm::ES256, EncodingKey::from_ec_pem(EC).unwrap()),
        _ => (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED).unwrap()),
    }
}

fn public(id: &str) -> Value {
    let (algorithm, key) = private(id);
    let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
    jwk.common.key_id = Some(id.into());
    serde_json::to_value(jwk).unwrap()
}

fn token(id: &str) -> String {
    let (algorithm, key) = private(id);
    let mut header = Header::new(algorithm);
    header.kid = Some(id.into());
    let claims = json!({ "exp": 4_000_000_000_u64, "subscribe": ["a.>"], "publish": ["a.>"] });
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

async fn told(server: &Server, id: &str) -> u16 {
    let header = format!("Bearer {}", token(id));
    let headers = [("Authorization", &*header)];
    let answer = server.send("GET", "/history/a.b", &headers, b"").await;
    if answer.status == 503 {
        assert_eq!(answer.problem(), "keys_unavailable");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    answer.status
}

async fn until(server: &Server, id: &str, status: u16) {
    let asked = async {
        while told(server, id).await != status {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        time::timeout(PATIENCE, asked).await.is_ok(),
        "{id} never {status}"
    );
}

async fn ready(server: &Server) -> (u16, String) {
    let answer = server.admin("GET", "/readyz").await;
    (answer.status, answer.text())
}

fn start(config: EdgeConfig) -> (Server, Reloader) {
    let mut reloader = None;
    let server = serve(config, memory(), |edge| {
        reloader = Some(edge.reloader());
        edge
    });
    (server, reloader.unwrap())
}

#[tokio::test]
async fn keys_are_rotated_without_a_restart() {
    let provider = Provider::start(&[public("old")]).await;
    let (server, _) = start(provider.config(|_| {}));
    until(&server, "old", 200).await;
    assert_eq!(server.metric("fanfare_edge_jwks_keys").await, 1.0);

    provider.publish(&[public("old"), public("new")]);
    // Not a 401, which a browser takes for the end.
    assert_eq!(told(&server, "new").await, 503);
    until(&server, "new", 200).await;
    assert_eq!(told(&server, "old").await, 200);

    // A key that never was: told so once it was looked for, and that is not done for each request.
    let asked = provider.asked();
    until(&server, "strange", 401).await;
    for _ in 0..50 {
        assert_eq!(told(&server, "strange").await, 401);
    }
    assert_eq!(provider.asked(), asked + 1);

    provider.publish(&[public("new")]);
    // Whoever is asked for makes the next fetch, after which the old key is gone.
    assert_eq!(told(&server, "other").await, 503);
    until(&server, "old", 503).await;
    until(&server, "old", 401).await;
}

#[tokio::test]
async fn a_node_without_keys_is_not_ready_and_becomes_so() {
    let provider = Provider::start(&[]).await;
    provider.fail();
    let (server, _) = start(provider.config(|_| {}));
    assert_eq!(told(&server, "old").await, 503);
    let (status, why) = ready(&server).await;
    assert_eq!(status, 503);
    assert!(why.contains("\"keys\"") && !why.contains("x=y"), "{why}");
    let failed = "fanfare_edge_jwks_fetches_total{outcome=\"error\"}";
    server.until_metric_is(failed, |count| count >= 1.0).await;
    provider.publish(&[public("old")]);
    until(&server, "old", 200).await;
    let ready = async {
        while ready(&server).await.0 != 200 {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(time::timeout(PATIENCE, ready).await.is_ok());
}

#[tokio::test]
async fn a_provider_that_is_away_changes_nothing_for_a_while() {
    let provider = Provider::start(&[public("old")]).await;
    let (server, _) = start(provider.config(|jwt| jwt.jwks_refresh = Duration::from_millis(50)));
    until(&server, "old", 200).await;
    provider.fail();
    let (asked, failed) = (
        provider.asked(),
        "fanfare_edge_jwks_fetches_total{outcome=\"error\"}",
    );
    server.until_metric_is(failed, |count| count >= 1.0).await;
    assert!(provider.asked() > asked);
    assert_eq!(told(&server, "old").await, 200);
    assert_eq!(ready(&server).await.0, 200);
}

#[tokio::test]
async fn a_reload_of_something_else_keeps_the_keys_and_of_the_url_fetches_others() {
    let provider = Provider::start(&[public("old")]).await;
    let (server, reloader) = start(provider.config(|_| {}));
    until(&server, "old", 200).await;
    let mut config = provider.config(|_| {});
    config.limits.connections = 7;
    let asked = provider.asked();
    reloader.reload(&config).unwrap();
    assert_eq!(told(&server, "old").await, 200);
    assert_eq!(provider.asked(), asked);

    let other = Provider::start(&[public("new")]).await;
    reloader.reload(&other.config(|_| {})).unwrap();
    until(&server, "new", 200).await;
    until(&server, "old", 401).await;
}

#[tokio::test]
async fn what_is_fetched_ends_with_the_edge() {
    let provider = Provider::start(&[public("old")]).await;
    let config = provider.config(|jwt| jwt.jwks_refresh = Duration::from_millis(10));
    let (mut server, reloader) = start(config);
    until(&server, "old", 200).await;
    server.drained().await;
    let asked = provider.asked();
    time::sleep(Duration::from_millis(100)).await;
    assert!(provider.asked() <= asked + 1, "one may have been under way");
    drop(reloader);
}
