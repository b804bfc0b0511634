//! What happens when the server, the link or this node fails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{Node, Server, until, wire::Wire};
use fanfare_core::{
    Broker, BrokerMetrics, Channel, ErrorKind, GapCause, Live, Pattern, Publication,
};
use fanfare_nats::{NatsBroker, NatsConfig};

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
    server.nats.kill();
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

    server.nats.restart().await;
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
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let (broker, metrics) = server.broker(&[]).await;
    let mut node = Node::new();
    let _hold = broker.subscribe(&pattern("a"), &node.inlet).await.unwrap();
    server.nats.pause();
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
    server.nats.resume();
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
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let (broker, metrics) = server.broker(&[]).await;
    broker.probe().await.unwrap();
    server.nats.pause();
    let start = Instant::now();
    until("the silence is noticed", async || metrics.up.get() == 0).await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    server.nats.resume();
}

#[tokio::test]
async fn what_the_client_cannot_read_cuts_the_link_and_is_a_gap() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, _) = server.broker(&[("raw.>", "{name}")]).await;
    let mut node = Node::new();
    let _hold = broker
        .subscribe(&pattern("raw.>"), &node.inlet)
        .await
        .unwrap();
    let mut plain = server.plain().await;
    let with_headers = |headers: &[u8]| {
        let head = format!("HPUB raw.a {} {}\r\n", headers.len(), headers.len() + 1);
        [head.as_bytes(), headers, b"x\r\n"].concat()
    };
    let poisons = [
        b"PUB raw.\xff 1\r\nx\r\n".to_vec(),
        with_headers(b"NATS/1.0\r\nA: \xff\r\n\r\n"),
        with_headers(b"NATS/1.0\r\nno colon\r\n\r\n"),
    ];
    for (number, poison) in poisons.iter().enumerate() {
        plain.send(poison).await;
        let gap = node.gap().await;
        assert_eq!(
            (gap.cause, gap.scope),
            (GapCause::Reconnected, Pattern::all())
        );
        let payload = number.to_string();
        plain.publish(b"raw.a", payload.as_bytes()).await;
        assert_eq!(node.event().await.data.as_str(), payload);
    }
}

#[tokio::test]
async fn a_node_that_takes_messages_up_too_slowly_gets_a_gap_where_they_are_missing() {
    const ROOM: usize = 100;
    let Some(server) = Server::start("").await else {
        return;
    };
    // The node's runtime is one thread, which stands still while messages come.
    let (go, stand) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let config = NatsConfig {
        queue_messages: ROOM,
        ..server.config(&[("raw", "raw")])
    };
    let node = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let metrics = BrokerMetrics::unregistered("nats");
            let broker = NatsBroker::connect(config, metrics).await.unwrap();
            let broker = Arc::new(broker);
            let mut node = Node::new();
            let _hold = broker
                .subscribe(&pattern("raw"), &node.inlet)
                .await
                .unwrap();
            ready.send(broker.clone()).unwrap();
            stand.recv().unwrap();
            for number in 0..ROOM {
                let data = node.event().await.data.clone();
                assert_eq!(
                    data.as_str(),
                    number.to_string(),
                    "in order, from the first"
                );
            }
            let gap = node.gap().await;
            assert_eq!((gap.cause, gap.scope), (GapCause::Lagged, Pattern::all()));
            broker
                .publish(&channel("raw"), Publication::new("after"))
                .await
                .unwrap();
            // There may be more gaps than one; they come before what follows.
            loop {
                if let Live::Event(event) = node.next().await {
                    assert_eq!(event.data.as_str(), "after");
                    break;
                }
            }
        });
    });
    let broker = is_ready.await.unwrap();
    let mut plain = server.plain().await;
    for number in 0..ROOM * 5 {
        plain.publish(b"raw", number.to_string().as_bytes()).await;
    }
    plain.flush().await;
    // The canary comes after them.
    broker.probe().await.unwrap();
    go.send(()).unwrap();
    tokio::task::spawn_blocking(|| node.join().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_that_the_server_gives_up_as_too_slow_gets_a_gap() {
    let config = "max_pending: 2097152\nwrite_deadline: \"300ms\"";
    let Some(server) = Server::start(config).await else {
        return;
    };
    let wire = Wire::to(server.port).await;
    let config = NatsConfig {
        urls: vec![format!("nats://{}", wire.address)],
        // So that it is the server that ends the link.
        ping_interval: Duration::from_secs(600),
        ..server.config(&[("raw", "raw")])
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let broker = NatsBroker::connect(config, metrics.clone()).await.unwrap();
    let mut node = Node::new();
    let _hold = broker
        .subscribe(&pattern("raw"), &node.inlet)
        .await
        .unwrap();
    let mut plain = server.plain().await;
    plain.publish(b"raw", b"before").await;
    assert_eq!(node.event().await.data.as_str(), "before");
    wire.hold();
    // More than the kernel holds for a socket that nobody reads.
    let large = vec![b'x'; 512 << 10];
    for _ in 0..64 {
        plain.publish(b"raw", &large).await;
    }
    plain.flush().await;
    until("the server gives the node up", async || {
        server.monitor("/varz").await["slow_consumers"].as_u64() > Some(0)
    })
    .await;
    wire.release();
    let gap = loop {
        match node.next().await {
            Live::Event(event) => assert_eq!(event.data.as_str().len(), large.len()),
            Live::Gap(gap) => break gap,
        }
    };
    assert_eq!(
        (gap.cause, gap.scope),
        (GapCause::Reconnected, Pattern::all())
    );
    let mut plain = server.plain().await;
    plain.publish(b"raw", b"after").await;
    assert_eq!(node.event().await.data.as_str(), "after");
    assert_eq!(metrics.reconnects.get(), 1);
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
    one.lame_duck();
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
