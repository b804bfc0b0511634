//! Other settings for an edge that serves, without a disconnect.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use common::{PATIENCE, Server, Stream, answer, config, head, memory, serve};
use fanfare_core::{Event, Pattern};
use fanfare_edge::{
    ConfigError, Edge, EdgeConfig, Filter, FilterClass, FilterFactory, Identity, RefusalMode,
    Reloader, View,
    auth::Secret,
    config::{AnonymousConfig, JwtConfig},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prometheus::Registry;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

const OLD: &str = "the old secret of more than 32 bytes";
const NEW: &str = "the new secret of more than 32 bytes";
const ED_PRIVATE: &str = include_str!("keys/ed25519.pem");
const ED_PUBLIC: &str = include_str!("keys/ed25519.pub.pem");
const CONNECTIONS: &str = "fanfare_edge_connections";

fn start(config: EdgeConfig) -> (Server, Reloader) {
    let mut reloader = None;
    let server = serve(config, memory(), |edge| {
        reloader = Some(edge.reloader());
        edge
    });
    (server, reloader.unwrap())
}

fn with_secret(secret: &str) -> EdgeConfig {
    let mut config = config();
    config.auth.jwt = Some(JwtConfig {
        secret: Some(Secret::new(secret)),
        ..JwtConfig::default()
    });
    config
}

fn anonymous(subscribe: &str) -> AnonymousConfig {
    AnonymousConfig {
        subscribe: vec![subscribe.parse().unwrap()],
        publish: vec![],
    }
}

fn bearer(algorithm: Algorithm, key: &EncodingKey, seconds: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let claims = json!({
        "exp": now.as_secs() + seconds, "sub": "alice", "subscribe": ["a.>"], "publish": ["a.>"],
    });
    let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, key).unwrap();
    format!("Bearer {token}")
}

fn signed(secret: &str, seconds: u64) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    bearer(Algorithm::HS256, &key, seconds)
}

async fn send(server: &Server, method: &str, path: &str, authorization: &str) -> u16 {
    let headers = [("Authorization", authorization)];
    server.send(method, path, &headers, b"x").await.status
}

#[tokio::test]
async fn a_new_key_counts_for_new_requests_and_open_streams_go_on() {
    let (server, reloader) = start(with_secret(OLD));
    let (old, new) = (signed(OLD, 600), signed(NEW, 600));
    let stream = "/events?channel=a.b";
    let mut open = server.stream_with(stream, &[("Authorization", &old)]).await;
    let brief = signed(OLD, 4);
    let mut ending = server
        .stream_with(stream, &[("Authorization", &brief)])
        .await;
    assert_eq!(send(&server, "GET", "/history/a.b", &new).await, 401);

    reloader.reload(&with_secret(NEW)).unwrap();
    for (method, path) in [
        ("GET", "/history/a.b"),
        ("POST", "/publish/a.b"),
        ("HEAD", stream),
        ("GET", "/poll?channel=a.b&timeout=0"),
    ] {
        assert_eq!(send(&server, method, path, &old).await, 401, "{path}");
        let answered = send(&server, method, path, &new).await;
        assert!(matches!(answered, 200 | 201), "{path}: {answered}");
    }
    assert_eq!(open.event().await.data, "x");
    assert_eq!(ending.event().await.data, "x");
    // Its grant lasts as long as its token, not longer.
    let last = ending.event().await;
    assert_eq!(last.event.as_deref(), Some("fanfare.close"), "{last:?}");
    assert_eq!(last.json()["reason"], "expired");

    // From a shared secret to a public key.
    let mut config = with_secret(NEW);
    let jwt = config.auth.jwt.as_mut().unwrap();
    (jwt.secret, jwt.public_key) = (None, Some(ED_PUBLIC.into()));
    reloader.reload(&config).unwrap();
    let key = EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap();
    let by_key = bearer(Algorithm::EdDSA, &key, 600);
    assert_eq!(send(&server, "POST", "/publish/a.b", &new).await, 401);
    assert_eq!(send(&server, "POST", "/publish/a.b", &by_key).await, 201);
    assert_eq!(open.event().await.data, "x");
}

