//! What these tests share: a server, a door to it that can be shut, and followers.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub(crate) mod fleet;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fanfare_core::{
    Broker, BrokerMetrics, Channel, Event, Feed, Gap, GapCause, Inlet, Live, Pattern, Publication,
    Published, Subscription, feed, feed::FeedBounds,
};
use fanfare_redis::{Ingest, IngestFrom, RedisBroker, RedisConfig, RedisStreams, StreamMetrics};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// How long a test waits for what has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A door between one node and the server.
#[derive(Debug)]
pub(crate) struct Door {
    address: SocketAddr,
    state: watch::Sender<State>,
}

/// How often it was shut is a part of it: a door that is open again has thrown out those who stood
/// in it before.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    shut: u64,
    passage: Passage,
    /// What the server sends with this in it does not come through.
    lost: Option<&'static str>,
    /// Where it leads now, instead of where it led first.
    server: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Passage {
    #[default]
    Open,
    /// Whoever stands in it is thrown out, and whoever comes.
    Shut,
    /// Messages of subscriptions do not come through; all else does.
    Deaf,
    /// Nothing comes through, either way, until it is opened again; then all of it does.
    Stalled,
}

impl Door {
    pub(crate) async fn open(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::default());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = seen.borrow().server.unwrap_or(server);
                tokio::spawn(pass(client, server, seen.clone()));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn shut(&self) {
        self.state.send_modify(|state| {
            state.shut += 1;
            state.passage = Passage::Shut;
        });
    }

    pub(crate) fn deafen(&self) {
        self.state
            .send_modify(|state| state.passage = Passage::Deaf);
    }

    /// Loses what comes at once with this text, and no more, while all else comes through.
    pub(crate) fn lose(&self, text: &'static str) {
        self.state.send_modify(|state| state.lost = Some(text));
    }

    pub(crate) fn stall(&self) {
        self.state
            .send_modify(|state| state.passage = Passage::Stalled);
    }

    /// Throws out whoever stands in it, and leads to another server from then on.
    pub(crate) fn lead(&self, server: SocketAddr) {
        self.state.send_modify(|state| {
            state.shut += 1;
            state.server = Some(server);
        });
    }

    pub(crate) fn reopen(&self) {
        self.state
            .send_modify(|state| state.passage = Passage::Open);
    }
}

async fn pass(client: TcpStream, server: SocketAddr, mut state: watch::Receiver<State>) {
    let shut = state.borrow().shut;
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut moving = state.clone();
    let forth = async {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut chunk).await {
            moves(&mut moving).await;
            if to_server.write_all(&chunk[..length]).await.is_err() {
                break;
            }
        }
    };
    let mut now = state.clone();
    let back = async {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from_server.read(&mut chunk).await {
            moves(&mut now).await;
            let chunk = &chunk[..length];
            let message = chunk.windows(7).any(|window| window == b"message");
            let State { passage, lost, .. } = *now.borrow();
            if passage == Passage::Deaf && message {
                continue;
            }
            let has = |text: &str| chunk.windows(text.len()).any(|w| w == text.as_bytes());
            if message && lost.is_some_and(has) {
                continue;
            }
            if to_client.write_all(chunk).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = back => {}
        _ = state.wait_for(|state| state.passage == Passage::Shut || state.shut > shut) => {}
    }
}

/// Waits while the door is stalled.
async fn moves(state: &mut watch::Receiver<State>) {
    let _ = state
        .wait_for(|state| state.passage != Passage::Stalled)
        .await;
}

/// Settings that make faults short; each raw name `raw:x` is the channel `x`.
pub(crate) fn quick(url: String) -> RedisConfig {
    RedisConfig {
        url,
        ingest: vec![rule("raw:*", "{1}")],
        reconnect_delay: Duration::from_millis(200),
        linger: Duration::from_millis(100),
        ..RedisConfig::default()
    }
}

/// The same for tests that work hard and are not about time: on a busy machine an answer may be late.
pub(crate) fn patient(url: String) -> RedisConfig {
    RedisConfig {
        command_timeout: PATIENCE,
        ..quick(url)
    }
}

