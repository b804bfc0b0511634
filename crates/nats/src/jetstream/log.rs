//! What this node knows of a stream: how far it has handed it on, and what it keeps of it.

mod life;

use std::sync::Arc;

use fanfare_core::{
    BrokerMetrics, Channel, Epoch, Event, Gap, GapCause, Interest, LogId, Pattern, Position, Store,
    Undeliverable,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    acked::Acks,
    complaint::Complaints,
    config::DurableConfig,
    mark::Mark,
    message::{Content, Entry},
    place::Place,
    ring::Ring,
    stream::Stream,
    wire::Trouble,
};

/// How much of a store is looked through at a time for what is too old.
const SWEEP: usize = 1024;

/// One stream as a log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: LogId,
    pub(super) stream: Arc<Stream>,
    pub(super) interest: Interest,
    pub(super) metrics: BrokerMetrics,
    pub(super) config: DurableConfig,
    pub(super) max_data_bytes: usize,
    state: Mutex<State>,
    /// How far it is.
    pub(super) stage: watch::Sender<Stage>,
    /// How many want it followed.
    pub(super) wanted: watch::Sender<usize>,
    /// Has the stream looked at anew.
    pub(super) kick: Notify,
    complaints: Complaints,
}

/// How far a log is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stage {
    /// Everything up to this sequence was handed on.
    pub(super) reached: u64,
    /// The life of the stream in which that is so, as its creation names it; `None` before the
    /// stream was seen.
    pub(super) born: Option<Epoch>,
    /// Whether messages flow.
    pub(super) flows: bool,
    /// Why they do not, where that was tried.
    pub(super) failing: Option<Trouble>,
}

#[derive(Debug)]
struct State {
    born: Option<Epoch>,
    epoch: Epoch,
    /// The newest mark that was taken up. It names the epoch.
    mark: Option<Mark>,
    /// A newer one that stands in the stream, behind the newest message.
    ahead: Option<Mark>,
    /// The newest message.
    head: Place,
    /// Whether it was followed ever.
    began: bool,
    /// Everything up to there is handed on, or will never be: nobody followed, or it was told.
    reached: u64,
    /// Events up to there are kept and not handed on: nobody followed when they came.
    silent: u64,
    ring: Ring,
    store: Store,
    /// The store has seen all messages after this sequence.
    floor: u64,
    /// The stream's first sequence, and how many behind it hold nothing, when that was looked at.
    bounds: (u64, u64),
    acks: Acks,
    /// How often a feed was attached, and whether it is.
    feeds: (u64, bool),
}

/// A hold on a log: it is followed as long as there is one, and a little longer. Dropping it lets
/// go.
#[derive(Debug)]
pub(super) struct Want(Arc<Log>);

impl Drop for Want {
    fn drop(&mut self) {
        self.0.wanted.send_modify(|wanted| *wanted -= 1);
    }
}

impl Log {
    pub(super) fn new(
        id: LogId,
        stream: Stream,
        interest: Interest,
        config: DurableConfig,
        max_data_bytes: usize,
    ) -> Self {
        let metrics = stream.wire.metrics.clone();
        let start = Position {
            log: id.clone(),
            epoch: Epoch(0),
            offset: Place::default().offset(),
        };
        Self {
            state: Mutex::new(State {
                born: None,
                epoch: Epoch(0),
                mark: None,
                ahead: None,
                head: Place::default(),
                began: false,
                reached: 0,
                silent: 0,
                ring: Ring::after(0, config.checked_messages),
                store: Store::new(start, config.store.clone(), metrics.clone()),
                floor: 0,
                bounds: (0, 0),
                acks: Acks::default(),
                feeds: (0, false),
            }),
            id,
            stream: Arc::new(stream),
            interest,
            metrics,
            config,
            max_data_bytes,
            stage: watch::Sender::new(Stage {
                reached: 0,
                born: None,
                flows: false,
                failing: None,
            }),
            wanted: watch::Sender::new(0),
            kick: Notify::new(),
            complaints: Complaints::default(),
        }
    }

    /// Wants it followed.
    pub(super) fn want(self: &Arc<Self>) -> Want {
        self.wanted.send_modify(|wanted| *wanted += 1);
        Want(self.clone())
    }

    /// A place in the life of the stream that is followed now.
    pub(super) fn position(&self, place: Place) -> Position {
        self.at(self.state.lock().epoch, place)
    }

    fn at(&self, epoch: Epoch, place: Place) -> Position {
        Position {
            log: self.id.clone(),
            epoch,
            offset: place.offset(),
        }
    }

    /// Where it stands.
    pub(super) fn standing(&self) -> Standing {
        let state = self.state.lock();
        Standing {
            born: state.born,
            epoch: state.epoch,
            mark: state.mark,
            began: state.began,
            head: state.head,
            reached: state.reached,
            ring_first: state.ring.first(),
        }
    }

    /// The check of the message at a sequence, zero where none stood, as far as this node knows.
    pub(super) fn checked(&self, seq: u64) -> Option<u32> {
        self.state.lock().ring.get(seq)
    }

    /// Looks at what is kept.
    pub(super) fn kept<R>(&self, look: impl FnOnce(&Store, u64) -> R) -> R {
        let state = self.state.lock();
        look(&state.store, state.floor)
    }

