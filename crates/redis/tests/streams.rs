//! Streams of others, by plain `XADD` and what else their owners do to them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bus;

use std::{num::NonZeroUsize, time::Duration};

use bus::{Follower, channel, connect_streams, quick_streams, stream_rule, streams};
use fanfare_core::{
    Broker, BrokerMetrics, ErrorKind, EventType, GapCause, History, HistoryQuery, IdempotencyKey,
    Live, LogId, Offset, Pattern, Position, Publication, Since,
};
use fanfare_redis::{RedisConfig, RedisStreams, StreamMetrics};
use fanfare_testkit::{RedisServer, Reply, Resp};

/// A publisher that knows nothing of Fanfare.
struct Owner {
    link: Resp,
}

impl Owner {
    async fn of(server: &RedisServer) -> Self {
        Self {
            link: server.resp().await,
        }
    }

    async fn does(&mut self, command: &str) -> Reply {
        let words: Vec<&str> = command.split(' ').collect();
        match self.link.command(&words).await.unwrap() {
            Reply::Error(why) => panic!("{command}: {why}"),
            reply => reply,
        }
    }

    /// Adds an entry of this data.
    async fn adds(&mut self, key: &str, id: &str, data: &str) {
        self.does(&format!("XADD {key} {id} payload {data}")).await;
    }

    async fn bytes(&mut self, command: &str) -> Vec<u8> {
        match self.does(command).await {
            Reply::Bulk(bytes) => bytes,
            other => panic!("{command}: {other:?}"),
        }
    }
}

fn log(broker: &RedisStreams, name: &str) -> LogId {
    let logs = broker.capabilities().logs;
    logs.of(&name.parse().unwrap()).pop().unwrap()
}

async fn page(broker: &RedisStreams, name: &str, since: Since) -> History {
    let query = HistoryQuery {
        log: log(broker, name),
        channels: vec![name.parse().unwrap()],
        since,
        limit: NonZeroUsize::new(1000).unwrap(),
        max_bytes: 1 << 20,
    };
    broker.history(query).await.unwrap()
}

async fn now(broker: &RedisStreams, name: &str) -> Position {
    page(broker, name, Since::Now).await.upto
}

/// What a page holds: the data of events, and the causes of gaps.
fn told(page: &History) -> Vec<String> {
    let item = |item: &Live| match item {
        Live::Event(event) => event.data.as_str().to_owned(),
        Live::Gap(gap) => format!("gap {}", gap.cause.as_str()),
    };
    page.items.iter().map(item).collect()
}

async fn after(broker: &RedisStreams, name: &str, place: &Position) -> Vec<String> {
    told(&page(broker, name, Since::After(place.clone())).await)
}

fn at(place: &Position, ms: u64) -> Position {
    place.at(Offset(u128::from(ms) << 64))
}

#[tokio::test]
async fn entries_become_events_as_the_rule_says() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    owner
        .does("XADD orders:eu 1700000000123-7 x 1 payload {} type placed region de")
        .await;
    let event = follower.event().await;
    assert_eq!(event.channel, channel("eu"));
    assert_eq!(event.data.as_str(), "{}");
    assert_eq!(event.event_type, Some(EventType::parse("placed").unwrap()));
    assert_eq!(event.tags.get("region"), Some("de"));
    assert_eq!(event.position.offset.0, 1_700_000_000_123 << 64 | 7);
    let since = event.published_at.duration_since(std::time::UNIX_EPOCH);
    assert_eq!(since.unwrap().as_millis(), 1_700_000_000_123);
    let oldest = page(&broker, "eu", Since::Oldest).await;
    assert_eq!(oldest.items, [Live::Event(event)]);
}

