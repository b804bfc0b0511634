//! Subscriptions that overlap come and go while numbered messages flow: each arrives once, in its
//! publisher's order on its subject.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::support::{Node, Plain, Server, until};
use fanfare_core::{Broker, Pattern, Position};
use fanfare_nats::NatsBroker;

/// All of them select `sw.a` and `sw.b`, which the publishers write to, alone or two together.
const COVERS: [&[&str]; 7] = [
    &["sw.*"],
    &["sw.>"],
    &[">"],
    &["*.a", "*.b"],
    &["sw.a", "sw.b"],
    &["*.*"],
    &["sw.a", "sw.b", "sw.*", ">"],
];
const SUBJECTS: [&str; 2] = ["sw.a", "sw.b"];
const PUBLISHERS: usize = 2;
/// Which subscription speaks for a subject is settled by the order in which they came: so begin
/// anew, now and then.
const ROUNDS: usize = 10;
const SWITCHES: usize = 15;

/// How many messages each publisher wrote on each subject.
type Counts = [[usize; SUBJECTS.len()]; PUBLISHERS];

/// Publishes numbered messages on two subjects until told to stop; answers how many on each.
async fn publish(
    mut plain: Plain,
    publisher: usize,
    stop: Arc<AtomicBool>,
) -> [usize; SUBJECTS.len()] {
    let mut numbers = [0; SUBJECTS.len()];
    while !stop.load(Ordering::Relaxed) {
        let mut batch = Vec::new();
        for _ in 0..20 {
            let at = fastrand::usize(..SUBJECTS.len());
            let (subject, number) = (SUBJECTS[at], numbers[at]);
            let payload = format!("{publisher} {number}");
            batch.extend(format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()).into_bytes());
            numbers[at] += 1;
        }
        plain.send(&batch).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    plain.flush().await;
    numbers
}

async fn switch_under_load(node_at: &Server, publishers_at: &Server) {
    let (broker, _) = node_at.broker(&[("sw.*", "{name}")]).await;
    let at_rest = node_at.subscriptions().await.len();
    let mut node = Node::new();
    let mut seen = BTreeSet::new();
    let mut last = None;
    for _ in 0..ROUNDS {
        round(
            &broker,
            &mut node,
            node_at,
            publishers_at,
            &mut seen,
            &mut last,
        )
        .await;
        until("nothing is subscribed to", async || {
            node_at.subscriptions().await.len() == at_rest
        })
        .await;
    }
    assert!(
        seen.len() > 10,
        "subscriptions did come and go: {}",
        seen.len()
    );
}

async fn round(
    broker: &NatsBroker,
    node: &mut Node,
    node_at: &Server,
    publishers_at: &Server,
    seen: &mut BTreeSet<Vec<String>>,
    last: &mut Option<Position>,
) {
    let inlet = node.inlet.clone();
    let join = async || {
        let mut holds = Vec::new();
        for text in COVERS[fastrand::usize(..COVERS.len())] {
            let pattern = Pattern::parse(text).unwrap();
            holds.push(broker.subscribe(&pattern, &inlet).await.unwrap());
        }
        holds
    };
    let mut holds = join().await;
    // A route learns of the subscription a moment after the node's own server does.
    let mut plain = publishers_at.plain().await;
    for subject in SUBJECTS {
        until("the first message", async || {
            plain.publish(subject.as_bytes(), b"hello").await;
            plain.flush().await;
            node.depth() > 0
        })
        .await;
        while node.depth() > 0 {
            node.event().await;
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishers = Vec::new();
    for publisher in 0..PUBLISHERS {
        let plain = publishers_at.plain().await;
        publishers.push(tokio::spawn(publish(plain, publisher, stop.clone())));
    }
    for _ in 0..SWITCHES {
        // The next is there before the last one goes, and now and then the linger runs out.
        let next = join().await;
        holds = next;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..40))).await;
        seen.insert(node_at.subscriptions().await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut expected = Counts::default();
    for (publisher, counts) in publishers.into_iter().zip(&mut expected) {
        *counts = publisher.await.unwrap();
    }
    let total: usize = expected.as_flattened().iter().sum();
    assert!(total > 1000, "there was load: {expected:?}");

    let mut next = Counts::default();
    while next != expected {
        let event = node.event().await;
        let Some((publisher, number)) = event.data.as_str().split_once(' ') else {
            continue;
        };
        let subject = event.channel.as_str();
        let at = SUBJECTS.iter().position(|name| *name == subject).unwrap();
        let (publisher, number): (usize, usize) =
            (publisher.parse().unwrap(), number.parse().unwrap());
        let due = &mut next[publisher][at];
        assert_eq!(number, *due, "of publisher {publisher} on {subject}");
        *due += 1;
        if let Some(last) = last {
            assert_eq!(event.position.is_after(last), Some(true));
        }
        *last = Some(event.position.clone());
    }
    drop(holds);
    assert_eq!(node.depth(), 0, "nothing arrived twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reordered() {
    let Some(server) = Server::start("").await else {
        return;
    };
    switch_under_load(&server, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_across_servers_of_a_cluster() {
    let Some((one, two)) = Server::cluster().await else {
        return;
    };
    switch_under_load(&one, &two).await;
}
