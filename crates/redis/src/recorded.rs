//! Raw channels that are recorded for all nodes: what others publish, with resume on any node.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, History, HistoryQuery, Inlet,
    Pattern, Publication, Published, Subscription,
};

use crate::{
    command::Commands,
    config::RedisConfig,
    durable::{RedisDurable, names::Names},
    raw::{publisher::RawPublisher, routes::Side},
    recorder::{Recorder, RecorderMetrics},
};

/// The channels that ingest rules with [`Retain::Shared`](crate::Retain::Shared) make of what other
/// programs publish.
///
/// One node at a time records them in Redis, another stands by; this node takes its part, from now
/// on, whoever follows anything. Every node follows and reads what is recorded.
///
/// It takes publications for these channels too, as bare data under the names that the publishers
/// use; they are recorded like all others.
///
/// A clone is the same broker. When the last one is dropped, its links end.
#[derive(Clone)]
pub struct RedisRecorded {
    shared: Arc<Shared>,
}

struct Shared {
    log: RedisDurable,
    publisher: RawPublisher,
    recorder: Recorder,
}

impl RedisRecorded {
    /// Makes the links, begins the log where there is none yet, and waits until some node records.
    /// Runs on a tokio runtime.
    ///
    /// # Errors
    /// As [`RedisDurable::connect`]; [`ErrorKind::Unavailable`](fanfare_core::ErrorKind::Unavailable)
    /// where nobody comes to record, this node included.
    pub async fn connect(
        config: RedisConfig,
        metrics: BrokerMetrics,
        recorder_metrics: RecorderMetrics,
    ) -> Result<Self, BrokerError> {
        let routes = Arc::new(config.routes(Side::Shared)?);
        let names = Names::recorded(&config.prefix);
        let log = RedisDurable::open(config.clone(), names, metrics.clone()).await?;
        let commands = Commands::new(config.client()?, &config);
        let recorder = Recorder::start(
            &config,
            commands,
            log.first_log(),
            routes.clone(),
            metrics,
            recorder_metrics,
        );
        let somebody = recorder.somebody_records().await;
        somebody.map_err(|failure| failure.into_error("recording"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                log,
                publisher: RawPublisher::new(&config, routes),
                recorder,
            }),
        })
    }
}

#[async_trait]
impl Broker for RedisRecorded {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let links = self.shared.log.links();
        links.open("publishing")?;
        let publisher = &self.shared.publisher;
        let published = publisher.publish(&links.commands, channel, &publication);
        links.counted(published).await
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.shared.log.subscribe(pattern, inlet).await
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.shared.log.history(query).await
    }

    /// A canary; the log is caught up with, or that is on its way; and some node records.
    async fn probe(&self) -> Result<(), BrokerError> {
        self.shared.log.probe().await?;
        let failing = self.shared.recorder.failing();
        failing.map_or(Ok(()), |failure| Err(failure.into_error("recording")))
    }

    async fn close(&self) {
        self.shared.recorder.close().await;
        self.shared.log.close().await;
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // A publication gets its place when the recorder hears it.
            positions: false,
            ..self.shared.log.capabilities()
        }
    }
}

impl fmt::Debug for RedisRecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRecorded")
            .field("log", &self.shared.log)
            .finish_non_exhaustive()
    }
}
