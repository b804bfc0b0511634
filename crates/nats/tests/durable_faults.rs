//! A JetStream that stands still, dies, changes its leader or has none.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fanfare_conformance::{Fixture, Follower};
use fanfare_core::{
    Broker, Channel, ErrorKind, IdempotencyKey, Live, Publication, feed::FeedBounds,
};
use fanfare_nats::{DurableConfig, NatsConfig, NatsDurable};
use fanfare_testkit::{NatsCluster, NatsRelease};
use support::jetstream::{Js, Stock, green, metrics};

/// What the project promises: red within this, green within this of the return.
const BOUND: Duration = Duration::from_secs(5);
/// For a leader to be found, on a machine that does much else.
const LONG: Duration = Duration::from_secs(60);

fn channel(text: &str) -> Channel {
    Channel::parse(text).unwrap()
}

async fn node(urls: Vec<String>, replicas: usize) -> NatsDurable {
    let stock = Stock::default().config(String::new());
    node_of(NatsConfig { urls, ..stock }, replicas).await
}

async fn node_of(config: NatsConfig, replicas: usize) -> NatsDurable {
    let durable = DurableConfig {
        replicas,
        ..DurableConfig::default()
    };
    let start = Instant::now();
    loop {
        match NatsDurable::connect(config.clone(), durable.clone(), metrics()).await {
            Ok(node) => return node,
            Err(error) => assert!(start.elapsed() < LONG && error.is_transient(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn follower(node: &NatsDurable) -> Follower {
    let mut follower = Follower::new(FeedBounds::default(), LONG);
    // Servers that have just made a stream may elect once more.
    let start = Instant::now();
    while let Err(why) = follower.follow(node, &">".parse().unwrap()).await {
        assert!(start.elapsed() < LONG, "{why}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    follower
}

async fn red(node: &NatsDurable) -> Duration {
    let start = Instant::now();
    while node.probe().await.is_ok() {
        assert!(start.elapsed() < LONG, "probes go through");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_red_in_time_and_green_again() {
    let Some(mut js) = Js::start().await else {
        return;
    };
    let node = node(vec![js.server.url()], 1).await;
    let mut feed = follower(&node).await;
    node.publish(&channel("a"), Publication::new("before"))
        .await
        .unwrap();
    js.server.pause();
    let took = red(&node).await;
    assert!(took < BOUND, "red after {took:?}");
    // Whatever it says, it is no success.
    let start = Instant::now();
    let refused = node.publish(&channel("a"), Publication::new("while")).await;
    assert!(refused.unwrap_err().is_transient());
    assert!(start.elapsed() < BOUND);
    js.server.resume();
    let start = Instant::now();
    green(&node).await;
    assert!(start.elapsed() < BOUND, "green after {:?}", start.elapsed());
    node.publish(&channel("a"), Publication::new("after"))
        .await
        .unwrap();
    feed.until_data("after").await.unwrap();
    assert!(feed.items.iter().all(|item| matches!(item, Live::Event(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_nothing_that_it_took() {
    let Some(mut js) = Js::start().await else {
        return;
    };
    let config = NatsConfig {
        urls: vec![js.server.url()],
        command_timeout: LONG / 2,
        ..Stock::default().config(String::new())
    };
    let node = node_of(config, 1).await;
    let mut feed = follower(&node).await;
    let mut sent = Vec::new();
    for round in 0..4 {
        for n in 0..50 {
            let data = format!("{round} {n}");
            let publication = Publication::new(data.as_str());
            node.publish(&channel("a"), publication).await.unwrap();
            sent.push(data);
        }
        js.server.kill();
        let took = red(&node).await;
        assert!(took < BOUND, "red after {took:?}");
        let refused = node.publish(&channel("a"), Publication::new("no")).await;
        assert!(refused.unwrap_err().is_transient());
        js.server.restart().await;
        let start = Instant::now();
        green(&node).await;
        assert!(start.elapsed() < BOUND, "green after {:?}", start.elapsed());
    }
    node.publish(&channel("a"), Publication::new("end"))
        .await
        .unwrap();
    sent.push("end".into());
    feed.until_data("end").await.unwrap();
    assert_eq!(feed.data(), sent);
    assert_eq!(feed.items.len(), sent.len(), "a gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_change_under_load_lose_nothing() {
    for release in NatsRelease::ALL {
        let Some(mut cluster) = NatsCluster::start(release).await else {
            continue;
        };
        let (one, two) = (node(cluster.urls(), 3).await, node(cluster.urls(), 3).await);
        let mut feeds = [follower(&one).await, follower(&two).await];
        let publisher = tokio::spawn({
            let node = one.clone();
            async move {
                // Again with the same key until it is taken: nothing is lost and nothing twice.
                for n in 0..600 {
                    let start = Instant::now();
                    loop {
                        let publication = Publication {
                            key: Some(IdempotencyKey::parse(&format!("k{n}")).unwrap()),
                            ..Publication::new(n.to_string())
                        };
                        let on = channel(&format!("c{}", n % 7));
                        match node.publish(&on, publication).await {
                            Ok(_) => break,
                            Err(error) => {
                                assert!(start.elapsed() < LONG, "{error}");
                                assert!(error.is_transient(), "{error}");
                            }
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.step_down("FANFARE").await;
        }
        let leader = cluster.leader_of("FANFARE").await;
        cluster.server_mut(leader).kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.leader_of("FANFARE").await;
        cluster.server_mut(leader).restart().await;
        publisher.await.unwrap();
        let sent: Vec<_> = (0..600).map(|n| n.to_string()).collect();
        for feed in &mut feeds {
            feed.until_data("599").await.unwrap();
            assert_eq!(feed.data(), sent, "{release:?}");
            assert_eq!(feed.items.len(), sent.len(), "a gap, {release:?}");
        }
        assert_eq!(feeds[0].items, feeds[1].items, "{release:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_waits_for_the_leader_that_is_elected() {
    const PATIENT: Duration = Duration::from_secs(10);
    let Some(mut cluster) = NatsCluster::start(NatsRelease::Installed).await else {
        return;
    };
    drop(node(cluster.urls(), 3).await);
    let leader = cluster.leader_of("FANFARE").await;
    let mut urls = cluster.urls();
    urls.remove(leader);
    let config = NatsConfig {
        urls,
        command_timeout: PATIENT,
        ..Stock::default().config(String::new())
    };
    let node = node_of(config, 3).await;
    let a = channel("a");
    node.publish(&a, Publication::new("before")).await.unwrap();
    cluster.server_mut(leader).kill();
    // What was on its way to the leader, or comes to the next one too early, has no answer. That
    // nobody is there is none to give before the time is up.
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        let Err(error) = node.publish(&a, Publication::new("while")).await else {
            break;
        };
        let waited = asked.elapsed() >= PATIENT;
        assert!(error.kind() == ErrorKind::Timeout || waited, "{error}");
        assert!(start.elapsed() < LONG, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_taken() {
    let Some(mut cluster) = NatsCluster::start(NatsRelease::Installed).await else {
        return;
    };
    let node = node(cluster.urls(), 3).await;
    let mut feed = follower(&node).await;
    let start = Instant::now();
    while let Err(error) = node
        .publish(&channel("a"), Publication::new("before"))
        .await
    {
        assert!(start.elapsed() < LONG && error.is_transient(), "{error}");
    }
    let leader = cluster.leader_of("FANFARE").await;
    let others: Vec<_> = (0..3).filter(|index| *index != leader).collect();
    for index in &others {
        cluster.server_mut(*index).kill();
    }
    for n in 0..5 {
        let publication = Publication::new(format!("no {n}"));
        let refused = node.publish(&channel("a"), publication).await;
        assert!(refused.unwrap_err().is_transient());
    }
    let took = red(&node).await;
    assert!(took < BOUND + BOUND, "red after {took:?}");
    for index in others {
        cluster.server_mut(index).restart().await;
    }
    let start = Instant::now();
    while let Err(error) = node.probe().await {
        assert!(start.elapsed() < LONG, "{error}");
    }
    let end = async {
        while node
            .publish(&channel("a"), Publication::new("end"))
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(LONG, end).await.unwrap();
    feed.until_data("end").await.unwrap();
}

/// A stream of three copies. A node whose link is cut goes to another server at once, so the laws of
/// a cut do not apply: the tests above are for that.
struct Replicated {
    first: NatsDurable,
    second: NatsDurable,
    _cluster: NatsCluster,
}

impl Replicated {
    async fn start(release: NatsRelease) -> Option<Self> {
        let cluster = NatsCluster::start(release).await?;
        // Servers that are kept waiting by this machine elect, which takes seconds and is no fault.
        let config = || NatsConfig {
            urls: cluster.urls(),
            command_timeout: LONG / 2,
            ..Stock::default().config(String::new())
        };
        Some(Self {
            second: node_of(config(), 3).await,
            first: node_of(config(), 3).await,
            _cluster: cluster,
        })
    }
}

#[async_trait]
impl Fixture for Replicated {
    async fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.first.clone())
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(Arc::new(self.second.clone()))
    }

    fn patience(&self) -> Duration {
        LONG
    }
}

mod replicated {
    async fn start() -> Option<super::Replicated> {
        super::Replicated::start(super::NatsRelease::Installed).await
    }

    fanfare_conformance::conformance!(start);
}

mod replicated_current {
    async fn start() -> Option<super::Replicated> {
        super::Replicated::start(super::NatsRelease::Current).await
    }

    fanfare_conformance::conformance!(start);
}
