//! Streams that other services `XADD` to, as channels.

mod base;
mod discovery;
pub(crate) mod entry;
mod facts;
mod followed;
mod id;
mod index;
mod look;
mod metrics;
mod page;
mod reader;
pub(crate) mod rules;
mod table;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, Epoch, ErrorKind, Gap, GapCause,
    History, HistoryQuery, Inlet, Interest, Late, Live, LogId, LogMap, Offset, Pattern, Position,
    Publication, Published, Since, Subscription, history::scopes,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::metrics::StreamMetrics;
use self::{
    discovery::Discovery,
    entry::Fields,
    followed::{Followed, Outlet},
    look::{Bounds, Looks, Part},
    page::Pages,
    reader::Readers,
    rules::{Place, StreamRule, StreamRules},
    table::{Found, Table},
};
use crate::{
    command::Commands,
    complaint::Complaints,
    config::RedisConfig,
    durable::supported,
    error::{BACKEND, Failure, error},
    raw::routes::Side,
};

/// The oldest release that says of a stream what was deleted and how many entries there were.
const OLDEST: (u32, u32) = (7, 0);
/// How many streams are looked at in one round trip.
const LOOKS: usize = 32;

/// Streams of others as channels: see [`Broker`].
///
/// A clone is the same broker. When the last one is dropped, its links end.
#[derive(Clone)]
pub struct RedisStreams {
    shared: Arc<Shared>,
}

struct Shared {
    config: RedisConfig,
    rules: Arc<StreamRules>,
    interest: Interest,
    outlet: Arc<Outlet>,
    looks: Arc<Looks>,
    table: Arc<Table>,
    readers: Arc<Readers>,
    discovery: Arc<Discovery>,
    commands: Arc<Commands>,
    /// What is read goes over a link of its own: a large page must not delay publications.
    reads: Arc<Commands>,
    cancel: CancellationToken,
    closed: AtomicBool,
}

impl RedisStreams {
    /// Makes the links. Runs on a tokio runtime.
    ///
    /// # Errors
    /// - [`ErrorKind::Rejected`]: a bad setting, a wrong password, or a user whose ACL forbids the
    ///   keys that Fanfare writes beside the streams (`{prefix}:streams:*`);
    /// - [`ErrorKind::Unsupported`]: a Redis older than 7.0;
    /// - [`ErrorKind::Unavailable`]: the server cannot be reached, or does not answer in time.
    ///
    /// No error shows the URL's secret.
    pub async fn connect(
        config: RedisConfig,
        metrics: BrokerMetrics,
        stream_metrics: StreamMetrics,
    ) -> Result<Self, BrokerError> {
        let client = config.client()?;
        config.routes(Side::Node)?;
        let rules = Arc::new(config.stream_rules()?);
        let commands = Arc::new(Commands::new(client.clone(), &config));
        let reads = Arc::new(Commands::new(client.clone(), &config));
        supported(&reads, OLDEST).await?;
        let looks = Arc::new(Looks::new(&config.prefix, config.max_data_bytes));
        // A stream that is never there: its life is everybody's first.
        let nothing = looks.bell(0);
        let fields = Fields::default();
        let asked = looks.ask(&reads, &nothing, &fields, None, Part::Nothing, Bounds::NONE);
        let seen = asked
            .await
            .map_err(|failure| failure.into_error("connecting"))?;
        let weak: Arc<Mutex<Option<std::sync::Weak<Table>>>> = Arc::default();
        let idle = weak.clone();
        let interest = Interest::new(move |pattern| {
            let table = idle.lock().as_ref().and_then(std::sync::Weak::upgrade);
            if let Some(table) = table.filter(|_| pattern.is_wild()) {
                table.abandon(&pattern);
            }
        });
        let outlet = Arc::new(Outlet {
            interest: interest.clone(),
            metrics,
            max_data_bytes: config.max_data_bytes,
            complaints: Complaints::default(),
        });
        let cancel = CancellationToken::new();
        let readers = Readers::start(
            client,
            config.clone(),
            looks.clone(),
            outlet.clone(),
            rules.clone(),
            seen.base,
            cancel.clone(),
        );
        let table = Arc::new(Table::new(rules.clone(), interest.clone(), readers.clone()));
        *weak.lock() = Some(Arc::downgrade(&table));
        let discovery = Arc::new(Discovery {
            rules: rules.clone(),
            table: table.clone(),
            interest: interest.clone(),
            outlet: outlet.clone(),
            metrics: stream_metrics,
            reads: reads.clone(),
            interval: config.stream_search_interval,
            state: Mutex::default(),
            wake: Notify::new(),
        });
        let (bell, search) = (readers.clone(), discovery.clone());
        let (ringing, end) = (commands.clone(), cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = bell.keep_ringing(&ringing) => {}
                () = search.keep() => {}
            }
        });
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                rules,
                interest,
                outlet,
                looks,
                table,
                readers,
                discovery,
                commands,
                reads,
                cancel,
                closed: AtomicBool::new(false),
            }),
        })
    }
}

