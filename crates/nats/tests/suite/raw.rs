//! What is published on either side, and what arrives.

use std::time::Duration;

use crate::support::{Node, PATIENCE, Server, until};
use fanfare_core::{
    Broker, BrokerMetrics, Channel, Data, ErrorKind, EventType, GapCause, HistoryQuery, Live,
    Offset, Pattern, Publication, Since,
};
use fanfare_nats::{Ingest, NatsBroker, NatsConfig};
use futures_util::StreamExt;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

#[tokio::test]
async fn two_nodes_share_what_is_published_through_either() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let ((one, _), (two, _)) = (server.broker(&[]).await, server.broker(&[]).await);
    let (mut at_one, mut at_two) = (Node::new(), Node::new());
    let _one = one
        .subscribe(&pattern("größe.>"), &at_one.inlet)
        .await
        .unwrap();
    let _two = two
        .subscribe(&pattern("größe.*"), &at_two.inlet)
        .await
        .unwrap();
    let publication = Publication {
        event_type: Some(EventType::parse("naïve: type").unwrap()),
        data: Data::from("line\r\nline\n\0€"),
        tags: [("re:gion", "e%u\r\n"), ("tier", "")].into_iter().collect(),
        key: None,
    };
    for node in [&one, &two] {
        let published = node
            .publish(&channel("größe.$1"), publication.clone())
            .await;
        assert_eq!(published.unwrap().position, None);
    }
    for node in [&mut at_one, &mut at_two] {
        for offset in 1..=2 {
            let event = node.event().await;
            assert_eq!(event.channel, channel("größe.$1"));
            assert_eq!(event.position.offset, Offset(offset));
            assert_eq!(event.event_type, publication.event_type);
            assert_eq!(event.data, publication.data);
            assert_eq!(event.tags, publication.tags);
            assert!(event.published_at.elapsed().unwrap() < Duration::from_secs(10));
        }
    }
}

#[tokio::test]
async fn a_plain_publisher_reaches_every_node_and_a_plain_subscriber_hears_us() {
    let Some(server) = Server::start("max_payload: 2MB").await else {
        return;
    };
    let ingest = || {
        vec![Ingest {
            source: "shop.*.orders".into(),
            channel: "orders.{1}".into(),
            event_header: Some("Event-Type".into()),
            tag_headers: vec!["Tenant".into()],
            ..Ingest::default()
        }]
    };
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let config = NatsConfig {
            ingest: ingest(),
            ..server.config(&[])
        };
        let metrics = BrokerMetrics::unregistered("nats");
        let broker = NatsBroker::connect(config, metrics).await.unwrap();
        let node = Node::new();
        let hold = broker
            .subscribe(&pattern("orders.*"), &node.inlet)
            .await
            .unwrap();
        nodes.push((broker, node, hold));
    }
    let large = "x".repeat(1 << 20);
    let payloads = ["", "a\r\nb\rc\nd", "\"quoted\"", "🎉", large.as_str()];
    let mut plain = server.plain().await;
    for payload in payloads {
        plain.publish(b"shop.eu.orders", payload.as_bytes()).await;
    }
    let headers = "NATS/1.0\r\nEvent-Type: paid\r\nX: y\r\ntenant: acme\r\n\r\n";
    let typed = format!(
        "HPUB shop.eu.orders {} {}\r\n{headers}hi\r\n",
        headers.len(),
        headers.len() + 2
    );
    plain.send(typed.as_bytes()).await;
    for (_, node, _) in &mut nodes {
        for payload in payloads {
            let event = node.event().await;
            assert_eq!(event.channel, channel("orders.eu"));
            assert!(event.data.as_str() == payload, "{} bytes", payload.len());
            assert_eq!(event.event_type, None);
        }
        let event = node.event().await;
        assert_eq!(event.event_type, Some(EventType::parse("paid").unwrap()));
        assert_eq!(event.data.as_str(), "hi");
        assert_eq!(event.tags, [("Tenant", "acme")].into_iter().collect());
    }

    plain.send(b"SUB shop.> 9\r\n").await;
    plain.flush().await;
    let (broker, ..) = &nodes[0];
    let mut publication = Publication::new("plain");
    broker
        .publish(&channel("orders.us"), publication.clone())
        .await
        .unwrap();
    publication.event_type = Some(EventType::parse("sent").unwrap());
    broker
        .publish(&channel("orders.us"), publication)
        .await
        .unwrap();
    let heard = plain.read_until(b"sent\r\n\r\nplain\r\n").await;
    let expected = "MSG shop.us.orders 9 5\r\nplain\r\nHMSG shop.us.orders 9 30 35\r\nNATS/1.0\r\nEvent-Type: sent\r\n\r\nplain\r\n";
    assert_eq!(String::from_utf8(heard).unwrap(), expected);
}

