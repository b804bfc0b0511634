use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use fanfare_core::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, Epoch, ErrorKind, Event, History,
    HistoryQuery, Inlet, Interest, Keys, LogId, LogMap, Offset, Pattern, Position, Publication,
    Published, Store, Subscription, store::Holding,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::MemoryConfig;

const BACKEND: &str = "memory";
/// The name of the one log, where the config names no other.
const LOG: &str = "m";
/// How much a publish cleans up behind itself: more than it adds, so that cleaning keeps up.
const SWEEP_PER_PUBLISH: usize = 4;
/// How often an idle broker cleans up.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How much one hold of the lock cleans up then, and how many holds there are at a time.
const SWEEP_SLICE: usize = 512;
const SWEEP_SLICES: usize = 256;
/// How long a probe waits for the log.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// One log over all channels, in this process.
///
/// Offsets are 1, 2, 3, …; the epoch is drawn when the broker is made. What is published is stored
/// and announced under one lock. A clone is the same broker.
#[derive(Clone, Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    interest: Interest,
    log: LogId,
    config: MemoryConfig,
    metrics: BrokerMetrics,
    sweeping: AtomicBool,
}

#[derive(Debug)]
struct State {
    store: Store,
    keys: Keys,
    closed: bool,
}

impl MemoryBroker {
    /// An empty broker.
    ///
    /// # Panics
    /// Never: the log's name is fixed and valid.
    pub fn new(config: MemoryConfig, metrics: BrokerMetrics) -> Self {
        let log = config.log.clone().unwrap_or_else(|| {
            #[expect(clippy::expect_used, reason = "the name is fixed")]
            LogId::parse(LOG).expect("a valid name")
        });
        let head = Position {
            log: log.clone(),
            epoch: fresh_epoch(),
            offset: Offset::ZERO,
        };
        let state = State {
            store: Store::new(head, config.store.clone(), metrics.clone()),
            keys: Keys::new(config.key_window, config.max_keys),
            closed: false,
        };
        metrics.up.set(1);
        let subscriptions = metrics.subscriptions.clone();
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                interest: Interest::new(move |_| subscriptions.dec()),
                log,
                config,
                metrics,
                sweeping: AtomicBool::new(false),
            }),
        }
    }

    /// Deletes the retained events of the channels of a pattern, and answers how many there were.
    /// Cursors before them are answered by a gap from then on.
    pub fn purge(&self, pattern: &Pattern) -> usize {
        self.shared.state.lock().store.purge(pattern)
    }

    /// What is retained now.
    pub fn holding(&self) -> Holding {
        self.shared.state.lock().store.holding()
    }
}

/// Another number in every process, so that a place in one is not taken for a place in another.
fn fresh_epoch() -> Epoch {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos() as u64);
    Epoch(fastrand::u64(..) ^ nanos)
}

impl Shared {
    fn open(&self) -> Result<MutexGuard<'_, State>, BrokerError> {
        let state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        Ok(state)
    }

    fn place(&self, channel: &Channel, publication: Publication) -> Result<Published, BrokerError> {
        let now = Instant::now();
        let mut state = self.open()?;
        let State { store, keys, .. } = &mut *state;
        let name = publication.key.map(|key| (channel.clone(), key));
        if let Some(name) = &name
            && let Some(offset) = keys.get(name, now)
        {
            self.metrics.duplicates.inc();
            return Ok(Published {
                position: Some(store.place(offset)),
                duplicate: true,
            });
        }
        let head = store.head();
        let position = head.at(Offset(head.offset.0 + 1));
        let event = Arc::new(Event {
            channel: channel.clone(),
            previous: store.previous(channel),
            position: position.clone(),
            event_type: publication.event_type,
            data: publication.data,
            tags: publication.tags,
            published_at: SystemTime::now(),
        });
        store.push(event.clone(), now);
        // Offered under the lock: the order of announcement is the order of offsets.
        self.interest.offer(&event);
        store.sweep(now, SWEEP_PER_PUBLISH, |idle| self.interest.follows(idle));
        if let Some(name) = name {
            keys.insert(name, position.offset, now);
        }
        self.metrics.events.inc();
        self.metrics.published.inc();
        Ok(Published {
            position: Some(position),
            duplicate: false,
        })
    }

    /// Cleans up one slice. Answers whether more is left, or `None` where the broker was closed.
    fn sweep(&self) -> Option<bool> {
        let mut state = self.open().ok()?;
        let now = Instant::now();
        state.keys.expire(now);
        let keep = |idle: &Channel| self.interest.follows(idle);
        Some(state.store.sweep(now, SWEEP_SLICE, keep))
    }

    /// Starts cleaning in the background, once. `new` may be called outside of a runtime.
    fn keep_clean(self: &Arc<Self>) {
        if !self.sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(clean(Arc::downgrade(self)));
        }
    }
}

