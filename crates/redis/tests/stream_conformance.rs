//! Every law of a broker, over streams of others on a real redis-server.

#![allow(clippy::unwrap_used, reason = "a test's helpers")]

mod bus;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{Door, streams};
use fanfare_conformance::Fixture;
use fanfare_core::{Broker, Pattern};
use fanfare_redis::RedisStreams;
use fanfare_testkit::RedisServer;

struct Bus {
    door: Door,
    first: RedisStreams,
    second: RedisStreams,
    server: RedisServer,
    /// How the first node is cut off.
    cut: Cut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Nothing comes through.
    Off,
    /// All links are killed, and may be made anew at once.
    Killed,
}

impl Bus {
    async fn start(cut: Cut) -> Option<Self> {
        let server = RedisServer::start().await?;
        let door = Door::open(server.address()).await;
        Some(Self {
            first: streams(door.url()).await,
            second: streams(server.url()).await,
            door,
            server,
            cut,
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
        match self.cut {
            Cut::Off => self.door.shut(),
            Cut::Killed => {
                self.server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            }
        }
        true
    }

    async fn restore(&self) {
        self.door.reopen();
        let deadline = tokio::time::Instant::now() + bus::PATIENCE;
        while let Err(error) = self.first.probe().await {
            assert!(tokio::time::Instant::now() < deadline, "not back: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes the entries as trimming does.
    async fn evict(&self, channels: &Pattern) -> bool {
        for key in self.server.cli(&["KEYS", "orders:*"]).await.lines() {
            let name = key.strip_prefix("orders:").unwrap();
            if channels.matches(&name.parse::<Pattern>().unwrap().as_channel().unwrap()) {
                self.server.cli(&["XTRIM", key, "MAXLEN", "0"]).await;
            }
        }
        true
    }

    async fn lose(&self) -> bool {
        self.server.cli(&["FLUSHALL"]).await;
        true
    }
}

async fn start() -> Option<Bus> {
    Bus::start(Cut::Off).await
}

fanfare_conformance::conformance!(start);

/// A kill heals by itself, often before anybody can see it: the laws of a probe that must fail, and
/// of calls that must end, do not apply.
#[tokio::test(flavor = "multi_thread")]
async fn killed_links_heal() {
    let Some(bus) = Bus::start(Cut::Killed).await else {
        return;
    };
    let name = "fault::a_cut_is_healed_or_told";
    let mut laws = fanfare_conformance::all_laws().into_iter();
    let law = laws.find(|law| law.name == name).unwrap();
    law.check(Arc::new(bus)).await.unwrap();
}
