//! How fast raw messages are recorded: `cargo run --release -p fanfare-redis --example
//! recorder_rate -- [messages] [bytes] [channels]`. It starts a redis-server, two nodes and a
//! publisher on this machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::time::{Duration, Instant};

use fanfare_core::{Broker, BrokerMetrics, Live, Pattern, feed, feed::FeedBounds};
use fanfare_redis::{Ingest, RecorderMetrics, RedisConfig, RedisRecorded, Retain};
use fanfare_testkit::RedisServer;

const CHUNK: usize = 1000;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let mut argument = |otherwise: usize| arguments.next().unwrap_or(otherwise);
    let (messages, bytes, channels) = (argument(500_000), argument(100), argument(100));
    // Redis keeps what a listener that is behind has not read.
    let limits = ["--client-output-buffer-limit", "pubsub 0 0 0"];
    let Some(server) = RedisServer::start_with(&limits).await else {
        return;
    };
    let config = RedisConfig {
        url: server.url(),
        ingest: vec![Ingest {
            source: "raw:*".into(),
            channel: "raw.{1}".into(),
            retain: Retain::Shared,
            ..Ingest::default()
        }],
        recorder_buffer: 1 << 30,
        ..RedisConfig::default()
    };
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let metrics = RecorderMetrics::unregistered();
        let broker_metrics = BrokerMetrics::unregistered("redis");
        let node = RedisRecorded::connect(config.clone(), broker_metrics, metrics.clone());
        nodes.push((node.await.unwrap(), metrics));
    }
    while !nodes[1].1.is_standby() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (inlet, mut feed) = feed(FeedBounds {
        items: 1 << 20,
        bytes: 1 << 30,
    });
    let pattern = Pattern::parse("raw.0").unwrap();
    let _subscription = nodes[1].0.subscribe(&pattern, &inlet).await.unwrap();
    let payload = "x".repeat(bytes);
    let names: Vec<String> = (0..channels)
        .map(|channel| format!("raw:{channel}"))
        .collect();
    let start = Instant::now();
    let mut publisher = server.resp().await;
    let mut deepest = 0;
    for chunk in 0..messages / CHUNK {
        let all = (0..CHUNK).map(|at| (&names[(chunk * CHUNK + at) % channels], &payload));
        publisher.publish_all(all).await.unwrap();
        deepest = deepest.max(nodes[0].1.buffer_events.get());
    }
    let published = start.elapsed().as_secs_f64();
    let messages = (messages / CHUNK * CHUNK) as u64;
    while nodes[0].1.events.get() < messages {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let recorded = start.elapsed().as_secs_f64();
    let (mut followed, mut gaps) = (0, 0);
    while followed < messages.div_ceil(channels as u64) {
        match feed.next().await {
            Some(Live::Event(_)) => followed += 1,
            _ => gaps += 1,
        }
    }
    let rate = |seconds: f64| (messages as f64 / seconds) as u64;
    println!(
        "{messages} messages of {bytes} bytes on {channels} channels: published {} a second, \
         recorded {} a second, {} ms behind at the end, {deepest} waiting at most; one channel \
         followed, {gaps} gaps",
        rate(published),
        rate(recorded),
        ((recorded - published) * 1000.0) as u64,
    );
}
