//! Every law of a broker, over JetStream streams of a real nats-server.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fanfare_conformance::Fixture;
use fanfare_core::{Broker, Pattern};
use fanfare_nats::{DurableConfig, NatsDurable};
use fanfare_testkit::NatsRelease;
use support::{
    jetstream::{self, Js, Stock},
    wire::Wire,
};

/// Whose stream the channels live in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Fanfare's own.
    Own,
    /// One that others made; a rule takes all of it.
    Others,
}

struct Bus {
    whose: Whose,
    wire: Wire,
    first: NatsDurable,
    second: NatsDurable,
    js: Js,
}

impl Bus {
    /// With as many messages remembered by each node as `memory` says.
    async fn start(whose: Whose, memory: usize) -> Option<Self> {
        Self::start_on(NatsRelease::Installed, whose, memory).await
    }

    async fn start_on(release: NatsRelease, whose: Whose, memory: usize) -> Option<Self> {
        let js = Js::start_release(release).await?;
        let wire = Wire::to(js.server.port()).await;
        let stock = match whose {
            Whose::Own => Stock::default(),
            Whose::Others => Stock {
                rules: &[("APP", "app.>", "{1}")],
                ..Stock::default()
            },
        };
        if whose == Whose::Others {
            js.make("APP", "app.>").await;
        }
        let durable = DurableConfig {
            store: jetstream::keeping(memory),
            checked_messages: memory.max(1),
            ..DurableConfig::default()
        };
        let node = async |url: String| {
            let config = stock.config(url);
            NatsDurable::connect(config, durable.clone(), jetstream::metrics())
                .await
                .unwrap()
        };
        Some(Self {
            whose,
            first: node(format!("nats://{}", wire.address)).await,
            second: node(js.server.url()).await,
            wire,
            js,
        })
    }
}

#[async_trait]
impl Fixture for Bus {
    async fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.first.clone())
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(Arc::new(self.second.clone()))
    }

    async fn interrupt(&self) -> bool {
        self.wire.cut();
        true
    }

    async fn restore(&self) {
        self.wire.mend();
        jetstream::green(&self.first).await;
    }

    /// Nobody can purge our own stream.
    async fn evict(&self, channels: &Pattern) -> bool {
        if self.whose == Whose::Own {
            return false;
        }
        self.js.purge("APP", &format!("app.{channels}")).await;
        true
    }

    async fn lose(&self) -> bool {
        match self.whose {
            Whose::Own => self.js.delete("FANFARE").await,
            Whose::Others => {
                self.js.delete("APP").await;
                self.js.make("APP", "app.>").await;
            }
        }
        true
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

mod own_stream {
    async fn start() -> Option<super::Bus> {
        super::Bus::start(super::Whose::Own, 1 << 20).await
    }

    fanfare_conformance::conformance!(start);
}

mod own_stream_current {
    use super::{Bus, NatsRelease, Whose};

    async fn start() -> Option<Bus> {
        Bus::start_on(NatsRelease::Current, Whose::Own, 1 << 20).await
    }

    fanfare_conformance::conformance!(start);
}

/// Every page of history is read from the stream.
mod own_stream_without_memory {
    async fn start() -> Option<super::Bus> {
        super::Bus::start(super::Whose::Own, 0).await
    }

    fanfare_conformance::conformance!(start);
}

mod stream_of_others {
    async fn start() -> Option<super::Bus> {
        super::Bus::start(super::Whose::Others, 1 << 20).await
    }

    fanfare_conformance::conformance!(start);
}
