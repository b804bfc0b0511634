//! Durable channels: what they keep, and what they do when something breaks.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use bus::{Door, Follower, PATIENCE, channel, patient, publish, quick};
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, ErrorKind, Event, EventType, GapCause, History,
    HistoryQuery, IdempotencyKey, Live, Offset, Pattern, Position, Publication, Published,
    Retention, RetentionRule, Since, Tags, feed::FeedBounds,
};
use fanfare_redis::{RedisConfig, RedisDurable};
use fanfare_testkit::{RedisServer, eventually};

async fn connect(config: RedisConfig) -> RedisDurable {
    RedisDurable::connect(config, bus::metrics()).await.unwrap()
}

async fn page(broker: &RedisDurable, patterns: &[&str], since: Since, limit: usize) -> History {
    let log = broker.capabilities().logs.all()[0].clone();
    let query = HistoryQuery {
        log,
        channels: patterns.iter().map(|text| text.parse().unwrap()).collect(),
        since,
        limit: NonZeroUsize::new(limit).unwrap(),
        max_bytes: 1 << 20,
    };
    broker.history(query).await.unwrap()
}

/// All pages after a place.
async fn pages(broker: &RedisDurable, patterns: &[&str], after: &Position) -> Vec<Live> {
    let mut items = Vec::new();
    let mut since = after.clone();
    loop {
        let page = page(broker, patterns, Since::After(since), 256).await;
        items.extend(page.items);
        if !page.more {
            return items;
        }
        since = page.upto;
    }
}

fn told(item: &Live) -> String {
    match item {
        Live::Event(event) => event.data.as_str().into(),
        Live::Gap(gap) => format!("gap {} {}", gap.cause.as_str(), gap.scope),
    }
}

fn all_told(items: &[Live]) -> Vec<String> {
    items.iter().map(told).collect()
}

fn keeping(rule: impl FnOnce(&mut RetentionRule)) -> Retention {
    let mut kept = RetentionRule::of(Pattern::all());
    rule(&mut kept);
    Retention::new([kept])
}

/// Publishes by eight publishers at once over two nodes, each channel by one of them, and answers
/// what was published in the log's order.
async fn publish_at_once(
    nodes: &[RedisDurable; 2],
    channels: usize,
    events: usize,
) -> Vec<(Offset, String, String)> {
    const PUBLISHERS: usize = 8;
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let node = nodes[publisher % 2].clone();
        tokio::spawn(async move {
            let mut sent = Vec::new();
            for index in (publisher..events).step_by(PUBLISHERS) {
                let (to, data) = (format!("all.c{}", index % channels), index.to_string());
                let position = publish(&node, &to, &data).await.position.unwrap();
                sent.push((position.offset, to, data));
            }
            sent
        })
    });
    let mut sent = Vec::new();
    for publisher in publishers.collect::<Vec<_>>() {
        sent.extend(publisher.await.unwrap());
    }
    sent.sort();
    sent
}

