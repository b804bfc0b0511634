//! The live streams and polls, for operators. Bounded by the permits that its entries hold.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use fanfare_core::Pattern;
use fanfare_delivery::{CloseReason, Closer};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{auth::Identity, hook::Hooks, limit::Permit, metrics::Metrics};

/// The live streams and polls. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    // Ordered, so that a page of it can be read on from an id.
    live: Mutex<BTreeMap<u64, Arc<Live>>>,
}

/// One connection's facts. No token among them.
#[derive(Debug)]
struct Live {
    client: String,
    channels: Arc<[Pattern]>,
    kind: Kind,
    since: SystemTime,
    start: Instant,
    closer: Mutex<Option<Closer>>,
}

/// What a slot is held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Stream,
    Poll,
}

/// A connection as operators see it.
#[derive(Serialize, Debug)]
pub(crate) struct Listed {
    id: u64,
    kind: Kind,
    client: String,
    channels: Vec<String>,
    since_ms: u64,
    age_seconds: u64,
}

/// Lives exactly as long as the connection: rides in the subscriber's guard. Its end gives the
/// slot back, tells the hooks and writes the line of the log.
pub(crate) struct Entry {
    shared: Arc<Shared>,
    live: Arc<Live>,
    id: u64,
    identity: Identity,
    hooks: Hooks,
    metrics: Metrics,
    _permit: Arc<Permit>,
}

/// The edge's hold on an entry that rides in a subscriber.
pub(crate) struct Handle {
    live: Arc<Live>,
    id: u64,
}

impl Connections {
    /// Enters a connection that is about to be joined.
    pub(crate) fn enter(
        &self,
        kind: Kind,
        permit: Arc<Permit>,
        identity: Identity,
        channels: Arc<[Pattern]>,
        hooks: Hooks,
        metrics: Metrics,
    ) -> (Entry, Handle) {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed) + 1;
        let live = Arc::new(Live {
            client: permit.client().to_string(),
            channels,
            kind,
            since: SystemTime::now(),
            start: Instant::now(),
            closer: Mutex::new(None),
        });
        self.shared.live.lock().insert(id, live.clone());
        let handle = Handle {
            live: live.clone(),
            id,
        };
        let shared = self.shared.clone();
        (
            Entry {
                shared,
                live,
                id,
                identity,
                hooks,
                metrics,
                _permit: permit,
            },
            handle,
        )
    }

    /// The first `limit` connections after an id, oldest first, and how many there are in all.
    pub(crate) fn list(&self, after: u64, limit: usize) -> (Vec<Listed>, usize) {
        let live = self.shared.live.lock();
        let later = live.range(after.saturating_add(1)..).take(limit);
        let page: Vec<_> = later.map(|(id, live)| (*id, live.clone())).collect();
        let total = live.len();
        drop(live);
        (
            page.into_iter().map(|(id, live)| live.listed(id)).collect(),
            total,
        )
    }

    /// Ends a connection. Answers whether there was one.
    pub(crate) async fn close(&self, id: u64) -> bool {
        let live = self.shared.live.lock().get(&id).cloned();
        let Some(live) = live else { return false };
        let closer = live.closer.lock().clone();
        if let Some(closer) = &closer {
            closer.close(CloseReason::Revoked).await;
        }
        closer.is_some()
    }
}

impl Live {
    fn listed(&self, id: u64) -> Listed {
        let since = self
            .since
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Listed {
            id,
            kind: self.kind,
            client: self.client.clone(),
            channels: self.channels.iter().map(ToString::to_string).collect(),
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            age_seconds: self.start.elapsed().as_secs(),
        }
    }
}

impl Handle {
    /// The connection is being served.
    pub(crate) fn opened(&self, closer: Closer) {
        *self.live.closer.lock() = Some(closer);
        let (client, channels) = (&self.live.client, self.live.channels.len());
        tracing::debug!(id = self.id, client, channels, kind = ?self.live.kind, "open");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.live.lock().remove(&self.id);
        // The closer knows the shard, whose table holds this entry's subscriber: let go of it.
        let opened = self.live.closer.lock().take().is_some();
        if !opened {
            return;
        }
        let age = self.live.start.elapsed();
        if self.live.kind == Kind::Stream {
            self.metrics.connection_seconds.observe(age.as_secs_f64());
        }
        let client = &self.live.client;
        tracing::debug!(id = self.id, client, seconds = age.as_secs_f64(), "closed");
        self.hooks
            .closed(self.identity.clone(), self.live.channels.clone(), age);
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
