//! Retention for buses that keep nothing: any broker with a bounded replay ring on this node,
//! itself a broker.

mod follows;
mod pump;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;

use self::{
    follows::Follows,
    pump::{Pump, Rings},
};
use crate::{
    Broker, BrokerError, BrokerMetrics, Capabilities, Channel, ErrorKind, Gap, GapCause, History,
    HistoryQuery, Inlet, Interest, LogId, Pattern, Position, Publication, Published, Since,
    StoreConfig, Subscription, feed::FeedBounds, history::MAX_GAPS, store::Holding,
};

/// Bounds of a retention wrapper.
#[derive(Clone, Debug)]
pub struct RetainedConfig {
    /// What is retained of each log.
    pub store: StoreConfig,
    /// How long a pattern is still followed after nobody holds it, so that a client that comes
    /// back resumes without a gap. Zero lets go at once. Default: 60 s.
    pub linger: Duration,
    /// The most patterns that are followed in this way. Over it, the one that was let go of first
    /// is left. Default: 10,000.
    pub max_lingering: usize,
    /// Bounds of the queue between the bus and the rings.
    pub feed: FeedBounds,
}

impl Default for RetainedConfig {
    fn default() -> Self {
        Self {
            store: StoreConfig::default(),
            linger: Duration::from_secs(60),
            max_lingering: 10_000,
            feed: FeedBounds::default(),
        }
    }
}

/// Any broker, with what passes through this node retained.
///
/// It follows the inner broker for its own inlets, through one queue; a task puts what comes,
/// events and gaps, into the ring of its log and hands it on, in one step. Places are those of the
/// inner broker, so its restart is a new epoch here too.
///
/// History is exact for what this node has followed without interruption since the cursor. What
/// passed while it did not follow is answered by a gap: the ring knows nothing of it. A pattern is
/// still followed for a while after nobody holds it, so that coming back is no gap.
///
/// The inner broker's log may stand still while nothing is followed. So that a cursor from before
/// is not taken for one from after, beginning to follow takes a place of its own in the log of a
/// bus that keeps nothing: see [`Capabilities::history`].
#[derive(Debug)]
pub struct Retained {
    shared: Arc<Shared>,
    pump: Pump,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Broker>,
    /// The one inlet of the inner broker.
    inlet: Inlet,
    rings: Mutex<Rings>,
    interest: Interest,
    follows: Mutex<Follows>,
    config: RetainedConfig,
    metrics: BrokerMetrics,
}

impl Retained {
    /// Wraps a broker. What passes is kept from the first subscription on.
    pub fn new(inner: Arc<dyn Broker>, config: RetainedConfig, metrics: BrokerMetrics) -> Self {
        let (inlet, feed) = crate::feed(config.feed);
        let shared = Arc::new_cyclic(|shared: &std::sync::Weak<Shared>| {
            let shared = shared.clone();
            let on_idle = move |pattern| {
                if let Some(shared) = shared.upgrade() {
                    shared.let_go(&pattern);
                }
            };
            Shared {
                inner,
                inlet,
                rings: Mutex::default(),
                interest: Interest::new(on_idle),
                follows: Mutex::default(),
                config,
                metrics,
            }
        });
        let pump = Pump::new(feed);
        Self { shared, pump }
    }

    /// Deletes the retained events of the channels of a pattern, on this node, and answers how
    /// many there were. Cursors before them are answered by a gap from then on.
    pub fn purge(&self, pattern: &Pattern) -> usize {
        self.shared.rings.lock().purge(pattern)
    }

    /// What is retained now, over all logs.
    pub fn holding(&self) -> Holding {
        self.shared.rings.lock().holding()
    }

    fn open(&self) -> Result<(), BrokerError> {
        if self.shared.inlet.is_closed() {
            let backend = self.shared.inner.capabilities().backend;
            let message = "the broker is closed";
            return Err(BrokerError::new(ErrorKind::Closed, backend, message));
        }
        self.pump.start(&self.shared);
        Ok(())
    }

    /// Brings the ring of a log up to where the inner broker stands now, and answers that place:
    /// everything of followed channels up to there is in the ring.
    ///
    /// The inner broker has put all events up to the place that it names into the queue before it
    /// named it (law 1), so once the queue is worked off, they are here.
    async fn catch_up(&self, log: &LogId, channels: &[Pattern]) -> Result<Position, BrokerError> {
        let query = HistoryQuery {
            log: log.clone(),
            channels: channels.to_vec(),
            since: Since::Now,
            limit: std::num::NonZeroUsize::MIN,
            max_bytes: 1,
        };
        let upto = self.shared.inner.history(query).await?.upto;
        self.pump.drained().await;
        let mut rings = self.shared.rings.lock();
        Ok(rings.advance(&upto, &self.shared))
    }

