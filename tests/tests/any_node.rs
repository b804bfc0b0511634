//! Three nodes behind a load balancer: clients that break off come back at whichever node, and
//! resume exactly.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use fanfare_system_tests::{Follower, Report};
use fanfare_testkit::{Fanfare, HaProxy, RedisServer, eventually, http};
use tokio::task::JoinSet;

const CLIENTS: u64 = 300;
const CHANNELS: u64 = 50;
const EACH: u64 = 400;

fn config(redis: &RedisServer) -> String {
    format!(
        r#"
        [broker]
        kind = "redis"
        [broker.redis]
        url = "{}"
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

/// Publishes numbers, in turn over the channels, at whichever node; a piece that a node cannot
/// store is published again, under the same keys.
async fn publish(address: SocketAddr) {
    let url = format!("http://{address}/publish");
    for number in 0..EACH {
        let mut lines = String::new();
        for channel in 0..CHANNELS {
            let key = format!("{channel}-{number}");
            writeln!(
                lines,
                r#"{{"channel":"o.{channel}","data":"{number} x","key":"{key}"}}"#
            )
            .unwrap();
        }
        let headers = [("Content-Type", "application/x-ndjson")];
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let reply = http::request("POST", &url, &headers, lines.as_bytes()).await;
            let said = reply.map_or_else(|error| error.to_string(), |reply| reply.text());
            let stored = said.lines().filter(|line| line.contains("\"id\"")).count() as u64;
            if stored == CHANNELS {
                break;
            }
            assert!(Instant::now() < until, "{said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Follows a few channels, by name and by pattern, breaking off at random.
async fn follow(address: SocketAddr, seed: u64) -> Report {
    let mut rng = fastrand::Rng::with_seed(seed);
    let by_pattern = rng.u32(0..10) == 0;
    let mut names: Vec<String> = (0..CHANNELS)
        .map(|channel| format!("o.{channel}"))
        .collect();
    rng.shuffle(&mut names);
    names.truncate(rng.usize(1..6));
    if by_pattern {
        names = vec!["o.*".to_owned()];
    }
    let selectors: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = if by_pattern {
        CHANNELS
    } else {
        names.len() as u64
    } * EACH;
    let mut client = Follower::join(address, &selectors).await.unwrap();
    while client.delivered() < all {
        let piece = rng.u64(1..=(all / 2)).min(all - client.delivered());
        client.read(piece).await.unwrap();
        if client.delivered() < all {
            client.break_off(rng.bool()).unwrap();
            client.come_back().await.unwrap();
        }
    }
    client.report()
}

async fn crowd(address: SocketAddr, seed: u64) -> JoinSet<Report> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut crowd = JoinSet::new();
    for _ in 0..CLIENTS {
        crowd.spawn(follow(address, rng.u64(..)));
    }
    crowd
}

async fn all_joined(nodes: &[Fanfare]) {
    eventually("all clients joined", Duration::from_secs(60), || async {
        let mut there = 0.0;
        for node in nodes {
            there += node.metric("fanfare_delivery_subscribers").await?;
        }
        (there as u64 == CLIENTS).then_some(())
    })
    .await;
}

async fn report(mut crowd: JoinSet<Report>, name: &str) -> Report {
    let mut report = Report::default();
    while let Some(one) = crowd.join_next().await {
        report.add(&one.unwrap());
    }
    report.print(name, CHANNELS * EACH);
    report
}

/// Nodes that share one Redis, behind one load balancer.
struct Fleet {
    nodes: Vec<Fanfare>,
    balancer: HaProxy,
}

impl Fleet {
    async fn start(redis: &RedisServer, count: usize) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Fanfare::start(&config(redis)).await);
        }
        let addresses: Vec<SocketAddr> = nodes.iter().map(Fanfare::address).collect();
        let balancer = HaProxy::start(&addresses).await?;
        Some(Self { nodes, balancer })
    }

    /// A crowd joins, everything is published while `meanwhile` happens, and everybody gets it.
    async fn serve(&self, name: &str, meanwhile: impl Future<Output = ()>) -> Report {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let address = self.balancer.address();
        let crowd = crowd(address, seed).await;
        all_joined(&self.nodes).await;
        tokio::join!(publish(address), meanwhile);
        report(crowd, name).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_break_off_resume_exactly_on_whichever_node() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let Some(fleet) = Fleet::start(&redis, 3).await else {
        return;
    };
    let report = fleet
        .serve("redis durable, three nodes, breaks", async {})
        .await;
    assert!(report.is_clean(), "{report:?}");
    assert!(report.breaks > CLIENTS, "{report:?}");
}

/// The links of all nodes to the bus are cut again and again meanwhile: healed, not told as lost.
#[tokio::test(flavor = "multi_thread")]
async fn cuts_of_the_bus_are_healed_without_a_gap() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let Some(fleet) = Fleet::start(&redis, 3).await else {
        return;
    };
    let cutting = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        }
    };
    let report = fleet
        .serve("redis durable, three nodes, cuts of the bus", cutting)
        .await;
    assert!(report.is_clean(), "{report:?}");
}

/// A node is killed and started again: its clients go on elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_costs_its_clients_nothing() {
    let Some(redis) = RedisServer::start().await else {
        return;
    };
    let Some(mut fleet) = Fleet::start(&redis, 2).await else {
        return;
    };
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(
            Follower::join(fleet.balancer.address(), &["o.*"])
                .await
                .unwrap(),
        );
    }
    let publishing = tokio::spawn(publish(fleet.balancer.address()));
    for client in &mut clients {
        client.read(5).await.unwrap();
    }
    fleet.nodes[0].kill();
    let all = CHANNELS * EACH;
    let mut total = Report::default();
    for mut client in clients {
        while client.delivered() < all {
            let left = all - client.delivered();
            // The streams of the dead node break off, or end without a word; none goes mute.
            let read = client.read(left).await;
            if let Err(error) = &read {
                assert_ne!(
                    error.kind(),
                    std::io::ErrorKind::TimedOut,
                    "{:?}",
                    client.report()
                );
            }
            if read.is_err() || !client.is_open() {
                let until = Instant::now() + Duration::from_secs(30);
                while let Err(error) = client.come_back().await {
                    assert!(Instant::now() < until, "{error}");
                }
            }
        }
        total.add(&client.report());
    }
    publishing.await.unwrap();
    total.print("redis durable, a node dies", all);
    assert!(total.is_clean(), "{total:?}");
}
