//! Durable and raw channels while servers take over from each other, slots move, and somebody asks
//! for the wrong server.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use bus::{
    Follower, PATIENCE, channel, connect,
    fleet::{Fleet, on_cluster, on_sentinel, tls},
    metrics, publish, quick,
};
use fanfare_core::{
    Broker, ErrorKind, Gap, GapCause, HistoryQuery, IdempotencyKey, Live, Position, Publication,
    Since,
};
use fanfare_redis::{RedisBroker, RedisConfig, RedisDurable, RedisTls};
use fanfare_testkit::{Certificates, RedisCluster, RedisSentinel, RedisServer, eventually, port};

/// How long servers may take until another one serves, on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const CHANNELS: usize = 12;

async fn durable(config: RedisConfig) -> RedisDurable {
    RedisDurable::connect(config, metrics()).await.unwrap()
}

/// Publishes until it is stored, and once: with a key, as a client of Fanfare would.
async fn insist(node: &RedisDurable, to: &str, data: &str) -> Position {
    let to = channel(to);
    eventually("the publication is stored", LONG, async || {
        let publication = Publication {
            key: Some(IdempotencyKey::parse(data).unwrap()),
            ..Publication::new(data)
        };
        match node.publish(&to, publication).await {
            Ok(published) => published.position,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                None
            }
        }
    })
    .await
}

fn name(index: usize) -> String {
    format!("load.c{}", index % CHANNELS)
}

/// What a follower was told of a load.
#[derive(Debug, Default)]
struct Account {
    /// How often each event came.
    times: BTreeMap<usize, usize>,
    gaps: Vec<Gap>,
}

impl Account {
    /// Takes what comes until every channel has told its end.
    async fn of(follower: &mut Follower) -> Self {
        let mut account = Self::default();
        let mut newest: BTreeMap<_, (u64, u128)> = BTreeMap::new();
        let mut ends = 0;
        while ends < CHANNELS {
            let next = tokio::time::timeout(LONG, follower.feed.next()).await;
            let event = match next.expect("something comes").expect("the feed is open") {
                Live::Gap(gap) => {
                    account.gaps.push(gap);
                    continue;
                }
                Live::Event(event) => event,
            };
            let place = (event.position.epoch.0, event.position.offset.0);
            let before = newest.insert(event.position.log.clone(), place);
            if let Some((epoch, offset)) = before {
                assert!(epoch != place.0 || offset < place.1, "order: {event:?}");
            }
            match event.data.as_str().parse() {
                Ok(number) => *account.times.entry(number).or_default() += 1,
                Err(_) => ends += 1,
            }
        }
        account
    }

    fn lost(&self, sent: usize) -> Vec<usize> {
        let came = |number: &usize| self.times.contains_key(number);
        (0..sent).filter(|number| !came(number)).collect()
    }

    /// Nothing came twice, and what did not come is covered by a gap.
    fn is_never_silent(&self, sent: usize) {
        let twice = self.times.iter().find(|(_, times)| **times > 1);
        assert_eq!(twice, None, "an event came twice");
        let lost = self.lost(sent);
        assert!(
            lost.is_empty() || !self.gaps.is_empty(),
            "silently lost: {lost:?}"
        );
    }

    fn is_whole(&self, sent: usize) {
        self.is_never_silent(sent);
        assert_eq!((self.lost(sent), &self.gaps[..]), (vec![], &[][..]));
    }
}

/// Publishes from one node while `faults` happen, and a bit longer. Answers how much.
async fn under_load(node: &RedisDurable, faults: impl Future<Output = ()>) -> usize {
    let over = std::cell::Cell::new(false);
    let publishing = async {
        let (mut sent, mut more) = (0, 100);
        while more > 0 {
            insist(node, &name(sent), &sent.to_string()).await;
            sent += 1;
            more -= usize::from(over.get());
        }
        for index in 0..CHANNELS {
            insist(node, &name(index), &format!("end-{index}")).await;
        }
        sent
    };
    let faults = async {
        faults.await;
        over.set(true);
    };
    tokio::join!(publishing, faults).0
}