impl Shared {
    fn open(&self, what: &str) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed.into_error(what));
        }
        Ok(())
    }

    /// Begins to follow streams where they stand now. Those that cannot be read are told.
    async fn begin(&self, streams: Vec<Arc<Followed>>) -> Result<(), Failure> {
        for streams in streams.chunks(LOOKS) {
            let looks = streams.iter().map(|stream| async move {
                if !self.table.is_read(&stream.place.log) {
                    let (key, fields) = (&stream.place.key, &stream.fields);
                    let (looks, reads) = (&self.looks, &self.reads);
                    let seen = looks.ask(reads, key, fields, None, Part::Nothing, Bounds::NONE);
                    let seen = seen.await?;
                    self.readers.saw_base(seen.base);
                    stream.begin_after(&seen);
                }
                self.table.begun(&stream.place.log);
                Ok(())
            });
            let looked: Result<Vec<()>, Failure> = join_all(looks).await.into_iter().collect();
            looked?;
        }
        Ok(())
    }

    /// The epoch of every stream's first life, as it is now.
    async fn ask_base(&self) -> Result<Epoch, Failure> {
        let nothing = self.looks.bell(0);
        let fields = Fields::default();
        let (looks, reads) = (&self.looks, &self.reads);
        let asked = looks.ask(reads, &nothing, &fields, None, Part::Nothing, Bounds::NONE);
        Ok(asked.await?.base)
    }

    async fn search(&self, pattern: &Pattern) -> Result<(), Failure> {
        let patience = self.config.command_timeout * RedisConfig::PATIENCE;
        let searched = timeout(patience, self.discovery.search(pattern)).await;
        searched.unwrap_or_else(|_| Err(Failure::late()))
    }

    /// A page of a stream that is not there.
    fn nothing(&self, query: HistoryQuery) -> History {
        let upto = Position {
            log: query.log,
            epoch: self.readers.base(),
            offset: Offset::ZERO,
        };
        let items = match query.since {
            Since::After(place) if place != upto => {
                let gap = |scope| {
                    Live::Gap(Gap {
                        scope,
                        cause: GapCause::NewEpoch,
                        after: Some(place.clone()),
                        next: upto.clone(),
                    })
                };
                scopes(&query.channels).into_iter().map(gap).collect()
            }
            _ => Vec::new(),
        };
        History {
            items,
            upto,
            more: false,
        }
    }

    async fn follow(&self, pattern: &Pattern, inlet: &Inlet) -> Result<Subscription, BrokerError> {
        let what = "subscribing";
        let late = |failure: Failure| failure.into_error(what);
        // Before anything is looked at: what comes from then on reaches the inlet.
        let hold = self.interest.add(pattern, inlet);
        if let Some(channel) = pattern.as_channel() {
            let Some(place) = self.rules.place(&channel) else {
                let message = format!("no ingest rule makes the channel {channel}");
                return Err(error(ErrorKind::Unsupported, message));
            };
            let (followed, stream) = self.table.hold(&place)?;
            self.begin(vec![followed]).await.map_err(late)?;
            return Ok(Subscription::new((hold, stream)));
        }
        if !self.table.is_established(pattern) {
            self.search(pattern).await.map_err(late)?;
            self.begin(self.table.of(pattern)).await.map_err(late)?;
            self.table.establish(pattern);
        }
        Ok(Subscription::new(hold))
    }

    async fn announce(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        self.open("publishing")?;
        let unsupported = |message| error(ErrorKind::Unsupported, message);
        let Some(place) = self.rules.place(channel) else {
            let message = format!("no ingest rule makes the channel {channel}");
            return Err(unsupported(message));
        };
        let fields = &self.rules.rule(&place).fields;
        let entry = fields.write(&publication).map_err(|why| {
            let message = format!("{channel} is a stream of others, and its ingest rule {why}");
            unsupported(message)
        })?;
        let once = publication
            .key
            .as_ref()
            .map(|key| (key, self.config.key_window));
        let (looks, commands) = (&self.looks, &self.commands);
        let placed = looks
            .publish(commands, &place.key, channel, once, &entry)
            .await?;
        // The stream may be new; who follows a wildcard need not wait for the next search.
        if self.interest.follows(channel) && self.table.get(&place.log).is_none() {
            let found = self.table.found(&place, self.discovery.current());
            if found == Found::Refused {
                tracing::debug!(backend = BACKEND, %channel, "a stream over its rule's bound");
            }
        }
        Ok(Published {
            position: Some(Position {
                log: place.log,
                epoch: placed.epoch,
                offset: placed.offset,
            }),
            duplicate: placed.duplicate,
        })
    }

    /// The stream of a log that these channels are asked of.
    fn stream(&self, log: &LogId, channels: &[Pattern]) -> Option<Place> {
        if let Some(followed) = self.table.get(log) {
            return Some(followed.place.clone());
        }
        let channels = channels.iter().filter_map(Pattern::as_channel);
        let mut places = channels.filter_map(|channel| self.rules.place(&channel));
        places.find(|place| place.log == *log)
    }

    async fn read(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        let what = "reading history";
        self.open(what)?;
        let is_index = |rule: &&StreamRule| rule.index.as_ref() == Some(&query.log);
        if let Some(rule) = self.rules.rules().iter().find(is_index) {
            let base = self.ask_base().await;
            let base = base.map_err(|failure| failure.into_error(what))?;
            return Ok(index::page(rule, query, base));
        }
        if !id::is_log(&query.log) {
            let message = format!("has no log {}", query.log);
            return Err(error(ErrorKind::Unsupported, message));
        }
        let mut stream = self.stream(&query.log, &query.channels);
        if let Some(wild) = query.channels.iter().find(|pattern| pattern.is_wild())
            && stream.is_none()
        {
            // A log's name does not tell its stream, which may have come since the last search.
            let searched = self.search(wild).await;
            searched.map_err(|failure| failure.into_error(what))?;
            stream = self.stream(&query.log, &query.channels);
        }
        let Some(stream) = stream else {
            return Ok(self.nothing(query));
        };
        let known = self.table.get(&query.log).and_then(|stream| stream.known());
        let pages = Pages {
            fields: &self.rules.rule(&stream).fields,
            stream: &stream,
            looks: &self.looks,
            reads: &self.reads,
            max_data_bytes: self.config.max_data_bytes,
        };
        let page = pages.answer(&query, known).await;
        page.map_err(|failure| failure.into_error(what))
    }
}

