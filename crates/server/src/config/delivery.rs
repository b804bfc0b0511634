//! `[delivery]`, `[heartbeat]`, `[[slow]]`, `[[write_delay]]` and `[[retention]]`.

use fanfare_core::{Pattern, RetentionRule, feed::FeedBounds};
use fanfare_delivery::{DeliveryConfig, SlowPolicy, SlowRule, WriteDelayRule};
use serde::{Deserialize, Serialize};

use super::{
    choice::choice,
    values::{Bytes, Selector, Span},
};

/// Bounds and times of delivery.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Delivery {
    /// Zero: one for each core.
    pub(crate) shards: usize,
    pub(crate) socket: bool,
    pub(crate) outbox_bytes: Bytes,
    pub(crate) slow_after: Span,
    pub(crate) burst_bytes: Bytes,
    pub(crate) ring_bytes: Bytes,
    pub(crate) page_events: usize,
    pub(crate) page_bytes: Bytes,
    pub(crate) history_calls: usize,
    pub(crate) history_calls_per_client: usize,
    pub(crate) stall_timeout: Span,
    pub(crate) retry: Span,
    pub(crate) write_delay: Span,
    pub(crate) feed_items: usize,
    pub(crate) feed_bytes: Bytes,
}

/// When a stream is idle.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Heartbeat {
    pub(crate) interval: Span,
}

choice! {
    /// What to do with a subscriber whose outbox is full.
    Policy {
        /// End the stream.
        Close = "close",
        /// Drop, and say so.
        Gap = "gap",
        /// Keep the newest.
        Latest = "latest",
    }
}

/// What to do with slow subscribers of some channels.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slow {
    pub(crate) channels: Selector,
    pub(crate) policy: Policy,
}

/// How long the events of some channels may wait to be written with later ones.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteDelay {
    pub(crate) channels: Selector,
    pub(crate) delay: Span,
}

/// What some channels retain.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) channels: Selector,
    #[serde(default = "max_count")]
    pub(crate) max_count: usize,
    #[serde(default = "max_bytes")]
    pub(crate) max_bytes: Bytes,
    #[serde(default = "max_age")]
    pub(crate) max_age: Span,
}

fn rule() -> RetentionRule {
    RetentionRule::of(Pattern::all())
}
fn max_count() -> usize {
    rule().max_count
}
fn max_bytes() -> Bytes {
    Bytes(rule().max_bytes)
}
fn max_age() -> Span {
    Span(rule().max_age)
}

impl Default for Delivery {
    fn default() -> Self {
        let room = DeliveryConfig::default();
        Self {
            shards: 0,
            socket: room.socket,
            outbox_bytes: Bytes(room.outbox_bytes),
            slow_after: Span(room.slow_after),
            burst_bytes: Bytes(room.burst_bytes),
            ring_bytes: Bytes(room.ring_bytes),
            page_events: room.page_events,
            page_bytes: Bytes(room.page_bytes),
            history_calls: room.history_calls,
            history_calls_per_client: room.history_calls_per_client,
            stall_timeout: Span(room.stall_timeout),
            retry: Span(room.retry),
            write_delay: Span(room.write_delay),
            feed_items: room.feed.items,
            feed_bytes: Bytes(room.feed.bytes),
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: Span(DeliveryConfig::default().heartbeat),
        }
    }
}

impl Delivery {
    /// As the room wants it.
    pub(crate) fn to_room(
        &self,
        node: &str,
        heartbeat: &Heartbeat,
        slow: &[Slow],
        write_delay: &[WriteDelay],
    ) -> DeliveryConfig {
        let cores = DeliveryConfig::default().shards;
        DeliveryConfig {
            node: node.into(),
            shards: if self.shards == 0 { cores } else { self.shards },
            socket: self.socket,
            outbox_bytes: self.outbox_bytes.0,
            slow_after: self.slow_after.0,
            burst_bytes: self.burst_bytes.0,
            ring_bytes: self.ring_bytes.0,
            page_events: self.page_events,
            page_bytes: self.page_bytes.0,
            history_calls: self.history_calls,
            history_calls_per_client: self.history_calls_per_client,
            heartbeat: heartbeat.interval.0,
            stall_timeout: self.stall_timeout.0,
            retry: self.retry.0,
            slow: slow.iter().map(Slow::to_room).collect(),
            write_delay: self.write_delay.0,
            write_delays: write_delay.iter().map(WriteDelay::to_room).collect(),
            feed: self.feed(),
        }
    }

    /// The bounds of a queue of events.
    pub(crate) fn feed(&self) -> FeedBounds {
        FeedBounds {
            items: self.feed_items,
            bytes: self.feed_bytes.0,
        }
    }
}

impl Slow {
    fn to_room(&self) -> SlowRule {
        SlowRule {
            channels: self.channels.0.clone(),
            policy: match self.policy {
                Policy::Close => SlowPolicy::Close,
                Policy::Gap => SlowPolicy::Gap,
                Policy::Latest => SlowPolicy::Latest,
            },
        }
    }
}

impl WriteDelay {
    fn to_room(&self) -> WriteDelayRule {
        WriteDelayRule {
            channels: self.channels.0.clone(),
            delay: self.delay.0,
        }
    }
}

impl Retention {
    /// As the stores want it.
    pub(crate) fn to_room(&self) -> RetentionRule {
        RetentionRule {
            channels: self.channels.0.clone(),
            max_count: self.max_count,
            max_bytes: self.max_bytes.0,
            max_age: self.max_age.0,
        }
    }
}
