//! A leader of several servers that is behind for a moment is not taken to have lost anything; one
//! that stays behind is.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{num::NonZeroUsize, time::Instant};

use fanfare_core::{
    Broker, Channel, GapCause, History, HistoryQuery, Live, Position, Publication, Since,
    Subscription,
};
use fanfare_nats::{DurableConfig, NatsDurable};
use support::{
    Node, PATIENCE,
    jetstream::{Js, Stock, metrics},
    liar::Liar,
};

/// A server, a node that sees it as it is, and a wire on which it looks like one of three.
struct Stand {
    direct: NatsDurable,
    liar: Liar,
    _js: Js,
}

impl Stand {
    async fn start() -> Option<Self> {
        let js = Js::start().await?;
        Some(Self {
            direct: node(js.server.url(), 1).await,
            liar: Liar::to(js.server.port()).await,
            _js: js,
        })
    }

    async fn node(&self) -> NatsDurable {
        node(format!("nats://{}", self.liar.address), 3).await
    }

    async fn put(&self, numbers: std::ops::RangeInclusive<u64>) -> Position {
        let mut newest = None;
        for n in numbers {
            let channel = Channel::parse("a").unwrap();
            let published = self
                .direct
                .publish(&channel, Publication::new(n.to_string()));
            newest = published.await.unwrap().position;
        }
        newest.unwrap()
    }
}

async fn node(url: String, replicas: usize) -> NatsDurable {
    let durable = DurableConfig {
        replicas,
        ..DurableConfig::default()
    };
    NatsDurable::connect(Stock::default().config(url), durable, metrics())
        .await
        .unwrap()
}

async fn follow(node: &NatsDurable) -> (Node, Subscription) {
    let feed = Node::new();
    let pattern = ">".parse().unwrap();
    let held = node.subscribe(&pattern, &feed.inlet).await.unwrap();
    (feed, held)
}

/// What follows a cursor, asked until it is answered.
async fn after(node: &NatsDurable, cursor: &Position) -> History {
    let start = Instant::now();
    loop {
        let query = HistoryQuery {
            log: cursor.log.clone(),
            channels: vec![">".parse().unwrap()],
            since: Since::After(cursor.clone()),
            limit: NonZeroUsize::new(100).unwrap(),
            max_bytes: 1 << 20,
        };
        match node.history(query).await {
            Ok(page) => return page,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                assert!(start.elapsed() < PATIENCE, "{error}");
            }
        }
    }
}

fn is_a_gap(item: &Live) -> bool {
    matches!(item, Live::Gap(gap) if gap.cause == GapCause::NewEpoch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_behind_for_a_moment_lost_nothing() {
    let Some(stand) = Stand::start().await else {
        return;
    };
    let node = stand.node().await;
    let (mut feed, _held) = follow(&node).await;
    stand.put(1..=5).await;
    for n in 1..=5 {
        assert_eq!(feed.event().await.data.as_str(), n.to_string());
    }
    stand.liar.falls_behind("second", 3);
    stand.liar.is_asked().await;
    assert_eq!(feed.depth(), 0, "nothing is told that is not known");
    stand.liar.catches_up();
    stand.put(6..=6).await;
    assert_eq!(feed.event().await.data.as_str(), "6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_is_ahead_of_who_is_behind_stays_exact() {
    let Some(stand) = Stand::start().await else {
        return;
    };
    stand.put(1..=3).await;
    let node = stand.node().await;
    stand.liar.falls_behind("second", 3);
    let cursor = stand.put(4..=5).await;
    let (page, ()) = tokio::join!(after(&node, &cursor), async {
        stand.liar.is_asked().await;
        stand.put(6..=6).await;
        stand.liar.catches_up();
    });
    let told = |item: &Live| match item {
        Live::Event(event) => event.data.as_str().to_owned(),
        Live::Gap(gap) => gap.cause.as_str().to_owned(),
    };
    let told: Vec<_> = page.items.iter().map(told).collect();
    assert!(told.is_empty() || told == ["6"], "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_lacks_for_long_is_lost() {
    let Some(stand) = Stand::start().await else {
        return;
    };
    let node = stand.node().await;
    let (mut feed, _held) = follow(&node).await;
    let cursor = stand.put(1..=5).await;
    for _ in 1..=5 {
        feed.event().await;
    }
    stand.liar.falls_behind("second", 3);
    let gap = feed.gap().await;
    assert_eq!(
        (gap.cause, gap.next.offset.0 >> 32),
        (GapCause::NewEpoch, 3)
    );
    // There, and at a node that knows only the cursor.
    let other = stand.node().await;
    for node in [&node, &other] {
        let page = after(node, &cursor).await;
        assert!(page.items.first().is_some_and(is_a_gap), "{page:?}");
        assert_eq!(page.items.len(), 4, "{page:?}");
    }
}
