//! A hub on the memory broker with clients: with bodies that are read by a task each, as a server
//! does, or with sockets.

use std::{
    future::poll_fn,
    net::UdpSocket,
    os::{fd::OwnedFd, unix},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fanfare_core::{Broker, BrokerMetrics, Channel, Pattern, Position, Publication};
use fanfare_delivery::{DeliveryConfig, Format, Framing, Hub, Metrics, Seat, Start, Subscriber};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use http_body::Body as _;
use prometheus::Registry;
use tokio::{io::AsyncReadExt, net::UnixStream, sync::Notify};

/// What is published.
pub(crate) const DATA: &str = "{\"symbol\":\"FAN\",\"bid\":101.25,\"ask\":101.5,\"volume\":1200,\"venue\":\"XETR\",\"at\":1795219200123}";

#[derive(Debug)]
pub(crate) struct World {
    broker: Arc<MemoryBroker>,
    hub: Hub,
    channel: Channel,
    came: Arc<Came>,
    /// What nobody reads.
    sink: UdpSocket,
}

#[derive(Debug, Default)]
struct Came {
    pieces: AtomicUsize,
    more: Notify,
}

impl World {
    /// Inside a runtime of one thread, with I/O.
    pub(crate) fn new() -> Self {
        let metrics = BrokerMetrics::unregistered("memory");
        let broker = Arc::new(MemoryBroker::new(MemoryConfig::default(), metrics));
        let config = DeliveryConfig {
            shards: 1,
            ..DeliveryConfig::default()
        };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Self {
            hub: Hub::spawn(config, broker.clone(), metrics),
            broker,
            channel: Channel::parse("bench").unwrap(),
            came: Arc::default(),
            sink: UdpSocket::bind("127.0.0.1:0").unwrap(),
        }
    }

    /// Publishes, and answers where it stands.
    pub(crate) async fn publish(&self) -> Position {
        let published = self.broker.publish(&self.channel, Publication::new(DATA));
        published.await.unwrap().position.unwrap()
    }

    async fn join(&self, start: Start) -> Seat {
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
        self.hub.join(subscriber).await.unwrap()
    }

    /// Joins clients, each read by a task of its own.
    pub(crate) async fn crowd(&self, clients: usize) {
        for _ in 0..clients {
            let mut body = self.join(Start::Now).await.into_body();
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

    /// Joins clients with sockets, and answers the last one's end: what a shard writes to many, it
    /// writes to it last. The kernel takes all that goes to the others, and throws it away.
    pub(crate) async fn crowd_of_sockets(&self, clients: usize) -> UnixStream {
        let board = async |socket: OwnedFd| {
            let seat = self.join(Start::Now).await;
            seat.into_socket(socket.into(), "HEAD".into(), Framing::Chunked)
                .await;
        };
        for _ in 1..clients {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(self.sink.local_addr().unwrap()).unwrap();
            socket.set_nonblocking(true).unwrap();
            board(socket.into()).await;
        }
        let (ours, end) = unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        end.set_nonblocking(true).unwrap();
        board(ours.into()).await;
        let mut end = UnixStream::from_std(end).unwrap();
        let mut begun = Vec::new();
        while !begun.ends_with(b":\n\r\n") {
            end.read_buf(&mut begun).await.unwrap();
        }
        end
    }

    /// Publishes one event and waits until the last client has it.
    pub(crate) async fn fan_out_to_sockets(&self, last: &mut UnixStream) {
        self.publish().await;
        let mut bytes = [0; 4096];
        assert!(last.read(&mut bytes).await.unwrap() > DATA.len());
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
        let seat = self.join(Start::After(after.clone().into())).await;
        let mut body = seat.into_body();
        let mut came = 0;
        while came < events {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let bytes = frame.unwrap().unwrap().into_data().unwrap();
            came += memchr::memmem::find_iter(&bytes, b"\ndata: ").count();
        }
    }
}
