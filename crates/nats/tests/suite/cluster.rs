//! A cluster of three whose servers come and go: what a follower did not get lies in a gap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_core::{Broker, BrokerMetrics, Gap, GapCause, Live, Offset, Pattern};
use fanfare_nats::{Ingest, NatsBroker, NatsConfig};
use fanfare_testkit::{NatsCluster, NatsServer, http};
use tokio::task::JoinHandle;

use crate::support::{Node, release, until};

const SUBJECT: &str = "raw.a";
/// So that a run has messages before, in and after what happens.
const SOME: usize = 50;

fn config(urls: Vec<String>) -> NatsConfig {
    let rule = Ingest {
        source: "raw.>".into(),
        ..Ingest::default()
    };
    NatsConfig {
        urls,
        ingest: vec![rule],
        name: "node".into(),
        linger: Duration::from_millis(100),
        ..NatsConfig::default()
    }
}

/// Whether the node is a client of this server.
async fn has_the_node(server: &NatsServer) -> bool {
    let page = format!("{}/connz", server.monitor_url());
    let asked = tokio::time::timeout(Duration::from_secs(2), http::get(&page)).await;
    let Ok(Ok(answer)) = asked else { return false };
    let page = answer.json();
    let mut all = page["connections"].as_array().unwrap().iter();
    all.any(|connection| connection["name"] == "node")
}

async fn where_the_node_is(cluster: &NatsCluster) -> usize {
    for (index, server) in cluster.servers().iter().enumerate() {
        if has_the_node(server).await {
            return index;
        }
    }
    panic!("the node is nowhere");
}

/// Publishes numbers until told to stop; answers how many.
struct Publisher {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Publisher {
    async fn at(server: &NatsServer) -> Self {
        let mut client = server.client().await;
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (until, counts) = (stop.clone(), count.clone());
        let task = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                let number = counts.fetch_add(1, Ordering::Relaxed);
                client.publish(SUBJECT, number.to_string(), &[]);
                client.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { stop, count, task }
    }

    async fn some_more(&self) {
        let from = self.count.load(Ordering::Relaxed);
        until("messages", async || {
            self.count.load(Ordering::Relaxed) >= from + SOME
        })
        .await;
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.count.load(Ordering::Relaxed)
    }
}

/// Reads up to the last of `total` messages: in order, none twice, none missing but where a gap
/// lies, which is told before what comes behind it. Answers the gaps' causes.
async fn judge(node: &mut Node, total: usize) -> Vec<GapCause> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut last: Option<(usize, Offset)> = None;
    loop {
        match node.next().await {
            Live::Gap(gap) => gaps.push(gap),
            Live::Event(event) => {
                let number: usize = event.data.as_str().parse().unwrap();
                if let Some((before, place)) = last {
                    assert!(number > before, "{number} after {before}");
                    let covers = |gap: &Gap| {
                        let from = gap.after.as_ref().map(|place| place.offset);
                        from <= Some(place) && place < gap.next.offset
                    };
                    let told = number == before + 1 || gaps.iter().any(covers);
                    assert!(told, "no gap tells of a loss before {number}: {gaps:?}");
                }
                last = Some((number, event.position.offset));
            }
        }
        if !gaps.is_empty() && last.is_some_and(|(number, _)| number + 1 == total) {
            break;
        }
    }
    gaps.into_iter().map(|gap| gap.cause).collect()
}

/// Breaks the server that the node is at, while messages flow through another one, and answers the
/// gaps that each of two followers was told.
async fn survives(break_it: impl FnOnce(&mut NatsServer)) -> Option<[Vec<GapCause>; 2]> {
    let mut cluster = NatsCluster::start(release()).await?;
    let metrics = BrokerMetrics::unregistered("nats");
    // The others are learnt from the first.
    let config = config(cluster.urls()[..1].to_vec());
    let broker = NatsBroker::connect(config, metrics.clone()).await.unwrap();
    let (mut narrow, mut wide) = (Node::new(), Node::new());
    let (one, all) = (Pattern::parse(SUBJECT).unwrap(), Pattern::all());
    let _narrow = broker.subscribe(&one, &narrow.inlet).await.unwrap();
    let _wide = broker.subscribe(&all, &wide.inlet).await.unwrap();
    let before = where_the_node_is(&cluster).await;
    let publisher = Publisher::at(&cluster.servers()[(before + 1) % 3]).await;
    // A route learns of the subscription a moment after the node's own server does.
    until("the first message", async || narrow.depth() > 0).await;
    publisher.some_more().await;

    break_it(cluster.server_mut(before));
    until("the node is at another server", async || {
        metrics.reconnects.get() == 1
    })
    .await;
    let after = where_the_node_is(&cluster).await;
    assert_ne!(before, after);
    broker.probe().await.unwrap();
    // As at the start: the route to the publisher's server may learn of it later.
    let arrived = metrics.events.get();
    until("messages again", async || metrics.events.get() > arrived).await;
    publisher.some_more().await;
    let total = publisher.stop().await;
    Some([
        judge(&mut narrow, total).await,
        judge(&mut wide, total).await,
    ])
}

fn one_cut(gaps: Option<[Vec<GapCause>; 2]>) {
    if let Some(gaps) = gaps {
        assert_eq!(gaps, [[GapCause::Reconnected], [GapCause::Reconnected]]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_is_left_with_a_gap_for_every_follower() {
    one_cut(survives(NatsServer::kill).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_left_with_a_gap_for_every_follower() {
    one_cut(survives(NatsServer::pause).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lame_duck_is_left_with_a_gap_for_every_follower() {
    one_cut(survives(NatsServer::lame_duck).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_tried_in_turn_and_those_that_are_not_named_only_where_that_is_wanted() {
    let Some(mut cluster) = NatsCluster::start(release()).await else {
        return;
    };
    let metrics = BrokerMetrics::unregistered("nats");
    let config = NatsConfig {
        discover: false,
        // Nobody is at the first.
        ..config(vec!["nats://127.0.0.1:1".into(), cluster.urls().remove(2)])
    };
    let broker = NatsBroker::connect(config, metrics.clone()).await.unwrap();
    broker.probe().await.unwrap();
    assert_eq!(where_the_node_is(&cluster).await, 2);
    cluster.server_mut(2).kill();
    until("the cut is noticed", async || metrics.up.get() == 0).await;
    // Long enough to have found another server twice over.
    let tries = tokio::time::Instant::now() + Duration::from_secs(4);
    while tokio::time::Instant::now() < tries {
        assert!(!has_the_node(&cluster.servers()[0]).await);
        assert!(!has_the_node(&cluster.servers()[1]).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.server_mut(2).restart().await;
    until("the link is back", async || metrics.reconnects.get() == 1).await;
    assert_eq!(where_the_node_is(&cluster).await, 2);
    broker.probe().await.unwrap();
}
