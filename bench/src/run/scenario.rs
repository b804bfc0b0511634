//! What is measured.

use super::server::{Bus, Server};
use crate::load::plan::{Flow, Pace, Storm};

/// One shape of load, put on several servers in turn.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// Part of a quick run.
    pub(crate) quick: bool,
    pub(crate) load: Load,
    /// The first is what the others are compared with.
    pub(crate) servers: Vec<Server>,
    /// Whether servers get the generator's core too: only their CPU can be read then.
    pub(crate) both_cores: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Load {
    /// Fan-out to clients.
    FanOut {
        flows: Vec<Flow>,
        storm: Option<Storm>,
        measure_ms: u64,
    },
    /// NDJSON into a server without clients.
    Ndjson,
}

/// The real binary as it comes.
const FANFARE: Server = Server::Fanfare {
    name: "fanfare",
    config: "",
};
const REDIS: Server = Server::Fleet {
    name: "fanfare-redis",
    bus: Bus::Redis,
    config: "[broker]\nkind = \"redis\"\n[broker.redis]\nurl = \"URL\"\n",
};
const CORE_NATS: Server = Server::Fleet {
    name: "fanfare-core-nats",
    bus: Bus::Nats,
    config: "[broker]\nkind = \"nats\"\n[broker.nats]\nurl = [\"URL\"]\njetstream = false\n\
             [[broker.nats.ingest]]\nfrom = \"core\"\nsource = \">\"\nchannel = \"{name}\"\n",
};
const JETSTREAM: Server = Server::Fleet {
    name: "fanfare-jetstream",
    bus: Bus::Nats,
    config: "[broker]\nkind = \"nats\"\n[broker.nats]\nurl = [\"URL\"]\nstream = \"FANFARE\"\n",
};

const fn shards(name: &'static str, config: &'static str) -> Server {
    Server::Fanfare { name, config }
}

