//! One server that comes back without its stream's newest messages: whoever knew of one tells all.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{num::NonZeroUsize, time::Duration};

use fanfare_core::{
    Broker, Channel, Epoch, GapCause, HistoryQuery, Live, Pattern, Position, Publication,
    Retention, RetentionRule, Since, StoreConfig, Subscription,
};
use fanfare_nats::{DurableConfig, NatsDurable};
use fanfare_testkit::{NatsRelease, NatsServer, NatsStore};
use support::{
    Node,
    jetstream::{Js, Stock, green, metrics},
    until,
    wire::Wire,
};

async fn node(url: String, durable: DurableConfig) -> NatsDurable {
    NatsDurable::connect(Stock::default().config(url), durable, metrics())
        .await
        .unwrap()
}

async fn plain(js: &Js) -> NatsDurable {
    node(js.server.url(), DurableConfig::default()).await
}

/// A node on a link that can be cut.
async fn apart(js: &Js) -> (NatsDurable, Wire) {
    let wire = Wire::to(js.server.port()).await;
    let url = format!("nats://{}", wire.address);
    (node(url, DurableConfig::default()).await, wire)
}

async fn put(node: &NatsDurable, data: &str) -> Position {
    let channel = Channel::parse("a").unwrap();
    let published = node.publish(&channel, Publication::new(data)).await;
    published.unwrap().position.unwrap()
}

async fn follow(node: &NatsDurable) -> (Node, Subscription) {
    let feed = Node::new();
    let held = node.subscribe(&Pattern::all(), &feed.inlet).await.unwrap();
    (feed, held)
}

/// The server loses its power, and what it had written since.
async fn lose(server: &mut NatsServer, earlier: &NatsStore) {
    server.kill();
    server.put_store(earlier);
    server.restart().await;
}

fn told(item: &Live) -> String {
    match item {
        Live::Event(event) => event.data.as_str().to_owned(),
        Live::Gap(gap) => format!("[{}]", gap.cause.as_str()),
    }
}

async fn history(node: &NatsDurable, since: Since) -> (Vec<String>, Position) {
    let query = HistoryQuery {
        log: node.capabilities().logs.all()[0].clone(),
        channels: vec!["a".parse().unwrap()],
        since,
        limit: NonZeroUsize::new(100).unwrap(),
        max_bytes: 1 << 20,
    };
    let page = node.history(query).await.unwrap();
    (page.items.iter().map(told).collect(), page.upto)
}

async fn after(node: &NatsDurable, cursor: &Position) -> Vec<String> {
    history(node, Since::After(cursor.clone())).await.0
}

async fn epoch(node: &NatsDurable) -> Epoch {
    history(node, Since::Now).await.1.epoch
}