/// The follower gets just this, in this order, and no gap.
async fn gets(follower: &mut Follower, sent: &[(Offset, String, String)], who: &str) {
    for (place, (offset, to, data)) in sent.iter().enumerate() {
        let event = follower.event().await;
        let got = (
            event.position.offset,
            event.channel.as_str(),
            event.data.as_str(),
        );
        assert_eq!(got, (*offset, &**to, &**data), "{who}, event {place}");
    }
    assert_eq!(follower.feed.depth(), 0, "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_cut_every_event_comes_once_in_order_and_without_a_gap() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let metrics = [bus::metrics(), bus::metrics()];
    let node = |index: usize, intake| {
        let config = RedisConfig {
            intake,
            reconnect_delay: Duration::from_millis(20),
            ..patient(server.url())
        };
        RedisDurable::connect(config, metrics[index].clone())
    };
    // What waits in the second one overflows at once.
    let tight = FeedBounds {
        items: 4,
        bytes: 1 << 20,
    };
    let nodes = [
        node(0, FeedBounds::default()).await.unwrap(),
        node(1, tight).await.unwrap(),
    ];
    let names: Vec<_> = (0..50).map(|index| format!("all.c{index}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut followers = [
        ("names", Follower::wide(&nodes[0], &names).await),
        ("pattern", Follower::wide(&nodes[0], &["all.*"]).await),
        ("tight", Follower::wide(&nodes[1], &[">"]).await),
    ];
    let killing = {
        let mut killer = server.resp().await;
        tokio::spawn(async move {
            let mut kills = 0u32;
            loop {
                let pause = Duration::from_millis(fastrand::u64(1..60));
                tokio::time::sleep(pause).await;
                killer
                    .command(&["CLIENT", "KILL", "TYPE", "pubsub"])
                    .await
                    .unwrap();
                kills += 1;
                if kills > 100_000 {
                    return;
                }
            }
        })
    };
    let sent = publish_at_once(&nodes, 50, 20_000).await;
    killing.abort();
    assert_eq!(sent.len(), 20_000);
    for (who, follower) in &mut followers {
        gets(follower, &sent, who).await;
    }
    for metrics in &metrics {
        assert!(metrics.healed.get() > 0 && metrics.reconnects.get() > 3);
    }
    // And history says the same.
    let start = sent[0].0;
    let first = followers[0].1.broker.capabilities().logs.all()[0].clone();
    let upto = page(&nodes[0], &[">"], Since::Now, 1).await.upto;
    let from = Position {
        log: first,
        epoch: upto.epoch,
        offset: start,
    };
    let items = pages(&nodes[1], &["all.>"], &from).await;
    let expected: Vec<_> = sent[1..].iter().map(|(_, _, data)| data.clone()).collect();
    assert_eq!(all_told(&items), expected);
}

#[tokio::test]
async fn events_carry_types_tags_and_time_live_and_from_history() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let (one, two) = (
        connect(quick(server.url())).await,
        connect(quick(server.url())).await,
    );
    let mut follower = Follower::of(&two, &["a.b"]).await;
    let publication = Publication {
        event_type: Some(EventType::parse("created").unwrap()),
        tags: Tags::from_iter([("region", "eu")]),
        ..Publication::new("x\ny")
    };
    let to = channel("a.b");
    one.publish(&to, publication.clone()).await.unwrap();
    let event = follower.event().await;
    assert_eq!(event.event_type, publication.event_type);
    assert_eq!(event.tags, publication.tags);
    assert_eq!(event.data, publication.data);
    assert_eq!(event.previous, Some(Offset::ZERO));
    assert!(event.published_at.elapsed().unwrap() < Duration::from_secs(60));
    let kept = page(&two, &["a.b"], Since::Oldest, 10).await;
    assert_eq!(kept.items, [Live::Event(event)]);
}

#[tokio::test]
async fn channels_that_come_and_go_leave_nothing_behind() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(patient(server.url())).await;
    let mut follower = Follower::of(&broker, &[]).await;
    let joins = (0..2000).map(|index| {
        let name = match index % 4 {
            0 => format!("p{index}.*"),
            _ => format!("c{index}"),
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
    assert_eq!(server.cli(&["PUBSUB", "NUMPAT"]).await, "500");
    publish(&broker, "c1999", "last").await;
    assert_eq!(follower.told().await.1, "last");
    drop(subscriptions);
    eventually("the bus is left", PATIENCE, || async {
        let patterns = server.cli(&["PUBSUB", "NUMPAT"]).await;
        let channels = server.cli(&["PUBSUB", "CHANNELS"]).await;
        let canary = channels
            .lines()
            .all(|name| name.starts_with("fanfare:probe:"));
        (patterns == "0" && canary).then_some(())
    })
    .await;
    let debug = format!("{broker:?}");
    assert!(
        debug.contains("topics: 0") && debug.contains("floors: 0"),
        "{debug}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_over_all_channels_of_a_log_is_one_on_every_node() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let nodes = [
        connect(patient(server.url())).await,
        connect(patient(server.url())).await,
    ];
    let mut one = Follower::wide(&nodes[0], &["all.*", "all.c1"]).await;
    let mut two = Follower::wide(&nodes[1], &[">"]).await;
    let sent = publish_at_once(&nodes, 7, 4_000).await;
    let dense = sent.iter().map(|(offset, ..)| offset.0);
    assert!(dense.eq(1..=4_000), "each event has the next place");
    gets(&mut one, &sent, "one").await;
    gets(&mut two, &sent, "two").await;
}

/// What a script of ours does, but for the announcement: as if it had been lost on the way.
async fn publish_silently(server: &RedisServer, to: &str, data: &str) {
    let stand = include_str!("../src/script/stand.lua");
    let channel = include_str!("../src/script/channel.lua");
    let channel = channel.replace("redis.call('PUBLISH'", "tostring('x'");
    let publish = include_str!("../src/script/publish.lua");
    let script = [stand, &channel, publish].join("\n");
    let keys = ["meta", "channels", &format!("s:{to}")].map(|key| format!("{{fanfare:p0}}:{key}"));
    let envelope = format!("{{\"v\":1,\"at\":1}}\n{data}");
    let limits = ["200", "1000", "1000000", "3600000", "0"];
    let mut call = vec!["EVAL", &script, "3"];
    call.extend(keys.iter().map(String::as_str));
    call.extend(["1", "1", "", "0", "0", "", "1000", "1000", ""]);
    call.extend([to, "live", &envelope]);
    call.extend(limits);
    server.cli(&call).await;
}

#[tokio::test]
async fn a_hole_is_seen_by_the_next_announcement_and_healed_in_order() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let metrics = bus::metrics();
    let broker = RedisDurable::connect(quick(server.url()), metrics.clone())
        .await
        .unwrap();
    let mut follower = Follower::of(&broker, &["a", "b.*"]).await;
    publish(&broker, "a", "1").await;
    publish(&broker, "b.x", "2").await;
    for (to, data) in [("b.x", "3"), ("other", "no"), ("a", "4"), ("b.y", "5")] {
        publish_silently(&server, to, data).await;
    }
    // The hole of one channel is filled for all.
    publish(&broker, "a", "6").await;
    publish(&broker, "b.x", "7").await;
    for data in ["1", "2", "3", "4", "5", "6", "7"] {
        assert_eq!(follower.told().await.1, data);
    }
    assert!(metrics.healed.get() >= 3, "{}", metrics.healed.get());
    assert_eq!(metrics.reconnects.get(), 0);
    // What came before a channel was followed is no hole.
    let healed = metrics.healed.get();
    publish_silently(&server, "late", "before").await;
    follower.follow("late").await;
    publish(&broker, "late", "after").await;
    assert_eq!(follower.told().await.1, "after");
    assert_eq!(metrics.healed.get(), healed);
}

/// No server does this on one link in order. What a link loses must not be silent all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_lost_among_others_on_a_live_link_is_a_gap_of_its_channel() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let door = Door::open(server.address()).await;
    let (node, other) = (
        connect(quick(door.url())).await,
        connect(quick(server.url())).await,
    );
    let mut follower = Follower::of(&node, &["lossy.*", "calm"]).await;
    let mut bystander = Follower::of(&node, &["calm"]).await;
    door.lose("is-lost");
    let mut sent = Vec::new();
    for (to, data) in [
        ("lossy.a", "one"),
        ("lossy.a", "is-lost"),
        ("lossy.b", "two"),
        ("calm", "three"),
    ] {
        sent.push(publish(&other, to, data).await.position.unwrap());
        if data != "is-lost" {
            assert_eq!(follower.told().await, (to.into(), data.into()));
        }
    }
    // What is lost is seen by the channel's next event, whatever passed meanwhile.
    publish(&other, "lossy.a", "four").await;
    assert_eq!(follower.told().await, ("lossy.a".into(), "four".into()));
    let gap = follower.gap(GapCause::Reconnected).await;
    assert_eq!(gap.scope.as_str(), "lossy.a");
    assert_eq!(gap.after, Some(sent[0].clone()));
    assert!(
        gap.next.offset > sent[3].offset,
        "it takes a place of its own"
    );
    // It is told once, and to those whom it touches.
    for data in ["five", "six"] {
        publish(&other, "lossy.a", data).await;
        assert_eq!(follower.told().await, ("lossy.a".into(), data.into()));
    }
    publish(&other, "calm", "seven").await;
    assert_eq!(follower.told().await, ("calm".into(), "seven".into()));
    for data in ["three", "seven"] {
        assert_eq!(bystander.told().await, ("calm".into(), data.into()));
    }
}

#[tokio::test]
async fn a_flushed_store_is_a_new_epoch_on_every_node() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let (one, two) = (
        connect(quick(server.url())).await,
        connect(quick(server.url())).await,
    );
    let mut follower = Follower::of(&one, &["a.*"]).await;
    let mut old = Vec::new();
    for index in 0..5 {
        old.push(
            publish(&two, "a.b", &format!("old {index}"))
                .await
                .position
                .unwrap(),
        );
        follower.event().await;
    }
    server.cli(&["FLUSHALL"]).await;
    // So many that the new offsets pass the old ones.
    for index in 0..20 {
        publish(&two, "a.b", &format!("new {index}")).await;
    }
    let gap = follower.gap(GapCause::NewEpoch).await;
    assert_eq!((gap.scope.as_str(), gap.after.as_ref()), (">", old.last()));
    assert_ne!(gap.next.epoch, old[0].epoch);
    for index in 0..20 {
        assert_eq!(follower.told().await.1, format!("new {index}"));
    }
    for node in [&one, &two] {
        let answer = all_told(&pages(node, &["a.b"], &old[3]).await);
        assert_eq!(answer[0], "gap new_epoch a.b");
        assert_eq!((answer.len(), &*answer[1]), (21, "new 0"));
    }
    // Nobody publishes after the second loss: whoever asks finds out, and followers are told.
    server.cli(&["FLUSHALL"]).await;
    page(&one, &["a.b"], Since::Now, 1).await;
    follower.gap(GapCause::NewEpoch).await;
}

