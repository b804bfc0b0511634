//! A Redis that sentinels watch over: a primary, its replicas, three sentinels.

use std::{process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    eventually, port,
    redis::{RedisServer, answers},
    resp::{Reply, Resp},
    service::{Plan, Service},
    tool, try_eventually,
};

/// How long three sentinels may take to agree on something.
const AGREED_WITHIN: Duration = Duration::from_secs(60);
/// Twice the time that `failover-timeout` gives each step of a failover.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);
const SENTINELS: usize = 3;

/// A primary with replicas and three sentinels, which find a primary dead after one second.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    _service: Service,
    port: u16,
    _directory: TempDir,
}

impl RedisSentinel {
    /// What the sentinels call it.
    pub const MASTER: &str = "fanfare-test";

    /// Starts them with so many replicas; `None`, and a visible line, where redis-server is not
    /// installed.
    pub async fn start(replicas: usize) -> Option<Self> {
        Self::start_with::<&str>(replicas, &[]).await
    }

    /// The same, with more options for the primary and the replicas.
    ///
    /// # Panics
    /// If they do not find each other.
    pub async fn start_with<A: AsRef<str>>(replicas: usize, options: &[A]) -> Option<Self> {
        let mut options: Vec<String> = options.iter().map(|o| o.as_ref().to_owned()).collect();
        options.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
        let primary = RedisServer::start_with(&options).await?;
        let of = primary.port().to_string();
        options.extend(["--replicaof", "127.0.0.1", &of].map(str::to_owned));
        let mut servers = vec![primary];
        for _ in 0..replicas {
            servers.push(RedisServer::start_with(&options).await?);
        }
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            sentinels.push(Sentinel::start(servers[0].port()).await?);
        }
        let all = Self { servers, sentinels };
        all.know_each_other().await;
        Some(all)
    }

    async fn know_each_other(&self) {
        for sentinel in &self.sentinels {
            eventually(
                "sentinels and replicas know each other",
                AGREED_WITHIN,
                async || {
                    let of = sentinel.ask(&["SENTINEL", "MASTER", Self::MASTER]).await?;
                    let fields = texts(&of);
                    let field = |name: &str| {
                        let at = fields.iter().position(|field| field == name)?;
                        fields.get(at + 1)?.parse::<usize>().ok()
                    };
                    let known = field("num-slaves")? == self.servers.len() - 1
                        && field("num-other-sentinels")? == SENTINELS - 1;
                    known.then_some(())
                },
            )
            .await;
        }
        for replica in &self.servers[1..] {
            eventually("replicas are in step", AGREED_WITHIN, async || {
                let role = replica.resp().await.command(&["ROLE"]).await.ok()?;
                texts(&role).contains(&"connected".to_owned()).then_some(())
            })
            .await;
        }
    }

    /// The sentinels' URLs.
    pub fn urls(&self) -> Vec<String> {
        let url = |sentinel: &Sentinel| format!("redis://127.0.0.1:{}", sentinel.port);
        self.sentinels.iter().map(url).collect()
    }

    /// The servers: first the one that began as the primary.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// One of the servers.
    pub fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.servers[index]
    }

    /// Which server the sentinels call the primary, if it calls itself so too.
    pub async fn primary(&self) -> Option<usize> {
        let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER];
        let mut named = None;
        for sentinel in &self.sentinels {
            let port = texts(&sentinel.ask(&ask).await?).pop()?;
            if named
                .replace(port.clone())
                .is_some_and(|before| before != port)
            {
                return None;
            }
        }
        let port = named?;
        let is_it = |server: &RedisServer| server.port().to_string() == port;
        let index = self.servers.iter().position(is_it)?;
        let mut link = Resp::connect(self.servers[index].address()).await.ok()?;
        let role = link.command(&["ROLE"]).await.ok()?;
        (texts(&role).first()? == "master").then_some(index)
    }

    /// Waits until all sentinels agree on a primary that has a replica in step with it. Answers
    /// which.
    ///
    /// # Panics
    /// If there is none for long.
    pub async fn can_fail_over(&self) -> usize {
        self.with_replicas(1).await
    }

    /// Waits until all sentinels agree on a primary that all others follow, in step with it. Answers
    /// which. None that was given up serves any more then.
    ///
    /// # Panics
    /// If there is none for long.
    pub async fn is_settled(&self) -> usize {
        self.with_replicas(self.servers.len() - 1).await
    }

    async fn with_replicas(&self, count: usize) -> usize {
        let what = "a primary with replicas in step";
        eventually(what, AGREED_WITHIN, async || {
            let primary = self.primary().await?;
            let port = format!("master_port:{}", self.servers[primary].port());
            let mut in_step = 0;
            for server in &self.servers {
                let Ok(mut link) = Resp::connect(server.address()).await else {
                    continue;
                };
                let info = link.command(&["INFO", "replication"]).await.ok()?;
                let info = texts(&info).concat();
                let is_linked = info.contains("master_link_status:up");
                in_step += usize::from(is_linked && info.lines().any(|l| l == port));
            }
            (in_step >= count).then_some(primary)
        })
        .await
    }

    /// How long a primary may be silent before a sentinel finds it dead; one second without this.
    ///
    /// # Panics
    /// If a sentinel does not take it.
    pub async fn find_dead_after(&self, silence: Duration) {
        let silence = silence.as_millis().to_string();
        let name = "down-after-milliseconds";
        for sentinel in &self.sentinels {
            let set = ["SENTINEL", "SET", Self::MASTER, name, &silence];
            eventually("a sentinel takes it", AGREED_WITHIN, async || {
                let answer = sentinel.ask(&set).await;
                matches!(answer, Some(Reply::Status(_))).then_some(())
            })
            .await;
        }
    }

    /// Makes the sentinels take another primary, while the old one lives. Answers which.
    ///
    /// # Panics
    /// If they do not.
    pub async fn failover(&self) -> usize {
        let old = Some(self.can_fail_over().await);
        eventually("another primary", AGREED_WITHIN, async || {
            // Sentinels give a failover up after its time, quietly: they are asked again.
            let failover = ["SENTINEL", "FAILOVER", Self::MASTER];
            self.sentinels[0].ask(&failover).await?;
            let other = async || self.primary().await.filter(|now| Some(*now) != old);
            try_eventually(GIVEN_UP_AFTER, other).await
        })
        .await
    }

    /// Kills the primary and waits for another. Answers which died and which took over.
    ///
    /// # Panics
    /// If there is none, or none takes over.
    pub async fn kill_primary(&mut self) -> (usize, usize) {
        let old = self.can_fail_over().await;
        self.servers[old].kill();
        (old, self.another_than(Some(old)).await)
    }

    /// Waits until all sentinels agree on another primary. Answers which.
    ///
    /// # Panics
    /// If they do not.
    pub async fn another_than(&self, old: Option<usize>) -> usize {
        eventually("another primary", AGREED_WITHIN, async || {
            self.primary().await.filter(|now| Some(*now) != old)
        })
        .await
    }
}

