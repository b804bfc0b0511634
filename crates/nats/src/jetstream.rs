//! [`NatsDurable`]: durable channels, over JetStream.
//!
//! A stream is a log, a message's sequence is the offset. Fanfare's own channels live in a stream
//! of its own; streams that other services write are taken by rules, as they are.
//!
//! # What a node does
//!
//! - It **follows** a stream while anybody on it wants any of its channels, and a little longer: by
//!   one consumer that delivers the whole stream in its order, and whose account this node keeps
//!   itself (`feed`). So what it costs does not depend on how many channels are followed: a node
//!   receives all of a stream as long as somebody follows any of it.
//! - What it receives it **remembers**, within bounds (`log`, `ring`), and answers those who come
//!   back from there; what is older is read from the stream (`page`, `read`), by a few at a time.
//! - It **hands on** only what it can vouch for. Each message has a check of its content in its
//!   offset (`place`), so that a stream that lost its end and filled it again is another life of
//!   it, which is told as a gap, to followers and to cursors. In Fanfare's own stream, a node that
//!   finds such a loss tells all others (`look`, `mark`).

mod acked;
mod complaint;
pub mod config;
mod feed;
mod log;
mod look;
mod mark;
mod message;
mod page;
mod place;
mod read;
mod ring;
mod store;
mod stream;
mod tenure;
mod wire;

use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, ErrorKind, History, HistoryQuery,
    Inlet, Interest, LogId, LogMap, Pattern, Publication, Published, Subscription,
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::config::DurableConfig;
use self::{
    log::Log,
    place::fingerprint,
    stream::Stream,
    wire::{Trouble, Wire},
};
use crate::{
    config::{IngestFrom, NatsConfig, bad},
    error::{BACKEND, Failure, error},
    subjects::Subjects,
};

/// Room that is left for headers in the server's bound on a message.
const HEADER_ROOM: usize = 4 << 10;
/// The first release that compresses streams.
const COMPRESSES: (i64, i64) = (2, 10);
/// The longest wait for a node to have taken up what the stream holds, before history is answered
/// from what it has: the rest comes live.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(1);

/// Durable channels over JetStream. See the [module](self) for how.
///
/// A clone is the same broker. When the last one is dropped, its link ends.
#[derive(Clone)]
pub struct NatsDurable {
    shared: Arc<Shared>,
}

struct Shared {
    config: NatsConfig,
    wire: Arc<Wire>,
    interest: Interest,
    /// Those of others, in the order of their rules, then our own.
    logs: Arc<[Arc<Log>]>,
    reads: Semaphore,
    max_data_bytes: usize,
}

impl NatsDurable {
    /// Reaches a server, and makes Fanfare's own stream where there is none. Runs on a tokio
    /// runtime.
    ///
    /// # Errors
    /// - [`ErrorKind::Rejected`]: a bad setting, a refused log-in, a server without JetStream, a
    ///   stream that is there and is not what it must be, by the field that differs;
    /// - [`ErrorKind::Unsupported`]: a setting that needs a newer server, by its name and release;
    /// - [`ErrorKind::Unavailable`] and [`ErrorKind::Timeout`] where no server answers, or JetStream
    ///   has no leader.
    pub async fn connect(
        config: NatsConfig,
        durable: DurableConfig,
        metrics: BrokerMetrics,
    ) -> Result<Self, BrokerError> {
        durable.validate()?;
        let rules = config.rules(IngestFrom::JetStream)?;
        let stop = CancellationToken::new();
        let unless_cancelled = stop.clone().drop_guard();
        let wire = Wire::connect(&config, metrics, stop).await?;
        supported(&wire, &durable)?;
        has_jetstream(&wire).await?;

        let mut streams: Vec<(LogId, Stream)> = Vec::new();
        let mut sources: Vec<(usize, &str)> = Vec::new();
        let mut names: Vec<(&str, Vec<_>)> = Vec::new();
        for (at, rule) in rules {
            let ingest = &config.ingest[at];
            let name = ingest.stream.as_deref().unwrap_or_default();
            if name == durable.stream {
                let why = "names Fanfare's own stream, broker.nats.stream";
                return Err(bad(&format!("ingest[{at}].stream"), why));
            }
            match names.iter_mut().find(|(known, _)| *known == name) {
                Some((_, rules)) => rules.push(rule),
                None => names.push((name, vec![rule])),
            }
            sources.push((at, &ingest.source));
        }
        for (name, rules) in names {
            let subjects = Subjects::of_others(rules);
            streams.push((
                log_id(name)?,
                Stream::of_others(name, subjects, wire.clone()),
            ));
        }
        let subjects = Subjects::durable(&config.prefix);
        let subject = subjects.follow(&Pattern::all()).swap_remove(0);
        let own = Stream::own(&durable, subjects, subject, wire.clone());
        streams.push((log_id("")?, own));
        for (id, stream) in &streams {
            if streams.iter().filter(|(other, _)| other == id).count() > 1 {
                let why = format!("two streams have the log {id}; rename {}", stream.name);
                return Err(bad("ingest", why));
            }
            stream.ready().await?;
            let of_stream = |(at, _): &&(usize, &str)| {
                config.ingest[*at].stream.as_deref() == Some(&stream.name)
            };
            let sources: Vec<_> = sources.iter().filter(of_stream).copied().collect();
            stream.check_sources(&sources).await?;
        }

        let interest = Interest::new(|_| {});
        let max_payload = wire.client.max_payload();
        let max_data_bytes = max_payload
            .saturating_sub(HEADER_ROOM)
            .min(config.max_data_bytes);
        let logs: Arc<[_]> = streams
            .into_iter()
            .map(|(id, stream)| {
                let interest = interest.clone();
                let (durable, most) = (durable.clone(), config.max_data_bytes);
                Arc::new(Log::new(id, stream, interest, durable, most))
            })
            .collect();
        for log in &*logs {
            tokio::spawn(feed::keep(
                log.clone(),
                config.linger,
                config.reconnect_delay,
            ));
        }
        unless_cancelled.disarm();
        Ok(Self {
            shared: Arc::new(Shared {
                reads: Semaphore::new(durable.reads),
                config,
                wire,
                interest,
                logs,
                max_data_bytes,
            }),
        })
    }
}

