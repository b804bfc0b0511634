//! The links of a broker: one for commands, one for subscriptions with its supervisor.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fanfare_core::{BrokerError, BrokerMetrics, Epoch, Published, Source};
use parking_lot::Mutex;
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
    error::Failure,
    follow::{Follow, TopicHold},
    home::Home,
    probe::Probes,
    reader::{Arrivals, Reader},
};

/// How long `close` waits for the supervisor.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The links of a broker. Dropping it ends them.
pub(crate) struct Links {
    pub(crate) commands: Commands,
    /// Ends when the links are closed.
    pub(crate) cancel: CancellationToken,
    follow: Arc<Follow>,
    reader: Arc<Reader>,
    probes: Arc<Probes>,
    command_timeout: Duration,
    probe_timeout: Duration,
    metrics: BrokerMetrics,
    closed: AtomicBool,
    kick: Arc<Notify>,
    is_sharded: bool,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// Another number in every process, so that a place in one is not taken for a place in another.
pub(crate) fn fresh_epoch() -> Epoch {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos() as u64);
    Epoch(fastrand::u64(..) ^ nanos)
}

impl Links {
    /// Makes the links, subscribes to this broker's canaries and starts the supervisor.
    pub(crate) async fn connect(
        home: Home,
        config: &RedisConfig,
        metrics: &BrokerMetrics,
        arrivals: Arc<dyn Arrivals>,
    ) -> Result<Self, BrokerError> {
        Self::apart(home.clone(), home, config, metrics, arrivals).await
    }

    /// The same, where subscriptions and commands are not served alike.
    pub(crate) async fn apart(
        home: Home,
        of_commands: Home,
        config: &RedisConfig,
        metrics: &BrokerMetrics,
        arrivals: Arc<dyn Arrivals>,
    ) -> Result<Self, BrokerError> {
        // In a cluster they go the way of what they stand for, hence by its slot.
        let root = home.tag().unwrap_or(&config.prefix);
        let canaries = format!("{root}:probe:{:016x}", fresh_epoch().0);
        let probes = Arc::new(Probes::new(canaries));
        let follow = Follow::new(
            config.linger,
            config.max_lingering,
            metrics.subscriptions.clone(),
        );
        let reader = Arc::new(Reader::new(arrivals, probes.clone()));
        let supervisor = Supervisor {
            home: home.clone(),
            config: config.clone(),
            follow: follow.clone(),
            reader: reader.clone(),
            probes: probes.clone(),
            metrics: metrics.clone(),
            up: metrics.link(),
            kick: Arc::new(Notify::new()),
            cancel: CancellationToken::new(),
        };
        let is_sharded = home.tag().is_some();
        let commands = Commands::new(of_commands, config);
        let what = "connecting";
        let ready = commands.ready().await;
        ready.map_err(|failure| failure.into_error(what))?;
        let session = supervisor.connect().await;
        let session = session.map_err(|failure| failure.into_error(what))?;
        supervisor.up.set(true);
        let (kick, cancel) = (supervisor.kick.clone(), supervisor.cancel.clone());
        let supervisor = tokio::spawn(supervisor.run(session));
        Ok(Self {
            commands,
            cancel,
            follow,
            reader,
            probes,
            command_timeout: config.command_timeout,
            probe_timeout: config.probe_timeout,
            metrics: metrics.clone(),
            closed: AtomicBool::new(false),
            kick,
            is_sharded,
            supervisor: Mutex::new(Some(supervisor)),
        })
    }

    /// Refuses what comes after the end.
    pub(crate) fn open(&self, what: &str) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed.into_error(what));
        }
        Ok(())
    }

    /// Holds these names, and waits until the server has confirmed them.
    pub(crate) async fn follow(&self, sources: Vec<Source>) -> Result<Vec<TopicHold>, Failure> {
        let until = tokio::time::Instant::now() + self.command_timeout;
        let held = sources.into_iter().map(|source| self.follow.hold(source));
        let (topics, confirmations): (Vec<_>, Vec<_>) = held.unzip();
        for confirmation in confirmations.into_iter().flatten() {
            match timeout_at(until, confirmation).await {
                Ok(Ok(answer)) => answer?,
                Ok(Err(_)) => return Err(Failure::Closed),
                Err(_) => {
                    return Err(match self.follow.down() {
                        None => Failure::late(),
                        Some(Failure::Unknown(why)) => Failure::Down(why),
                        Some(failure) => failure,
                    });
                }
            }
        }
        Ok(topics)
    }

    /// Publishes by `announce`, which answers what [`Broker::publish`](fanfare_core::Broker::publish)
    /// does, and counts how it went.
    pub(crate) async fn counted(
        &self,
        announce: impl Future<Output = Result<Published, BrokerError>>,
    ) -> Result<Published, BrokerError> {
        let start = Instant::now();
        let answer = announce.await;
        self.published(&answer, start.elapsed());
        answer
    }

    /// Counts how a publication went.
    pub(crate) fn published(&self, answer: &Result<Published, BrokerError>, took: Duration) {
        self.metrics.publish_ended(answer, took);
    }

    /// Sends a canary through the bus and waits for it.
    pub(crate) async fn probe(&self) -> Result<(), Failure> {
        let start = Instant::now();
        let answer = self.canary().await;
        let took = start.elapsed().as_secs_f64();
        match &answer {
            Ok(()) => self.metrics.probe_seconds.observe(took),
            Err(_) => self.metrics.probe_failures.inc(),
        }
        answer
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
        let mut publish = redis::cmd(if self.is_sharded {
            "SPUBLISH"
        } else {
            "PUBLISH"
        });
        publish.arg(self.probes.name()).arg(canary.payload());
        let send = |mut link, _| async move { publish.query_async::<u64>(&mut link).await };
        self.commands.run(send).await?;
        let returned = timeout(self.probe_timeout, canary.returned()).await;
        if returned.is_ok() {
            return Ok(());
        }
        if self.reader.pushes() == before {
            // The server takes publications and this link brings nothing: it only looks alive.
            self.kick.notify_one();
        }
        let why = "a canary did not come back over the link for subscriptions in time";
        Err(Failure::Unknown(why.into()))
    }

    /// Lets go of the server. Answers once its supervisor has ended.
    pub(crate) async fn close(&self) {
        self.end();
        self.commands.close().await;
        let supervisor = self.supervisor.lock().take();
        if let Some(supervisor) = supervisor {
            // It looks for the end wherever it waits; the bound is for a runtime that stands still.
            let _ = timeout(CLOSE_PATIENCE, supervisor).await;
        }
    }

    fn end(&self) {
        self.closed.store(true, Ordering::Release);
        self.cancel.cancel();
        self.follow.close();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("follow", &self.follow)
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}
