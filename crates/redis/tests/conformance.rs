//! Every law of a broker, over a real redis-server, on raw channels that an ingest rule makes.

mod bus;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{Door, connect, quick};
use fanfare_conformance::Fixture;
use fanfare_core::Broker;
use fanfare_redis::RedisBroker;
use fanfare_testkit::RedisServer;

struct Bus {
    door: Door,
    first: Arc<dyn Broker>,
    second: Arc<dyn Broker>,
    _server: RedisServer,
}

impl Bus {
    async fn start<B: Broker>(wrap: impl Fn(RedisBroker) -> B) -> Option<Self> {
        let server = RedisServer::start().await?;
        let door = Door::open(server.address()).await;
        let node = |url| connect(quick(url));
        Some(Self {
            first: Arc::new(wrap(node(door.url()).await)),
            second: Arc::new(wrap(node(server.url()).await)),
            door,
            _server: server,
        })
    }
}

#[async_trait]
impl Fixture for Bus {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.first.clone()
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(self.second.clone())
    }

    async fn interrupt(&self) -> bool {
        self.door.shut();
        true
    }

    async fn restore(&self) {
        self.door.reopen();
        let deadline = tokio::time::Instant::now() + bus::PATIENCE;
        while let Err(error) = self.first.probe().await {
            assert!(tokio::time::Instant::now() < deadline, "not back: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

mod raw {
    async fn start() -> Option<super::Bus> {
        super::Bus::start(|broker| broker).await
    }

    fanfare_conformance::conformance!(start);
}

/// With the retention wrapper around it, as the server runs it.
mod retained {
    use std::sync::Arc;

    use fanfare_core::{BrokerMetrics, Retained, RetainedConfig};

    async fn start() -> Option<super::Bus> {
        let wrap = |broker| {
            let metrics = BrokerMetrics::unregistered("redis");
            Retained::new(Arc::new(broker), RetainedConfig::default(), metrics)
        };
        super::Bus::start(wrap).await
    }

    fanfare_conformance::conformance!(start);
}
