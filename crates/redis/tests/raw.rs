//! Raw channels: what any program publishes, untouched, in both directions.

mod bus;

use bus::{Follower, channel, connect, publish, quick, rule};
use fanfare_core::{Broker, BrokerMetrics, ErrorKind, EventType, GapCause, IdempotencyKey};
use fanfare_core::{Publication, Tags};
use fanfare_redis::{RedisBroker, RedisConfig};
use fanfare_testkit::{RedisServer, Reply, eventually};
use prometheus::{Registry, TextEncoder};

fn orders(url: String) -> RedisConfig {
    RedisConfig {
        ingest: vec![rule("orders:*", "orders.{1}"), rule("any/*", "{name}")],
        ..quick(url)
    }
}

#[tokio::test]
async fn what_redis_cli_publishes_reaches_every_node() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let one = connect(orders(server.url())).await;
    let two = connect(orders(server.url())).await;
    let mut followers = [
        Follower::of(&one, &["orders.eu"]).await,
        Follower::of(&two, &["orders.*"]).await,
        Follower::of(&two, &[">"]).await,
    ];
    assert_eq!(
        server.cli(&["PUBLISH", "orders:eu", "{\"n\": 1}"]).await,
        "2",
        "each node once, by name or by glob"
    );
    for follower in &mut followers {
        let event = follower.event().await;
        assert_eq!(event.channel.as_str(), "orders.eu");
        assert_eq!(event.data.as_str(), "{\"n\": 1}");
        assert_eq!(event.event_type, None);
    }
}

