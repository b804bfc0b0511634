//! Where messages become events: the one place that mints offsets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_nats::Message;
use fanfare_core::{
    BrokerMetrics, Channel, Data, Epoch, Event, Gap, GapCause, IdempotencyKey, Interest, Keys,
    Live, LogId, Offset, Pattern, Position, Undeliverable,
};
use parking_lot::Mutex;

use crate::{
    envelope::{self, Envelope, Names},
    subjects::Subjects,
};

/// How often the log may say that messages are lost.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How often names that are no channel names may make a gap for everybody.
const NAMELESS_EVERY: Duration = Duration::from_secs(1);

/// Places what arrives and offers it.
///
/// Only the link's reader calls what mints; so minting and offering are one step, and events reach
/// every inlet in offset order.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) interest: Interest,
    start: Position,
    /// The newest offset that was minted. Others read it.
    head: AtomicU64,
    subjects: Arc<Subjects>,
    max_data_bytes: usize,
    /// Of messages with a key.
    keys: Mutex<Keys>,
    metrics: BrokerMetrics,
    trouble: Mutex<Trouble>,
}

/// A loss that is to be told.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) cause: GapCause,
    /// The newest place when it was noticed: nothing was lost before.
    pub(crate) after: Position,
}

/// What is told less often than it happens.
#[derive(Debug, Default)]
struct Trouble {
    warned: Option<Instant>,
    unwarned: u64,
    /// The last gap for names that are no channel names, and whether another is owed.
    nameless: Option<Instant>,
    owed: bool,
}

impl Intake {
    pub(crate) fn new(
        log: LogId,
        interest: Interest,
        subjects: Arc<Subjects>,
        max_data_bytes: usize,
        keys: Keys,
        metrics: BrokerMetrics,
    ) -> Self {
        Self {
            interest,
            start: Position {
                log,
                epoch: Epoch(fastrand::u64(..)),
                offset: Offset::ZERO,
            },
            head: AtomicU64::new(0),
            subjects,
            max_data_bytes,
            keys: Mutex::new(keys),
            metrics,
            trouble: Mutex::default(),
        }
    }

    /// The newest place of the log.
    pub(crate) fn head(&self) -> Position {
        let head = self.head.load(Ordering::Acquire);
        self.start.at(Offset(head.into()))
    }

    fn mint(&self) -> Position {
        let offset = self.head.fetch_add(1, Ordering::AcqRel) + 1;
        self.start.at(Offset(offset.into()))
    }

    /// Takes a message.
    pub(crate) fn message(&self, message: Message) {
        self.metrics.events.inc();
        let Some((channel, names)) = self.channel(&message.subject) else {
            return;
        };
        if message.payload.len() > self.max_data_bytes {
            return self.undeliverable(Undeliverable::TooLarge, &channel);
        }
        let read = envelope::decode(message.headers.as_ref(), names);
        let (envelope, data) = match (read, Data::copied(&message.payload)) {
            (Ok(envelope), Ok(data)) => (envelope, data),
            (Err(reason), _) => return self.undeliverable(reason, &channel),
            (_, Err(_)) => return self.undeliverable(Undeliverable::NotUtf8, &channel),
        };
        if let Some(key) = &envelope.key
            && self.is_known(&channel, key)
        {
            return;
        }
        self.event(channel, envelope, data);
    }

    fn is_known(&self, channel: &Channel, key: &IdempotencyKey) -> bool {
        let name = (channel.clone(), key.clone());
        let now = tokio::time::Instant::now();
        self.keys.lock().get(&name, now).is_some()
    }

    fn event(&self, channel: Channel, envelope: Envelope, data: Data) {
        let now = SystemTime::now();
        if let Some(at) = envelope.published_at {
            // Clocks of two machines differ: what seems to come from the future took no time.
            let lag = now.duration_since(at).unwrap_or_default();
            self.metrics.lag_seconds.observe(lag.as_secs_f64());
        }
        let position = self.mint();
        if let Some(key) = envelope.key {
            let now = tokio::time::Instant::now();
            let name = (channel.clone(), key);
            self.keys.lock().insert(name, position.offset, now);
        }
        let event = Event {
            channel,
            position,
            // The bus sends no more than is followed, so nobody knows what came before.
            previous: None,
            event_type: envelope.event_type,
            data,
            tags: envelope.tags,
            published_at: envelope.published_at.unwrap_or(now),
        };
        self.interest.offer(&Arc::new(event));
    }

    /// The channel of a subject, and which headers say what there.
    fn channel(&self, subject: &str) -> Option<(Channel, &Names)> {
        // A subscription may select more than its rule does.
        let reading = self.subjects.read(subject)?;
        match reading.channel {
            Ok(channel) => Some((channel, reading.names)),
            Err(_) => {
                self.nameless();
                None
            }
        }
    }

    fn undeliverable(&self, reason: Undeliverable, channel: &Channel) {
        self.metrics.undeliverable(reason);
        self.warn(&format!("a message cannot be delivered: {reason:?}"));
        self.gap(self.loss(GapCause::Undeliverable), channel.into());
    }

    /// A name that is no channel name: whoever follows a pattern may have meant it, so the gap is
    /// for everybody, and therefore rare.
    fn nameless(&self) {
        self.metrics.undeliverable(Undeliverable::BadChannel);
        self.warn("a subject gives no channel name");
        self.trouble.lock().owed = true;
        self.settle(Instant::now());
    }

    /// Tells what is owed and due, and forgets what is old.
    pub(crate) fn settle(&self, now: Instant) {
        self.keys.lock().expire(now.into());
        let mut trouble = self.trouble.lock();
        let recent = |at: Instant| now.saturating_duration_since(at) < NAMELESS_EVERY;
        if !trouble.owed || trouble.nameless.is_some_and(recent) {
            return;
        }
        trouble.owed = false;
        trouble.nameless = Some(now);
        drop(trouble);
        self.gap(self.loss(GapCause::Undeliverable), Pattern::all());
    }

    /// Logs `what`, now and then.
    pub(crate) fn warn(&self, what: &str) {
        let mut trouble = self.trouble.lock();
        if trouble.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            trouble.unwarned += 1;
            return;
        }
        trouble.warned = Some(Instant::now());
        let unwarned = std::mem::take(&mut trouble.unwarned);
        drop(trouble);
        tracing::warn!(unwarned, "{what}");
    }

    /// A loss that is noticed now.
    pub(crate) fn loss(&self, cause: GapCause) -> Loss {
        let after = self.head();
        Loss { cause, after }
    }

    /// Announces a loss up to now.
    pub(crate) fn gap(&self, loss: Loss, scope: Pattern) {
        self.metrics.gap(loss.cause);
        self.interest.offer_gap(&Gap {
            scope,
            cause: loss.cause,
            after: Some(loss.after),
            next: self.mint(),
        });
    }

    /// What history answers to someone who was at `place`: this log keeps nothing.
    pub(crate) fn missed_since(&self, place: Position, scope: Pattern) -> Option<Live> {
        let head = self.head();
        let cause = match head.is_after(&place) {
            Some(false) if place == head => return None,
            Some(true) => GapCause::Evicted,
            _ => GapCause::NewEpoch,
        };
        Some(Live::Gap(Gap {
            scope,
            cause,
            after: Some(place),
            next: head,
        }))
    }
}
