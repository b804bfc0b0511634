//! Two nodes behind a load balancer share the channels of a bus that other programs publish to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, time::Duration};

use fanfare_system_tests::{Follower, PATIENCE, Report};
use fanfare_testkit::{
    Fanfare, HaProxy, NatsServer, RedisServer, SseClient, SseRequest, eventually, http,
};
use futures_util::future::{join_all, try_join_all};

const CLIENTS: usize = 200;
const EVENTS: u64 = 5_000;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn redis_node(redis: &RedisServer) -> String {
    format!(
        r#"
        [broker]
        kind = "redis"
        [broker.redis]
        url = "{}"
        [[broker.redis.ingest]]
        from = "pubsub"
        source = "orders:*"
        channel = "orders.{{1}}"
        retain = "node"
        [limits]
        connections_per_client = 10000
        "#,
        redis.url()
    )
}

fn nats_node(nats: &NatsServer) -> String {
    format!(
        r#"
        [broker]
        kind = "nats"
        [broker.nats]
        url = "{}"
        jetstream = false
        [[broker.nats.ingest]]
        from = "core"
        source = "orders.>"
        channel = "{{name}}"
        retain = "node"
        [limits]
        connections_per_client = 10000
        "#,
        nats.url()
    )
}

/// 200 clients through the load balancer, on either node.
async fn crowd(address: SocketAddr) -> Vec<Follower> {
    // One half by name, one half by pattern: both ways into the bus at once.
    let join = |index: usize| async move {
        let channels: &[&str] = match index % 2 {
            0 => &["orders.eu", "orders.us"],
            _ => &["orders.*"],
        };
        Follower::join(address, channels).await
    };
    try_join_all((0..CLIENTS).map(join)).await.unwrap()
}

async fn read_all(crowd: &mut [Follower]) -> Report {
    let reading = crowd.iter_mut().map(|client| client.read(EVENTS));
    for read in join_all(reading).await {
        read.unwrap();
    }
    let mut report = Report::default();
    crowd.iter().for_each(|client| report.add(&client.report()));
    report
}

async fn both_nodes_serve(nodes: &[Fanfare; 2]) {
    for node in nodes {
        let serving = node.metric("fanfare_delivery_subscribers").await.unwrap();
        assert!(serving >= (CLIENTS / 3) as f64, "{serving} of {CLIENTS}");
    }
}

/// The raw names and payloads of every event, in order.
fn publications(separator: char) -> Vec<(String, String)> {
    (0..EVENTS)
        .map(|number| {
            let region = if number % 2 == 0 { "eu" } else { "us" };
            (
                format!("orders{separator}{region}"),
                format!("{}", number / 2),
            )
        })
        .collect()
}