#[tokio::test]
async fn a_channel_that_cannot_be_stored_keeps_no_other_of_a_batch_from_it() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(quick(server.url())).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    publish(&broker, "bad", "0").await;
    server
        .cli(&["SET", "{fanfare:p0}:s:bad", "no stream"])
        .await;
    let batch = ["good", "bad", "other", "good"].map(|name| {
        let data = Publication::new(format!("to {name}"));
        (channel(name), data)
    });
    let results = broker.publish_all(&batch).await;
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(BrokerError::kind))
        .collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Rejected), None, None]);
    for data in ["0", "to good", "to other", "to good"] {
        assert_eq!(follower.told().await.1, data);
    }
    let page = page(&broker, &["good", "other"], Since::Oldest, 100).await;
    assert_eq!(all_told(&page.items), ["to good", "to other", "to good"]);
}

#[tokio::test]
async fn nodes_that_saw_different_parts_of_a_lost_log_begin_one_new_epoch() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let less = connect(quick(server.url())).await;
    let more = connect(quick(server.url())).await;
    publish(&less, "a", "both know of it").await;
    publish(&more, "a", "the one does not follow it").await;
    server.cli(&["FLUSHALL"]).await;
    // All of the old log was told to be lost when the first of them began the new one.
    let first = publish(&less, "a", "new").await.position.unwrap();
    let second = publish(&more, "a", "new").await.position.unwrap();
    assert_eq!(first.epoch, second.epoch);
    assert_eq!((first.offset, second.offset), (Offset(1), Offset(2)));
}

