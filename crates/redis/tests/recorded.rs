//! Raw channels that are recorded for all nodes: exact takeovers, and gaps where there can be none.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{num::NonZeroUsize, time::Duration};

use bus::{Door, Follower, PATIENCE, channel, patient, rule};
use fanfare_core::{
    Broker, ErrorKind, Event, EventType, GapCause, History, HistoryQuery, IdempotencyKey, Live,
    Position, Publication, Since,
};
use fanfare_redis::{Ingest, RecorderMetrics, RedisConfig, RedisRecorded, Retain};
use fanfare_testkit::{RedisServer, Reply, Resp, eventually, try_eventually};

/// Where a test waits for it to run out.
const SHORT: Duration = Duration::from_millis(1000);
/// Where it must not, on however busy a machine.
const LONG: Duration = Duration::from_secs(30);

fn shared(source: &str, channel: &str) -> Ingest {
    Ingest {
        retain: Retain::Shared,
        ..rule(source, channel)
    }
}

fn config(url: String) -> RedisConfig {
    RedisConfig {
        ingest: vec![shared("raw:*", "{1}")],
        recorder_lease: SHORT,
        ..patient(url)
    }
}

/// Where a third one must not take the place of somebody who is only late.
fn slow(config: &mut RedisConfig) {
    config.recorder_lease = SHORT * 4;
}

/// A node, and the door that it stands behind.
struct Node {
    broker: RedisRecorded,
    metrics: RecorderMetrics,
    door: Door,
}

impl Node {
    async fn start(server: &RedisServer) -> Self {
        Self::with(server, |_| {}).await
    }

    async fn with(server: &RedisServer, change: impl FnOnce(&mut RedisConfig)) -> Self {
        let door = Door::open(server.address()).await;
        let mut config = config(door.url());
        change(&mut config);
        let metrics = RecorderMetrics::unregistered();
        let broker = RedisRecorded::connect(config, bus::metrics(), metrics.clone());
        Self {
            broker: broker.await.unwrap(),
            metrics,
            door,
        }
    }

    async fn becomes_standby(&self) {
        eventually("the node is the standby", PATIENCE, async || {
            self.metrics.is_standby().then_some(())
        })
        .await;
    }

    async fn becomes_recorder(&self) {
        eventually("the node records", PATIENCE, async || {
            self.metrics.is_recorder().then_some(())
        })
        .await;
    }

    async fn page(&self, patterns: &[&str], since: Since) -> History {
        let log = self.broker.capabilities().logs.all()[0].clone();
        let query = HistoryQuery {
            log,
            channels: patterns.iter().map(|text| text.parse().unwrap()).collect(),
            since,
            limit: NonZeroUsize::new(100_000).unwrap(),
            max_bytes: 1 << 30,
        };
        self.broker.history(query).await.unwrap()
    }
}

/// A recorder and a standby.
async fn pair(server: &RedisServer) -> [Node; 2] {
    pair_with(server, |_| {}).await
}

async fn pair_with(server: &RedisServer, change: impl Fn(&mut RedisConfig)) -> [Node; 2] {
    let first = Node::with(server, &change).await;
    first.becomes_recorder().await;
    let second = Node::with(server, &change).await;
    second.becomes_standby().await;
    [first, second]
}

/// A recorder is replaced where it lets go, and not for being slow.
fn long(config: &mut RedisConfig) {
    config.recorder_lease = LONG;
}

/// A program that knows nothing of us.
struct Stranger {
    link: Resp,
    published: usize,
}

impl Stranger {
    async fn of(server: &RedisServer) -> Self {
        Self {
            link: server.resp().await,
            published: 0,
        }
    }

    async fn publish(&mut self, name: &str, data: &str) {
        let reply = self.link.command(&["PUBLISH", name, data]).await.unwrap();
        assert!(matches!(reply, Reply::Integer(_)), "{reply:?}");
        self.published += 1;
    }