#[tokio::test]
async fn without_a_data_field_an_entry_is_an_object_of_its_fields() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let mut config = quick_streams(server.url());
    config.ingest[0].data = None;
    let broker = connect_streams(config).await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    owner.does("XADD orders:eu * b 1 type placed a 2").await;
    let event = follower.event().await;
    assert_eq!(event.data.as_str(), r#"{"b":"1","type":"placed","a":"2"}"#);
    assert_eq!(event.event_type.as_ref().unwrap().as_str(), "placed");

    let refused = broker.publish(&channel("eu"), Publication::new("x")).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`data`"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_delivered_is_a_gap_and_the_rest_goes_on() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let registry = prometheus::Registry::new();
    let metrics = BrokerMetrics::register(&registry, "redis").unwrap();
    let config = RedisConfig {
        max_data_bytes: 100,
        ..quick_streams(server.url())
    };
    let broker = RedisStreams::connect(config, metrics, StreamMetrics::unregistered());
    let broker = broker.await.unwrap();
    let start = now(&broker, "eu").await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    owner.does("XADD orders:eu 1-0 other x").await;
    let invalid: [&[u8]; 5] = [b"XADD", b"orders:eu", b"2-0", b"payload", b"\xff"];
    owner.link.command(&invalid).await.unwrap();
    owner.adds("orders:eu", "3-0", &"x".repeat(101)).await;
    owner.adds("orders:eu", "4-0", &"x".repeat(100_000)).await;
    owner
        .does("XADD orders:eu 5-0 payload x type fanfare.gap")
        .await;
    owner.adds("orders:eu", "6-0", "good").await;
    for ms in 1..=5 {
        let gap = follower.gap(GapCause::Undeliverable).await;
        assert_eq!(gap.next, at(&gap.next, ms));
    }
    assert_eq!(follower.told().await.1, "good");
    let undeliverable = ["gap undeliverable"; 5];
    let expected = [&undeliverable[..], &["good"]].concat();
    assert_eq!(after(&broker, "eu", &start).await, expected);
    let text = prometheus::TextEncoder::new();
    let text = text.encode_to_string(&registry.gather()).unwrap();
    for (reason, count) in [
        ("missing_field", 1),
        ("not_utf8", 1),
        ("too_large", 2),
        ("bad_event_type", 1),
    ] {
        let line = format!(
            "fanfare_broker_undeliverable_total{{backend=\"redis\",reason=\"{reason}\"}} {count}"
        );
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn a_stream_that_was_deleted_and_made_again_is_another_life() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let (broker, elsewhere) = (streams(server.url()).await, streams(server.url()).await);
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    for ms in 1..=5 {
        owner.adds("orders:eu", &format!("{ms}-0"), "old").await;
        assert_eq!(follower.told().await.1, "old");
    }
    let old = now(&broker, "eu").await;
    owner.does("DEL orders:eu").await;
    // The same ids again, and no more of them: a read from the last id on sees nothing.
    for ms in 1..=4 {
        owner
            .adds("orders:eu", &format!("{ms}-0"), &format!("new{ms}"))
            .await;
    }
    let gap = follower.gap(GapCause::NewEpoch).await;
    assert_eq!(gap.after, Some(old.clone()));
    for ms in 1..=4 {
        assert_eq!(follower.told().await.1, format!("new{ms}"));
    }
    for node in [&broker, &elsewhere] {
        for ms in [2, 5] {
            let told = after(node, "eu", &at(&old, ms)).await;
            assert_eq!(told, ["gap new_epoch", "new1", "new2", "new3", "new4"]);
        }
        let new = now(node, "eu").await;
        assert_eq!(after(node, "eu", &at(&new, 3)).await, ["new4"]);
    }
}

/// More entries than before, so that neither the last id nor the count gives it away.
#[tokio::test]
async fn ids_that_were_given_twice_are_another_life() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    for ms in 1..=3 {
        owner.adds("orders:eu", &format!("{ms}-0"), "old").await;
    }
    // Nobody follows it; the place was seen once.
    let old = now(&broker, "eu").await;
    let mut remade = owner.link;
    remade.command(&["MULTI"]).await.unwrap();
    remade.command(&["DEL", "orders:eu"]).await.unwrap();
    for ms in 1..=9 {
        let id = format!("{ms}-0");
        let add = ["XADD", "orders:eu", &id, "payload", "new"];
        remade.command(&add).await.unwrap();
    }
    remade.command(&["EXEC"]).await.unwrap();
    let told = after(&broker, "eu", &old).await;
    assert_eq!((told[0].as_str(), told.len()), ("gap new_epoch", 10));
}

