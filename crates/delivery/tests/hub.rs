//! The hub from outside: what a subscriber's sink yields, in stopped time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    future::poll_fn,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_core::{Broker, BrokerMetrics, Channel, Data, Event, EventType, Pattern, Publication};
use fanfare_delivery::{
    Body, CloseReason, Cursor, DeliveryConfig, Filter, Format, Hub, JoinError, Metrics, SlowPolicy,
    SlowRule, Start, Subscriber, View, WriteDelayRule,
};
use fanfare_memory::{MemoryBroker, MemoryConfig};
use fanfare_sse::{Decoder, Item};
use http_body::Body as _;
use prometheus::Registry;
use tokio::time::{Instant, timeout};

struct World {
    broker: Arc<MemoryBroker>,
    hub: Hub,
    registry: Registry,
}

fn world(config: DeliveryConfig) -> World {
    let metrics = BrokerMetrics::unregistered("memory");
    let broker = Arc::new(MemoryBroker::new(MemoryConfig::default(), metrics));
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let hub = Hub::spawn(config, broker.clone(), metrics);
    World {
        broker,
        hub,
        registry,
    }
}

fn config() -> DeliveryConfig {
    DeliveryConfig {
        shards: 2,
        ..DeliveryConfig::default()
    }
}

fn subscriber(channels: &[&str], start: Start) -> Subscriber {
    Subscriber {
        channels: channels
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect(),
        start,
        format: Format::Sse,
        hello: true,
        filter: None,
        ends_at: None,
        guard: Arc::new(()),
        abort: Arc::new(|| {}),
    }
}

impl World {
    async fn publish(&self, channel: &str, data: &str) {
        let channel = Channel::parse(channel).unwrap();
        self.broker
            .publish(&channel, Publication::new(data))
            .await
            .unwrap();
    }

    async fn join(&self, subscriber: Subscriber) -> Client {
        Client::new(self.hub.join(subscriber).await.unwrap().into_body())
    }

    /// How many gaps of a cause were counted.
    fn gaps(&self, cause: &str) -> u64 {
        let families = self.registry.gather();
        let of_cause = families
            .iter()
            .filter(|family| family.name() == "fanfare_delivery_gaps_total")
            .flat_map(|family| family.get_metric())
            .filter(|metric| {
                metric
                    .get_label()
                    .iter()
                    .any(|label| label.value() == cause)
            });
        of_cause
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }
}

struct Client {
    body: Option<Body>,
    decoder: Decoder,
    raw: Vec<u8>,
}

impl Client {
    fn new(body: Body) -> Self {
        Self {
            body: Some(body),
            decoder: Decoder::new(),
            raw: Vec::new(),
        }
    }

