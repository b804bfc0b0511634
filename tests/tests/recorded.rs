//! Raw Redis `PUBLISH` with `retain = "shared"`: three nodes whose clocks disagree, clients that
//! come back at whichever, and the node that records is killed, again and again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use fanfare_system_tests::{Follower, Report};
use fanfare_testkit::{Fanfare, HaProxy, RedisServer, eventually, http, tool};
use tempfile::TempDir;
use tokio::task::JoinSet;

const CLIENTS: u64 = 20;
const CHANNELS: u64 = 10;
const EACH: u64 = 400;
const KILLS: u64 = 3;
const SOON: Duration = Duration::from_secs(120);

/// Moves the wall clock of a process; its monotonic clock stays.
const SKEW: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(id, now);
    const char *skew = getenv("SKEW_SECONDS");
    if (id == CLOCK_REALTIME && skew) now->tv_sec += atoi(skew);
    return answer;
}
"#;

/// A library to be loaded before all others; `None` where there is no C compiler.
fn skewer(directory: &Path) -> Option<PathBuf> {
    let compiler = tool::require("cc", "gcc")?;
    let (source, library) = (directory.join("skew.c"), directory.join("skew.so"));
    std::fs::write(&source, SKEW).unwrap();
    let mut compile = Command::new(compiler);
    compile
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl");
    assert!(compile.status().unwrap().success());
    Some(library)
}

fn config(redis: &RedisServer) -> String {
    format!(
        r#"
        [server]
        broker_timeout = "1m"
        [broker]
        kind = "redis"
        [broker.redis]
        url = "{}"
        recorder_lease = "1s"
        # On a busy machine an answer may be late, which is told as a gap.
        command_timeout = "30s"
        [[broker.redis.ingest]]
        source = "raw:*"
        channel = "o.{{1}}"
        retain = "shared"
        [[retention]]
        channels = ">"
        max_count = 100000
        max_bytes = "1GiB"
        [limits]
        connections_per_client = 100000
        "#,
        redis.url()
    )
}

/// The node that records, once another one stands by: who stood by may be the one that records now,
/// with nobody behind it yet.
async fn recorder(nodes: &[Fanfare]) -> usize {
    eventually("a recorder, and a standby", SOON, async || {
        let recorder = with_role(nodes, "recorder").await?;
        with_role(nodes, "standby").await?;
        Some(recorder)
    })
    .await
}

async fn with_role(nodes: &[Fanfare], role: &str) -> Option<usize> {
    let metric = format!("fanfare_recorder_role{{role=\"{role}\"}}");
    for (index, node) in nodes.iter().enumerate() {
        if node.metric(&metric).await? == 1.0 {
            return Some(index);
        }
    }
    None
}

/// Numbers, in turn over the channels, as a service publishes that knows nothing of us.
async fn publish(redis: &RedisServer, numbers: std::ops::Range<u64>) {
    let mut link = redis.resp().await;
    for number in numbers {
        let round = (0..CHANNELS).map(|channel| (format!("raw:{channel}"), number.to_string()));
        link.publish_all(round).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Follows everything, breaking off at random, and whenever its node dies.
async fn follow(address: SocketAddr, seed: u64) -> Report {
    let mut rng = fastrand::Rng::with_seed(seed);
    let all = CHANNELS * EACH;
    let mut client = Follower::join(address, &["o.*"]).await.unwrap();
    while client.delivered() < all {
        let left = all - client.delivered();
        let piece = rng.u64(1..=(all / 4)).min(left);
        let read = client.read(piece).await;
        if let Err(error) = &read {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::TimedOut,
                "{:?}",
                client.report()
            );
        }
        if client.delivered() < all {
            client.break_off(rng.bool()).ok();
            let until = Instant::now() + SOON;
            while let Err(error) = client.come_back().await {
                assert!(Instant::now() < until, "{error}");
            }
        }
    }
    client.report()
}

/// Whether the first node and the last one say that they are some seconds apart.
async fn clocks_disagree(nodes: &[Fanfare]) -> bool {
    let second = async |node: &Fanfare| -> i64 {
        let reply = http::get(&format!("{}/healthz", node.admin_url()))
            .await
            .unwrap();
        let date = reply.header("date").unwrap().to_owned();
        let time = date.split(' ').find(|word| word.contains(':')).unwrap();
        let parts = time.split(':').map(|part| part.parse::<i64>().unwrap());
        parts.fold(0, |seconds, part| seconds * 60 + part)
    };
    let (first, last) = (second(&nodes[0]).await, second(&nodes[2]).await);
    // They may be asked at midnight.
    (last - first).rem_euclid(86_400) >= 8
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_is_killed_costs_nobody_anything() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let Some(skewer) = skewer(directory.path()) else {
        return;
    };
    let mut nodes = Vec::new();
    for skew in ["-5", "0", "5"] {
        let node = Fanfare::builder(&config(&redis))
            .env("LD_PRELOAD", skewer.to_str().unwrap())
            .env("SKEW_SECONDS", skew);
        nodes.push(node.start().await);
    }
    assert!(clocks_disagree(&nodes).await);
    let addresses: Vec<SocketAddr> = nodes.iter().map(Fanfare::address).collect();
    let Some(balancer) = HaProxy::start(&addresses).await else {
        return;
    };
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut crowd = JoinSet::new();
    for _ in 0..CLIENTS {
        crowd.spawn(follow(balancer.address(), rng.u64(..)));
    }
    eventually("all clients joined", SOON, async || {
        let mut there = 0.0;
        for node in &nodes {
            there += node.metric("fanfare_delivery_subscribers").await?;
        }
        (there as u64 == CLIENTS).then_some(())
    })
    .await;
    let piece = EACH / (KILLS + 1);
    for kill in 0..KILLS {
        let recorder = recorder(&nodes).await;
        let publishing = publish(&redis, kill * piece..(kill + 1) * piece);
        let killing = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            nodes[recorder].kill();
        };
        tokio::join!(publishing, killing);
        nodes[recorder].restart().await;
    }
    publish(&redis, KILLS * piece..EACH).await;
    let mut report = Report::default();
    while let Some(one) = crowd.join_next().await {
        report.add(&one.unwrap());
    }
    report.print(
        "redis raw, retain = shared, the recorder is killed",
        CHANNELS * EACH,
    );
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.delivered, CLIENTS * CHANNELS * EACH);
    let mut takeovers = (0.0, 0.0);
    for node in &nodes {
        let of = async |outcome: &str| {
            let name = format!("fanfare_recorder_takeovers_total{{outcome=\"{outcome}\"}}");
            node.metric(&name).await.unwrap()
        };
        takeovers.0 += of("aligned").await;
        takeovers.1 += of("hole").await;
    }
    // Those of nodes that were killed are forgotten.
    assert!(takeovers.0 >= 1.0 && takeovers.1 == 0.0, "{takeovers:?}");
}