#[tokio::test]
async fn what_is_left_of_a_lost_log_is_not_taken_for_the_new_one() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(quick(server.url())).await;
    for index in 0..5 {
        publish(&broker, "a", &format!("old {index}")).await;
        publish(&broker, "b", &format!("old {index}")).await;
    }
    let meta = "{fanfare:p0}:meta";
    server.cli(&["DEL", meta]).await;
    let first = publish(&broker, "a", "new").await.position.unwrap();
    assert_eq!(first.offset, Offset(1));
    let all = page(&broker, &[">"], Since::Oldest, 100).await;
    assert_eq!(all_told(&all.items), ["new"]);
    for _ in 0..9 {
        publish(&broker, "c", "x").await;
    }
    publish(&broker, "b", "new").await;
    let b = page(&broker, &["b"], Since::Oldest, 100).await;
    assert_eq!(all_told(&b.items), ["new"]);
    // Without the list of channels, what it held is forgotten, and that is told.
    server.cli(&["DEL", "{fanfare:p0}:channels"]).await;
    publish(&broker, "b", "newer").await;
    let after = pages(&broker, &["b", "c"], &first).await;
    assert_eq!(
        all_told(&after),
        ["gap evicted c", "gap evicted b", "newer"]
    );
    let fresh = page(&broker, &["b"], Since::Now, 1).await.upto;
    assert!(pages(&broker, &["b", "c", ">"], &fresh).await.is_empty());
}

#[tokio::test]
async fn a_restart_with_a_log_on_disk_loses_nothing_and_without_is_told() {
    let disk = ["--appendonly", "yes", "--appendfsync", "always"];
    for keeps in [true, false] {
        let options = if keeps { &disk[..] } else { &[] };
        let Some(mut server) = RedisServer::start_with(options).await else {
            return;
        };
        let broker = connect(quick(server.url())).await;
        let mut follower = Follower::of(&broker, &["a"]).await;
        let first = publish(&broker, "a", "1").await.position.unwrap();
        publish(&broker, "a", "2").await;
        follower.event().await;
        follower.event().await;
        server.kill();
        let refused = broker.publish(&channel("a"), Publication::new("x")).await;
        assert!(refused.unwrap_err().is_transient());
        server.restart().await;
        // While this node is not back, somebody else publishes.
        let other = connect(quick(server.url())).await;
        let elsewhere = publish(&other, "a", "3").await.position.unwrap();
        let answer = if keeps {
            assert_eq!(elsewhere.epoch, first.epoch);
            // Nobody can know that the process before has given its last place.
            assert!(elsewhere.offset > Offset(3), "{elsewhere:?}");
            assert_eq!(follower.told().await.1, "3");
            vec!["2", "3"]
        } else {
            assert_ne!(elsewhere.epoch, first.epoch);
            follower.gap(GapCause::NewEpoch).await;
            assert_eq!(follower.told().await.1, "3");
            vec!["gap new_epoch a", "3"]
        };
        eventually("the node is back", PATIENCE, || async {
            broker.probe().await.ok()
        })
        .await;
        assert_eq!(all_told(&pages(&broker, &["a"], &first).await), answer);
    }
}