impl Sentinel {
    async fn start(primary: u16) -> Option<Self> {
        let program = tool::require("redis-server", "redis-server")?;
        let (service, (port, directory)) = Service::start(|| {
            let port = port::free();
            let directory = TempDir::new().expect("a temporary directory");
            let (program, path) = (program.clone(), directory.path().to_owned());
            let name = RedisSentinel::MASTER;
            let config = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\n\
                 sentinel monitor {name} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {name} 1000\n\
                 sentinel failover-timeout {name} 5000\n",
                path.display()
            );
            let file = path.join("sentinel.conf");
            std::fs::write(&file, config).expect("a file in a temporary directory");
            let command = move || {
                let mut command = Command::new(&program);
                command.arg(&file).arg("--sentinel").current_dir(&path);
                command
            };
            let plan = Plan::new("redis-sentinel", command, move || answers(port));
            (plan, (port, directory))
        })
        .await;
        Some(Self {
            _service: service,
            port,
            _directory: directory,
        })
    }

    async fn ask(&self, command: &[&str]) -> Option<Reply> {
        let mut link = Resp::connect(port::loopback(self.port)).await.ok()?;
        link.command(command).await.ok()
    }
}

/// The texts in an answer, in their order.
pub(crate) fn texts(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Bulk(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Reply::Status(text) => vec![text.clone()],
        Reply::Array(replies) => replies.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}
