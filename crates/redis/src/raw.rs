//! Raw channels: what others publish, as it is.

mod arrivals;
pub(crate) mod routes;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, ErrorKind, Gap, GapCause, History,
    HistoryQuery, Inlet, Interest, Live, LogId, LogMap, Offset, Pattern, Position, Publication,
    Published, Since, Subscription, history::scopes, interest::Hold,
};
use parking_lot::Mutex;
use redis::Script;

use self::{
    arrivals::RawArrivals,
    routes::{Routes, Target},
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
    publish_once: Script,
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
        let client = config.client()?;
        let routes = Arc::new(config.routes()?);
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
        let links = Links::connect(client, &config, &metrics, arrivals.clone()).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                routes,
                interest,
                arrivals,
                links,
                publish_once: Script::new(include_str!("script/publish_once.lua")),
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

    /// The name to publish on and the message.
    fn message(
        &self,
        channel: &Channel,
        publication: &Publication,
    ) -> Result<(String, Vec<u8>), BrokerError> {
        let (length, most) = (publication.data.len(), self.config.max_data_bytes);
        if length > most {
            let message = format!("the data has {length} bytes; at most {most} are allowed");
            return Err(error(ErrorKind::TooLarge, message));
        }
        match self.routes.target(channel) {
            Target::Nowhere => {
                let message = format!("no ingest rule makes the channel {channel}");
                Err(error(ErrorKind::Unsupported, message))
            }
            Target::Raw(name) => {
                let extra = match publication {
                    p if p.event_type.is_some() => "an event type",
                    p if !p.tags.is_empty() => "tags",
                    p => return Ok((name, p.data.bytes().to_vec())),
                };
                let message = format!(
                    "{channel} is a raw channel of an ingest rule, which carries bare data; \
                     {extra} cannot be published on it"
                );
                Err(error(ErrorKind::Unsupported, message))
            }
            Target::Ambiguous(rule) => {
                let message = format!(
                    "{channel} is a raw channel of the ingest rule `{rule}`, which does not say \
                     on which one name to publish it; publish to Redis itself, or use a channel \
                     that the rule does not make"
                );
                Err(error(ErrorKind::Unsupported, message))
            }
        }
    }

    async fn announce(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let what = "publishing";
        self.links.open(what)?;
        let (name, message) = self.message(channel, &publication)?;
        let answer = match &publication.key {
            None => {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(name).arg(message);
                let run = |mut link, _| async move { publish.query_async::<u64>(&mut link).await };
                self.links.commands.run(run).await.map(|_| false)
            }
            Some(key) => {
                let window = self.config.key_window.as_millis().max(1);
                let mut once = self.publish_once.prepare_invoke();
                once.key(self.routes.key(channel, key.as_str()))
                    .arg(u64::try_from(window).unwrap_or(u64::MAX))
                    .arg(name)
                    .arg(message);
                let run = |mut link, _| async move { once.invoke_async::<u64>(&mut link).await };
                self.links
                    .commands
                    .run(run)
                    .await
                    .map(|published| published == 0)
            }
        };
        let duplicate = answer.map_err(|failure| failure.into_error(what))?;
        Ok(Published {
            position: None,
            duplicate,
        })
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let shared = &self.shared;
        let announced = shared.announce(channel, publication);
        shared.links.counted(announced).await
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
