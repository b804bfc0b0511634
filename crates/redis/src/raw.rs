//! Raw channels: what others publish, as it is.

mod arrivals;
pub(crate) mod publisher;
pub(crate) mod routes;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, ErrorKind, Gap, GapCause, History,
    HistoryQuery, Inlet, Interest, Live, LogId, LogMap, Offset, Pattern, Position, Publication,
    Published, Since, Subscription, history::scopes, interest::Hold,
};
use parking_lot::Mutex;

use self::{
    arrivals::RawArrivals,
    publisher::RawPublisher,
    routes::{Routes, Side},
};
use crate::{
    config::RedisConfig,
    error::{BACKEND, error},
    links::{Links, fresh_epoch},
};

/// The name of the one log.
const LOG: &str = "raw";

/// The channels that ingest rules make of what other programs publish: see [`Ingest`](crate::Ingest).
///
/// It takes publications for them too, as bare data under the same names. It has no other channels.
///
/// A clone is the same broker. When the last one is dropped, its links end.
#[derive(Clone)]
pub struct RedisBroker {
    shared: Arc<Shared>,
}

struct Shared {
    config: RedisConfig,
    routes: Arc<Routes>,
    interest: Interest,
    arrivals: Arc<RawArrivals>,
    links: Links,
    publisher: RawPublisher,
    log: LogId,
    begin: Mutex<()>,
}

impl RedisBroker {
    /// Makes both links, subscribes to this node's canaries and starts the supervisor, which keeps
    /// the links from then on. Runs on a tokio runtime.
    ///
    /// # Errors
    /// - [`ErrorKind::Rejected`]: a bad setting, a wrong password, or a user whose ACL forbids the
    ///   canaries (`{prefix}:probe:*`);
    /// - [`ErrorKind::Unsupported`]: a setting of a later release;
    /// - [`ErrorKind::Unavailable`]: the server cannot be reached, or does not answer in time.
    ///
    /// No error shows the URL's secret.
    pub async fn connect(config: RedisConfig, metrics: BrokerMetrics) -> Result<Self, BrokerError> {
        let home = config.client()?;
        let routes = Arc::new(config.routes(Side::Node)?);
        // A cluster brings what is published on any node to all of them, and keeps the order of what
        // is published on one.
        let of_commands = home.of(&routes.tag());
        let log = LogId::parse(LOG)
            .map_err(|why| error(ErrorKind::Rejected, "bad log name").with_source(why))?;
        let start = Position {
            log: log.clone(),
            epoch: fresh_epoch(),
            offset: Offset::ZERO,
        };
        let interest = Interest::new(|_| {});
        let arrivals = Arc::new(RawArrivals::new(
            routes.clone(),
            interest.clone(),
            metrics.clone(),
            config.max_data_bytes,
            start,
        ));
        let publisher = RawPublisher::new(&config, routes.clone());
        let links = Links::apart(home, of_commands, &config, &metrics, arrivals.clone()).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                routes,
                interest,
                arrivals,
                links,
                publisher,
                log,
                begin: Mutex::new(()),
            }),
        })
    }
}

impl Shared {
    /// Holds a pattern. Where nobody did, the log moves on, even if the bus is still subscribed to:
    /// what came in between went to nobody.
    fn hold(&self, pattern: &Pattern, inlet: &Inlet) -> Hold {
        // Over both steps, so that whoever finds the pattern held finds the log moved on.
        let _begin = self.begin.lock();
        let is_new = !self.interest.follows_pattern(pattern);
        let hold = self.interest.add(pattern, inlet);
        if is_new {
            self.arrivals.begin();
        }
        hold
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let Shared {
            links, publisher, ..
        } = &*self.shared;
        links.open("publishing")?;
        let published = publisher.publish(&links.commands, channel, &publication);
        links.counted(published).await
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        let what = "subscribing";
        let shared = &self.shared;
        shared.links.open(what)?;
        // Before the bus is asked: the first message may stand right behind the confirmation.
        let hold = shared.hold(pattern, inlet);
        let topics = shared.links.follow(shared.routes.sources(pattern)).await;
        let topics = topics.map_err(|failure| failure.into_error(what))?;
        Ok(Subscription::new((topics, hold)))
    }

    /// Pub/sub keeps nothing: the answer is empty, or a gap up to the log's head.
    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.shared.links.open("reading history")?;
        if query.log != self.shared.log {
            let message = format!("has no log {}; it has {LOG}", query.log);
            return Err(error(ErrorKind::Unsupported, message));
        }
        let upto = self.shared.arrivals.head();
        let mut items = Vec::new();
        if let Since::After(place) = query.since
            && place != upto
        {
            let known = place.is_after(&upto) == Some(false);
            let cause = if known {
                GapCause::Evicted
            } else {
                GapCause::NewEpoch
            };
            items.extend(scopes(&query.channels).into_iter().map(|scope| {
                Live::Gap(Gap {
                    scope,
                    cause,
                    after: Some(place.clone()),
                    next: upto.clone(),
                })
            }));
        }
        Ok(History {
            items,
            upto,
            more: false,
        })
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        let what = "probing";
        self.shared.links.open(what)?;
        let answer = self.shared.links.probe().await;
        answer.map_err(|failure| failure.into_error(what))
    }

    async fn close(&self) {
        self.shared.interest.close();
        self.shared.links.close().await;
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: BACKEND,
            logs: LogMap::single(self.shared.log.clone()),
            history: false,
            shared: false,
            positions: false,
            idempotency: true,
            max_data_bytes: Some(self.shared.config.max_data_bytes),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.interest.close();
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker")
            .field("config", &self.shared.config)
            .field("interest", &self.shared.interest)
            .field("links", &self.shared.links)
            .field("arrivals", &self.shared.arrivals)
            .finish_non_exhaustive()
    }
}
