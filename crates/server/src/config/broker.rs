//! `[broker]`: which bus, and how to reach it. What each key means and its default stand in the
//! backends' own configs and `docs/config.toml`.

use fanfare_core::{RetainedConfig, StoreConfig, feed::FeedBounds};
use fanfare_memory::MemoryConfig;
use serde::{Deserialize, Serialize};

use super::{
    choice::choice,
    nats::Nats,
    redis::Redis,
    values::{Bytes, Span},
};

choice! {
    /// Which bus.
    #[derive(Default)]
    Kind {
        /// This process.
        #[default]
        Memory = "memory",
        /// Redis.
        Redis = "redis",
        /// NATS.
        Nats = "nats",
    }
}

choice! {
    /// Who keeps the events of a bus that keeps nothing.
    #[derive(Default)]
    Retain {
        /// Nobody.
        None = "none",
        /// Each node, in its own memory.
        #[default]
        Node = "node",
    }
    instead {
        "shared" = "for events that all nodes share, let a JetStream stream capture the subjects, and \
                    take it with from = \"jetstream\"",
    }
}

/// Which bus, and how to reach it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Broker {
    pub(crate) kind: Kind,
    /// How long the start waits for a bus that does not answer yet.
    pub(crate) start_timeout: Span,
    pub(crate) memory: Memory,
    pub(crate) redis: Redis,
    pub(crate) nats: Nats,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            start_timeout: Span::secs(30),
            memory: Memory::default(),
            redis: Redis::default(),
            nats: Nats::default(),
        }
    }
}

/// The bounds of what this process retains: of the memory broker, and of `retain = "node"`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Memory {
    pub(crate) max_total_bytes: Bytes,
    pub(crate) max_channels: usize,
    pub(crate) max_gaps: usize,
    pub(crate) linger: Span,
    pub(crate) max_lingering: usize,
    pub(crate) patience: Span,
    pub(crate) key_window: Span,
    pub(crate) max_keys: usize,
}

impl Default for Memory {
    fn default() -> Self {
        let MemoryConfig {
            store,
            patience,
            key_window,
            max_keys,
            ..
        } = MemoryConfig::default();
        let retained = RetainedConfig::default();
        Self {
            linger: Span(retained.linger),
            max_lingering: retained.max_lingering,
            max_total_bytes: Bytes(store.max_total_bytes),
            max_channels: store.max_channels,
            max_gaps: store.max_gaps,
            patience: Span(patience),
            key_window: Span(key_window),
            max_keys,
        }
    }
}

impl Memory {
    /// The bounds of a store that retains by these rules.
    pub(crate) fn store(&self, retention: fanfare_core::Retention) -> StoreConfig {
        StoreConfig {
            retention,
            max_total_bytes: self.max_total_bytes.0,
            max_channels: self.max_channels,
            max_gaps: self.max_gaps,
        }
    }

    /// As the retention wrapper wants it.
    pub(crate) fn retained(
        &self,
        retention: fanfare_core::Retention,
        feed: FeedBounds,
    ) -> RetainedConfig {
        RetainedConfig {
            store: self.store(retention),
            linger: self.linger.0,
            max_lingering: self.max_lingering,
            feed,
        }
    }

    /// As the memory broker wants it.
    pub(crate) fn to_room(&self, retention: fanfare_core::Retention) -> MemoryConfig {
        MemoryConfig {
            store: self.store(retention),
            patience: self.patience.0,
            key_window: self.key_window.0,
            max_keys: self.max_keys,
            ..MemoryConfig::default()
        }
    }
}
