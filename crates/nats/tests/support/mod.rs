//! A real nats-server, plain clients of it, and what a node received.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod wire;

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use fanfare_core::{Broker, BrokerMetrics, Event, Feed, Gap, Inlet, Live, feed, feed::FeedBounds};
use fanfare_nats::{Ingest, NatsBroker, NatsConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A nats-server on free ports. It ends with the value.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) monitor: u16,
    config: PathBuf,
    child: Option<Child>,
}

/// How a start went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Up,
    Ended,
    Absent,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Server {
    /// Starts a server with these lines added to its configuration; `None`, said aloud, where
    /// there is no nats-server.
    pub(crate) async fn start(extra: &str) -> Option<Self> {
        loop {
            let (port, monitor) = (free_port(), free_port());
            let config = std::env::temp_dir().join(format!("fanfare-nats-{port}-{monitor}.conf"));
            let text = format!("listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\n{extra}\n");
            std::fs::write(&config, text).unwrap();
            let mut server = Self {
                port,
                monitor,
                config,
                child: None,
            };
            match server.run().await {
                Run::Up => return Some(server),
                Run::Absent => return None,
                // Another test took a port in between.
                Run::Ended => {}
            }
        }
    }

    /// Two servers that are one cluster.
    pub(crate) async fn cluster() -> Option<(Self, Self)> {
        let (one, two) = (free_port(), free_port());
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

    /// Starts it, again on the same ports.
    pub(crate) async fn run(&mut self) -> Run {
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&self.config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "nats-server: {why}");
                eprintln!("SKIPPED: no nats-server ({why}); apt install nats-server");
                return Run::Absent;
            }
        };
        let start = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return Run::Ended;
            }
            // The monitoring port opens first, so the client port tells of both.
            let up = TcpStream::connect(("127.0.0.1", self.port)).await;
            if up.is_ok()
                && TcpStream::connect(("127.0.0.1", self.monitor))
                    .await
                    .is_ok()
            {
                self.child = Some(child);
                return Run::Up;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "not in time: the server's ports"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends it a signal: `STOP`, `CONT`, or `USR2` for lame duck mode.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A page of the monitoring port.
    pub(crate) async fn monitor(&self, path: &str) -> serde_json::Value {
        let mut socket = TcpStream::connect(("127.0.0.1", self.monitor))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
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

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(&self.config);
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