#[async_trait]
impl Broker for RedisStreams {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let start = Instant::now();
        let answer = self.shared.announce(channel, publication).await;
        self.shared
            .outlet
            .metrics
            .publish_ended(&answer, start.elapsed());
        answer
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.shared.open("subscribing")?;
        self.shared.follow(pattern, inlet).await
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.shared.read(query).await
    }

    /// An entry of our own goes into a stream and comes back over every link that follows streams.
    async fn probe(&self) -> Result<(), BrokerError> {
        let what = "probing";
        self.shared.open(what)?;
        let start = Instant::now();
        let answer = self.shared.readers.canary(&self.shared.commands).await;
        let metrics = &self.shared.outlet.metrics;
        match &answer {
            Ok(()) => metrics.probe_seconds.observe(start.elapsed().as_secs_f64()),
            Err(_) => metrics.probe_failures.inc(),
        }
        answer.map_err(|failure| failure.into_error(what))
    }

    async fn close(&self) {
        let shared = &self.shared;
        if !shared.closed.swap(true, Ordering::AcqRel) {
            shared.readers.close(&shared.commands).await;
        }
        shared.cancel.cancel();
        shared.interest.close();
        shared.commands.close().await;
        shared.reads.close().await;
    }

    fn capabilities(&self) -> Capabilities {
        let (rules, table) = (self.shared.rules.clone(), self.shared.table.clone());
        let of = move |pattern: &Pattern| match pattern.as_channel() {
            Some(channel) => rules
                .place(&channel)
                .map(|place| place.log)
                .into_iter()
                .collect(),
            None => {
                let own = rules.rules_of(pattern);
                let indexes = own.filter_map(|rule| rules.rules()[rule].index.clone());
                let found = table
                    .of(pattern)
                    .into_iter()
                    .map(|stream| stream.place.log.clone());
                indexes.chain(found).collect()
            }
        };
        let (rules, table) = (self.shared.rules.clone(), self.shared.table.clone());
        let readers = self.shared.readers.clone();
        let indexes: Vec<_> = rules
            .rules()
            .iter()
            .filter_map(|rule| rule.index.clone())
            .collect();
        let none = indexes.first().cloned();
        let late = move |log: &LogId| {
            let index = match table.get(log) {
                Some(stream) => rules.rule(&stream.place).index.clone(),
                // What is not known cannot have been found.
                None if id::is_log(log) => none.clone(),
                None => None,
            };
            Some(Late {
                index: index?,
                begin: Position {
                    log: log.clone(),
                    epoch: readers.base(),
                    offset: Offset::ZERO,
                },
            })
        };
        Capabilities {
            backend: BACKEND,
            logs: LogMap::growing(indexes, of, late),
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
        self.cancel.cancel();
        self.interest.close();
    }
}

impl fmt::Debug for RedisStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreams")
            .field("config", &self.shared.config)
            .field("interest", &self.shared.interest)
            .field("discovery", &self.shared.discovery)
            .finish_non_exhaustive()
    }
}
