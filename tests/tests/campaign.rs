//! The fault campaigns: every event once and in order at every client, or a gap that covers it,
//! whatever falls on the bus, the links, the nodes and the load balancer meanwhile.
//!
//! `CONTRIBUTING.md` says how to run one with a seed, and how to read its line. Those that take
//! long are ignored: `cargo test --release -p fanfare-system-tests --test campaign -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "campaign/servers.rs"]
mod servers;

use std::time::Duration;

use fanfare_system_tests::campaign::{Bus, Campaign, Fault, Plan, Rig, Rules, Verdict, Way};
use fanfare_testkit::{NatsCluster, NatsRelease, NatsServer, RedisServer, eventually};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;
const MILLIS: fn(u64) -> Duration = Duration::from_millis;
const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
const AOF_EVERYSEC: &[&str] = &["--appendonly", "yes", "--appendfsync", "everysec"];
/// How many seeds a long campaign runs.
const SEEDS: u64 = 5;

/// What a bus that keeps events promises: one log, the same ids everywhere.
const DURABLE: Rules = Rules {
    ids_are_shared: true,
    may_begin_anew: false,
    log_of: |_| 0,
};
/// The newest of what was acknowledged may be lost, and is told.
const LOSSY: Rules = Rules {
    may_begin_anew: true,
    ..DURABLE
};
/// What each node places for itself.
const PER_NODE: Rules = Rules {
    ids_are_shared: false,
    may_begin_anew: false,
    log_of: |_| 0,
};

/// What other services publish, kept by each node.
const RAW_NODE: &str = r#"
    [[broker.redis.ingest]]
    from = "pubsub"
    source = "raw:*"
    channel = "raw.{1}"
    retain = "node"
"#;

/// Three nodes on a Redis with options; `None`, and a visible line, where a program is missing.
async fn on_redis(options: &[&str], config: &str) -> Option<Rig> {
    on_redis_skewed(options, config, &[]).await
}

async fn on_redis_skewed(options: &[&str], config: &str, skew: &[i64]) -> Option<Rig> {
    let redis = RedisServer::start_with(options).await?;
    let plan = Plan {
        nodes: 3,
        config,
        skew,
    };
    Rig::start(Bus::Redis(redis), plan).await
}

/// The same, recorded for all nodes by one of them.
const RAW_SHARED: &str = r#"
    recorder_lease = "1s"
    [[broker.redis.ingest]]
    from = "pubsub"
    source = "raw:*"
    channel = "raw.{1}"
    retain = "shared"
"#;

fn campaign(name: &'static str, seed: u64, rules: Rules) -> Campaign {
    Campaign {
        name,
        seed: Campaign::seed(seed),
        clients: 100,
        channels: 50,
        prefix: "o",
        events: 6_000,
        ways: Vec::new(),
        faults: Vec::new(),
        rules,
    }
}

/// As many clients and events as a small site has at a busy moment.
fn of_full_size(campaign: Campaign) -> Campaign {
    Campaign {
        clients: 300,
        events: 20_000,
        ..campaign
    }
}

fn over_http(rig: &Rig) -> Vec<Way> {
    vec![Way::Keyed(rig.address()), Way::Http(rig.address())]
}

/// Every kind that falls on a standalone Redis, its links, nodes and the load balancer.
fn every_fault() -> Vec<(Fault, usize)> {
    vec![
        (Fault::KillPubsub, 20),
        (Fault::KillNormal, 10),
        (Fault::OutputBuffer, 6),
        (Fault::CutLinks, 12),
        (Fault::TearLinks, 12),
        (Fault::OrphanLinks, 3),
        (Fault::Blackhole(MILLIS(500)), 4),
        (Fault::Blackhole(SECONDS(3)), 1),
        (Fault::Delay(MILLIS(50)), 4),
        (Fault::RestartBus, 4),
        (Fault::PauseBus(SECONDS(3)), 1),
        (Fault::KillNode, 5),
        (Fault::PauseNode(SECONDS(2)), 2),
        (Fault::ReloadBalancer, 3),
    ]
}