/// Later ids and no fewer entries, as `XADD key *` gives them: what was deleted before anybody read it
/// is lost, although nothing is missing before the first entry that is there.
#[tokio::test]
async fn a_stream_that_was_made_again_with_later_ids_is_another_life() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    for ms in 1..=3 {
        owner.adds("orders:eu", &format!("{ms}-0"), "old").await;
        assert_eq!(follower.told().await.1, "old");
    }
    let old = now(&broker, "eu").await;
    let mut remade = owner.link;
    remade.command(&["MULTI"]).await.unwrap();
    for (id, data) in [("4-0", "lost"), ("5-0", "lost")] {
        let add = ["XADD", "orders:eu", id, "payload", data];
        remade.command(&add).await.unwrap();
    }
    remade.command(&["DEL", "orders:eu"]).await.unwrap();
    for ms in 11..=15 {
        let id = format!("{ms}-0");
        let add = ["XADD", "orders:eu", &id, "payload", "new"];
        remade.command(&add).await.unwrap();
    }
    remade.command(&["EXEC"]).await.unwrap();
    let gap = follower.gap(GapCause::NewEpoch).await;
    assert_eq!(gap.after, Some(old.clone()));
    for _ in 11..=15 {
        assert_eq!(follower.told().await.1, "new");
    }
    let told = after(&broker, "eu", &old).await;
    assert_eq!((told[0].as_str(), told.len()), ("gap new_epoch", 6));
}

#[tokio::test]
async fn a_stream_that_was_set_back_is_another_life() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    owner.adds("orders:eu", "9-0", "old").await;
    follower.event().await;
    let old = now(&broker, "eu").await;
    owner.does("XTRIM orders:eu MAXLEN 0").await;
    owner.does("XSETID orders:eu 3-0").await;
    follower.gap(GapCause::NewEpoch).await;
    owner.adds("orders:eu", "4-0", "new").await;
    assert_eq!(follower.told().await.1, "new");
    assert_eq!(after(&broker, "eu", &old).await, ["gap new_epoch", "new"]);
}

#[tokio::test]
async fn trimming_is_told_to_those_who_missed_something() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let start = now(&broker, "eu").await;
    for ms in 1..=10 {
        owner
            .adds("orders:eu", &format!("{ms}-0"), &ms.to_string())
            .await;
    }
    let all: Vec<_> = (1..=10).map(|ms| ms.to_string()).collect();
    assert_eq!(
        after(&broker, "eu", &start).await,
        all,
        "from before its first entry on"
    );
    owner.does("XTRIM orders:eu MINID 8").await;
    let gapped = page(&broker, "eu", Since::After(at(&start, 3))).await;
    assert_eq!(told(&gapped), ["gap evicted", "8", "9", "10"]);
    let Live::Gap(gap) = &gapped.items[0] else {
        panic!("{gapped:?}")
    };
    assert_eq!(gap.after, Some(at(&start, 3)));
    assert_eq!(gap.next.offset, at(&start, 8).offset.before());
    assert_eq!(after(&broker, "eu", &start).await[0], "gap evicted");
    // Just before the oldest, and at it, nothing is missing.
    let before = start.at(at(&start, 8).offset.before());
    assert_eq!(after(&broker, "eu", &before).await, ["8", "9", "10"]);
    assert_eq!(after(&broker, "eu", &at(&start, 8)).await, ["9", "10"]);
    owner.does("XTRIM orders:eu MAXLEN 0").await;
    assert!(after(&broker, "eu", &at(&start, 10)).await.is_empty());
    assert_eq!(after(&broker, "eu", &at(&start, 9)).await, ["gap evicted"]);
}

/// The usual bound of a stream that holds a newest value: each entry takes the one before away.
#[tokio::test]
async fn who_reads_each_entry_before_it_is_trimmed_misses_nothing() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    for index in 0..50 {
        let add = format!("XADD orders:eu MAXLEN 1 * payload {index}");
        owner.does(&add).await;
        assert_eq!(follower.told().await.1, index.to_string());
    }
}

#[tokio::test]
async fn what_was_trimmed_before_it_was_read_is_a_live_gap() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    let mut owner = Owner::of(&server).await;
    owner.does("MULTI").await;
    for ms in 1..=5 {
        owner
            .does(&format!("XADD orders:eu MAXLEN 2 {ms}-0 payload {ms}"))
            .await;
    }
    owner.does("EXEC").await;
    let gap = follower.gap(GapCause::Evicted).await;
    assert_eq!(gap.next.offset, at(&gap.next, 4).offset.before());
    assert_eq!(follower.told().await.1, "4");
    assert_eq!(follower.told().await.1, "5");
}

