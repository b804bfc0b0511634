//! This node's live feed: one bounded queue that every subscription of a node flows into.
//!
//! One queue, because events of one log must reach a node in offset order over *all* its
//! subscriptions: a client that follows two channels holds one offset for both.
//!
//! Losing is a value. An inlet never waits and never drops in silence: what does not fit is
//! counted into a [`Gap`] that takes the lost events' place in the queue.
//! A publisher in the same process can wait for room first: [`Inlet::room`].

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Gap, GapCause, Live, Pattern, Position};

/// Bounds of a feed's queue.
#[derive(Clone, Copy, Debug)]
pub struct FeedBounds {
    /// The most items that wait.
    pub items: usize,
    /// About the most bytes that wait, by [`Event::weight`](crate::Event::weight).
    pub bytes: usize,
}

impl Default for FeedBounds {
    /// 16,384 items, 64 MiB.
    fn default() -> Self {
        Self {
            items: 16_384,
            bytes: 64 << 20,
        }
    }
}

/// Makes a feed and the inlet that fills it.
pub fn feed(bounds: FeedBounds) -> (Inlet, Feed) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::default()),
        filled: Notify::new(),
        drained: Notify::new(),
        bounds,
    });
    (
        Inlet {
            shared: shared.clone(),
        },
        Feed { shared },
    )
}

/// The end that brokers put events into. A clone is the same inlet.
#[derive(Clone, Debug)]
pub struct Inlet {
    shared: Arc<Shared>,
}

/// The end that the node reads. Dropping it closes the inlet.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    filled: Notify,
    drained: Notify,
    bounds: FeedBounds,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Live>,
    bytes: usize,
    /// One loss per log that is still growing; it enters the queue before the log's next event.
    losses: Vec<Gap>,
    lost: u64,
    closed: bool,
}

impl State {
    fn has_room(&self, bounds: FeedBounds) -> bool {
        self.queue.len() < bounds.items && self.bytes < bounds.bytes
    }

    fn push(&mut self, live: Live) {
        self.bytes += weight(&live);
        self.queue.push_back(live);
    }

    fn pop(&mut self) -> Option<Live> {
        let Some(live) = self.queue.pop_front() else {
            // Nothing came after the loss: it is told now rather than with the next event.
            return self.losses.pop().map(Live::Gap);
        };
        self.bytes -= weight(&live);
        Some(live)
    }

    fn lose(&mut self, live: &Live) {
        self.lost += 1;
        let next = live.position().clone();
        if let Some(loss) = self
            .losses
            .iter_mut()
            .find(|loss| loss.next.log == next.log)
        {
            loss.next = next;
            return;
        }
        let after = self.newest_queued(&next);
        self.losses.push(Gap {
            scope: Pattern::all(),
            cause: GapCause::Lagged,
            after,
            next,
        });
    }

    fn newest_queued(&self, like: &Position) -> Option<Position> {
        let of_log = |live: &&Live| live.position().log == like.log;
        self.queue
            .iter()
            .rev()
            .find(of_log)
            .map(|live| live.position().clone())
    }
}

fn weight(live: &Live) -> usize {
    match live {
        Live::Event(event) => event.weight(),
        Live::Gap(_) => 128,
    }
}

impl Inlet {
    /// Puts an item into the queue, or counts it into a gap where there is no room.
    /// Never waits. Items of one log are offered in offset order.
    pub fn offer(&self, live: Live) {
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        let log = &live.position().log;
        let growing = state.losses.iter().position(|loss| loss.next.log == *log);
        if !state.has_room(self.shared.bounds) {
            state.lose(&live);
        } else {
            if let Some(index) = growing {
                let loss = state.losses.swap_remove(index);
                state.push(Live::Gap(loss));
            }
            state.push(live);
        }
        drop(state);
        self.shared.filled.notify_one();
    }

    /// Waits until there is room, the feed is gone, or `patience` is over.
    /// A publisher that shares the process waits here, so that a busy node slows its publishers
    /// down instead of losing; the bound keeps a node that stands still from stopping them.
    pub async fn room(&self, patience: Duration) {
        if self.has_room() {
            return;
        }
        let wait = async {
            loop {
                let drained = self.shared.drained.notified();
                if self.has_room() {
                    break;
                }
                drained.await;
            }
        };
        // Over the bound the publication goes on and becomes a gap here, which is told.
        let _ = tokio::time::timeout(patience, wait).await;
    }

