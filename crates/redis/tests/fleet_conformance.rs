//! Every law of a broker, over a primary with sentinels, over a cluster of three primaries, and over
//! TLS.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{
    connect,
    fleet::{Account, Fleet, Shared},
    metrics,
};
use fanfare_conformance::Fixture;
use fanfare_core::{Broker, Pattern, Retained, RetainedConfig};
use fanfare_redis::{RedisConfig, RedisDurable};

/// Two nodes on a fleet that other laws use too, under a prefix of their own.
struct Bus {
    first: Arc<dyn Broker>,
    second: Arc<dyn Broker>,
    account: Account,
    fleet: Arc<Fleet>,
    prefix: String,
    is_durable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Durable,
    Retained,
}

impl Bus {
    async fn start(
        place: &Shared,
        start: impl AsyncFn() -> Option<Fleet>,
        kind: Kind,
    ) -> Option<Self> {
        let fleet = Fleet::shared(place, start).await?;
        let account = fleet.account().await;
        let prefix = format!("p{:08x}", fastrand::u32(..));
        let node = |user| {
            let config = RedisConfig {
                prefix: prefix.clone(),
                ..fleet.config(user)
            };
            async move {
                let broker: Arc<dyn Broker> = match kind {
                    Kind::Durable => {
                        Arc::new(RedisDurable::connect(config, metrics()).await.unwrap())
                    }
                    Kind::Retained => Arc::new(Retained::new(
                        Arc::new(connect(config).await),
                        RetainedConfig::default(),
                        metrics(),
                    )),
                };
                broker
            }
        };
        Some(Self {
            first: node(Some(account.user())).await,
            second: node(None).await,
            account,
            is_durable: kind == Kind::Durable,
            fleet: fleet.clone(),
            prefix: prefix.clone(),
        })
    }

    /// Runs a command on each of this test's keys, wherever they are.
    async fn on_keys(&self, glob: &str, command: impl Fn(&str) -> Option<Vec<String>>) {
        let glob = format!("{{{}:p*}}:{glob}", self.prefix);
        for server in self.fleet.servers() {
            // A replica has them too and may not touch them.
            let role = server.cli(&["ROLE"]).await;
            if !role.starts_with("master") {
                continue;
            }
            for key in server.cli(&["KEYS", &glob]).await.lines() {
                if let Some(command) = command(key) {
                    server.cli(&command).await;
                }
            }
        }
    }
}

#[async_trait]
impl Fixture for Bus {
    async fn broker(&self) -> Arc<dyn Broker> {
        self.first.clone()
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(self.second.clone())
    }

    async fn interrupt(&self) -> bool {
        self.account.cut_off().await;
        true
    }

    async fn restore(&self) {
        self.account.let_in().await;
        let deadline = tokio::time::Instant::now() + bus::PATIENCE;
        while let Err(error) = self.first.probe().await {
            assert!(tokio::time::Instant::now() < deadline, "not back: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes the entries as trimming does.
    async fn evict(&self, channels: &Pattern) -> bool {
        let trim = |key: &str| {
            let (_, name) = key.split_once(":s:")?;
            let name = name.parse::<Pattern>().ok()?.as_channel()?;
            let trim = ["XTRIM", key, "MAXLEN", "0"].map(str::to_owned);
            channels.matches(&name).then(|| trim.to_vec())
        };
        if self.is_durable {
            self.on_keys("s:*", trim).await;
        }
        self.is_durable
    }

    async fn lose(&self) -> bool {
        if self.is_durable {
            let delete = |key: &str| Some(vec!["DEL".to_owned(), key.to_owned()]);
            self.on_keys("*", delete).await;
        }
        self.is_durable
    }
}

mod sentinel {
    use super::{Bus, Fleet, Kind, Shared};

    static FLEET: Shared = Shared::const_new(std::sync::Weak::new());

    async fn start() -> Option<Bus> {
        Bus::start(&FLEET, Fleet::sentinel, Kind::Durable).await
    }

    fanfare_conformance::conformance!(start);
}

mod cluster {
    use super::{Bus, Fleet, Kind, Shared};

    static FLEET: Shared = Shared::const_new(std::sync::Weak::new());

    async fn start() -> Option<Bus> {
        Bus::start(&FLEET, Fleet::cluster, Kind::Durable).await
    }

    fanfare_conformance::conformance!(start);
}

/// What others publish on a cluster, retained by each node.
mod cluster_retained {
    use super::{Bus, Fleet, Kind, Shared};

    static FLEET: Shared = Shared::const_new(std::sync::Weak::new());

    async fn start() -> Option<Bus> {
        Bus::start(&FLEET, Fleet::cluster, Kind::Retained).await
    }

    fanfare_conformance::conformance!(start);
}

mod tls {
    use super::{Bus, Fleet, Kind, Shared};

    static FLEET: Shared = Shared::const_new(std::sync::Weak::new());

    async fn start() -> Option<Bus> {
        crate::bus::install_provider();
        Bus::start(&FLEET, Fleet::tls, Kind::Durable).await
    }

    fanfare_conformance::conformance!(start);
}