/// An ingest rule.
pub(crate) fn rule(source: &str, channel: &str) -> Ingest {
    Ingest {
        source: source.into(),
        channel: channel.into(),
        ..Ingest::default()
    }
}

/// Settings for streams of others: `orders:x` is the channel `x`, with its data in `payload`.
pub(crate) fn quick_streams(url: String) -> RedisConfig {
    RedisConfig {
        ingest: vec![stream_rule("orders:*", "{1}")],
        // Every stream is looked at after five pings.
        ping_interval: Duration::from_millis(200),
        stream_search_interval: Duration::from_millis(30),
        ..quick(url)
    }
}

/// An ingest rule for streams.
pub(crate) fn stream_rule(source: &str, channel: &str) -> Ingest {
    Ingest {
        from: IngestFrom::Stream,
        data: Some("payload".into()),
        event: Some("type".into()),
        tags: vec!["region".into()],
        ..rule(source, channel)
    }
}

pub(crate) async fn streams(url: String) -> RedisStreams {
    connect_streams(quick_streams(url)).await
}

pub(crate) async fn connect_streams(config: RedisConfig) -> RedisStreams {
    let connected = RedisStreams::connect(config, metrics(), StreamMetrics::unregistered());
    connected.await.unwrap()
}

/// What TLS needs of the process.
pub(crate) fn install_provider() {
    // It fails only where one is installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

pub(crate) fn metrics() -> BrokerMetrics {
    BrokerMetrics::unregistered("redis")
}

pub(crate) async fn connect(config: RedisConfig) -> RedisBroker {
    RedisBroker::connect(config, metrics()).await.unwrap()
}

pub(crate) fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

/// Publishes data.
pub(crate) async fn publish(broker: &impl Broker, to: &str, data: &str) -> Published {
    let to = channel(to);
    broker.publish(&to, Publication::new(data)).await.unwrap()
}

/// A feed and its subscriptions.
pub(crate) struct Follower {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) inlet: Inlet,
    pub(crate) feed: Feed,
    pub(crate) subscriptions: Vec<Subscription>,
}

impl Follower {
    /// One that takes tens of thousands of events before it is read.
    pub(crate) async fn wide(broker: &(impl Broker + Clone), patterns: &[&str]) -> Self {
        let bounds = FeedBounds {
            items: 1 << 20,
            bytes: 1 << 30,
        };
        Self::bounded(broker, patterns, bounds).await
    }

    pub(crate) async fn of(broker: &(impl Broker + Clone), patterns: &[&str]) -> Self {
        Self::bounded(broker, patterns, FeedBounds::default()).await
    }

    async fn bounded(
        broker: &(impl Broker + Clone),
        patterns: &[&str],
        bounds: FeedBounds,
    ) -> Self {
        let (inlet, feed) = feed(bounds);
        let mut follower = Self {
            broker: Arc::new(broker.clone()),
            inlet,
            feed,
            subscriptions: Vec::new(),
        };
        for pattern in patterns {
            follower.follow(pattern).await;
        }
        follower
    }

    pub(crate) async fn follow(&mut self, pattern: &str) {
        let pattern = Pattern::parse(pattern).unwrap();
        let subscription = self.broker.subscribe(&pattern, &self.inlet).await.unwrap();
        self.subscriptions.push(subscription);
    }

    pub(crate) async fn next(&mut self) -> Live {
        let next = tokio::time::timeout(PATIENCE, self.feed.next()).await;
        next.expect("something comes").expect("the feed is open")
    }

    /// The next item, which is an event.
    pub(crate) async fn event(&mut self) -> Arc<Event> {
        match self.next().await {
            Live::Event(event) => event,
            Live::Gap(gap) => panic!("no event but {gap:?}"),
        }
    }

    /// The next item's channel and data; it is an event.
    pub(crate) async fn told(&mut self) -> (String, String) {
        let event = self.event().await;
        (event.channel.to_string(), event.data.as_str().to_owned())
    }

    /// The next item, which is a gap of this cause.
    pub(crate) async fn gap(&mut self, cause: GapCause) -> Gap {
        match self.next().await {
            Live::Gap(gap) if gap.cause == cause => gap,
            other => panic!("no gap {cause:?} but {other:?}"),
        }
    }
}
