//! Three nats-servers that are one, with JetStream.

use std::{io, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use crate::{NatsRelease, NatsServer, eventually, http, nats_client::NatsClient, port};

const AGREED_WITHIN: Duration = Duration::from_secs(60);
const SERVERS: usize = 3;
/// The shortest that the server takes: a client is closed every second.
const LAME_DUCK: &str = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"\n";

/// Three servers of one cluster, with JetStream. Streams of three replicas survive one of them.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
    _directory: TempDir,
}

impl NatsCluster {
    /// Starts them; `None`, and a visible line, where this release is not to be had.
    ///
    /// # Panics
    /// If they do not make a cluster.
    pub async fn start(release: NatsRelease) -> Option<Self> {
        let directory = TempDir::new().expect("a temporary directory");
        let config = directory.path().join("nats.conf");
        std::fs::write(&config, LAME_DUCK).expect("a file in a temporary directory");
        let config = config.to_string_lossy();
        let ports: Vec<u16> = (0..SERVERS).map(|_| port::free()).collect();
        let routes: Vec<_> = ports.iter().map(|port| route(*port)).collect();
        let routes = routes.join(",");
        let mut servers = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let (name, own) = (name(index), route(*port));
            let options = [
                ["-server_name", &name],
                ["-cluster_name", "fanfare-test"],
                ["-cluster", &own],
                ["-routes", &routes],
                ["-c", &config],
            ];
            let options = [options.as_flattened(), &["-js"]].concat();
            servers.push(NatsServer::start_release(release, &options).await?);
        }
        let cluster = Self {
            servers,
            _directory: directory,
        };
        cluster.is_whole().await;
        Some(cluster)
    }

    /// The servers' URLs.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// The servers.
    pub fn servers(&self) -> &[NatsServer] {
        &self.servers
    }

    /// One of the servers.
    pub fn server_mut(&mut self, index: usize) -> &mut NatsServer {
        &mut self.servers[index]
    }

    /// Waits until every server that runs follows the same leader of JetStream, with all that run
    /// up to date.
    ///
    /// # Panics
    /// If they do not agree.
    pub async fn is_whole(&self) {
        eventually("one leader of JetStream", AGREED_WITHIN, async || {
            let mut leaders = Vec::new();
            for server in &self.servers {
                let Some(state) = jsz(server, "").await else {
                    continue;
                };
                leaders.push(state["meta_cluster"]["leader"].as_str()?.to_owned());
            }
            leaders.dedup();
            (leaders.len() == 1 && !leaders[0].is_empty()).then_some(())
        })
        .await;
    }

    /// The server that leads a stream, once there is one and every replica that runs is up to
    /// date with it.
    ///
    /// # Panics
    /// If there is none for long.
    pub async fn leader_of(&self, stream: &str) -> usize {
        eventually("a leader of the stream", AGREED_WITHIN, async || {
            let mut running = Vec::new();
            for (index, server) in self.servers.iter().enumerate() {
                if let Some(state) = jsz(server, "?streams=1").await {
                    running.push((index, name(index), state));
                }
            }
            let names: Vec<_> = running.iter().map(|(_, name, _)| name.as_str()).collect();
            let mut running = running.iter();
            let leads =
                running.find(|(_, name, state)| leads(state, name, stream, &names) == Some(true));
            leads.map(|(index, ..)| *index)
        })
        .await
    }

    /// Makes a stream's leader let go, and waits for the next one.
    ///
    /// # Panics
    /// If there is none for long.
    pub async fn step_down(&self, stream: &str) -> usize {
        let before = self.leader_of(stream).await;
        let call = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        eventually("another leader", AGREED_WITHIN, async || {
            let now = self.leader_of(stream).await;
            if now == before {
                // What is asked during an election is answered by nobody, and asked again.
                let _ = self.ask(&call).await;
            }
            (now != before).then_some(now)
        })
        .await
    }

    /// Asks JetStream's API, at any server that runs.
    async fn ask(&self, call: &str) -> io::Result<Value> {
        let mut last = io::Error::other("no server runs");
        for server in &self.servers {
            let asked = async {
                let mut client = NatsClient::connect(server.address()).await?;
                let answer = client.request(call, "").await?;
                serde_json::from_slice(&answer).map_err(io::Error::other)
            };
            match asked.await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn name(index: usize) -> String {
    format!("n{index}")
}

fn route(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// What a server says about JetStream; `None` where it does not run, or says nothing.
async fn jsz(server: &NatsServer, query: &str) -> Option<Value> {
    let url = format!("{}/jsz{query}", server.monitor_url());
    let answer = tokio::time::timeout(Duration::from_secs(2), http::get(&url));
    let answer = answer.await.ok()?.ok()?;
    (answer.status == 200).then(|| answer.json())
}

/// Whether a server leads a stream whose replicas on servers that run are up to date; only the leader
/// knows how far the others are.
fn leads(state: &Value, name: &str, stream: &str, running: &[&str]) -> Option<bool> {
    let accounts = state["account_details"].as_array()?.iter();
    let streams = accounts.filter_map(|account| account["stream_detail"].as_array());
    let cluster = &streams.flatten().find(|one| one["name"] == stream)?["cluster"];
    let replicas = cluster["replicas"].as_array();
    let behind = replicas.into_iter().flatten().any(|replica| {
        let runs = running.iter().any(|name| replica["name"] == **name);
        runs && replica["current"] != true
    });
    Some(cluster["leader"] == name && !behind)
}