/// A store that comes back without its tail, as after a failover to a replica that lagged.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_begins_a_new_epoch_whoever_publishes_first() {
    for (others, go_on) in [(0, false), (20, false), (20, true)] {
        // It is saved by hand, and loads that at its start.
        let Some(mut server) = RedisServer::start_with(&["--dbfilename", "dump.rdb"]).await else {
            return;
        };
        let door = Door::open(server.address()).await;
        let knowing = connect(quick(door.url())).await;
        let mut follower = Follower::of(&knowing, &["a"]).await;
        let mut saved = None;
        for index in 0..5 {
            let published = publish(&knowing, "a", &format!("saved {index}")).await;
            saved = published.position;
        }
        server.cli(&["SAVE"]).await;
        let mut lost = Vec::new();
        for index in 0..5 {
            lost.push(
                publish(&knowing, "a", &format!("lost {index}"))
                    .await
                    .position
                    .unwrap(),
            );
        }
        for _ in 0..10 {
            follower.event().await;
        }
        door.shut();
        server.kill();
        server.restart().await;
        // One that knows of no more than is left gives the places again, and passes the old head.
        let other = connect(quick(server.url())).await;
        for index in 0..others {
            let again = publish(&other, "a", &format!("again {index}")).await;
            assert_eq!(again.position.unwrap().epoch, lost[0].epoch);
        }
        let publishing = go_on.then(|| {
            let other = other.clone();
            tokio::spawn(async move {
                loop {
                    publish(&other, "a", "and again").await;
                }
            })
        });
        door.reopen();
        let gap = follower.gap(GapCause::NewEpoch).await;
        assert_eq!((gap.scope.as_str(), gap.after), (">", saved));
        if let Some(publishing) = publishing {
            publishing.abort();
            continue;
        }
        let next = publish(&knowing, "a", "next").await.position.unwrap();
        assert_ne!(next.epoch, lost[0].epoch);
        assert_eq!(follower.told().await.1, "next");
        let answer = all_told(&pages(&other, &["a"], &lost[2]).await);
        let expected = 1 + 5 + others + 1;
        assert_eq!(
            (answer.len(), &*answer[0]),
            (expected, "gap new_epoch a"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_key_is_known_on_every_node_for_its_window() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let node = || {
        let config = RedisConfig {
            key_window: Duration::from_millis(300),
            ..quick(server.url())
        };
        connect(config)
    };
    let (one, two) = (node().await, node().await);
    let keyed = |data: &str| Publication {
        key: Some(IdempotencyKey::parse("k:1").unwrap()),
        ..Publication::new(data)
    };
    let first = one.publish(&channel("a"), keyed("first")).await.unwrap();
    server.cli(&["SCRIPT", "FLUSH"]).await;
    let again = two.publish(&channel("a"), keyed("again")).await.unwrap();
    let expected = Published {
        duplicate: true,
        ..first.clone()
    };
    assert_eq!((first.duplicate, again), (false, expected));
    // A channel and a key whose texts together are the same are others.
    let elsewhere = channel("a:k");
    let other = one.publish(
        &elsewhere,
        Publication {
            key: Some(IdempotencyKey::parse("1").unwrap()),
            ..Publication::new("other")
        },
    );
    assert!(!other.await.unwrap().duplicate);
    eventually("the window is over", PATIENCE, || async {
        let late = two.publish(&channel("a"), keyed("late")).await.unwrap();
        (!late.duplicate).then_some(())
    })
    .await;
    let kept = page(&one, &["a"], Since::Oldest, 10).await;
    assert_eq!(all_told(&kept.items), ["first", "late"]);
}

#[tokio::test]
async fn retention_is_by_count_bytes_and_age() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let of = |channels: &str| RetentionRule::of(channels.parse().unwrap());
    let rules = [
        RetentionRule {
            max_count: 3,
            ..of("count.>")
        },
        RetentionRule {
            max_bytes: 2_600,
            ..of("bytes.>")
        },
        RetentionRule {
            max_age: Duration::from_millis(400),
            ..of("age.>")
        },
        RetentionRule {
            max_count: 0,
            ..of("none.>")
        },
    ];
    let config = RedisConfig {
        retention: Retention::new(rules),
        ..quick(server.url())
    };
    let broker = connect(config).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    let start = page(&broker, &[">"], Since::Now, 1).await.upto;
    for index in 0..6 {
        for to in ["count.a", "bytes.a", "none.a"] {
            let data = format!("{index}{}", "x".repeat(1000));
            publish(&broker, to, &data).await;
            assert_eq!(
                follower.told().await.1,
                data,
                "kept or not, it is announced"
            );
        }
    }
    let firsts = |items: &[Live]| -> Vec<String> {
        items
            .iter()
            .map(|item| told(item).chars().take(16).collect::<String>())
            .map(|text| text.split('x').next().unwrap().to_owned())
            .collect()
    };
    for (to, kept) in [
        ("count.a", vec!["gap evicted coun", "3", "4", "5"]),
        // One weighs 1,000 bytes and a little more than 200.
        ("bytes.a", vec!["gap evicted byte", "4", "5"]),
        ("none.a", vec!["gap evicted none"]),
    ] {
        assert_eq!(firsts(&pages(&broker, &[to], &start).await), kept, "{to}");
    }
    // A larger one than the bound is announced, and not kept.
    publish(&broker, "bytes.b", &"x".repeat(3000)).await;
    follower.event().await;
    assert!(
        page(&broker, &["bytes.b"], Since::Oldest, 9)
            .await
            .items
            .is_empty()
    );

    let before = page(&broker, &[">"], Since::Now, 1).await.upto;
    publish(&broker, "age.a", "old").await;
    let stream = "{fanfare:p0}:s:age.a";
    let left: i64 = server.cli(&["PTTL", stream]).await.parse().unwrap();
    assert!((1..=400).contains(&left), "{left}");
    eventually("an idle channel's stream is gone", PATIENCE, || async {
        (server.cli(&["EXISTS", stream]).await == "0").then_some(())
    })
    .await;
    assert_eq!(
        all_told(&pages(&broker, &["age.a"], &before).await),
        ["gap evicted age.a"]
    );
    // One that is not idle: its oldest goes, although the stream lives on.
    let mut newest = 0;
    eventually("the oldest goes", PATIENCE, || {
        newest += 1;
        let data = newest.to_string();
        let broker = &broker;
        async move {
            publish(broker, "age.b", &data).await;
            let kept = page(broker, &["age.b"], Since::Oldest, 1).await;
            (told(&kept.items[0]) != "1").then_some(())
        }
    })
    .await;
}

#[tokio::test]
async fn channels_over_the_bound_are_forgotten_and_that_is_told() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let config = RedisConfig {
        max_channels: 3,
        ..quick(server.url())
    };
    let broker = connect(config).await;
    let mut places = Vec::new();
    for name in ["a", "b", "a", "c", "d", "e"] {
        places.push(publish(&broker, name, name).await.position.unwrap());
    }
    // b was quiet longest, then a.
    let keys = server.cli(&["KEYS", "{fanfare:p0}:s:*"]).await;
    let mut kept: Vec<_> = keys
        .lines()
        .map(|key| key.split(':').next_back().unwrap())
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, ["c", "d", "e"]);
    assert_eq!(
        all_told(&pages(&broker, &["b"], &places[0]).await),
        ["gap evicted b"]
    );
    let all = all_told(&pages(&broker, &["*"], &places[0]).await);
    // e came when something had been forgotten: it may have been that.
    assert_eq!(all, ["gap evicted e", "gap evicted *", "c", "d", "e"]);
    assert!(
        pages(&broker, &["a", "b"], &places[2]).await.is_empty(),
        "nothing lost since"
    );
    // One that comes back does not say what came before it, and it is not taken for a loss.
    let mut follower = Follower::of(&broker, &["b"]).await;
    let head = page(&broker, &["b"], Since::Now, 1).await.upto;
    publish(&broker, "b", "back").await;
    assert_eq!(follower.event().await.previous, None);
    assert_eq!(all_told(&pages(&broker, &["b"], &head).await), ["back"]);
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_announced() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(quick(server.url())).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    publish(&broker, "a", "first").await;
    follower.event().await;
    for (setting, bad, good) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        server.cli(&["CONFIG", "SET", setting, bad]).await;
        let refused = broker
            .publish(&channel("a"), Publication::new(setting))
            .await;
        let kind = refused.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unavailable, "{setting}");
        server.cli(&["CONFIG", "SET", setting, good]).await;
        publish(&broker, "a", "on").await;
        assert_eq!(follower.told().await.1, "on", "{setting}");
    }
    let kept = page(&broker, &["a"], Since::Oldest, 10).await;
    assert_eq!(all_told(&kept.items), ["first", "on", "on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_during_a_cut_is_told_in_its_place() {
    // Few channels are told each by itself, many as one.
    for channels in [3, 60] {
        let Some(server) = RedisServer::start().await else {
            return;
        };
        let door = Door::open(server.address()).await;
        let config = |url| RedisConfig {
            retention: keeping(|rule| rule.max_count = 2),
            ..quick(url)
        };
        let (cut, other) = (
            connect(config(door.url())).await,
            connect(config(server.url())).await,
        );
        let mut follower = Follower::of(&cut, &["x.>"]).await;
        publish(&other, "x.quiet", "before").await;
        follower.event().await;
        door.shut();
        for index in 0..channels * 5 {
            publish(
                &other,
                &format!("x.c{}", index % channels),
                &index.to_string(),
            )
            .await;
        }
        door.reopen();
        publish(&other, "x.quiet", "end").await;
        let mut items = vec![follower.next().await];
        while told(items.last().unwrap()) != "end" {
            items.push(follower.next().await);
        }
        fanfare_conformance::in_order(&items).unwrap();
        for index in 0..channels {
            let sent = (index..channels * 5)
                .step_by(channels)
                .map(|n| n.to_string());
            let sent: Vec<_> = sent.collect();
            let to = channel(&format!("x.c{index}"));
            let missing = fanfare_conformance::account(&to, &sent, &items).unwrap();
            assert!(channels > 3 || missing == 3, "{missing}");
        }
        let end = ["end".to_owned()];
        let quiet = fanfare_conformance::account(&channel("x.quiet"), &end, &items).unwrap();
        assert_eq!(quiet, 0);
        let events = items
            .iter()
            .filter(|item| matches!(item, Live::Event(_)))
            .count();
        assert!(events > channels, "{events}: what was kept is handed on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_pattern_resumes_over_more_channels_than_one_look_finds() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(patient(server.url())).await;
    let start = page(&broker, &[">"], Since::Now, 1).await.upto;
    let count = 12_000;
    let publishing = (0..8).map(|publisher| {
        let broker = broker.clone();
        tokio::spawn(async move {
            for index in (publisher..count).step_by(8) {
                publish(&broker, &format!("w{}.{index}", index % 2), "x").await;
            }
        })
    });
    for publisher in publishing.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let query = |since, limit| page(&broker, &["w1.*"], since, limit);
    let first = query(Since::After(start), 5_000).await;
    let second = query(Since::After(first.upto.clone()), 5_000).await;
    assert_eq!((first.items.len(), first.more), (5_000, true));
    assert_eq!((second.items.len(), second.more), (1_000, false));
    let last = query(Since::Last(NonZeroUsize::MIN), 100).await;
    assert_eq!(last.items, second.items[900..]);
}

#[tokio::test]
async fn pages_of_large_events_are_bounded() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = connect(quick(server.url())).await;
    let start = page(&broker, &["a"], Since::Now, 1).await.upto;
    let data = "x".repeat(500_000);
    for _ in 0..12 {
        publish(&broker, "a", &data).await;
    }
    let one = page(&broker, &["a"], Since::After(start.clone()), 256).await;
    assert_eq!((one.items.len(), one.more), (2, true));
    assert_eq!(pages(&broker, &["a", "*"], &start).await.len(), 12);
    let last = page(
        &broker,
        &["a"],
        Since::Last(NonZeroUsize::new(9).unwrap()),
        9,
    )
    .await;
    assert_eq!((last.items.len(), last.more), (2, false));
}

/// The rights that the documentation tells to give are enough, and the list is the documentation's.
#[tokio::test]
async fn the_documented_rights_are_enough() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let guide = include_str!("../../../docs/backends.md");
    let begin = guide.find("ACL SETUSER").unwrap();
    let command = &guide[begin..begin + guide[begin..].find("```").unwrap()];
    let command: Vec<_> = command.split_whitespace().collect();
    server.cli(&command).await;
    let url = server
        .url()
        .replace("redis://", "redis://fanfare:password@");
    let config = RedisConfig {
        max_channels: 2,
        retention: keeping(|rule| rule.max_bytes = 2_000),
        ..quick(url)
    };
    let broker = connect(config).await;
    let mut follower = Follower::of(&broker, &["a", "b.*"]).await;
    let start = page(&broker, &[">"], Since::Now, 1).await.upto;
    let keyed = Publication {
        key: Some(IdempotencyKey::parse("k").unwrap()),
        ..Publication::new("keyed")
    };
    broker.publish(&channel("a"), keyed).await.unwrap();
    assert_eq!(follower.told().await.1, "keyed");
    for to in ["b.x", "b.y", "b.y", "b.z"] {
        publish(&broker, to, &"x".repeat(1_000)).await;
        assert_eq!(follower.told().await.0, to);
    }
    assert!(!pages(&broker, &["a", "*", "b.*"], &start).await.is_empty());
    let last = Since::Last(NonZeroUsize::MIN);
    assert_eq!(page(&broker, &[">"], last, 9).await.items.len(), 2);
    broker.probe().await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    publish(&broker, "b.x", "healed").await;
    assert_eq!(follower.told().await.1, "healed");
    let denied = server.cli(&["ACL", "LOG"]).await;
    assert_eq!(denied, "", "{denied}");
}

#[tokio::test]
async fn nodes_with_other_partitions_are_refused() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let with = |partitions| RedisConfig {
        partitions,
        ..quick(server.url())
    };
    let _first = connect(with(2)).await;
    connect(with(2)).await;
    let refused = RedisDurable::connect(with(3), bus::metrics())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    assert!(
        refused.to_string().contains("partitions = 2, not 3"),
        "{refused}"
    );
    let config = RedisConfig {
        prefix: "other".into(),
        ..with(3)
    };
    connect(config).await;
}

