//! The retained events of one log, in memory: bounded per channel by rules, and over all channels.
//!
//! The memory broker and the retention wrapper keep their events here. A store is plain data under
//! its owner's lock: whoever announces events puts them in and announces them under the same lock,
//! so that a page of history and the live feed meet without a hole.
//!
//! # Cost
//! Putting an event in costs one look-up of its channel and O(log n) at the edge of an ordered
//! map; each event is taken away once. Nothing ever walks over all events or all channels, except
//! where a question selects them all.

mod clean;
mod forgotten;
mod merge;
mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use self::forgotten::Forgotten;
pub use self::read::Start;
use crate::{
    BrokerMetrics, Channel, Epoch, Event, Evicted, Gap, LogId, Offset, Pattern, Position, Retention,
};

/// Bounds of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The bounds of each channel.
    pub retention: Retention,
    /// The most bytes over all channels, by [`Event::weight`] and a flat sum for each channel that
    /// retains something. Over it, the oldest events of the whole log go first. Default: 256 MiB.
    pub max_total_bytes: usize,
    /// The most channels that are known. Over it, channels without events are forgotten, even if
    /// they are followed, and then the oldest events go. Default: 1,000,000.
    pub max_channels: usize,
    /// The most gaps that are kept among the events. Over it, the two oldest become one that
    /// covers both. Default: 1024.
    pub max_gaps: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            max_total_bytes: 256 << 20,
            max_channels: 1_000_000,
            max_gaps: 1024,
        }
    }
}

/// What a channel that retains something weighs beside its events: its place in the tables and its
/// queue, measured with many channels of one event each.
const CHANNEL_WEIGHT: usize = 512;

/// The retained events of one epoch of one log.
#[derive(Debug)]
pub struct Store {
    log: LogId,
    epoch: Epoch,
    head: Offset,
    channels: HashMap<Channel, Chan>,
    /// The keys of `channels` in order, so that a pattern finds its channels by their beginning.
    names: BTreeSet<Channel>,
    /// The events of each retention rule. Within a rule all events live equally long, so the order
    /// of the log is the order of expiry, and the oldest event of the log is one of the first.
    by_rule: Vec<BTreeMap<Offset, Aged>>,
    /// Gaps in the order of their ends.
    gaps: VecDeque<Gap>,
    /// Channels that were found without events, each once: candidates for being forgotten.
    empty: VecDeque<Channel>,
    forgotten: Forgotten,
    /// No event after this place was taken away.
    gone_upto: Offset,
    holding: Holding,
    config: StoreConfig,
    metrics: BrokerMetrics,
}

#[derive(Debug)]
struct Aged {
    event: Arc<Event>,
    at: Instant,
}

#[derive(Debug)]
struct Chan {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    rule: usize,
    /// The newest event, retained or not.
    last: Offset,
    /// The newest event that was taken away.
    gone: Offset,
    /// Whether `empty` holds the channel.
    listed: bool,
}

/// What a store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holding {
    /// Retained events.
    pub events: usize,
    /// What they and their channels weigh, in bytes.
    pub bytes: usize,
    /// Channels that retain something.
    pub channels: usize,
    /// Channels that are known, whether they retain something or not.
    pub known: usize,
}

impl Store {
    /// An empty store of a log that stands at `head`. What came before is unknown to it.
    pub fn new(head: Position, config: StoreConfig, metrics: BrokerMetrics) -> Self {
        let rules = config.retention.rules().len();
        Self {
            log: head.log,
            epoch: head.epoch,
            head: head.offset,
            channels: HashMap::new(),
            names: BTreeSet::new(),
            by_rule: (0..rules).map(|_| BTreeMap::new()).collect(),
            gaps: VecDeque::new(),
            empty: VecDeque::new(),
            forgotten: Forgotten::default(),
            gone_upto: Offset::ZERO,
            holding: Holding::default(),
            config,
            metrics,
        }
    }

    /// The newest place.
    pub fn head(&self) -> Position {
        self.place(self.head)
    }

    /// A place in this store's epoch of its log.
    pub fn place(&self, offset: Offset) -> Position {
        Position {
            log: self.log.clone(),
            epoch: self.epoch,
            offset,
        }
    }

