//! The laws, over a bus that keeps nothing with the retention wrapper around it; and what only the
//! wrapper promises.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod raw_bus;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fanfare_conformance::{Fixture, Stand, conformance};
use fanfare_core::{
    Broker, BrokerMetrics, GapCause, Live, Pattern, Retained, RetainedConfig, Since,
};

use self::raw_bus::{RawBus, RawNode};

struct Kept {
    raw: Arc<RawNode>,
    first: Arc<Retained>,
    second: Arc<Retained>,
}

#[async_trait]
impl Fixture for Kept {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.first.clone()
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(self.second.clone())
    }

    async fn interrupt(&self) -> bool {
        self.raw.cut();
        true
    }

    async fn restore(&self) {
        self.raw.mend();
    }

    async fn evict(&self, channels: &Pattern) -> bool {
        self.first.purge(channels);
        true
    }
}

fn wrap(node: Arc<RawNode>) -> Arc<Retained> {
    let metrics = BrokerMetrics::unregistered("raw");
    Arc::new(Retained::new(node, RetainedConfig::default(), metrics))
}

async fn kept() -> Option<Kept> {
    let bus = Arc::new(RawBus::default());
    let raw = bus.node();
    Some(Kept {
        first: wrap(raw.clone()),
        second: wrap(bus.node()),
        raw,
    })
}

conformance!(kept);

async fn stand() -> Stand {
    Stand::new(Arc::new(kept().await.unwrap())).await
}

/// A client that comes back within the linger misses nothing; after it, it is told.
#[tokio::test(start_paused = true)]
async fn a_pattern_lingers_after_its_last_hold() {
    let stand = stand().await;
    let channel = stand.channel("a").unwrap();
    let patterns = [Pattern::from(&channel)];
    let log = stand.log_of(&channel).unwrap();
    let mut client = stand.follower(&patterns).await.unwrap();
    stand.publish(&channel, "seen").await.unwrap();
    client.until_data("seen").await.unwrap();
    let cursor = client.events().last().unwrap().position.clone();
    drop(client);

    tokio::time::sleep(Duration::from_secs(55)).await;
    stand.publish(&channel, "while away").await.unwrap();
    // Paused time moves only once every task is idle: the event has come past by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let client = stand.follower(&patterns).await.unwrap();
    let since = Since::After(cursor.clone());
    let pages = stand
        .pages(&log, &patterns, since.clone(), 10)
        .await
        .unwrap();
    assert_eq!(pages.items.len(), 1);
    assert_eq!(pages.data(), ["while away"]);
    drop(client);

    tokio::time::sleep(Duration::from_secs(65)).await;
    stand.publish(&channel, "unseen").await.unwrap();
    let _client = stand.follower(&patterns).await.unwrap();
    let pages = stand
        .pages(&log, &patterns, Since::After(pages.upto), 10)
        .await
        .unwrap();
    let [Live::Gap(gap)] = &pages.items[..] else {
        panic!("{:?}", pages.items)
    };
    assert_eq!(
        (gap.cause, &gap.scope),
        (GapCause::NotFollowed, &patterns[0])
    );
    let again = stand
        .pages(&log, &patterns, Since::After(pages.upto), 10)
        .await
        .unwrap();
    assert!(again.items.is_empty(), "told once: {:?}", again.items);
}

/// More patterns than may linger: the first that was let go of is left first.
#[tokio::test]
async fn lingering_is_bounded() {
    let bus = Arc::new(RawBus::default());
    let config = RetainedConfig {
        max_lingering: 2,
        ..RetainedConfig::default()
    };
    let node = bus.node();
    let retained = Retained::new(node.clone(), config, BrokerMetrics::unregistered("raw"));
    let (inlet, _feed) = fanfare_core::feed(Default::default());
    for name in ["a", "b", "c", "d"] {
        let pattern = Pattern::parse(name).unwrap();
        drop(retained.subscribe(&pattern, &inlet).await.unwrap());
    }
    let mut followed: Vec<_> = node.followed().iter().map(Pattern::to_string).collect();
    followed.sort();
    assert_eq!(followed, ["c", "d"]);
}

/// The wrapper names the event before, where it has seen it, and does not after a cut.
#[tokio::test]
async fn predecessors_are_filled_in_where_they_are_known() {
    let fixture = Arc::new(kept().await.unwrap());
    let stand = Stand::new(fixture.clone()).await;
    let channel = stand.channel("a").unwrap();
    let mut client = stand.witness().await.unwrap();
    for data in ["1", "2"] {
        stand.publish(&channel, data).await.unwrap();
    }
    client.until_data("2").await.unwrap();
    fixture.interrupt().await;
    fixture.restore().await;
    stand.publish(&channel, "3").await.unwrap();
    client.until_data("3").await.unwrap();
    let events: Vec<_> = client.events().collect();
    assert_eq!(events[0].previous, None);
    assert_eq!(events[1].previous, Some(events[0].position.offset));
    assert_eq!(events[2].previous, None);
}

/// Dropping the wrapper lets go of the bus and ends its task.
#[tokio::test]
async fn dropping_it_lets_go() {
    let bus = Arc::new(RawBus::default());
    let node = bus.node();
    let retained = wrap(node.clone());
    let (inlet, mut feed) = fanfare_core::feed(Default::default());
    let hold = retained.subscribe(&Pattern::all(), &inlet).await.unwrap();
    drop(retained);
    assert!(feed.next().await.is_none());
    assert!(node.followed().is_empty());
    drop(hold);
}
