//! What a campaign is about: a bus, links to it, nodes, and the load balancer before them.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fanfare_testkit::{
    Fanfare, FanfareBuilder, HaProxy, RedisServer, TcpProxy, eventually, http, tool,
};

use super::fault::Fault;

/// After so long old workers of the load balancer end what they carry.
const BALANCER_CUTS_AFTER: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Twice, and a scheduler that is busy: how long Redis may take to see one large event pass.
const BUFFER_FILLS_WITHIN: Duration = Duration::from_secs(5);

/// A bus, links to it, nodes, and the load balancer before them.
#[derive(Debug)]
pub struct Rig {
    redis: RedisServer,
    links: Vec<TcpProxy>,
    nodes: Vec<Fanfare>,
    balancer: HaProxy,
}

/// How a rig is set up.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// How many nodes.
    pub nodes: usize,
    /// Options of redis-server.
    pub redis: &'a [&'a str],
    /// Lines of the nodes' config, after `[broker.redis]`.
    pub config: &'a str,
    /// Seconds that each node's clock is off.
    pub skew: &'a [i64],
}

impl Rig {
    /// Starts everything; `None`, and a visible line, where a program is not installed.
    pub async fn start(plan: Plan<'_>) -> Option<Self> {
        let redis = RedisServer::start_with(plan.redis).await?;
        let mut links = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..plan.nodes {
            let link = TcpProxy::start(redis.address()).await;
            let config = config(number, &format!("redis://{}", link.address()), plan.config);
            let mut builder = Fanfare::builder(&config).until_alive();
            if let Some(seconds) = plan.skew.get(number) {
                builder = faketime(builder, *seconds)?;
            }
            nodes.push(builder.start().await);
            links.push(link);
        }
        let addresses: Vec<SocketAddr> = nodes.iter().map(Fanfare::address).collect();
        let balancer = HaProxy::start_reloadable(&addresses, BALANCER_CUTS_AFTER).await?;
        let rig = Self {
            redis,
            links,
            nodes,
            balancer,
        };
        rig.ready().await;
        Some(rig)
    }

    /// Where clients and publishers go.
    pub fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    /// Where other services publish: the bus itself.
    pub fn bus(&self) -> SocketAddr {
        self.redis.address()
    }

    /// Waits until every node is ready.
    pub async fn ready(&self) {
        for node in &self.nodes {
            let url = format!("{}/readyz", node.admin_url());
            eventually("the node is ready", READY_WITHIN, || async {
                let reply = http::get(&url).await.ok()?;
                (reply.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Does it, and undoes what has an end. `large` asks publishers for large events meanwhile.
    pub(super) async fn inject(
        &mut self,
        fault: Fault,
        rng: &mut fastrand::Rng,
        large: &AtomicBool,
    ) {
        let node = rng.usize(0..self.nodes.len());
        let link = &self.links[node];
        match fault {
            Fault::KillPubsub => self.kill_clients("pubsub").await,
            Fault::KillNormal => self.kill_clients("normal").await,
            Fault::OutputBuffer => self.overfill(large).await,
            Fault::CutLinks => link.cut(),
            Fault::TearLinks => link.tear(),
            Fault::OrphanLinks => link.orphan(),
            Fault::Blackhole(time) => {
                link.block();
                tokio::time::sleep(time).await;
                // Networks that come back deliver what was sent, or have forgotten the connection.
                if rng.bool() {
                    link.cut();
                }
                link.unblock();
            }
            Fault::Delay(by) => {
                link.delay(by);
                tokio::time::sleep(Duration::from_secs(1)).await;
                link.unblock();
            }
            Fault::RestartBus => {
                self.redis.kill();
                tokio::time::sleep(Duration::from_millis(rng.u64(0..1_500))).await;
                self.redis.restart().await;
            }
            Fault::PauseBus(time) => {
                self.redis.pause();
                tokio::time::sleep(time).await;
                self.redis.resume();
            }
            Fault::FlushBus => {
                self.redis.cli(&["FLUSHALL"]).await;
            }
            Fault::KillNode => {
                self.nodes[node].kill();
                tokio::time::sleep(Duration::from_millis(rng.u64(0..1_500))).await;
                self.nodes[node].restart().await;
            }
            Fault::PauseNode(time) => {
                self.nodes[node].pause();
                tokio::time::sleep(time).await;
                self.nodes[node].resume();
            }
            Fault::ReloadBalancer => self.balancer.reload(),
        }
    }

    async fn kill_clients(&self, kind: &str) {
        self.redis
            .cli(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])
            .await;
    }

    /// A limit so small that the next large event goes over it.
    async fn overfill(&self, large: &AtomicBool) {
        let before = self.overfilled();
        self.limit("1 0 0").await;
        large.store(true, Ordering::Relaxed);
        eventually("Redis closes a subscriber", BUFFER_FILLS_WITHIN, || async {
            (self.overfilled() > before).then_some(())
        })
        .await;
        large.store(false, Ordering::Relaxed);
        self.limit("0 0 0").await;
    }

    async fn limit(&self, limit: &str) {
        let limit = format!("pubsub {limit}");
        self.redis
            .cli(&["CONFIG", "SET", "client-output-buffer-limit", &limit])
            .await;
    }

    /// How often it closed a client for that. No counter of Redis 7.0 tells.
    fn overfilled(&self) -> usize {
        let output = self.redis.output();
        output.matches("overcoming of output buffer limits").count()
    }
}

fn config(number: usize, url: &str, rest: &str) -> String {
    format!(
        r#"
        [server]
        node = "edge-{number}"
        [[retention]]
        channels = ">"
        max_count = 1000000
        max_bytes = "1GiB"
        [limits]
        connections_per_client = 100000
        [broker]
        kind = "redis"
        [broker.redis]
        url = "{url}"
        {rest}
        "#
    )
}

/// Runs a node under another clock; `None`, and a visible line, where libfaketime is missing.
fn faketime(builder: FanfareBuilder, seconds: i64) -> Option<FanfareBuilder> {
    let library = tool::require_faketime()?;
    Some(
        builder
            .env("LD_PRELOAD", library.to_string_lossy())
            .env("FAKETIME", format!("{seconds:+}s"))
            // Timers go by this one, and it has no date.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    )
}