/// The log of a stream of this name; of our own, of none. Short, since it stands in every `id:`
/// line, and the same on every node.
fn log_id(name: &str) -> Result<LogId, BrokerError> {
    let mut text = String::from("j");
    let mut rest = if name.is_empty() {
        0
    } else {
        fingerprint(name) >> 28
    };
    while rest > 0 {
        let digit = u32::try_from(rest % 36).unwrap_or(0);
        text.extend(char::from_digit(digit, 36));
        rest /= 36;
    }
    LogId::parse(&text).map_err(|why| error(ErrorKind::Rejected, why.to_string()))
}

/// A setting that the server would ignore is refused.
fn supported(wire: &Wire, durable: &DurableConfig) -> Result<(), BrokerError> {
    let (major, minor) = COMPRESSES;
    if durable.compression && !wire.client.is_server_compatible(major, minor, 0) {
        let version = wire.client.server_info().version;
        let message = format!(
            "broker.nats.compression needs nats-server {major}.{minor} or later; this is {version}"
        );
        return Err(error(ErrorKind::Unsupported, message));
    }
    Ok(())
}

async fn has_jetstream(wire: &Wire) -> Result<(), BrokerError> {
    // JetStream is not there, or not for this account.
    const ABSENT: [u64; 2] = [10039, 10076];
    let without = || {
        let message = "the server does no JetStream for this account; enable it there, or set \
                       broker.nats.jetstream = false for core NATS alone";
        error(ErrorKind::Rejected, message)
    };
    match wire.ask::<serde::de::IgnoredAny>("INFO", &()).await {
        Ok(_) => Ok(()),
        Err(Trouble::Nobody) => Err(without()),
        Err(Trouble::Refused { number, .. }) if ABSENT.contains(&number) => Err(without()),
        Err(trouble) => Err(trouble.of("connect")),
    }
}

impl Shared {
    fn open(&self, what: &str) -> Result<(), BrokerError> {
        if self.wire.stop.is_cancelled() {
            return Err(Failure::Closed.of(what));
        }
        Ok(())
    }

    /// The log of a channel: the first whose rules make it, else our own.
    fn log(&self, channel: &Channel) -> Option<&Arc<Log>> {
        let pattern = Pattern::from(channel);
        logs_of(&self.logs, &pattern).next()
    }