/// What came up to an event.
async fn until_data(feed: &mut Node, data: &str) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|last| last != data) {
        all.push(told(&feed.next().await));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_started_after_the_loss_tells_it() {
    let Some(mut js) = Js::start().await else {
        return;
    };
    let first = plain(&js).await;
    let (mut feed, _held) = follow(&first).await;
    let cursor = put(&first, "0").await;
    let kept = put(&first, "1").await;
    let earlier = js.server.copy_store();
    let lost = put(&first, "lost").await;
    assert_eq!(until_data(&mut feed, "lost").await, ["0", "1", "lost"]);
    lose(&mut js.server, &earlier).await;
    let gap = feed.gap().await;
    assert_eq!(gap.cause, GapCause::NewEpoch);
    assert_eq!(gap.after.as_ref(), Some(&kept), "behind what is left");
    let second = plain(&js).await;
    for node in [&first, &second] {
        // Nothing shows on these two that anything is gone.
        assert_eq!(after(node, &cursor).await, ["[new_epoch]", "0", "1"]);
        assert_eq!(after(node, &kept).await, ["[new_epoch]", "0", "1"]);
        assert_eq!(after(node, &lost).await, ["[new_epoch]", "0", "1"]);
    }
    let new = put(&second, "2").await;
    let next = put(&first, "3").await;
    for node in [&second, &first] {
        assert_eq!(after(node, &new).await, ["3"]);
        assert_eq!(after(node, &next).await, [""; 0]);
    }
    // The mark is no message of anybody's, and told once.
    assert_eq!(until_data(&mut feed, "3").await, ["2", "3"]);
    assert_eq!(epoch(&plain(&js).await).await, gap.next.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_publisher_alone_was_told_of_is_told_to_everybody() {
    let fills = [0, 3].into_iter();
    for (filled, release) in fills.flat_map(|n| NatsRelease::ALL.map(|release| (n, release))) {
        let Some(mut js) = Js::start_release(release).await else {
            continue;
        };
        // It follows nothing.
        let (publisher, link) = apart(&js).await;
        let (follower, wire) = apart(&js).await;
        let (mut feed, _held) = follow(&follower).await;
        let cursor = put(&publisher, "0").await;
        assert_eq!(until_data(&mut feed, "0").await, ["0"]);
        wire.cut();
        let earlier = js.server.copy_store();
        put(&publisher, "lost").await;
        link.cut();
        lose(&mut js.server, &earlier).await;
        wire.mend();
        green(&follower).await;
        // Its place goes to another message meanwhile.
        for n in 0..filled {
            put(&follower, &n.to_string()).await;
            assert_eq!(told(&feed.next().await), n.to_string());
        }
        link.mend();
        let gap = feed.gap().await;
        assert_eq!(gap.cause, GapCause::NewEpoch);
        assert!(
            gap.after.is_some_and(|after| after.offset <= cursor.offset),
            "it covers what came since"
        );
        let third = plain(&js).await;
        for node in [&publisher, &follower, &third] {
            assert_eq!(after(node, &cursor).await[..2], ["[new_epoch]", "0"]);
            assert_eq!(epoch(node).await, gap.next.epoch);
        }
        put(&publisher, "end").await;
        assert_eq!(until_data(&mut feed, "end").await, ["end"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_name_it_alike_whoever_saw_it() {
    for release in NatsRelease::ALL {
        if let Some(js) = Js::start_release(release).await {
            is_named_alike(js).await;
        }
    }
}

async fn is_named_alike(mut js: Js) {
    let (saw, also_saw) = (plain(&js).await, plain(&js).await);
    let (did_not, wire) = apart(&js).await;
    let mut feeds = Vec::new();
    for node in [&saw, &also_saw, &did_not] {
        feeds.push(follow(node).await);
    }
    put(&saw, "0").await;
    for (feed, _) in &mut feeds {
        until_data(feed, "0").await;
    }
    wire.cut();
    let earlier = js.server.copy_store();
    put(&saw, "1").await;
    put(&also_saw, "2").await;
    for (feed, _) in &mut feeds[..2] {
        assert_eq!(until_data(feed, "2").await, ["1", "2"]);
    }
    lose(&mut js.server, &earlier).await;
    wire.mend();
    let mut epochs = Vec::new();
    for (feed, _) in &mut feeds {
        let gap = feed.gap().await;
        assert_eq!(gap.cause, GapCause::NewEpoch);
        epochs.push(gap.next.epoch);
    }
    assert_eq!(epochs, [epochs[0]; 3]);
    // Who moves between them is told once.
    let mut at = put(&saw, "3").await;
    for (n, node) in [&did_not, &also_saw, &saw, &did_not]
        .into_iter()
        .enumerate()
    {
        let moved = put(node, &format!("moved {n}")).await;
        assert_eq!(after(node, &at).await, [format!("moved {n}")]);
        at = moved;
    }
    for (feed, _) in &mut feeds {
        let all = until_data(feed, "moved 3").await;
        assert!(!all.contains(&"[new_epoch]".into()), "again: {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_is_lost_is_another_life() {
    let Some(mut js) = Js::start().await else {
        return;
    };
    let first = plain(&js).await;
    let (mut feed, _held) = follow(&first).await;
    let kept = put(&first, "0").await;
    let earlier = js.server.copy_store();
    let mut cursors = vec![kept, put(&first, "lost").await];
    assert_eq!(until_data(&mut feed, "lost").await, ["0", "lost"]);
    for round in 0..3 {
        // The second time, the mark of the first goes; nothing behind it.
        lose(&mut js.server, &earlier).await;
        let gap = feed.gap().await;
        assert_eq!(gap.cause, GapCause::NewEpoch);
        green(&first).await;
        let second = plain(&js).await;
        for node in [&first, &second] {
            assert_eq!(epoch(node).await, gap.next.epoch);
            for cursor in &cursors {
                let all = after(node, cursor).await;
                assert_eq!(all, ["[new_epoch]", "0"], "{round}: {cursor:?}");
            }
        }
        assert!(cursors.iter().all(|c| c.epoch != gap.next.epoch));
        cursors.push(history(&second, Since::Now).await.1);
        cursors.push(gap.next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_is_there_as_long_as_the_stream_is_followed() {
    let age = Duration::from_secs(4);
    let short = || DurableConfig {
        store: StoreConfig {
            retention: Retention::new([RetentionRule {
                max_age: age,
                ..RetentionRule::of(Pattern::all())
            }]),
            ..StoreConfig::default()
        },
        ..DurableConfig::default()
    };
    let Some(mut js) = Js::start().await else {
        return;
    };
    let first = node(js.server.url(), short()).await;
    let (mut feed, _held) = follow(&first).await;
    let earlier = js.server.copy_store();
    put(&first, "lost").await;
    until_data(&mut feed, "lost").await;
    lose(&mut js.server, &earlier).await;
    let told = feed.gap().await.next;
    let newest = put(&first, "1").await;
    assert_eq!(until_data(&mut feed, "1").await, ["1"]);
    until("everything of then is too old", async || {
        let first = js.info("FANFARE").await["state"]["first_seq"].as_u64();
        first.unwrap() > (newest.offset.0 >> 32) as u64
    })
    .await;
    let second = node(js.server.url(), short()).await;
    assert_eq!(epoch(&second).await, told.epoch);
    put(&second, "2").await;
    assert_eq!(until_data(&mut feed, "2").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_its_writer_alone_knew_is_written_again() {
    let Some(mut js) = Js::start().await else {
        return;
    };
    // It follows nothing, so not even its own mark comes to it.
    let publisher = plain(&js).await;
    let kept = put(&publisher, "0").await;
    let earlier = js.server.copy_store();
    put(&publisher, "lost").await;
    let mut epochs = vec![kept.epoch];
    for _ in 0..2 {
        lose(&mut js.server, &earlier).await;
        until("a mark", async || {
            js.info("FANFARE").await["state"]["last_seq"] == 2
        })
        .await;
        let other = plain(&js).await;
        let named = epoch(&other).await;
        assert!(!epochs.contains(&named), "{named:?} of {epochs:?}");
        epochs.push(named);
    }
}
