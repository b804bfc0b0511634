//! Many channels: memory comes back, and resuming does not look at what it does not answer.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers")]

use std::{num::NonZeroUsize, time::Duration};

use fanfare_core::{
    Broker, BrokerMetrics, Channel, GapCause, HistoryQuery, Live, Pattern, Position, Publication,
    Retention, RetentionRule, Since,
};
use fanfare_memory::{MemoryBroker, MemoryConfig};

fn broker(change: impl FnOnce(&mut MemoryConfig)) -> MemoryBroker {
    let mut config = MemoryConfig::default();
    change(&mut config);
    MemoryBroker::new(config, BrokerMetrics::unregistered("memory"))
}

async fn publish(broker: &MemoryBroker, channel: &str) -> Position {
    let channel = Channel::parse(channel).unwrap();
    let published = broker.publish(&channel, Publication::new("x")).await;
    published.unwrap().position.unwrap()
}

fn after(cursor: &Position, channels: &str, limit: usize) -> HistoryQuery {
    HistoryQuery {
        log: cursor.log.clone(),
        channels: vec![Pattern::parse(channels).unwrap()],
        since: Since::After(cursor.clone()),
        limit: NonZeroUsize::new(limit).unwrap(),
        max_bytes: 1 << 20,
    }
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_thousands_of_channels_one_after_the_other_leave_nothing_behind() {
    const BOUND: usize = 8 << 20;
    let broker = broker(|config| config.store.max_total_bytes = BOUND);
    let first = publish(&broker, "c.0").await;
    let mut most = 0;
    for index in 1..300_000 {
        publish(&broker, &format!("c.{index}")).await;
        let held = broker.holding();
        assert!(held.bytes <= BOUND);
        most = most.max(held.known - held.channels);
    }
    assert!(
        most < 10,
        "{most} channels without events were known at a time"
    );
    let held = broker.holding();
    assert_eq!(held.known, held.channels);
    assert!(held.channels < BOUND / 512, "{held:?}");

    // Not in silence: a channel that was forgotten answers a gap to a cursor from before.
    let before = first.at(fanfare_core::Offset::ZERO);
    let page = broker.history(after(&before, "c.0", 10)).await.unwrap();
    let [Live::Gap(gap)] = &page.items[..] else {
        panic!("{:?}", page.items)
    };
    assert_eq!(gap.cause, GapCause::Evicted);
    assert_eq!(first.is_after(&gap.next), Some(false));

    // An idle broker cleans up by itself: nothing is published any more.
    tokio::time::sleep(Duration::from_secs(60 * 60 + 5)).await;
    assert_eq!(broker.holding(), Default::default());
}

#[tokio::test]
async fn a_channel_that_is_followed_is_not_forgotten() {
    let broker = broker(|config| config.store.max_total_bytes = 64 << 10);
    let (inlet, _feed) = fanfare_core::feed(Default::default());
    let quiet = Pattern::parse("quiet").unwrap();
    let _hold = broker.subscribe(&quiet, &inlet).await.unwrap();
    let cursor = publish(&broker, "quiet").await;
    for index in 0..20_000 {
        publish(&broker, &format!("c.{index}")).await;
    }
    // Its event is long gone, and it saw it: it lost nothing.
    let page = broker.history(after(&cursor, "quiet", 10)).await.unwrap();
    assert!(page.items.is_empty(), "{:?}", page.items);
    let next = publish(&broker, "quiet").await;
    let page = broker.history(after(&cursor, "quiet", 10)).await.unwrap();
    let [Live::Event(event)] = &page.items[..] else {
        panic!("{:?}", page.items)
    };
    assert_eq!(
        (&event.position, event.previous),
        (&next, Some(cursor.offset))
    );
}

/// The bound in time is a tenth of a scan of all events for each of the resumes.
#[tokio::test]
async fn a_thousand_resumes_of_two_thousand_channels_by_one_pattern_are_quick() {
    const EVENTS: usize = 100_000;
    let latest = RetentionRule {
        max_count: 1,
        ..RetentionRule::of(Pattern::parse("latest").unwrap())
    };
    let broker = broker(|config| config.store.retention = Retention::new([latest]));
    let mut places = Vec::new();
    for index in 0..EVENTS {
        places.push(publish(&broker, &format!("many.{}", index % 2000)).await);
        if index % 100 == 0 {
            // Evicts each time, so that nobody can say that nothing is gone.
            publish(&broker, "latest").await;
        }
    }
    let page = |place: &Position, limit| broker.history(after(place, "many.*", limit));
    let scan = std::time::Instant::now();
    let all = page(&places[0], EVENTS).await.unwrap();
    assert_eq!(all.items.len(), EVENTS - 1);
    let bound = scan.elapsed() * 100;

    let start = std::time::Instant::now();
    for resume in 0..1000 {
        let place = EVENTS - 1 - resume * 90;
        let found = page(&places[place], 100).await.unwrap();
        let expected = &places[place + 1..(place + 101).min(EVENTS)];
        let got: Vec<_> = found.items.iter().map(Live::position).collect();
        assert!(got.into_iter().eq(expected));
        assert_eq!(found.more, place + 101 < EVENTS);
    }
    let took = start.elapsed();
    println!("1000 resumes took {took:?}; the bound is {bound:?}");
    assert!(took < bound, "{took:?} of {bound:?}");
}
