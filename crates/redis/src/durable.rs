//! Durable channels: what is published is stored and announced in one step, so that every node can
//! resume from any place, and nobody misses an event while Redis holds it.

mod arrivals;
mod entry;
mod floors;
mod heal;
pub(crate) mod intake;
pub(crate) mod names;
mod page;
mod publishing;
mod read;
pub(crate) mod store;

use std::{fmt, ops::Range, sync::Arc, time::Instant};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, ErrorKind, History, HistoryQuery,
    Inlet, Interest, LogId, LogMap, MAX_BATCH, Pattern, Publication, Published, Source,
    Subscription, batch::Parts,
};
use futures_util::future::{join_all, try_join_all};

use self::{
    arrivals::DurableArrivals,
    entry::place,
    intake::Intake,
    names::Names,
    store::{Scripts, Stand, Store, Unread},
};
use crate::{
    command::Commands,
    complaint::Complaints,
    config::RedisConfig,
    error::{BACKEND, Failure, error},
    follow::TopicHold,
    home::Home,
    links::Links,
};

/// How often a page is read anew that a new epoch broke off.
const ATTEMPTS: usize = 3;
/// The oldest release that has what the scripts and pages need (`ZMSCORE`, exclusive ranges).
const OLDEST: (u32, u32) = (6, 2);
/// The oldest release with sharded pub/sub.
const OLDEST_SHARDED: (u32, u32) = (7, 0);

/// Channels that Redis keeps: see [`Broker`].
///
/// A clone is the same broker. When the last one is dropped, its links end.
#[derive(Clone)]
pub struct RedisDurable {
    shared: Arc<Shared>,
}

struct Shared {
    config: RedisConfig,
    names: Arc<Names>,
    interest: Interest,
    logs: Vec<Log>,
    /// One, or in a cluster one for each log.
    lanes: Vec<Lane>,
}

/// The links that logs share which one server serves.
struct Lane {
    arrivals: Arc<DurableArrivals>,
    links: Arc<Links>,
    _holes: Vec<TopicHold>,
    reads: Arc<Commands>,
}

/// One partition.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) store: Arc<Store>,
    pub(crate) intake: Arc<Intake>,
    links: Arc<Links>,
}

impl RedisDurable {
    /// Makes the links and begins every partition's log where there is none yet. Runs on a tokio
    /// runtime.
    ///
    /// # Errors
    /// - [`ErrorKind::Rejected`]: a bad setting, a wrong password, a user whose ACL forbids the
    ///   names of [`RedisConfig::prefix`], or logs that were made with another number of
    ///   partitions;
    /// - [`ErrorKind::Unsupported`]: a Redis older than 6.2;
    /// - [`ErrorKind::Unavailable`]: the server cannot be reached, or does not answer in time.
    ///
    /// No error shows the URL's secret.
    pub async fn connect(config: RedisConfig, metrics: BrokerMetrics) -> Result<Self, BrokerError> {
        let names = Names::new(&config.prefix, config.partitions);
        Self::open(config, names, metrics).await
    }

    /// The same with another family of logs.
    pub(crate) async fn open(
        config: RedisConfig,
        names: Names,
        metrics: BrokerMetrics,
    ) -> Result<Self, BrokerError> {
        let home = config.client()?;
        config.validate()?;
        let names = names.on(home.database());
        let names = if home.is_cluster() {
            names.sharded()
        } else {
            names
        };
        let making = Making {
            names: Arc::new(names),
            interest: Interest::new(|_| {}),
            scripts: Arc::new(Scripts::default()),
            metrics,
            config,
        };
        let all = 0..making.names.partitions();
        let lanes: Vec<_> = if home.is_cluster() {
            // Each partition has a slot of its own, which moves when it likes.
            let of = |partition| home.of(&making.names.tag(partition));
            all.map(|partition| (of(partition), partition..partition + 1))
                .collect()
        } else {
            vec![(home, all)]
        };
        let made = lanes
            .into_iter()
            .map(|(home, partitions)| making.lane(home, partitions));
        let (lanes, logs): (Vec<_>, Vec<_>) = try_join_all(made).await?.into_iter().unzip();
        Ok(Self {
            shared: Arc::new(Shared {
                config: making.config,
                names: making.names,
                interest: making.interest,
                logs: logs.into_iter().flatten().collect(),
                lanes,
            }),
        })
    }
}

impl RedisDurable {
    /// The links of the first partition.
    pub(crate) fn links(&self) -> &Links {
        &self.shared.lanes[0].links
    }

    /// The first partition.
    pub(crate) fn first_log(&self) -> Log {
        self.shared.logs[0].clone()
    }
}

/// What lanes are made of.
struct Making {
    config: RedisConfig,
    names: Arc<Names>,
    interest: Interest,
    scripts: Arc<Scripts>,
    metrics: BrokerMetrics,
}

