//! Every law of a broker, over raw channels of a real redis-server that are recorded for all nodes.
//! The first node records, or stands by; cut off, it loses that to the second.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{Door, quick};
use fanfare_conformance::Fixture;
use fanfare_core::{Broker, Pattern};
use fanfare_redis::{Ingest, RecorderMetrics, RedisConfig, RedisRecorded, Retain};
use fanfare_testkit::RedisServer;
use tokio::time::{Instant, sleep};

struct Bus {
    door: Door,
    first: RedisRecorded,
    second: RedisRecorded,
    server: RedisServer,
}

impl Bus {
    async fn start() -> Option<Self> {
        let server = RedisServer::start().await?;
        let door = Door::open(server.address()).await;
        let standby = RecorderMetrics::unregistered();
        let node = |url, metrics| async {
            let config = RedisConfig {
                ingest: vec![Ingest {
                    retain: Retain::Shared,
                    ..bus::rule("raw:*", "{1}")
                }],
                recorder_lease: Duration::from_millis(1500),
                ..quick(url)
            };
            let node = RedisRecorded::connect(config, bus::metrics(), metrics);
            node.await.unwrap()
        };
        let first = node(door.url(), RecorderMetrics::unregistered()).await;
        let second = node(server.url(), standby.clone()).await;
        let until = Instant::now() + bus::PATIENCE;
        while !standby.is_standby() {
            assert!(Instant::now() < until, "there is no standby");
            sleep(Duration::from_millis(10)).await;
        }
        Some(Self {
            first,
            second,
            door,
            server,
        })
    }
}

#[async_trait]
impl Fixture for Bus {
    async fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.first.clone())
    }

    async fn second_node(&self) -> Option<Arc<dyn Broker>> {
        Some(Arc::new(self.second.clone()))
    }

    async fn interrupt(&self) -> bool {
        self.door.shut();
        true
    }

    async fn restore(&self) {
        self.door.reopen();
        let until = Instant::now() + bus::PATIENCE;
        while let Err(error) = self.first.probe().await {
            assert!(Instant::now() < until, "not back: {error}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes the entries as trimming does.
    async fn evict(&self, channels: &Pattern) -> bool {
        for key in self.server.cli(&["KEYS", "{fanfare:h0}:s:*"]).await.lines() {
            let name = key.split_once(":s:").unwrap().1;
            if channels.matches(&name.parse::<Pattern>().unwrap().as_channel().unwrap()) {
                self.server.cli(&["XTRIM", key, "MAXLEN", "0"]).await;
            }
        }
        true
    }

    /// And waits until a node records again: what comes before that lies in a hole.
    async fn lose(&self) -> bool {
        self.server.cli(&["FLUSHALL"]).await;
        let until = Instant::now() + bus::PATIENCE;
        while self
            .server
            .cli(&["HEXISTS", "{fanfare:h0}:meta", "bus"])
            .await
            != "1"
        {
            assert!(Instant::now() < until, "nobody records again");
            sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

fanfare_conformance::conformance!(Bus::start);
