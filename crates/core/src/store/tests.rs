use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::{Data, GapCause, HistoryQuery, Live, RetentionRule, Since, Tags};

fn store(config: StoreConfig) -> Store {
    let head = Position {
        log: LogId::parse("l").unwrap(),
        epoch: Epoch(7),
        offset: Offset::ZERO,
    };
    Store::new(head, config, BrokerMetrics::unregistered("test"))
}

fn keeping(max_count: usize) -> StoreConfig {
    StoreConfig {
        retention: Retention::new([RetentionRule {
            max_count,
            ..RetentionRule::of(Pattern::all())
        }]),
        ..StoreConfig::default()
    }
}

fn put(store: &mut Store, channel: &str, now: Instant) -> u128 {
    let channel = Channel::parse(channel).unwrap();
    let head = store.head();
    let position = head.at(Offset(head.offset.0 + 1));
    let event = Event {
        previous: store.previous(&channel),
        channel,
        position: position.clone(),
        event_type: None,
        data: Data::from("x"),
        tags: Tags::default(),
        published_at: SystemTime::UNIX_EPOCH,
    };
    store.push(Arc::new(event), now);
    position.offset.0
}

fn query(store: &Store, channels: &[&str], since: Since, limit: usize) -> HistoryQuery {
    HistoryQuery {
        log: store.log.clone(),
        channels: channels
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect(),
        since,
        limit: limit.try_into().unwrap(),
        max_bytes: usize::MAX,
    }
}

fn after(store: &Store, channels: &[&str], offset: u128, limit: usize) -> Vec<String> {
    let since = Since::After(store.place(Offset(offset)));
    told(store.history(&query(store, channels, since, limit)).items)
}

/// `3` for an event, `a:(1,3]evicted` for a gap.
fn told(items: Vec<Live>) -> Vec<String> {
    let one = |item| match item {
        Live::Event(event) => event.position.offset.0.to_string(),
        Live::Gap(gap) => format!(
            "{}:({},{}]{}",
            gap.scope,
            gap.after.map_or(0, |after| after.offset.0),
            gap.next.offset.0,
            gap.cause.as_str()
        ),
    };
    items.into_iter().map(one).collect()
}

#[tokio::test]
async fn what_a_mirrored_log_lost_is_taken_away_and_told() {
    let mut store = store(keeping(9));
    for channel in ["a", "b", "a", "b", "a"] {
        put(&mut store, channel, Instant::now());
    }
    let all: Vec<_> = ["a", "b"].map(|text| Pattern::parse(text).unwrap()).into();
    assert!(store.is_whole(&all, Offset::ZERO));
    store.purge_range(Offset(3)..=Offset(3));
    assert_eq!(after(&store, &["a"], 0, 9), ["1", "a:(0,3]evicted", "5"]);
    assert_eq!(after(&store, &["b"], 0, 9), ["2", "4"]);
    assert!(!store.is_whole(&all, Offset(2)) && store.is_whole(&all, Offset(3)));
    assert!(store.is_whole(&all[1..], Offset::ZERO));
    store.purge_before(Offset(4));
    assert_eq!(after(&store, &["a"], 0, 9), ["a:(0,3]evicted", "5"]);
    assert_eq!(after(&store, &["b"], 0, 9), ["b:(0,2]evicted", "4"]);
    assert_eq!(store.holding().events, 2);
}

#[tokio::test]
async fn eviction_is_told_per_channel_and_page_by_page() {
    let mut store = store(keeping(2));
    for channel in ["a", "b", "a", "a", "b", "a"] {
        put(&mut store, channel, Instant::now());
    }
    assert_eq!(
        after(&store, &["a", "b"], 0, 9),
        ["2", "a:(0,3]evicted", "4", "5", "6"]
    );
    assert_eq!(after(&store, &[">"], 0, 1), ["2", "a:(0,2]evicted"]);
    assert_eq!(after(&store, &[">"], 2, 1), ["a:(2,3]evicted", "4"]);
    assert_eq!(after(&store, &["b"], 0, 9), ["2", "5"]);
    assert_eq!(after(&store, &["*"], 3, 9), ["4", "5", "6"]);
    assert_eq!(after(&store, &["c"], 0, 9), [""; 0]);
}

#[tokio::test]
async fn a_cursor_of_another_epoch_or_beyond_the_head_gets_a_gap_and_all_there_is() {
    let mut store = store(keeping(2));
    for channel in ["b", "a", "a", "b", "a"] {
        put(&mut store, channel, Instant::now());
    }
    assert_eq!(after(&store, &["a"], 9, 9), ["a:(9,2]new_epoch", "3", "5"]);
    let foreign = Position {
        epoch: Epoch(8),
        ..store.place(Offset(4))
    };
    let since = Since::After(foreign);
    let page = store.history(&query(&store, &["a", "b"], since.clone(), 9));
    assert_eq!(
        told(page.items),
        [
            "a:(4,0]new_epoch",
            "b:(4,0]new_epoch",
            "1",
            "a:(0,2]evicted",
            "3",
            "4",
            "5"
        ]
    );
    let page = store.history(&query(&store, &["x"], since, 9));
    assert_eq!(told(page.items), ["x:(4,5]new_epoch"]);
    assert_eq!((page.upto, page.more), (store.head(), false));
}