#[tokio::test]
async fn what_cannot_be_delivered_is_a_gap() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let mut config = server.config(&[("raw.>", "{name}")]);
    config.max_data_bytes = 1000;
    let broker = NatsBroker::connect(config, BrokerMetrics::unregistered("nats"))
        .await
        .unwrap();
    let (mut node, mut other) = (Node::new(), Node::new());
    let _hold = broker
        .subscribe(&pattern("raw.>"), &node.inlet)
        .await
        .unwrap();
    let _other = broker
        .subscribe(&pattern("other"), &other.inlet)
        .await
        .unwrap();
    let mut plain = server.plain().await;
    let over = vec![b'x'; 1001];
    let far_over = vec![b'x'; 500_000];
    for (payload, scope) in [
        (&b"\xff"[..], "raw.a"),
        (&over, "raw.b"),
        (&far_over, "raw.c"),
    ] {
        plain.publish(scope.as_bytes(), payload).await;
        let gap = node.gap().await;
        assert_eq!(
            (gap.cause, gap.scope),
            (GapCause::Undeliverable, pattern(scope))
        );
    }
    let bad = "HPUB raw.d 40 41\r\nNATS/1.0\r\nFanfare-Event: fanfare.gap\r\n\r\nx\r\n";
    plain.send(bad.as_bytes()).await;
    assert_eq!(node.gap().await.scope, pattern("raw.d"));
    assert_eq!(other.depth(), 0, "only followers of the channel are told");
    // Names that are no channel names: one gap for everybody, however many there are.
    for name in [&b"raw.a\\b"[..], b"raw.a\"b", b"raw.[x]"] {
        plain.publish(name, b"x").await;
    }
    plain.publish(b"raw.good", &[b'x'; 1000]).await;
    let gap = node.gap().await;
    assert_eq!(
        (gap.cause, gap.scope),
        (GapCause::Undeliverable, Pattern::all())
    );
    assert_eq!(node.event().await.channel, channel("raw.good"));
    assert_eq!(other.gap().await.cause, GapCause::Undeliverable);
    // The other two are told once the bound on such gaps allows.
    assert_eq!(node.gap().await.scope, Pattern::all());
}

#[tokio::test]
async fn publishing_says_what_it_cannot_do() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, metrics) = server.broker(&[]).await;
    let facts = broker.capabilities();
    assert!(!(facts.history || facts.shared || facts.positions || facts.idempotency));
    let most = facts.max_data_bytes.unwrap();
    let name = channel("a");
    let sized = |bytes: usize| Publication::new("x".repeat(bytes));
    broker.publish(&name, sized(most)).await.unwrap();
    let error = broker.publish(&name, sized(most + 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let keyed = Publication {
        key: Some(fanfare_core::IdempotencyKey::parse("k").unwrap()),
        ..Publication::default()
    };
    let error = broker.publish(&name, keyed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        (metrics.published.get(), metrics.publish_errors.get()),
        (1, 2)
    );
    broker.probe().await.unwrap();
}

#[tokio::test]
async fn history_keeps_nothing_and_says_so() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, _) = server.broker(&[]).await;
    let mut node = Node::new();
    let _hold = broker.subscribe(&pattern("a"), &node.inlet).await.unwrap();
    broker
        .publish(&channel("a"), Publication::new("1"))
        .await
        .unwrap();
    let first = node.event().await.position.clone();
    broker
        .publish(&channel("a"), Publication::new("2"))
        .await
        .unwrap();
    let second = node.event().await.position.clone();
    let ask = |since| {
        broker.history(HistoryQuery {
            log: first.log.clone(),
            channels: vec![pattern("a")],
            since,
            limit: 10.try_into().unwrap(),
            max_bytes: 1 << 20,
        })
    };
    let page = ask(Since::Now).await.unwrap();
    assert_eq!((page.items.len(), page.upto), (0, second.clone()));
    let page = ask(Since::After(second.clone())).await.unwrap();
    assert!(page.items.is_empty());
    let foreign = fanfare_core::Position {
        epoch: fanfare_core::Epoch(1),
        ..first.clone()
    };
    for (place, cause) in [
        (first.clone(), GapCause::Evicted),
        (foreign, GapCause::NewEpoch),
    ] {
        let page = ask(Since::After(place)).await.unwrap();
        let [Live::Gap(gap)] = &page.items[..] else {
            panic!("{page:?}")
        };
        assert_eq!((gap.cause, &gap.next), (cause, &second));
    }
}