/// More of each, and what takes long.
fn every_fault_for_long() -> Vec<(Fault, usize)> {
    let mut faults = every_fault();
    faults.iter_mut().for_each(|(_, times)| *times *= 2);
    faults.push((Fault::PauseBus(SECONDS(30)), 1));
    faults.push((Fault::Blackhole(SECONDS(20)), 1));
    faults
}

#[track_caller]
fn is_true(verdict: &Verdict) {
    assert!(
        verdict.is_true(),
        "{verdict}\n{}",
        verdict.findings.join("\n")
    );
}

/// Nothing was lost, so nothing may be told as lost.
#[track_caller]
fn is_whole(verdict: &Verdict) {
    is_true(verdict);
    assert_eq!(verdict.gaps, 0, "{verdict} {:?}", verdict.causes);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_durable_without_faults() {
    let Some(mut rig) = on_redis(&[], "").await else {
        return;
    };
    let campaign = Campaign {
        ways: over_http(&rig),
        ..campaign("redis durable, http, no faults", 1, DURABLE)
    };
    let verdict = of_full_size(campaign).run(&mut rig).await;
    is_whole(&verdict);
    assert!(verdict.breaks > 300, "{verdict}");
}

/// Redis keeps its events over all of this, so that everything heals without a gap.
#[tokio::test(flavor = "multi_thread")]
async fn redis_durable_under_faults() {
    let Some(mut rig) = on_redis(AOF, "").await else {
        return;
    };
    let campaign = Campaign {
        events: 15_000,
        ways: over_http(&rig),
        faults: every_fault(),
        ..campaign("redis durable, http, faults", 2, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// What a clock says places no event.
#[tokio::test(flavor = "multi_thread")]
async fn redis_durable_with_skewed_clocks() {
    let Some(mut rig) = on_redis_skewed(AOF_EVERYSEC, "", &[-5, 0, 5]).await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 5_000,
        ways: over_http(&rig),
        faults: vec![
            (Fault::KillPubsub, 5),
            (Fault::CutLinks, 5),
            (Fault::KillNode, 2),
        ],
        ..campaign("redis durable, http, clocks skewed", 3, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Links that lose announcements and nothing else: each event names the one before it of its
/// channel, so the next one shows the hole, which is healed before it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn redis_durable_with_announcements_lost() {
    let Some(mut rig) = on_redis(&[], "").await else {
        return;
    };
    let campaign = Campaign {
        clients: 30,
        channels: 1,
        events: 1_500,
        ways: over_http(&rig),
        faults: vec![(Fault::LoseMessages(1), 20), (Fault::LoseMessages(5), 10)],
        ..campaign("redis durable, http, announcements lost", 6, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// A store that begins again: told to everyone whom it concerns, whatever they had.
#[tokio::test(flavor = "multi_thread")]
async fn redis_durable_that_loses_its_data() {
    let Some(mut rig) = on_redis(&[], "").await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 5_000,
        ways: over_http(&rig),
        faults: vec![
            (Fault::FlushBus, 4),
            (Fault::RestartBus, 3),
            (Fault::KillPubsub, 3),
            (Fault::KillNode, 1),
        ],
        ..campaign("redis durable, http, data lost", 4, LOSSY)
    };
    let verdict = campaign.run(&mut rig).await;
    is_true(&verdict);
    assert!(verdict.gaps > 0, "{verdict}");
}

/// Gaps at every cut and every move: pub/sub keeps nothing, and each node keeps for itself.
#[tokio::test(flavor = "multi_thread")]
async fn redis_publish_kept_by_each_node_under_faults() {
    let Some(mut rig) = on_redis(&[], RAW_NODE).await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 5_000,
        prefix: "raw",
        ways: vec![Way::Publish(rig.bus())],
        faults: vec![
            (Fault::KillPubsub, 8),
            (Fault::OutputBuffer, 2),
            (Fault::CutLinks, 6),
            (Fault::TearLinks, 6),
            (Fault::OrphanLinks, 1),
            (Fault::RestartBus, 2),
            (Fault::PauseBus(SECONDS(3)), 1),
            (Fault::KillNode, 2),
            (Fault::PauseNode(SECONDS(2)), 1),
            (Fault::ReloadBalancer, 1),
        ],
        ..campaign("redis PUBLISH, retain node, faults", 5, PER_NODE)
    };
    is_true(&campaign.run(&mut rig).await);
}

fn recorded(name: &'static str, seed: u64, rig: &Rig) -> Campaign {
    Campaign {
        prefix: "raw",
        ways: vec![Way::Publish(rig.bus())],
        ..campaign(name, seed, DURABLE)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_publish_recorded_for_all_without_faults() {
    let Some(mut rig) = on_redis(&[], RAW_SHARED).await else {
        return;
    };
    rig.roles().await;
    let campaign = recorded("redis PUBLISH, retain shared, no faults", 7, &rig);
    is_whole(&campaign.run(&mut rig).await);
}

/// While recorder and standby are not gone together, everybody gets everything.
#[tokio::test(flavor = "multi_thread")]
async fn redis_publish_recorded_for_all_with_one_of_two_alive() {
    let Some(mut rig) = on_redis_skewed(&[], RAW_SHARED, &[-5, 0, 5]).await else {
        return;
    };
    rig.roles().await;
    let campaign = Campaign {
        clients: 60,
        events: 8_000,
        faults: vec![
            (Fault::KillRecorder, 6),
            (Fault::KillStandby, 3),
            (Fault::CutRecorder, 6),
            (Fault::BlackholeRecorder(SECONDS(3)), 2),
            (Fault::PauseRecorder(SECONDS(3)), 2),
            (Fault::ReloadBalancer, 1),
        ],
        ..recorded("redis PUBLISH, retain shared, one of two alive", 8, &rig)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Recorder and standby are cut off together: nobody heard what came meanwhile, and all are told.
#[tokio::test(flavor = "multi_thread")]
async fn redis_publish_recorded_for_all_under_faults() {
    let Some(mut rig) = on_redis(AOF, RAW_SHARED).await else {
        return;
    };
    rig.roles().await;
    let campaign = Campaign {
        clients: 60,
        events: 8_000,
        faults: vec![
            (Fault::KillBoth, 3),
            (Fault::KillPubsub, 8),
            (Fault::KillNormal, 3),
            (Fault::OutputBuffer, 2),
            (Fault::CutLinks, 4),
            (Fault::TearLinks, 4),
            (Fault::OrphanLinks, 1),
            (Fault::RestartBus, 3),
            (Fault::PauseBus(SECONDS(3)), 1),
            (Fault::KillRecorder, 2),
            (Fault::PauseRecorder(SECONDS(3)), 1),
        ],
        ..recorded("redis PUBLISH, retain shared, faults", 9, &rig)
    };
    let verdict = campaign.run(&mut rig).await;
    is_true(&verdict);
    assert!(verdict.gaps > 0, "{verdict}");
}

/// Streams that other services write: each is a log of its own.
const XADD: &str = r#"
    [[broker.redis.ingest]]
    from = "stream"
    source = "log:*"
    channel = "log.{1}"
    data = "payload"
"#;

fn added(name: &'static str, seed: u64, rig: &Rig) -> Campaign {
    let own_log = Rules {
        log_of: |channel| channel,
        ..DURABLE
    };
    Campaign {
        prefix: "log",
        ways: vec![Way::Xadd(rig.bus())],
        ..campaign(name, seed, own_log)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_xadd_without_faults() {
    let Some(mut rig) = on_redis(&[], XADD).await else {
        return;
    };
    let campaign = added("redis XADD, no faults", 10, &rig);
    let verdict = of_full_size(campaign).run(&mut rig).await;
    is_whole(&verdict);
    assert!(verdict.breaks > 300, "{verdict}");
}

/// The streams are there whatever happens to links and nodes.
#[tokio::test(flavor = "multi_thread")]
async fn redis_xadd_under_faults() {
    let Some(mut rig) = on_redis_skewed(AOF, XADD, &[5, -5, 0]).await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 6_000,
        faults: vec![
            (Fault::KillNormal, 8),
            (Fault::KillPubsub, 2),
            (Fault::CutLinks, 6),
            (Fault::TearLinks, 6),
            (Fault::OrphanLinks, 1),
            (Fault::RestartBus, 2),
            (Fault::PauseBus(SECONDS(3)), 1),
            (Fault::KillNode, 2),
        ],
        ..added("redis XADD, faults", 11, &rig)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Streams that are lost, one or all of them: told to everyone whom it concerns.
#[tokio::test(flavor = "multi_thread")]
async fn redis_xadd_that_loses_its_data() {
    let Some(mut rig) = on_redis(&[], XADD).await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 6_000,
        faults: vec![
            (Fault::DropStream, 20),
            (Fault::FlushBus, 4),
            (Fault::RestartBus, 3),
            (Fault::CutLinks, 3),
            (Fault::Blackhole(MILLIS(500)), 2),
            (Fault::KillNode, 1),
        ],
        ..added("redis XADD, data lost", 17, &rig)
    };
    let verdict = campaign.run(&mut rig).await;
    is_true(&verdict);
    assert!(verdict.gaps > 0, "{verdict}");
}

/// The stream of another service, and Fanfare's own.
const JETSTREAM: &str = r#"
    [[broker.nats.ingest]]
    from = "jetstream"
    stream = "ORDERS"
    source = "orders.>"
    channel = "{name}"
"#;

async fn make_orders(nats: &NatsServer, replicas: u8) {
    let stream = format!(
        r#"{{"name":"ORDERS","subjects":["orders.>"],"storage":"file","num_replicas":{replicas}}}"#
    );
    // A cluster may have no leader yet for what it is asked.
    eventually("the stream is made", SECONDS(60), async || {
        let mut client = nats.client().await;
        let made = client
            .request("$JS.API.STREAM.CREATE.ORDERS", &stream)
            .await;
        let made = String::from_utf8(made.ok()?).ok()?;
        made.contains("\"created\"").then_some(())
    })
    .await;
}

/// Three nodes on one nats-server; `None`, and a visible line, where a program is missing.
async fn on_nats(config: &str) -> Option<Rig> {
    let nats = NatsServer::start_jetstream().await?;
    make_orders(&nats, 1).await;
    let plan = Plan {
        nodes: 3,
        config,
        skew: &[-5, 0, 5],
    };
    Rig::start(Bus::Nats(nats), plan).await
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_over_http_without_faults() {
    let Some(mut rig) = on_nats("").await else {
        return;
    };
    let campaign = Campaign {
        ways: over_http(&rig),
        ..campaign("jetstream, http, no faults", 12, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_captured_by_jetstream_without_faults() {
    let Some(mut rig) = on_nats(JETSTREAM).await else {
        return;
    };
    let campaign = Campaign {
        prefix: "orders",
        ways: vec![Way::CoreNats(rig.bus())],
        ..campaign("core nats captured by jetstream, no faults", 13, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_publishers_without_faults() {
    let Some(mut rig) = on_nats(JETSTREAM).await else {
        return;
    };
    let campaign = Campaign {
        prefix: "orders",
        ways: vec![Way::JetStream(vec![rig.bus()])],
        ..campaign("jetstream publishers, no faults", 14, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// What falls on links and nodes, and not on the server, costs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn jetstream_under_faults_of_links_and_nodes() {
    let Some(mut rig) = on_nats(JETSTREAM).await else {
        return;
    };
    let faults = vec![
        (Fault::CutLinks, 8),
        (Fault::TearLinks, 6),
        (Fault::OrphanLinks, 1),
        (Fault::Blackhole(MILLIS(500)), 2),
        (Fault::Blackhole(SECONDS(3)), 1),
        (Fault::Delay(MILLIS(50)), 2),
        (Fault::PauseBus(SECONDS(3)), 1),
        (Fault::KillNode, 3),
        (Fault::PauseNode(SECONDS(2)), 1),
        (Fault::ReloadBalancer, 1),
    ];
    let campaign = Campaign {
        clients: 60,
        events: 6_000,
        prefix: "orders",
        ways: vec![Way::CoreNats(rig.bus()), Way::JetStream(vec![rig.bus()])],
        faults,
        ..campaign("jetstream, core and acknowledged, faults", 15, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// A server that is killed keeps what it acknowledged: only the machine's end loses more.
#[tokio::test(flavor = "multi_thread")]
async fn jetstream_under_kills_of_its_only_server() {
    let Some(mut rig) = on_nats(JETSTREAM).await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 5_000,
        prefix: "orders",
        ways: vec![Way::JetStream(vec![rig.bus()])],
        faults: vec![
            (Fault::RestartBus, 6),
            (Fault::PauseBus(SECONDS(3)), 1),
            (Fault::CutLinks, 4),
            (Fault::KillNode, 2),
        ],
        ..campaign("jetstream, its only server killed", 17, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Three servers, streams of three replicas: what one of them loses, two have.
#[tokio::test(flavor = "multi_thread")]
async fn jetstream_of_three_under_faults() {
    let Some(cluster) = NatsCluster::start(NatsRelease::Current).await else {
        return;
    };
    make_orders(&cluster.servers()[0], 3).await;
    let publish_to = cluster.servers().iter().map(NatsServer::address).collect();
    let plan = Plan {
        nodes: 3,
        config: &format!("replicas = 3\n{JETSTREAM}"),
        skew: &[],
    };
    let Some(mut rig) = Rig::start(Bus::NatsCluster(cluster, "ORDERS"), plan).await else {
        return;
    };
    let campaign = Campaign {
        clients: 60,
        events: 5_000,
        prefix: "orders",
        ways: vec![Way::JetStream(publish_to)],
        faults: vec![
            (Fault::Failover, 6),
            (Fault::KillPrimary, 3),
            (Fault::RestartBus, 3),
            (Fault::LameDuck, 1),
            (Fault::PauseBus(SECONDS(3)), 2),
            (Fault::KillNode, 2),
        ],
        ..campaign("jetstream R3, faults", 16, DURABLE)
    };
    is_whole(&campaign.run(&mut rig).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes about ten minutes"]
async fn long_redis_durable_under_faults() {
    for seed in 100..100 + SEEDS {
        let Some(mut rig) = on_redis(AOF, "").await else {
            return;
        };
        let campaign = Campaign {
            ways: over_http(&rig),
            faults: every_fault_for_long(),
            ..campaign("long, redis durable, http, faults", seed, DURABLE)
        };
        is_whole(&of_full_size(campaign).run(&mut rig).await);
    }
}

/// Every way in, without a fault, at full size: no gap anywhere.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes about five minutes"]
async fn long_every_way_without_faults() {
    if let Some(mut rig) = on_redis(&[], RAW_SHARED).await {
        rig.roles().await;
        let recorded = recorded("long, redis PUBLISH, retain shared, no faults", 107, &rig);
        is_whole(&of_full_size(recorded).run(&mut rig).await);
    }
    if let Some(mut rig) = on_nats("").await {
        let campaign = Campaign {
            ways: over_http(&rig),
            ..campaign("long, jetstream, http, no faults", 112, DURABLE)
        };
        is_whole(&of_full_size(campaign).run(&mut rig).await);
    }
    for acknowledged in [false, true] {
        let Some(mut rig) = on_nats(JETSTREAM).await else {
            return;
        };
        let way = match acknowledged {
            false => Way::CoreNats(rig.bus()),
            true => Way::JetStream(vec![rig.bus()]),
        };
        let campaign = Campaign {
            prefix: "orders",
            ways: vec![way],
            ..campaign(
                "long, core nats and jetstream publishers, no faults",
                113,
                DURABLE,
            )
        };
        is_whole(&of_full_size(campaign).run(&mut rig).await);
    }
}