    /// The next thing in the stream; `None` at its end.
    async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.decoder.next() {
                return Some(item.unwrap());
            }
            let body = self.body.as_mut().unwrap();
            let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
            let bytes = frame.unwrap().into_data().unwrap();
            self.raw.extend_from_slice(&bytes);
            self.decoder.push(&bytes);
        }
    }

    async fn event(&mut self) -> (String, String, String) {
        loop {
            match timeout(Duration::from_secs(3600), self.next())
                .await
                .unwrap()
                .unwrap()
            {
                Item::Event(event) => {
                    return (
                        event.event_type.to_string(),
                        event.id.to_string(),
                        event.data.to_string(),
                    );
                }
                Item::Comment(_) | Item::Retry(_) => {}
            }
        }
    }

    async fn hello(&mut self) -> (String, serde_json::Value) {
        let (name, id, data) = self.event().await;
        assert_eq!(name, "fanfare.hello");
        (id, serde_json::from_str(&data).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn hello_then_live_then_exact_resume_from_any_id() {
    let world = world(config());
    let mut client = world.join(subscriber(&["a", "b.*"], Start::Now)).await;
    let (start, hello) = client.hello().await;
    assert_eq!(hello["gap"], false);
    assert_eq!(hello["channels"], serde_json::json!(["a", "b.*"]));
    for (channel, data) in [("a", "1"), ("b.x", "2"), ("c", "no"), ("a", "3")] {
        world.publish(channel, data).await;
    }
    let mut ids = vec![start];
    for expected in ["1", "2", "3"] {
        let (name, id, data) = client.event().await;
        assert_eq!((name.as_str(), data.as_str()), ("message", expected));
        ids.push(id);
    }
    for (from, id) in ids.iter().enumerate() {
        let start = Start::After(Cursor::parse(id).unwrap());
        let mut again = world.join(subscriber(&["a", "b.*"], start)).await;
        assert_eq!(again.hello().await.1["gap"], false);
        for expected in &["1", "2", "3"][from..] {
            assert_eq!(again.event().await.2, *expected);
        }
        world.publish("a", "live").await;
        assert_eq!(again.event().await.2, "live");
    }
}

#[tokio::test(start_paused = true)]
async fn starts_of_every_kind() {
    let world = world(config());
    for data in ["1", "2", "3"] {
        world.publish("a", data).await;
    }
    let two = NonZeroUsize::new(2).unwrap();
    for (start, expected) in [
        (Start::Oldest, vec!["1", "2", "3"]),
        (Start::Last(two), vec!["2", "3"]),
    ] {
        let mut client = world.join(subscriber(&["a"], start)).await;
        let (id, _) = client.hello().await;
        for data in &expected {
            assert_eq!(client.event().await.2, *data);
        }
        // Who breaks off right after hello comes back to the same events.
        let start = Start::After(Cursor::parse(&id).unwrap());
        let mut again = world.join(subscriber(&["a"], start)).await;
        again.hello().await;
        assert_eq!(again.event().await.2, expected[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_another_backend_is_told_a_gap() {
    let world = world(config());
    world.publish("a", "1").await;
    for foreign in ["r0.1.5", "m.1.5"] {
        let start = Start::After(Cursor::parse(foreign).unwrap());
        let mut client = world.join(subscriber(&["a"], start)).await;
        let (id, hello) = client.hello().await;
        assert_eq!(hello["gap"], true, "{foreign}");
        assert_eq!(id, foreign, "until the gap and an event after it came");
        let (name, id, data) = client.event().await;
        assert_eq!(name, "fanfare.gap");
        assert_eq!(
            id,
            client.decoder.last_event_id(),
            "the gap moves no cursor"
        );
        assert!(data.contains("\"cause\":\"new_epoch\""), "{data}");
    }
}

/// `hello` says that a gap follows; which one, only the gap says.
#[tokio::test(start_paused = true)]
async fn who_breaks_off_between_hello_and_a_gap_is_told_it_again() {
    let world = world(config());
    world.publish("a", "1").await;
    let mut id = "m.1.5".to_owned();
    for _ in 0..3 {
        let start = Start::After(Cursor::parse(&id).unwrap());
        let mut client = world.join(subscriber(&["a", "b"], start)).await;
        let hello;
        (id, hello) = client.hello().await;
        assert_eq!(hello["gap"], true);
    }
    let start = Start::After(Cursor::parse(&id).unwrap());
    let mut client = world.join(subscriber(&["a", "b"], start)).await;
    client.hello().await;
    for channel in ["a", "b"] {
        let (name, _, data) = client.event().await;
        assert_eq!(name, "fanfare.gap");
        assert!(data.contains(&format!("\"{channel}\"")), "{data}");
    }
    assert_eq!(client.event().await.2, "1");
}

#[tokio::test(start_paused = true)]
async fn the_stream_opens_with_retry_and_no_blank_line_that_ends_nothing() {
    let world = world(config());
    let mut client = world.join(subscriber(&["a"], Start::Now)).await;
    client.hello().await;
    let text = String::from_utf8(client.raw.clone()).unwrap();
    let rest = text.strip_prefix("retry: ").unwrap();
    let (retry, rest) = rest.split_once('\n').unwrap();
    assert!((2000..=3000).contains(&retry.parse().unwrap()), "{retry}");
    assert!(rest.starts_with(":\nid: m."), "{rest:?}");
    assert_eq!(text.matches("\n\n").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_beats_and_a_busy_one_does_not() {
    let world = world(config());
    let mut client = world.join(subscriber(&["a"], Start::Now)).await;
    client.hello().await;
    let mut last = Instant::now();
    for _ in 0..10 {
        assert_eq!(client.next().await, Some(Item::Comment(String::new())));
        let gap = last.elapsed();
        assert!(gap <= Duration::from_millis(15_200), "{gap:?}");
        assert!(gap >= Duration::from_secs(6), "{gap:?}");
        last = Instant::now();
    }
    let busy = async {
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            world.publish("a", "x").await;
        }
    };
    let read = async {
        let mut events = 0;
        while events < 100 {
            match client.next().await.unwrap() {
                Item::Event(_) => events += 1,
                other => panic!("{other:?} after {events} events"),
            }
        }
    };
    tokio::join!(busy, read);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_streams_that_began_together_spread() {
    let world = world(config());
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = world.join(subscriber(&["a"], Start::Now)).await;
        client.hello().await;
        clients.push(client);
    }
    let start = Instant::now();
    let beats = futures_util::future::join_all(clients.iter_mut().map(|client| async move {
        client.next().await;
        client.next().await;
        client.next().await;
        start.elapsed().as_millis() / 500
    }))
    .await;
    let mut per_half_second = std::collections::BTreeMap::new();
    beats
        .iter()
        .for_each(|at| *per_half_second.entry(at).or_insert(0) += 1);
    assert!(
        per_half_second.values().all(|count| *count < 100),
        "{per_half_second:?}"
    );
}

#[derive(Debug)]
struct Redact(AtomicUsize);

impl Filter for Redact {
    fn view(&self, event: &Event) -> View {
        self.0.fetch_add(1, Ordering::Relaxed);
        match event.data.as_str() {
            "secret" => View::Nothing,
            "panic" => panic!("a stranger's code"),
            data => View::Redacted(Data::from(format!("<{}>", data.len()))),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_is_asked_once_for_each_event_and_class() {
    let world = world(config());
    let filter = Arc::new(Redact(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut subscriber = subscriber(&["a"], Start::Now);
        subscriber.filter = Some(filter.clone());
        let mut client = world.join(subscriber).await;
        client.hello().await;
        clients.push(client);
    }
    let mut plain = world.join(subscriber(&["a"], Start::Now)).await;
    plain.hello().await;
    for data in ["abc", "secret", "de"] {
        world.publish("a", data).await;
    }
    for client in &mut clients {
        assert_eq!(client.event().await.2, "<3>");
        assert_eq!(client.event().await.2, "<2>");
    }
    for data in ["abc", "secret", "de"] {
        assert_eq!(plain.event().await.2, data);
    }
    assert_eq!(
        filter.0.load(Ordering::Relaxed),
        3 * 2,
        "three events, two shards"
    );
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_panics_costs_its_class_the_event_and_says_so() {
    let world = world(config());
    let mut filtered = subscriber(&["a"], Start::Now);
    filtered.filter = Some(Arc::new(Redact(AtomicUsize::new(0))));
    let mut client = world.join(filtered).await;
    client.hello().await;
    let mut plain = world.join(subscriber(&["a"], Start::Now)).await;
    plain.hello().await;
    world.publish("a", "panic").await;
    world.publish("a", "ok").await;
    let (name, _, data) = client.event().await;
    assert_eq!(name, "fanfare.gap");
    assert!(data.contains("\"cause\":\"filter\""), "{data}");
    assert_eq!(client.event().await.2, "<2>");
    assert_eq!(plain.event().await.2, "panic");
    assert_eq!(world.gaps("filter"), 1, "live");
    let mut replayed = subscriber(&["a"], Start::Oldest);
    replayed.filter = Some(Arc::new(Redact(AtomicUsize::new(0))));
    let mut client = world.join(replayed).await;
    client.hello().await;
    assert_eq!(client.event().await.0, "fanfare.gap");
    assert_eq!(world.gaps("filter"), 2, "replayed");
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_panics_on_what_a_slow_client_is_left_is_counted_too() {
    let world = world(slow(SlowPolicy::Latest));
    let mut filtered = subscriber(&["a"], Start::Now);
    filtered.filter = Some(Arc::new(Redact(AtomicUsize::new(0))));
    let mut client = world.join(filtered).await;
    client.hello().await;
    for _ in 0..200 {
        world.publish("a", "too much").await;
    }
    // Longer than a burst may last.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.publish("a", "panic").await;
    let mut told = 0;
    while let Ok(Some(item)) = timeout(Duration::from_millis(900), client.next()).await {
        if let Item::Event(event) = item {
            told += u64::from(event.data.contains("\"cause\":\"filter\""));
        }
    }
    assert_eq!((told, world.gaps("filter")), (1, 1));
}

fn slow(policy: SlowPolicy) -> DeliveryConfig {
    let rule = SlowRule {
        channels: Pattern::all(),
        policy,
    };
    DeliveryConfig {
        outbox_bytes: 2_000,
        slow: vec![rule],
        ..config()
    }
}

#[tokio::test(start_paused = true)]
async fn slow_policies_never_lose_in_silence() {
    for policy in [SlowPolicy::Close, SlowPolicy::Gap, SlowPolicy::Latest] {
        let world = world(slow(policy));
        let mut client = world.join(subscriber(&["a", "b"], Start::Now)).await;
        client.hello().await;
        let mut other = world.join(subscriber(&["a"], Start::Now)).await;
        other.hello().await;
        for number in 0..200 {
            world
                .publish(if number % 2 == 0 { "a" } else { "b" }, &number.to_string())
                .await;
            if number % 2 == 0 {
                assert_eq!(
                    other.event().await.2,
                    number.to_string(),
                    "others are not held up"
                );
            }
        }
        // Longer than a burst may last.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut seen: Vec<u32> = Vec::new();
        let mut gaps = Vec::new();
        let mut closed = false;
        while let Ok(Some(item)) = timeout(Duration::from_millis(900), client.next()).await {
            let Item::Event(event) = item else { continue };
            match &*event.event_type {
                "message" => seen.push(event.data.parse().unwrap()),
                "fanfare.gap" => gaps.push(event.data.to_string()),
                "fanfare.close" => closed = event.data.contains("\"reason\":\"slow\""),
                other => panic!("{other}"),
            }
        }
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        assert!(seen.len() < 200);
        match policy {
            SlowPolicy::Close => {
                assert!(closed && gaps.is_empty());
                assert!(
                    seen.iter()
                        .enumerate()
                        .all(|(index, number)| index as u32 == *number)
                );
            }
            SlowPolicy::Gap => assert_eq!(gaps.len(), 2, "{gaps:?}"),
            SlowPolicy::Latest => {
                assert_eq!(seen[seen.len() - 2..], [198, 199]);
                assert!(gaps.iter().all(|gap| gap.contains("conflated")) && gaps.len() == 2);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_does_not_make_a_client_slow() {
    for policy in [SlowPolicy::Close, SlowPolicy::Gap, SlowPolicy::Latest] {
        let world = world(slow(policy));
        let mut client = world.join(subscriber(&["a"], Start::Now)).await;
        client.hello().await;
        for number in 0..500 {
            world.publish("a", &number.to_string()).await;
        }
        for number in 0..500 {
            let (name, _, data) = client.event().await;
            assert_eq!((&*name, data), ("message", number.to_string()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_channel_is_written_when_its_delay_is_over() {
    let rule = WriteDelayRule {
        channels: Pattern::parse("ticks.*").unwrap(),
        delay: Duration::from_millis(7),
    };
    let world = world(DeliveryConfig {
        write_delays: vec![rule],
        ..config()
    });
    let mut busy = world.join(subscriber(&["ticks.a"], Start::Now)).await;
    let mut other = world.join(subscriber(&["a"], Start::Now)).await;
    busy.hello().await;
    other.hello().await;
    let began = Instant::now();
    // A task that sleeps until it is woken, as that of a body does.
    let reader = tokio::spawn(async move {
        let first = (busy.event().await.2, began.elapsed());
        (first, (busy.event().await.2, began.elapsed()))
    });
    tokio::task::yield_now().await;
    world.publish("ticks.a", "1").await;
    world.publish("a", "2").await;
    assert_eq!(other.event().await.2, "2");
    assert_eq!(began.elapsed(), Duration::ZERO, "others do not wait");
    tokio::time::sleep(Duration::from_millis(3)).await;
    world.publish("ticks.a", "3").await;
    let (first, second) = reader.await.unwrap();
    assert_eq!((&*first.0, &*second.0), ("1", "3"));
    // The shard counts whole milliseconds of its own, and the timer rounds up.
    assert!((6..=9).contains(&first.1.as_millis()), "{:?}", first.1);
    assert_eq!(first.1, second.1, "written with the first");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_off() {
    let world = world(config());
    let cut = Arc::new(tokio::sync::Notify::new());
    let mut stalled = subscriber(&["a"], Start::Now);
    let notify = cut.clone();
    stalled.abort = Arc::new(move || notify.notify_one());
    let seat = world.hub.join(stalled).await.unwrap();
    let body = seat.into_body();
    let start = Instant::now();
    cut.notified().await;
    assert!(start.elapsed() >= Duration::from_secs(30));
    assert!(start.elapsed() <= Duration::from_secs(50));
    assert_eq!(world.hub.subscribers(), 1);
    drop(body);
    assert_eq!(world.hub.subscribers(), 0);
}

#[tokio::test(start_paused = true)]
async fn leaving_lets_go_of_the_guard_and_the_channels_at_once() {
    let world = world(config());
    let guard = Arc::new(());
    let mut one = subscriber(&["a", "b.>"], Start::Now);
    one.guard = guard.clone();
    let client = world.join(one).await;
    assert_eq!(world.hub.followed(10).len(), 2);
    assert_eq!(Arc::strong_count(&guard), 2);
    drop(client);
    assert_eq!(Arc::strong_count(&guard), 1);
    assert!(world.hub.followed(10).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_spreads_over_its_window_and_takes_nobody_new() {
    let world = world(config());
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(world.join(subscriber(&["a"], Start::Now)).await);
    }
    let start = Instant::now();
    let window = Duration::from_secs(10);
    let ends = futures_util::future::join_all(clients.into_iter().map(|mut client| async move {
        loop {
            let (name, _, data) = client.event().await;
            if name == "fanfare.close" {
                assert!(data.contains("\"reason\":\"drain\""), "{data}");
                assert!(data.contains("\"retry_ms\":"), "{data}");
                break;
            }
        }
        while client.next().await.is_some() {}
        start.elapsed()
    }));
    let (ends, ()) = tokio::join!(ends, world.hub.drain(window));
    let early = ends.iter().filter(|end| **end < window / 2).count();
    assert!(
        (30..=70).contains(&early),
        "{early} of 100 in the first half"
    );
    assert_eq!(world.hub.subscribers(), 0);
    let late = world.hub.join(subscriber(&["a"], Start::Now)).await;
    assert!(matches!(late, Err(JoinError::Draining)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_time() {
    let world = world(config());
    let mut ending = subscriber(&["a"], Start::Now);
    let at = std::time::Instant::now() + Duration::from_secs(60);
    ending.ends_at = Some((at, CloseReason::Expired));
    let start = Instant::now();
    let mut client = world.join(ending).await;
    client.hello().await;
    let (name, _, data) = client.event().await;
    assert_eq!(name, "fanfare.close");
    assert!(data.contains("\"reason\":\"expired\""), "{data}");
    let life = start.elapsed();
    assert!(
        life > Duration::from_secs(58) && life < Duration::from_secs(61),
        "{life:?}"
    );
    assert_eq!(client.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_poll_takes_what_is_there_or_waits() {
    let world = world(config());
    let poll = |start| Subscriber {
        format: Format::Items,
        ..subscriber(&["a"], start)
    };
    let wait = Duration::from_secs(25);
    let mut items = world.hub.join(poll(Start::Now)).await.unwrap().into_items();
    let start = Instant::now();
    let page = items.collect(wait, 100, 1 << 20).await;
    assert_eq!((page.events.len(), start.elapsed()), (0, wait));
    let cursor = page.cursor.unwrap();
    drop(items);

    world.publish("a", "1\n\"2\"").await;
    let channel = Channel::parse("a").unwrap();
    let typed = Publication {
        event_type: Some(EventType::parse("t").unwrap()),
        ..Publication::new("3")
    };
    world.broker.publish(&channel, typed).await.unwrap();
    let start = Start::After(Cursor::parse(&cursor).unwrap());
    let mut items = world.hub.join(poll(start)).await.unwrap().into_items();
    let page = items.collect(wait, 100, 1 << 20).await;
    let events: Vec<serde_json::Value> = page
        .events
        .iter()
        .map(|event| serde_json::from_slice(event).unwrap())
        .collect();
    assert_eq!(events[0]["data"], "1\n\"2\"");
    assert_eq!(events[1]["event"], "t");
    assert_eq!(events[1]["id"].as_str(), page.cursor.as_deref());
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_told_a_gap_once() {
    let world = world(config());
    world.publish("a", "1").await;
    world.publish("a", "2").await;
    world.broker.purge(&Pattern::all());
    let poll = |cursor: &str| Subscriber {
        format: Format::Items,
        ..subscriber(&["a"], Start::After(Cursor::parse(cursor).unwrap()))
    };
    let head = world
        .broker
        .publish(&Channel::parse("b").unwrap(), Publication::new(""))
        .await;
    let mut first = head.unwrap().position.unwrap();
    first.offset = fanfare_core::Offset(1);
    let mut cursor = Cursor::from(first).to_string();
    for gaps in [1, 0] {
        let mut items = world.hub.join(poll(&cursor)).await.unwrap().into_items();
        let page = items.collect(Duration::from_secs(25), 100, 1 << 20).await;
        assert_eq!((page.gaps.len(), page.events.len()), (gaps, 0));
        cursor = page.cursor.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_envelope_names_the_channel() {
    let world = world(config());
    let envelope = Subscriber {
        format: Format::Envelope,
        ..subscriber(&[">"], Start::Now)
    };
    let mut client = world.join(envelope).await;
    client.hello().await;
    world.publish("x.y", "a\nb").await;
    let (_, id, data) = client.event().await;
    let data: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(
        data,
        serde_json::json!({"channel": "x.y", "id": id, "data": "a\nb"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_pattern_over_thousands_of_channels_has_a_short_id() {
    let world = world(config());
    let mut client = world.join(subscriber(&["many.*"], Start::Now)).await;
    client.hello().await;
    for number in 0..2_000 {
        world
            .publish(&format!("many.{number}"), &number.to_string())
            .await;
    }
    for number in 0..2_000 {
        let (_, id, data) = client.event().await;
        assert_eq!(data, number.to_string());
        assert!(id.len() < 64, "{id}");
    }
}

/// A broker of which each channel is a log of its own.
#[derive(Debug)]
struct Streams(MemoryBroker);

#[async_trait::async_trait]
impl Broker for Streams {
    async fn publish(
        &self,
        channel: &Channel,
        publication: Publication,
    ) -> Result<fanfare_core::Published, fanfare_core::BrokerError> {
        self.0.publish(channel, publication).await
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        inlet: &fanfare_core::Inlet,
    ) -> Result<fanfare_core::Subscription, fanfare_core::BrokerError> {
        self.0.subscribe(pattern, inlet).await
    }

    async fn history(
        &self,
        query: fanfare_core::HistoryQuery,
    ) -> Result<fanfare_core::History, fanfare_core::BrokerError> {
        self.0.history(query).await
    }

    async fn probe(&self) -> Result<(), fanfare_core::BrokerError> {
        self.0.probe().await
    }

    async fn close(&self) {
        self.0.close().await;
    }

    fn capabilities(&self) -> fanfare_core::Capabilities {
        let of = |pattern: &Pattern| {
            let name = pattern.as_str().replace('.', "-");
            vec![fanfare_core::LogId::parse(&name).unwrap()]
        };
        fanfare_core::Capabilities {
            logs: fanfare_core::LogMap::new([], of),
            ..self.0.capabilities()
        }
    }
}

/// An id that names more logs than a cursor may could not be sent back.
#[tokio::test(start_paused = true)]
async fn channels_of_too_many_logs_are_refused() {
    let metrics = BrokerMetrics::unregistered("memory");
    let broker = Streams(MemoryBroker::new(MemoryConfig::default(), metrics));
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let hub = Hub::spawn(config(), Arc::new(broker), metrics);
    let names: Vec<String> = (0..65).map(|n| format!("log.{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = hub.join(subscriber(&names, Start::Now)).await;
    assert!(
        matches!(refused, Err(JoinError::TooManyLogs { logs: 65 })),
        "{refused:?}"
    );
    assert!(hub.followed(10).is_empty(), "nothing stays");
}