    /// Numbers on two channels, among many equal messages on a third.
    async fn publish_many(&mut self, count: usize) {
        for _ in 0..count {
            let number = self.published.to_string();
            match self.published % 4 {
                0 => self.publish("raw:n.one", &number).await,
                1 => self.publish("raw:n.two", &number).await,
                _ => self.publish("raw:same", "x").await,
            }
        }
    }
}

/// What a follower of all that [`Stranger::publish_many`] published must get, from a number on.
fn expected(from: usize, to: usize) -> Vec<(String, String)> {
    let told = |number: usize| {
        let (channel, data) = match number % 4 {
            0 => ("n.one", number.to_string()),
            1 => ("n.two", number.to_string()),
            _ => ("same", "x".into()),
        };
        (channel.to_owned(), data)
    };
    (from..to).map(told).collect()
}

fn told(event: &Event) -> (String, String) {
    (event.channel.to_string(), event.data.as_str().to_owned())
}

/// Events and gaps, as short as can be.
fn all_told(items: &[Live]) -> Vec<(String, String)> {
    let short = |item: &Live| match item {
        Live::Event(event) => told(event),
        Live::Gap(gap) => (format!("gap {}", gap.scope), gap.cause.as_str().to_owned()),
    };
    items.iter().map(short).collect()
}

async fn gets_exactly(follower: &mut Follower, from: usize, to: usize) {
    for (at, expected) in expected(from, to).into_iter().enumerate() {
        assert_eq!(follower.told().await, expected, "at {}", from + at);
    }
}

