//! A Redis Cluster.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    eventually, port,
    redis::RedisServer,
    resp::{Reply, Resp},
    try_eventually,
};

const AGREED_WITHIN: Duration = Duration::from_secs(60);
const HEARD_WITHIN: Duration = Duration::from_millis(100);
/// A server gives a failover up after 5 s.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(6);
const PRIMARIES: usize = 3;
const SLOTS: usize = 16_384;

/// Three primaries, each with a third of the slots, and if wanted a replica of each. A node is
/// found dead after 1.5 s.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts three primaries, each with so many replicas; `None`, and a visible line, where
    /// redis-server is not installed.
    pub async fn start(replicas: usize) -> Option<Self> {
        Self::start_with::<&str>(replicas, &[]).await
    }

    /// The same, with more options for all nodes.
    ///
    /// # Panics
    /// If they do not make a cluster.
    pub async fn start_with<A: AsRef<str>>(replicas: usize, options: &[A]) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..PRIMARIES * (1 + replicas) {
            // Ports of ordinary outgoing connections begin 10000 above ours, where the bus would be.
            let bus = port::free().to_string();
            let cluster = [
                ["--cluster-enabled", "yes"],
                ["--cluster-node-timeout", "1500"],
                ["--cluster-replica-validity-factor", "0"],
                ["--repl-diskless-sync-delay", "0"],
                ["--cluster-port", &bus],
            ];
            let more = options.iter().map(AsRef::as_ref);
            let options: Vec<&str> = cluster.as_flattened().iter().copied().chain(more).collect();
            nodes.push((RedisServer::start_with(&options).await?, bus));
        }
        let mut ids = Vec::new();
        for (index, (node, _)) in nodes.iter().enumerate() {
            ids.push(node.cli(&["CLUSTER", "MYID"]).await);
            let epoch = (index + 1).to_string();
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        for (index, (node, _)) in nodes[..PRIMARIES].iter().enumerate() {
            let first = (index * SLOTS / PRIMARIES).to_string();
            let last = ((index + 1) * SLOTS / PRIMARIES - 1).to_string();
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
        }
        for (other, bus) in &nodes[1..] {
            let port = other.port().to_string();
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, bus];
            nodes[0].0.cli(&meet).await;
        }
        let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
        let cluster = Self { nodes, ids };
        cluster.know_each_other().await;
        for (index, node) in cluster.nodes.iter().enumerate().skip(PRIMARIES) {
            let of = &cluster.ids[index % PRIMARIES];
            node.cli(&["CLUSTER", "REPLICATE", of]).await;
        }
        cluster.is_whole().await;
        cluster.hear_each_other().await;
        Some(cluster)
    }

    async fn know_each_other(&self) {
        for node in &self.nodes {
            eventually("the nodes know each other", AGREED_WITHIN, async || {
                let known = node.cli(&["CLUSTER", "NODES"]).await;
                let all = self.ids.iter().all(|id| known.contains(id));
                (all && !known.contains("handshake")).then_some(())
            })
            .await;
        }
    }

    /// Nodes that know each other may not have a link in both directions yet, and what is published
    /// for one that has none is dropped without a word.
    async fn hear_each_other(&self) {
        const CANARY: &str = "__canary__";
        for hearing in &self.nodes {
            for speaking in &self.nodes {
                let mut ear = hearing.resp().await;
                ear.command(&["SUBSCRIBE", CANARY]).await.expect("answers");
                let mut mouth = speaking.resp().await;
                eventually("the nodes hear each other", AGREED_WITHIN, async || {
                    mouth.command(&["PUBLISH", CANARY, "x"]).await.ok()?;
                    timeout(HEARD_WITHIN, ear.next()).await.ok()?.ok()
                })
                .await;
            }
        }
    }

    /// Waits until every node that runs finds the cluster whole, and every replica its primary.
    ///
    /// # Panics
    /// If they do not.
    pub async fn is_whole(&self) {
        for node in &self.nodes {
            if Resp::connect(node.address()).await.is_err() {
                continue;
            }
            eventually("the cluster is whole", AGREED_WITHIN, async || {
                let info = node.cli(&["CLUSTER", "INFO"]).await;
                let replication = node.cli(&["INFO", "replication"]).await;
                let linked = replication.contains("role:master")
                    || replication.contains("master_link_status:up");
                (info.contains("cluster_state:ok") && linked).then_some(())
            })
            .await;
        }
    }

    /// The nodes' URLs.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// The nodes: first those that began as primaries. The replica of node `n` is `n + 3`.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// One of the nodes.
    pub fn node_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// The slot of a key.
    pub async fn slot(&self, key: &str) -> usize {
        let mut last = None;
        for node in &self.nodes {
            let Ok(mut link) = Resp::connect(node.address()).await else {
                continue;
            };
            last = Some(link.command(&["CLUSTER", "KEYSLOT", key]).await);
            if let Some(Ok(Reply::Integer(slot))) = last {
                return usize::try_from(slot).expect("a slot");
            }
        }
        panic!("no node knows the slot of {key}: {last:?}");
    }

    /// The node that serves a key, once just one calls the key its own.
    ///
    /// # Panics
    /// If none does for long.
    pub async fn primary_of(&self, key: &str) -> usize {
        eventually("a node that serves the key", AGREED_WITHIN, async || {
            let mut serving = Vec::new();
            for (index, node) in self.nodes.iter().enumerate() {
                let Ok(mut link) = Resp::connect(node.address()).await else {
                    continue;
                };
                // A replica answers MOVED, and so does whoever does not own the slot.
                let answer = link.command(&["EXISTS", key]).await;
                if matches!(answer, Ok(Reply::Integer(_))) {
                    serving.push(index);
                }
            }
            (serving.len() == 1).then(|| serving[0])
        })
        .await
    }

    /// A replica of a node's primary, or of the node itself.
    pub fn replica_of(&self, node: usize) -> usize {
        (node + PRIMARIES) % self.nodes.len()
    }

    /// Makes a node's replica take over (`CLUSTER FAILOVER`, or more words: `FORCE`, `TAKEOVER`).
    /// Answers which node that is. A server gives up a failover of which the primary or the voters
    /// heard too late, and says so in its log only: it is asked again.
    ///
    /// # Panics
    /// If it does not.
    pub async fn failover(&self, node: usize, how: &[&str]) -> usize {
        let replica = self.replica_of(node);
        let command = [&["CLUSTER", "FAILOVER"], how].concat();
        eventually("the replica takes over", AGREED_WITHIN, async || {
            self.nodes[replica].cli(&command).await;
            try_eventually(GIVEN_UP_AFTER, async || self.is_primary(replica).await).await
        })
        .await;
        replica
    }

    /// Waits until a node is a primary.
    ///
    /// # Panics
    /// If it does not become one.
    pub async fn takes_over(&self, replica: usize) {
        eventually("the replica takes over", AGREED_WITHIN, async || {
            self.is_primary(replica).await
        })
        .await;
    }

    async fn is_primary(&self, node: usize) -> Option<()> {
        let info = self.nodes[node].cli(&["INFO", "replication"]).await;
        info.contains("role:master").then_some(())
    }

    /// Moves the slot of a key, with all its keys, to the next of the three primaries. Answers from
    /// where and to where.
    ///
    /// # Panics
    /// If a node refuses a step.
    pub async fn migrate(&self, key: &str) -> (usize, usize) {
        let slot = self.slot(key).await.to_string();
        let from = self.primary_of(key).await;
        let next = (from + 1) % PRIMARIES;
        let to = eventually("a primary to move to", AGREED_WITHIN, async || {
            for node in (next..self.nodes.len()).step_by(PRIMARIES) {
                let is_up = Resp::connect(self.nodes[node].address()).await.is_ok();
                if is_up && self.is_primary(node).await.is_some() {
                    return Some(node);
                }
            }
            None
        })
        .await;
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let set = |state: &str, id: usize| {
            ["CLUSTER", "SETSLOT", &slot, state, &self.ids[id]].map(str::to_owned)
        };
        target.cli(&set("IMPORTING", from)).await;
        source.cli(&set("MIGRATING", to)).await;
        let port = target.port().to_string();
        loop {
            let keys = source
                .cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"])
                .await;
            let keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            let migrate = [&migrate, &*keys].concat();
            // On a busy machine the target may find the cluster down for a moment, and take nothing.
            eventually("the keys move", AGREED_WITHIN, async || {
                let answer = source.resp().await.command(&migrate).await.ok()?;
                matches!(answer, Reply::Status(_)).then_some(())
            })
            .await;
        }
        // The new owner first: there is never none.
        for node in [target, source] {
            node.cli(&set("NODE", to)).await;
        }
        (from, to)
    }
}
