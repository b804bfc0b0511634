//! How much may be under way at once: on the node and of one client.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::{client_key::ClientKey, config::LimitsConfig, metrics::Metrics, problem::Refusal};

/// Counts what is under way. A clone is the same count.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    counts: Mutex<Counts>,
    what: &'static str,
    node: usize,
    client: usize,
    retry_after: Duration,
    gauge: Option<IntGauge>,
}

/// One entry a client that has something under way: the node's bound is this table's.
#[derive(Debug, Default)]
struct Counts {
    total: usize,
    clients: HashMap<ClientKey, usize>,
}

/// A held slot. Dropping it gives the slot back.
#[must_use = "dropping it gives the slot back"]
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    client: ClientKey,
}

impl Limiter {
    /// For streams and polls.
    pub(crate) fn connections(limits: &LimitsConfig, metrics: &Metrics) -> Self {
        metrics
            .connections_limit
            .set(i64::try_from(limits.connections).unwrap_or(i64::MAX));
        Self::new(
            "connections",
            limits.connections,
            limits,
            Some(metrics.connections.clone()),
        )
    }

    /// For pages of history, each of which is held in memory until its client has read it.
    pub(crate) fn histories(limits: &LimitsConfig) -> Self {
        Self::new("history requests under way", limits.histories, limits, None)
    }

    fn new(
        what: &'static str,
        node: usize,
        limits: &LimitsConfig,
        gauge: Option<IntGauge>,
    ) -> Self {
        let shared = Shared {
            counts: Mutex::default(),
            what,
            node,
            client: limits.connections_per_client,
            retry_after: limits.retry_after,
            gauge,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes a slot.
    pub(crate) fn admit(&self, client: ClientKey) -> Result<Permit, Refusal> {
        let shared = &self.shared;
        let full = |scope, limit| {
            Err(Refusal::TooManyConnections {
                scope,
                what: shared.what,
                limit,
                retry_after: shared.retry_after,
            })
        };
        let mut counts = shared.counts.lock();
        if counts.total >= shared.node {
            return full("this node", shared.node);
        }
        let held = counts.clients.get(&client).copied().unwrap_or_default();
        if held >= shared.client {
            return full("this client", shared.client);
        }
        counts.total += 1;
        counts.clients.insert(client.clone(), held + 1);
        if let Some(gauge) = &shared.gauge {
            gauge.inc();
        }
        Ok(Permit {
            shared: shared.clone(),
            client,
        })
    }
}

impl Permit {
    pub(crate) fn client(&self) -> &ClientKey {
        &self.client
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.shared.counts.lock();
        counts.total -= 1;
        if let Entry::Occupied(mut held) = counts.clients.entry(self.client.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        // A wave of clients leaves no table of its size behind.
        if counts.clients.capacity() > 64 && counts.clients.len() * 8 < counts.clients.capacity() {
            let keep = counts.clients.len() * 2;
            counts.clients.shrink_to(keep);
        }
        if let Some(gauge) = &self.shared.gauge {
            gauge.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections: usize, connections_per_client: usize) -> (Limiter, Metrics) {
        let limits = LimitsConfig {
            connections,
            connections_per_client,
            ..LimitsConfig::default()
        };
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        (Limiter::connections(&limits, &metrics), metrics)
    }

    #[test]
    fn a_slot_comes_back_with_its_permit() {
        let (limiter, metrics) = limiter(3, 2);
        let client = |n| ClientKey::V6(n);
        let held = [
            limiter.admit(client(1)).unwrap(),
            limiter.admit(client(1)).unwrap(),
        ];
        let full = limiter.admit(client(1)).unwrap_err();
        assert!(matches!(
            full,
            Refusal::TooManyConnections {
                scope: "this client",
                ..
            }
        ));
        let other = limiter.admit(client(2)).unwrap();
        let full = limiter.admit(client(3)).unwrap_err();
        assert!(matches!(
            full,
            Refusal::TooManyConnections {
                scope: "this node",
                ..
            }
        ));
        assert_eq!(metrics.connections.get(), 3);
        drop(held);
        let _again = limiter.admit(client(1)).unwrap();
        drop(other);
        assert_eq!(limiter.shared.counts.lock().clients.len(), 1);
        assert_eq!(metrics.connections.get(), 1);
    }
}
