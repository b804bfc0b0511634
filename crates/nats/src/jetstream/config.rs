//! What is kept, and the bounds.

use std::time::Duration;

use fanfare_core::{BrokerError, StoreConfig};

use crate::config::bad;

/// What Fanfare's own stream is, and the bounds of durable channels.
#[derive(Clone, Debug)]
pub struct DurableConfig {
    /// The name of Fanfare's own stream. Created where it is missing.
    pub stream: String,
    /// How many servers keep a copy of it: 1 to 5.
    pub replicas: usize,
    /// The most bytes that it may hold, over all channels; the oldest events go first. Positive.
    pub max_bytes: u64,
    /// How long an idempotency key is known. At least 100 ms.
    pub key_window: Duration,
    /// Whether it is kept compressed (S2). Needs nats-server 2.10.
    pub compression: bool,
    /// What this node keeps in memory of each stream, to answer clients that come back. Its
    /// retention rules bound our own stream too: the longest age and the highest count of them.
    pub store: StoreConfig,
    /// About how many of a stream's newest messages are read when a node begins to follow it.
    pub replay_messages: usize,
    /// The most places of a stream that a node remembers the messages of, 4 bytes each.
    pub checked_messages: usize,
    /// The most reads of what is older than this node's memory at a time. Positive.
    pub reads: usize,
}

impl Default for DurableConfig {
    /// A stream `FANFARE` with one copy and up to 1 GiB.
    fn default() -> Self {
        Self {
            stream: "FANFARE".into(),
            replicas: 1,
            max_bytes: 1 << 30,
            key_window: Duration::from_secs(120),
            compression: false,
            store: StoreConfig::default(),
            replay_messages: 10_000,
            checked_messages: 1 << 20,
            reads: 8,
        }
    }
}

impl DurableConfig {
    /// Checks everything that can be checked without a server.
    ///
    /// # Errors
    /// A bad setting, by its name.
    pub fn validate(&self) -> Result<(), BrokerError> {
        stream_name("stream", &self.stream)?;
        if !(1..=5).contains(&self.replicas) {
            return Err(bad("replicas", "is none of 1 to 5"));
        }
        if self.max_bytes == 0 || i64::try_from(self.max_bytes).is_err() {
            return Err(bad("stream_max_bytes", "is zero, or more than 8 EiB"));
        }
        if self.key_window < Duration::from_millis(100) {
            return Err(bad("key_window", "is shorter than 100ms"));
        }
        if self.reads == 0 {
            return Err(bad("reads", "is zero; it must be positive"));
        }
        Ok(())
    }
}

/// Checks that a text can be a stream's name.
pub(crate) fn stream_name(setting: &str, name: &str) -> Result<(), BrokerError> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !".*>/\\".contains(c);
    if (1..=255).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    let why = "is no stream name; 1 to 255 bytes without `.`, `*`, `>`, `/`, `\\` and white space are allowed";
    Err(bad(setting, why))
}
