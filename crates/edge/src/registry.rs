//! The live streams and polls, for operators. Bounded by the permits that its entries hold.

mod table;

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use fanfare_core::Pattern;
use fanfare_delivery::{CloseReason, Closer, Seat};
use parking_lot::Mutex;
use serde::Serialize;
use table::Table;

use crate::{
    auth::Identity,
    hook::Hooks,
    limit::Permit,
    listener::{Held, Served},
    metrics::Metrics,
};

/// The live streams and polls. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Ordered, so that a page of it can be read on from an id.
    live: Mutex<Table<Live>>,
    began: Instant,
    hooks: Hooks,
    metrics: Metrics,
}

/// One connection's facts, and what it holds; no token among them. Lives exactly as long as the
/// connection: rides in the subscriber as its guard. Its end gives the slots back, tells the hooks
/// and writes the line of the log.
///
/// There is one for each client, however many those are: it is kept small.
pub(crate) struct Live {
    shared: Arc<Shared>,
    id: u64,
    /// Who, where there are hooks that want to know: a token's claims take more than all else.
    identity: Option<Identity>,
    begun: Begun,
    holds: Mutex<Holds>,
}

/// What a connection began as, and how long after the table: in eight bytes.
#[derive(Clone, Copy, Debug)]
struct Begun {
    seconds: u32,
    millis: u16,
    kind: Kind,
}

/// What a connection holds.
struct Holds {
    /// What it follows, in a list that it shares once it is served.
    channels: Arc<[Pattern]>,
    permit: Option<Permit>,
    /// Since it is being served.
    closer: Option<Closer>,
    /// Of a socket that has no task.
    socket: Option<Served>,
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

impl Connections {
    pub(crate) fn new(hooks: Hooks, metrics: Metrics) -> Self {
        let shared = Shared {
            live: Mutex::new(Table::new()),
            began: Instant::now(),
            hooks,
            metrics,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Enters a connection that is about to be joined.
    pub(crate) fn enter(
        &self,
        kind: Kind,
        permit: Permit,
        identity: &Identity,
        channels: Arc<[Pattern]>,
    ) -> Arc<Live> {
        let shared = &self.shared;
        let mut live = Live {
            id: 0,
            identity: (!shared.hooks.is_empty()).then(|| identity.clone()),
            begun: Begun::new(kind, shared.began.elapsed()),
            holds: Mutex::new(Holds {
                channels,
                permit: Some(permit),
                closer: None,
                socket: None,
            }),
            shared: shared.clone(),
        };
        shared.live.lock().add(|id| {
            live.id = id;
            Arc::new(live)
        })
    }

    /// The first `limit` connections after an id, oldest first, and how many there are in all.
    pub(crate) fn list(&self, after: u64, limit: usize) -> (Vec<Listed>, usize) {
        let live = self.shared.live.lock();
        let there = live.after(after).filter_map(Weak::upgrade);
        let page: Vec<_> = there.take(limit).collect();
        let total = live.len();
        // An entry that ends here takes itself out of the table.
        drop(live);
        (page.iter().map(|live| live.listed()).collect(), total)
    }

    /// Ends a connection. Answers whether there was one.
    pub(crate) async fn close(&self, id: u64) -> bool {
        let live = self.shared.live.lock().get(id).and_then(Weak::upgrade);
        let Some(live) = live else { return false };
        let closer = live.holds.lock().closer.clone();
        if let Some(closer) = &closer {
            closer.close(CloseReason::Revoked).await;
        }
        closer.is_some()
    }
}

impl Live {
    /// The connection is being served.
    pub(crate) fn opened(&self, seat: &Seat) {
        let mut holds = self.holds.lock();
        holds.closer = Some(seat.closer());
        holds.channels = seat.channels();
        let channels = holds.channels.len();
        drop(holds);
        if tracing::enabled!(tracing::Level::DEBUG) {
            let client = self.client();
            tracing::debug!(id = self.id, client, channels, kind = ?self.begun.kind, "open");
        }
    }

    /// Its socket is held from here on.
    pub(crate) fn keep(&self, socket: Held) {
        self.holds.lock().socket = Some(socket.outlive());
    }

    /// Lets go of the slot without giving it back: an answer holds it from now on.
    pub(crate) fn release(&self) -> Option<Permit> {
        self.holds.lock().permit.take()
    }

    fn client(&self) -> String {
        let holds = self.holds.lock();
        let permit = holds.permit.as_ref();
        permit.map_or_else(String::new, |permit| permit.client().to_string())
    }

    fn age(&self) -> Duration {
        let began = self.shared.began;
        began.elapsed().saturating_sub(self.begun.after())
    }

    fn listed(&self) -> Listed {
        let age = self.age();
        let since = SystemTime::now()
            .checked_sub(age)
            .and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok())
            .unwrap_or_default();
        let channels = self.holds.lock().channels.clone();
        Listed {
            id: self.id,
            kind: self.begun.kind,
            client: self.client(),
            channels: channels.iter().map(ToString::to_string).collect(),
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            age_seconds: age.as_secs(),
        }
    }
}

impl Begun {
    fn new(kind: Kind, after: Duration) -> Self {
        Self {
            seconds: u32::try_from(after.as_secs()).unwrap_or(u32::MAX),
            millis: after.subsec_millis() as u16,
            kind,
        }
    }

    fn after(self) -> Duration {
        Duration::from_millis(u64::from(self.seconds) * 1000 + u64::from(self.millis))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.live.lock().remove(self.id);
        let opened = self.holds.get_mut().closer.is_some();
        if !opened {
            return;
        }
        let age = self.age();
        if self.begun.kind == Kind::Stream {
            let seconds = &self.shared.metrics.connection_seconds;
            seconds.observe(age.as_secs_f64());
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let client = self.client();
            tracing::debug!(id = self.id, client, seconds = age.as_secs_f64(), "closed");
        }
        if let Some(identity) = self.identity.take() {
            let channels = self.holds.get_mut().channels.clone();
            self.shared.hooks.closed(identity, channels, age);
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

// What an idle client costs the edge, two counts of references beside; `docs/performance.md` tells
// the sum.
const _: () = assert!(size_of::<Live>() <= 96);
