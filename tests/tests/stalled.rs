//! A client that takes nothing among a thousand that do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use fanfare_testkit::{Fanfare, SseRequest, eventually, http};
use futures_util::future::{join_all, try_join_all};

const CONFIG: &str = r#"
    [broker]
    kind = "memory"
    [limits]
    connections_per_client = 10000
    [delivery]
    outbox_bytes = "256KiB"
    stall_timeout = "3s"
    [log]
    level = "info"
"#;

const CLIENTS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes `rounds` events of 1 KiB, one after the other was seen by everybody; answers how
/// long each took to reach all.
async fn rounds(
    node: &Fanfare,
    clients: &mut [fanfare_testkit::SseClient],
    rounds: usize,
) -> Vec<Duration> {
    let url = format!("{}/publish/news", node.base_url());
    let data = vec![b'x'; 1024];
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        http::request("POST", &url, &[], &data).await.unwrap();
        let reading = clients.iter_mut().map(|client| client.next_event(PATIENCE));
        for event in join_all(reading).await {
            assert_eq!(event.unwrap().unwrap().data.len(), 1024);
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_with_a_zero_window_changes_nothing_for_the_others() {
    let node = Fanfare::start(CONFIG).await;
    let get = || SseRequest::get(node.address(), "/events?channel=news&hello=0");
    let mut clients = try_join_all((0..CLIENTS).map(|_| get().connect()))
        .await
        .unwrap();
    let without = rounds(&node, &mut clients, 40).await;

    let mut stalled = get().receive_buffer(2048).connect().await.unwrap();
    // What it does not read fills its window, the node's socket and then its outbox.
    let url = format!("{}/publish/news", node.base_url());
    let large = vec![b'y'; 900 << 10];
    let before = resident_bytes(node.id());
    for _ in 0..12 {
        http::request("POST", &url, &[], &large).await.unwrap();
        for event in join_all(clients.iter_mut().map(|client| client.next_event(PATIENCE))).await {
            assert_eq!(event.unwrap().unwrap().data.len(), large.len());
        }
    }
    let with = rounds(&node, &mut clients, 40).await;
    let grown = resident_bytes(node.id()).saturating_sub(before);
    let (median, median_with) = (without[20], with[20]);
    eprintln!(
        "REPORT stalled: median round {median:?} without, {median_with:?} with; memory +{grown}"
    );
    // The same minute on the same machine: a held-up fan-out would take the stall timeout, 3 s.
    assert!(
        median_with < median * 5 + Duration::from_millis(200),
        "{median:?} {median_with:?}"
    );
    // Frames in flight, a thousand sockets' buffers in hyper, the ring; never 12 x 900 KiB a client.
    assert!(grown < 256 << 20, "{grown} bytes");

    eventually(
        "the stalled one is cut off",
        Duration::from_secs(30),
        || async {
            let text = node.metrics().await;
            let closed = |reason: &str| {
                let name = format!("fanfare_delivery_closes_total{{reason=\"{reason}\"}} 1");
                text.lines().any(|line| line == name)
            };
            let gone = text.contains(&format!("fanfare_delivery_subscribers {CLIENTS}\n"));
            ((closed("slow") || closed("stalled")) && gone).then_some(())
        },
    )
    .await;
    // It learns so when it reads again: the stream ended before everything came.
    while let Ok(Some(_)) = stalled.next_event(PATIENCE).await {}
    assert!(!stalled.is_open() || stalled.next_event(Duration::from_secs(1)).await.is_err());
}
