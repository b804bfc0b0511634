//! What arrives: the one reader, which makes events of messages and gives them their places.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use fanfare_core::{
    BrokerMetrics, Channel, Data, Event, Gap, GapCause, Interest, InvalidChannel, Pattern,
    Position, Tags, Undeliverable,
};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};

use crate::{
    envelope::{self, Envelope},
    error::BACKEND,
    overlap::Overlap,
    probe::Probes,
    routes::{Arrival, Routes},
};

/// How often at most a log line tells of undeliverable messages.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);
/// How much of a name a log line shows, in characters.
const SHOWN_CHARS: usize = 100;

/// Makes events of messages, in the order of their arrival.
///
/// It runs inside the task that reads the socket and never waits: what it cannot hand on goes into
/// a gap at the inlet. So nothing queues in between, and order needs no further care.
pub(crate) struct Reader {
    routes: Arc<Routes>,
    interest: Interest,
    probes: Arc<Probes>,
    metrics: BrokerMetrics,
    max_data_bytes: usize,
    state: Mutex<State>,
    pushes: AtomicU64,
}

struct State {
    /// Which link is read. What a link before it still brings is not.
    link: u64,
    head: Position,
    overlap: Overlap,
    complained: Option<Instant>,
    /// Since the last log line.
    unsaid: u64,
}

impl Reader {
    pub(crate) fn new(
        routes: Arc<Routes>,
        interest: Interest,
        probes: Arc<Probes>,
        metrics: BrokerMetrics,
        max_data_bytes: usize,
        start: Position,
    ) -> Self {
        Self {
            routes,
            interest,
            probes,
            metrics,
            max_data_bytes,
            state: Mutex::new(State {
                link: 0,
                head: start,
                overlap: Overlap::default(),
                complained: None,
                unsaid: 0,
            }),
            pushes: AtomicU64::new(0),
        }
    }

    /// From here on another link is read. Answers its number.
    pub(crate) fn next_link(&self) -> u64 {
        let mut state = self.state.lock();
        state.link += 1;
        state.overlap.reset();
        state.link
    }

    /// The newest place of the log.
    pub(crate) fn head(&self) -> Position {
        self.state.lock().head.clone()
    }

    /// How many messages of any kind have come: while this moves, the link is alive.
    pub(crate) fn pushes(&self) -> u64 {
        self.pushes.load(Ordering::Relaxed)
    }

    /// Tells everyone of a loss over all channels that began after a place, where it is known, and
    /// ends here.
    pub(crate) fn lost_all(&self, cause: GapCause, after: Option<Position>) {
        let mut state = self.state.lock();
        self.gap(&mut state, Pattern::all(), cause, after);
    }

    /// Takes a place without an event: from here on the node follows something that it did not
    /// follow before, and a cursor from before must not pass for one from now.
    pub(crate) fn begin(&self) {
        self.state.lock().mint();
    }

    /// Takes a message of a link.
    pub(crate) fn take(&self, link: u64, push: PushInfo) {
        let mut state = self.state.lock();
        if state.link != link {
            return;
        }
        self.pushes.fetch_add(1, Ordering::Relaxed);
        let mut data = push.data.into_iter();
        let glob = match push.kind {
            PushKind::Message => None,
            PushKind::PMessage => match data.next() {
                Some(Value::BulkString(glob)) => Some(glob),
                _ => return,
            },
            // Our subscriptions are others from here on.
            PushKind::Subscribe
            | PushKind::PSubscribe
            | PushKind::Unsubscribe
            | PushKind::PUnsubscribe => return state.overlap.reset(),
            _ => return,
        };
        let (Some(Value::BulkString(name)), Some(Value::BulkString(message))) =
            (data.next(), data.next())
        else {
            return;
        };
        if !state.overlap.is_copy(&name, glob) {
            self.arrived(&mut state, &name, message.into());
        }
    }

    fn arrived(&self, state: &mut State, name: &[u8], message: Bytes) {
        let (channel, own) = match self.routes.arrival(name) {
            Arrival::Own(channel) => (channel, true),
            Arrival::Raw(channel) => (channel, false),
            Arrival::Probe(name) => return self.probes.back(name, &message),
            Arrival::Other => return,
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(why) => return self.nameless(state, name, why),
        };
        if !self.interest.follows(&channel) {
            // A glob selects more than the pattern it was made of.
            return;
        }
        let now = SystemTime::now();
        match self.open(message, own, now) {
            Ok(envelope) => self.place(state, channel, envelope),
            Err(reason) => self.undeliverable(state, name, channel, reason),
        }
    }

    fn open(&self, message: Bytes, own: bool, now: SystemTime) -> Result<Envelope, Undeliverable> {
        let head = if own { envelope::MAX_HEAD_BYTES + 1 } else { 0 };
        if message.len() > self.max_data_bytes + head {
            return Err(Undeliverable::TooLarge);
        }
        let envelope = if own {
            let envelope = envelope::decode(&message)?;
            // Another node's clock may be ahead of this one's.
            let lag = now
                .duration_since(envelope.published_at)
                .unwrap_or_default();
            self.metrics.lag_seconds.observe(lag.as_secs_f64());
            envelope
        } else {
            Envelope {
                event_type: None,
                tags: Tags::default(),
                published_at: now,
                data: Data::parse(message).map_err(|_| Undeliverable::NotUtf8)?,
            }
        };
        if envelope.data.len() > self.max_data_bytes {
            return Err(Undeliverable::TooLarge);
        }
        Ok(envelope)
    }

    fn place(&self, state: &mut State, channel: Channel, envelope: Envelope) {
        self.metrics.events.inc();
        self.interest.offer(&Arc::new(Event {
            channel,
            position: state.mint(),
            // Pub/sub does not count what stands on a channel.
            previous: None,
            event_type: envelope.event_type,
            data: envelope.data,
            tags: envelope.tags,
            published_at: envelope.published_at,
        }));
    }

    fn undeliverable(
        &self,
        state: &mut State,
        name: &[u8],
        channel: Channel,
        reason: Undeliverable,
    ) {
        self.metrics.undeliverable(reason);
        state.complain(name, &format!("{reason:?}"));
        let after = Some(state.head.clone());
        self.gap(state, channel.into(), GapCause::Undeliverable, after);
    }

    /// There is no channel to tell of the loss.
    fn nameless(&self, state: &mut State, name: &[u8], why: InvalidChannel) {
        self.metrics.undeliverable(Undeliverable::BadChannel);
        state.complain(name, &format!("the channel name {why}"));
    }

    fn gap(&self, state: &mut State, scope: Pattern, cause: GapCause, after: Option<Position>) {
        self.metrics.gap(cause);
        self.interest.offer_gap(&Gap {
            scope,
            cause,
            after,
            next: state.mint(),
        });
    }
}

impl State {
    /// The next place.
    fn mint(&mut self) -> Position {
        self.head.offset.0 += 1;
        self.head.clone()
    }

    /// One log line in a while, however many there are: publishers must not fill the log.
    fn complain(&mut self, name: &[u8], why: &str) {
        self.unsaid += 1;
        let now = Instant::now();
        if self
            .complained
            .is_some_and(|last| now - last < COMPLAIN_EVERY)
        {
            return;
        }
        let text: Cow<'_, str> = String::from_utf8_lossy(name);
        let shown: String = text.chars().take(SHOWN_CHARS).collect();
        let count = std::mem::take(&mut self.unsaid);
        tracing::warn!(backend = BACKEND, name = ?shown, why, count, "undeliverable messages");
        self.complained = Some(now);
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}