impl Making {
    /// Makes the links of some partitions, and begins their logs where there are none yet.
    async fn lane(
        &self,
        home: Home,
        partitions: Range<usize>,
    ) -> Result<(Lane, Vec<Log>), BrokerError> {
        let config = &self.config;
        let reads = Arc::new(Commands::new(home.clone(), config));
        let mut parts = Vec::new();
        for partition in partitions.clone() {
            let log = LogId::parse(&self.names.log(partition));
            let log = log.map_err(|why| error(ErrorKind::Rejected, why.to_string()))?;
            let intake = Arc::new(Intake::new(
                self.names.clone(),
                self.interest.clone(),
                self.metrics.clone(),
                config.intake,
                log.clone(),
                partition,
            ));
            let store = Arc::new(Store {
                log,
                partition,
                names: self.names.clone(),
                max_data_bytes: config.max_data_bytes,
                retention: config.retention.clone(),
                max_channels: config.max_channels,
                key_window: config.key_window,
                reads: reads.clone(),
                scripts: self.scripts.clone(),
            });
            parts.push((store, intake));
        }
        let arrivals = Arc::new(DurableArrivals {
            names: self.names.clone(),
            first: partitions.start,
            intakes: parts.iter().map(|(_, intake)| intake.clone()).collect(),
            metrics: self.metrics.clone(),
            max_data_bytes: config.max_data_bytes,
            complaints: Complaints::default(),
        });
        let what = "connecting";
        let oldest = home.tag().map_or(OLDEST, |_| OLDEST_SHARDED);
        supported(&reads, oldest).await?;
        let links = Links::connect(home, config, &self.metrics, arrivals.clone()).await?;
        let links = Arc::new(links);
        let names = self.names.holes().iter().enumerate();
        let here = names.filter(|(partition, _)| partitions.contains(partition));
        let holes = here.map(|(_, name)| Source::Name(name.clone()));
        let holes = links.follow(holes.collect()).await;
        let holes = holes.map_err(|failure| failure.into_error(what))?;
        let mut logs = Vec::new();
        for (store, intake) in parts {
            let stand = store.stand(&intake.seen(), false).await;
            let stand = stand.map_err(|failure| failure.into_error(what))?;
            intake.start(&stand);
            let cancel = links.cancel.clone();
            let healing = heal::keep(
                intake.clone(),
                store.clone(),
                config.reconnect_delay,
                cancel,
            );
            tokio::spawn(healing);
            logs.push(Log {
                store,
                intake,
                links: links.clone(),
            });
        }
        let lane = Lane {
            arrivals,
            links,
            _holes: holes,
            reads,
        };
        Ok((lane, logs))
    }
}

/// Refuses a server that is too old for what a broker needs.
pub(crate) async fn supported(reads: &Commands, oldest: (u32, u32)) -> Result<(), BrokerError> {
    let feature = match oldest {
        OLDEST_SHARDED => " for sharded pub/sub, which a cluster needs",
        _ => "",
    };
    let answer = reads
        .run(|_, server| async move { Ok(server.version) })
        .await;
    let version = answer.map_err(|failure| failure.into_error("connecting"))?;
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) < oldest => {
            let (major, minor) = oldest;
            let message =
                format!("Redis {version} is too old; {major}.{minor} or newer is needed{feature}");
            Err(error(ErrorKind::Unsupported, message))
        }
        // A user may be forbidden to ask.
        _ => Ok(()),
    }
}

impl Log {
    /// Where the log stands.
    async fn stand(&self) -> Result<Stand, Failure> {
        let seen = self.intake.seen();
        let stand = self.store.stand(&seen, false).await?;
        self.intake.saw(&seen, stand.seen());
        Ok(stand)
    }

    async fn history(&self, query: &HistoryQuery) -> Result<History, Unread> {
        let stand = self.stand().await?;
        page::answer(&self.store, &stand, query).await
    }
}

impl Shared {
    /// Refuses what comes after the end.
    fn open(&self, what: &str) -> Result<(), BrokerError> {
        self.lanes.iter().try_for_each(|lane| lane.links.open(what))
    }

