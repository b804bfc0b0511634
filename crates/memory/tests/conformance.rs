//! The laws, over the memory broker.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fanfare_conformance::{Fixture, conformance};
use fanfare_core::{Broker, BrokerMetrics, Pattern};
use fanfare_memory::{MemoryBroker, MemoryConfig};

struct Memory(MemoryBroker);

#[async_trait]
impl Fixture for Memory {
    async fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }

    async fn evict(&self, channels: &Pattern) -> bool {
        self.0.purge(channels);
        true
    }
}

async fn memory() -> Option<Memory> {
    let config = MemoryConfig {
        // Some laws stand still on purpose.
        patience: Duration::from_millis(20),
        ..MemoryConfig::default()
    };
    let metrics = BrokerMetrics::unregistered("memory");
    Some(Memory(MemoryBroker::new(config, metrics)))
}

conformance!(memory);