/// Everything, in the order in which it is run.
pub(crate) fn all() -> Vec<Scenario> {
    let one = |flow: Flow| Load::FanOut {
        flows: vec![flow],
        storm: None,
        measure_ms: 2000,
    };
    let peers = || vec![Server::Floor, FANFARE, Server::Nchan];
    let new = |name, about, quick, load, servers| Scenario {
        name,
        about,
        quick,
        load,
        servers,
        both_cores: false,
    };
    let window = |size, refill_at| Pace::Window { size, refill_at };
    let w1 = |subscribers, bytes| one(flow("c", 1, subscribers, bytes, window(1, 0)));
    let spread = |bytes, batch| Flow {
        batch,
        ..flow("c", 1000, 10, bytes, window(256, 128))
    };
    let buses = || vec![FANFARE, REDIS, CORE_NATS, JETSTREAM];
    let nothing = "nothing to coalesce";
    vec![
        new("1x1000-100B", nothing, true, w1(1000, 100), peers()),
        new("1x1000-1KiB", nothing, false, w1(1000, 1024), peers()),
        new("1x10000-100B", nothing, true, w1(10_000, 100), peers()),
        new("1x10000-1KiB", nothing, false, w1(10_000, 1024), peers()),
        new(
            "1000x10-100B",
            nothing,
            true,
            one(spread(100, true)),
            peers(),
        ),
        new(
            "1000x10-1KiB",
            nothing,
            false,
            one(spread(1024, true)),
            peers(),
        ),
        new(
            "1000x10-100B-requests",
            "a publish request for each event",
            false,
            one(spread(100, false)),
            peers(),
        ),
        new(
            "1x1000-100B-backlog",
            "32 events wait at a time",
            true,
            one(flow("c", 1, 1000, 100, window(32, 0))),
            vec![
                Server::FloorCoalesced,
                FANFARE,
                Server::Floor,
                Server::Nchan,
            ],
        ),
        new(
            "1x1000-100B-20/s",
            "latency at a rate that nobody notices",
            true,
            Load::FanOut {
                flows: vec![flow("c", 1, 1000, 100, Pace::PerSecond(20.0))],
                storm: None,
                measure_ms: 4000,
            },
            peers(),
        ),
        new(
            "idle",
            "15,000 clients, one process",
            true,
            one(flow("c", 1, 15_000, 100, Pace::Idle)),
            vec![Server::Floor, FANFARE, Server::FanfareToken, Server::Nchan],
        ),
        new(
            "publish-ndjson",
            "one streamed request of 100 B events, no subscribers",
            true,
            Load::Ndjson,
            vec![FANFARE, REDIS, JETSTREAM],
        ),
        new(
            "small-beside-10000",
            "10 clients at 20/s beside 10,000 at full rate; latency of the 10",
            false,
            Load::FanOut {
                flows: vec![
                    flow("small", 1, 10, 100, Pace::PerSecond(20.0)),
                    flow("big", 1, 10_000, 100, window(4, 3)),
                ],
                storm: None,
                measure_ms: 4000,
            },
            vec![Server::Floor, FANFARE],
        ),
        new(
            "storm-15000",
            "15,000 clients come back 100 events late; 500 stay, at 50/s",
            false,
            Load::FanOut {
                flows: vec![flow("c", 1, 500, 100, Pace::PerSecond(50.0))],
                storm: Some(Storm {
                    clients: 15_000,
                    behind: 100,
                }),
                measure_ms: 2000,
            },
            vec![FANFARE, REDIS],
        ),
        new(
            "buses",
            "two nodes, 1x1000, window 1",
            false,
            w1(1000, 100),
            buses(),
        ),
        new(
            "buses-20/s",
            "two nodes, 1x1000; publish here, deliver there",
            false,
            Load::FanOut {
                flows: vec![flow("c", 1, 1000, 100, Pace::PerSecond(20.0))],
                storm: None,
                measure_ms: 4000,
            },
            buses(),
        ),
        Scenario {
            both_cores: true,
            ..new(
                "shards",
                "servers share both cores with the generator: read the CPU alone",
                false,
                w1(1000, 100),
                vec![
                    shards("fanfare-1-shard", "[delivery]\nshards = 1\n"),
                    shards("fanfare-2-shards", "[delivery]\nshards = 2\n"),
                ],
            )
        },
        new(
            "filters",
            "1x10000; the same edge without filters and with 3 classes",
            false,
            w1(10_000, 100),
            vec![
                Server::Filtered {
                    name: "unfiltered",
                    classes: 0,
                },
                Server::Filtered {
                    name: "3-classes",
                    classes: 3,
                },
            ],
        ),
        new(
            "write-delay",
            "1x100 at 1,000/s: milliseconds for CPU",
            false,
            Load::FanOut {
                flows: vec![flow("c", 1, 100, 100, Pace::PerSecond(1000.0))],
                storm: None,
                measure_ms: 4000,
            },
            vec![
                FANFARE,
                shards("fanfare-1ms", "[delivery]\nwrite_delay = \"1ms\"\n"),
                shards("fanfare-2ms", "[delivery]\nwrite_delay = \"2ms\"\n"),
                shards("fanfare-5ms", "[delivery]\nwrite_delay = \"5ms\"\n"),
                shards("fanfare-10ms", "[delivery]\nwrite_delay = \"10ms\"\n"),
                shards("fanfare-20ms", "[delivery]\nwrite_delay = \"20ms\"\n"),
            ],
        ),
    ]
}

fn flow(name: &str, channels: usize, subscribers: usize, bytes: usize, pace: Pace) -> Flow {
    Flow {
        name: name.into(),
        channels,
        subscribers,
        bytes,
        pace,
        // What is alone is published alone.
        batch: matches!(pace, Pace::Window { size: 2.., .. }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_processes_stay_under_their_files() {
        let mut names = HashSet::new();
        for scenario in all() {
            assert!(names.insert(scenario.name), "{}", scenario.name);
            let servers: HashSet<_> = scenario
                .servers
                .iter()
                .map(|server| server.name())
                .collect();
            assert_eq!(servers.len(), scenario.servers.len(), "{}", scenario.name);
            if let Load::FanOut { flows, storm, .. } = scenario.load {
                let clients: usize = flows
                    .iter()
                    .map(|flow| flow.channels * flow.subscribers)
                    .sum();
                let back = storm.map_or(0, |storm| storm.clients);
                assert!(clients + back < 19_500, "{}", scenario.name);
            }
        }
    }
}
