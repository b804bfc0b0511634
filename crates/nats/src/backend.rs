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
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
    reader: Mutex<Option<JoinHandle<()>>>,
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
        let stop = CancellationToken::new();
        let unless_cancelled = stop.clone().drop_guard();
        let (link, arrivals) = Link::connect(config, metrics, log.clone(), stop).await?;
        let reader = tokio::spawn(link.clone().read(arrivals));
        link.attached().await?;
        unless_cancelled.disarm();
        Ok(Self {
            max_data_bytes: link.max_payload().saturating_sub(HEADER_ROOM).min(bound),
            link,
            log,
            reader: Mutex::new(Some(reader)),
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
        let target = self.link.subjects.publish(channel).ok_or_else(|| {
            // Raw channels have subjects of our own for what no rule makes.
            error(ErrorKind::Rejected, format!("no subject is {channel}'s"))
        })?;
        if publication.key.is_some() && target.names.key.is_none() {
            return Err(error(
                ErrorKind::Unsupported,
                "core NATS keeps no idempotency keys; publish without one, or give the channel's \
                 rule a key_header",
            ));
        }
        let headers = envelope::encode(publication, &target, SystemTime::now());
        let data = publication.data.bytes();
        let beside = envelope::size(&headers);
        let whole = beside + data.len();
        if data.len() > self.max_data_bytes || whole > self.link.max_payload() {
            let message = format!(
                "{} bytes of data and {} of headers; at most {} of data and {} together are taken",
                data.len(),
                beside,
                self.max_data_bytes,
                self.link.max_payload()
            );
            return Err(error(ErrorKind::TooLarge, message));
        }
        let patience = self.link.config.command_timeout;
        let mut sent = false;
        let publish = self
            .link
            .publish(target.subject, headers, data.clone(), &mut sent);
        match tokio::time::timeout(patience, publish).await {
            Ok(result) => result.map_err(|failure| failure.of("publish")),
            // The two are told apart: after the second, the publication is surely not stored.
            Err(_) if sent => Err(error(
                ErrorKind::Timeout,
                format!("publish: no confirmation within {patience:?}"),
            )),
            Err(_) => Err(error(
                ErrorKind::Unavailable,
                format!("publish: no room among the commands that wait, for {patience:?}"),
            )),
        }
    }

    async fn prove(&self) -> Result<(), BrokerError> {
        self.open("probe")?;
        let patience = self.link.config.probe_timeout;
        match tokio::time::timeout(patience, self.link.canary()).await {
            Ok(result) => result.map_err(|failure| failure.of("probe")),
            Err(_) => Err(error(
                ErrorKind::Timeout,
                format!(
                    "probe: the canary on `{}` is not back after {patience:?}",
                    self.link.probe.subject
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
        let subjects = self.link.subjects.follow(pattern);
        let shares: Vec<_> = subjects.iter().map(|s| self.link.table.hold(s)).collect();
        let opened = try_join_all(shares.iter().map(|share| self.link.open(&share.topic)));
        match tokio::time::timeout(patience, opened).await {
            Ok(Ok(_)) => Ok(Subscription::new((hold, shares))),
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
        self.link.close();
        let reader = self.reader.lock().take();
        if let Some(reader) = reader {
            // It ends at its next turn; a panic in it ended it already.
            let _ = reader.await;
        }
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

impl Drop for NatsBroker {
    fn drop(&mut self) {
        self.link.close();
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