#[tokio::test]
async fn deleted_entries_are_told_to_those_who_had_not_got_them() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    for ms in 1..=5 {
        owner
            .adds("orders:eu", &format!("{ms}-0"), &ms.to_string())
            .await;
    }
    let mut follower = Follower::of(&broker, &["eu"]).await;
    let place = now(&broker, "eu").await;
    owner.does("XDEL orders:eu 3-0").await;
    assert_eq!(
        after(&broker, "eu", &at(&place, 1)).await,
        ["2", "gap evicted", "4", "5"]
    );
    for ms in [3, 4] {
        let rest: Vec<_> = (4..=5)
            .filter(|n| *n > ms)
            .map(|n: u64| n.to_string())
            .collect();
        assert_eq!(after(&broker, "eu", &at(&place, ms)).await, rest);
    }
    // It was handed on long ago: the follower has nothing to be told.
    owner.adds("orders:eu", "6-0", "6").await;
    assert_eq!(follower.told().await.1, "6");
    // This one goes before anybody saw it.
    owner.does("MULTI").await;
    owner.does("XADD orders:eu 7-0 payload 7").await;
    owner.does("XDEL orders:eu 7-0").await;
    owner.does("XADD orders:eu 8-0 payload 8").await;
    owner.does("EXEC").await;
    let gap = follower.gap(GapCause::Evicted).await;
    assert_eq!(gap.next, at(&place, 7));
    assert_eq!(follower.told().await.1, "8");
}

#[tokio::test]
async fn flushall_is_told_to_followers_and_cursors() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    // One that has entries, and one that has none yet.
    let empty = now(&broker, "none").await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    owner.adds("orders:eu", "1-0", "old").await;
    follower.event().await;
    let old = now(&broker, "eu").await;
    owner.does("FLUSHALL").await;
    owner.adds("orders:eu", "1-0", "new").await;
    owner.adds("orders:none", "1-0", "new").await;
    // Of the rule's index, which concerns those who follow wildcards, and of the stream.
    assert!(follower.gap(GapCause::NewEpoch).await.scope.is_wild());
    assert!(!follower.gap(GapCause::NewEpoch).await.scope.is_wild());
    assert_eq!(follower.told().await.1, "new");
    assert_eq!(after(&broker, "eu", &old).await, ["gap new_epoch", "new"]);
    // What was there before the loss nobody can know.
    assert_eq!(
        after(&broker, "none", &empty).await,
        ["gap new_epoch", "new"]
    );
}

/// Searches notice that a stream is gone long before it is looked at again.
#[tokio::test]
async fn a_loss_is_told_to_wildcards_although_the_search_comes_first() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let metrics = StreamMetrics::unregistered();
    let config = RedisConfig {
        ping_interval: Duration::from_secs(1),
        ..quick_streams(server.url())
    };
    let broker = RedisStreams::connect(config, bus::metrics(), metrics.clone());
    let broker = broker.await.unwrap();
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    owner.adds("orders:eu", "5-0", "old").await;
    assert_eq!(follower.told().await.1, "old");
    owner.does("MULTI").await;
    owner.does("XADD orders:eu 6-0 payload lost").await;
    owner.does("FLUSHALL").await;
    owner.does("EXEC").await;
    let deadline = tokio::time::Instant::now() + bus::PATIENCE;
    while metrics.known.get() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "still known");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From here on the node knows where streams begin that are found.
    let _other = Follower::of(&broker, &["other"]).await;
    assert!(follower.gap(GapCause::NewEpoch).await.scope.is_wild());
    owner.adds("orders:eu", "7-0", "new").await;
    assert!(!follower.gap(GapCause::NewEpoch).await.scope.is_wild());
    assert_eq!(follower.told().await.1, "new");
}

/// Streams that went with all that Redis held before a search found them: nobody can name them, so
/// their wildcard is told.
#[tokio::test]
async fn streams_that_were_lost_before_they_were_found_are_told_to_wildcards() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let (broker, elsewhere) = (streams(server.url()).await, streams(server.url()).await);
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    let wild: Pattern = ">".parse().unwrap();
    let index = |since| HistoryQuery {
        log: broker.capabilities().logs.of(&wild).swap_remove(0),
        channels: vec![wild.clone()],
        since,
        limit: NonZeroUsize::MIN,
        max_bytes: 1,
    };
    let before = broker.history(index(Since::Now)).await.unwrap().upto;
    let standing = index(Since::After(before.clone()));
    assert!(told(&broker.history(standing.clone()).await.unwrap()).is_empty());
    owner.does("MULTI").await;
    owner.does("XADD orders:eu 1-0 payload lost").await;
    owner.does("FLUSHALL").await;
    owner.does("XADD orders:us 2-0 payload new").await;
    owner.does("EXEC").await;
    let gap = follower.gap(GapCause::NewEpoch).await;
    assert!(gap.scope.matches(&channel("eu")), "{gap:?}");
    assert_eq!(gap.after, Some(before));
    for node in [&broker, &elsewhere] {
        let page = node.history(standing.clone()).await.unwrap();
        assert_eq!(told(&page), ["gap new_epoch"]);
        assert_eq!(page.upto, gap.next);
        let now = node.history(index(Since::After(page.upto))).await.unwrap();
        assert!(told(&now).is_empty());
    }
}

