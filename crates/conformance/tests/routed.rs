//! The laws, over two brokers with logs of their own as one; and what only routing promises.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod raw_bus;

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_conformance::{Fixture, Follower};
use fanfare_core::{
    Broker, BrokerMetrics, Claim, ErrorKind, LogId, Pattern, Publication, Retained, RetainedConfig,
    Routed, feed::FeedBounds,
};
use fanfare_memory::{MemoryBroker, MemoryConfig};

use self::raw_bus::{RawBus, RawNode};

fn metrics() -> BrokerMetrics {
    BrokerMetrics::unregistered("test")
}

fn memory(log: &str) -> MemoryBroker {
    let config = MemoryConfig {
        log: Some(LogId::parse(log).unwrap()),
        patience: std::time::Duration::from_millis(50),
        ..MemoryConfig::default()
    };
    MemoryBroker::new(config, metrics())
}

/// What makes the channels below a root a broker's.
fn below(root: &'static str) -> Claim {
    let of_root: Pattern = format!("{root}.>").parse().unwrap();
    Arc::new(move |pattern| of_root.intersects(pattern))
}

/// Channels below `one` are one memory broker's, all others the other one's.
struct Two {
    space: &'static str,
    parts: [MemoryBroker; 2],
    routed: Arc<Routed>,
}

impl Two {
    fn new(space: &'static str) -> Self {
        let parts = [memory("one"), memory("rest")];
        let claimed: (Claim, Arc<dyn Broker>) = (below("one"), Arc::new(parts[0].clone()));
        let routed = Routed::new([claimed], Arc::new(parts[1].clone())).unwrap();
        Self {
            space,
            parts,
            routed: Arc::new(routed),
        }
    }
}

#[async_trait]
impl Fixture for Two {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.routed.clone()
    }

    async fn evict(&self, channels: &Pattern) -> bool {
        for part in &self.parts {
            part.purge(channels);
        }
        true
    }

    fn namespace(&self) -> String {
        format!("{}.law{:08x}", self.space, fastrand::u32(..))
    }
}

mod claimed {
    async fn start() -> Option<super::Two> {
        Some(super::Two::new("one"))
    }

    fanfare_conformance::conformance!(start);
}

mod rest {
    async fn start() -> Option<super::Two> {
        Some(super::Two::new("other"))
    }

    fanfare_conformance::conformance!(start);
}

/// A bus that keeps nothing beside one that does, and a bus that can be cut.
mod mixed {
    use super::*;

    struct Mixed {
        raw: Arc<RawNode>,
        retained: Arc<Retained>,
        routed: Arc<Routed>,
    }

    async fn start() -> Option<Mixed> {
        let raw = Arc::new(RawBus::default()).node();
        let retained = Retained::new(raw.clone(), RetainedConfig::default(), metrics());
        let retained = Arc::new(retained);
        let claimed: (Claim, Arc<dyn Broker>) = (below("raw"), retained.clone());
        let routed = Arc::new(Routed::new([claimed], Arc::new(memory("m"))).unwrap());
        Some(Mixed {
            raw,
            retained,
            routed,
        })
    }

    #[async_trait]
    impl Fixture for Mixed {
        async fn broker(&self) -> Arc<dyn Broker> {
            self.routed.clone()
        }

        async fn interrupt(&self) -> bool {
            self.raw.cut();
            true
        }

        async fn restore(&self) {
            self.raw.mend();
        }

        async fn evict(&self, channels: &Pattern) -> bool {
            self.retained.purge(channels);
            true
        }

        fn namespace(&self) -> String {
            format!("raw.law{:08x}", fastrand::u32(..))
        }
    }

    fanfare_conformance::conformance!(start);
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn logs(broker: &Routed, text: &str) -> Vec<String> {
    let logs = broker.capabilities().logs.of(&pattern(text));
    logs.iter().map(LogId::to_string).collect()
}

#[tokio::test]
async fn a_pattern_over_both_gets_the_events_of_both() {
    let both = Two::new("one");
    assert_eq!(logs(&both.routed, "one.a"), ["one"]);
    assert_eq!(logs(&both.routed, "ones"), ["rest"]);
    assert_eq!(logs(&both.routed, "*.a"), ["one", "rest"]);
    let mut follower = Follower::new(FeedBounds::default(), std::time::Duration::from_secs(5));
    follower.follow(&*both.routed, &pattern(">")).await.unwrap();
    for channel in ["one.a", "own.a", "one.b", "own.b"] {
        let to = channel.parse().unwrap();
        let sent = both.routed.publish(&to, Publication::new(channel));
        let log = sent.await.unwrap().position.unwrap().log;
        assert_eq!(vec![log.to_string()], logs(&both.routed, channel));
    }
    follower.until_events(4).await.unwrap();
    assert_eq!(follower.data(), ["one.a", "own.a", "one.b", "own.b"]);
}

#[tokio::test]
async fn a_subscription_that_fails_in_part_leaves_nothing_behind() {
    let both = Two::new("one");
    both.parts[1].close().await;
    let (inlet, feed) = fanfare_core::feed(FeedBounds::default());
    let refused = both.routed.subscribe(&pattern(">"), &inlet).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    let to = "one.a".parse().unwrap();
    let sent = both.routed.publish(&to, Publication::new("x")).await;
    assert!(sent.is_ok());
    assert_eq!(feed.depth(), 0);
    assert!(!inlet.is_closed());
    let error = both.routed.probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "one part is closed");
}

#[tokio::test]
async fn what_only_one_can_do_is_not_promised() {
    let raw: Arc<dyn Broker> = Arc::new(RawBus::default()).node();
    let bound = raw.capabilities().max_data_bytes;
    let mixed = Routed::new([(below("raw"), raw)], Arc::new(memory("m"))).unwrap();
    let all = mixed.capabilities();
    assert!(!all.history && !all.positions && !all.idempotency && !all.shared);
    assert_eq!(all.max_data_bytes, bound);
}

#[tokio::test]
async fn two_logs_of_one_name_are_refused() {
    let node = || -> Arc<dyn Broker> { Arc::new(memory("m")) };
    let refused = Routed::new([(below("a"), node())], node()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    assert!(refused.to_string().contains("log m"), "{refused}");
}
