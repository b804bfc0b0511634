//! Durable channels over JetStream: what is lost is told, what is not is not.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{num::NonZeroUsize, path::Path, time::Duration};

use fanfare_core::{
    Broker, Channel, ErrorKind, GapCause, HistoryQuery, Live, LogId, Offset, Pattern, Position,
    Publication, Since, Subscription,
};
use fanfare_nats::{DurableConfig, NatsConfig, NatsDurable};
use fanfare_testkit::{NatsRelease, NatsServer};
use serde_json::json;
use support::{
    Node, Server,
    jetstream::{Js, Stock, counting, green, metrics},
    until,
    wire::Wire,
};
use tempfile::TempDir;

fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

fn patterns(channels: &[&str]) -> Vec<Pattern> {
    channels.iter().map(|text| text.parse().unwrap()).collect()
}

async fn node(config: NatsConfig, durable: DurableConfig) -> NatsDurable {
    NatsDurable::connect(config, durable, metrics())
        .await
        .unwrap()
}

async fn plain(js: &Js) -> NatsDurable {
    node(
        Stock::default().config(js.server.url()),
        DurableConfig::default(),
    )
    .await
}

async fn put(node: &NatsDurable, on: &str, data: &str) -> Position {
    let published = node.publish(&channel(on), Publication::new(data)).await;
    published.unwrap().position.unwrap()
}

async fn follow(node: &NatsDurable, pattern: &str) -> (Node, Subscription) {
    let feed = Node::new();
    let pattern = pattern.parse().unwrap();
    let held = node.subscribe(&pattern, &feed.inlet).await.unwrap();
    (feed, held)
}

/// All pages: `x` for an event, `cause` in brackets for a gap.
async fn told(node: &NatsDurable, log: &LogId, channels: &[&str], since: Since) -> Vec<String> {
    let mut told = Vec::new();
    let mut since = since;
    loop {
        let query = HistoryQuery {
            log: log.clone(),
            channels: patterns(channels),
            since,
            limit: NonZeroUsize::new(100).unwrap(),
            max_bytes: 1 << 20,
        };
        let page = node.history(query).await.unwrap();
        told.extend(page.items.iter().map(|item| match item {
            Live::Event(event) => event.data.as_str().to_owned(),
            Live::Gap(gap) => format!("[{} {}]", gap.scope, gap.cause.as_str()),
        }));
        if !page.more {
            return told;
        }
        since = Since::After(page.upto);
    }
}

async fn after(node: &NatsDurable, at: &Position, channels: &[&str]) -> Vec<String> {
    told(node, &at.log, channels, Since::After(at.clone())).await
}

async fn now(node: &NatsDurable) -> Position {
    let log = node.capabilities().logs.all()[0].clone();
    let query = HistoryQuery {
        log,
        channels: patterns(&[">"]),
        since: Since::Now,
        limit: NonZeroUsize::MIN,
        max_bytes: 1,
    };
    node.history(query).await.unwrap().upto
}

async fn consumers(js: &Js, stream: &str) -> u64 {
    js.info(stream).await["state"]["consumer_count"]
        .as_u64()
        .unwrap()
}

