//! Facts about a backend that the conformance suite checks and the edge reads.

use std::{fmt, sync::Arc};

use crate::{LogId, Pattern};

/// Facts about a backend.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The backend's name: `memory`, `redis`, `nats`, or that of a user's own.
    pub backend: &'static str,
    /// Which log a channel lives in.
    pub logs: LogMap,
    /// Whether `history` holds events. Without it, a place before the newest is answered by a gap.
    ///
    /// Without it, too, the log's head moves on by a place whenever the node begins to follow a
    /// pattern on the bus: what passed before was not seen, so every cursor from before has to lie
    /// before the head, although the node saw no event since.
    pub history: bool,
    /// Whether a position means the same place on every node. Without it, another node answers a
    /// gap.
    pub shared: bool,
    /// Whether `publish` answers the position of the event. Raw buses place events on arrival.
    pub positions: bool,
    /// Whether idempotency keys are kept. Without it, a publication with a key is refused.
    pub idempotency: bool,
    /// The largest data the bus takes, in bytes, where it has a bound of its own.
    pub max_data_bytes: Option<usize>,
}

/// Which logs the channels of a pattern live in.
#[derive(Clone)]
pub struct LogMap {
    all: Arc<[LogId]>,
    of: LogsOf,
}

type LogsOf = Arc<dyn Fn(&Pattern) -> Vec<LogId> + Send + Sync>;

impl LogMap {
    /// Every channel lives in one log.
    pub fn single(log: LogId) -> Self {
        Self::new([log.clone()], move |_| vec![log.clone()])
    }

    /// `of` answers the logs, of `all`, that channels of a pattern can live in; for a channel
    /// name, exactly one.
    pub fn new(
        all: impl Into<Arc<[LogId]>>,
        of: impl Fn(&Pattern) -> Vec<LogId> + Send + Sync + 'static,
    ) -> Self {
        Self {
            all: all.into(),
            of: Arc::new(of),
        }
    }

    /// The logs that channels of `pattern` can live in.
    pub fn of(&self, pattern: &Pattern) -> Vec<LogId> {
        (self.of)(pattern)
    }

    /// Every log of the backend.
    pub fn all(&self) -> &[LogId] {
        &self.all
    }
}

impl fmt::Debug for LogMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter()).finish()
    }
}
