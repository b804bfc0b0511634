//! A real nats-server, plain clients of it, and what a node received.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod jetstream;
pub(crate) mod liar;
pub(crate) mod wire;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_core::{Broker, BrokerMetrics, Event, Feed, Gap, Inlet, Live, feed, feed::FeedBounds};
use fanfare_nats::{Ingest, NatsBroker, NatsConfig};
use fanfare_testkit::{NatsRelease, NatsServer, http, port};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The release that this test program is for.
pub(crate) fn release() -> NatsRelease {
    match env!("CARGO_CRATE_NAME") {
        "current" => NatsRelease::Current,
        _ => NatsRelease::Installed,
    }
}

/// A nats-server with more lines in its configuration. It ends with the value.
pub(crate) struct Server {
    pub(crate) nats: NatsServer,
    pub(crate) port: u16,
    _config: TempDir,
}

impl Server {
    /// `None`, said aloud, where there is no nats-server.
    pub(crate) async fn start(extra: &str) -> Option<Self> {
        let config = TempDir::new().unwrap();
        let file = config.path().join("nats.conf");
        std::fs::write(&file, extra).unwrap();
        let options = ["-c", file.to_str().unwrap()];
        let nats = NatsServer::start_release(release(), &options).await?;
        Some(Self {
            port: nats.port(),
            nats,
            _config: config,
        })
    }

    /// Two servers that are one cluster.
    pub(crate) async fn cluster() -> Option<(Self, Self)> {
        let (one, two) = (port::free(), port::free());
        let conf = |name: &str, port: u16, other: u16| {
            format!(
                "server_name: {name}\ncluster {{ name: c, listen: 127.0.0.1:{port}, routes: [\"nats://127.0.0.1:{other}\"] }}"
            )
        };
        let first = Self::start(&conf("one", one, two)).await?;
        let second = Self::start(&conf("two", two, one)).await?;
        let both = async || {
            let (a, b) = (
                first.monitor("/routez").await,
                second.monitor("/routez").await,
            );
            a["num_routes"].as_u64() > Some(0) && b["num_routes"].as_u64() > Some(0)
        };
        until("the routes of the cluster", both).await;
        Some((first, second))
    }

    /// Tells it that it is about to stop.
    pub(crate) fn lame_duck(&self) {
        let id = self.nats.id().to_string();
        let status = Command::new("kill").args(["-s", "USR2", &id]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        self.nats.url()
    }

    /// A page of the monitoring port.
    pub(crate) async fn monitor(&self, path: &str) -> serde_json::Value {
        let url = format!("{}{path}", self.nats.monitor_url());
        serde_json::from_slice(&http::get(&url).await.unwrap().body).unwrap()
    }

    /// The subscriptions of all clients.
    pub(crate) async fn subscriptions(&self) -> Vec<String> {
        let page = self.monitor("/connz?subs=1&limit=100").await;
        let lists = page["connections"].as_array().unwrap().iter();
        lists
            .flat_map(|connection| connection["subscriptions_list"].as_array())
            .flatten()
            .map(|subject| subject.as_str().unwrap().to_owned())
            .collect()
    }

    /// How many subscriptions of clients there are.
    pub(crate) async fn count_subscriptions(&self) -> u64 {
        let page = self.monitor("/connz").await;
        let mut clients = page["connections"].as_array().unwrap().iter();
        let sum = clients.try_fold(0, |all, client| {
            Some(all + client["subscriptions"].as_u64()?)
        });
        sum.unwrap()
    }

    pub(crate) fn config(&self, ingest: &[(&str, &str)]) -> NatsConfig {
        let rule = |(source, channel): &(&str, &str)| Ingest {
            source: (*source).into(),
            channel: (*channel).into(),
            ..Ingest::default()
        };
        NatsConfig {
            urls: vec![self.url()],
            ingest: ingest.iter().map(rule).collect(),
            linger: Duration::from_millis(100),
            ..NatsConfig::default()
        }
    }

    pub(crate) async fn broker(&self, ingest: &[(&str, &str)]) -> (NatsBroker, BrokerMetrics) {
        let metrics = BrokerMetrics::unregistered("nats");
        let broker = NatsBroker::connect(self.config(ingest), metrics.clone());
        let broker = broker.await.unwrap();
        // Once it is back, everything that the node says at the start was heard.
        broker.probe().await.unwrap();
        (broker, metrics)
    }

    /// A client that speaks the plain protocol and knows nothing of Fanfare.
    pub(crate) async fn plain(&self) -> Plain {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let hello = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n";
        socket.write_all(hello).await.unwrap();
        let mut plain = Plain {
            socket,
            read: Vec::new(),
        };
        plain.flush().await;
        plain
    }
}

/// A client that speaks the plain protocol and knows nothing of Fanfare.
pub(crate) struct Plain {
    socket: TcpStream,
    pub(crate) read: Vec<u8>,
}

impl Plain {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn publish(&mut self, subject: &[u8], payload: &[u8]) {
        let mut line = [b"PUB ", subject].concat();
        line.extend(format!(" {}\r\n", payload.len()).as_bytes());
        line.extend(payload);
        line.extend(b"\r\n");
        self.send(&line).await;
    }

    /// Returns after the server has worked through everything that was sent.
    pub(crate) async fn flush(&mut self) {
        self.send(b"PING\r\n").await;
        self.read_until(b"PONG\r\n").await;
    }

    /// Reads until `end` has come, and answers everything up to it.
    pub(crate) async fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut chunk = vec![0; 65536];
        loop {
            let found = self.read.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                return self.read.drain(..at + end.len()).collect();
            }
            let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut chunk));
            let n = read.await.expect("in time").unwrap();
            assert!(n > 0, "the server closed the connection");
            self.read.extend(&chunk[..n]);
        }
    }
}

/// Looks again until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A node's feed.
pub(crate) struct Node {
    pub(crate) inlet: Inlet,
    feed: Feed,
}

impl Node {
    pub(crate) fn new() -> Self {
        let bounds = FeedBounds {
            items: 1 << 20,
            bytes: 1 << 30,
        };
        let (inlet, feed) = feed(bounds);
        Self { inlet, feed }
    }

    pub(crate) async fn next(&mut self) -> Live {
        let next = tokio::time::timeout(PATIENCE, self.feed.next());
        next.await.expect("an item in time").expect("an open feed")
    }

    pub(crate) async fn event(&mut self) -> Arc<Event> {
        match self.next().await {
            Live::Event(event) => event,
            Live::Gap(gap) => panic!("a gap in place of an event: {gap:?}"),
        }
    }

    pub(crate) async fn gap(&mut self) -> Gap {
        match self.next().await {
            Live::Gap(gap) => gap,
            Live::Event(event) => panic!("an event in place of a gap: {event:?}"),
        }
    }

    pub(crate) fn depth(&self) -> usize {
        self.feed.depth()
    }
}
