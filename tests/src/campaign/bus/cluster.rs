//! What befalls a Redis Cluster.

use std::time::Duration;

use fanfare_testkit::RedisCluster;

use super::{Fault, a_moment, cannot, redis};

/// As many as Fanfare has in a cluster without a setting.
const PARTITIONS: u32 = 8;

pub(super) async fn inject(cluster: &mut RedisCluster, fault: Fault, rng: &mut fastrand::Rng) {
    let key = format!("{{fanfare:p{}}}:meta", rng.u32(0..PARTITIONS));
    let primary = cluster.primary_of(&key).await;
    let replica = cluster.replica_of(primary);
    if redis::breaks_links(&cluster.nodes()[primary], fault, rng).await {
        return;
    }
    match fault {
        Fault::Failover => {
            cluster.failover(primary, &[]).await;
        }
        Fault::MigrateSlot => {
            cluster.migrate(&key).await;
        }
        Fault::KillPrimary => {
            cluster.node_mut(primary).kill();
            cluster.takes_over(replica).await;
            a_moment(rng).await;
            cluster.node_mut(primary).restart().await;
        }
        Fault::LoseTail => {
            cluster.node_mut(replica).pause();
            // What is on its way to it would still reach it.
            redis::kill_clients(&cluster.nodes()[primary], "replica").await;
            tokio::time::sleep(Duration::from_millis(rng.u64(200..600))).await;
            cluster.node_mut(primary).kill();
            cluster.node_mut(replica).resume();
            cluster.takes_over(replica).await;
            a_moment(rng).await;
            cluster.node_mut(primary).restart().await;
        }
        Fault::PauseBus(time) => {
            cluster.node_mut(primary).pause();
            tokio::time::sleep(time).await;
            cluster.node_mut(primary).resume();
        }
        _ => cannot(fault),
    }
    cluster.is_whole().await;
}
