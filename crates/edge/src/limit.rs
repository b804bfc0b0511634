//! How much may be under way at once: on the node and of one client.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::IntGauge;

use crate::{client_key::ClientKey, config::LimitsConfig, metrics::Metrics, problem::Refusal};

/// Counts what is under way. A clone is the same count; its bounds may be others.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    shared: Arc<Shared>,
    node: usize,
    client: usize,
    retry_after: Duration,
}

#[derive(Debug)]
struct Shared {
    counts: Mutex<Counts>,
    what: &'static str,
    gauges: Option<Gauges>,
}

/// How a limiter's state is seen.
#[derive(Debug)]
struct Gauges {
    held: IntGauge,
    limit: IntGauge,
}

/// One entry a client that has something under way: the node's bound is this table's.
#[derive(Debug, Default)]
struct Counts {
    total: usize,
    clients: HashSet<ByKey>,
}

/// A client that has something under way.
#[derive(Debug)]
struct Client {
    key: ClientKey,
    /// How much. Changes under the lock of the counts.
    held: AtomicUsize,
    shared: Arc<Shared>,
}

/// In the table by its key.
#[derive(Debug)]
struct ByKey(Arc<Client>);

/// A held slot. Dropping it gives the slot back.
#[must_use = "dropping it gives the slot back"]
#[derive(Debug)]
pub(crate) struct Permit {
    client: Arc<Client>,
}

impl Limiter {
    /// For streams and polls.
    pub(crate) fn connections(limits: &LimitsConfig, metrics: &Metrics) -> Self {
        let gauges = Gauges {
            held: metrics.connections.clone(),
            limit: metrics.connections_limit.clone(),
        };
        Self::new("connections", limits.connections, limits, Some(gauges))
    }

    /// For pages of history, each of which is held in memory until its client has read it.
    pub(crate) fn histories(limits: &LimitsConfig) -> Self {
        Self::new("history requests under way", limits.histories, limits, None)
    }

    fn new(what: &'static str, node: usize, limits: &LimitsConfig, gauges: Option<Gauges>) -> Self {
        let shared = Shared {
            counts: Mutex::default(),
            what,
            gauges,
        };
        Self::bounded(Arc::new(shared), node, limits)
    }

    /// The same count within other bounds. What is held beyond them stays held.
    pub(crate) fn within(&self, node: usize, limits: &LimitsConfig) -> Self {
        Self::bounded(self.shared.clone(), node, limits)
    }

    fn bounded(shared: Arc<Shared>, node: usize, limits: &LimitsConfig) -> Self {
        if let Some(gauges) = &shared.gauges {
            gauges.limit.set(i64::try_from(node).unwrap_or(i64::MAX));
        }
        Self {
            shared,
            node,
            client: limits.connections_per_client,
            retry_after: limits.retry_after,
        }
    }

    /// Takes a slot.
    pub(crate) fn admit(&self, key: ClientKey) -> Result<Permit, Refusal> {
        let shared = &self.shared;
        let full = |scope, limit| {
            Err(Refusal::TooManyConnections {
                scope,
                what: shared.what,
                limit,
                retry_after: self.retry_after,
            })
        };
        let mut counts = shared.counts.lock();
        if counts.total >= self.node {
            return full("this node", self.node);
        }
        let known = counts.clients.get(&key).map(|client| client.0.clone());
        let held = known.as_ref().map_or(0, |client| client.held());
        if held >= self.client {
            return full("this client", self.client);
        }
        let client = known.unwrap_or_else(|| {
            let client = Arc::new(Client {
                key,
                held: AtomicUsize::new(0),
                shared: shared.clone(),
            });
            counts.clients.insert(ByKey(client.clone()));
            client
        });
        client.held.fetch_add(1, Ordering::Relaxed);
        counts.total += 1;
        if let Some(gauges) = &shared.gauges {
            gauges.held.inc();
        }
        Ok(Permit { client })
    }
}

impl Permit {
    pub(crate) fn client(&self) -> &ClientKey {
        &self.client.key
    }
}

impl Client {
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Borrow<ClientKey> for ByKey {
    fn borrow(&self) -> &ClientKey {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = &self.client.shared;
        let mut counts = shared.counts.lock();
        counts.total -= 1;
        if self.client.held.fetch_sub(1, Ordering::Relaxed) == 1 {
            counts.clients.remove(&self.client.key);
        }
        // A wave of clients leaves no table of its size behind.
        if counts.clients.capacity() > 64 && counts.clients.len() * 8 < counts.clients.capacity() {
            let keep = counts.clients.len() * 2;
            counts.clients.shrink_to(keep);
        }
        if let Some(gauges) = &shared.gauges {
            gauges.held.dec();
        }
    }
}

/// Counts what is under way, whoever's it is. A clone is the same count.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    held: Arc<AtomicUsize>,
    most: usize,
}

/// One of the [`Slots`], held until it is dropped.
#[must_use = "dropping it gives the slot back"]
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Slots {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            held: Arc::default(),
            most,
        }
    }

    /// The same count within another bound.
    pub(crate) fn within(&self, most: usize) -> Self {
        Self {
            held: self.held.clone(),
            most,
        }
    }

    /// Takes a slot; `None` where all are taken.
    pub(crate) fn take(&self) -> Option<Slot> {
        let one_more = |held| (held < self.most).then_some(held + 1);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Slot(self.held.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    #[test]
    fn other_bounds_are_of_the_same_count() {
        let (wide, metrics) = limiter(2, 2);
        let first = wide.admit(ClientKey::V6(1)).unwrap();
        let second = wide.admit(ClientKey::V6(2)).unwrap();
        let narrow = wide.within(1, &LimitsConfig::default());
        assert_eq!(metrics.connections_limit.get(), 1);
        assert_eq!(metrics.connections.get(), 2, "nobody is cut");
        drop(first);
        assert!(narrow.admit(ClientKey::V6(1)).is_err());
        drop(second);
        let _held = narrow.admit(ClientKey::V6(1)).unwrap();
        let wide = Slots::new(2);
        let held = (wide.take().unwrap(), wide.take().unwrap());
        let narrow = wide.within(1);
        drop(held.0);
        assert!(narrow.take().is_none() && wide.take().is_some());
        drop(held.1);
        assert!(narrow.take().is_some());
    }
}
