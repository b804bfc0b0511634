//! What befalls one Redis, alone or among others.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fanfare_testkit::{RedisServer, eventually};

use super::{super::publisher::STREAMS, Fault, a_moment, cannot};

/// How long Redis may take to see one large event pass, on a busy machine.
const BUFFER_FILLS_WITHIN: Duration = Duration::from_secs(20);
/// How long publishers may take to come back after a loss.
const THERE_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn inject(
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

pub(super) async fn kill_clients(redis: &RedisServer, kind: &str) {
    redis
        .cli(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
        .await;
}

/// Does to one of several servers what falls on links; answers whether the fault does.
pub(super) async fn breaks_links(
    redis: &RedisServer,
    fault: Fault,
    rng: &mut fastrand::Rng,
) -> bool {
    match fault {
        Fault::KillPubsub => close(redis, &["pubsub"], || true).await,
        Fault::KillNormal => close(redis, &["normal"], || true).await,
        Fault::CutLinks => close(redis, &["normal", "pubsub"], || rng.bool()).await,
        _ => return false,
    }
    true
}

/// Closes links, whoever has them; only sentinels keep theirs, or they would find the server dead.
async fn close(redis: &RedisServer, kinds: &[&str], mut is_chosen: impl FnMut() -> bool) {
    let mut chosen: Vec<String> = Vec::new();
    for kind in kinds {
        let clients = redis.cli(&["CLIENT", "LIST", "TYPE", kind]).await;
        let clients = clients
            .lines()
            .filter(|client| !client.contains("name=sentinel-"));
        let ids = clients.filter_map(|client| client.strip_prefix("id=")?.split(' ').next());
        chosen.extend(ids.filter(|_| is_chosen()).map(str::to_owned));
    }
    let mut link = redis.resp().await;
    for id in chosen {
        // Some have gone by themselves.
        let _ = link.command(&["CLIENT", "KILL", "ID", &id]).await;
    }
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
