//! Subscriptions that overlap come and go while numbered messages flow: each arrives once, in its
//! publisher's order, over all channels.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfare_core::{Broker, Pattern};
use support::{Node, Plain, Server};

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
const PUBLISHERS: usize = 2;
const SWITCHES: usize = 150;

/// Publishes numbered messages on two subjects until told to stop; answers how many.
async fn publish(mut plain: Plain, publisher: usize, stop: Arc<AtomicBool>) -> usize {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut batch = Vec::new();
        for _ in 0..20 {
            let subject = if fastrand::bool() { "sw.a" } else { "sw.b" };
            let payload = format!("{publisher} {number}");
            batch.extend(format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()).into_bytes());
            number += 1;
        }
        plain.send(&batch).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    plain.flush().await;
    number
}

async fn switch_under_load(node_at: &Server, publishers_at: &Server) {
    let (broker, _) = node_at.broker(&[("sw.*", "{name}")]).await;
    let mut node = Node::new();
    let join = async |cover: &[&str]| {
        let mut holds = Vec::new();
        for text in cover {
            let pattern = Pattern::parse(text).unwrap();
            holds.push(broker.subscribe(&pattern, &node.inlet).await.unwrap());
        }
        holds
    };
    let mut holds = join(COVERS[0]).await;
    // A route learns of the subscription a moment after the node's own server does.
    let mut plain = publishers_at.plain().await;
    support::until("the first message", async || {
        plain.publish(b"sw.a", b"hello").await;
        plain.flush().await;
        node.depth() > 0
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut publishers = Vec::new();
    for publisher in 0..PUBLISHERS {
        let plain = publishers_at.plain().await;
        publishers.push(tokio::spawn(publish(plain, publisher, stop.clone())));
    }
    let mut seen = BTreeSet::new();
    for _ in 0..SWITCHES {
        // The next is there before the last one goes, and now and then the linger runs out.
        let next = join(COVERS[fastrand::usize(..COVERS.len())]).await;
        holds = next;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..40))).await;
        seen.insert(node_at.subscriptions().await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut expected = Vec::new();
    for publisher in publishers {
        expected.push(publisher.await.unwrap());
    }
    assert!(
        seen.len() > 10,
        "subscriptions did come and go: {}",
        seen.len()
    );
    assert!(
        expected.iter().all(|count| *count > 1000),
        "there was load: {expected:?}"
    );

    let mut next = [0; PUBLISHERS];
    let mut last = None;
    while next[..] != expected[..] {
        let event = node.event().await;
        let Some((publisher, number)) = event.data.as_str().split_once(' ') else {
            continue;
        };
        let (publisher, number): (usize, usize) =
            (publisher.parse().unwrap(), number.parse().unwrap());
        assert_eq!(
            number, next[publisher],
            "of publisher {publisher}, after {last:?}"
        );
        next[publisher] += 1;
        if let Some(last) = &last {
            assert_eq!(event.position.is_after(last), Some(true));
        }
        last = Some(event.position.clone());
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
