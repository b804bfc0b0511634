//! What befalls one nats-server, and three.

use std::time::Duration;

use fanfare_testkit::{NatsCluster, NatsServer};

use super::{Fault, a_moment, cannot};

pub(super) async fn inject(nats: &mut NatsServer, fault: Fault, rng: &mut fastrand::Rng) {
    match fault {
        Fault::RestartBus => {
            nats.kill();
            a_moment(rng).await;
            nats.restart().await;
        }
        Fault::LoseTail => {
            let earlier = nats.copy_store();
            tokio::time::sleep(Duration::from_millis(rng.u64(200..600))).await;
            nats.kill();
            nats.put_store(&earlier);
            nats.restart().await;
        }
        Fault::PauseBus(time) => {
            nats.pause();
            tokio::time::sleep(time).await;
            nats.resume();
        }
        _ => cannot(fault),
    }
}

pub(super) async fn inject_cluster(
    cluster: &mut NatsCluster,
    stream: &str,
    fault: Fault,
    rng: &mut fastrand::Rng,
) {
    let leader = cluster.leader_of(stream).await;
    let servers = cluster.servers().len();
    let server = rng.usize(0..servers);
    match fault {
        Fault::Failover => {
            cluster.step_down(stream).await;
        }
        Fault::KillPrimary => {
            cluster.server_mut(leader).kill();
            a_moment(rng).await;
            cluster.server_mut(leader).restart().await;
        }
        Fault::RestartBus => {
            cluster.server_mut(server).kill();
            a_moment(rng).await;
            cluster.server_mut(server).restart().await;
        }
        Fault::LameDuck => {
            cluster.server_mut(server).lame_duck();
            tokio::time::sleep(Duration::from_secs(3)).await;
            cluster.server_mut(server).restart().await;
        }
        Fault::PauseBus(time) => {
            cluster.server_mut(server).pause();
            tokio::time::sleep(time).await;
            cluster.server_mut(server).resume();
        }
        _ => cannot(fault),
    }
    cluster.is_whole().await;
}
