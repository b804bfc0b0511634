//! A bus that stands still, and one that dies: readiness, refusals and recovery, in bounded time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use fanfare_testkit::{Fanfare, NatsServer, RedisServer, SseClient, SseRequest, eventually, http};

const PATIENCE: Duration = Duration::from_secs(30);
/// What readiness promises, and what a scheduler that is busy with other tests may add.
const BOUND: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(2);

const REDIS: &str = r#"
    [broker]
    kind = "redis"
    [[broker.redis.ingest]]
    from = "pubsub"
    source = "raw:*"
    channel = "raw.{1}"
    retain = "node"
    [broker.redis]
"#;

const NATS: &str = r#"
    [broker]
    kind = "nats"
    [[broker.nats.ingest]]
    from = "core"
    source = "raw.>"
    channel = "{name}"
    retain = "node"
    [broker.nats]
    jetstream = false
"#;

async fn ready(node: &Fanfare) -> u16 {
    http::get(&format!("{}/readyz", node.admin_url()))
        .await
        .unwrap()
        .status
}

async fn becomes(node: &Fanfare, status: u16) -> Duration {
    let start = Instant::now();
    eventually("readiness turns", PATIENCE, || async {
        (ready(node).await == status).then_some(())
    })
    .await;
    start.elapsed()
}

async fn follow(node: &Fanfare) -> SseClient {
    let request = SseRequest::get(
        node.address(),
        "/events?channel=own.a&channel=raw.a&hello=0",
    );
    let client = request.connect().await.unwrap();
    assert_eq!(client.status(), 200);
    client
}

async fn publish(node: &Fanfare, data: &'static str) -> http::Reply {
    let url = format!("{}/publish/own.a", node.base_url());
    http::request("POST", &url, &[], data.as_bytes())
        .await
        .unwrap()
}

/// Reads until an event with this data; answers how many gaps came before it.
async fn read_until(client: &mut SseClient, data: &str) -> usize {
    let mut gaps = 0;
    loop {
        let event = client.next_event(PATIENCE).await.unwrap().unwrap();
        match &*event.event_type {
            "fanfare.gap" => gaps += 1,
            _ if *event.data == *data => return gaps,
            other => panic!("{other}: {}", event.data),
        }
    }
}

/// The bus has just been stopped in some way, and `back` brings it back.
async fn outage(node: &Fanfare, client: &mut SseClient, back: impl AsyncFnOnce()) {
    let red = becomes(node, 503).await;
    assert!(red < BOUND + SLACK, "red after {red:?}");
    let start = Instant::now();
    let refused = publish(node, "refused").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("Retry-After").is_some());
    assert!(
        start.elapsed() < BOUND + SLACK,
        "answered after {:?}",
        start.elapsed()
    );
    assert!(client.is_open());
    let alive = http::get(&format!("{}/healthz", node.admin_url()))
        .await
        .unwrap();
    assert_eq!(alive.status, 200, "an outage of the bus restarts no node");
    back().await;
    let green = becomes(node, 200).await;
    assert!(green < BOUND + SLACK, "green after {green:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_stands_still_or_dies_turns_readiness_red_and_comes_back() {
    let Some(mut redis) =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    else {
        return;
    };
    let node = Fanfare::start(&format!("{REDIS}\nurl = \"{}\"", redis.url())).await;
    let mut client = follow(&node).await;
    assert_eq!(publish(&node, "one").await.status, 201);
    assert_eq!(read_until(&mut client, "one").await, 0);

    redis.pause();
    outage(&node, &mut client, async || redis.resume()).await;
    assert_eq!(publish(&node, "two").await.status, 201);
    // What was published into the pause may have been stored when it ended: the publisher was
    // told that it does not know.
    loop {
        let event = client.next_event(PATIENCE).await.unwrap().unwrap();
        match (&*event.event_type, &*event.data) {
            ("message", "two") => break,
            ("message", "refused") => {}
            ("fanfare.gap", data) => assert!(data.contains("reconnected"), "{data}"),
            other => panic!("{other:?}"),
        }
    }

    redis.kill();
    outage(&node, &mut client, async || redis.restart().await).await;
    assert_eq!(publish(&node, "three").await.status, 201);
    let mut raw_gaps = 0;
    loop {
        let event = client.next_event(PATIENCE).await.unwrap().unwrap();
        match (&*event.event_type, &*event.data) {
            ("message", "three") => break,
            // Durable channels heal; the raw one says what it cannot know.
            ("fanfare.gap", data) if data.contains("reconnected") => raw_gaps += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(raw_gaps > 0, "the raw channel was cut");
    redis.cli(&["PUBLISH", "raw:a", "raw again"]).await;
    assert_eq!(read_until(&mut client, "raw again").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_that_stands_still_or_dies_turns_readiness_red_and_comes_back() {
    let Some(mut nats) = NatsServer::start().await else {
        return;
    };
    let node = Fanfare::start(&format!("{NATS}\nurl = \"{}\"", nats.url())).await;
    let mut client = follow(&node).await;
    assert_eq!(publish(&node, "one").await.status, 201);
    assert_eq!(read_until(&mut client, "one").await, 0);

    nats.kill();
    outage(&node, &mut client, async || nats.restart().await).await;
    assert_eq!(publish(&node, "two").await.status, 201);
    assert!(
        read_until(&mut client, "two").await > 0,
        "core NATS keeps nothing"
    );

    nats.pause();
    outage(&node, &mut client, async || nats.resume()).await;
    assert_eq!(publish(&node, "three").await.status, 201);
    loop {
        let event = client.next_event(PATIENCE).await.unwrap().unwrap();
        match (&*event.event_type, &*event.data) {
            ("message", "three") => break,
            ("message", "refused") | ("fanfare.gap", _) => {}
            other => panic!("{other:?}"),
        }
    }
}
