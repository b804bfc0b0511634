//! The in-memory broker: clients that break off at random see every event once and in order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use fanfare_system_tests::{Follower, PATIENCE, Report};
use fanfare_testkit::{Fanfare, SseRequest, http};
use futures_util::future::join_all;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

const CHANNELS: [&str; 5] = ["c.a", "c.b", "c.c", "c.d", "c.e"];

const CONFIG: &str = r#"
    [broker]
    kind = "memory"
    [[retention]]
    channels = ">"
    max_count = 100000
    max_bytes = "1GiB"
    max_age = "1h"
    [broker.memory]
    max_total_bytes = "2GiB"
    [limits]
    connections_per_client = 100000
"#;

/// Publishes numbers, in turn over the channels, through streamed NDJSON in pieces.
async fn publish(url: String, channels: Vec<String>, rounds: u64) {
    let mut number = 0;
    while number < rounds {
        let mut lines = String::new();
        let until = (number + 100).min(rounds);
        for number in number..until {
            for channel in &channels {
                writeln!(lines, r#"{{"channel":"{channel}","data":"{number} x"}}"#).unwrap();
            }
        }
        let headers = [("Content-Type", "application/x-ndjson")];
        let reply = http::request("POST", &url, &headers, lines.as_bytes())
            .await
            .unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        let refused = reply
            .text()
            .lines()
            .filter(|line| !line.contains("\"id\""))
            .count();
        assert_eq!(refused, 0, "{}", reply.text());
        number = until;
    }
}

/// Follows until every event came, breaking off at random places in random ways.
async fn follow_with_breaks(
    address: SocketAddr,
    channels: Vec<&'static str>,
    each: u64,
    seed: u64,
    joined: Arc<Semaphore>,
) -> Report {
    let mut rng = fastrand::Rng::with_seed(seed);
    let all = each * channels.len() as u64;
    let mut client = Follower::join(address, &channels).await.unwrap();
    joined.add_permits(1);
    while client.delivered() < all {
        let left = all - client.delivered();
        client.read(rng.u64(1..=(all / 3)).min(left)).await.unwrap();
        if client.delivered() < all {
            client.break_off(rng.bool()).unwrap();
            client.come_back().await.unwrap();
        }
    }
    client.report()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_break_off_see_every_event_once_in_order() {
    const CLIENTS: u32 = 1_000;
    const EACH: u64 = 4_000;
    let node = Fanfare::start(CONFIG).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut crowd = JoinSet::new();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut expected = 0;
    let joined = Arc::new(Semaphore::new(0));
    for _ in 0..CLIENTS {
        let mut channels = CHANNELS.to_vec();
        rng.shuffle(&mut channels);
        channels.truncate(rng.usize(2..=3));
        expected += EACH * channels.len() as u64;
        crowd.spawn(follow_with_breaks(
            node.address(),
            channels,
            EACH,
            rng.u64(..),
            joined.clone(),
        ));
    }
    // Everybody was told `fanfare.hello` before the first event: what a client must see is then exact.
    let all = timeout(PATIENCE, joined.acquire_many(CLIENTS)).await;
    let _all = all.expect("all clients join").unwrap();
    let channels = CHANNELS.map(str::to_owned).to_vec();
    publish(format!("{}/publish", node.base_url()), channels, EACH).await;
    let mut report = Report::default();
    while let Some(one) = crowd.join_next().await {
        report.add(&one.unwrap());
    }
    report.print("memory, breaks", EACH * CHANNELS.len() as u64);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.delivered, expected);
    assert!(report.breaks > u64::from(CLIENTS), "{report:?}");
    assert!(report.longest_id < 64, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_follows_two_thousand_channels_with_one_short_id() {
    const EACH: u64 = 10;
    let node = Fanfare::start(CONFIG).await;
    let channels: Vec<String> = (0..2_000).map(|number| format!("many.{number}")).collect();
    let all = EACH * channels.len() as u64;
    let mut client = Follower::join(node.address(), &["many.>"]).await.unwrap();
    let publishing = tokio::spawn(publish(
        format!("{}/publish", node.base_url()),
        channels,
        EACH,
    ));
    while client.delivered() < all {
        let piece = fastrand::u64(1..2_000).min(all - client.delivered());
        client.read(piece).await.unwrap();
        client.break_off(false).unwrap();
        client.come_back().await.unwrap();
    }
    publishing.await.unwrap();
    let report = client.report();
    report.print("memory, 2,000 channels by pattern", all);
    assert!(report.is_clean(), "{report:?}");
    assert!(report.longest_id < 64, "{report:?}");
}

/// Retention that takes away what clients have not seen: they are told, each one.
#[tokio::test(flavor = "multi_thread")]
async fn history_that_goes_away_under_clients_is_told_as_a_gap() {
    let config = CONFIG.replace("max_count = 100000", "max_count = 10");
    let node = Fanfare::start(&config).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Follower::join(node.address(), &["c.a", "c.b"])
            .await
            .unwrap();
        client.break_off(true).unwrap();
        clients.push(client);
    }
    let channels = vec!["c.a".to_owned(), "c.b".to_owned()];
    publish(format!("{}/publish", node.base_url()), channels, 100).await;
    join_all(clients.iter_mut().map(|client| async move {
        client.come_back().await.unwrap();
        // A gap for each channel, and the ten that are retained of each.
        client.read(22).await.unwrap();
    }))
    .await;
    for client in &clients {
        let report = client.report();
        assert_eq!(
            (report.gaps, report.delivered, report.duplicates),
            (2, 20, 0),
            "{report:?}"
        );
        assert_eq!(report.missing, 180, "what the gaps cover");
    }
}

/// A restart of a node whose broker keeps nothing beyond it: a gap, never a wrong continuation.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_only_node_is_told_as_a_gap() {
    let mut node = Fanfare::start(CONFIG).await;
    let request = SseRequest::get(node.address(), "/events?channel=a");
    let mut client = request.connect().await.unwrap();
    let url = format!("{}/publish/a", node.base_url());
    http::request("POST", &url, &[], b"1").await.unwrap();
    client.next_events(2, PATIENCE).await.unwrap();
    node.restart().await;
    http::request("POST", &url, &[], b"2").await.unwrap();
    client.resume().await.unwrap();
    let events = client.next_events(3, PATIENCE).await.unwrap();
    assert!(events[0].data.contains("\"gap\":true"), "{events:?}");
    assert_eq!(&*events[1].event_type, "fanfare.gap");
    assert_eq!(&*events[2].data, "2", "what there is still comes");
}