/// The same by name and by pattern, on another node than the publisher's.
async fn followers(config: RedisConfig) -> (Follower, Follower) {
    let node = durable(config.clone()).await;
    let wild = Follower::wide(&node, &["load.*"]).await;
    let names: Vec<_> = (0..CHANNELS).map(name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    (wild, Follower::wide(&durable(config).await, &names).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_and_replicas_that_take_over_in_turn_lose_nothing() {
    // No node dies here: replicas take over because they are told to.
    let patient = ["--cluster-node-timeout", "5000"];
    let Some(cluster) = RedisCluster::start_with(1, &patient).await else {
        return;
    };
    let config = on_cluster(&cluster, "");
    let (mut wild, mut named) = followers(config.clone()).await;
    let publisher = durable(config).await;
    let key = "{fanfare:p0}:meta";
    let sent = under_load(&publisher, async {
        for _ in 0..3 {
            cluster.migrate(key).await;
            cluster.primary_of(key).await;
        }
        let primary = cluster.primary_of("{fanfare:p1}:meta").await;
        cluster.failover(primary, &[]).await;
        cluster.primary_of("{fanfare:p1}:meta").await;
    })
    .await;
    for follower in [&mut wild, &mut named] {
        Account::of(follower).await.is_whole(sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_a_cluster_that_dies_loses_nothing_silently() {
    let Some(mut cluster) = RedisCluster::start(1).await else {
        return;
    };
    let config = on_cluster(&cluster, "");
    let (mut wild, mut named) = followers(config.clone()).await;
    let publisher = durable(config).await;
    let sent = under_load(&publisher, async {
        let primary = cluster.primary_of("{fanfare:p2}:meta").await;
        let replica = cluster.replica_of(primary);
        cluster.node_mut(primary).kill();
        cluster.takes_over(replica).await;
        cluster.node_mut(primary).restart().await;
        cluster.is_whole().await;
    })
    .await;
    for follower in [&mut wild, &mut named] {
        Account::of(follower).await.is_never_silent(sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failovers_by_sentinels_lose_nothing_silently() {
    let Some(mut redis) = RedisSentinel::start(1).await else {
        return;
    };
    let config = on_sentinel(&redis, "");
    let (mut wild, mut named) = followers(config.clone()).await;
    let publisher = durable(config).await;
    let sent = under_load(&publisher, async {
        let new = redis.failover().await;
        let old = &redis.servers()[1 - new];
        // The old one still answers. Nobody stays with it.
        eventually("everybody has left the old primary", LONG, async || {
            let listening = old.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
            is_left(&listening).then_some(())
        })
        .await;
        eventually("the old primary follows", LONG, async || {
            let info = old.cli(&["INFO", "replication"]).await;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        let (died, _) = redis.kill_primary().await;
        redis.server_mut(died).restart().await;
    })
    .await;
    for follower in [&mut wild, &mut named] {
        Account::of(follower).await.is_never_silent(sent);
    }
}

/// Whether the sentinels alone listen on a server.
fn is_left(listening: &str) -> bool {
    let mut clients = listening.lines().filter(|line| line.contains("name="));
    clients.all(|client| client.contains("name=sentinel-"))
}

/// Clients are told when a replica takes over that lacks what they have seen, live and at resume.
async fn is_told(node: &RedisDurable, follower: &mut Follower, cursor: Position) {
    let told = tokio::time::timeout(LONG, follower.feed.next()).await;
    let Ok(Some(Live::Gap(gap))) = told else {
        panic!("no gap but {told:?}")
    };
    assert_eq!(gap.cause, GapCause::NewEpoch);
    insist(node, "a.b", "after").await;
    assert_eq!(follower.told().await, ("a.b".into(), "after".into()));
    let query = HistoryQuery {
        log: cursor.log.clone(),
        channels: vec!["a.b".parse().unwrap()],
        since: Since::After(cursor),
        limit: NonZeroUsize::new(100).unwrap(),
        max_bytes: 1 << 20,
    };
    let page = node.history(query).await.unwrap();
    assert!(
        matches!(&page.items[0], Live::Gap(gap) if gap.cause == GapCause::NewEpoch),
        "{page:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_the_tail_is_a_new_epoch_with_sentinels() {
    let Some(mut redis) = RedisSentinel::start(1).await else {
        return;
    };
    let node = durable(on_sentinel(&redis, "")).await;
    let mut follower = Follower::of(&node, &["a.*"]).await;
    publish(&node, "a.b", "both have it").await;
    assert_eq!(follower.told().await.1, "both have it");
    redis.servers()[0].cli(&["WAIT", "1", "5000"]).await;
    let port = redis.servers()[0].port();
    redis.server_mut(1).pause();
    redis.servers()[0]
        .cli(&["CLIENT", "KILL", "TYPE", "replica"])
        .await;
    let mut cursor = None;
    for data in ["lost 1", "lost 2", "lost 3"] {
        cursor = publish(&node, "a.b", data).await.position;
        assert_eq!(follower.told().await.1, data);
    }
    redis.server_mut(0).kill();
    redis.server_mut(1).resume();
    let new = redis.another_than(Some(0)).await;
    assert_ne!(redis.servers()[new].port(), port);
    is_told(&node, &mut follower, cursor.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_the_tail_is_a_new_epoch_in_a_cluster() {
    let Some(mut cluster) = RedisCluster::start(1).await else {
        return;
    };
    let config = RedisConfig {
        partitions: 1,
        ..on_cluster(&cluster, "")
    };
    let node = durable(config).await;
    let mut follower = Follower::of(&node, &["a.*"]).await;
    publish(&node, "a.b", "both have it").await;
    assert_eq!(follower.told().await.1, "both have it");
    let primary = cluster.primary_of("{fanfare:p0}:meta").await;
    let replica = cluster.replica_of(primary);
    cluster.nodes()[primary].cli(&["WAIT", "1", "5000"]).await;
    cluster.node_mut(replica).pause();
    cluster.nodes()[primary]
        .cli(&["CLIENT", "KILL", "TYPE", "replica"])
        .await;
    let mut cursor = None;
    for data in ["lost 1", "lost 2", "lost 3"] {
        cursor = publish(&node, "a.b", data).await.position;
        assert_eq!(follower.told().await.1, data);
    }
    cluster.node_mut(primary).kill();
    cluster.node_mut(replica).resume();
    cluster.takes_over(replica).await;
    is_told(&node, &mut follower, cursor.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_demoted_is_left_and_not_taken() {
    let Some(redis) = RedisSentinel::start(1).await else {
        return;
    };
    let config = on_sentinel(&redis, "");
    let node = connect(config.clone()).await;
    let mut follower = Follower::of(&node, &["x"]).await;
    let [old, other] = redis.servers() else {
        panic!("two servers");
    };
    // By hand: the sentinels go on naming it for a while.
    let port = other.port().to_string();
    other.cli(&["REPLICAOF", "NO", "ONE"]).await;
    old.cli(&["REPLICAOF", "127.0.0.1", &port]).await;
    let refused = RedisBroker::connect(config, metrics()).await;
    let refused = refused.expect_err("a replica is not taken");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    // Whoever was there leaves, which raw channels cannot bridge.
    eventually("everybody has left it", LONG, async || {
        let listening = old.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        is_left(&listening).then_some(())
    })
    .await;
    eventually("a primary is found again", LONG, async || {
        node.probe().await.ok()
    })
    .await;
    let told = tokio::time::timeout(LONG, follower.feed.next()).await;
    assert!(matches!(&told, Ok(Some(Live::Gap(_)))), "{told:?}");
}

/// The rights of the guide, with those for sentinels and clusters.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_in_a_cluster() {
    // Nobody dies here.
    let patient = ["--cluster-node-timeout", "15000"];
    let Some(cluster) = RedisCluster::start_with(0, &patient).await else {
        return;
    };
    let guide = include_str!("../../../docs/backends.md");
    let command = guide.split("```").find(|text| text.contains("ACL SETUSER"));
    let more = guide
        .split_once("Users of sentinels and clusters")
        .unwrap()
        .1;
    let more = more.split('\n').next().unwrap().split('`');
    let words: Vec<_> = command
        .unwrap()
        .split_whitespace()
        .skip_while(|word| *word != "ACL")
        .chain(more.skip(1).step_by(2).flat_map(str::split_whitespace))
        .collect();
    for node in cluster.nodes() {
        node.cli(&words).await;
    }
    let node = durable(on_cluster(&cluster, "fanfare:password@")).await;
    let mut follower = Follower::of(&node, &["a.*", "a.b"]).await;
    publish(&node, "a.b", "allowed").await;
    assert_eq!(follower.told().await.1, "allowed");
    follower.subscriptions.clear();
    node.probe().await.unwrap();
    // Several pings, each of which asks who serves.
    tokio::time::sleep(quick(String::new()).ping_interval * 2).await;
    node.probe().await.unwrap();
}

/// Readiness: red soon after a part of the bus dies, green soon after it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_a_primary_is_red_and_green_again_by_itself() {
    let Some(mut cluster) = RedisCluster::start(0).await else {
        return;
    };
    let node = durable(on_cluster(&cluster, "")).await;
    eventually("ready", LONG, async || node.probe().await.ok()).await;
    let primary = cluster.primary_of("{fanfare:p0}:meta").await;
    cluster.node_mut(primary).pause();
    let start = std::time::Instant::now();
    let error = eventually("red", LONG, async || node.probe().await.err()).await;
    assert!(error.is_transient(), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    cluster.node_mut(primary).resume();
    cluster.is_whole().await;
    eventually("green", LONG, async || node.probe().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_kind_of_server_is_refused_by_name() {
    let Some(cluster) = RedisCluster::start(0).await else {
        return;
    };
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let of_cluster = RedisConfig {
        cluster: vec![server.url()],
        ..RedisConfig::default()
    };
    let mut unknown = on_cluster(&cluster, "nobody:s3cret@");
    unknown.partitions = 1;
    for (config, named) in [
        (quick(cluster.urls()[0].clone()), "broker.redis.cluster"),
        (of_cluster, "broker.redis.url"),
        (unknown, "WRONGPASS"),
    ] {
        let error = RedisDurable::connect(config, metrics()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains(named) || named == "WRONGPASS" && text.contains("AuthenticationFailed"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_not_trusted_are_refused_by_name() {
    bus::install_provider();
    let (certificates, strange) = (Certificates::make(), Certificates::make());
    let port = port::free();
    let options = certificates.redis_options(port, true);
    let Some(_server) = RedisServer::start_with(&options).await else {
        return;
    };
    let with = |tls: RedisTls| RedisConfig {
        tls,
        ..quick(format!("rediss://127.0.0.1:{port}"))
    };
    durable(with(tls(&certificates)))
        .await
        .probe()
        .await
        .unwrap();
    let ours = RedisTls {
        ca_file: Some(certificates.ca()),
        ..RedisTls::default()
    };
    let stranger = RedisTls {
        ca_file: Some(certificates.ca()),
        ..tls(&strange)
    };
    for (bad, named) in [
        (tls(&strange), "broker.redis.tls.ca_file"),
        (ours, "broker.redis.tls.cert_file"),
        (stranger, "broker.redis.tls.cert_file"),
    ] {
        let error = RedisDurable::connect(with(bad), metrics())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_one_server_do_not_hear_each_other() {
    let Some(server) = RedisServer::start().await else {
        return;
    };
    let node = |database| durable(quick(format!("{}/{database}", server.url())));
    let (zero, two) = (node(0).await, node(2).await);
    let (mut of_zero, mut of_two) = (
        Follower::of(&zero, &[">"]).await,
        Follower::of(&two, &[">"]).await,
    );
    for (node, data) in [(&zero, "zero"), (&two, "two"), (&zero, "0"), (&two, "2")] {
        publish(node, "same.name", data).await;
    }
    for (follower, expected) in [(&mut of_zero, ["zero", "0"]), (&mut of_two, ["two", "2"])] {
        for data in expected {
            assert_eq!(follower.told().await, ("same.name".into(), data.into()));
        }
        assert_eq!(follower.feed.depth(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_channels_leave_nothing_behind_in_a_cluster() {
    const ALL: usize = 100_000;
    const AT_ONCE: usize = 2_000;
    let Some(fleet) = Fleet::cluster().await else {
        return;
    };
    let metrics = metrics();
    let config = RedisConfig {
        linger: Duration::ZERO,
        command_timeout: PATIENCE,
        ..fleet.config(None)
    };
    let node = RedisDurable::connect(config, metrics.clone())
        .await
        .unwrap();
    for first in (0..ALL).step_by(AT_ONCE) {
        let opening = (first..first + AT_ONCE).map(|number| {
            let node = node.clone();
            async move { Follower::of(&node, &[&format!("room.{number}")]).await }
        });
        let open = futures_util::future::join_all(opening).await;
        assert_eq!(open.len(), AT_ONCE);
    }
    eventually("nothing is followed", LONG, async || {
        (metrics.subscriptions.get() == 0).then_some(())
    })
    .await;
    for server in fleet.servers() {
        // The canaries of the partitions alone.
        let names = server.cli(&["PUBSUB", "SHARDCHANNELS"]).await;
        assert!(
            names.lines().all(|name| name.contains(":probe:")),
            "{names}"
        );
    }
    let shown = format!("{node:?}");
    assert!(
        shown.contains("topics: 0") && !shown.contains("room."),
        "{shown}"
    );
}
