//! The link to the server: the client, what it tells of the connection, and who waits for it.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Event, connection};
use fanfare_core::{
    BrokerError, BrokerMetrics, ErrorKind, GapCause, Interest, Keys, LinkUp, LogId,
};
use futures_util::future::ready;
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::NatsConfig,
    error::{Failure, error},
    follow::{Table, Tap},
    intake::{Intake, Loss},
    login,
    probe::Probe,
    subjects::Subjects,
};

/// The most commands that may be unproved. The client tells of a refusal through a queue of 128
/// that drops what does not fit: this keeps it from filling.
pub(crate) const UNPROVED: usize = 100;
/// How many subscriptions wait for the reader to take them up.
const TAPS: usize = 256;
/// How many losses wait to be told.
const LOSSES: usize = 2;
/// Within which time a server that is about to stop is left; nodes spread over it.
const LAME_DUCK_WINDOW: Duration = Duration::from_secs(2);

/// The link to the server.
///
/// One task reads what arrives ([`read`](Self::read)), one sends canaries
/// ([`prove`](Self::prove)); the connection itself is the client's, on a thread of its own.
pub(crate) struct Link {
    pub(crate) config: NatsConfig,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) intake: Intake,
    pub(crate) probe: Probe,
    pub(crate) table: Arc<Table>,
    pub(crate) metrics: BrokerMetrics,
    up: LinkUp,
    pub(crate) stop: CancellationToken,
    pub(crate) client: Client,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) recovery: Mutex<Recovery>,
    /// Counted in bytes.
    pub(crate) room: Semaphore,
    pub(crate) room_size: u32,
    pub(crate) taps: mpsc::Sender<Tap>,
    losses: mpsc::Sender<Loss>,
    /// There is a connection again, and the cut is not told. A client that had what it brings
    /// before the gap, broke off and went to another node, would hold a place behind a hole that
    /// nobody tells it.
    pub(crate) holds: AtomicBool,
}

/// Whether there is a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Down,
    Live,
    Closed,
}

/// Between a connection and its proof.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// How many connections there were.
    connection: u64,
    /// Whether the newest one is still to be proved.
    pub(crate) unproved: bool,
    /// What was lost with the one before.
    loss: Option<Loss>,
    /// The last one that was left for another server.
    left: u64,
}

/// What the reader takes up.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(crate) taps: mpsc::Receiver<Tap>,
    pub(crate) losses: mpsc::Receiver<Loss>,
}

/// A thread for the client, until `stop`. Then all that the client does ends, whatever it waits for.
///
/// The client tells of a refusal in one task and of a canary in another. On one thread tasks run in
/// the order in which they were woken, so in the order in which the server spoke. On the threads of
/// the callers' runtime, one refusal in five was told after the canary that came behind it.
fn home(stop: CancellationToken) -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("fanfare-nats".into())
        .spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok(handle)
}

impl Link {
    /// Reaches a server. The caller spawns [`read`](Self::read), and cancels `stop` in the end.
    pub(crate) async fn connect(
        config: NatsConfig,
        metrics: BrokerMetrics,
        log: LogId,
        stop: CancellationToken,
    ) -> Result<(Arc<Self>, Arrivals), BrokerError> {
        let servers = config.servers()?;
        let subjects = Arc::new(config.subjects()?);
        let home = home(stop.clone())
            .map_err(|why| error(ErrorKind::Unavailable, format!("connect: no thread: {why}")))?;
        let listener: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let (told, settings) = (listener.clone(), config.clone());
        let connecting = home.spawn(async move {
            login::connect(&settings, &servers, |options| {
                options.event_callback(move |event| {
                    if let Some(link) = told.get().and_then(Weak::upgrade) {
                        link.event(event);
                    }
                    ready(())
                })
            })
            .await
        });
        let closed = || Failure::Closed.of("connect");
        let client = connecting.await.map_err(|_| closed())??;
        let probe = Probe::new(subjects.probe(&format!("{:016x}", fastrand::u64(..))));
        let canaries = client.subscribe(probe.subject.clone()).await;
        let canaries = canaries.map_err(|_| closed())?;
        let (taps, new_taps) = mpsc::channel(TAPS);
        let (losses, new_losses) = mpsc::channel(LOSSES);
        let interest = Interest::new(|_| {});
        let room_size = config
            .outbound_bytes
            .clamp(UNPROVED, Semaphore::MAX_PERMITS);
        let room_size = u32::try_from(room_size).unwrap_or(u32::MAX);
        let link = Arc::new(Self {
            intake: Intake::new(
                log,
                interest,
                subjects.clone(),
                config.max_data_bytes,
                Keys::new(config.key_window, config.max_keys),
                metrics.clone(),
            ),
            table: Arc::new(Table::new(config.linger)),
            recovery: Mutex::new(Recovery {
                connection: connections(&client),
                unproved: true,
                loss: None,
                left: 0,
            }),
            phase: watch::Sender::new(Phase::Down),
            room: Semaphore::new(room_size as usize),
            config,
            subjects,
            probe,
            up: metrics.link(),
            metrics,
            stop,
            client,
            room_size,
            taps,
            losses,
            holds: AtomicBool::new(false),
        });
        // What the client told until now was of the connection that is there.
        let _ = listener.set(Arc::downgrade(&link));
        home.spawn(link.clone().prove(canaries));
        Ok((
            link,
            Arrivals {
                taps: new_taps,
                losses: new_losses,
            },
        ))
    }

