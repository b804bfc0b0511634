//! What a campaign is about: a bus, links to it, nodes, and the load balancer before them.

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};

use fanfare_testkit::{Fanfare, FanfareBuilder, HaProxy, TcpProxy, eventually, http, tool};

use super::{bus::Bus, fault::Fault};

/// After so long old workers of the load balancer end what they carry.
const BALANCER_CUTS_AFTER: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long nodes may take to agree on who records and who stands by.
const ROLES_WITHIN: Duration = Duration::from_secs(60);

/// A bus, links to it, nodes, and the load balancer before them.
#[derive(Debug)]
pub struct Rig {
    bus: Bus,
    /// A link for each node, where the bus is one server.
    links: Vec<TcpProxy>,
    nodes: Vec<Fanfare>,
    balancer: HaProxy,
}

/// How the nodes of a rig are set up.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// How many nodes.
    pub nodes: usize,
    /// Lines of the nodes' config, after those of the broker's section.
    pub config: &'a str,
    /// Seconds that each node's clock is off.
    pub skew: &'a [i64],
}

impl Rig {
    /// Starts nodes on a bus; `None`, and a visible line, where a program is not installed.
    pub async fn start(bus: Bus, plan: Plan<'_>) -> Option<Self> {
        let mut links = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..plan.nodes {
            let link = match bus.server() {
                Some(server) if bus.is_redis() => Some(TcpProxy::start_redis(server).await),
                Some(server) => Some(TcpProxy::start(server).await),
                None => None,
            };
            let broker = bus.config(link.as_ref().map(TcpProxy::address));
            let config = config(number, &broker, plan.config);
            let mut builder = Fanfare::builder(&config).until_alive();
            if let Some(seconds) = plan.skew.get(number) {
                builder = faketime(builder, *seconds)?;
            }
            nodes.push(builder.start().await);
            links.extend(link);
        }
        let addresses: Vec<SocketAddr> = nodes.iter().map(Fanfare::address).collect();
        let balancer = HaProxy::start_reloadable(&addresses, BALANCER_CUTS_AFTER).await?;
        let rig = Self {
            bus,
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

    /// Where other services publish: the bus itself, if it is one server.
    ///
    /// # Panics
    /// If it is several.
    pub fn bus(&self) -> SocketAddr {
        self.bus.server().expect("a bus of one server")
    }

    /// Waits until no server serves that was given up, and every node is ready.
    pub async fn ready(&self) {
        self.bus.is_settled().await;
        for node in &self.nodes {
            let url = format!("{}/readyz", node.admin_url());
            eventually("the node is ready", READY_WITHIN, || async {
                let reply = http::get(&url).await.ok()?;
                (reply.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Waits until one node records what others publish, and another stands by. Answers which.
    ///
    /// # Panics
    /// If there are none for long.
    pub async fn roles(&self) -> (usize, usize) {
        eventually("a recorder and a standby", ROLES_WITHIN, async || {
            let recorder = self.with_role("recorder").await?;
            let standby = self.with_role("standby").await?;
            (recorder != standby).then_some((recorder, standby))
        })
        .await
    }

    async fn with_role(&self, role: &str) -> Option<usize> {
        let line = format!("fanfare_recorder_role{{role=\"{role}\"}} 1");
        for (index, node) in self.nodes.iter().enumerate() {
            let url = format!("{}/metrics", node.admin_url());
            let metrics = http::get(&url).await.ok()?.text();
            if metrics.lines().any(|found| found == line) {
                return Some(index);
            }
        }
        None
    }

    /// Does it, and undoes what has an end. `large` asks publishers for large events meanwhile.
    pub(super) async fn inject(
        &mut self,
        fault: Fault,
        rng: &mut fastrand::Rng,
        large: &AtomicBool,
    ) {
        let node = rng.usize(0..self.nodes.len());
        match fault {
            Fault::CutLinks if !self.links.is_empty() => self.links[node].cut(),
            Fault::TearLinks => self.links[node].tear(),
            Fault::OrphanLinks => self.links[node].orphan(),
            Fault::LoseMessages(count) => self.links[node].lose(count),
            Fault::Blackhole(time) => self.black_out(node, time, rng).await,
            Fault::Delay(by) => {
                self.links[node].delay(by);
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.links[node].unblock();
            }
            Fault::KillNode => self.kill(&[node], rng).await,
            Fault::PauseNode(time) => self.pause(node, time).await,
            Fault::KillRecorder => {
                let (recorder, _) = self.roles().await;
                self.kill(&[recorder], rng).await;
            }
            Fault::KillStandby => {
                let (_, standby) = self.roles().await;
                self.kill(&[standby], rng).await;
            }
            Fault::KillBoth => {
                let (recorder, standby) = self.roles().await;
                self.kill(&[recorder, standby], rng).await;
            }
            Fault::CutRecorder => {
                let (recorder, _) = self.roles().await;
                self.links[recorder].cut();
            }
            Fault::BlackholeRecorder(time) => {
                let (recorder, _) = self.roles().await;
                self.black_out(recorder, time, rng).await;
            }
            Fault::PauseRecorder(time) => {
                let (recorder, _) = self.roles().await;
                self.pause(recorder, time).await;
            }
            Fault::ReloadBalancer => self.balancer.reload(),
            of_the_bus => self.bus.inject(of_the_bus, rng, large).await,
        }
    }

    async fn black_out(&mut self, node: usize, time: Duration, rng: &mut fastrand::Rng) {
        self.links[node].block();
        tokio::time::sleep(time).await;
        // Networks that come back deliver what was sent, or have forgotten the connection.
        if rng.bool() {
            self.links[node].cut();
        }
        self.links[node].unblock();
    }

    async fn kill(&mut self, nodes: &[usize], rng: &mut fastrand::Rng) {
        for node in nodes {
            self.nodes[*node].kill();
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..1_500))).await;
        for node in nodes {
            self.nodes[*node].restart().await;
        }
    }

    async fn pause(&mut self, node: usize, time: Duration) {
        self.nodes[node].pause();
        tokio::time::sleep(time).await;
        self.nodes[node].resume();
    }
}

fn config(number: usize, broker: &str, rest: &str) -> String {
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
        {broker}
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
