//! The broker itself.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, Epoch, ErrorKind, Gap, GapCause,
    History, HistoryQuery, Inlet, Interest, Live, LogId, LogMap, Offset, Pattern, Position,
    Publication, Published, Since, Subscription, history::MAX_GAPS, interest::Hold,
};
use parking_lot::Mutex;
use redis::Script;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    command::Commands,
    config::RedisConfig,
    connection::Supervisor,
    envelope,
    error::{BACKEND, Failure, error},
    follow::Follow,
    ingest::Reader,
    probe::Probes,
    routes::{Routes, Target},
};

/// The name of the one log.
const LOG: &str = "raw";
/// How long `close` waits for the supervisor.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// A Redis that other programs and other nodes publish to, in raw mode.
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
    follow: Arc<Follow>,
    reader: Arc<Reader>,
    probes: Arc<Probes>,
    commands: Commands,
    publish_once: Script,
    metrics: BrokerMetrics,
    log: LogId,
    begin: Mutex<()>,
    closed: AtomicBool,
    kick: Arc<Notify>,
    cancel: CancellationToken,
    supervisor: Mutex<Option<JoinHandle<()>>>,
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
        let follow = Follow::new(
            config.linger,
            config.max_lingering,
            metrics.subscriptions.clone(),
        );
        let probes = Arc::new(Probes::new(routes.probe(start.epoch.0)));
        let reader = Arc::new(Reader::new(
            routes.clone(),
            interest.clone(),
            probes.clone(),
            metrics.clone(),
            config.max_data_bytes,
            start,
        ));
        let supervisor = Supervisor {
            client: client.clone(),
            config: config.clone(),
            follow: follow.clone(),
            reader: reader.clone(),
            probes: probes.clone(),
            metrics: metrics.clone(),
            kick: Arc::new(Notify::new()),
            cancel: CancellationToken::new(),
        };
        let commands = Commands::new(client, &config);
        let what = "connecting";
        commands
            .ready()
            .await
            .map_err(|failure| failure.into_error(what))?;
        let session = supervisor
            .connect()
            .await
            .map_err(|failure| failure.into_error(what))?;
        metrics.up.set(1);
        let (kick, cancel) = (supervisor.kick.clone(), supervisor.cancel.clone());
        let supervisor = tokio::spawn(supervisor.run(session));
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                routes,
                interest,
                follow,
                reader,
                probes,
                commands,
                publish_once: Script::new(include_str!("script/publish_once.lua")),
                metrics,
                log,
                begin: Mutex::new(()),
                closed: AtomicBool::new(false),
                kick,
                cancel,
                supervisor: Mutex::new(Some(supervisor)),
            }),
        })
    }
}

/// Another number in every process, so that a place in one is not taken for a place in another.
fn fresh_epoch() -> Epoch {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos() as u64);
    Epoch(fastrand::u64(..) ^ nanos)
}