async fn data(feed: &mut Node, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(feed.event().await.data.as_str().to_owned());
    }
    all
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_over_all_subjects_survives_cuts() {
    let Some(js) = Js::start().await else { return };
    let wire = Wire::to(js.server.port()).await;
    let config = Stock::default().config(format!("nats://{}", wire.address));
    let cut = node(config, DurableConfig::default()).await;
    let other = plain(&js).await;
    let (mut feed, _held) = follow(&cut, ">").await;
    let publisher = tokio::spawn(async move {
        for n in 0..2000 {
            put(&other, &format!("c{}.x", n % 37), &n.to_string()).await;
        }
    });
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        wire.cut();
        tokio::time::sleep(Duration::from_millis(50)).await;
        wire.mend();
        green(&cut).await;
    }
    publisher.await.unwrap();
    // `event` refuses a gap.
    assert_eq!(data(&mut feed, 2000).await, numbers(0..2000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_drops_is_healed() {
    let Some(js) = Js::start().await else { return };
    let metrics = metrics();
    let config = NatsConfig {
        queue_messages: 128,
        ..Stock::default().config(js.server.url())
    };
    let small = NatsDurable::connect(config, DurableConfig::default(), metrics.clone());
    let small = small.await.unwrap();
    let (mut feed, _held) = follow(&small, ">").await;
    let mut sender = js.server.client().await;
    for n in 0..5000 {
        sender.publish(&format!("fanfare.log.a.{}", n % 50), n.to_string(), &[]);
    }
    sender.flush().await.unwrap();
    assert_eq!(data(&mut feed, 5000).await, numbers(0..5000));
    assert!(
        metrics.healed.get() > 0,
        "nothing was dropped: the test shows nothing"
    );
}

/// A server whose stream can be put back to where it stood.
struct Tail {
    server: NatsServer,
    store: TempDir,
    saved: TempDir,
}

impl Tail {
    async fn start() -> Option<Self> {
        let (store, saved) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let path = store.path().to_str().unwrap();
        Some(Self {
            server: NatsServer::start_with(&["-js", "-sd", path]).await?,
            store,
            saved,
        })
    }

    /// Ends the server and keeps what it has.
    async fn save(&mut self) {
        self.server.kill();
        copy(self.store.path(), self.saved.path());
        self.server.restart().await;
    }

    /// Ends the server; what it wrote since is lost.
    async fn lose(&mut self) {
        self.server.kill();
        std::fs::remove_dir_all(self.store.path().join("jetstream")).unwrap();
        copy(self.saved.path(), self.store.path());
        self.server.restart().await;
    }

    async fn node(&self) -> NatsDurable {
        let config = Stock::default().config(self.server.url());
        node(config, DurableConfig::default()).await
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_is_told_to_followers_and_to_cursors() {
    let Some(mut tail) = Tail::start().await else {
        return;
    };
    let first = tail.node().await;
    let (mut feed, _held) = follow(&first, ">").await;
    let kept = put(&first, "a", "kept").await;
    feed.event().await;
    tail.save().await;
    green(&first).await;
    let lost = put(&first, "a", "lost").await;
    feed.event().await;
    tail.lose().await;
    green(&first).await;
    let gap = feed.gap().await;
    assert_eq!(gap.cause, GapCause::NewEpoch);
    assert_ne!(gap.next.epoch, kept.epoch);
    assert_eq!(gap.next.offset, kept.offset, "what survived is known");
    let new = put(&first, "a", "new").await;
    assert_eq!(feed.event().await.position, new);
    assert_eq!(
        new.offset.0 >> 32,
        (lost.offset.0 >> 32) + 1,
        "the sequence is given again, to the mark"
    );
    // On the node that saw it, and on one that did not: each cursor from before is told.
    let second = tail.node().await;
    for node in [&first, &second] {
        let told = after(node, &lost, &["a"]).await;
        assert_eq!(told, ["[a new_epoch]", "kept", "new"]);
    }
    assert_eq!(after(&first, &new, &["a"]).await, [""; 0]);
    // This one's message is there, and what is lost is lost behind it.
    for node in [&first, &second] {
        let told = after(node, &kept, &["a"]).await;
        assert_eq!(told, ["[a new_epoch]", "kept", "new"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_is_told_long_after_its_sequences_were_filled() {
    let Some(mut tail) = Tail::start().await else {
        return;
    };
    let first = tail.node().await;
    put(&first, "a", "kept").await;
    let (mut feed, held) = follow(&first, ">").await;
    tail.save().await;
    green(&first).await;
    let mut lost = Vec::new();
    for n in 0..5 {
        lost.push(put(&first, "a", &format!("lost {n}")).await);
        feed.event().await;
    }
    // This node does not follow while it happens, so nothing shows it but the messages.
    drop(held);
    let url = tail.server.url();
    let js = Js {
        server: tail.server,
    };
    until("nobody follows", async || {
        consumers(&js, "FANFARE").await == 0
    })
    .await;
    tail.server = js.server;
    tail.lose().await;
    assert_eq!(tail.server.url(), url);
    let second = tail.node().await;
    for n in 0..50 {
        put(&second, "a", &format!("new {n}")).await;
    }
    green(&first).await;
    for node in [&first, &second] {
        for lost in &lost {
            let told = after(node, lost, &["a"]).await;
            assert!(
                told.iter().any(|one| one.starts_with('[')),
                "{lost:?}: {told:?}"
            );
            assert_eq!(told.last().unwrap(), "new 49");
        }
    }
    // Who begins to follow is not told of what was lost before.
    let (mut feed, _held) = follow(&first, ">").await;
    put(&second, "a", "end").await;
    let mut all = vec![feed.next().await];
    while !matches!(all.last(), Some(Live::Event(event)) if event.data.as_str() == "end") {
        all.push(feed.next().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_made_again_is_a_gap() {
    let Some(js) = Js::start().await else { return };
    let first = plain(&js).await;
    let (mut feed, _held) = follow(&first, "a").await;
    let old = put(&first, "a", "old").await;
    feed.event().await;
    js.delete("FANFARE").await;
    let new = put(&first, "a", "new").await;
    assert_eq!(feed.gap().await.cause, GapCause::NewEpoch);
    assert_eq!(feed.event().await.position, new);
    let second = plain(&js).await;
    for node in [&first, &second] {
        assert_eq!(after(node, &old, &["a"]).await, ["[a new_epoch]", "new"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_its_data_is_no_gap() {
    let Some(mut js) = Js::start().await else {
        return;
    };
    let first = plain(&js).await;
    let (mut feed, _held) = follow(&first, ">").await;
    let at = put(&first, "a", "0").await;
    feed.event().await;
    for round in 1..4 {
        js.server.restart().await;
        green(&first).await;
        put(&first, "a", &round.to_string()).await;
    }
    assert_eq!(data(&mut feed, 3).await, numbers(1..4));
    let second = plain(&js).await;
    assert_eq!(after(&second, &at, &["a"]).await, numbers(1..4));
}

const OTHERS: Stock = Stock {
    rules: &[("ORDERS", "orders.>", "{name}")],
    event_header: Some("Event-Type"),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_deleted_is_a_gap_to_cursors_and_followers() {
    let Some(js) = Js::start().await else { return };
    js.make("ORDERS", "orders.>").await;
    let wire = Wire::to(js.server.port()).await;
    let warm = node(OTHERS.config(js.server.url()), DurableConfig::default()).await;
    let cut = OTHERS.config(format!("nats://{}", wire.address));
    let cut = node(cut, DurableConfig::default()).await;
    let (mut feed, _held) = follow(&cut, "orders.>").await;
    put(&warm, "orders.a", "0").await;
    assert_eq!(data(&mut feed, 1).await, numbers(0..1));
    wire.cut();
    put(&warm, "orders.a", "1").await;
    let gone = put(&warm, "orders.a", "2").await;
    for seq in [2, 3] {
        js.done("STREAM.MSG.DELETE.ORDERS", json!({ "seq": seq }))
            .await;
    }
    wire.mend();
    green(&cut).await;
    // Nothing comes any more up to where the stream ends, which is known.
    let cold = node(OTHERS.config(js.server.url()), DurableConfig::default()).await;
    for node in [&cut, &cold] {
        assert_eq!(
            after(node, &gone, &["orders.a"]).await,
            ["[orders.a evicted]"]
        );
    }
    put(&warm, "orders.a", "3").await;
    assert_eq!(feed.gap().await.cause, GapCause::Evicted);
    assert_eq!(data(&mut feed, 1).await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purged_and_deleted_messages_are_a_gap_on_any_node() {
    let Some(js) = Js::start().await else { return };
    js.make("ORDERS", "orders.>").await;
    let config = || OTHERS.config(js.server.url());
    let warm = node(config(), DurableConfig::default()).await;
    let (mut feed, _held) = follow(&warm, "orders.>").await;
    let start = now(&warm).await;
    for (on, data) in [("a", "0"), ("b", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
        put(&warm, &format!("orders.{on}"), data).await;
    }
    let b1 = data(&mut feed, 5).await;
    assert_eq!(b1, numbers(0..5));
    js.done("STREAM.MSG.DELETE.ORDERS", json!({ "seq": 4 }))
        .await;
    js.purge("ORDERS", "orders.a").await;
    let cold = node(
        config(),
        DurableConfig {
            replay_messages: 1,
            ..DurableConfig::default()
        },
    )
    .await;
    let all = ["orders.a", "orders.b"];
    for (node, name) in [(&warm, "warm"), (&cold, "cold")] {
        let told = after(node, &start, &all).await;
        let gap = |channel: &str| told.contains(&format!("[orders.{channel} evicted]"));
        assert!(gap("a") && gap("b"), "{name}: {told:?}");
        assert!(told.contains(&"1".to_owned()), "{name}: {told:?}");
        assert!(!told.contains(&"0".to_owned()), "{name}: {told:?}");
    }
    js.done("STREAM.PURGE.ORDERS", json!({})).await;
    for node in [&warm, &cold] {
        let told = after(node, &start, &["orders.b"]).await;
        assert_eq!(told, ["[orders.b evicted]"]);
    }
}

/// A node that knows nothing of the stream but its newest message.
async fn stranger(js: &Js, max_count: usize) -> NatsDurable {
    let durable = DurableConfig {
        store: counting(max_count),
        replay_messages: 1,
        ..DurableConfig::default()
    };
    node(Stock::default().config(js.server.url()), durable).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_a_gap_when_they_took_something_and_not_otherwise() {
    let Some(js) = Js::start().await else { return };
    let first = stranger(&js, 10).await;
    let idle = put(&first, "idle", "idle").await;
    let mut places = vec![idle.clone()];
    for n in 0..30 {
        places.push(put(&first, "busy", &n.to_string()).await);
    }
    let last = put(&first, "end", "end").await;
    let other = stranger(&js, 10).await;
    // The channel that nobody published on, and the one that was read whole, lost nothing.
    for node in [&first, &other] {
        assert_eq!(after(node, &idle, &["idle"]).await, [""; 0]);
        assert_eq!(after(node, &idle, &["end"]).await, ["end"]);
        assert_eq!(after(node, &idle, &["never"]).await, [""; 0]);
        assert_eq!(after(node, &last, &["busy", "idle", "end"]).await, [""; 0]);
    }
    // A cursor whose message is gone is not taken at its word.
    for node in [&first, &other] {
        let told = after(node, &places[1], &["never"]).await;
        assert_eq!(told, ["[never evicted]"]);
    }
    // Whoever missed no more than a channel keeps gets it; whoever missed more is told.
    for node in [&first, &other] {
        for missed in [0, 1, 9, 10] {
            let told = after(node, &places[30 - missed], &["busy"]).await;
            assert_eq!(told, numbers(30 - missed..30), "missed {missed}");
        }
        for missed in [12, 20, 30] {
            let told = after(node, &places[30 - missed], &["busy"]).await;
            assert_eq!(told[0], "[busy evicted]", "missed {missed}");
            assert_eq!(told[told.len() - 10..], numbers(20..30));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_followed_knows_that_a_quiet_channel_is_whole() {
    let Some(js) = Js::start().await else { return };
    let config = Stock::default().config(js.server.url());
    let durable = DurableConfig {
        store: counting(3),
        ..DurableConfig::default()
    };
    let first = node(config, durable).await;
    let (mut feed, _held) = follow(&first, "busy").await;
    // Every message from here on is trimmed, the one at the client's place as well.
    let at = put(&first, "busy", "x").await;
    for n in 0..50 {
        put(&first, "busy", &n.to_string()).await;
    }
    data(&mut feed, 51).await;
    assert_eq!(after(&first, &at, &["quiet"]).await, [""; 0]);
    assert_eq!(after(&first, &at, &["busy"]).await[0], "[busy evicted]");
    // One that did not follow cannot know.
    let other = stranger(&js, 3).await;
    assert_eq!(after(&other, &at, &["quiet"]).await, ["[quiet evicted]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_others_arrive_as_their_publishers_wrote_them() {
    let Some(js) = Js::start().await else { return };
    js.make("ORDERS", "orders.>").await;
    let first = node(OTHERS.config(js.server.url()), DurableConfig::default()).await;
    let (mut feed, _held) = follow(&first, "orders.>").await;
    let mut sender = js.server.client().await;
    sender.publish("orders.eu", "core", &[("Event-Type", "paid")]);
    sender.publish("orders.eu", [0xff, 0xfe], &[]);
    sender.flush().await.unwrap();
    let event = feed.event().await;
    assert_eq!(event.data.as_str(), "core");
    assert_eq!(event.event_type.as_ref().unwrap().as_str(), "paid");
    assert_eq!(event.position.offset.0 >> 32, 1);
    let age = event.published_at.elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
    let gap = feed.gap().await;
    assert_eq!(
        (gap.cause, gap.scope.as_str()),
        (GapCause::Undeliverable, "orders.eu")
    );
    let answer = sender.request("orders.us", "jetstream").await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("\"seq\":3"));
    assert_eq!(feed.event().await.data.as_str(), "jetstream");
    // What is published through Fanfare stands in the same stream.
    let at = put(&first, "orders.us", "fanfare").await;
    assert_eq!(feed.event().await.position, at);
    let second = node(OTHERS.config(js.server.url()), DurableConfig::default()).await;
    let begin = event.position.at(Offset::ZERO);
    let told = after(&second, &begin, &["orders.>"]).await;
    assert_eq!(
        told,
        ["core", "[orders.eu undeliverable]", "jetstream", "fanfare"]
    );
    // Other channels live in Fanfare's own.
    let own = put(&first, "mine", "x").await;
    assert_ne!(own.log, at.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_follows_only_while_somebody_does() {
    let Some(js) = Js::start().await else { return };
    let first = plain(&js).await;
    assert_eq!(consumers(&js, "FANFARE").await, 0);
    let (_feed, held) = follow(&first, "a").await;
    let (_more, more) = follow(&first, "b.>").await;
    assert_eq!(consumers(&js, "FANFARE").await, 1);
    drop((held, more));
    until("the consumer's end", async || {
        consumers(&js, "FANFARE").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resumes_is_answered_from_memory() {
    let Some(js) = Js::start().await else { return };
    let first = plain(&js).await;
    let (mut feed, _held) = follow(&first, "a").await;
    let at = put(&first, "a", "0").await;
    for n in 1..100 {
        put(&first, "a", &n.to_string()).await;
    }
    data(&mut feed, 100).await;
    let asked = async || {
        js.done("INFO", json!({})).await["api"]["total"]
            .as_u64()
            .unwrap()
    };
    let before = asked().await;
    let resumes = (0..1000).map(|_| after(&first, &at, &["a"]));
    for told in futures_util::future::join_all(resumes).await {
        assert_eq!(told, numbers(1..100));
    }
    let calls = asked().await - before;
    assert!(calls < 100, "{calls} calls for 1000 resumes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_cannot_do_is_refused_by_name() {
    let refused = async |server: &NatsServer, config: NatsConfig, durable: DurableConfig| {
        let config = NatsConfig {
            urls: vec![server.url()],
            ..config
        };
        let error = NatsDurable::connect(config, durable, metrics())
            .await
            .unwrap_err();
        (error.kind(), error.to_string())
    };
    let Some(core) = NatsServer::start().await else {
        return;
    };
    let (kind, text) = refused(&core, NatsConfig::default(), DurableConfig::default()).await;
    assert_eq!(kind, ErrorKind::Rejected, "{text}");
    assert!(text.contains("broker.nats.jetstream = false"), "{text}");
    assert!(text.contains("JetStream"), "{text}");

    let js = Js::start().await.unwrap();
    let compressed = DurableConfig {
        compression: true,
        ..DurableConfig::default()
    };
    let (kind, text) = refused(&js.server, NatsConfig::default(), compressed.clone()).await;
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    assert!(
        text.contains("broker.nats.compression") && text.contains("2.10"),
        "{text}"
    );
    if let Some(current) = NatsServer::start_release(NatsRelease::Current, &["-js"]).await {
        let js = Js { server: current };
        js.ask("INFO", json!({})).await;
        node(Stock::default().config(js.server.url()), compressed).await;
        assert_eq!(js.info("FANFARE").await["config"]["compression"], "s2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_as_it_must_be_is_refused_by_its_field() {
    let Some(js) = Js::start().await else { return };
    let refused = async |config: NatsConfig, durable: DurableConfig| {
        let config = NatsConfig {
            urls: vec![js.server.url()],
            ..config
        };
        let error = NatsDurable::connect(config, durable, metrics())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        error.to_string()
    };
    plain(&js).await;
    // As it was made, it is taken again.
    plain(&js).await;
    let base = DurableConfig::default;
    for (durable, field) in [
        (
            DurableConfig {
                max_bytes: 7,
                ..base()
            },
            "max_bytes",
        ),
        (
            DurableConfig {
                store: counting(7),
                ..base()
            },
            "max_msgs_per_subject",
        ),
        (
            DurableConfig {
                key_window: Duration::from_secs(7),
                ..base()
            },
            "duplicate_window",
        ),
    ] {
        let text = refused(NatsConfig::default(), durable).await;
        assert!(
            text.contains(&format!("`{field}`")) && text.contains("FANFARE"),
            "{text}"
        );
    }
    let moved = NatsConfig {
        prefix: "other".into(),
        ..NatsConfig::default()
    };
    let text = refused(moved, base()).await;
    assert!(text.contains("`subjects`"), "{text}");

    let text = refused(OTHERS.config(String::new()), base()).await;
    assert!(text.contains("ORDERS") && text.contains("none"), "{text}");
    js.make_with("ORDERS", "orders.>", json!({ "retention": "workqueue" }))
        .await;
    let text = refused(OTHERS.config(String::new()), base()).await;
    assert!(text.contains("`retention`"), "{text}");
    js.delete("ORDERS").await;
    js.make("ORDERS", "elsewhere.>").await;
    let text = refused(OTHERS.config(String::new()), base()).await;
    assert!(text.contains("broker.nats.ingest[0].source"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_documented_are_enough() {
    let docs = std::fs::read_to_string("../../docs/backends.md").unwrap();
    let line = docs
        .lines()
        .find(|line| line.starts_with("Permissions of Fanfare's user, for durable channels"))
        .unwrap();
    let names = |text: &str| {
        let quoted: Vec<_> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|s| format!("{s:?}"))
            .collect();
        quoted.join(", ")
    };
    let (publish, subscribe) = line.split_once("; subscribe").unwrap();
    let conf = format!(
        "jetstream: true\nauthorization {{ users: [{{ user: u, password: p, permissions: {{ publish: [{}], subscribe: [{}] }} }}] }}",
        names(publish),
        names(subscribe)
    );
    let Some(server) = Server::start(&conf).await else {
        return;
    };
    let first = async || {
        let config = NatsConfig {
            urls: vec![server.url().replace("nats://", "nats://u:p@")],
            ..NatsConfig::default()
        };
        node(
            config,
            DurableConfig {
                replay_messages: 1,
                ..DurableConfig::default()
            },
        )
        .await
    };
    let node = first().await;
    let (mut feed, _held) = follow(&node, "a").await;
    let at = put(&node, "a", "0").await;
    for n in 1..40 {
        put(&node, "a", &n.to_string()).await;
    }
    assert_eq!(data(&mut feed, 40).await, numbers(0..40));
    node.probe().await.unwrap();
    // Read from the stream.
    assert_eq!(after(&first().await, &at, &["a"]).await, numbers(1..40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_limits_took_before_a_follower_read_it_is_told_live() {
    let Some(js) = Js::start().await else { return };
    let wire = Wire::to(js.server.port()).await;
    let durable = || DurableConfig {
        store: counting(10),
        ..DurableConfig::default()
    };
    let config = Stock::default().config(format!("nats://{}", wire.address));
    let cut = node(config, durable()).await;
    let other = node(Stock::default().config(js.server.url()), durable()).await;
    let (mut feed, _held) = follow(&cut, ">").await;
    let start = put(&other, "head", "head").await;
    feed.event().await;
    wire.cut();
    for n in 0..30 {
        put(&other, "busy", &n.to_string()).await;
    }
    wire.mend();
    let gap = feed.gap().await;
    assert_eq!(
        (gap.cause, gap.after),
        (GapCause::Evicted, Some(start.clone()))
    );
    // One more than the rule says is kept.
    assert_eq!(data(&mut feed, 11).await, numbers(19..30));
    // It is told to who comes back, too.
    let told = after(&cut, &start, &["busy"]).await;
    assert!(
        told[0].starts_with('[') && told[1..] == numbers(19..30),
        "{told:?}"
    );
    // The newest message that was handed on is gone as well: nothing vouches for what follows.
    wire.cut();
    for n in 30..60 {
        put(&other, "busy", &n.to_string()).await;
    }
    wire.mend();
    assert_eq!(feed.gap().await.cause, GapCause::Evicted);
    assert_eq!(data(&mut feed, 11).await, numbers(49..60));
}
