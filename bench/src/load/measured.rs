//! What a generator found: one JSON object on standard output.

use serde::{Deserialize, Serialize};

use crate::sequence::Faults;

/// One measurement of one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Subscribers that were connected before the measurement.
    pub(crate) clients: usize,
    /// Connections made a second, 128 at a time.
    pub(crate) connects_per_s: f64,
    /// CPU of the server for one of them, microseconds.
    pub(crate) connect_cpu_us: f64,
    /// User-space memory (PSS) of the server for one of them while idle, bytes.
    pub(crate) idle_bytes: f64,
    /// Length of the measurement, seconds.
    pub(crate) seconds: f64,
    /// Events that reached clients in it, of all flows.
    pub(crate) deliveries: u64,
    /// The same by the second.
    pub(crate) deliveries_per_s: f64,
    /// CPU seconds of the server for a million deliveries.
    pub(crate) cpu_s_per_million: f64,
    /// The part of it in user space.
    pub(crate) user_s_per_million: f64,
    /// CPU seconds of the processes beside it for a million deliveries.
    pub(crate) beside_s_per_million: f64,
    /// Share of one core that the server used.
    pub(crate) server_busy: f64,
    /// Bytes read for a delivery.
    pub(crate) bytes_per_delivery: f64,
    /// Deliveries a read: what was coalesced, by the server or on the way.
    pub(crate) events_per_read: f64,
    /// Share of the time in which the generator had work.
    pub(crate) generator_busy: f64,
    /// CPU of others on this machine in that time, in cores.
    pub(crate) foreign_cores: f64,
    /// What the hypervisor took away in that time, in cores.
    pub(crate) stolen_cores: f64,
    /// Each flow by itself.
    pub(crate) flows: Vec<FlowMeasured>,
    /// Of clients that came back.
    pub(crate) storm: Option<StormMeasured>,
    /// Of all clients, from the first event to the last.
    pub(crate) lost: u64,
    /// The same.
    pub(crate) repeated: u64,
    /// The same.
    pub(crate) reordered: u64,
    /// Gap events that came.
    pub(crate) gaps: u64,
    /// Streams that ended, requests that were refused, and the like.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
}

/// Latency of one flow, microseconds from the scheduled time of the publish.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FlowMeasured {
    /// Its name.
    pub(crate) name: String,
    /// Deliveries a second.
    pub(crate) deliveries_per_s: f64,
    /// Median.
    pub(crate) p50_us: f64,
    /// 99 of 100 are quicker.
    pub(crate) p99_us: f64,
    /// The slowest.
    pub(crate) max_us: f64,
}

/// What clients that came back cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StormMeasured {
    /// How many.
    pub(crate) clients: usize,
    /// Until the last one had all that it had missed, seconds.
    pub(crate) seconds: f64,
    /// Events that were replayed to them a second.
    pub(crate) replayed_per_s: f64,
    /// CPU of the server for one of them, microseconds: connect and catch-up.
    pub(crate) cpu_us_per_client: f64,
}

impl Measured {
    pub(crate) fn take(&mut self, faults: Faults) {
        self.lost = faults.lost;
        self.repeated = faults.repeated;
        self.reordered = faults.reordered;
    }

    /// What was not as it should be, in words; `None` where all was.
    pub(crate) fn faults(&self) -> Option<String> {
        let counts = [
            (self.lost, "lost"),
            (self.repeated, "repeated"),
            (self.reordered, "reordered"),
            (self.gaps, "gaps"),
            (self.errors, "errors"),
        ];
        let mut words: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        words.extend(self.first_error.clone());
        (!words.is_empty()).then(|| words.join(", "))
    }
}
