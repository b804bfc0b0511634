use std::time::Duration;

use fanfare_core::{LogId, StoreConfig};

/// Bounds of a memory broker.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// The name of the one log; another for each memory broker of a
    /// [`Routed`](fanfare_core::Routed). `None` is `m`.
    pub log: Option<LogId>,
    /// What is retained.
    pub store: StoreConfig,
    /// How long a publication waits for room in the feeds of those who follow its channel, before
    /// it goes on and becomes a gap there. Zero does not wait. Default: 5 s.
    pub patience: Duration,
    /// How long an idempotency key is known. Zero knows none. Default: 2 min.
    pub key_window: Duration,
    /// The most idempotency keys that are known. Over it, the oldest is forgotten early.
    /// Default: 100,000.
    pub max_keys: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            log: None,
            store: StoreConfig::default(),
            patience: Duration::from_secs(5),
            key_window: Duration::from_secs(120),
            max_keys: 100_000,
        }
    }
}
