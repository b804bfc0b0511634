//! TLS and HTTP/2 on the public listener.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{PATIENCE, Server, config, find, memory, serve, start};
use fanfare_edge::{
    ConfigError, Edge, EdgeConfig, Reloader,
    auth::Secret,
    config::{RefusalMode, TlsConfig},
};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{self, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate authority, of which servers and clients have certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate chain and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `localhost` that ends with a year.
    fn issue(&self, until: i32) -> Pair {
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A client that trusts this authority and offers these protocols.
    fn client(&self, protocols: &[&str], pair: Option<&Pair>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes());
                config
                    .with_client_auth_cert(vec![certificate.unwrap()], key.unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        TlsConnector::from(Arc::new(config))
    }
}

impl Pair {
    fn tls(&self) -> TlsConfig {
        TlsConfig::new(&*self.certificate, Secret::new(&*self.key))
    }
}

struct Secure {
    server: Server,
    reloader: Reloader,
    authority: Authority,
}

impl Secure {
    fn start(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let authority = Authority::new();
        let mut config = config();
        config.server.tls = Some(authority.issue(2040).tls());
        change(&mut config);
        let mut reloader = None;
        let server = serve(config, memory(), |edge| {
            reloader = Some(edge.reloader());
            edge
        });
        let reloader = reloader.unwrap();
        Self {
            server,
            reloader,
            authority,
        }
    }

    async fn connect(&self, protocols: &[&str]) -> TlsStream<TcpStream> {
        self.try_connect(&self.authority.client(protocols, None))
            .await
            .unwrap()
    }

    async fn try_connect(&self, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.server.public).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connect = client.connect(name, socket);
        timeout(PATIENCE, connect).await.unwrap()
    }

    async fn h2(&self) -> SendRequest<Full<Bytes>> {
        let stream = self.connect(&["h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let executor = TokioExecutor::new();
        let (client, connection) =
            hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        client
    }
}

async fn send(
    client: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    body: &'static str,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .body(Full::from(body))
        .unwrap();
    timeout(PATIENCE, client.send_request(request))
        .await
        .unwrap()
        .unwrap()
}

/// Reads until the text was seen.
async fn until(body: &mut Incoming, text: &str) {
    let mut seen = Vec::new();
    while find(&seen, text.as_bytes()).is_none() {
        let frame = timeout(PATIENCE, body.frame()).await.unwrap();
        let frame = frame
            .unwrap_or_else(|| panic!("ended before {text}: {}", String::from_utf8_lossy(&seen)));
        seen.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
}

/// Reads to the end; whether it ended well.
async fn to_the_end(body: &mut Incoming) -> bool {
    loop {
        match timeout(PATIENCE, body.frame()).await.unwrap() {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(_)) => {}
        }
    }
}

const CONNECTIONS: &str = "fanfare_edge_connections";
const SOCKETS: &str = "fanfare_edge_sockets";

#[tokio::test]
async fn http_1_over_tls_streams_and_publishes() {
    let secure = Secure::start(|_| {});
    let mut stream = secure.connect(&[]).await;
    let head = common::head("GET", "/events?channel=a.>", &[], None);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = vec![0; 16 << 10];
    let mut filled = 0;
    while find(&seen[..filled], b"fanfare.hello").is_none() {
        filled += timeout(PATIENCE, stream.read(&mut seen[filled..]))
            .await
            .unwrap()
            .unwrap();
    }
    assert!(seen.starts_with(b"HTTP/1.1 200"));
    assert!(find(&seen, b"connection: keep-alive").is_some());

    let mut publisher = secure.connect(&["http/1.1"]).await;
    let head = common::head("POST", "/publish/a.b", &[("Connection", "close")], Some(2));
    publisher
        .write_all(format!("{head}hi").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, publisher.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(common::answer(&answer).status, 201);
    while find(&seen[..filled], b"data: hi").is_none() {
        filled += timeout(PATIENCE, stream.read(&mut seen[filled..]))
            .await
            .unwrap()
            .unwrap();
    }

    // A client that goes away is seen at once, also after a stray byte.
    secure.server.until_metric(CONNECTIONS, 1.0).await;
    stream.write_all(b"x").await.unwrap();
    drop(stream);
    secure.server.until_metric(CONNECTIONS, 0.0).await;
}

#[tokio::test]
async fn streams_of_http_2_share_a_socket_and_end_alone() {
    let secure = Secure::start(|_| {});
    let mut client = secure.h2().await;
    let first = send(&mut client, "GET", "/events?channel=a", "").await;
    assert_eq!(
        (first.status().as_u16(), first.version()),
        (200, Version::HTTP_2)
    );
    assert!(first.headers().get("connection").is_none());
    let mut second = send(&mut client, "GET", "/events?channel=a", "")
        .await
        .into_body();
    let mut first = first.into_body();
    secure.server.until_metric(CONNECTIONS, 2.0).await;
    // The metrics are asked for over a socket too.
    secure.server.until_metric(SOCKETS, 2.0).await;

    let status = send(&mut client, "POST", "/publish/a", "one")
        .await
        .status();
    assert_eq!(status, 201);
    until(&mut first, "data: one").await;
    until(&mut second, "data: one").await;

    // A reset of one stream.
    drop(first);
    secure.server.until_metric(CONNECTIONS, 1.0).await;
    send(&mut client, "POST", "/publish/a", "two").await;
    until(&mut second, "data: two").await;
    // The end of the socket.
    drop((second, client));
    secure.server.until_metric(CONNECTIONS, 0.0).await;
    secure.server.until_metric(SOCKETS, 1.0).await;
}

#[tokio::test]
async fn every_answer_of_http_2_has_an_end() {
    let secure = Secure::start(|config| {
        config.limits.connections = 1;
        config.limits.refusal = RefusalMode::RetryStream;
    });
    let mut client = secure.h2().await;
    for (method, path, status) in [
        ("HEAD", "/events?channel=a", 200),
        ("GET", "/history/a", 200),
        ("GET", "/poll?channel=a&timeout=0", 200),
        ("GET", "/events", 400),
        ("DELETE", "/events", 405),
        ("GET", "/nowhere", 404),
    ] {
        let answer = send(&mut client, method, path, "").await;
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        assert!(to_the_end(&mut answer.into_body()).await, "{method} {path}");
    }
    let mut held = send(&mut client, "GET", "/events?channel=a", "")
        .await
        .into_body();
    until(&mut held, "fanfare.hello").await;
    let refused = send(&mut client, "GET", "/events?channel=a", "").await;
    assert_eq!(refused.status(), 200);
    assert!(refused.headers().get("connection").is_none());
    let mut refused = refused.into_body();
    until(&mut refused, "fanfare.close").await;
    assert!(to_the_end(&mut refused).await);
}

#[tokio::test]
async fn a_stalled_stream_of_http_2_is_reset_alone() {
    let secure = Secure::start(|config| {
        config.delivery.stall_timeout = Duration::from_millis(300);
        config.delivery.outbox_bytes = 64 << 10;
    });
    let mut client = secure.h2().await;
    // Its window fills, and nobody reads it.
    let mut stalled = send(&mut client, "GET", "/events?channel=big", "")
        .await
        .into_body();
    let mut small = send(&mut client, "GET", "/events?channel=small", "")
        .await
        .into_body();
    secure.server.until_metric(CONNECTIONS, 2.0).await;
    let big: &'static str = Box::leak("x".repeat(512 << 10).into_boxed_str());
    for _ in 0..8 {
        let mut publisher = secure.h2().await;
        assert_eq!(
            send(&mut publisher, "POST", "/publish/big", big)
                .await
                .status(),
            201
        );
    }
    secure.server.until_metric(CONNECTIONS, 1.0).await;
    assert!(!to_the_end(&mut stalled).await, "it was reset");
    send(&mut client, "POST", "/publish/small", "still here").await;
    until(&mut small, "still here").await;
}

#[tokio::test]
async fn a_drain_ends_the_streams_of_http_2_gently() {
    let mut secure = Secure::start(|_| {});
    let mut client = secure.h2().await;
    let mut stream = send(&mut client, "GET", "/events?channel=a", "")
        .await
        .into_body();
    until(&mut stream, "fanfare.hello").await;
    tokio::join!(secure.server.drained(), async {
        until(&mut stream, "fanfare.close").await;
        assert!(to_the_end(&mut stream).await);
    });
    let gone = async {
        while client.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        timeout(PATIENCE, gone).await.is_ok(),
        "the client is told to go"
    );
}

#[tokio::test]
async fn an_idle_connection_of_http_2_is_closed_and_a_busy_one_is_not() {
    let secure = Secure::start(|config| config.server.idle_timeout = Duration::from_secs(1));
    let mut busy = secure.h2().await;
    let mut stream = send(&mut busy, "GET", "/events?channel=a", "")
        .await
        .into_body();
    until(&mut stream, "fanfare.hello").await;
    let mut idle = secure.h2().await;
    assert_eq!(send(&mut idle, "GET", "/history/a", "").await.status(), 200);
    let gone = async {
        while idle.ready().await.is_ok() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok());
    // The other one, whose stream began before, and this question's own.
    secure.server.until_metric(SOCKETS, 2.0).await;
    send(&mut busy, "POST", "/publish/a", "there").await;
    until(&mut stream, "data: there").await;
}

#[tokio::test]
async fn http_2_is_offered_only_where_it_is_wanted() {
    let secure = Secure::start(|config| config.server.tls.as_mut().unwrap().http2 = false);
    let stream = secure.connect(&["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let with = Secure::start(|_| {});
    let stream = with.connect(&["http/1.1", "h2"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_disconnect() {
    let secure = Secure::start(|_| {});
    const EXPIRY: &str = "fanfare_edge_tls_certificate_expiry_timestamp_seconds";
    let ends = |year: i32| date_time_ymd(year, 1, 1).unix_timestamp() as f64;
    assert_eq!(secure.server.metric(EXPIRY).await, ends(2040));
    let mut client = secure.h2().await;
    let mut stream = send(&mut client, "GET", "/events?channel=a", "")
        .await
        .into_body();
    until(&mut stream, "fanfare.hello").await;

    let renewed = secure.authority.issue(2050);
    let shown = async || {
        let stream = secure.connect(&[]).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let expected = CertificateDer::from_pem_slice(renewed.certificate.as_bytes()).unwrap();
    assert_ne!(shown().await, expected);
    secure.reloader.renew(&renewed.tls()).unwrap();
    assert_eq!(shown().await, expected);
    assert_eq!(secure.server.metric(EXPIRY).await, ends(2050));
    // A key of another certificate changes nothing.
    let other = secure.authority.issue(2060);
    let mut wrong = renewed.tls();
    wrong.key = Secret::new(&*other.key);
    assert!(secure.reloader.renew(&wrong).is_err());
    assert_eq!(shown().await, expected);
    assert_eq!(secure.server.metric(EXPIRY).await, ends(2050));

    send(&mut client, "POST", "/publish/a", "still").await;
    until(&mut stream, "data: still").await;
}

#[tokio::test]
async fn only_clients_of_an_authority_are_let_in() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let secure = Secure::start(|config| {
        config.server.tls.as_mut().unwrap().client_ca = Some(ours.0.pem());
    });
    let answers = async |pair: Option<&Pair>| {
        let client = secure.authority.client(&[], pair);
        // With TLS 1.3 the client hears of a refusal only when it reads.
        let mut stream = secure.try_connect(&client).await.ok()?;
        let head = common::head("GET", "/history/a", &[("Connection", "close")], None);
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .ok()?;
        Some(common::answer(&answer).status)
    };
    assert_eq!(answers(Some(&ours.issue(2040))).await, Some(200));
    assert_eq!(answers(None).await, None);
    assert_eq!(answers(Some(&strangers.issue(2040))).await, None);
    let failures = "fanfare_edge_tls_handshake_failures_total{reason=\"protocol\"}";
    secure.server.until_metric(failures, 2.0).await;
}

#[tokio::test]
async fn handshakes_that_go_nowhere_end_in_time_and_are_counted() {
    let secure = Secure::start(|config| {
        config.server.tls.as_mut().unwrap().handshake_timeout = Duration::from_millis(200);
    });
    let failures =
        |reason: &str| format!("fanfare_edge_tls_handshake_failures_total{{reason=\"{reason}\"}}");
    let mut silent = TcpStream::connect(secure.server.public).await.unwrap();
    let ended = timeout(PATIENCE, silent.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    secure.server.until_metric(&failures("timeout"), 1.0).await;

    let mut plain = TcpStream::connect(secure.server.public).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut heard))
        .await
        .unwrap();
    assert!(!heard.starts_with(b"HTTP"));
    secure.server.until_metric(&failures("protocol"), 1.0).await;

    drop(TcpStream::connect(secure.server.public).await.unwrap());
    secure.server.until_metric(&failures("closed"), 1.0).await;
    secure.server.until_metric(SOCKETS, 1.0).await;
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_by_name_and_never_shown() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(2040), authority.issue(2040));
    let refused = |change: &dyn Fn(&mut TlsConfig)| {
        let mut config = config();
        let mut tls = one.tls();
        change(&mut tls);
        config.server.tls = Some(tls);
        let error = Edge::build(config, memory(), &Registry::new())
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("nonsense") && !error.contains("-----"),
            "{error}"
        );
        error.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(
        refused(&|tls| tls.certificate = "nonsense".into()),
        "server.tls.cert_file"
    );
    assert_eq!(
        refused(&|tls| tls.key = Secret::new("nonsense")),
        "server.tls.key_file"
    );
    assert_eq!(
        refused(&|tls| tls.key = Secret::new(&*other.key)),
        "server.tls.key_file"
    );
    assert_eq!(
        refused(&|tls| tls.client_ca = Some(String::new())),
        "server.tls.client_ca_file"
    );
    assert_eq!(
        refused(&|tls| tls.http2_streams = 0),
        "server.tls.http2_streams"
    );
    assert_eq!(
        refused(&|tls| tls.handshake_timeout = Duration::ZERO),
        "server.tls.handshake_timeout"
    );
}

#[tokio::test]
async fn a_plain_edge_stays_plain() {
    let server = start();
    let mut config = config();
    config.server.tls = Some(Authority::new().issue(2040).tls());
    let mut reloader = None;
    let plain = serve(common::config(), memory(), |edge| {
        reloader = Some(edge.reloader());
        edge
    });
    let taken: Result<(), ConfigError> = reloader.unwrap().reload(&config);
    assert!(taken.is_ok());
    assert_eq!(plain.get("/history/a").await.status, 200);
    drop(server);
}
