//! The bounds and times of delivery.

use std::time::Duration;

use fanfare_core::{Pattern, feed::FeedBounds};

/// The bounds and times of delivery.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// This node's name, shown in `fanfare.hello`.
    pub node: String,
    /// How many shards fan out; one a core is right.
    pub shards: usize,
    /// Whether shards write plain HTTP/1.x streams to their sockets themselves, instead of through
    /// response bodies. On by default.
    pub socket: bool,
    /// The most bytes that wait in one subscriber's outbox. A single event larger than this passes alone.
    pub outbox_bytes: usize,
    /// How long more than `outbox_bytes` may be owed to a subscriber before it is slow and the
    /// policies of its channels apply. A burst is not slowness.
    pub slow_after: Duration,
    /// The most bytes that wait behind a full outbox in that time; beyond it the subscriber is
    /// slow at once. They are shared with everybody else who gets the same frames.
    pub burst_bytes: usize,
    /// About the most bytes of recent frames that a shard keeps for joining subscribers.
    pub ring_bytes: usize,
    /// The most events in a page of history that is read for a joining subscriber.
    pub page_events: usize,
    /// About the most bytes in such a page.
    pub page_bytes: usize,
    /// The most history calls that a shard has under way at once; further ones wait their turn.
    pub history_calls: usize,
    /// The most of them for one subscriber, who may follow channels of many logs.
    pub history_calls_per_client: usize,
    /// How often an idle stream gets a heartbeat; jittered downwards by up to a tenth.
    pub heartbeat: Duration,
    /// After how long a client that takes nothing of what waits for it is cut off.
    pub stall_timeout: Duration,
    /// The least time after which a client is told to come back; jittered upwards by up to half.
    pub retry: Duration,
    /// What to do with a subscriber that is slow; the first rule that selects the channel,
    /// else [`SlowPolicy::Close`].
    pub slow: Vec<SlowRule>,
    /// How long events may wait to be written together with later ones, on channels that no rule
    /// of `write_delays` selects; zero writes at once. Counted in whole milliseconds, at most
    /// [`MAX_WRITE_DELAY`](Self::MAX_WRITE_DELAY).
    pub write_delay: Duration,
    /// The same for some channels; the first rule that selects a channel counts. Of different
    /// delays, those beyond [`MAX_WRITE_DELAYS`](Self::MAX_WRITE_DELAYS) are taken for zero.
    pub write_delays: Vec<WriteDelayRule>,
    /// Bounds of this node's feed.
    pub feed: FeedBounds,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            node: "fanfare".into(),
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            socket: true,
            outbox_bytes: 1 << 20,
            slow_after: Duration::from_secs(1),
            burst_bytes: 16 << 20,
            ring_bytes: 16 << 20,
            page_events: 256,
            page_bytes: 1 << 20,
            history_calls: 64,
            history_calls_per_client: 16,
            heartbeat: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            retry: Duration::from_secs(2),
            slow: Vec::new(),
            write_delay: Duration::ZERO,
            write_delays: Vec::new(),
            feed: FeedBounds::default(),
        }
    }
}

impl DeliveryConfig {
    /// The longest that a write may be delayed.
    pub const MAX_WRITE_DELAY: Duration = Duration::from_secs(1);
    /// The most delays, other than zero, that differ.
    pub const MAX_WRITE_DELAYS: usize = 8;

    /// What to do when an event of `channel` does not fit into an outbox.
    pub(crate) fn slow_policy(&self, channel: &fanfare_core::Channel) -> SlowPolicy {
        let rule = self.slow.iter().find(|rule| rule.channels.matches(channel));
        rule.map_or(SlowPolicy::Close, |rule| rule.policy)
    }

    /// How long a client is told to wait before it comes back.
    pub(crate) fn jittered_retry(&self) -> Duration {
        self.retry + self.retry.mul_f64(fastrand::f64() / 2.0)
    }
}

/// Which policy a channel has.
#[derive(Clone, Debug)]
pub struct SlowRule {
    /// The channels.
    pub channels: Pattern,
    /// The policy.
    pub policy: SlowPolicy,
}

/// How long the events of which channels may wait to be written.
#[derive(Clone, Debug)]
pub struct WriteDelayRule {
    /// The channels.
    pub channels: Pattern,
    /// How long; zero writes at once.
    pub delay: Duration,
}

/// What to do with a subscriber that is slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SlowPolicy {
    /// End the stream; the client comes back with its last id and misses nothing that is retained.
    #[default]
    Close,
    /// Drop, and say so with a gap when there is room again.
    Gap,
    /// Keep the newest event of each channel, and say with a gap that others were passed over.
    Latest,
}