#[tokio::test]
async fn last_takes_the_newest_of_each_channel() {
    let mut store = store(keeping(10));
    for channel in ["a.x", "b", "a.x", "a.y", "b", "a.x"] {
        put(&mut store, channel, Instant::now());
    }
    let last = |each: usize, limit| {
        let since = Since::Last(each.try_into().unwrap());
        told(
            store
                .history(&query(&store, &["a.*", "b"], since, limit))
                .items,
        )
    };
    assert_eq!(last(1, 9), ["4", "5", "6"]);
    assert_eq!(last(2, 9), ["2", "3", "4", "5", "6"]);
    assert_eq!(last(2, 2), ["5", "6"]);
    let now = store.history(&query(&store, &[">"], Since::Now, 1));
    assert!(now.items.is_empty() && !now.more && now.upto.offset.0 == 6);
}

#[tokio::test]
async fn bytes_bound_channels_the_whole_and_pages() {
    let mut config = keeping(100);
    config.max_total_bytes = 5 * (CHANNEL_WEIGHT + 192 + 2);
    let mut store = store(config);
    for index in 0..50 {
        put(&mut store, &index.to_string()[..1], Instant::now());
        put(&mut store, "z", Instant::now());
        assert!(store.holding().bytes <= store.config.max_total_bytes);
    }
    let held = store.holding();
    let kept: Vec<_> = (101 - held.events..=100).map(|n| n.to_string()).collect();
    let oldest = store.history(&query(&store, &[">"], Since::Oldest, 999));
    assert_eq!(
        told(oldest.items),
        kept,
        "the newest of the whole log are kept"
    );

    let mut bounded = query(&store, &[">"], Since::Oldest, 999);
    bounded.max_bytes = 2;
    assert_eq!(store.history(&bounded).items.len(), 2);
    bounded.max_bytes = 0;
    let page = store.history(&bounded);
    assert_eq!((page.items.len(), page.more), (1, true));
}

#[tokio::test(start_paused = true)]
async fn age_takes_events_and_idle_channels_are_forgotten_but_not_silently() {
    let mut store = store(keeping(10));
    put(&mut store, "a.1", Instant::now());
    put(&mut store, "b", Instant::now());
    tokio::time::advance(Duration::from_secs(1800)).await;
    put(&mut store, "b", Instant::now());
    tokio::time::advance(Duration::from_secs(1800)).await;
    assert!(!store.sweep(Instant::now(), 100, |channel| channel.as_str() == "b"));
    assert_eq!((store.holding().known, store.holding().events), (1, 1));
    assert_eq!(after(&store, &["a.1"], 0, 9), ["a.1:(0,1]evicted"]);
    assert_eq!(after(&store, &["a.*"], 0, 9), ["a.*:(0,1]evicted"]);
    assert_eq!(after(&store, &["b"], 0, 9), ["b:(0,2]evicted", "3"]);
    assert_eq!(after(&store, &["a.1"], 1, 9), [""; 0]);
    // A quiet channel is told of a loss only if it shares a bucket with a.1: not all of these do.
    let mut quiet = ["q1", "q2", "q3", "q4"].into_iter();
    let quiet = quiet.find(|name| after(&store, &[name], 0, 9).is_empty());
    let quiet = Channel::parse(quiet.unwrap()).unwrap();
    assert_eq!(store.previous(&Channel::parse("a.1").unwrap()), None);
    assert_eq!(store.previous(&quiet), Some(Offset::ZERO));
    put(&mut store, "a.1", Instant::now());
    assert_eq!(after(&store, &["a.1"], 0, 9), ["a.1:(0,1]evicted", "4"]);
}

#[tokio::test]
async fn more_channels_than_allowed_are_forgotten_oldest_first() {
    let mut config = keeping(10);
    config.max_channels = 3;
    let mut store = store(config);
    for name in 0..1000 {
        put(&mut store, &format!("c{name}"), Instant::now());
        assert!(store.holding().known <= 3);
    }
    assert_eq!(after(&store, &["c999"], 999, 9), ["1000"]);
    assert_eq!(after(&store, &["c996"], 0, 9).len(), 1, "a gap");
}