    /// Publishes into one partition, in this order.
    async fn announce(
        &self,
        partition: usize,
        batch: &[(&Channel, &Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let start = Instant::now();
        let refused = |why: BrokerError| batch.iter().map(|_| Err(why.clone())).collect();
        let Some(log) = self.logs.get(partition) else {
            return refused(error(ErrorKind::Rejected, "there is no such partition"));
        };
        if let Err(closed) = log.links.open("publishing") {
            return refused(closed);
        }
        let mut results = Vec::with_capacity(batch.len());
        for part in batch.chunks(MAX_BATCH) {
            let seen = log.intake.seen();
            let placed = log.store.publish(&log.links.commands, part, &seen).await;
            // The script takes places in their order: the last one tells what the others do.
            let newest = placed.iter().flatten().rfind(|placed| !placed.duplicate);
            if let Some(newest) = newest {
                log.intake.saw(&seen, newest.at.clone());
            }
            let published = placed.into_iter().map(|placed| {
                placed.map(|placed| Published {
                    position: Some(place(&log.store.log, placed.at.epoch, placed.at.offset)),
                    duplicate: placed.duplicate,
                })
            });
            results.extend(published);
        }
        for result in &results {
            log.links.published(result, start.elapsed());
        }
        results
    }

    async fn follow(&self, pattern: &Pattern, inlet: &Inlet) -> Result<Subscription, Failure> {
        let logs = &self.logs[self.names.partitions_of(pattern)];
        // Both before the bus is asked: the first message may stand right behind the confirmation.
        let floors: Vec<_> = logs.iter().map(|log| log.intake.hold(pattern)).collect();
        let hold = self.interest.add(pattern, inlet);
        // By its links, those of a lane's logs at once.
        let topics = self.lanes.iter().map(|lane| async move {
            let here = logs
                .iter()
                .filter(|log| Arc::ptr_eq(&log.links, &lane.links));
            let source = |log: &Log| self.names.source(log.store.partition, pattern);
            lane.links.follow(here.map(source).collect()).await
        });
        let topics = try_join_all(topics).await?;
        let stands = logs.iter().zip(&floors).map(|(log, floor)| async move {
            if floor.is_open() {
                floor.set(&log.stand().await?);
            }
            Ok::<_, Failure>(())
        });
        try_join_all(stands).await?;
        // In this order: while events are handed on, a pattern whose floor is gone is owed nothing.
        Ok(Subscription::new((topics, floors, hold)))
    }
}

#[async_trait]
impl Broker for RedisDurable {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let partition = self.shared.names.partition(channel.as_str());
        let batch = [(channel, &publication)];
        let mut results = self.shared.announce(partition, &batch).await;
        let silent = || error(ErrorKind::Timeout, "publishing: there is no answer");
        results.pop().unwrap_or_else(|| Err(silent()))
    }

    /// One round trip for what goes into one partition, of several at a time.
    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        let shared = &self.shared;
        let parts = Parts::of(batch, |(channel, _)| {
            shared.names.partition(channel.as_str())
        });
        let announced = parts.iter().map(|(partition, numbers)| async move {
            let part = numbers.iter().map(|number| &batch[*number]);
            let part: Vec<_> = part.map(|(channel, data)| (channel, data)).collect();
            (partition, shared.announce(partition, &part).await)
        });
        let silent = || error(ErrorKind::Timeout, "publishing: there is no answer");
        parts.join(join_all(announced).await, silent)
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        let what = "subscribing";
        self.shared.open(what)?;
        let followed = self.shared.follow(pattern, inlet).await;
        followed.map_err(|failure| failure.into_error(what))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        let what = "reading history";
        self.shared.open(what)?;
        let log = self
            .shared
            .logs
            .iter()
            .find(|log| log.store.log == query.log);
        let log = log.ok_or_else(|| {
            let message = format!("has no log {}", query.log);
            error(ErrorKind::Unsupported, message)
        })?;
        for _ in 0..ATTEMPTS {
            match log.history(&query).await {
                Ok(history) => return Ok(history),
                Err(Unread::Failed(failure)) => return Err(failure.into_error(what)),
                Err(Unread::Moved) => {}
            }
        }
        let message = format!("{what}: the log began again while it was read");
        Err(error(ErrorKind::Unavailable, message))
    }

    /// A canary; and every log is caught up with, or on its way.
    async fn probe(&self) -> Result<(), BrokerError> {
        let what = "probing";
        self.shared.open(what)?;
        let failing = self.shared.logs.iter().find_map(|log| log.intake.failing());
        let answer = match failing {
            Some(failure) => Err(failure),
            None => {
                let probes = self.shared.lanes.iter().map(|lane| lane.links.probe());
                try_join_all(probes).await.map(|_| ())
            }
        };
        answer.map_err(|failure| failure.into_error(what))
    }

    async fn close(&self) {
        self.shared.interest.close();
        let closing = self.shared.lanes.iter().map(|lane| async {
            lane.links.close().await;
            lane.reads.close().await;
        });
        join_all(closing).await;
    }

    fn capabilities(&self) -> Capabilities {
        let logs: Vec<_> = self
            .shared
            .logs
            .iter()
            .map(|log| log.store.log.clone())
            .collect();
        let (names, of) = (self.shared.names.clone(), logs.clone());
        Capabilities {
            backend: BACKEND,
            logs: LogMap::new(logs, move |pattern| {
                of[names.partitions_of(pattern)].to_vec()
            }),
            history: true,
            shared: true,
            positions: true,
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

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("links", &self.links)
            .field("logs", &self.arrivals)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDurable")
            .field("config", &self.shared.config)
            .field("interest", &self.shared.interest)
            .field("lanes", &self.shared.lanes)
            .finish_non_exhaustive()
    }
}
