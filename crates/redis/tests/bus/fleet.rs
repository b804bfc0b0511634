//! Servers that make one Redis together, shared by the tests of a binary that run at the same time.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use fanfare_redis::{RedisConfig, RedisSentinels, RedisTls};
use fanfare_testkit::{Certificates, RedisCluster, RedisSentinel, RedisServer, port};

use super::quick;

/// Servers that make one Redis together.
#[derive(Debug)]
pub(crate) enum Fleet {
    Sentinel(RedisSentinel),
    Cluster(RedisCluster),
    Tls(RedisServer, u16, Certificates),
}

/// Where tests that run at the same time find a fleet. It ends with the last of them.
pub(crate) type Shared = tokio::sync::Mutex<Weak<Fleet>>;

/// Who is cut off from a fleet, alone: a user, which the servers can be told to know no more.
#[derive(Debug)]
pub(crate) struct Account {
    fleet: Arc<Fleet>,
    user: String,
}

impl Fleet {
    pub(crate) async fn sentinel() -> Option<Self> {
        let redis = RedisSentinel::start(1).await?;
        // Nobody dies here, and whom this machine keeps waiting is not to be taken for dead.
        redis.find_dead_after(Duration::from_secs(60)).await;
        Some(Self::Sentinel(redis))
    }

    pub(crate) async fn cluster() -> Option<Self> {
        let patient = ["--cluster-node-timeout", "15000"];
        Some(Self::Cluster(RedisCluster::start_with(0, &patient).await?))
    }

    /// A server that wants a client's certificate.
    pub(crate) async fn tls() -> Option<Self> {
        let (certificates, port) = (Certificates::make(), port::free());
        let options = certificates.redis_options(port, true);
        let server = RedisServer::start_with(&options).await?;
        Some(Self::Tls(server, port, certificates))
    }

    /// The one that other tests have, or a new one.
    pub(crate) async fn shared(
        place: &Shared,
        start: impl AsyncFn() -> Option<Self>,
    ) -> Option<Arc<Self>> {
        let mut place = place.lock().await;
        if let Some(fleet) = place.upgrade() {
            return Some(fleet);
        }
        let fleet = Arc::new(start().await?);
        *place = Arc::downgrade(&fleet);
        Some(fleet)
    }

    pub(crate) fn servers(&self) -> &[RedisServer] {
        match self {
            Self::Sentinel(redis) => redis.servers(),
            Self::Cluster(cluster) => cluster.nodes(),
            Self::Tls(server, ..) => std::slice::from_ref(server),
        }
    }

    /// How to use it, as a user.
    pub(crate) fn config(&self, user: Option<&str>) -> RedisConfig {
        let login = user.map_or(String::new(), |user| format!("{user}:secret@"));
        match self {
            Self::Sentinel(redis) => on_sentinel(redis, &login),
            Self::Cluster(cluster) => on_cluster(cluster, &login),
            Self::Tls(_, port, certificates) => RedisConfig {
                tls: tls(certificates),
                ..quick(format!("rediss://{login}127.0.0.1:{port}"))
            },
        }
    }

    async fn everywhere(&self, command: &[&str]) {
        for server in self.servers() {
            server.cli(command).await;
        }
    }

    /// Makes an account.
    pub(crate) async fn account(self: &Arc<Self>) -> Account {
        let user = format!("user{:08x}", fastrand::u32(..));
        let rights = ["allkeys", "allchannels", "allcommands"];
        let make = [&["ACL", "SETUSER", &user, "on", ">secret"], &rights[..]].concat();
        self.everywhere(&make).await;
        Account {
            fleet: self.clone(),
            user,
        }
    }
}

/// With quick faults, and a login before the host: `user:password@`.
pub(crate) fn on_sentinel(redis: &RedisSentinel, login: &str) -> RedisConfig {
    RedisConfig {
        sentinel: Some(RedisSentinels {
            master: RedisSentinel::MASTER.into(),
            urls: redis.urls(),
        }),
        ..quick(format!("redis://{login}the-primary"))
    }
}

/// The same on a cluster.
pub(crate) fn on_cluster(cluster: &RedisCluster, login: &str) -> RedisConfig {
    let urls = cluster.urls().into_iter();
    let with_login = |url: String| url.replace("redis://", &format!("redis://{login}"));
    RedisConfig {
        cluster: urls.map(with_login).collect(),
        partitions: 4,
        ..quick("redis://not-used".into())
    }
}

/// What a client shows and trusts.
pub(crate) fn tls(certificates: &Certificates) -> RedisTls {
    let (certificate, key) = certificates.client();
    RedisTls {
        ca_file: Some(certificates.ca()),
        cert_file: Some(certificate),
        key_file: Some(key),
    }
}

impl Account {
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) async fn cut_off(&self) {
        self.fleet
            .everywhere(&["ACL", "SETUSER", &self.user, "off"])
            .await;
        self.fleet
            .everywhere(&["CLIENT", "KILL", "USER", &self.user])
            .await;
    }

    pub(crate) async fn let_in(&self) {
        self.fleet
            .everywhere(&["ACL", "SETUSER", &self.user, "on"])
            .await;
    }
}
