//! The laws, over a bus that keeps nothing.

mod raw_bus;

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_conformance::{Fixture, conformance};
use fanfare_core::Broker;

use self::raw_bus::{RawBus, RawNode};

struct Raw {
    first: Arc<RawNode>,
    second: Arc<RawNode>,
}

#[async_trait]
impl Fixture for Raw {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.first.clone()
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(self.second.clone())
    }

    async fn interrupt(&self) -> bool {
        self.first.cut();
        true
    }

    async fn restore(&self) {
        self.first.mend();
    }
}

async fn raw() -> Option<Raw> {
    let bus = Arc::new(RawBus::default());
    Some(Raw {
        first: bus.node(),
        second: bus.node(),
    })
}

conformance!(raw);