/// What Redis loses where the log on disk, or a replica, lacks the newest writes.
struct Tail {
    stream: Vec<u8>,
    record: Vec<u8>,
}

impl Tail {
    async fn of(owner: &mut Owner) -> Self {
        Self {
            stream: owner.bytes("DUMP orders:eu").await,
            record: owner.bytes("DUMP fanfare:streams:at:orders:eu").await,
        }
    }

    async fn lost(&self, owner: &mut Owner) {
        for (key, dump) in [
            ("orders:eu", &self.stream),
            ("fanfare:streams:at:orders:eu", &self.record),
        ] {
            let restore: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"0", dump, b"REPLACE"];
            let reply = owner.link.command(&restore).await.unwrap();
            assert_eq!(reply, Reply::Status("OK".into()));
        }
    }
}

#[tokio::test]
async fn a_lost_tail_is_told_to_followers() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &["eu"]).await;
    let mut tail = None;
    for ms in 1..=10 {
        owner
            .adds("orders:eu", &format!("{ms}-0"), &format!("old{ms}"))
            .await;
        assert_eq!(follower.told().await.1, format!("old{ms}"));
        if ms == 7 {
            tail = Some(Tail::of(&mut owner).await);
        }
    }
    let old = now(&broker, "eu").await;
    tail.unwrap().lost(&mut owner).await;
    // The same ids, other entries.
    for ms in 8..=10 {
        owner
            .adds("orders:eu", &format!("{ms}-0"), &format!("new{ms}"))
            .await;
    }
    follower.gap(GapCause::NewEpoch).await;
    for ms in 1..=10 {
        let life = if ms <= 7 { "old" } else { "new" };
        assert_eq!(follower.told().await.1, format!("{life}{ms}"));
    }
    assert_eq!(after(&broker, "eu", &old).await[0], "gap new_epoch");
}

#[tokio::test]
async fn a_lost_tail_is_told_to_cursors_that_no_node_followed() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    for ms in 1..=7 {
        owner.adds("orders:eu", &format!("{ms}-0"), "kept").await;
    }
    now(&broker, "eu").await;
    let tail = Tail::of(&mut owner).await;
    for ms in 8..=10 {
        owner.adds("orders:eu", &format!("{ms}-0"), "lost").await;
    }
    let cursor = page(&broker, "eu", Since::Oldest).await.upto;
    tail.lost(&mut owner).await;
    let kept = ["kept"; 7];
    let begins = |told: &[String]| (told[0].clone(), told.len());
    let beyond = after(&broker, "eu", &cursor).await;
    assert_eq!(
        beyond,
        [&["gap new_epoch"][..], &kept].concat(),
        "beyond the head"
    );
    // It grows past the cursor, by ids that leave the cursor's out.
    owner.adds("orders:eu", "9-5", "new").await;
    owner.adds("orders:eu", "12-0", "new").await;
    let told = after(&broker, "eu", &cursor).await;
    assert_eq!(
        begins(&told),
        ("gap new_epoch".into(), 10),
        "no such entry: {told:?}"
    );
    assert_eq!(after(&broker, "eu", &at(&cursor, 7)).await, ["new", "new"]);
}