/// Two nodes of a config, a crowd of clients before the load balancer, and what `publish` brings
/// into the bus: everybody gets everything.
async fn everybody_gets_everything(name: &str, config: &str, publish: impl AsyncFnOnce()) {
    let nodes = [Fanfare::start(config).await, Fanfare::start(config).await];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let Some(balancer) = HaProxy::start(&addresses).await else {
        return;
    };
    let mut crowd = crowd(balancer.address()).await;
    both_nodes_serve(&nodes).await;
    publish().await;
    let report = read_all(&mut crowd).await;
    report.print(name, EVENTS);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.delivered, EVENTS * CLIENTS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_two_nodes_gets_what_is_published_to_redis() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    everybody_gets_everything("redis, two nodes", &redis_node(&redis), async || {
        let mut publisher = redis.resp().await;
        let receivers = publisher.publish_all(publications(':')).await.unwrap();
        assert!(
            receivers.iter().all(|count| *count >= 2),
            "both nodes follow"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_two_nodes_gets_what_is_published_to_nats() {
    let Some(nats) = NatsServer::start().await else {
        return;
    };
    everybody_gets_everything("nats, two nodes", &nats_node(&nats), async || {
        let mut publisher = nats.client().await;
        for (subject, payload) in publications('.') {
            publisher.publish(&subject, payload, &[]);
        }
        publisher.flush().await.unwrap();
    })
    .await;
}

/// What is published at one node over HTTP reaches the clients of the other.
async fn http_publish_crosses(nodes: &[Fanfare; 2]) {
    let get =
        |node: &Fanfare| SseRequest::get(node.address(), "/events?channel=own.a&channel=orders.eu");
    let mut clients = [
        get(&nodes[0]).connect().await.unwrap(),
        get(&nodes[1]).connect().await.unwrap(),
    ];
    for client in &mut clients {
        assert_eq!(
            &*client
                .next_event(PATIENCE)
                .await
                .unwrap()
                .unwrap()
                .event_type,
            "fanfare.hello"
        );
    }
    let publish = |node: usize, path: &'static str, data: &'static str| {
        let url = format!("{}/publish/{path}", nodes[node].base_url());
        async move {
            http::request("POST", &url, &[], data.as_bytes())
                .await
                .unwrap()
        }
    };
    assert_eq!(
        publish(0, "own.a?event=greeting", "from zero\nand on")
            .await
            .status,
        201
    );
    assert_eq!(publish(1, "own.a", "from one").await.status, 201);
    assert_eq!(publish(0, "orders.eu", "raw").await.status, 201);
    for client in &mut clients {
        let events = client.next_events(3, PATIENCE).await.unwrap();
        let mut seen: Vec<(&str, &str)> = events
            .iter()
            .map(|event| (&*event.event_type, &*event.data))
            .collect();
        seen.sort_unstable();
        let expected = [
            ("greeting", "from zero\nand on"),
            ("message", "from one"),
            ("message", "raw"),
        ];
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_publishes_cross_nodes_over_redis() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let config = redis_node(&redis);
    http_publish_crosses(&[Fanfare::start(&config).await, Fanfare::start(&config).await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_publishes_cross_nodes_over_nats() {
    let Some(nats) = NatsServer::start().await else {
        return;
    };
    let config = nats_node(&nats);
    http_publish_crosses(&[Fanfare::start(&config).await, Fanfare::start(&config).await]).await;
}

/// Payloads that break naive encoders. CR and CRLF come back as LF; everything else as it was.
fn hard_payloads() -> Vec<String> {
    vec![
        String::new(),
        " leading and trailing ".into(),
        "two\nlines".into(),
        "ends with a line\n".into(),
        "\n".into(),
        "\n\n\n".into(),
        "carriage\rreturn".into(),
        "windows\r\nlines\r\n".into(),
        "id: 7\nevent: fake\ndata: injected\n\nretry: 1".into(),
        ": comment".into(),
        "\"quotes\" 'and' \\backslashes\\".into(),
        "{\"json\":[1,2,null]}".into(),
        "emoji 🎺🎉 and 日本語 and \u{feff}mark and \u{2028}separator".into(),
        "nul \0 and bell \u{7}".into(),
        "x".repeat(1 << 20),
        "line\n".repeat(50_000),
    ]
}

async fn payloads_arrive(client: &mut SseClient) {
    for payload in hard_payloads() {
        let event = client.next_event(PATIENCE).await.unwrap().unwrap();
        let expected = payload.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(&*event.event_type, "message");
        assert!(
            *event.data == expected,
            "{:?}… is not {:?}…",
            event.data.chars().take(60).collect::<String>(),
            expected.chars().take(60).collect::<String>()
        );
    }
}

/// Bytes that no SSE stream can carry: counted, and told to those who follow.
async fn refusal_is_told(client: &mut SseClient, node: &Fanfare, backend: &str) {
    let event = client.next_event(PATIENCE).await.unwrap().unwrap();
    assert_eq!(&*event.event_type, "fanfare.gap");
    let gap: serde_json::Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(gap["cause"], "undeliverable");
    assert_eq!(gap["channel"], "orders.eu");
    let name =
        format!("fanfare_broker_undeliverable_total{{backend=\"{backend}\",reason=\"not_utf8\"}}");
    eventually("the refusal is counted", SECONDS(10), || async {
        node.metrics()
            .await
            .lines()
            .any(|line| line == format!("{name} 1"))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_payloads_arrive_through_redis() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let node = Fanfare::start(&redis_node(&redis)).await;
    let request = SseRequest::get(node.address(), "/events?channel=orders.eu&hello=0");
    let mut client = request.connect().await.unwrap();
    let mut publisher = redis.resp().await;
    let publications = hard_payloads()
        .into_iter()
        .map(|payload| ("orders:eu", payload));
    publisher.publish_all(publications).await.unwrap();
    payloads_arrive(&mut client).await;
    publisher
        .publish_all([("orders:eu", b"bad \xff bytes")])
        .await
        .unwrap();
    refusal_is_told(&mut client, &node, "redis").await;
    publisher
        .publish_all([("orders:eu", "and on")])
        .await
        .unwrap();
    assert_eq!(
        &*client.next_event(PATIENCE).await.unwrap().unwrap().data,
        "and on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_payloads_arrive_through_nats() {
    // One payload is exactly nats-server's default bound, 1 MiB.
    let Some(nats) = NatsServer::start().await else {
        return;
    };
    let node = Fanfare::start(&nats_node(&nats)).await;
    let request = SseRequest::get(node.address(), "/events?channel=orders.eu&hello=0");
    let mut client = request.connect().await.unwrap();
    let mut publisher = nats.client().await;
    for payload in hard_payloads() {
        publisher.publish("orders.eu", payload, &[]);
    }
    publisher.flush().await.unwrap();
    payloads_arrive(&mut client).await;
    publisher.publish("orders.eu", b"bad \xff bytes", &[]);
    publisher.flush().await.unwrap();
    refusal_is_told(&mut client, &node, "nats").await;
    publisher.publish("orders.eu", "and on", &[]);
    publisher.flush().await.unwrap();
    assert_eq!(
        &*client.next_event(PATIENCE).await.unwrap().unwrap().data,
        "and on"
    );
}

/// A bus that goes away and comes back: streams stay, the gap is told, events flow again.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_redis_is_a_gap_and_heals_by_itself() {
    let Some(mut redis) = RedisServer::start().await else {
        return;
    };
    let node = Fanfare::start(&redis_node(&redis)).await;
    let request = SseRequest::get(node.address(), "/events?channel=orders.eu&hello=0");
    let mut client = request.connect().await.unwrap();
    redis.cli(&["PUBLISH", "orders:eu", "before"]).await;
    assert_eq!(
        &*client.next_event(PATIENCE).await.unwrap().unwrap().data,
        "before"
    );
    redis.kill();
    eventually("readiness is red", SECONDS(5), || async {
        let ready = http::get(&format!("{}/readyz", node.admin_url()))
            .await
            .unwrap();
        (ready.status == 503).then_some(())
    })
    .await;
    let url = format!("{}/publish/orders.eu", node.base_url());
    let refused = http::request("POST", &url, &[], b"lost?").await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("Retry-After").is_some());
    redis.restart().await;
    eventually("readiness is green", SECONDS(15), || async {
        let ready = http::get(&format!("{}/readyz", node.admin_url()))
            .await
            .unwrap();
        (ready.status == 200).then_some(())
    })
    .await;
    redis.cli(&["PUBLISH", "orders:eu", "after"]).await;
    let events = client.next_events(2, PATIENCE).await.unwrap();
    assert_eq!(&*events[0].event_type, "fanfare.gap", "{events:?}");
    assert_eq!(&*events[1].data, "after");
}
