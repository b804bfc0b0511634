//! Facts about a backend that the conformance suite checks and the edge reads.

use std::{fmt, sync::Arc};

use crate::{LogId, Pattern, Position};

/// Facts about a backend. They do not change while it lives, but for logs that come into being: see
/// [`LogMap::growing`].
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
    late: Option<LateLogs>,
}

type LogsOf = Arc<dyn Fn(&Pattern) -> Vec<LogId> + Send + Sync>;
type LateLogs = Arc<dyn Fn(&LogId) -> Option<Late> + Send + Sync>;

/// A log that can come into being while clients follow a wildcard that selects its channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Late {
    /// The log that [`LogMap::of`] names for every such wildcard, and that holds no event. A cursor
    /// that names it was made by one who followed the wildcard: what it does not name of the other
    /// logs was not there yet. Of a log that is not known, any index.
    pub index: LogId,
    /// The place before the log's first event: from here on, all of it is owed to those who followed
    /// the wildcard before it was there.
    pub begin: Position,
}

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
            late: None,
        }
    }

    /// Logs that come into being. `of` answers, for a channel name, exactly one; for a wildcard, the
    /// indexes of the logs that may come, and the logs that are known now. `late` answers for every
    /// log that can come into being, whether it is known or not, and for no other; `all` are the
    /// others.
    ///
    /// A broker that subscribed a pattern hands on such a log's events from the first one on, unless
    /// `of` named the log when `subscribe` returned.
    #[must_use]
    pub fn growing(
        all: impl Into<Arc<[LogId]>>,
        of: impl Fn(&Pattern) -> Vec<LogId> + Send + Sync + 'static,
        late: impl Fn(&LogId) -> Option<Late> + Send + Sync + 'static,
    ) -> Self {
        Self {
            late: Some(Arc::new(late)),
            ..Self::new(all, of)
        }
    }

    /// The logs that channels of `pattern` can live in, as far as they are known.
    pub fn of(&self, pattern: &Pattern) -> Vec<LogId> {
        (self.of)(pattern)
    }

    /// Every log of the backend that is there from the start.
    pub fn all(&self) -> &[LogId] {
        &self.all
    }

    /// How a log came into being, where it is one that can.
    pub fn late(&self, log: &LogId) -> Option<Late> {
        self.late.as_ref().and_then(|late| late(log))
    }

    /// Whether the backend has a log, or can come to have it.
    pub fn has(&self, log: &LogId) -> bool {
        self.all.contains(log) || self.late(log).is_some()
    }
}

impl fmt::Debug for LogMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter()).finish()
    }
}