#[tokio::test]
async fn purging_and_many_losses_are_told() {
    let mut store = store(keeping(10));
    for name in 0..100 {
        put(&mut store, &format!("a.{name}"), Instant::now());
    }
    put(&mut store, "b", Instant::now());
    assert_eq!(store.purge(&Pattern::parse("a.7").unwrap()), 1);
    assert_eq!(
        after(&store, &["a.7", "b"], 0, 9),
        ["a.7:(0,8]evicted", "101"]
    );
    assert_eq!(store.purge(&Pattern::parse("a.*").unwrap()), 99);
    assert_eq!(
        after(&store, &["a.>", "b"], 0, 9),
        ["a.>:(0,100]evicted", "101"]
    );
}

#[tokio::test]
async fn gaps_keep_their_place_and_join_at_the_bound() {
    let mut config = keeping(10);
    config.max_gaps = 2;
    let mut store = store(config);
    let gap = |store: &Store, scope: &str| Gap {
        scope: Pattern::parse(scope).unwrap(),
        cause: GapCause::Reconnected,
        after: None,
        next: store.place(Offset(store.head.0 + 1)),
    };
    for scope in ["a", "b", "a"] {
        put(&mut store, "a", Instant::now());
        let gap = gap(&store, scope);
        store.push_gap(gap);
    }
    assert_eq!(
        after(&store, &["a"], 0, 9),
        ["1", "3", ">:(1,4]reconnected", "5", "a:(5,6]reconnected"]
    );
    assert_eq!(after(&store, &["a"], 5, 9), ["a:(5,6]reconnected"]);
    assert_eq!(after(&store, &["b"], 4, 9), [""; 0]);
    assert_eq!(
        after(&store, &["a"], 0, 2),
        ["1", "3", ">:(1,3]reconnected"]
    );
}

#[tokio::test]
async fn dropping_a_store_gives_its_figures_back() {
    let metrics = BrokerMetrics::unregistered("test");
    let head = store(StoreConfig::default()).head();
    let mut store = Store::new(head, keeping(10), metrics.clone());
    for _ in 0..20 {
        put(&mut store, "a", Instant::now());
    }
    let held = store.holding();
    assert_eq!(metrics.retained_events.get(), 10);
    assert_eq!(metrics.retained_bytes.get(), held.bytes as i64);
    assert_eq!(metrics.retained_channels.get(), 1);
    drop(store);
    assert_eq!(
        metrics.retained_bytes.get() + metrics.retained_events.get(),
        0
    );
}

proptest! {
    /// However it is asked and wherever pages are cut: each event after the cursor is answered
    /// once and in order, or lies in a gap of its channel.
    #[test]
    fn what_was_put_is_answered_or_told(
        channels in proptest::collection::vec(0..6usize, 1..120),
        max_count in 1..8usize,
        max_total in 3..60usize,
        sweep in any::<bool>(),
        cursor in any::<prop::sample::Index>(),
        limit in 1..9usize,
        asked in proptest::sample::subsequence(vec!["a.0", "a.1", "a.*", "b.3", "*.4", "b.>", ">"], 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let mut config = keeping(max_count);
        config.max_total_bytes = max_total * 300;
        let mut store = store(config);
        let names = ["a.0", "a.1", "a.2", "b.3", "b.4", "b.5"];
        let now = Instant::now();
        for channel in &channels {
            put(&mut store, names[*channel], now);
            if sweep {
                store.sweep(now, 4, |_| false);
            }
        }
        let start = cursor.index(channels.len() + 1) as u128;
        let patterns: Vec<_> = asked.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        let mut since = start;
        let mut answered = Vec::new();
        let mut gaps = Vec::new();
        loop {
            let at = Since::After(store.place(Offset(since)));
            let page = store.history(&query(&store, &asked, at, limit));
            let places: Vec<_> = page.items.iter().map(|item| item.position().offset).collect();
            prop_assert!(places.is_sorted(), "{:?}", told(page.items));
            prop_assert!(places.iter().all(|at| at.0 > since && *at <= page.upto.offset));
            for item in page.items {
                match item {
                    Live::Event(event) => answered.push(event.position.offset.0),
                    Live::Gap(gap) => gaps.push(gap),
                }
            }
            since = page.upto.offset.0;
            if !page.more {
                break;
            }
        }
        prop_assert_eq!(since, channels.len() as u128);
        prop_assert!(answered.is_sorted_by(|a, b| a < b));
        for (index, channel) in channels.iter().enumerate() {
            let (offset, name) = (index as u128 + 1, Channel::parse(names[*channel]).unwrap());
            let wanted = offset > start && patterns.iter().any(|p| p.matches(&name));
            let told = gaps.iter().any(|gap| {
                let begins = gap.after.as_ref().unwrap().offset.0;
                gap.scope.matches(&name) && begins < offset && offset <= gap.next.offset.0
            });
            let got = answered.contains(&offset);
            prop_assert!(wanted || !got, "{} {} was not asked for", offset, name);
            prop_assert!(!wanted || got || told, "{} {} is lost in silence", offset, name);
        }
    }
}
