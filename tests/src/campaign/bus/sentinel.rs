//! What befalls a Redis that sentinels watch over.

use std::time::Duration;

use fanfare_testkit::RedisSentinel;

use super::{Fault, a_moment, cannot, redis};

pub(super) async fn inject(servers: &mut RedisSentinel, fault: Fault, rng: &mut fastrand::Rng) {
    let primary = servers.can_fail_over().await;
    if redis::breaks_links(&servers.servers()[primary], fault, rng).await {
        return;
    }
    match fault {
        Fault::Failover => {
            servers.failover().await;
        }
        Fault::KillPrimary => {
            servers.kill_primary().await;
            a_moment(rng).await;
            servers.server_mut(primary).restart().await;
        }
        Fault::LoseTail => {
            let replicas: Vec<usize> = (0..servers.servers().len())
                .filter(|server| *server != primary)
                .collect();
            for replica in &replicas {
                servers.server_mut(*replica).pause();
            }
            // What is on its way to them would still reach them.
            redis::kill_clients(&servers.servers()[primary], "replica").await;
            tokio::time::sleep(Duration::from_millis(rng.u64(200..600))).await;
            servers.server_mut(primary).kill();
            for replica in &replicas {
                servers.server_mut(*replica).resume();
            }
            servers.another_than(Some(primary)).await;
            a_moment(rng).await;
            servers.server_mut(primary).restart().await;
        }
        Fault::PauseBus(time) => {
            servers.server_mut(primary).pause();
            tokio::time::sleep(time).await;
            servers.server_mut(primary).resume();
        }
        _ => cannot(fault),
    }
}
