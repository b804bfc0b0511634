//! The bus of a rig, and what befalls it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fanfare_testkit::{NatsCluster, NatsServer, RedisServer, eventually};

use super::{fault::Fault, publisher::STREAMS};

/// How long Redis may take to see one large event pass, on a busy machine.
const BUFFER_FILLS_WITHIN: Duration = Duration::from_secs(20);
/// How long publishers may take to come back after a loss.
const THERE_WITHIN: Duration = Duration::from_secs(20);

/// The bus of a rig.
#[derive(Debug)]
pub enum Bus {
    /// One Redis.
    Redis(RedisServer),
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
            Self::NatsCluster(..) => None,
        }
    }

    pub(super) fn is_redis(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// The lines of a node's config, for a link of its own or all servers there are.
    pub(super) fn config(&self, link: Option<SocketAddr>) -> String {
        let quoted = |urls: Vec<String>| {
            let urls: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
            format!("[{}]", urls.join(", "))
        };
        let link = link.map(|link| link.to_string()).unwrap_or_default();
        match self {
            Self::Redis(_) => redis(&format!("url = \"redis://{link}\"")),
            Self::Nats(_) => nats(&format!("url = \"nats://{link}\"")),
            Self::NatsCluster(cluster, _) => nats(&format!("url = {}", quoted(cluster.urls()))),
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
            Self::Redis(redis) => on_redis(redis, fault, rng, large).await,
            Self::Nats(nats) => match fault {
                Fault::RestartBus => {
                    nats.kill();
                    a_moment(rng).await;
                    nats.restart().await;
                }
                Fault::PauseBus(time) => {
                    nats.pause();
                    tokio::time::sleep(time).await;
                    nats.resume();
                }
                _ => cannot(fault),
            },
            Self::NatsCluster(cluster, stream) => on_nats(cluster, stream, fault, rng).await,
        }
    }
}

fn redis(lines: &str) -> String {
    format!("[broker]\nkind = \"redis\"\n[broker.redis]\n{lines}\n")
}

fn nats(lines: &str) -> String {
    format!("[broker]\nkind = \"nats\"\n[broker.nats]\n{lines}\n")
}

/// A fault that this bus does not know is a mistake of the campaign.
fn cannot(fault: Fault) {
    panic!("{fault} cannot be done to this bus");
}

async fn a_moment(rng: &mut fastrand::Rng) {
    tokio::time::sleep(Duration::from_millis(rng.u64(0..1_500))).await;
}

async fn on_redis(
    redis: &mut RedisServer,
    fault: Fault,
    rng: &mut fastrand::Rng,
    large: &AtomicBool,
) {
    match fault {
        Fault::KillPubsub => kill_clients(redis, "pubsub").await,
        Fault::KillNormal => kill_clients(redis, "normal").await,
        Fault::OutputBuffer => overfill(redis, large).await,
        Fault::RestartBus => {
            redis.kill();
            a_moment(rng).await;
            redis.restart().await;
        }
        Fault::PauseBus(time) => {
            redis.pause();
            tokio::time::sleep(time).await;
            redis.resume();
        }
        Fault::FlushBus => {
            redis.cli(&["FLUSHALL"]).await;
        }
        Fault::DropStream => drop_stream(redis, rng).await,
        _ => cannot(fault),
    }
}

/// Deletes one of the streams of which a node has seen an entry: what nobody saw leaves no trace, and
/// no gap is promised (docs/backends.md).
const DROP: &str = r"
    local keys = redis.call('KEYS', ARGV[1])
    table.sort(keys)
    local function ms(id) return tonumber(string.match(id, '^%d+')) end
    for i = 1, #keys do
        local key = keys[(ARGV[2] + i) % #keys + 1]
        local seen = redis.call('HGET', 'fanfare:streams:at:' .. key, 'last')
        local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
        if seen and first and ms(seen) >= ms(first[1]) then return redis.call('DEL', key) end
    end
    return 0";

async fn drop_stream(redis: &RedisServer, rng: &mut fastrand::Rng) {
    let (streams, draw) = (format!("{STREAMS}*"), rng.u16(..).to_string());
    eventually("a stream is deleted", THERE_WITHIN, || async {
        let deleted = redis.cli(&["EVAL", DROP, "0", &streams, &draw]).await;
        (deleted.trim() == "1").then_some(())
    })
    .await;
}

async fn kill_clients(redis: &RedisServer, kind: &str) {
    redis
        .cli(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
        .await;
}

/// A limit so small that the next large event goes over it.
async fn overfill(redis: &RedisServer, large: &AtomicBool) {
    let before = overfilled(redis);
    limit(redis, "1 0 0").await;
    large.store(true, Ordering::Relaxed);
    eventually("Redis closes a subscriber", BUFFER_FILLS_WITHIN, || async {
        (overfilled(redis) > before).then_some(())
    })
    .await;
    large.store(false, Ordering::Relaxed);
    limit(redis, "0 0 0").await;
}

async fn limit(redis: &RedisServer, limit: &str) {
    let limit = format!("pubsub {limit}");
    redis
        .cli(&["CONFIG", "SET", "client-output-buffer-limit", &limit])
        .await;
}

/// How often it closed a client for that. No counter of Redis 7.0 tells.
fn overfilled(redis: &RedisServer) -> usize {
    let output = redis.output();
    output.matches("overcoming of output buffer limits").count()
}

async fn on_nats(cluster: &mut NatsCluster, stream: &str, fault: Fault, rng: &mut fastrand::Rng) {
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
