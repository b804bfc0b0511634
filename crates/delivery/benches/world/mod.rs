//! A hub on the memory broker with clients whose sinks are read by a task each, as a server does.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fanfare_core::{Broker, BrokerMetrics, Channel, Pattern, Position, Publication};
use fanfare_delivery::{Body, DeliveryConfig, Format, Hub, Metrics, Start, Subscriber};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use http_body::Body as _;
use prometheus::Registry;
use tokio::sync::Notify;

/// What is published.
pub(crate) const DATA: &str = "{\"symbol\":\"FAN\",\"bid\":101.25,\"ask\":101.5,\"volume\":1200,\"venue\":\"XETR\",\"at\":1795219200123}";

#[derive(Debug)]
pub(crate) struct World {
    broker: Arc<MemoryBroker>,
    hub: Hub,
    channel: Channel,
    came: Arc<Came>,
}

#[derive(Debug, Default)]
struct Came {
    pieces: AtomicUsize,
    more: Notify,
}

impl World {
    /// Inside a runtime of one thread.
    pub(crate) fn new() -> Self {
        let metrics = BrokerMetrics::unregistered("memory");
        let broker = Arc::new(MemoryBroker::new(MemoryConfig::default(), metrics));
        let config = DeliveryConfig {
            shards: 1,
            // The bodies are read here, and a runtime without I/O watches no sockets.
            socket: false,
            ..DeliveryConfig::default()
        };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Self {
            hub: Hub::spawn(config, broker.clone(), metrics),
            broker,
            channel: Channel::parse("bench").unwrap(),
            came: Arc::default(),
        }
    }

    /// Publishes, and answers where it stands.
    pub(crate) async fn publish(&self) -> Position {
        let published = self.broker.publish(&self.channel, Publication::new(DATA));
        published.await.unwrap().position.unwrap()
    }

    async fn join(&self, start: Start) -> Body {
        let subscriber = Subscriber {
            channels: vec![Pattern::parse("bench").unwrap()],
            start,
            format: Format::Sse,
            hello: false,
            filter: None,
            ends_at: None,
            guard: Arc::new(()),
            abort: Arc::new(|| {}),
        };
        self.hub.join(subscriber).await.unwrap().into_body()
    }

    /// Joins clients, each read by a task of its own.
    pub(crate) async fn crowd(&self, clients: usize) {
        for _ in 0..clients {
            let mut body = self.join(Start::Now).await;
            let came = self.came.clone();
            tokio::spawn(async move {
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    came.pieces.fetch_add(1, Ordering::Relaxed);
                    came.more.notify_one();
                }
            });
        }
        // Every stream begins with a piece of its own.
        self.until(clients).await;
    }

    /// Publishes one event and waits until all clients have it.
    pub(crate) async fn fan_out(&self, clients: usize) {
        self.publish().await;
        self.until(clients).await;
    }

    async fn until(&self, pieces: usize) {
        while self.came.pieces.load(Ordering::Relaxed) < pieces {
            self.came.more.notified().await;
        }
        self.came.pieces.store(0, Ordering::Relaxed);
    }

    /// A client comes back with a cursor, reads what it missed, and leaves.
    pub(crate) async fn resume(&self, after: &Position, events: usize) {
        let mut body = self.join(Start::After(after.clone().into())).await;
        let mut came = 0;
        while came < events {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let bytes = frame.unwrap().unwrap().into_data().unwrap();
            came += memchr::memmem::find_iter(&bytes, b"\ndata: ").count();
        }
    }
}