#[tokio::test]
async fn what_is_let_go_of_leaves_the_server() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, _) = server.broker(&[("raw.>", "{name}")]).await;
    let at_rest = server.subscriptions().await.len();
    let node = Node::new();
    for round in 0..4 {
        let names: Vec<_> = (0..500)
            .map(|n| pattern(&format!("raw.{round}.{n}")))
            .collect();
        let joins = names.iter().map(|name| broker.subscribe(name, &node.inlet));
        let mut holds = Vec::new();
        for join in joins {
            holds.push(join.await.unwrap());
        }
        assert_eq!(server.subscriptions().await.len(), at_rest + 1000);
        drop(holds);
        until("every subscription is gone", async || {
            server.subscriptions().await.len() == at_rest
        })
        .await;
    }
}

#[tokio::test]
async fn a_dropped_subscribe_leaves_nothing() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, _) = server.broker(&[]).await;
    let at_rest = server.subscriptions().await.len();
    let node = Node::new();
    // On a busy machine a server may answer within the one poll: then another name.
    for attempt in 0.. {
        let name = pattern(&format!("a.{attempt}"));
        let join = broker.subscribe(&name, &node.inlet);
        tokio::pin!(join);
        // Polled once, so that the command is on its way.
        tokio::select! {
            biased;
            _ = &mut join => {}
            () = std::future::ready(()) => break,
        }
    }
    broker.probe().await.unwrap();
    until("nothing is left", async || {
        server.subscriptions().await.len() == at_rest
    })
    .await;
}