    /// The largest message that the server takes, headers included.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    pub(crate) fn is_live(&self) -> bool {
        *self.phase.borrow() == Phase::Live
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == connection::State::Connected
    }

    /// Takes what the client tells. It drops what it cannot tell at once: so this never waits.
    fn event(self: &Arc<Self>, event: Event) {
        match event {
            Event::Disconnected => self.cut(),
            Event::Connected => self.renewed(),
            Event::SlowConsumer(_) => {
                self.intake
                    .warn("messages are lost: they come faster than they are taken");
                // The one that is lost follows everything that waits to be read.
                self.lose(GapCause::Lagged);
            }
            Event::LameDuckMode => self.leave(),
            Event::ServerError(why) => self.refused(&why.to_string()),
            Event::ClientError(why) => tracing::warn!(%why, "no link to NATS"),
            Event::Draining | Event::Closed => {}
        }
    }

    fn cut(&self) {
        let mut recovery = self.recovery.lock();
        recovery.unproved = false;
        let loss = || self.intake.loss(GapCause::Reconnected);
        recovery.loss.get_or_insert_with(loss);
        drop(recovery);
        self.up.set(false);
        self.enter(Phase::Down);
        self.probe.cut();
        tracing::warn!("the link to NATS is cut");
    }

    fn renewed(&self) {
        let connection = self.connections();
        if self.recovery.lock().connection == connection {
            return;
        }
        // Where the client could not tell of the cut.
        self.cut();
        let mut recovery = self.recovery.lock();
        recovery.connection = connection;
        recovery.unproved = true;
        // What the connection before brought is taken still, and comes before the gap.
        self.holds.store(recovery.loss.is_some(), Ordering::Release);
        drop(recovery);
        self.probe.renewed.notify_one();
        self.probe.asked.notify_one();
    }

    /// A canary is back that was sent on the `connection`-th connection. The client subscribed
    /// to everything before it took the canary up, so all of it is there.
    pub(crate) fn proved(&self, connection: u64) {
        let mut recovery = self.recovery.lock();
        if recovery.unproved && recovery.connection == connection {
            recovery.unproved = false;
            let loss = recovery.loss.take();
            drop(recovery);
            self.up.set(true);
            self.enter(Phase::Live);
            if let Some(loss) = loss {
                self.metrics.reconnects.inc();
                tracing::info!("the link to NATS is back");
                let _ = self.losses.try_send(loss);
            }
        }
        self.probe.back(self.connections());
    }

    /// The loss of a cut was told, unless the next connection is there already.
    pub(crate) fn told(&self) {
        let recovery = self.recovery.lock();
        let again = recovery.loss.is_some() && recovery.unproved;
        self.holds.store(again, Ordering::Release);
    }

    fn refused(&self, why: &str) {
        self.intake.warn(&format!("NATS refused: {why}"));
        if self.probe.refused(why) {
            return;
        }
        // Nobody waits for it: it was taken before, and is refused now.
        let subject = why.split('"').nth(1);
        if let Some(topic) = subject.and_then(|subject| self.table.find(subject))
            && why.to_ascii_lowercase().contains("for subscription")
        {
            self.table.refuse(&topic, Failure::Refused(why.into()));
            self.lose(GapCause::NotFollowed);
        }
    }

    /// Tells a loss of now; where one waits to be told already, it covers this one.
    fn lose(&self, cause: GapCause) {
        // The last place is for the loss of a cut, which may have begun before all that wait.
        if self.losses.capacity() > 1 {
            let _ = self.losses.try_send(self.intake.loss(cause));
        }
    }

    /// Goes elsewhere in a while, if there is another server.
    fn leave(self: &Arc<Self>) {
        let connection = self.connections();
        if std::mem::replace(&mut self.recovery.lock().left, connection) == connection {
            return;
        }
        let link = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LAME_DUCK_WINDOW.mul_f64(fastrand::f64())).await;
            let pool = timeout(link.config.command_timeout, link.client.server_pool()).await;
            let elsewhere = matches!(pool, Ok(Ok(pool)) if pool.len() > 1);
            if elsewhere && link.connections() == connection {
                tracing::info!("leaving a server that is about to stop");
                link.reconnect().await;
            }
        });
    }

    pub(crate) async fn reconnect(&self) {
        // Where the client's queue is full, its pings will find out.
        let _ = timeout(self.config.command_timeout, self.client.force_reconnect()).await;
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let change = *now != Phase::Closed && *now != phase;
            if change {
                *now = phase;
            }
            change
        });
    }

    /// Ends the link for all who wait, and the connection with it.
    pub(crate) fn close(&self) {
        self.stop.cancel();
        self.enter(Phase::Closed);
        self.room.close();
        self.probe.close();
        self.up.set(false);
        self.intake.interest.close();
    }

    /// How many connections there were: the client's own count, which misses none.
    pub(crate) fn connections(&self) -> u64 {
        connections(&self.client)
    }
}

fn connections(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}