    fn gap(
        &self,
        state: &mut State,
        scope: Pattern,
        cause: GapCause,
        after: Option<Position>,
        next: Position,
    ) {
        self.metrics.gap(cause);
        let gap = Gap {
            scope,
            cause,
            after,
            next,
        };
        // Under the lock: the store and the inlets see the same order.
        self.interest.offer_gap(&gap);
        state.store.push_gap(gap);
    }

    /// Takes the next message. `doubt` says that the newest one that was taken is gone, so that others
    /// behind it may be.
    pub(super) fn take(&self, entry: Entry, doubt: bool) {
        self.metrics.events.inc();
        let mut state = self.state.lock();
        let here = entry.place;
        self.cross(&mut state, &entry);
        if doubt || here.seq > state.head.seq + 1 {
            self.hole(&mut state, here);
        }
        let loud = here.seq > state.silent;
        let position = self.at(state.epoch, here);
        match &entry.content {
            Content::Nothing | Content::Mark(_) => {}
            Content::Nameless(why) => {
                // Nobody can follow a channel without a name: no gap would reach the right ones.
                self.metrics.undeliverable(Undeliverable::BadChannel);
                self.complaints.of(entry.subject(), &why.to_string());
            }
            Content::Of(channel) => {
                let channel = channel.clone();
                self.place(&mut state, entry, channel, position, loud);
            }
        }
        state.ring.push(here);
        state.acks.seen(here);
        state.head = here;
        state.reached = state.reached.max(here.seq);
        state.store.advance(here.offset());
        self.tell_stage(&state);
    }

    fn place(
        &self,
        state: &mut State,
        entry: Entry,
        channel: Channel,
        position: Position,
        loud: bool,
    ) {
        let subjects = &self.stream.subjects;
        let subject = entry.subject().to_owned();
        match entry.event(
            channel.clone(),
            position.clone(),
            subjects,
            self.max_data_bytes,
        ) {
            Ok(event) => {
                let event = Arc::new(event);
                state.store.push(event.clone(), Instant::now());
                if loud {
                    self.hand_on(&event);
                }
            }
            Err(reason) => {
                let after = Some(self.at(state.epoch, state.head));
                let scope = Pattern::from(&channel);
                if loud {
                    self.metrics.undeliverable(reason);
                    self.complaints.of(subject.as_str(), &format!("{reason:?}"));
                    self.gap(state, scope, GapCause::Undeliverable, after, position);
                } else {
                    state.store.push_gap(Gap {
                        scope,
                        cause: GapCause::Undeliverable,
                        after,
                        next: position,
                    });
                }
            }
        }
    }

    fn hand_on(&self, event: &Arc<Event>) {
        // Clocks of two machines differ: what seems to come from the future took no time.
        let lag = event.published_at.elapsed().unwrap_or_default();
        self.metrics.lag_seconds.observe(lag.as_secs_f64());
        self.interest.offer(event);
    }

    /// Messages before `here` were gone before they came: nobody knows whose they were.
    fn hole(&self, state: &mut State, here: Place) {
        let silent = state.silent;
        if here.seq <= silent || (state.head.seq < silent && here.seq == silent + 1) {
            // Nobody followed. What is kept begins anew.
            state.floor = here.seq - 1;
            return;
        }
        let (epoch, head) = (state.epoch, state.head);
        let mut next = self.at(epoch, here);
        next.offset = next.offset.before();
        let after = Some(self.at(epoch, head));
        self.gap(state, Pattern::all(), GapCause::Evicted, after, next);
    }

    /// Whether the stream was seen with these bounds; notes that it was.
    pub(super) fn knows_bounds(&self, first_seq: u64, deleted: u64) -> bool {
        let mut state = self.state.lock();
        std::mem::replace(&mut state.bounds, (first_seq, deleted)) == (first_seq, deleted)
    }

    /// Forgets what the stream does not hold any more: what stands before `first_seq`, and these
    /// sequences.
    pub(super) fn forget(&self, first_seq: u64, deleted: &[u64]) {
        let place = |seq, check| Place { seq, check }.offset();
        let mut state = self.state.lock();
        state.store.purge_before(place(first_seq, 0));
        for seq in deleted {
            state
                .store
                .purge_range(place(*seq, 0)..=place(*seq, u32::MAX));
        }
    }

    /// Nothing more waits: everything up to `seq` is handed on.
    pub(super) fn reached(&self, seq: u64) {
        let mut state = self.state.lock();
        state.reached = state.reached.max(seq);
        self.cross_gone(&mut state);
        self.tell_stage(&state);
    }

    fn tell_stage(&self, state: &State) {
        self.stage.send_modify(|stage| {
            stage.reached = state.reached;
            stage.born = state.born.filter(|_| state.began);
        });
    }

    pub(super) fn flows(&self, flows: bool) {
        self.stage.send_modify(|stage| {
            stage.flows = flows;
            if flows {
                stage.failing = None;
            }
        });
    }

    pub(super) fn fails(&self, trouble: Trouble) {
        self.stage
            .send_modify(|stage| stage.failing = Some(trouble));
    }

    /// Takes away what is too old.
    pub(super) fn sweep(&self) {
        let mut state = self.state.lock();
        let follows = |channel: &Channel| self.interest.follows(channel);
        state.store.sweep(Instant::now(), SWEEP, follows);
    }
}

/// Where a log stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) born: Option<Epoch>,
    pub(super) epoch: Epoch,
    pub(super) mark: Option<Mark>,
    pub(super) began: bool,
    pub(super) head: Place,
    pub(super) reached: u64,
    pub(super) ring_first: u64,
}