/// A wildcard's streams come into being at any time, and none of their entries is missed.
#[tokio::test]
async fn a_stream_that_is_found_later_is_delivered_from_its_first_entry_on() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    owner.adds("orders:old", "1-0", "before").await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    let known = broker.capabilities().logs.of(&">".parse().unwrap());
    assert!(known.contains(&log(&broker, "old")));
    assert!(!known.contains(&log(&broker, "a")));
    for ms in 1..=50 {
        owner
            .adds("orders:a", &format!("{ms}-0"), &ms.to_string())
            .await;
    }
    // It is followed by its name before the wildcard's search has found it.
    follower.follow("a").await;
    for ms in 1..=50 {
        assert_eq!(follower.told().await, ("a".into(), ms.to_string()));
    }
    owner.adds("orders:old", "2-0", "after").await;
    assert_eq!(follower.told().await, ("old".into(), "after".into()));
    let late = broker.capabilities().logs.late(&log(&broker, "a")).unwrap();
    assert!(
        broker
            .capabilities()
            .logs
            .of(&">".parse().unwrap())
            .contains(&late.index)
    );
    assert_eq!(after(&broker, "a", &late.begin).await.len(), 50);
    owner.does("XTRIM orders:a MAXLEN 10").await;
    let told = after(&broker, "a", &late.begin).await;
    assert_eq!((told[0].as_str(), told.len()), ("gap evicted", 11));
}

#[tokio::test]
async fn streams_over_the_bound_are_refused_and_told() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let registry = prometheus::Registry::new();
    let mut config = quick_streams(server.url());
    config.ingest[0].max_streams = 2;
    let metrics = StreamMetrics::register(&registry).unwrap();
    let broker = RedisStreams::connect(config, bus::metrics(), metrics.clone());
    let broker = broker.await.unwrap();
    let mut owner = Owner::of(&server).await;
    let mut follower = Follower::of(&broker, &[">"]).await;
    for name in ["a", "b"] {
        owner.adds(&format!("orders:{name}"), "1-0", name).await;
        assert_eq!(follower.told().await.1, name);
    }
    owner.adds("orders:c", "1-0", "c").await;
    let gap = follower.gap(GapCause::NotFollowed).await;
    assert!(gap.scope.matches(&channel("c")));
    assert_eq!((metrics.known.get(), metrics.refused.get()), (2, 1));
    let refuse = async |pattern: &str| {
        let pattern: Pattern = pattern.parse().unwrap();
        let subscribed = broker.subscribe(&pattern, &follower.inlet).await;
        let error = subscribed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert!(error.to_string().contains("max_streams"), "{error}");
    };
    refuse("c").await;
    refuse("*").await;
}

#[tokio::test]
async fn keys_that_are_no_channel_or_no_stream_stop_nobody() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let config = RedisConfig {
        ingest: vec![stream_rule("jobs:*", "{name}")],
        ..quick_streams(server.url())
    };
    let broker = connect_streams(config).await;
    let mut owner = Owner::of(&server).await;
    owner.does("SET jobs:text x").await;
    owner.does("XADD jobs:a/b 1-0 payload taken").await;
    let odd: [&[u8]; 5] = [b"XADD", b"jobs:\xff", b"1-0", b"payload", b"x"];
    owner.link.command(&odd).await.unwrap();
    let mut follower = Follower::of(&broker, &["jobs.>", "jobs.a.b"]).await;
    let text: Pattern = "jobs.text".parse().unwrap();
    let refused = broker.subscribe(&text, &follower.inlet).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Rejected, "{refused}");
    owner.adds("jobs:a:b", "1-0", "one").await;
    assert_eq!(follower.told().await, ("jobs.a.b".into(), "one".into()));
    // A stream that becomes a text, while another one of the same link goes on.
    owner.adds("jobs:c", "1-0", "two").await;
    assert_eq!(follower.told().await.1, "two");
    owner.does("SET jobs:a:b text").await;
    owner.adds("jobs:c", "2-0", "three").await;
    assert_eq!(follower.told().await.1, "three");
    owner.does("DEL jobs:a:b").await;
    owner.adds("jobs:a:b", "1-0", "again").await;
    follower.gap(GapCause::NewEpoch).await;
    assert_eq!(follower.told().await.1, "again");
}