#[tokio::test]
async fn anonymous_patterns_change_for_who_comes_next() {
    let mut config = config();
    config.auth.anonymous = Some(anonymous("public.>"));
    let (server, reloader) = start(config.clone());
    let _open = server.stream("/events?channel=public.a").await;
    config.auth.anonymous = Some(anonymous("news.>"));
    reloader.reload(&config).unwrap();
    assert_eq!(server.get("/history/public.a").await.status, 403);
    assert_eq!(server.get("/history/news.a").await.status, 200);
    assert_eq!(server.metric(CONNECTIONS).await, 1.0);
}

#[tokio::test]
async fn origins_change_also_from_none_and_back() {
    let (server, reloader) = start(config());
    let told = async |origin: &str| {
        let headers = [("Origin", origin)];
        let answer = server.send("GET", "/history/a", &headers, b"").await;
        let allowed = answer.header("access-control-allow-origin");
        (allowed.map(str::to_owned), answer.header("vary").is_some())
    };
    let (app, web) = ("https://app.example", "https://web.example");
    let reload = |origins: &[&str]| {
        let mut config = config();
        config.cors.origins = origins.iter().map(|text| text.parse().unwrap()).collect();
        reloader.reload(&config).unwrap();
    };
    let publish = async |origin: &str| {
        let headers = [("Origin", origin)];
        server
            .send("POST", "/publish/a", &headers, b"x")
            .await
            .status
    };
    assert_eq!(told(app).await, (None, false));
    assert_eq!(publish(app).await, 403);
    reload(&[app]);
    assert_eq!(told(app).await, (Some(app.into()), true));
    assert_eq!((publish(app).await, publish(web).await), (201, 403));
    reload(&[web]);
    assert_eq!(told(app).await, (None, true));
    assert_eq!(told(web).await, (Some(web.into()), true));
    assert_eq!((publish(app).await, publish(web).await), (403, 201));
    reload(&["*"]);
    assert_eq!(told(app).await, (Some("*".into()), true));
    reload(&[]);
    assert_eq!(told(app).await, (None, false));
}

#[tokio::test]
async fn a_bound_below_what_is_held_refuses_the_new_and_cuts_nobody() {
    let (server, reloader) = start(config());
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(server.stream("/events?channel=a").await);
    }
    let reload = |connections, connections_per_client| {
        let mut config = config();
        config.limits.connections = connections;
        config.limits.connections_per_client = connections_per_client;
        reloader.reload(&config).unwrap();
    };
    reload(2, 100);
    assert_eq!(server.metric("fanfare_edge_connections_limit").await, 2.0);
    let refused = server.get("/events?channel=a").await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (429, "too_many_connections")
    );
    server.publish("a", "to all").await;
    for stream in &mut held {
        assert_eq!(stream.event().await.data, "to all");
    }
    assert_eq!(server.metric(CONNECTIONS).await, 4.0);
    // Slots that were taken under the old bound count under the new one.
    held.truncate(2);
    server.until_metric(CONNECTIONS, 2.0).await;
    assert_eq!(server.get("/events?channel=a").await.status, 429);
    held.truncate(1);
    server.until_metric(CONNECTIONS, 1.0).await;
    held.push(server.stream("/events?channel=a").await);
    reload(100, 2);
    assert_eq!(server.get("/events?channel=a").await.status, 429);
    reload(100, 3);
    held.push(server.stream("/events?channel=a").await);
}

