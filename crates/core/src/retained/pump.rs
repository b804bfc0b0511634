//! From the inner broker's feed into the rings, and on to the inlets.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use super::Shared;
use crate::{
    Channel, Event, Feed, Gap, GapCause, Live, LogId, Pattern, Position, Store, store::Holding,
};

/// The most items that are put into the rings under one hold of the lock.
const BATCH: usize = 256;
/// The most callers that wait for the queue to be worked off.
const WAITING: usize = 64;
/// How much an event cleans up behind itself: more than it adds, so that cleaning keeps up.
const SWEEP_PER_EVENT: usize = 4;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEEP_SLICE: usize = 512;
const SWEEP_SLICES: usize = 256;

type Asked = oneshot::Sender<()>;

/// The task between the inner broker's feed and the rings.
#[derive(Debug)]
pub(super) struct Pump {
    ask: mpsc::Sender<Asked>,
    /// Until it is started, which needs a runtime.
    idle: Mutex<Option<(Feed, mpsc::Receiver<Asked>)>>,
}

impl Pump {
    pub(super) fn new(feed: Feed) -> Self {
        let (ask, asked) = mpsc::channel(WAITING);
        Self {
            ask,
            idle: Mutex::new(Some((feed, asked))),
        }
    }

    /// Starts it, once.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        if let Some((feed, asked)) = self.idle.lock().take() {
            tokio::spawn(run(Arc::downgrade(shared), feed, asked));
        }
    }

    /// Waits until everything that is in the queue now is in the rings.
    pub(super) async fn drained(&self) {
        let (done, answer) = oneshot::channel();
        if self.ask.send(done).await.is_ok() {
            // An error: the pump has ended, and with it the queue.
            let _ = answer.await;
        }
    }
}

async fn run(shared: Weak<Shared>, mut feed: Feed, mut asked: mpsc::Receiver<Asked>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ask = tokio::select! {
            Some(ask) = asked.recv() => Some(ask),
            taken = feed.next_many(&mut batch, BATCH) => {
                if taken == 0 {
                    break;
                }
                None
            }
            _ = tick.tick() => {
                if sweep(&shared).await.is_none() {
                    return;
                }
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.take(&mut batch);
        if let Some(ask) = ask {
            drain(&shared, &mut feed, &mut batch);
            // An error: the caller has gone.
            let _ = ask.send(());
        }
    }
    if let Some(shared) = shared.upgrade() {
        shared.interest.close();
    }
}

/// Works off what is in the queue now, and no more than that if the queue never ends.
fn drain(shared: &Shared, feed: &mut Feed, batch: &mut Vec<Live>) {
    // A loss that is still growing stands beside the queue and enters it ahead of what comes next.
    const LOSSES: usize = 64;
    let mut left = feed.depth() + LOSSES;
    while left > 0 {
        match feed.next_many(batch, BATCH).now_or_never() {
            None | Some(0) => return,
            Some(taken) => left = left.saturating_sub(taken),
        }
        shared.take(batch);
    }
}

async fn sweep(shared: &Weak<Shared>) -> Option<()> {
    for _ in 0..SWEEP_SLICES {
        let shared = shared.upgrade()?;
        let more = shared.sweep();
        drop(shared);
        if !more {
            break;
        }
        tokio::task::yield_now().await;
    }
    Some(())
}

impl Shared {
    fn take(&self, batch: &mut Vec<Live>) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut rings = self.rings.lock();
        for live in batch.drain(..) {
            // Offered under the lock: what history answers and what comes live meet without a hole.
            match live {
                Live::Event(event) => rings.take_event(event, now, self),
                Live::Gap(gap) => rings.take_gap(gap, self),
            }
        }
    }

    fn sweep(&self) -> bool {
        let left = self.follows.lock().expire(&self.config, &self.interest);
        // Outside of the lock: unsubscribing is the inner broker's code.
        drop(left);
        let now = Instant::now();
        let keep = |channel: &Channel| self.follows.lock().covers(channel);
        let mut rings = self.rings.lock();
        let mut more = false;
        for ring in rings.by_log.values_mut() {
            more |= ring.sweep(now, SWEEP_SLICE, keep);
        }
        more
    }
}

/// A ring for each log of the inner broker.
#[derive(Debug, Default)]
pub(super) struct Rings {
    by_log: HashMap<LogId, Store>,
}

impl Rings {
    pub(super) fn get(&self, log: &LogId) -> Option<&Store> {
        self.by_log.get(log)
    }

    /// The ring of a place's log; a new one, which stands there, where there is none of its epoch.
    fn ring(&mut self, at: &Position, shared: &Shared) -> &mut Store {
        let fresh = || {
            Store::new(
                at.clone(),
                shared.config.store.clone(),
                shared.metrics.clone(),
            )
        };
        let ring = self.by_log.entry(at.log.clone()).or_insert_with(fresh);
        if ring.head().epoch != at.epoch {
            *ring = fresh();
        }
        ring
    }

    /// Moves a log's head to a place, and answers where it stands then.
    pub(super) fn advance(&mut self, upto: &Position, shared: &Shared) -> Position {
        let ring = self.ring(upto, shared);
        ring.advance(upto.offset);
        ring.head()
    }

    pub(super) fn purge(&mut self, pattern: &Pattern) -> usize {
        self.by_log
            .values_mut()
            .map(|ring| ring.purge(pattern))
            .sum()
    }

    pub(super) fn holding(&self) -> Holding {
        let each = self.by_log.values().map(Store::holding);
        each.fold(Holding::default(), |sum, one| Holding {
            events: sum.events + one.events,
            bytes: sum.bytes + one.bytes,
            channels: sum.channels + one.channels,
            known: sum.known + one.known,
        })
    }

    fn take_event(&mut self, mut event: Arc<Event>, now: Instant, shared: &Shared) {
        let before = event.position.at(event.position.offset.before());
        let ring = self.ring(&before, shared);
        let head = ring.head();
        if event.position.offset <= head.offset {
            // The log is past that place: the bus brought the event twice.
            return;
        }
        if event.previous.is_none()
            && let Some(last) = ring.last(&event.channel)
        {
            let since = shared.follows.lock().channel_since(&event.channel, &head);
            // Only an event that this node would have seen can be known to be the one before.
            if since.is_some_and(|since| since <= last) && !ring.has_gap(&event.channel, last) {
                Arc::make_mut(&mut event).previous = Some(last);
            }
        }
        ring.push(event.clone(), now);
        shared.interest.offer(&event);
        ring.sweep(now, SWEEP_PER_EVENT, |idle| {
            shared.follows.lock().covers(idle)
        });
    }

    fn take_gap(&mut self, gap: Gap, shared: &Shared) {
        if gap.cause == GapCause::Lagged {
            // This node's own; all others were counted by the inner broker.
            shared.metrics.gap(gap.cause);
        }
        self.ring(&gap.next, shared).push_gap(gap.clone());
        shared.interest.offer_gap(&gap);
    }
}
