//! The bus of a rig, and what befalls it.

mod cluster;
mod nats;
mod redis;
mod sentinel;

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};

use fanfare_testkit::{NatsCluster, NatsServer, RedisCluster, RedisSentinel, RedisServer};

use super::fault::Fault;

/// The bus of a rig.
#[derive(Debug)]
pub enum Bus {
    /// One Redis.
    Redis(RedisServer),
    /// A Redis that sentinels watch over.
    Sentinel(RedisSentinel),
    /// A Redis Cluster with a replica of each primary.
    Cluster(RedisCluster),
    /// One nats-server.
    Nats(NatsServer),
    /// Three nats-servers; the stream that is made to change its leader.
    NatsCluster(NatsCluster, &'static str),
}

impl Bus {
    /// The server, if it is one alone: links to it can be broken.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        match self {
            Self::Redis(server) => Some(server.address()),
            Self::Nats(server) => Some(server.address()),
            Self::Sentinel(_) | Self::Cluster(_) | Self::NatsCluster(..) => None,
        }
    }

    pub(super) fn is_redis(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Sentinel(_) | Self::Cluster(_))
    }

    /// The lines of a node's config, for a link of its own or all servers there are.
    pub(super) fn config(&self, link: Option<SocketAddr>) -> String {
        let link = link.map(|link| link.to_string()).unwrap_or_default();
        let (kind, lines) = match self {
            Self::Redis(_) => ("redis", format!("url = \"redis://{link}\"")),
            Self::Sentinel(sentinel) => {
                let (urls, master) = (quoted(&sentinel.urls()), RedisSentinel::MASTER);
                let lines = format!("sentinel = {{ urls = {urls}, master = {master:?} }}");
                ("redis", lines)
            }
            Self::Cluster(cluster) => ("redis", format!("cluster = {}", quoted(&cluster.urls()))),
            Self::Nats(_) => ("nats", format!("url = \"nats://{link}\"")),
            Self::NatsCluster(cluster, _) => ("nats", format!("url = {}", quoted(&cluster.urls()))),
        };
        format!("[broker]\nkind = \"{kind}\"\n[broker.{kind}]\n{lines}\n")
    }

    /// Waits until no server serves that was given up: what such a one takes is told when it is over,
    /// to those who are still there.
    pub(super) async fn is_settled(&self) {
        match self {
            Self::Sentinel(servers) => {
                servers.is_settled().await;
            }
            Self::Cluster(servers) => servers.is_whole().await,
            Self::Redis(_) | Self::Nats(_) | Self::NatsCluster(..) => {}
        }
    }

    /// Does it, and undoes what has an end.
    pub(super) async fn inject(
        &mut self,
        fault: Fault,
        rng: &mut fastrand::Rng,
        large: &AtomicBool,
    ) {
        match self {
            Self::Redis(server) => redis::inject(server, fault, rng, large).await,
            Self::Sentinel(servers) => sentinel::inject(servers, fault, rng).await,
            Self::Cluster(servers) => cluster::inject(servers, fault, rng).await,
            Self::Nats(server) => nats::inject(server, fault, rng).await,
            Self::NatsCluster(servers, stream) => {
                nats::inject_cluster(servers, stream, fault, rng).await;
            }
        }
    }
}

fn quoted(urls: &[String]) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
    format!("[{}]", urls.join(", "))
}

/// A fault that this bus does not know is a mistake of the campaign.
fn cannot(fault: Fault) {
    panic!("{fault} cannot be done to this bus");
}

async fn a_moment(rng: &mut fastrand::Rng) {
    tokio::time::sleep(Duration::from_millis(rng.u64(0..1_500))).await;
}
