//! What a generator shall do, as its parent tells it: JSON on the command line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One measurement of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Where to subscribe; clients are spread over them in turn.
    pub(crate) subscribe_at: Vec<SocketAddr>,
    /// Where to publish.
    pub(crate) publish_at: SocketAddr,
    /// How requests look.
    pub(crate) dialect: Dialect,
    /// A bearer token for everything.
    #[serde(default)]
    pub(crate) token: Option<String>,
    /// The processes whose CPU time and memory are counted.
    pub(crate) pids: Vec<u32>,
    /// Processes beside, whose CPU time is counted apart: a bus, the node that is published to.
    #[serde(default)]
    pub(crate) beside: Vec<u32>,
    /// Milliseconds before the measurement.
    pub(crate) warmup_ms: u64,
    /// Milliseconds of the measurement.
    pub(crate) measure_ms: u64,
    /// What is published to whom, at the same time. The first is the one that counts. Empty: the
    /// connections alone are measured.
    pub(crate) flows: Vec<Flow>,
    /// Clients that come back in the middle.
    #[serde(default)]
    pub(crate) storm: Option<Storm>,
}

/// Channels, their subscribers, and how they are published to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flow {
    /// What its channels' names begin with; unlike in other flows.
    pub(crate) name: String,
    /// How many channels.
    pub(crate) channels: usize,
    /// How many subscribers each has.
    pub(crate) subscribers: usize,
    /// Bytes of data in an event; at least the ten of its number.
    pub(crate) bytes: usize,
    /// When to publish.
    pub(crate) pace: Pace,
    /// Whether what is published at the same time is one NDJSON request, or a request each on one
    /// connection.
    pub(crate) batch: bool,
}

/// When to publish.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// Nothing.
    Idle,
    /// As many as are in flight at most: more once only `refill_at` have not reached everybody.
    Window {
        /// The most in flight.
        size: usize,
        /// Zero: all of a window must have arrived.
        refill_at: usize,
    },
    /// By the clock, whatever has arrived.
    PerSecond(f64),
}

/// Clients that come back at once, with cursors of some events ago, to the first flow's channels.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storm {
    /// How many.
    pub(crate) clients: usize,
    /// How many events they have missed.
    pub(crate) behind: u64,
}

/// How requests look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dialect {
    /// Fanfare's, and the floors'.
    Fanfare,
    /// nginx with nchan, as the runs configure it.
    Nchan,
}

impl Dialect {
    pub(crate) fn subscribe(self, channel: &str) -> String {
        match self {
            Self::Fanfare => format!("/events?hello=0&channel={channel}"),
            Self::Nchan => format!("/sub/{channel}"),
        }
    }

    pub(crate) fn publish(self, channel: &str) -> String {
        match self {
            Self::Fanfare => format!("/publish/{channel}"),
            Self::Nchan => format!("/pub/{channel}"),
        }
    }

    /// Whether it takes NDJSON.
    pub(crate) fn batches(self) -> bool {
        self == Self::Fanfare
    }
}

impl Flow {
    pub(crate) fn channel(&self, index: usize) -> String {
        format!("{}.{index}", self.name)
    }
}
