//! [`NatsBroker`]: the broker over a link to NATS.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, ErrorKind, History, HistoryQuery,
    Inlet, LogId, LogMap, Pattern, Publication, Published, Since, Subscription,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use crate::{
    config::NatsConfig,
    connection::Link,
    envelope,
    error::{BACKEND, Failure, error},
};

/// Room that is left for headers in the server's bound on a message.
const HEADER_ROOM: usize = 2 << 10;
/// The log of raw events: this node's own.
const LOG: &str = "raw";

/// The broker over core NATS. See the [crate] for what it keeps.
///
/// Dropping it closes it.
pub struct NatsBroker {
    link: Arc<Link>,
    log: LogId,
    max_data_bytes: usize,
    task: Mutex<Option<JoinHandle<()>>>,
    _stop: DropGuard,
}

impl NatsBroker {
    /// Reaches the first server that answers, and keeps the link from then on.
    ///
    /// Cancel safe: a dropped call leaves nothing behind.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] names a bad setting, or the one with which a log-in was refused;
    /// [`ErrorKind::Unsupported`] one that needs JetStream;
    /// [`ErrorKind::Unavailable`] and [`ErrorKind::Timeout`] where no server answers.
    pub async fn connect(config: NatsConfig, metrics: BrokerMetrics) -> Result<Self, BrokerError> {
        let log = LogId::parse(LOG).map_err(|why| error(ErrorKind::Rejected, why.to_string()))?;
        let bound = config.max_data_bytes;
        let (link, dialled) = Link::connect(config, metrics, log.clone()).await?;
        let max_data_bytes = link.max_payload().saturating_sub(HEADER_ROOM).min(bound);
        let stop = link.stop.clone().drop_guard();
        let task = tokio::spawn(link.clone().run(dialled));
        link.attached().await;
        Ok(Self {
            link,
            log,
            max_data_bytes,
            task: Mutex::new(Some(task)),
            _stop: stop,
        })
    }

    fn open(&self, what: &str) -> Result<(), BrokerError> {
        if self.link.stop.is_cancelled() {
            return Err(Failure::Closed.of(what));
        }
        Ok(())
    }

    async fn announce(
        &self,
        channel: &Channel,
        publication: &Publication,
    ) -> Result<(), BrokerError> {
        self.open("publish")?;
        if publication.key.is_some() {
            return Err(error(
                ErrorKind::Unsupported,
                "core NATS keeps no idempotency keys; publish without one",
            ));
        }
        let target = self.link.subjects.publish(channel);
        let headers = envelope::encode(publication, &target, SystemTime::now());
        let data = publication.data.bytes();
        let whole = headers.len() + data.len();
        if data.len() > self.max_data_bytes || whole > self.link.max_payload() {
            let message = format!(
                "{} bytes of data and {} of headers; at most {} of data and {} together are taken",
                data.len(),
                headers.len(),
                self.max_data_bytes,
                self.link.max_payload()
            );
            return Err(error(ErrorKind::TooLarge, message));
        }
        self.send("publish", &target.subject, &headers, data).await
    }

    async fn send(
        &self,
        what: &str,
        subject: &str,
        headers: &str,
        payload: &[u8],
    ) -> Result<(), BrokerError> {
        let patience = self.link.config.command_timeout;
        let mut sent = false;
        let publish = self.link.publish(subject, headers, payload, &mut sent);
        match tokio::time::timeout(patience, publish).await {
            Ok(result) => result.map_err(|failure| failure.of(what)),
            // The two are told apart: after the second, the publication is surely not stored.
            Err(_) if sent => Err(error(
                ErrorKind::Timeout,
                format!("{what}: no confirmation within {patience:?}"),
            )),
            Err(_) => Err(error(
                ErrorKind::Unavailable,
                format!("{what}: no room among the commands that wait, for {patience:?}"),
            )),
        }
    }

    async fn prove(&self) -> Result<(), BrokerError> {
        self.open("probe")?;
        let patience = self.link.config.probe_timeout;
        let probe = &self.link.probe;
        let mut canary = probe.canary();
        let number = canary.number.to_string();
        let way = async {
            self.send("probe", &probe.subject, "", number.as_bytes())
                .await?;
            canary.back().await;
            Ok(())
        };
        match tokio::time::timeout(patience, way).await {
            Ok(result) => result,
            Err(_) => Err(error(
                ErrorKind::Timeout,
                format!(
                    "probe: the canary on `{}` is not back after {patience:?}",
                    probe.subject
                ),
            )),
        }
    }
}

#[async_trait]
impl Broker for NatsBroker {
    /// Publishes where others on the bus listen, if a rule says so, else on a subject of our own.
    /// Returns after the server has confirmed it.
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let metrics = &self.link.metrics;
        let start = Instant::now();
        if let Err(why) = self.announce(channel, &publication).await {
            metrics.publish_errors.inc();
            return Err(why);
        }
        metrics
            .publish_seconds
            .observe(start.elapsed().as_secs_f64());
        metrics.published.inc();
        Ok(Published {
            position: None,
            duplicate: false,
        })
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.open("subscribe")?;
        let patience = self.link.config.command_timeout;
        // Held first, so that nothing is missed and a dropped call lets go.
        let hold = self.link.intake.interest.add(pattern, inlet);
        match tokio::time::timeout(patience, self.link.follow(pattern)).await {
            Ok(Ok(())) => Ok(Subscription::new(hold)),
            Ok(Err(failure)) => Err(failure.of("subscribe")),
            Err(_) if self.link.is_live() => Err(error(
                ErrorKind::Timeout,
                format!("subscribe: no confirmation within {patience:?}"),
            )),
            Err(_) => Err(Failure::Down.of("subscribe")),
        }
    }

    /// Core NATS keeps nothing: every place before the newest is answered by a gap.
    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.open("history")?;
        if query.log != self.log {
            let message = format!("history: there is no log `{}`", query.log);
            return Err(error(ErrorKind::Rejected, message));
        }
        let items = match query.since {
            Since::After(place) => {
                let scope = match query.channels.as_slice() {
                    [only] => only.clone(),
                    _ => Pattern::all(),
                };
                self.link.intake.missed_since(place, scope)
            }
            Since::Oldest | Since::Last(_) | Since::Now => None,
        };
        let upto = items
            .as_ref()
            .map_or_else(|| self.link.intake.head(), |gap| gap.position().clone());
        Ok(History {
            items: items.into_iter().collect(),
            upto,
            more: false,
        })
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        let metrics = &self.link.metrics;
        let start = Instant::now();
        let result = self.prove().await;
        match &result {
            Ok(()) => metrics.probe_seconds.observe(start.elapsed().as_secs_f64()),
            Err(_) => metrics.probe_failures.inc(),
        }
        result
    }

    async fn close(&self) {
        self.link.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // It ends at its next turn; a panic in it ended it already.
            let _ = task.await;
        }
        self.link.intake.interest.close();
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: BACKEND,
            logs: LogMap::single(self.log.clone()),
            history: false,
            shared: false,
            positions: false,
            idempotency: false,
            max_data_bytes: Some(self.max_data_bytes),
        }
    }
}

impl fmt::Debug for NatsBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBroker")
            .field("log", &self.log)
            .field("live", &self.link.is_live())
            .finish_non_exhaustive()
    }
}
