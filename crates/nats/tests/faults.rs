//! What happens when the server, the link or this node fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant};

use fanfare_core::{
    Broker, BrokerMetrics, Channel, ErrorKind, GapCause, Live, Pattern, Publication,
};
use fanfare_nats::{NatsBroker, NatsConfig};
use support::{Node, Run, Server, until};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

#[tokio::test]
async fn a_restarted_server_is_a_gap_and_then_events_flow() {
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let (broker, metrics) = server.broker(&[("raw.*", "{name}")]).await;
    let mut node = Node::new();
    let _hold = broker
        .subscribe(&pattern("raw.*"), &node.inlet)
        .await
        .unwrap();
    let mut plain = server.plain().await;
    plain.publish(b"raw.a", b"before").await;
    let before = node.event().await.position.clone();
    server.kill();
    until("the cut is noticed", async || metrics.up.get() == 0).await;

    // Meanwhile nothing is said to be published that is not, and nobody waits for ever.
    let start = Instant::now();
    let error = broker
        .publish(&channel("raw.a"), Publication::new("x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = broker
        .subscribe(&pattern("other"), &node.inlet)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(broker.probe().await.is_err());
    assert!(start.elapsed() < Duration::from_secs(7));

    assert_eq!(server.run().await, Run::Up);
    let gap = node.gap().await;
    assert_eq!(
        (gap.cause, gap.scope),
        (GapCause::Reconnected, Pattern::all())
    );
    assert_eq!(gap.after, Some(before));
    let mut plain = server.plain().await;
    plain.publish(b"raw.a", b"after").await;
    let event = node.event().await;
    assert_eq!(event.data.as_str(), "after");
    assert_eq!(event.position.is_after(&gap.next), Some(true));
    broker.probe().await.unwrap();
    assert_eq!((metrics.up.get(), metrics.reconnects.get()), (1, 1));
    // What was refused meanwhile left nothing behind.
    until("only what is followed", async || {
        let all = server.subscriptions().await;
        !all.iter().any(|subject| subject.contains("other"))
    })
    .await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_noticed_within_five_seconds() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, metrics) = server.broker(&[]).await;
    let mut node = Node::new();
    let _hold = broker.subscribe(&pattern("a"), &node.inlet).await.unwrap();
    server.signal("STOP");
    let start = Instant::now();
    let (name, other) = (channel("a"), pattern("b"));
    let (publish, join, probe) = tokio::join!(
        broker.publish(&name, Publication::new("x")),
        broker.subscribe(&other, &node.inlet),
        broker.probe(),
    );
    assert_eq!(publish.unwrap_err().kind(), ErrorKind::Timeout);
    // It waits for a link as long as it may: by then the silence may have been noticed.
    let kind = join.unwrap_err().kind();
    assert!(
        matches!(kind, ErrorKind::Timeout | ErrorKind::Unavailable),
        "{kind:?}"
    );
    assert_eq!(probe.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    until("the silence is noticed", async || metrics.up.get() == 0).await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let error = broker
        .publish(&name, Publication::new("x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.signal("CONT");
    // What was under way when the server stood still may or may not come before the gap.
    let gap = loop {
        if let Live::Gap(gap) = node.next().await {
            break gap;
        }
    };
    assert_eq!(gap.cause, GapCause::Reconnected);
    broker
        .publish(&name, Publication::new("again"))
        .await
        .unwrap();
    while node.event().await.data.as_str() != "again" {}
}

#[tokio::test]
async fn an_idle_link_to_a_server_that_stands_still_is_noticed_too() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, metrics) = server.broker(&[]).await;
    broker.probe().await.unwrap();
    server.signal("STOP");
    let start = Instant::now();
    until("the silence is noticed", async || metrics.up.get() == 0).await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    server.signal("CONT");
}

#[tokio::test]
async fn a_node_that_is_too_slow_for_the_server_gets_a_gap() {
    let Some(server) = Server::start("max_pending: 1MB\nwrite_deadline: \"100ms\"").await else {
        return;
    };
    // The node's runtime is one thread, which stands still while messages come.
    let (go, stand) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let config = server.config(&[("raw", "raw")]);
    let node = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let metrics = BrokerMetrics::unregistered("nats");
            let broker = NatsBroker::connect(config, metrics).await.unwrap();
            let mut node = Node::new();
            let _hold = broker
                .subscribe(&pattern("raw"), &node.inlet)
                .await
                .unwrap();
            ready.send(()).unwrap();
            stand.recv().unwrap();
            let mut events = Vec::new();
            let gap = loop {
                match node.next().await {
                    Live::Event(event) => events.push(event),
                    Live::Gap(gap) => break gap,
                }
            };
            broker
                .publish(&channel("raw"), Publication::new("after"))
                .await
                .unwrap();
            assert_eq!(node.event().await.data.as_str(), "after");
            (events, gap)
        })
    });
    is_ready.await.unwrap();
    let mut plain = server.plain().await;
    let total = 1000;
    for number in 0..total {
        let mut payload = format!("{number} ").into_bytes();
        payload.resize(100_000, b'x');
        plain.publish(b"raw", &payload).await;
    }
    plain.flush().await;
    until("the server gives the node up", async || {
        server.monitor("/varz").await["slow_consumers"].as_u64() > Some(0)
    })
    .await;
    go.send(()).unwrap();
    let (events, gap) = tokio::task::spawn_blocking(|| node.join().unwrap())
        .await
        .unwrap();
    assert!(events.len() < total, "some were lost");
    for (number, event) in events.iter().enumerate() {
        assert!(
            event.data.as_str().starts_with(&format!("{number} ")),
            "in order, from the first"
        );
    }
    assert!(
        matches!(gap.cause, GapCause::Lagged | GapCause::Reconnected),
        "{gap:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_is_left() {
    let Some((one, two)) = Server::cluster().await else {
        return;
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let config = NatsConfig {
        // The second is learnt from the cluster.
        urls: vec![one.url()],
        ..one.config(&[])
    };
    let broker = NatsBroker::connect(config, metrics.clone()).await.unwrap();
    let mut node = Node::new();
    let _hold = broker.subscribe(&pattern("a"), &node.inlet).await.unwrap();
    one.signal("USR2");
    let gap = node.gap().await;
    assert_eq!(gap.cause, GapCause::Reconnected);
    assert_eq!(two.monitor("/connz").await["num_connections"], 1);
    broker
        .publish(&channel("a"), Publication::new("x"))
        .await
        .unwrap();
    node.event().await;
    assert_eq!(metrics.reconnects.get(), 1);
}

#[tokio::test]
async fn no_server_is_an_error_at_once() {
    let metrics = BrokerMetrics::unregistered("nats");
    let config = NatsConfig {
        urls: vec!["nats://127.0.0.1:1".into()],
        ..NatsConfig::default()
    };
    let error = NatsBroker::connect(config, metrics).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