    /// Stores a batch, and counts how it went.
    async fn publish(
        &self,
        batch: &[(&Channel, &Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let start = Instant::now();
        let stored = self.store(batch).await;
        for result in &stored {
            self.wire.metrics.publish_ended(result, start.elapsed());
        }
        stored
    }

    async fn prove(&self) -> Result<(), BrokerError> {
        let what = "probe";
        self.open(what)?;
        let patience = self.config.probe_timeout;
        let proof = async {
            self.wire.canary(patience).await?;
            for log in &*self.logs {
                log.stream.attend().await?;
                let stage = log.stage.borrow().clone();
                if *log.wanted.borrow() > 0 && !stage.flows {
                    let mut stages = log.stage.subscribe();
                    // It may be about to.
                    let flows = timeout(patience / 2, stages.wait_for(|stage| stage.flows));
                    if flows.await.is_err() {
                        return Err(stage.failing.unwrap_or(Trouble::NoAnswer));
                    }
                }
            }
            Ok(())
        };
        match timeout(patience, proof).await {
            Ok(proved) => proved.map_err(|trouble| trouble.of(what)),
            Err(_) => Err(Trouble::NoAnswer.of(what)),
        }
    }

    fn close(&self) {
        self.wire.stop.cancel();
        self.interest.close();
    }
}

/// The logs that channels of a pattern can live in.
fn logs_of<'l>(
    logs: &'l [Arc<Log>],
    pattern: &Pattern,
) -> Box<dyn Iterator<Item = &'l Arc<Log>> + 'l> {
    let (own, others) = match logs.split_last() {
        Some((own, others)) => (Some(own), others),
        None => (None, logs),
    };
    let claiming: Vec<_> = others
        .iter()
        .filter(|log| log.stream.subjects.claims(pattern))
        .collect();
    if pattern.is_wild() {
        Box::new(claiming.into_iter().chain(own))
    } else {
        Box::new(claiming.into_iter().chain(own).take(1))
    }
}

#[async_trait]
impl Broker for NatsDurable {
    /// Returns after the stream has it.
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let mut stored = self.shared.publish(&[(channel, &publication)]).await;
        let silent = || Err(Trouble::NoAnswer.of("publish"));
        stored.pop().unwrap_or_else(silent)
    }

    /// All are on their way at a time.
    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let batch: Vec<_> = batch
            .iter()
            .map(|(channel, data)| (channel, data))
            .collect();
        self.shared.publish(&batch).await
    }

    /// Returns once it is fixed from which place on this node follows the streams: everything
    /// behind it is handed on, or told as a gap.
    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        let what = "subscribe";
        let shared = &self.shared;
        shared.open(what)?;
        // Held first, so that nothing is missed and a dropped call lets go.
        let hold = shared.interest.add(pattern, inlet);
        let logs: Vec<_> = logs_of(&shared.logs, pattern).collect();
        let wants: Vec<_> = logs.iter().map(|log| log.want()).collect();
        let follow = async {
            for log in &logs {
                let mut stage = log.stage.subscribe();
                let _ = stage.wait_for(|stage| stage.flows).await;
            }
        };
        tokio::select! {
            followed = timeout(shared.config.command_timeout, follow) => if followed.is_err() {
                let failing = logs.iter().find_map(|log| log.stage.borrow().failing.clone());
                return Err(failing.unwrap_or(Trouble::NoAnswer).of(what));
            },
            () = shared.wire.stop.cancelled() => return Err(Trouble::Closed.of(what)),
        }
        Ok(Subscription::new((hold, wants)))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        let what = "history";
        let shared = &self.shared;
        shared.open(what)?;
        let log = shared.logs.iter().find(|log| log.id == query.log);
        let log = log.ok_or_else(|| {
            let message = format!("{what}: there is no log `{}`", query.log);
            error(ErrorKind::Unsupported, message)
        })?;
        let patience = CATCH_UP.min(shared.config.command_timeout);
        let answer = log.history(&query, patience, &shared.reads).await;
        answer.map_err(|trouble| trouble.of(what))
    }

    /// A canary through the bus; and every stream has a leader, and what is followed flows.
    async fn probe(&self) -> Result<(), BrokerError> {
        let metrics = &self.shared.wire.metrics;
        let start = Instant::now();
        let result = self.shared.prove().await;
        match &result {
            Ok(()) => metrics.probe_seconds.observe(start.elapsed().as_secs_f64()),
            Err(_) => metrics.probe_failures.inc(),
        }
        result
    }

    async fn close(&self) {
        self.shared.close();
    }

    fn capabilities(&self) -> Capabilities {
        let logs = self.shared.logs.clone();
        let all: Vec<_> = logs.iter().map(|log| log.id.clone()).collect();
        Capabilities {
            backend: BACKEND,
            logs: LogMap::new(all, move |pattern| {
                logs_of(&logs, pattern).map(|log| log.id.clone()).collect()
            }),
            history: true,
            shared: true,
            positions: true,
            idempotency: true,
            max_data_bytes: Some(self.shared.max_data_bytes),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for NatsDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .shared
            .logs
            .iter()
            .map(|log| &log.stream.name)
            .collect();
        f.debug_struct("NatsDurable")
            .field("config", &self.shared.config)
            .field("streams", &names)
            .field("live", &self.shared.wire.is_live())
            .finish_non_exhaustive()
    }
}
