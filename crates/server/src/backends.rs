//! Makes the broker that the configuration names. The only file that names backends.

use std::{sync::Arc, time::Duration};

use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Claim, Dialect, Mapping, Retained, Retention,
    RetentionRule, Routed,
};
use fanfare_memory::MemoryBroker;
use fanfare_nats::{IngestFrom, NatsBroker, NatsDurable};
use fanfare_redis::{
    RecorderMetrics, RedisBroker, RedisConfig, RedisDurable, RedisRecorded, RedisStreams,
    StreamMetrics,
};
use prometheus::Registry;
use tokio::time::{Instant, sleep};

use crate::{
    config::{Config, Kind},
    exit::{Failure, chain},
};

/// The wait between two attempts to reach the bus at start.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// Makes the broker. A bus that does not answer yet is waited for, up to `broker.start_timeout`.
///
/// # Errors
/// Where the bus cannot be reached in time, or says no. Never shows a secret.
pub(crate) async fn connect(
    config: &Config,
    registry: &Registry,
) -> Result<Arc<dyn Broker>, Failure> {
    let kind = config.broker.kind;
    let metrics = BrokerMetrics::register(registry, kind.as_str()).map_err(Failure::failed)?;
    // On every backend: a dashboard asks for what is there.
    let recorder = RecorderMetrics::register(registry).map_err(Failure::failed)?;
    let of_streams = StreamMetrics::register(registry).map_err(Failure::failed)?;
    match kind {
        Kind::Memory => {
            let config = config.broker.memory.to_room(config.retention());
            Ok(Arc::new(MemoryBroker::new(config, metrics)))
        }
        Kind::Redis => redis(config, metrics, recorder, of_streams).await,
        Kind::Nats => nats(config, metrics).await,
    }
}

/// With JetStream, channels that rules make of core subjects keep nothing on the bus; all others are
/// durable.
async fn nats(config: &Config, metrics: BrokerMetrics) -> Result<Arc<dyn Broker>, Failure> {
    let nats = &config.broker.nats;
    let settings = nats.to_room(&config.server.node);
    let raw = || NatsBroker::connect(settings.clone(), metrics.clone());
    if !nats.jetstream {
        let raw = Arc::new(patiently(config, raw).await?);
        return Ok(retained(config, raw, metrics));
    }
    let store = config.broker.memory.store(config.retention());
    let durable = nats.to_durable(store);
    let connect = || NatsDurable::connect(settings.clone(), durable.clone(), metrics.clone());
    let durable = Arc::new(patiently(config, connect).await?);
    let mut rules = settings.ingest.iter();
    if !rules.any(|rule| rule.from == IngestFrom::Core) {
        return Ok(durable);
    }
    let raw = Arc::new(patiently(config, raw).await?);
    let claim = settings.raw_claim().map_err(Failure::failed)?;
    let raw = retained(config, raw, metrics.clone());
    let routed = Routed::new([(claim, raw)], durable).map_err(Failure::failed)?;
    Ok(Arc::new(routed))
}

/// Channels that ingest rules make come from pub/sub, which keeps nothing: they are recorded for all
/// nodes, or retained by this one; or from streams of others, which keep themselves. All others are
/// durable.
async fn redis(
    config: &Config,
    metrics: BrokerMetrics,
    recorder: RecorderMetrics,
    of_streams: StreamMetrics,
) -> Result<Arc<dyn Broker>, Failure> {
    let settings = RedisConfig {
        retention: config.retention(),
        intake: config.delivery.feed(),
        ..config.broker.redis.to_room()
    };
    let connect = || RedisDurable::connect(settings.clone(), metrics.clone());
    let durable = Arc::new(patiently(config, connect).await?);
    let mut claimed: Vec<(Claim, Arc<dyn Broker>)> = Vec::new();
    if let Some(claim) = settings.shared_claim().map_err(Failure::failed)? {
        let connect =
            || RedisRecorded::connect(settings.clone(), metrics.clone(), recorder.clone());
        claimed.push((claim, Arc::new(patiently(config, connect).await?)));
    }
    if let Some(claim) = settings.claim().map_err(Failure::failed)? {
        let connect = || RedisBroker::connect(settings.clone(), metrics.clone());
        let raw = Arc::new(patiently(config, connect).await?);
        claimed.push((claim, retained(config, raw, metrics.clone())));
    }
    if let Some(claim) = settings.claim_streams().map_err(Failure::failed)? {
        let connect =
            || RedisStreams::connect(settings.clone(), metrics.clone(), of_streams.clone());
        claimed.push((claim, Arc::new(patiently(config, connect).await?)));
    }
    if claimed.is_empty() {
        return Ok(durable);
    }
    let routed = Routed::new(claimed, durable).map_err(Failure::failed)?;
    Ok(Arc::new(routed))
}