#[tokio::test]
async fn what_is_published_here_is_an_entry_that_others_read() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let broker = streams(server.url()).await;
    let mut owner = Owner::of(&server).await;
    let publication = || Publication {
        event_type: Some(EventType::parse("placed").unwrap()),
        tags: [("region", "de")].into_iter().collect(),
        key: Some(IdempotencyKey::parse("k").unwrap()),
        ..Publication::new("data")
    };
    let first = broker.publish(&channel("eu"), publication()).await.unwrap();
    let again = broker.publish(&channel("eu"), publication()).await.unwrap();
    assert!(again.duplicate && again.position == first.position);
    let Reply::Array(entries) = owner.does("XRANGE orders:eu - +").await else {
        panic!("no entries")
    };
    let [Reply::Array(entry)] = &entries[..] else {
        panic!("{entries:?}")
    };
    let words = ["payload", "data", "type", "placed", "region", "de"];
    let words = words.map(|word| Reply::Bulk(word.into()));
    assert_eq!(entry[1], Reply::Array(words.to_vec()));
}

/// A node that follows very many streams asks Redis for little while nothing happens, and misses
/// nothing when it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_quiet_streams_cost_little() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let mut config = RedisConfig {
        ping_interval: Duration::from_secs(2),
        command_timeout: bus::PATIENCE,
        ..quick_streams(server.url())
    };
    config.ingest[0].max_streams = 2000;
    let broker = connect_streams(config).await;
    let mut owner = Owner::of(&server).await;
    // More than one link waits for.
    let names: Vec<String> = (0..1100).map(|index| format!("s{index}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut follower = Follower::wide(&broker, &texts).await;
    broker.probe().await.unwrap();
    let commands = async |owner: &mut Owner| {
        let info = String::from_utf8(owner.bytes("INFO stats").await).unwrap();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = commands(&mut owner).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = commands(&mut owner).await - before;
    // At most one look at each stream, of some commands each, and some reads that block.
    assert!(asked < 10 * 1100, "{asked} commands in 3 s of silence");
    for name in &names {
        owner.adds(&format!("orders:{name}"), "*", name).await;
    }
    let mut came = std::collections::BTreeSet::new();
    for _ in &names {
        let (channel, data) = follower.told().await;
        assert_eq!(channel, data);
        came.insert(channel);
    }
    assert_eq!(came.len(), names.len());
}

/// Names that strangers ask for and leave are not remembered, here or in Redis.
#[tokio::test]
async fn channels_that_are_opened_and_left_leave_nothing() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let mut config = quick_streams(server.url());
    config.ingest[0].max_streams = 10;
    let broker = connect_streams(config).await;
    let mut owner = Owner::of(&server).await;
    let keys = owner.does("DBSIZE").await;
    for index in 0..500 {
        let follower = Follower::of(&broker, &[&format!("left{index}")]).await;
        drop(follower);
    }
    let follower = Follower::of(&broker, &["left0", "left1"]).await;
    drop(follower);
    broker.probe().await.unwrap();
    let Reply::Integer(now) = owner.does("DBSIZE").await else {
        panic!("no number")
    };
    let Reply::Integer(before) = keys else {
        panic!("no number")
    };
    // The bell may have rung since.
    assert!(now <= before + 1, "{before} keys became {now}");
    assert!(format!("{broker:?}").contains("streams: 0"), "{broker:?}");
}

/// The rights that `docs/backends.md` names, word by word.
#[tokio::test]
async fn the_least_rights_are_enough() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let page = include_str!("../../../docs/backends.md");
    let part = page.split("A user for streams alone").nth(1).unwrap();
    let block = part.split("```").nth(1).unwrap().trim_start_matches("text");
    let rights: Vec<&str> = block.split_whitespace().collect();
    let mut owner = Owner::of(&server).await;
    let reply = owner.link.command(&rights).await.unwrap();
    assert_eq!(reply, Reply::Status("OK".into()));
    let url = server
        .url()
        .replace("redis://", "redis://fanfare:password@");
    let broker = streams(url).await;
    let mut follower = Follower::of(&broker, &["eu", ">"]).await;
    let publication = Publication {
        key: Some(IdempotencyKey::parse("k").unwrap()),
        ..Publication::new("one")
    };
    broker.publish(&channel("eu"), publication).await.unwrap();
    assert_eq!(follower.told().await.1, "one");
    owner.adds("orders:us", "1-0", "two").await;
    assert_eq!(follower.told().await.1, "two");
    assert_eq!(told(&page_of_last(&broker).await), ["two"]);
    broker.probe().await.unwrap();
    broker.close().await;
    let denied = owner.does("ACL LOG").await;
    assert_eq!(denied, Reply::Array(Vec::new()), "nothing was denied");
}

async fn page_of_last(broker: &RedisStreams) -> History {
    page(broker, "us", Since::Last(NonZeroUsize::MIN)).await
}