#[tokio::test]
async fn refusals_are_told_to_whoever_asked_without_secrets() {
    let permissions = "authorization { users = [ { user: u, password: s3cret, permissions: {
        publish: [\"fanfare.live.ok\", \"fanfare.probe.>\"],
        subscribe: [\"fanfare.live.ok\", \"fanfare.probe.>\"] } } ] }";
    let Some(server) = Server::start(permissions).await else {
        return;
    };
    let at = |log_in: &str| NatsConfig {
        urls: vec![format!("nats://{log_in}127.0.0.1:{}", server.port)],
        ..server.config(&[])
    };
    for log_in in ["", "u:wr0ng@", "s3cret@"] {
        let metrics = BrokerMetrics::unregistered("nats");
        let error = NatsBroker::connect(at(log_in), metrics).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert_eq!(error.kind(), ErrorKind::Rejected, "{text}");
        assert!(text.contains("broker.nats.credentials"), "{text}");
        assert!(
            !text.contains("s3cret") && !text.contains("wr0ng"),
            "{text}"
        );
    }
    let metrics = BrokerMetrics::unregistered("nats");
    let broker = NatsBroker::connect(at("u:s3cret@"), metrics).await.unwrap();
    assert!(!format!("{broker:?}").contains("s3cret"));
    let mut node = Node::new();
    let _hold = broker.subscribe(&pattern("ok"), &node.inlet).await.unwrap();
    for _ in 0..2 {
        let error = broker
            .subscribe(&pattern("no"), &node.inlet)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    }
    let (no, ok) = (channel("no"), channel("ok"));
    let (refused, granted) = tokio::join!(
        broker.publish(&no, Publication::new("x")),
        broker.publish(&ok, Publication::new("x")),
    );
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Rejected);
    granted.unwrap();
    assert_eq!(node.event().await.channel, channel("ok"));
    broker.probe().await.unwrap();
}

/// The client tells of a refusal apart from everything else, and may do so later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_refusal_is_missed_under_load() {
    let permissions = "authorization { users = [ { user: u, password: p, permissions: {
        publish: [\"fanfare.live.ok.>\", \"fanfare.probe.>\"],
        subscribe: [\"fanfare.live.ok.>\", \"fanfare.probe.>\"] } } ] }";
    let Some(server) = Server::start(permissions).await else {
        return;
    };
    let config = NatsConfig {
        urls: vec![format!("nats://u:p@127.0.0.1:{}", server.port)],
        ..server.config(&[])
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let broker = NatsBroker::connect(config, metrics).await.unwrap();
    let node = Node::new();
    let call = async |number: usize| {
        let granted = number.is_multiple_of(2);
        let name = format!("{}.{number}", if granted { "ok" } else { "no" });
        let publish = broker.publish(&channel(&name), Publication::new("x")).await;
        let subscribe = broker.subscribe(&pattern(&name), &node.inlet).await;
        for error in [publish.err(), subscribe.err()] {
            let kind = error.map(|error| error.kind());
            assert_eq!(kind, (!granted).then_some(ErrorKind::Rejected), "{name}");
        }
    };
    for width in [1, 64] {
        futures_util::stream::iter(0..1000)
            .for_each_concurrent(width, call)
            .await;
    }
}

#[tokio::test]
async fn after_close_everything_answers_closed() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let (broker, _) = server.broker(&[]).await;
    let node = Node::new();
    let _hold = broker.subscribe(&pattern("a"), &node.inlet).await.unwrap();
    broker.close().await;
    assert!(node.inlet.is_closed());
    let kinds = [
        broker
            .publish(&channel("a"), Publication::new("x"))
            .await
            .err(),
        broker.subscribe(&pattern("a"), &node.inlet).await.err(),
        broker.probe().await.err(),
    ];
    for error in kinds {
        assert_eq!(error.unwrap().kind(), ErrorKind::Closed);
    }
    until("the connection is gone", async || {
        server.monitor("/connz").await["num_connections"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_channels_that_come_and_go_leave_nothing_behind() {
    const AT_A_TIME: usize = 5_000;
    let Some(server) = Server::start("").await else {
        return;
    };
    // The last of so many that are asked for at a time waits for all of them.
    let config = NatsConfig {
        command_timeout: PATIENCE,
        ..server.config(&[("raw.*.*", "{name}")])
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let broker = NatsBroker::connect(config, metrics.clone()).await.unwrap();
    broker.probe().await.unwrap();
    let at_rest = server.count_subscriptions().await;
    let node = Node::new();
    for round in 0..20 {
        let names: Vec<_> = (0..AT_A_TIME)
            .map(|n| pattern(&format!("own.{round}.{n}")))
            .collect();
        let joins = names.iter().map(|name| broker.subscribe(name, &node.inlet));
        let holds = futures_util::future::try_join_all(joins).await.unwrap();
        let there = server.count_subscriptions().await;
        assert!(there >= at_rest + AT_A_TIME as u64, "{there}");
        drop(holds);
        until("every subscription is gone", async || {
            server.count_subscriptions().await == at_rest && metrics.subscriptions.get() == 0
        })
        .await;
    }
    broker.probe().await.unwrap();
    assert_eq!(node.depth(), 0, "and nobody was told of a gap");
}

#[tokio::test]
async fn a_key_in_a_header_tells_a_message_that_was_sent_twice() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let rule = Ingest {
        source: "shop.>".into(),
        key_header: Some("Nats-Msg-Id".into()),
        tag_headers: vec!["Region".into()],
        ..Ingest::default()
    };
    let config = NatsConfig {
        ingest: vec![rule],
        max_keys: 2,
        ..server.config(&[])
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let broker = NatsBroker::connect(config, metrics).await.unwrap();
    let mut node = Node::new();
    let all = Pattern::all();
    let _hold = broker.subscribe(&all, &node.inlet).await.unwrap();
    let mut client = server.nats.client().await;
    let mut send = |subject: &str, data: &str, key: &str| {
        client.publish(subject, data, &[("nats-msg-id", key)]);
    };
    send("shop.a", "1", "one");
    send("shop.a", "1 again", "one");
    send("shop.b", "of another channel", "one");
    // What is no key tells nothing: both come.
    send("shop.a", "2", "no key");
    send("shop.a", "3", "no key");
    // Two keys are known at most: this one drives the first out.
    send("shop.a", "4", "two");
    send("shop.a", "5", "one");
    client.flush().await.unwrap();
    for data in ["1", "of another channel", "2", "3", "4", "5"] {
        assert_eq!(node.event().await.data.as_str(), data);
    }

    // A publisher of ours that asks twice is heard once, and others read the key where they look.
    let mut plain = server.plain().await;
    plain.send(b"SUB shop.> 9\r\n").await;
    plain.flush().await;
    let publication = Publication {
        key: Some(fanfare_core::IdempotencyKey::parse("ours").unwrap()),
        tags: [("Region", " eu")].into_iter().collect(),
        ..Publication::new("6")
    };
    let name = channel("shop.c");
    for _ in 0..2 {
        let published = broker.publish(&name, publication.clone());
        published.await.unwrap();
    }
    let event = node.event().await;
    assert_eq!((event.data.as_str(), &event.tags), ("6", &publication.tags));
    assert_eq!(node.depth(), 0);
    plain.read_until(b"Nats-Msg-Id: ours\r\n").await;
    let error = broker.publish(&channel("own"), publication).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}
