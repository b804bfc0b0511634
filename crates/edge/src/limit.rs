//! How many connections there may be: per node and per client.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{client_key::ClientKey, config::LimitsConfig, metrics::Metrics, problem::Refusal};

/// Counts connections. A clone is the same count.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimiter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    counts: Mutex<Counts>,
    node: usize,
    client: usize,
    retry_after: Duration,
    metrics: Metrics,
}

/// One entry a client that has a connection: the node's bound is this table's.
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

impl ConnectionLimiter {
    pub(crate) fn new(limits: &LimitsConfig, metrics: Metrics) -> Self {
        metrics
            .connections_limit
            .set(i64::try_from(limits.connections).unwrap_or(i64::MAX));
        let shared = Shared {
            counts: Mutex::default(),
            node: limits.connections,
            client: limits.connections_per_client,
            retry_after: limits.retry_after,
            metrics,
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
        shared.metrics.connections.inc();
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
        self.shared.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections: usize, connections_per_client: usize) -> ConnectionLimiter {
        let limits = LimitsConfig {
            connections,
            connections_per_client,
            ..LimitsConfig::default()
        };
        ConnectionLimiter::new(
            &limits,
            Metrics::register(&prometheus::Registry::new()).unwrap(),
        )
    }

    #[test]
    fn a_slot_comes_back_with_its_permit() {
        let limiter = limiter(3, 2);
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
        assert_eq!(limiter.shared.metrics.connections.get(), 3);
        drop(held);
        let _again = limiter.admit(client(1)).unwrap();
        drop(other);
        assert_eq!(limiter.shared.counts.lock().clients.len(), 1);
        assert_eq!(limiter.shared.metrics.connections.get(), 1);
    }
}
