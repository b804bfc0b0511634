//! The operators' listener, hooks, filters, and going away.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{PATIENCE, config, head, memory, serve, start, start_with};
use fanfare_core::{Data, Event, Pattern, Publication};
use fanfare_edge::{
    Admission, BuildError, CloseContext, Edge, Filter, FilterClass, FilterFactory, Hook, Identity,
    PublishContext, Refusal, SubscribeContext, View,
};
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

#[tokio::test]
async fn operators_see_health_metrics_channels_and_connections() {
    let server = start();
    server.until_metric("fanfare_edge_ready", 1.0).await;
    let ready = server.admin("GET", "/readyz").await;
    assert_eq!(
        (ready.status, ready.json()),
        (200, json!({ "ready": true, "reasons": [] }))
    );
    assert_eq!(
        server.admin("GET", "/healthz").await.json(),
        json!({ "alive": true })
    );
    let metrics = server.admin("GET", "/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = metrics.text();
    for name in [
        "fanfare_build_info{version=",
        "fanfare_delivery_subscribers",
        "process_open_fds",
    ] {
        assert!(text.contains(name), "{name}");
    }

    let mut one = server.stream("/events?channel=a&channel=b").await;
    let _two = server.stream("/events?channel=a").await;
    let channels = server.admin("GET", "/channels").await.json()["channels"].clone();
    assert_eq!(
        channels,
        json!([{ "channel": "a", "subscribers": 2 }, { "channel": "b", "subscribers": 1 }])
    );
    let top = server.admin("GET", "/channels?limit=1").await.json()["channels"].clone();
    assert_eq!(top.as_array().unwrap().len(), 1);
    let listed = server.admin("GET", "/connections").await.json();
    assert_eq!(listed["total"], 2);
    let first = &listed["connections"][0];
    assert_eq!(
        (first["kind"].clone(), first["client"].clone()),
        (json!("stream"), json!("ip:127.0.0.1"))
    );
    assert_eq!(first["channels"], json!(["a", "b"]));
    let after = format!("/connections?limit=1&after={}", first["id"]);
    let next = server.admin("GET", &after).await.json();
    assert_eq!(next["connections"][0]["channels"], json!(["a"]));

    one.hello().await;
    let gone = server
        .admin("DELETE", &format!("/connections/{}", first["id"]))
        .await;
    assert_eq!(gone.status, 204);
    let close = one.next().await.unwrap();
    assert_eq!(
        (close.event.as_deref(), close.json()["reason"].clone()),
        (Some("fanfare.close"), json!("revoked"))
    );
    assert_eq!(one.next().await, None);
    // The socket ends with its stream: what the client sent meanwhile was thrown away.
    let mut rest = [0; 16];
    assert_eq!(
        time::timeout(PATIENCE, one.socket.read(&mut rest))
            .await
            .unwrap()
            .unwrap(),
        0
    );
    server.until_metric("fanfare_edge_connections", 1.0).await;
    for path in ["/connections/999", "/connections/x", "/nothing"] {
        assert_eq!(
            server.admin("DELETE", path).await.problem(),
            "not_found",
            "{path}"
        );
    }
    assert_eq!(
        server.admin("GET", "/connections/1").await.problem(),
        "method_not_allowed"
    );
    assert_eq!(
        server.admin("GET", "/channels?limit=0").await.problem(),
        "bad_parameter"
    );
    assert_eq!(
        server.get("/metrics").await.status,
        404,
        "not for the public"
    );
    assert_eq!(server.get("/connections").await.status, 404);
}

#[tokio::test]
async fn no_channel_or_client_becomes_a_label() {
    let server = start();
    let lines = |text: String| text.lines().count();
    let before = lines(server.admin("GET", "/metrics").await.text());
    for n in 0..200 {
        server.publish(&format!("c{n}"), "x").await;
        server.get(&format!("/nothing/{n}")).await;
        server.get(&format!("/history/c{n}")).await;
    }
    assert_eq!(lines(server.admin("GET", "/metrics").await.text()), before);
}

#[tokio::test]
async fn a_drain_turns_red_refuses_tells_everyone_and_ends() {
    let mut config = config();
    config.server.drain_delay = Duration::from_secs(2);
    config.server.drain_window = Duration::from_millis(600);
    let mut server = serve(config, memory(), |edge| edge);
    server.until_metric("fanfare_edge_ready", 1.0).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = server.stream("/events?channel=a").await;
        stream.hello().await;
        streams.push(stream);
    }
    server.shut_down();
    server.until_metric("fanfare_edge_draining", 1.0).await;
    let ready = server.admin("GET", "/readyz").await;
    assert_eq!(
        (ready.status, ready.json()["reasons"][0]["check"].clone()),
        (503, json!("drain"))
    );
    // Load balancers have not heard of it yet: what they send is served.
    let page = server.get("/page.json").await;
    assert_eq!(
        (page.status, page.header("connection")),
        (200, Some("close"))
    );
    server.publish("a", "during the delay").await;
    let mut kept = TcpStream::connect(server.public).await.unwrap();
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().data, "during the delay");
    }
    let start = time::Instant::now();
    let mut ends = Vec::new();
    for stream in &mut streams {
        let close = stream.next().await.unwrap();
        assert_eq!(close.json()["reason"], "drain");
        assert!(close.json()["retry_ms"].as_u64().unwrap() > 0);
        assert_eq!(stream.next().await, None);
        ends.push(start.elapsed());
    }
    // Accepted before: refused for now, with where to go.
    kept.write_all(head("GET", "/events?channel=a", &[("Connection", "close")], None).as_bytes())
        .await
        .ok();
    let mut heard = String::new();
    let _ = time::timeout(PATIENCE, kept.read_to_string(&mut heard))
        .await
        .unwrap();
    assert!(
        heard.is_empty() || heard.contains("urn:fanfare:problem:draining"),
        "{heard}"
    );
    let drained = server.ended().await;
    assert_eq!((drained.subscribers, drained.cut), (20, 0));
    assert!(TcpStream::connect(server.public).await.is_err());
    assert!(TcpStream::connect(server.admin).await.is_err());
}