async fn clean(broker: Weak<Shared>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for _ in 0..SWEEP_SLICES {
            let Some(shared) = broker.upgrade() else {
                return;
            };
            match shared.sweep() {
                None => return,
                Some(false) => break,
                Some(true) => {}
            }
            drop(shared);
            tokio::task::yield_now().await;
        }
    }
}

fn closed() -> BrokerError {
    BrokerError::new(ErrorKind::Closed, BACKEND, "the broker is closed")
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let start = std::time::Instant::now();
        self.shared.keep_clean();
        let patience = Instant::now() + self.shared.config.patience;
        for inlet in self.shared.interest.inlets(channel) {
            inlet
                .room(patience.saturating_duration_since(Instant::now()))
                .await;
        }
        let placed = self.shared.place(channel, publication);
        match &placed {
            Ok(_) => self
                .shared
                .metrics
                .publish_seconds
                .observe(start.elapsed().as_secs_f64()),
            Err(_) => self.shared.metrics.publish_errors.inc(),
        }
        placed
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.shared.keep_clean();
        // Under the lock, so that no event is stored before the hold and announced after it.
        let _state = self.shared.open()?;
        if !self.shared.interest.follows_pattern(pattern) {
            self.shared.metrics.subscriptions.inc();
        }
        Ok(Subscription::new(self.shared.interest.add(pattern, inlet)))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        let state = self.shared.open()?;
        if query.log != self.shared.log {
            let message = format!("has no log {}; it has {}", query.log, self.shared.log);
            return Err(BrokerError::new(ErrorKind::Unsupported, BACKEND, message));
        }
        Ok(state.store.history(&query))
    }

    /// Proves that the log can be taken and that a feed of this process hands on: there is no bus
    /// behind it that could fail by itself.
    async fn probe(&self) -> Result<(), BrokerError> {
        let start = std::time::Instant::now();
        let log_answers = async {
            loop {
                // An `if let`, so that the lock is not held over the wait.
                if let Some(state) = self.shared.state.try_lock() {
                    return if state.closed { Err(closed()) } else { Ok(()) };
                }
                tokio::time::sleep(PROBE_EVERY).await;
            }
        };
        let answer = tokio::time::timeout(PROBE_TIMEOUT, log_answers)
            .await
            .unwrap_or_else(|_| {
                let message = "the log did not answer in time";
                Err(BrokerError::new(ErrorKind::Timeout, BACKEND, message))
            });
        match &answer {
            Ok(()) => self
                .shared
                .metrics
                .probe_seconds
                .observe(start.elapsed().as_secs_f64()),
            Err(_) => self.shared.metrics.probe_failures.inc(),
        }
        answer
    }

    async fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.interest.close();
        self.shared.metrics.up.set(0);
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: BACKEND,
            logs: LogMap::single(self.shared.log.clone()),
            history: true,
            shared: false,
            positions: true,
            idempotency: true,
            max_data_bytes: None,
        }
    }
}