#[tokio::test]
async fn payloads_arrive_byte_for_byte() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(orders(server.url())).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    let mut stranger = server.resp().await;
    let mib = "x".repeat(1_048_576);
    let payloads = [
        "",
        "a\nb\r\nc\rd",
        "\"'\\\0",
        "🎺 é",
        " lead and trail ",
        mib.as_str(),
    ];
    for payload in payloads {
        stranger
            .publish_all([("orders:eu", payload)])
            .await
            .unwrap();
        assert_eq!(follower.event().await.data.as_str(), payload);
        publish(&broker, "any.own", payload).await;
        assert_eq!(follower.event().await.data.as_str(), payload);
    }
    let data = format!("{mib}x");
    let larger = broker
        .publish(&channel("any.own"), Publication::new(data.as_str()))
        .await;
    assert_eq!(larger.unwrap_err().kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn publishing_to_a_raw_channel_is_a_bare_publish() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(orders(server.url())).await;
    let mut follower = Follower::of(&broker, &["orders.eu"]).await;
    let mut stranger = server.resp().await;
    stranger.command(&["SUBSCRIBE", "orders:eu"]).await.unwrap();
    publish(&broker, "orders.eu", "bare").await;
    let bulk = |text: &str| Reply::Bulk(text.into());
    assert_eq!(
        stranger.next().await.unwrap(),
        Reply::Array(vec![bulk("message"), bulk("orders:eu"), bulk("bare")])
    );
    assert_eq!(follower.told().await, ("orders.eu".into(), "bare".into()));

    let typed = Publication {
        event_type: Some(EventType::parse("created").unwrap()),
        ..Publication::new("x")
    };
    let tagged = Publication {
        tags: Tags::from_iter([("a", "b")]),
        ..Publication::new("x")
    };
    for (publication, to, part) in [
        (typed, "orders.eu", "an event type cannot"),
        (tagged, "orders.eu", "tags cannot"),
        (Publication::new("x"), "any.a.b", "`any/* -> {name}`"),
        (
            Publication::new("x"),
            "own",
            "no ingest rule makes the channel own",
        ),
    ] {
        let error = broker.publish(&channel(to), publication).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_key_is_known_on_every_node() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let one = connect(orders(server.url())).await;
    let two = connect(orders(server.url())).await;
    let mut follower = Follower::of(&two, &["orders.*"]).await;
    let keyed = Publication {
        key: Some(IdempotencyKey::parse("k1").unwrap()),
        ..Publication::new("keyed")
    };
    let send = |node: RedisBroker, to: &'static str| {
        let keyed = keyed.clone();
        async move { node.publish(&channel(to), keyed).await.unwrap() }
    };
    let first = send(one.clone(), "orders.eu").await;
    assert_eq!((first.position, first.duplicate), (None, false));
    assert!(send(two.clone(), "orders.eu").await.duplicate);
    server.cli(&["SCRIPT", "FLUSH"]).await;
    assert!(send(one.clone(), "orders.eu").await.duplicate);
    // Of another channel it is another key.
    assert!(!send(one.clone(), "orders.us").await.duplicate);
    publish(&one, "orders.eu", "next").await;
    for data in ["keyed", "keyed", "next"] {
        assert_eq!(follower.told().await.1, data);
    }
    let left = server
        .cli(&["PTTL", "{fanfare:raw}:key:orders.eu k1"])
        .await;
    let left: u64 = left.parse().unwrap();
    assert!((60_000..=120_000).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_once_however_many_subscriptions_select_it() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    // The first rule that selects a name counts; what is followed for the others brings copies.
    let mut config = orders(server.url());
    config
        .ingest
        .extend([rule("order*", "{name}"), rule("*s:*", "x.{1}.{2}")]);
    let broker = connect(config).await;
    let mut patterns = vec!["orders.eu", "orders.*", "orders.>", "*.eu", ">"];
    let mut follower = Follower::of(&broker, &patterns).await;
    let mut other = Follower::of(&broker, &["orders.eu"]).await;
    // Equal payloads: what tells them apart is not what they say.
    let same = [("orders:eu", "same"); 50];
    let mut stranger = server.resp().await;
    let receivers = stranger.publish_all(same).await.unwrap();
    assert!(
        receivers[0] >= 3,
        "the server sends several copies: {receivers:?}"
    );
    stranger.publish_all([("orders:eu", "end")]).await.unwrap();
    for (name, follower) in [("all", &mut follower), ("one", &mut other)] {
        for _ in 0..50 {
            assert_eq!(follower.told().await.1, "same", "{name}");
        }
        assert_eq!(follower.told().await.1, "end", "{name}");
    }
    // Under churn of subscriptions too: each is one event, whichever selects it at the time.
    let publishing = tokio::spawn(async move {
        for round in 0..40 {
            let each = (0..25).map(|index| ("orders:eu", format!("{}", round * 25 + index)));
            stranger.publish_all(each).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut churned = Follower::of(&broker, &[]).await;
    while !publishing.is_finished() {
        tokio::task::yield_now().await;
        patterns.rotate_left(1);
        churned.follow(patterns[0]).await;
        if churned.subscriptions.len() > 2 {
            drop(churned.subscriptions.remove(0));
        }
    }
    for follower in [&mut follower, &mut other] {
        for expected in 0..1000 {
            assert_eq!(follower.told().await.1, expected.to_string());
        }
    }
}

#[tokio::test]
async fn what_cannot_be_delivered_is_told_and_counted() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let registry = Registry::new();
    let metrics = BrokerMetrics::register(&registry, "redis").unwrap();
    let config = RedisConfig {
        max_data_bytes: 10,
        ..orders(server.url())
    };
    let broker = RedisBroker::connect(config, metrics).await.unwrap();
    let mut follower = Follower::of(&broker, &["orders.*"]).await;
    let mut elsewhere = Follower::of(&broker, &["any.other"]).await;
    let mut stranger = server.resp().await;
    let cases: [(&[u8], Vec<u8>, Option<&str>); 5] = [
        (b"orders:eu", b"\xff\xfe".to_vec(), Some("orders.eu")),
        (b"orders:eu", b"01234567890".to_vec(), Some("orders.eu")),
        (b"orders:", b"x".to_vec(), None),
        (b"orders:\xff", b"x".to_vec(), None),
        (b"orders:a b", b"x".to_vec(), None),
    ];
    for (name, payload, scope) in cases {
        stranger.publish_all([(name, payload)]).await.unwrap();
        if let Some(scope) = scope {
            let gap = follower.gap(GapCause::Undeliverable).await;
            assert_eq!(gap.scope.as_str(), scope);
            assert_eq!(gap.after.unwrap().offset, gap.next.offset.before());
        }
    }
    stranger.publish_all([("orders:eu", "good")]).await.unwrap();
    assert_eq!(follower.told().await.1, "good");
    publish(&broker, "any.other", "good").await;
    assert_eq!(
        elsewhere.told().await.1,
        "good",
        "a gap is told to whom it concerns"
    );
    let text = TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    for (reason, count) in [("not_utf8", 1), ("too_large", 1), ("bad_channel", 3)] {
        let line = format!("backend=\"redis\",reason=\"{reason}\"}} {count}");
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(
        text.contains("gaps_total{backend=\"redis\",cause=\"undeliverable\"} 2"),
        "{text}"
    );
}

#[tokio::test]
async fn channels_that_come_and_go_leave_nothing_behind() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(RedisConfig {
        command_timeout: bus::PATIENCE,
        ..orders(server.url())
    })
    .await;
    let mut follower = Follower::of(&broker, &[]).await;
    let joins = (0..2000).map(|index| {
        let name = if index % 4 == 0 {
            format!("orders.{index}.*")
        } else {
            format!("orders.{index}")
        };
        let (broker, inlet) = (broker.clone(), follower.inlet.clone());
        async move {
            broker
                .subscribe(&name.parse().unwrap(), &inlet)
                .await
                .unwrap()
        }
    });
    let subscriptions = futures_util::future::join_all(joins).await;
    // 2,500 subscriptions on the bus, one after the other, would be as many round trips.
    let stats = server.cli(&["INFO", "commandstats"]).await;
    for command in ["subscribe", "psubscribe"] {
        let (_, calls) = stats
            .split_once(&format!("cmdstat_{command}:calls="))
            .unwrap();
        let calls: u32 = calls.split(',').next().unwrap().parse().unwrap();
        assert!(calls < 200, "{calls} calls of {command}");
    }
    assert_eq!(server.cli(&["PUBSUB", "NUMPAT"]).await, "500");
    assert_eq!(
        server
            .cli(&["PUBSUB", "CHANNELS", "orders:*"])
            .await
            .lines()
            .count(),
        1500
    );
    let mut stranger = server.resp().await;
    stranger
        .publish_all([("orders:1999", "last")])
        .await
        .unwrap();
    assert_eq!(follower.told().await.1, "last");
    drop(subscriptions);
    eventually("the bus is left", bus::PATIENCE, || async {
        let patterns = server.cli(&["PUBSUB", "NUMPAT"]).await;
        let channels = server.cli(&["PUBSUB", "CHANNELS"]).await;
        let canary = channels
            .lines()
            .all(|name| name.starts_with("fanfare:probe:"));
        (patterns == "0" && canary).then_some(())
    })
    .await;
    assert!(format!("{broker:?}").contains("topics: 0"), "{broker:?}");
}