#[tokio::test]
async fn a_drain_ends_although_a_client_does_not() {
    let mut config = config();
    config.server.drain_window = Duration::from_millis(50);
    config.server.drain_grace = Duration::from_secs(2);
    let mut server = serve(config, memory(), |edge| edge);
    let mut slow = TcpStream::connect(server.public).await.unwrap();
    slow.write_all(head("POST", "/publish/a", &[], Some(10)).as_bytes())
        .await
        .unwrap();
    server.until_metric("fanfare_edge_sockets", 2.0).await;
    // A publish that is under way goes through when its body still comes.
    let mut good = TcpStream::connect(server.public).await.unwrap();
    good.write_all(head("POST", "/publish/a", &[], Some(3)).as_bytes())
        .await
        .unwrap();
    server.until_metric("fanfare_edge_sockets", 3.0).await;
    server.shut_down();
    server.until_metric("fanfare_edge_draining", 1.0).await;
    good.write_all(b"abc").await.unwrap();
    let mut heard = String::new();
    time::timeout(PATIENCE, good.read_to_string(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert!(heard.starts_with("HTTP/1.1 201"), "{heard}");
    assert_eq!(server.ended().await.cut, 1);
}

#[tokio::test]
async fn dropping_the_run_drops_every_connection() {
    let registry = Registry::new();
    let edge = Edge::build(config(), memory(), &registry).unwrap();
    let address = edge.public_addr();
    let run = tokio::spawn(edge.run(std::future::pending()));
    let path = "/events?channel=a";
    let mut stream = common::Stream::open(address, "GET", path, &[], b"").await;
    stream.hello().await;
    run.abort();
    assert_eq!(stream.next().await, None);
    let _ = run.await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_cannot_be_built_says_why() {
    let build = |change: &dyn Fn(&mut fanfare_edge::EdgeConfig)| {
        let mut config = config();
        change(&mut config);
        Edge::build(config, memory(), &Registry::new())
            .map(|_| ())
            .unwrap_err()
    };
    let open = build(&|config| config.server.listen = "0.0.0.0:0".parse().unwrap());
    assert!(matches!(open, BuildError::Config(_)));
    assert!(open.to_string().contains("auth.jwt.secret"), "{open}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let busy = build(&|config| config.admin.listen = address).to_string();
    assert!(
        busy.contains("admin.listen") && busy.contains(&address.to_string()),
        "{busy}"
    );
    let registry = Registry::new();
    let _first = Edge::build(config(), memory(), &registry).unwrap();
    let second = Edge::build(config(), memory(), &registry);
    assert!(
        matches!(second, Err(BuildError::Metrics(_))),
        "an edge a registry"
    );
}

#[derive(Debug, Default)]
struct Say {
    closed: Mutex<Vec<String>>,
}

#[async_trait]
impl Hook for Say {
    async fn on_subscribe(&self, context: &SubscribeContext<'_>) -> Result<Admission, Refusal> {
        match context.channels[0].as_str() {
            "denied" => Err(Refusal::denied("come back on Monday")),
            "busy" => Err(Refusal::too_many("slowly", Duration::from_secs(7))),
            "wide.*" => Ok(Admission::Narrow(vec!["wide.a".parse().unwrap()])),
            "panics" => panic!("as the test asks"),
            "hangs" => std::future::pending().await,
            _ => Ok(Admission::Allow),
        }
    }

    async fn on_publish(
        &self,
        context: &PublishContext<'_>,
        publication: &mut Publication,
    ) -> Result<(), Refusal> {
        if context.channel.as_str() == "denied" {
            return Err(Refusal::denied("not here"));
        }
        let data = format!("{}+{}", publication.data.as_str(), context.address);
        publication.data = Data::from(data);
        Ok(())
    }

    async fn on_close(&self, context: &CloseContext) {
        self.closed.lock().push(format!("{:?}", context.channels));
    }
}

#[tokio::test]
async fn hooks_narrow_refuse_change_and_hear_of_the_end() {
    let mut config = config();
    config.server.hook_timeout = Duration::from_millis(200);
    let hook = Arc::new(Say::default());
    let server = serve(config, memory(), |edge| edge.hook(hook.clone()));
    for (path, status, reason) in [
        ("/events?channel=denied", 403, "denied"),
        ("/events?channel=busy", 429, "too_many"),
        ("/events?channel=panics", 503, "hook_failed"),
        ("/events?channel=hangs", 503, "hook_failed"),
        ("/poll?channel=denied", 403, "denied"),
        ("/history/denied", 403, "denied"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, reason),
            "{path}"
        );
    }
    assert_eq!(
        server
            .get("/events?channel=busy")
            .await
            .header("retry-after"),
        Some("7")
    );
    assert!(
        server
            .post("/publish/denied", "x")
            .await
            .text()
            .contains("not here")
    );
    assert_eq!(server.metric("fanfare_edge_connections").await, 0.0);

    let mut narrowed = server.stream("/events?channel=wide.*").await;
    assert_eq!(narrowed.hello().await.json()["channels"], json!(["wide.a"]));
    server.publish("wide.b", "unseen").await;
    server.publish("wide.a", "seen").await;
    assert_eq!(narrowed.next().await.unwrap().data, "seen+127.0.0.1");
    drop(narrowed);
    let heard = async {
        while hook.closed.lock().is_empty() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(PATIENCE, heard).await.unwrap();
    let closed = hook.closed.lock().clone();
    assert_eq!(
        closed,
        ["[Pattern(\"wide.a\")]"],
        "refused ones never opened"
    );
}

/// Hides events that hold "secret", and counts how often it is asked.
#[derive(Debug, Default, Clone)]
struct Hides(Arc<AtomicUsize>);

impl Filter for Hides {
    fn view(&self, event: &Event) -> View {
        self.0.fetch_add(1, Ordering::Relaxed);
        match event.data.as_str() {
            "panic" => panic!("as the test asks"),
            text if text.contains("secret") => View::Nothing,
            text if text.contains("name") => View::Redacted(text.replace("name", "…").into()),
            _ => View::Whole,
        }
    }
}

impl FilterFactory for Hides {
    fn filter(&self, identity: &Identity, channels: &[Pattern]) -> Option<FilterClass> {
        assert!(identity.is_anonymous());
        if channels[0].as_str() == "panic" {
            panic!("as the test asks");
        }
        let filter = self.clone();
        Some(FilterClass::new("hides", move || Arc::new(filter)))
    }
}

#[tokio::test]
async fn a_filter_holds_at_every_door() {
    let hides = Hides::default();
    let server = serve(config(), memory(), |edge| {
        edge.filter(Arc::new(hides.clone()))
    });
    let mut stream = server.stream("/events?channel=a").await;
    stream.hello().await;
    for data in ["plain", "secret", "my name", "panic", "last"] {
        server.publish("a", data).await;
    }
    assert_eq!(stream.next().await.unwrap().data, "plain");
    assert_eq!(stream.next().await.unwrap().data, "my …");
    let gap = stream.next().await.unwrap();
    assert_eq!(
        (gap.event.as_deref(), gap.json()["cause"].clone()),
        (Some("fanfare.gap"), json!("filter"))
    );
    assert_eq!(stream.next().await.unwrap().data, "last");

    let shown = json!(["plain", "my …", "last"]);
    let datas = |events: &serde_json::Value| -> serde_json::Value {
        events
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["data"].clone())
            .collect()
    };
    let history = server.get("/history/a").await.json();
    assert_eq!(datas(&history["events"]), shown);
    assert_eq!(history["gap"]["cause"], "filter");
    let poll = server
        .get("/poll?channel=a&since=oldest&timeout=5")
        .await
        .json();
    assert_eq!(datas(&poll["events"]), shown);
    assert_eq!(poll["gaps"][0]["cause"], "filter");
    assert_eq!(
        server.get("/events?channel=panic").await.problem(),
        "hook_failed"
    );
}

#[tokio::test]
async fn a_stream_has_a_greatest_age() {
    let server = start_with(|config| config.server.max_age = Some(Duration::from_millis(300)));
    let mut stream = server.stream("/events?channel=a").await;
    stream.hello().await;
    assert_eq!(stream.next().await.unwrap().json()["reason"], "max_age");
    assert_eq!(stream.next().await, None);
}