#[tokio::test]
async fn what_others_publish_on_our_names_is_counted_and_no_gap() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let registry = prometheus::Registry::new();
    let metrics = BrokerMetrics::register(&registry, "redis").unwrap();
    let broker = RedisDurable::connect(quick(server.url()), metrics)
        .await
        .unwrap();
    let mut follower = Follower::of(&broker, &[">"]).await;
    for (name, message) in [("a", "junk"), ("a", "1 2 3"), ("a b", "x")] {
        let name = format!("{{fanfare:p0}}:live:{name}");
        server.cli(&["PUBLISH", &name, message]).await;
    }
    publish(&broker, "a", "good").await;
    assert_eq!(follower.told().await.1, "good");
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    for (reason, count) in [("bad_envelope", 2), ("bad_channel", 1)] {
        let line = format!("backend=\"redis\",reason=\"{reason}\"}} {count}");
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_subscription_that_was_refused_for_a_while_is_told_of_its_loss() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let grant = |channels: &'static [&'static str]| {
        let fixed = [
            "ACL",
            "SETUSER",
            "edge",
            "on",
            ">pw",
            "~*",
            "+@all",
            "resetchannels",
        ];
        let all = [&fixed[..], channels].concat();
        let server = &server;
        async move {
            server.cli(&all).await;
        }
    };
    grant(&["&fanfare:*", "&{fanfare:p0}:*"]).await;
    let url = server.url().replace("redis://", "redis://edge:pw@");
    let broker = connect(quick(url)).await;
    let other = connect(quick(server.url())).await;
    let mut follower = Follower::of(&broker, &["a", "b"]).await;
    // The server cuts the links of a user that loses channels.
    grant(&["&fanfare:*", "&{fanfare:p0}:live:a"]).await;
    publish(&other, "b", "missed").await;
    eventually("the one that is allowed goes on", PATIENCE, || async {
        publish(&other, "a", "on").await;
        (follower.feed.depth() > 0).then_some(())
    })
    .await;
    while follower.feed.depth() > 0 {
        let event: Arc<Event> = follower.event().await;
        assert!(["on", "missed"].contains(&event.data.as_str()));
    }
    publish(&other, "b", "missed too").await;
    publish(&other, "a", "later").await;
    let mut later = follower.told().await;
    while later.1 == "on" {
        later = follower.told().await;
    }
    grant(&["&fanfare:*", "&{fanfare:p0}:*"]).await;
    let gap = follower.gap(GapCause::Reconnected).await;
    assert_eq!((gap.scope.as_str(), gap.after), (">", None));
    publish(&other, "b", "back").await;
    assert_eq!(follower.told().await.1, "back");
}