    /// What it holds now.
    pub fn holding(&self) -> Holding {
        Holding {
            known: self.channels.len(),
            ..self.holding
        }
    }

    /// The channel's newest event, retained or not; `None` where the channel is unknown.
    pub fn last(&self, channel: &Channel) -> Option<Offset> {
        self.channels.get(channel).map(|chan| chan.last)
    }

    /// What the channel's next event names as its predecessor, in a store that has seen its log
    /// from the beginning.
    ///
    /// It is `None` where the channel may have been forgotten. A number would have to be the
    /// newest place that was forgotten, which can be an event of another channel: whoever compares
    /// predecessors with what it saw would take that for a loss.
    pub fn previous(&self, channel: &Channel) -> Option<Offset> {
        match self.last(channel) {
            Some(last) => Some(last),
            None => (self.forgotten.of(channel) == Offset::ZERO).then_some(Offset::ZERO),
        }
    }

    /// Whether a gap that ends after `after` touches the channel.
    pub fn has_gap(&self, channel: &Channel, after: Offset) -> bool {
        let newest_first = self.gaps.iter().rev();
        newest_first
            .take_while(|gap| gap.next.offset > after)
            .any(|gap| gap.scope.matches(channel))
    }

    /// Moves the head to `offset`, where that is further: places up to it hold nothing more.
    pub fn advance(&mut self, offset: Offset) {
        self.head = self.head.max(offset);
    }

    /// Puts the log's newest event in, and takes away what is then over a bound.
    pub fn push(&mut self, event: Arc<Event>, now: Instant) {
        let offset = event.position.offset;
        self.head = self.head.max(offset);
        let weight = event.weight();
        let channel = event.channel.clone();
        if !self.channels.contains_key(&channel) {
            self.learn(&channel);
        }
        let Some(chan) = self.channels.get_mut(&channel) else {
            return;
        };
        if chan.events.is_empty() {
            self.holding.channels += 1;
            self.holding.bytes += CHANNEL_WEIGHT;
            self.metrics.retained_channels.inc();
            self.metrics.retained_bytes.add(CHANNEL_WEIGHT as i64);
        }
        chan.last = offset;
        chan.bytes += weight;
        chan.events.push_back(event.clone());
        self.by_rule[chan.rule].insert(offset, Aged { event, at: now });
        self.holding.events += 1;
        self.holding.bytes += weight;
        self.metrics.retained_events.inc();
        self.metrics.retained_bytes.add(weight as i64);
        self.bound_channel(&channel);
        self.bound_total();
    }

    /// Puts a gap in at its place among the events. It ends after every event before it.
    pub fn push_gap(&mut self, mut gap: Gap) {
        // What came before the gap has arrived in order, so the loss begins there at the earliest.
        if gap.after.is_none() {
            gap.after = Some(self.head());
        }
        self.head = self.head.max(gap.next.offset);
        let index = self
            .gaps
            .partition_point(|held| held.next.offset <= gap.next.offset);
        self.gaps.insert(index, gap);
        while self.gaps.len() > self.config.max_gaps.max(1) {
            self.join_oldest_gaps();
        }
    }

    fn join_oldest_gaps(&mut self) {
        let Some(oldest) = self.gaps.pop_front() else {
            return;
        };
        if let Some(gap) = self.gaps.front_mut() {
            gap.after = oldest.after;
            if !gap.scope.covers(&oldest.scope) {
                gap.scope = Pattern::all();
            }
        }
    }

    fn learn(&mut self, channel: &Channel) {
        let gone = self.forgotten.of(channel);
        let chan = Chan {
            events: VecDeque::new(),
            bytes: 0,
            rule: self.config.retention.index_of(channel),
            last: gone,
            gone,
            listed: false,
        };
        self.channels.insert(channel.clone(), chan);
        self.names.insert(channel.clone());
        while self.channels.len() > self.config.max_channels.max(1) {
            // The new channel is not listed, so it is never the one that is forgotten.
            if !self.forget_oldest_empty() && !self.take_oldest_of_all(Evicted::Idle) {
                break;
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.metrics.retained_events.sub(self.holding.events as i64);
        self.metrics.retained_bytes.sub(self.holding.bytes as i64);
        self.metrics
            .retained_channels
            .sub(self.holding.channels as i64);
    }
}