    async fn follow(&self, pattern: &Pattern) -> Result<(), BrokerError> {
        if self.shared.follows.lock().revive(pattern) {
            return Ok(());
        }
        let (inner, inlet) = (&self.shared.inner, &self.shared.inlet);
        let subscription = inner.subscribe(pattern, inlet).await?;
        let mut since = Vec::new();
        for log in inner.capabilities().logs.of(pattern) {
            since.push(self.catch_up(&log, std::slice::from_ref(pattern)).await?);
        }
        self.shared
            .follows
            .lock()
            .insert(pattern, subscription, since);
        Ok(())
    }
}

impl Shared {
    /// Nobody holds the pattern any more: it lingers.
    fn let_go(&self, pattern: &Pattern) {
        let left = {
            let mut follows = self.follows.lock();
            if self.interest.follows_pattern(pattern) {
                return;
            }
            follows.linger(pattern, &self.config)
        };
        // Outside of the lock: unsubscribing is the inner broker's code.
        drop(left);
    }

    /// What this node did not follow of the patterns asked for, after the cursor.
    fn not_followed(&self, query: &HistoryQuery, cursor: &Position, head: &Position) -> Vec<Gap> {
        let follows = self.follows.lock();
        let gap = |pattern: &Pattern| {
            let since = follows.since(pattern, head);
            let next = since.unwrap_or(head.offset).min(head.offset);
            (next > cursor.offset).then(|| Gap {
                scope: pattern.clone(),
                cause: GapCause::NotFollowed,
                after: Some(cursor.clone()),
                next: head.at(next),
            })
        };
        let gaps: Vec<_> = query.channels.iter().filter_map(gap).collect();
        if gaps.len() <= MAX_GAPS {
            return gaps;
        }
        let widest = gaps.into_iter().max_by_key(|gap| gap.next.offset);
        let scope = Pattern::all();
        widest.map(|gap| Gap { scope, ..gap }).into_iter().collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Ends the pump, which holds nothing but its feed while it waits.
        self.inlet.close();
        self.interest.close();
    }
}

#[async_trait]
impl Broker for Retained {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        self.shared.inner.publish(channel, publication).await
    }

    async fn publish_all(
        &self,
        batch: &[(Channel, Publication)],
    ) -> Vec<Result<Published, BrokerError>> {
        self.shared.inner.publish_all(batch).await
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &Inlet,
    ) -> Result<Subscription, BrokerError> {
        self.open()?;
        // The hold comes first, so that what is followed for it does not linger out meanwhile.
        let hold = self.shared.interest.add(pattern, inlet);
        self.follow(pattern).await?;
        self.open()?;
        Ok(Subscription::new(hold))
    }

    async fn history(&self, query: HistoryQuery) -> Result<History, BrokerError> {
        self.open()?;
        let known = {
            let rings = self.shared.rings.lock();
            let ring = rings.get(&query.log);
            ring.is_some_and(|ring| match &query.since {
                Since::After(cursor) => ring.holds(cursor),
                _ => true,
            })
        };
        if !known {
            // A publication's place can be known to its publisher before it came past here.
            self.catch_up(&query.log, &query.channels).await?;
        }
        let rings = self.shared.rings.lock();
        let Some(ring) = rings.get(&query.log) else {
            let backend = self.shared.inner.capabilities().backend;
            let message = format!("has no log {}", query.log);
            return Err(BrokerError::new(ErrorKind::Unsupported, backend, message));
        };
        let start = ring.start(&query);
        let head = ring.head();
        let cursor = head.at(start.after);
        let losses = if start.tells {
            self.shared.not_followed(&query, &cursor, &head)
        } else {
            Vec::new()
        };
        Ok(ring.page(&query, start, losses))
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.shared.inner.probe().await
    }

    async fn close(&self) {
        self.shared.inner.close().await;
        self.shared.inlet.close();
        self.shared.interest.close();
        let left = self.shared.follows.lock().clear();
        drop(left);
    }

    /// The inner broker's, with history.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            history: true,
            ..self.shared.inner.capabilities()
        }
    }
}