/// Publishes until something comes, and reads all of it: by then the bus is whole.
async fn until_whole(stranger: &mut Stranger, follower: &mut Follower) -> Vec<Live> {
    let mut came = Vec::new();
    let is = |live: &Live, text: &str| matches!(live, Live::Event(event) if told(event) == ("again".into(), text.into()));
    try_eventually(PATIENCE, async || {
        stranger.publish("raw:again", "again").await;
        while let Ok(Some(live)) =
            tokio::time::timeout(Duration::from_millis(50), follower.feed.next()).await
        {
            came.push(live);
            if is(&came[came.len() - 1], "again") {
                return Some(());
            }
        }
        None
    })
    .await
    .unwrap();
    stranger.publish("raw:again", "end").await;
    while !is(&came[came.len() - 1], "end") {
        came.push(follower.next().await);
    }
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_recorded_while_nobody_follows_and_read_on_any_node() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let nodes = pair_with(&server, long).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    for node in &nodes {
        eventually("all is recorded", PATIENCE, async || {
            let page = node.page(&[">"], Since::Oldest).await;
            (page.items.len() >= 100).then_some(())
        })
        .await;
        let page = node.page(&[">"], Since::Oldest).await;
        assert_eq!(all_told(&page.items), expected(0, 100));
    }
    // A place of one node means the same on the other, live and later.
    let mut follower = Follower::of(&nodes[0].broker, &["n.*"]).await;
    stranger.publish("raw:n.one", "live").await;
    let event = follower.event().await;
    assert_eq!(told(&event), ("n.one".into(), "live".into()));
    stranger.publish("raw:n.two", "later").await;
    follower.event().await;
    let since = Since::After(event.position.clone());
    let page = nodes[1].page(&["n.*"], since).await;
    assert_eq!(all_told(&page.items), [("n.two".into(), "later".into())]);
    assert!(event.previous.is_some());
    for node in &nodes {
        node.broker.probe().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_dies_costs_nothing() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let [first, second] = pair_with(&server, slow).await;
    let third = Node::with(&server, slow).await;
    let mut follower = Follower::of(&third.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(200).await;
    first.door.shut();
    stranger.publish_many(200).await;
    second.becomes_recorder().await;
    stranger.publish_many(200).await;
    gets_exactly(&mut follower, 0, 600).await;
    assert_eq!((second.metrics.aligned(), second.metrics.holes()), (1, 0));
    // And again, with the next standby.
    third.becomes_standby().await;
    stranger.publish_many(100).await;
    second.door.shut();
    stranger.publish_many(100).await;
    third.becomes_recorder().await;
    gets_exactly(&mut follower, 600, 800).await;
    assert_eq!((third.metrics.aligned(), third.metrics.holes()), (1, 0));
    let page = third.page(&[">"], Since::Oldest).await;
    assert_eq!(all_told(&page.items), expected(0, 800));
}

/// What it sent and what it holds come after another one has taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_was_paused_writes_nothing_more() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let [first, second] = pair(&server).await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    let mut publishing = 0;
    for round in 0..3 {
        stranger.publish_many(100).await;
        let (old, new) = if round % 2 == 0 {
            (&first, &second)
        } else {
            (&second, &first)
        };
        old.door.stall();
        stranger.publish_many(100).await;
        new.becomes_recorder().await;
        stranger.publish_many(100).await;
        old.door.reopen();
        stranger.publish_many(100).await;
        old.becomes_standby().await;
        assert!(new.metrics.is_recorder());
        publishing += 400;
    }
    gets_exactly(&mut follower, 0, publishing).await;
    assert_eq!(first.metrics.holes() + second.metrics.holes(), 0);
    let page = second.page(&[">"], Since::Oldest).await;
    assert_eq!(all_told(&page.items), expected(0, publishing));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_dies_is_replaced() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let [first, second] = pair_with(&server, slow).await;
    let third = Node::with(&server, slow).await;
    let mut follower = Follower::of(&third.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    second.door.shut();
    stranger.publish_many(100).await;
    third.becomes_standby().await;
    assert!(first.metrics.is_recorder());
    first.broker.close().await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 300).await;
    assert_eq!((third.metrics.aligned(), third.metrics.holes()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_die_every_follower_is_told_once_and_in_place() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let [first, second] = pair(&server).await;
    let third = Node::start(&server).await;
    let mut follower = Follower::of(&third.broker, &["n.*", "same"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 100).await;
    let before = third.page(&[">"], Since::Now).await.upto;
    first.door.shut();
    second.door.shut();
    stranger.publish_many(100).await;
    third.becomes_recorder().await;
    let from = stranger.published;
    stranger.publish_many(100).await;
    let gap = follower.gap(GapCause::Reconnected).await;
    gets_exactly(&mut follower, from, from + 100).await;
    assert_eq!(third.metrics.holes(), 1);
    // Who comes back later, with a cursor from before, is told the same; on another node too.
    let fourth = Node::start(&server).await;
    for node in [&third, &fourth] {
        let page = node.page(&["n.one"], Since::After(before.clone())).await;
        let Live::Gap(again) = &page.items[0] else {
            panic!("{:?}", page.items[0]);
        };
        assert_eq!((again.cause, &again.next), (gap.cause, &gap.next));
        assert_eq!(page.items.len(), 1 + 25, "{:?}", all_told(&page.items));
        let since: Position = gap.next.clone();
        let page = node.page(&["n.one"], Since::After(since)).await;
        assert_eq!(page.items.len(), 25, "{:?}", all_told(&page.items));
        let page = node.page(&["n.one"], Since::Oldest).await;
        let gaps = page
            .items
            .iter()
            .filter(|item| matches!(item, Live::Gap(_)));
        assert_eq!(gaps.count(), 1, "{:?}", all_told(&page.items));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_the_recorders_links_alone_costs_nothing() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    for user in ["one", "two"] {
        let rights = ["ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all"];
        server.cli(&rights).await;
    }
    let node = |user: &'static str| {
        let address = server.address();
        Node::with(&server, move |config| {
            config.url = format!("redis://{user}:pw@{address}");
            long(config);
        })
    };
    let first = node("one").await;
    first.becomes_recorder().await;
    let second = node("two").await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    let mut roles = [(&first, "one"), (&second, "two")];
    for _ in 0..6 {
        let [(recorder, user), (standby, _)] = roles;
        standby.becomes_standby().await;
        assert!(recorder.metrics.is_recorder());
        stranger.publish_many(50).await;
        server
            .cli(&["CLIENT", "KILL", "TYPE", "pubsub", "USER", user])
            .await;
        stranger.publish_many(50).await;
        standby.becomes_recorder().await;
        roles.swap(0, 1);
    }
    gets_exactly(&mut follower, 0, stranger.published).await;
    assert_eq!(first.metrics.holes() + second.metrics.holes(), 0);
    assert_eq!(first.metrics.aligned() + second.metrics.aligned(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_both_is_a_gap_and_nothing_comes_twice() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let nodes = pair_with(&server, long).await;
    let mut follower = Follower::of(&nodes[1].broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    for round in 1..=3 {
        let from = stranger.published;
        stranger.publish_many(100).await;
        gets_exactly(&mut follower, from, from + 100).await;
        server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        let came = until_whole(&mut stranger, &mut follower).await;
        let gaps = came.iter().filter(|live| matches!(live, Live::Gap(_)));
        assert_eq!(gaps.count(), 1, "{:?}", all_told(&came));
        assert!(matches!(came[0], Live::Gap(_)), "{:?}", all_told(&came));
        let holes: u64 = nodes.iter().map(|node| node.metrics.holes()).sum();
        assert_eq!(holes, round);
        while stranger.published % 4 != 0 {
            stranger.publish("raw:other", "").await;
            follower.event().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_its_data_is_a_gap_and_then_exact() {
    let Some(mut server) = RedisServer::start_with(&["--appendonly", "yes"]).await else {
        return;
    };
    let nodes = pair_with(&server, long).await;
    let mut follower = Follower::of(&nodes[1].broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 100).await;
    let before = nodes[0].page(&[">"], Since::Now).await.upto;
    server.restart().await;
    stranger.link = server.resp().await;
    let came = until_whole(&mut stranger, &mut follower).await;
    let gaps = came.iter().filter(|live| matches!(live, Live::Gap(_)));
    assert_eq!(gaps.count(), 1, "{:?}", all_told(&came));
    let page = nodes[0].page(&[">"], Since::After(before)).await;
    assert_eq!(all_told(&page.items), all_told(&came));
    let page = nodes[0].page(&["n.*", "same"], Since::Oldest).await;
    let events: Vec<_> = page
        .items
        .iter()
        .filter(|item| matches!(item, Live::Event(_)))
        .cloned()
        .collect();
    assert_eq!(all_told(&events), expected(0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_costs_nothing() {
    let Some(mut server) = RedisServer::start().await else {
        return;
    };
    let first = Node::with(&server, |config| {
        config.command_timeout = Duration::from_millis(500);
    })
    .await;
    first.becomes_recorder().await;
    let second = Node::start(&server).await;
    second.becomes_standby().await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    server.pause();
    tokio::time::sleep(SHORT * 4).await;
    server.resume();
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 200).await;
    assert_eq!(first.metrics.holes() + second.metrics.holes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rules_are_a_gap() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let first = Node::start(&server).await;
    first.becomes_recorder().await;
    let second = Node::with(&server, |config| {
        config.ingest = vec![shared("raw:n.*", "n.{1}")];
    })
    .await;
    second.becomes_standby().await;
    let mut follower = Follower::of(&second.broker, &["n.*"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    for number in (0..100).filter(|number| number % 4 < 2) {
        assert_eq!(follower.told().await.1, number.to_string());
    }
    first.door.shut();
    second.becomes_recorder().await;
    assert_eq!((second.metrics.aligned(), second.metrics.holes()), (0, 1));
    stranger.publish_many(100).await;
    follower.gap(GapCause::Reconnected).await;
    for number in (100..200).filter(|number| number % 4 < 2) {
        assert_eq!(follower.told().await.1, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_globs_select_is_recorded_once() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let overlapping = |config: &mut RedisConfig| {
        config.ingest = vec![
            shared("raw:n.*", "n.{1}"),
            shared("raw:*", "{1}"),
            shared("*:n.one", "{name}"),
            shared("raw:same", "same"),
        ];
    };
    let first = Node::with(&server, overlapping).await;
    first.becomes_recorder().await;
    let second = Node::with(&server, overlapping).await;
    second.becomes_standby().await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    first.door.shut();
    stranger.publish_many(100).await;
    second.becomes_recorder().await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 300).await;
    assert_eq!((second.metrics.aligned(), second.metrics.holes()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_is_a_gap_in_its_place_everywhere() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let small = |config: &mut RedisConfig| {
        config.max_data_bytes = 8;
        long(config);
    };
    let first = Node::with(&server, small).await;
    let second = Node::with(&server, small).await;
    let mut follower = Follower::of(&second.broker, &["a"]).await;
    let mut link = server.resp().await;
    for data in [&b"one"[..], b"\xff", b"two", b"123456789", b"three"] {
        link.command(&[b"PUBLISH", &b"raw:a"[..], data])
            .await
            .unwrap();
    }
    let mut live = Vec::new();
    for _ in 0..5 {
        live.push(follower.next().await);
    }
    let gap = ("gap a", "undeliverable");
    let expected = [("a", "one"), gap, ("a", "two"), gap, ("a", "three")];
    let expected = expected.map(|(scope, text)| (scope.to_owned(), text.to_owned()));
    assert_eq!(all_told(&live), expected);
    let page = first.page(&["a"], Since::Oldest).await;
    assert_eq!(all_told(&page.items), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_publications_go_the_same_way() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let [first, second] = pair_with(&server, long).await;
    let mut stranger = server.resp().await;
    stranger.command(&["SUBSCRIBE", "raw:a"]).await.unwrap();
    let mut follower = Follower::of(&second.broker, &["a"]).await;
    let publication = || Publication {
        key: Some(IdempotencyKey::parse("k").unwrap()),
        ..Publication::new("hello")
    };
    for (broker, duplicate) in [(&first.broker, false), (&second.broker, true)] {
        let published = broker.publish(&channel("a"), publication()).await.unwrap();
        assert_eq!((published.position, published.duplicate), (None, duplicate));
    }
    first
        .broker
        .publish(&channel("a"), Publication::new("next"))
        .await
        .unwrap();
    assert_eq!(follower.told().await.1, "hello");
    assert_eq!(follower.told().await.1, "next");
    let bulk = |text: &str| Reply::Bulk(text.into());
    let heard = stranger.next().await.unwrap();
    assert_eq!(
        heard,
        Reply::Array(["message", "raw:a", "hello"].map(bulk).into())
    );
    let typed = Publication {
        event_type: Some(EventType::parse("t").unwrap()),
        ..Publication::new("x")
    };
    let refused = first
        .broker
        .publish(&channel("a"), typed)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let capabilities = first.broker.capabilities();
    assert!(capabilities.shared && capabilities.history && !capabilities.positions);
}

/// Letting go is told to the standby, which does not wait for a lease to run out.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_closes_hands_over_at_once() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let [first, second] = pair_with(&server, long).await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    first.broker.close().await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 200).await;
    assert_eq!((second.metrics.aligned(), second.metrics.holes()), (1, 0));
}

/// Redis takes no writes for a while: what the buffer does not hold becomes a gap.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let small = |config: &mut RedisConfig| {
        config.recorder_buffer = 20_000;
        *config = RedisConfig {
            command_timeout: Duration::from_secs(2),
            ..config.clone()
        };
    };
    let first = Node::with(&server, small).await;
    let second = Node::with(&server, small).await;
    second.becomes_standby().await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 100).await;
    // PUBLISH goes through where writes are refused.
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).await;
    stranger.publish_many(400).await;
    assert!(first.metrics.buffer_bytes.get() <= 20_000);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let came = until_whole(&mut stranger, &mut follower).await;
    let gaps: Vec<_> = came
        .iter()
        .filter(|live| matches!(live, Live::Gap(_)))
        .collect();
    assert!(!gaps.is_empty(), "{:?}", all_told(&came));
    assert!(
        matches!(came[0], Live::Gap(_)),
        "{:?}",
        all_told(&came[..1])
    );
}

/// Redis takes no writes for a while that the buffer holds: nobody misses anything.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_refused_for_a_while_are_made_up_for() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let nodes = pair_with(&server, long).await;
    let mut follower = Follower::of(&nodes[1].broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(100).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).await;
    stranger.publish_many(300).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
    stranger.publish_many(100).await;
    gets_exactly(&mut follower, 0, 500).await;
}

/// Faults at random, one listener whole at any time: every message once and in order, no gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_takeovers_loses_and_doubles_nothing() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = [
        Node::start(&server).await,
        Node::start(&server).await,
        Node::start(&server).await,
    ];
    let mut follower = Follower::wide(&nodes[0].broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    let mut takeovers = 0;
    while takeovers < 8 {
        let standby = eventually("there is a standby", PATIENCE, async || {
            nodes.iter().position(|node| node.metrics.is_standby())
        })
        .await;
        let recorder = nodes.iter().position(|node| node.metrics.is_recorder());
        let Some(recorder) = recorder.filter(|recorder| *recorder != standby) else {
            continue;
        };
        stranger.publish_many(rng.usize(0..60)).await;
        let stalls = rng.bool();
        if stalls {
            nodes[recorder].door.stall();
        } else {
            nodes[recorder].door.shut();
        }
        stranger.publish_many(rng.usize(0..60)).await;
        // On a busy machine a standby may lose its place to the third.
        eventually("another node records", PATIENCE, async || {
            let mut others = nodes.iter().enumerate().filter(|(at, _)| *at != recorder);
            others
                .any(|(_, node)| node.metrics.is_recorder())
                .then_some(())
        })
        .await;
        stranger.publish_many(rng.usize(0..60)).await;
        nodes[recorder].door.reopen();
        takeovers += 1;
    }
    gets_exactly(&mut follower, 0, stranger.published).await;
    let holes: u64 = nodes.iter().map(|node| node.metrics.holes()).sum();
    assert_eq!(holes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_records_without_the_rights_to() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let rights = [
        "ACL",
        "SETUSER",
        "poor",
        "on",
        ">pw",
        "~*",
        "&{fanfare:h0}:*",
        "&fanfare:probe:*",
        "+@all",
    ];
    server.cli(&rights).await;
    let config = RedisConfig {
        url: format!("redis://poor:pw@{}", server.address()),
        command_timeout: Duration::from_secs(2),
        ..config(String::new())
    };
    let metrics = RecorderMetrics::unregistered();
    let refused = RedisRecorded::connect(config, bus::metrics(), metrics)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    assert!(refused.to_string().contains("NoPerm"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_the_guide_are_enough() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let guide = include_str!("../../../docs/backends.md");
    for begin in guide
        .match_indices("ACL SETUSER fanfare ")
        .map(|(begin, _)| begin)
        // The third is of streams alone.
        .take(2)
    {
        let command = &guide[begin..begin + guide[begin..].find("```").unwrap()];
        let words: Vec<_> = command.split_whitespace().collect();
        server.cli(&words).await;
    }
    let address = server.address();
    let limited = |config: &mut RedisConfig| {
        config.url = format!("redis://fanfare:password@{address}");
        long(config);
    };
    let first = Node::with(&server, limited).await;
    first.becomes_recorder().await;
    let second = Node::with(&server, limited).await;
    second.becomes_standby().await;
    let mut follower = Follower::of(&second.broker, &[">"]).await;
    let mut stranger = Stranger::of(&server).await;
    stranger.publish_many(40).await;
    let keyed = Publication {
        key: Some(IdempotencyKey::parse("k").unwrap()),
        ..Publication::new("40")
    };
    let own = channel("n.one");
    first.broker.publish(&own, keyed).await.unwrap();
    stranger.published += 1;
    first.broker.close().await;
    stranger.publish_many(40).await;
    gets_exactly(&mut follower, 0, 81).await;
    assert_eq!((second.metrics.aligned(), second.metrics.holes()), (1, 0));
    second.broker.probe().await.unwrap();
}