    fn has_room(&self) -> bool {
        let state = self.shared.state.lock();
        state.closed || state.has_room(self.shared.bounds)
    }

    /// Ends the feed: its reader gets what is queued, then the end.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.filled.notify_one();
        self.shared.drained.notify_waiters();
    }

    /// Whether the reader is gone or the feed was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().closed
    }

    /// Whether both are the same inlet.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Feed {
    /// The next item; `None` after the feed was closed and emptied.
    /// Cancel safe: a dropped call takes nothing.
    pub async fn next(&mut self) -> Option<Live> {
        let mut one = Vec::with_capacity(1);
        self.next_many(&mut one, 1).await;
        one.pop()
    }

    /// Waits for an item, then takes all that are there, up to `limit`. Answers how many; none
    /// after the feed was closed and emptied. Cancel safe: a dropped call takes nothing.
    pub async fn next_many(&mut self, into: &mut Vec<Live>, limit: usize) -> usize {
        loop {
            {
                let mut state = self.shared.state.lock();
                let before = into.len();
                while into.len() - before < limit {
                    let Some(live) = state.pop() else { break };
                    into.push(live);
                }
                let taken = into.len() - before;
                if taken > 0 {
                    drop(state);
                    self.shared.drained.notify_waiters();
                    return taken;
                }
                if state.closed {
                    return 0;
                }
            }
            // A permit stored by `notify_one` since the look above ends this wait at once.
            self.shared.filled.notified().await;
        }
    }

    /// How many items wait.
    pub fn depth(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    /// How many events were counted into gaps since the feed was made.
    pub fn lost(&self) -> u64 {
        self.shared.state.lock().lost
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.queue.clear();
        state.losses.clear();
        drop(state);
        self.shared.drained.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Channel, Data, Epoch, Event, LogId, Offset, Tags};

    fn event(log: &str, offset: u128) -> Live {
        Live::Event(Arc::new(Event {
            channel: Channel::parse("a").unwrap(),
            position: Position {
                log: LogId::parse(log).unwrap(),
                epoch: Epoch(1),
                offset: Offset(offset),
            },
            previous: None,
            event_type: None,
            data: Data::from("x"),
            tags: Tags::default(),
            published_at: SystemTime::UNIX_EPOCH,
        }))
    }

    fn told(live: &Live) -> (String, u128, Option<u128>) {
        let next = live.position().offset.0;
        match live {
            Live::Event(event) => (format!("event {}", event.position.log), next, None),
            Live::Gap(gap) => {
                let after = gap.after.as_ref().map(|after| after.offset.0);
                (format!("gap {}", gap.next.log), next, after)
            }
        }
    }

    #[tokio::test]
    async fn overflow_becomes_one_gap_per_log_in_its_place() {
        let (inlet, mut feed) = feed(FeedBounds {
            items: 2,
            bytes: 1 << 20,
        });
        for offset in 1..=5 {
            inlet.offer(event("a", offset));
        }
        inlet.offer(event("b", 1));
        assert_eq!(feed.lost(), 4);
        assert_eq!(
            told(&feed.next().await.unwrap()),
            ("event a".into(), 1, None)
        );
        inlet.offer(event("a", 6));
        let mut rest = Vec::new();
        while feed.next_many(&mut rest, 10).await > 0 && rest.len() < 4 {}
        let rest: Vec<_> = rest.iter().map(told).collect();
        assert_eq!(
            rest,
            [
                ("event a".into(), 2, None),
                ("gap a".into(), 5, Some(2)),
                ("event a".into(), 6, None),
                ("gap b".into(), 1, None),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_waits_for_room_but_not_for_ever() {
        let (inlet, mut feed) = feed(FeedBounds {
            items: 1,
            bytes: 1 << 20,
        });
        inlet.offer(event("a", 1));
        let patience = Duration::from_secs(5);
        let start = tokio::time::Instant::now();
        inlet.room(patience).await;
        assert_eq!(start.elapsed(), patience);

        let waiting = tokio::spawn({
            let inlet = inlet.clone();
            async move { inlet.room(patience).await }
        });
        tokio::task::yield_now().await;
        feed.next().await;
        let start = tokio::time::Instant::now();
        waiting.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_closed_feed_ends_after_what_is_queued() {
        let (inlet, mut feed) = feed(FeedBounds::default());
        inlet.offer(event("a", 1));
        inlet.close();
        inlet.offer(event("a", 2));
        assert!(feed.next().await.is_some());
        assert!(feed.next().await.is_none());
    }
}
