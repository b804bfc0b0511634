//! The laws, over core NATS.

use std::{sync::Arc, time::Duration};

use crate::support::{Server, wire::Wire};
use async_trait::async_trait;
use fanfare_conformance::{Fixture, conformance};
use fanfare_core::{Broker, BrokerMetrics};
use fanfare_nats::{NatsBroker, NatsConfig};

/// Two nodes of one server; the first has a wire that can be cut.
struct Nats {
    wire: Wire,
    first: Arc<NatsBroker>,
    second: Arc<NatsBroker>,
    _server: Server,
}

#[async_trait]
impl Fixture for Nats {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.first.clone()
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(self.second.clone())
    }

    async fn interrupt(&self) -> bool {
        self.wire.cut();
        true
    }

    async fn restore(&self) {
        self.wire.mend();
    }
}

async fn nats() -> Option<Nats> {
    let server = Server::start("").await?;
    let wire = Wire::to(server.port).await;
    let node = async |url| {
        let config = NatsConfig {
            urls: vec![url],
            linger: Duration::from_millis(100),
            ..NatsConfig::default()
        };
        let broker = NatsBroker::connect(config, BrokerMetrics::unregistered("nats"));
        Arc::new(broker.await.unwrap())
    };
    Some(Nats {
        first: node(format!("nats://{}", wire.address)).await,
        second: node(server.url()).await,
        wire,
        _server: server,
    })
}

conformance!(nats);