#[tokio::test]
async fn what_is_asked_per_request_is_asked_anew() {
    let mut config = config();
    let (server, reloader) = start(config.clone());
    let limits = &mut config.limits;
    limits.channels_per_connection = 1;
    limits.event_bytes = 4;
    limits.batch_bytes = 64;
    limits.batch_items = 1;
    limits.subscribe_bytes = 48;
    limits.poll_timeout = Duration::from_secs(1);
    limits.publishes = 1;
    limits.refusal = RefusalMode::RetryStream;
    limits.retry_after = Duration::from_secs(77);
    limits.connections_per_client = 1;
    config.page.title = "Reloaded".into();
    let two = "/poll?channel=a&channel=b&timeout=0";
    let pair = r#"[{"channel":"a","data":1},{"channel":"a","data":2}]"#;
    let batch = format!(r#"{{"channel":"a","data":"x"{}}}"#, " ".repeat(64));
    let list = format!(r#"{{"channels":["a"]{}}}"#, " ".repeat(64));
    for reloaded in [false, true] {
        if reloaded {
            reloader.reload(&config).unwrap();
        }
        let as_was = |status, other| if reloaded { other } else { status };
        assert_eq!(server.get(two).await.status, as_was(200, 400));
        let poll = server.get("/poll?channel=a&since=oldest&timeout=2").await;
        assert_eq!(poll.status, as_was(200, 400), "{}", poll.text());
        for (path, body, status, other) in [
            ("/publish/a", "12345", 201, 413),
            ("/publish", pair, 200, 413),
            ("/publish", &batch, 201, 413),
        ] {
            let answer = server.post(path, body).await;
            assert_eq!(answer.status, as_was(status, other), "{path} {body}");
        }
        let stream = Stream::open(server.public, "POST", "/events", &[], list.as_bytes()).await;
        let status = format!("HTTP/1.1 {}", as_was(200, 413));
        assert!(stream.head.starts_with(&status), "{}", stream.head);
        drop(stream);
        server.until_metric(CONNECTIONS, 0.0).await;
        let page = server.get("/page.json").await.json();
        assert_eq!(page["title"], if reloaded { "Reloaded" } else { "Fanfare" });
    }
    let _held = server.stream("/events?channel=a").await;
    let refused = server.get("/events?channel=a").await;
    assert_eq!(refused.status, 200, "as a stream");
    assert!(
        refused.text().contains("fanfare.close"),
        "{}",
        refused.text()
    );
    let poll = server.get("/poll?channel=a&timeout=0").await;
    assert_eq!(poll.header("retry-after"), Some("77"));
    // One publish request under way is all there may be. This one has its slot once it is told
    // of its first line.
    let mut holding = TcpStream::connect(server.public).await.unwrap();
    let kind = [("Content-Type", "application/x-ndjson")];
    let line = "{\"channel\":\"a\",\"data\":1}\n";
    let start = head("POST", "/publish", &kind, Some(1000)) + line;
    holding.write_all(start.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let told = async {
        while common::find(&heard, b"\"status\":201").is_none() {
            let mut chunk = [0; 4096];
            let count = holding.read(&mut chunk).await.unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&chunk[..count]);
        }
    };
    time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(server.post("/publish/a", "x").await.status, 503);
    reloader.reload(&common::config()).unwrap();
    assert_eq!(server.post("/publish/a", "12345").await.status, 201);
    config.page.enabled = false;
    reloader.reload(&config).unwrap();
    assert_eq!(server.get("/").await.status, 404);
    assert_eq!(
        server.post("/publish/a", "x").await.status,
        503,
        "still under way"
    );
}

/// Each channel is a class that sees everything.
#[derive(Debug)]
struct ByChannel;

impl FilterFactory for ByChannel {
    fn filter(&self, _: &Identity, channels: &[Pattern]) -> Option<FilterClass> {
        Some(FilterClass::new(channels[0].as_str(), || {
            Arc::new(ByChannel)
        }))
    }
}

impl Filter for ByChannel {
    fn view(&self, _: &Event) -> View {
        View::Whole
    }
}

#[tokio::test]
async fn times_proxies_and_tables_are_bounded_anew() {
    let mut reloader = None;
    let server = serve(config(), memory(), |edge| {
        reloader = Some(edge.reloader());
        edge.filter(Arc::new(ByChannel))
    });
    let reloader = reloader.unwrap();
    let open = server.stream("/events?channel=a").await;
    let mut config = config();
    let limits = &mut config.limits;
    limits.filter_classes = 1;
    limits.retry_after = Duration::from_secs(77);
    limits.connections_per_client = 1;
    limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    limits.body_timeout = Duration::from_millis(50);
    limits.ndjson_idle = Duration::from_millis(50);
    reloader.reload(&config).unwrap();
    let poll = async |address: &str, channel: &str| {
        let path = format!("/poll?channel={channel}&timeout=0");
        let headers = [("X-Forwarded-For", address)];
        server.send("GET", &path, &headers, b"").await
    };
    assert_eq!(poll("127.0.0.1", "a").await.status, 429, "the stream's own");
    assert_eq!(poll("192.0.2.1", "a").await.status, 200);
    let busy = poll("192.0.2.1", "b").await;
    assert_eq!((busy.status, busy.problem().as_str()), (503, "busy"));
    assert_eq!(busy.header("retry-after"), Some("77"));
    drop(open);
    let room = async { while poll("192.0.2.1", "b").await.status != 200 {} };
    time::timeout(PATIENCE, room).await.unwrap();

    let slow = head("POST", "/publish/a", &[("Connection", "close")], Some(9)) + "begun";
    let late = common::say(server.public, slow.as_bytes()).await;
    assert_eq!(
        (late.status, late.problem().as_str()),
        (408, "body_timeout")
    );
    let kind = [
        ("Content-Type", "application/x-ndjson"),
        ("Connection", "close"),
    ];
    let silent = head("POST", "/publish", &kind, Some(9));
    let ended = common::say(server.public, silent.as_bytes()).await;
    assert!(ended.text().contains("body_timeout"), "{ended:?}");
}

#[tokio::test]
async fn pages_under_way_are_one_count_under_every_bound() {
    let mut config = config();
    config.server.send_buffer = Some(16 << 10);
    let (server, reloader) = start(config.clone());
    let large = "x".repeat(1 << 20);
    for _ in 0..2 {
        server.publish("a", &large).await;
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stalled = socket.connect(server.public).await.unwrap();
    let asked = head("GET", "/history/a", &[], None);
    stalled.write_all(asked.as_bytes()).await.unwrap();
    stalled.readable().await.unwrap();
    for (most, status) in [(1, 429), (2, 200)] {
        config.limits.histories = most;
        reloader.reload(&config).unwrap();
        assert_eq!(server.get("/history/a").await.status, status, "{most}");
    }
}

#[tokio::test]
async fn a_connection_that_was_open_before_is_judged_anew() {
    let (server, reloader) = start(config());
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    for status in [200, 401] {
        let asked = head("GET", "/history/a.b", &[], None);
        socket.write_all(asked.as_bytes()).await.unwrap();
        let mut chunk = [0; 4096];
        let read = time::timeout(PATIENCE, socket.read(&mut chunk)).await;
        let count = read.unwrap().unwrap();
        assert_eq!(answer(&chunk[..count]).status, status);
        reloader.reload(&with_secret(NEW)).unwrap();
    }
}

#[tokio::test]
async fn a_bad_config_changes_nothing() {
    let mut config = with_secret(OLD);
    config.server.listen = ([0, 0, 0, 0], 0).into();
    let (mut server, reloader) = start(config);
    server.public.set_ip([127, 0, 0, 1].into());
    let with = |change: fn(&mut EdgeConfig)| {
        let mut config = with_secret(NEW);
        config.page.title = "not in force".into();
        config.cors.origins = vec!["https://app.example".parse().unwrap()];
        change(&mut config);
        reloader.reload(&config).unwrap_err().to_string()
    };
    let open = |config: &mut EdgeConfig| config.auth.jwt = None;
    for (refused, word) in [
        (
            with(|config| config.limits.connections = 0),
            "limits.connections",
        ),
        (
            with(|config| config.auth.jwt = Some(JwtConfig::default())),
            "auth.jwt",
        ),
        (
            with(|config| {
                let jwt = config.auth.jwt.as_mut().unwrap();
                (jwt.secret, jwt.public_key) = (None, Some("rubbish".into()));
            }),
            "auth.jwt.public_key",
        ),
        (
            with(|config| {
                config.cors.credentials = true;
                config.cors.origins = vec!["*".parse().unwrap()];
            }),
            "cors.origins",
        ),
        // What a reload does not take is checked too: the next start would fail.
        (
            with(|config| config.server.head_bytes = 1),
            "server.head_bytes",
        ),
        // It says loopback; the edge listens to everybody until it is started again.
        (with(open), "server.listen = \"0.0.0.0:"),
    ] {
        assert!(refused.contains(word), "{refused}");
        assert!(!refused.contains(NEW), "{refused}");
    }
    assert_eq!(server.get("/history/a.b").await.status, 401);
    assert_eq!(
        send(&server, "GET", "/history/a.b", &signed(OLD, 60)).await,
        200
    );
    assert_eq!(
        send(&server, "GET", "/history/a.b", &signed(NEW, 60)).await,
        401
    );
    assert_eq!(server.get("/page.json").await.json()["title"], "Fanfare");
    let origin = [("Origin", "https://app.example")];
    let answer = server.send("GET", "/page.json", &origin, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_reload_counts_before_the_run_and_after_it() {
    let edge = Edge::build(config(), memory(), &Registry::new()).unwrap();
    let reloader = edge.reloader();
    reloader.reload(&with_secret(NEW)).unwrap();
    let public = edge.public_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let run = tokio::spawn(edge.run(async move { drop(stopped.await) }));
    let answer = common::request(public, "GET", "/history/a", &[], b"").await;
    assert_eq!(answer.status, 401);
    drop(stop);
    run.await.unwrap().unwrap();
    reloader.reload(&config()).unwrap();
    let mut bad = config();
    bad.limits.publishes = 0;
    let refused = reloader.reload(&bad);
    assert!(matches!(
        refused,
        Err(ConfigError::Value {
            key: "limits.publishes",
            ..
        })
    ));
}

/// One of two configurations that differ in all that a reload takes.
fn either(turn: usize) -> EdgeConfig {
    let odd = turn % 2 == 1;
    let mut config = with_secret(if odd { NEW } else { OLD });
    config.auth.anonymous = Some(AnonymousConfig {
        subscribe: vec!["public.>".parse().unwrap()],
        publish: vec!["public.>".parse().unwrap()],
    });
    let origin = if odd { "https://a.example" } else { "*" };
    config.cors.origins = vec![origin.parse().unwrap()];
    // Below what is held, every other time.
    config.limits.connections = if odd { 10 } else { 1000 };
    config.limits.connections_per_client = if odd { 5 } else { 100 };
    config.limits.publishes = if odd { 8 } else { 1024 };
    config.limits.event_bytes = if odd { 1 << 10 } else { 1 << 20 };
    config.page.title = turn.to_string();
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_lose_nobody_and_nothing() {
    const CHANNELS: usize = 3;
    const STREAMS: usize = 42;
    const END: &str = "the end";
    let (server, reloader) = start(either(0));
    let server = Arc::new(server);
    let mut streams = Vec::new();
    for at in 0..STREAMS {
        let path = format!("/events?channel=public.{}", at % CHANNELS);
        let mut stream = server.stream(&path).await;
        streams.push(tokio::spawn(async move {
            let mut got = Vec::new();
            loop {
                let event = stream.event().await;
                assert_eq!(event.event, None, "{event:?}");
                if event.data == END {
                    return got;
                }
                got.push(event.data);
            }
        }));
    }
    let (count, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let publishers = [0, 1, 2].map(|channel| {
        let (server, count, stop) = (server.clone(), count.clone(), stop.clone());
        tokio::spawn(async move {
            let channel = format!("public.{channel}");
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                server.publish(&channel, &sent.to_string()).await;
                sent += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
            server.publish(&channel, END).await;
            sent
        })
    });
    for turn in 1..=100 {
        let before = count.load(Ordering::Relaxed);
        reloader.reload(&either(turn)).unwrap();
        let title = server.get("/page.json").await.json()["title"].clone();
        assert_eq!(title, turn.to_string(), "in force when the call returns");
        let published = async {
            while count.load(Ordering::Relaxed) < before + CHANNELS {
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        time::timeout(PATIENCE, published).await.unwrap();
    }
    assert_eq!(server.metric(CONNECTIONS).await, STREAMS as f64);
    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for publisher in publishers {
        sent.push(publisher.await.unwrap());
    }
    assert!(sent.iter().sum::<usize>() >= 100 * CHANNELS);
    for (at, stream) in streams.into_iter().enumerate() {
        let all: Vec<String> = (0..sent[at % CHANNELS]).map(|n| n.to_string()).collect();
        assert_eq!(stream.await.unwrap(), all, "stream {at}");
    }
}
