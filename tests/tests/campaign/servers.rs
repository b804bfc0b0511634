//! Servers that take over from each other, and one that comes back with less than it had.

use std::time::Duration;

use fanfare_testkit::{RedisCluster, RedisSentinel};

use super::{
    AOF_EVERYSEC, Bus, Campaign, DURABLE, Fault, LOSSY, Plan, Rig, Rules, SECONDS, campaign,
    is_true, is_whole, on_nats, over_http,
};

const REPLICAS: usize = 2;
/// A partition is a log; which channels share one, its ids tell.
const PARTED: fn(usize) -> usize = |channel| channel;

async fn on_sentinel(find_dead_after: Duration) -> Option<Rig> {
    let servers = RedisSentinel::start_with(REPLICAS, AOF_EVERYSEC).await?;
    servers.find_dead_after(find_dead_after).await;
    three_nodes(Bus::Sentinel(servers)).await
}

/// Nodes find another one dead after so many milliseconds.
async fn on_cluster(find_dead_after: &str) -> Option<Rig> {
    let options = [AOF_EVERYSEC, &["--cluster-node-timeout", find_dead_after]].concat();
    let servers = RedisCluster::start_with(1, &options).await?;
    three_nodes(Bus::Cluster(servers)).await
}

async fn three_nodes(bus: Bus) -> Option<Rig> {
    let plan = Plan {
        nodes: 3,
        config: "",
        skew: &[-5, 0, 5],
    };
    Rig::start(bus, plan).await
}

/// What takes seconds until another server serves leaves time for few events.
fn of_servers(name: &'static str, seed: u64, rules: Rules, rig: &Rig) -> Campaign {
    Campaign {
        clients: 60,
        events: 5_000,
        ways: over_http(rig),
        ..campaign(name, seed, rules)
    }
}

/// Replication is asynchronous, and a primary that is asked to hand over goes on taking events: what
/// is lost is told when the nodes that were still there have left it.
#[tokio::test(flavor = "multi_thread")]
async fn redis_sentinel_under_faults() {
    let Some(mut rig) = on_sentinel(SECONDS(1)).await else {
        return;
    };
    let campaign = Campaign {
        faults: vec![
            (Fault::Failover, 3),
            (Fault::KillPrimary, 1),
            (Fault::LoseTail, 2),
            (Fault::PauseBus(SECONDS(3)), 1),
            (Fault::KillPubsub, 4),
            (Fault::KillNormal, 2),
            (Fault::CutLinks, 5),
            (Fault::KillNode, 2),
        ],
        ..of_servers("redis sentinel, http, faults", 22, LOSSY, &rig)
    };
    let verdict = campaign.run(&mut rig).await;
    is_true(&verdict);
    assert!(verdict.gaps > 0, "{verdict}");
}

/// What falls on links and nodes alone costs nothing. A busy machine must not look like a dead one.
#[tokio::test(flavor = "multi_thread")]
async fn redis_sentinel_with_links_and_nodes_that_break() {
    let Some(mut rig) = on_sentinel(SECONDS(30)).await else {
        return;
    };
    let campaign = Campaign {
        faults: vec![
            (Fault::KillPubsub, 8),
            (Fault::KillNormal, 4),
            (Fault::CutLinks, 12),
            (Fault::KillNode, 2),
            (Fault::PauseNode(SECONDS(2)), 1),
            (Fault::ReloadBalancer, 1),
        ],
        ..of_servers("redis sentinel, http, links and nodes", 18, DURABLE, &rig)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Slots that move and replicas that take over in turn have everything. A busy machine must not look
/// like a dead one.
#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster_that_moves() {
    let Some(mut rig) = on_cluster("3000").await else {
        return;
    };
    let rules = Rules {
        log_of: PARTED,
        ..DURABLE
    };
    let campaign = Campaign {
        faults: vec![
            (Fault::MigrateSlot, 10),
            (Fault::Failover, 5),
            (Fault::KillPubsub, 6),
            (Fault::KillNormal, 3),
            (Fault::CutLinks, 8),
            (Fault::KillNode, 2),
        ],
        ..of_servers("redis cluster, http, moves", 19, rules, &rig)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Primaries that die, or stand still until others take over.
#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster_under_faults() {
    let Some(mut rig) = on_cluster("1500").await else {
        return;
    };
    let rules = Rules {
        log_of: PARTED,
        ..LOSSY
    };
    let campaign = Campaign {
        faults: vec![
            (Fault::KillPrimary, 3),
            (Fault::LoseTail, 3),
            (Fault::PauseBus(SECONDS(3)), 2),
            (Fault::MigrateSlot, 3),
            (Fault::Failover, 2),
            (Fault::KillPubsub, 3),
            (Fault::CutLinks, 3),
            (Fault::KillNode, 1),
        ],
        ..of_servers("redis cluster, http, faults", 20, rules, &rig)
    };
    let verdict = campaign.run(&mut rig).await;
    is_true(&verdict);
    assert!(verdict.gaps > 0, "{verdict}");
}

/// What was acknowledged is in its files when it is killed, and heals.
#[tokio::test(flavor = "multi_thread")]
async fn jetstream_over_http_on_a_server_that_dies() {
    let Some(mut rig) = on_nats("").await else {
        return;
    };
    let campaign = Campaign {
        faults: vec![
            (Fault::RestartBus, 6),
            (Fault::PauseBus(SECONDS(3)), 2),
            (Fault::CutLinks, 3),
            (Fault::TearLinks, 2),
            (Fault::KillNode, 1),
        ],
        ..of_servers("jetstream, http, server dies", 21, DURABLE, &rig)
    };
    is_whole(&campaign.run(&mut rig).await);
}

/// Its machine lost power: what it had not brought to its disk is gone.
#[tokio::test(flavor = "multi_thread")]
async fn jetstream_that_loses_its_tail() {
    let Some(mut rig) = on_nats("").await else {
        return;
    };
    let campaign = Campaign {
        faults: vec![
            (Fault::LoseTail, 3),
            (Fault::RestartBus, 2),
            (Fault::CutLinks, 2),
        ],
        ..of_servers("jetstream, http, tail lost", 23, LOSSY, &rig)
    };
    let verdict = campaign.run(&mut rig).await;
    is_true(&verdict);
    assert!(verdict.gaps > 0, "{verdict}");
}