/// A bus that keeps nothing, with what passes through this node retained here.
fn retained(config: &Config, bus: Arc<dyn Broker>, metrics: BrokerMetrics) -> Arc<dyn Broker> {
    let memory = &config.broker.memory;
    let bounds = memory.retained(retention(config), config.delivery.feed());
    Arc::new(Retained::new(bus, bounds, metrics))
}

async fn patiently<B, F: Future<Output = Result<B, BrokerError>>>(
    config: &Config,
    mut connect: impl FnMut() -> F,
) -> Result<B, Failure> {
    let kind = config.broker.kind;
    let deadline = Instant::now() + config.broker.start_timeout.0;
    loop {
        match connect().await {
            Ok(broker) => return Ok(broker),
            Err(error) if error.is_transient() && Instant::now() + BETWEEN_ATTEMPTS < deadline => {
                tracing::warn!(broker = %kind, error = chain(&error), "the bus does not answer yet");
                sleep(BETWEEN_ATTEMPTS).await;
            }
            Err(error) => {
                let why = chain(&error);
                return Err(Failure::failed(format!(
                    "cannot use the bus (broker.kind = {kind}): {why}"
                )));
            }
        }
    }
}

/// The retention rules, after those of `retain = "none"`: what a rule makes is then not kept.
fn retention(config: &Config) -> Retention {
    let broker = &config.broker;
    let (dialect, rules): (_, Vec<_>) = match broker.kind {
        Kind::Memory => return config.retention(),
        Kind::Redis => (Dialect::Glob, broker.redis.not_retained().collect()),
        Kind::Nats => (Dialect::Subject, broker.nats.not_retained().collect()),
    };
    // The rules were parsed when the configuration was checked.
    let mappings = rules
        .into_iter()
        .filter_map(|(source, channel)| Mapping::parse(dialect, source, channel).ok());
    let nothing = mappings.map(|mapping| RetentionRule {
        max_count: 0,
        ..RetentionRule::of(mapping.image().clone())
    });
    Retention::new(nothing.chain(config.retention().rules().iter().cloned()))
}

#[cfg(test)]
mod tests {
    use fanfare_core::Channel;

    use super::*;

    #[test]
    fn what_nobody_retains_comes_before_the_other_rules() {
        let text = "[broker]\nkind = \"redis\"\n\
            [[broker.redis.ingest]]\nsource = \"ticks:*\"\nchannel = \"ticks.{1}\"\nretain = \"none\"\n\
            [[broker.redis.ingest]]\nsource = \"orders:*\"\n\
            [[retention]]\nchannels = \">\"\nmax_count = 7";
        let mut config: Config = toml::from_str(text).unwrap();
        let kept = |config: &Config, channel: &str| {
            retention(config)
                .rule_of(&Channel::parse(channel).unwrap())
                .max_count
        };
        for (channel, count) in [("ticks.a", 0), ("orders.a", 7), ("own", 7)] {
            assert_eq!(kept(&config, channel), count, "{channel}");
        }
        // The rules of a bus that is not chosen do not count.
        config.broker.kind = Kind::Memory;
        assert_eq!(kept(&config, "ticks.a"), 7);
    }
}