impl Shared {
    fn open(&self, what: &str) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed.into_error(what));
        }
        Ok(())
    }

    /// Holds a pattern. Where nobody did, the log moves on, even if the bus is still subscribed to:
    /// what came in between went to nobody.
    fn hold(&self, pattern: &Pattern, inlet: &Inlet) -> Hold {
        // Over both steps, so that whoever finds the pattern held finds the log moved on.
        let _begin = self.begin.lock();
        let is_new = !self.interest.follows_pattern(pattern);
        let hold = self.interest.add(pattern, inlet);
        if is_new {
            self.reader.begin();
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
            Target::Own(name) => {
                let message =
                    envelope::encode(publication, SystemTime::now()).ok_or_else(|| {
                        let most = envelope::MAX_HEAD_BYTES;
                        let message = format!("the tags have more than {most} bytes");
                        error(ErrorKind::TooLarge, message)
                    })?;
                Ok((name, message))
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

    /// Answers whether the publication is a duplicate.
    async fn announce(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<bool, BrokerError> {
        let what = "publishing";
        self.open(what)?;
        let (name, message) = self.message(channel, &publication)?;
        let answer = match &publication.key {
            None => {
                let mut publish = redis::cmd("PUBLISH");
                publish.arg(name).arg(message);
                let run = |mut link| async move { publish.query_async::<u64>(&mut link).await };
                self.commands.run(run).await.map(|_| false)
            }
            Some(key) => {
                let window = self.config.key_window.as_millis().max(1);
                let mut once = self.publish_once.prepare_invoke();
                once.key(self.routes.key(channel, key.as_str()))
                    .arg(u64::try_from(window).unwrap_or(u64::MAX))
                    .arg(name)
                    .arg(message);
                let run = |mut link| async move { once.invoke_async::<u64>(&mut link).await };
                self.commands.run(run).await.map(|published| published == 0)
            }
        };
        answer.map_err(|failure| failure.into_error(what))
    }

    async fn canary(&self) -> Result<(), Failure> {
        if let Some(failure) = self.follow.down() {
            return Err(failure);
        }
        if !self.follow.is_whole() {
            return Err(Failure::Down("not everything is followed again".into()));
        }
        let mut canary = self.probes.canary();
        let before = self.reader.pushes();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.probes.name()).arg(canary.payload());
        let send = |mut link| async move { publish.query_async::<u64>(&mut link).await };
        self.commands.run(send).await?;
        if timeout(self.config.probe_timeout, canary.returned())
            .await
            .is_ok()
        {
            return Ok(());
        }
        if self.reader.pushes() == before {
            // The server takes publications and this link brings nothing: it only looks alive.
            self.kick.notify_one();
        }
        let why = "a canary did not come back over the link for subscriptions in time";
        Err(Failure::Unknown(why.into()))
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let metrics = &self.shared.metrics;
        let start = Instant::now();
        let answer = self.shared.announce(channel, publication).await;
        match &answer {
            Ok(duplicate) => {
                metrics
                    .publish_seconds
                    .observe(start.elapsed().as_secs_f64());
                if *duplicate {
                    &metrics.duplicates
                } else {
                    &metrics.published
                }
                .inc();
            }
            Err(_) => metrics.publish_errors.inc(),
        }
        Ok(Published {
            position: None,
            duplicate: answer?,
        })
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        let what = "subscribing";
        let shared = &self.shared;
        shared.open(what)?;
        let until = tokio::time::Instant::now() + shared.config.command_timeout;
        // Before the bus is asked: the first message may stand right behind the confirmation.
        let hold = shared.hold(pattern, inlet);
        let sources = shared.routes.sources(pattern).into_iter();
        let (topics, confirmations): (Vec<_>, Vec<_>) =
            sources.map(|source| shared.follow.hold(source)).unzip();
        for confirmation in confirmations.into_iter().flatten() {
            let answer = match timeout_at(until, confirmation).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(Failure::Closed),
                Err(_) => match shared.follow.down() {
                    None => Err(Failure::late()),
                    Some(Failure::Unknown(why)) => Err(Failure::Down(why)),
                    Some(failure) => Err(failure),
                },
            };
            answer.map_err(|failure| failure.into_error(what))?;
        }
        Ok(Subscription::new((topics, hold)))
    }

    /// Pub/sub keeps nothing: the answer is empty, or a gap up to the log's head.
    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.shared.open("reading history")?;
        if query.log != self.shared.log {
            let message = format!("has no log {}; it has {LOG}", query.log);
            return Err(error(ErrorKind::Unsupported, message));
        }
        let upto = self.shared.reader.head();
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
            let scopes = if query.channels.len() > MAX_GAPS {
                vec![Pattern::all()]
            } else {
                query.channels
            };
            items.extend(scopes.into_iter().map(|scope| {
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
        let shared = &self.shared;
        shared.open(what)?;
        let start = Instant::now();
        let answer = shared.canary().await;
        match &answer {
            Ok(()) => shared
                .metrics
                .probe_seconds
                .observe(start.elapsed().as_secs_f64()),
            Err(_) => shared.metrics.probe_failures.inc(),
        }
        answer.map_err(|failure| failure.into_error(what))
    }

    async fn close(&self) {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::Release);
        shared.cancel.cancel();
        shared.follow.close();
        shared.interest.close();
        shared.commands.close().await;
        let supervisor = shared.supervisor.lock().take();
        if let Some(supervisor) = supervisor {
            // It looks for the end wherever it waits; the bound is for a runtime that stands still.
            let _ = timeout(CLOSE_PATIENCE, supervisor).await;
        }
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
        self.cancel.cancel();
        self.follow.close();
        self.interest.close();
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker")
            .field("config", &self.shared.config)
            .field("interest", &self.shared.interest)
            .field("follow", &self.shared.follow)
            .field("reader", &self.shared.reader)
            .finish_non_exhaustive()
    }
}
