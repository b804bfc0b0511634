//! The intake of one partition: hands announcements on, in the log's order, and stops at a hole.
//!
//! It knows how far it has handed on. An announcement names the place of the channel's event before
//! it; where that lies beyond, something was missed. Then the intake stands still, announcements
//! queue, and the missing is read from the streams ([`super::heal`]) before it goes on. So it does
//! after every cut of the link.

use std::{collections::VecDeque, fmt, sync::Arc};

use fanfare_core::{
    BrokerMetrics, Channel, Epoch, Event, Gap, GapCause, Interest, LogId, Pattern, Position,
    feed::FeedBounds, history::MAX_GAPS,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    entry::{self, Entry},
    floors::Floors,
    names::Names,
    read::{Loss, Page},
    store::{Seen, Stand},
};
use crate::error::Failure;

/// The intake of one partition.
pub(crate) struct Intake {
    log: LogId,
    partition: usize,
    names: Arc<Names>,
    interest: Interest,
    metrics: BrokerMetrics,
    bounds: FeedBounds,
    state: Mutex<State>,
    /// Wakes whoever heals.
    pub(super) wake: Notify,
}

struct State {
    epoch: Epoch,
    /// Everything up to here was handed on, told as a gap, or is not followed.
    high: u64,
    seen: Seen,
    /// The run of the server at the other end of the link for subscriptions.
    run: Arc<str>,
    stage: Stage,
    /// Something may have been missed that the healing under way does not know of.
    again: bool,
    /// Followers of something missed what only a gap can tell.
    owed: bool,
    /// Why healing does not get on.
    failing: Option<Failure>,
    queue: VecDeque<Announced>,
    queued_bytes: usize,
    /// How many of the queue were there before the log's stand was last read.
    vetted: usize,
    floors: Floors,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Announcements are handed on as they come.
    Flowing,
    /// The link was cut; not everything is followed again.
    Cut,
    /// Something was missed.
    Healing,
}

/// An announcement.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) channel: Channel,
    pub(crate) epoch: Epoch,
    pub(crate) entry: Entry,
}

/// What an announcement is to the intake.
#[derive(PartialEq, Eq)]
enum Turn {
    /// It comes next.
    Next,
    /// It was handed on, or told, before.
    Known,
    /// Something before it was missed.
    Hole,
    /// It is of another epoch.
    Foreign,
}

/// How far a page brought the intake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Healed {
    /// There is more to read.
    More,
    /// It is where the log stood.
    Whole,
    /// What is lost ends beyond where the log stood: it must be read anew.
    Beyond,
}

/// What the queue held after healing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Drained {
    /// More than one step takes.
    More,
    /// Something else was missed.
    Again,
    /// Nothing more: the intake flows, or was cut again.
    Done,
}

/// A hold on a pattern in a partition. Dropping it lets go.
#[must_use = "dropping it lets go"]
pub(crate) struct FloorHold {
    intake: Arc<Intake>,
    pattern: Pattern,
}

/// How many announcements of the queue are handed on in one step.
const STEP: usize = 512;

impl Intake {
    pub(super) fn new(
        names: Arc<Names>,
        interest: Interest,
        metrics: BrokerMetrics,
        bounds: FeedBounds,
        log: LogId,
        partition: usize,
    ) -> Self {
        let nowhere = Seen {
            epoch: Epoch(0),
            offset: 0,
            run: "".into(),
        };
        Self {
            log,
            partition,
            names,
            interest,
            metrics,
            bounds,
            state: Mutex::new(State {
                epoch: nowhere.epoch,
                high: 0,
                seen: nowhere,
                run: "".into(),
                // Until `start`.
                stage: Stage::Cut,
                again: false,
                owed: false,
                failing: None,
                queue: VecDeque::new(),
                queued_bytes: 0,
                vetted: 0,
                floors: Floors::default(),
            }),
            wake: Notify::new(),
        }
    }

    /// Begins where the log stands.
    pub(super) fn start(&self, stand: &Stand) {
        let mut state = self.state.lock();
        state.see(stand.epoch, stand.offset, &stand.run);
        (state.epoch, state.high) = (stand.epoch, stand.offset);
        state.stage = Stage::Healing;
        self.wake.notify_one();
    }

    pub(super) fn linked(&self, run: &Arc<str>) {
        self.state.lock().run = run.clone();
    }

    /// The furthest place that this node has seen.
    pub(super) fn seen(&self) -> Seen {
        self.state.lock().seen.clone()
    }

    /// Notes where the log stands, as the server said.
    pub(super) fn saw(&self, epoch: Epoch, offset: u64, run: &Arc<str>) {
        let mut state = self.state.lock();
        state.see(epoch, offset, run);
        if epoch != state.epoch {
            // Followers must be told, even if nothing is announced.
            self.stop(&mut state);
        }
    }

    /// Why this node does not catch up with the log, where it tries and cannot.
    pub(super) fn failing(&self) -> Option<Failure> {
        self.state.lock().failing.clone()
    }

    pub(super) fn set_failing(&self, failure: Option<Failure>) {
        self.state.lock().failing = failure;
    }

    /// Takes an announcement.
    pub(super) fn take(&self, announced: Announced) {
        if !self.interest.follows(&announced.channel) {
            // A glob selects more than the pattern it was made of.
            return;
        }
        let mut state = self.state.lock();
        if announced.epoch == state.seen.epoch {
            let run = state.run.clone();
            state.see(announced.epoch, announced.entry.offset, &run);
        }
        if let Ok(envelope) = &announced.entry.content {
            // Another node's clock may be ahead of this one's.
            let lag = envelope.published_at.elapsed().unwrap_or_default();
            self.metrics.lag_seconds.observe(lag.as_secs_f64());
        }
        if state.stage == Stage::Flowing {
            match state.turn(&announced) {
                Turn::Next => return self.hand_on(&mut state, announced),
                Turn::Known => return,
                Turn::Hole | Turn::Foreign => self.stop(&mut state),
            }
        }
        let FeedBounds { items, bytes } = self.bounds;
        if state.queue.len() >= items || state.queued_bytes >= bytes {
            // All of it is in the streams.
            state.clear();
            state.again = true;
        }
        state.queued_bytes += announced.weight();
        state.queue.push_back(announced);
    }

    fn stop(&self, state: &mut State) {
        state.again = true;
        if state.stage == Stage::Flowing {
            state.stage = Stage::Healing;
        }
        self.wake.notify_one();
    }

    fn hand_on(&self, state: &mut State, announced: Announced) {
        let Announced { channel, entry, .. } = announced;
        match entry.content {
            Ok(envelope) => {
                let position = self.place(state, entry.offset);
                self.metrics.events.inc();
                let event = entry::event(channel, position, entry.previous, envelope);
                self.interest.offer(&event);
            }
            Err(reason) => {
                self.metrics.undeliverable(reason);
                let (scope, after) = (Pattern::from(&channel), Some(state.high));
                self.gap(state, scope, GapCause::Undeliverable, after, entry.offset);
            }
        }
        state.high = entry.offset;
    }

    fn gap(&self, state: &State, scope: Pattern, cause: GapCause, after: Option<u64>, next: u64) {
        self.metrics.gap(cause);
        self.interest.offer_gap(&Gap {
            scope,
            cause,
            after: after.map(|after| self.place(state, after)),
            next: self.place(state, next),
        });
    }

    fn place(&self, state: &State, offset: u64) -> Position {
        entry::place(&self.log, state.epoch, offset)
    }

    /// The link was cut: from here on, until everything is followed again, announcements queue.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock();
        state.stage = Stage::Cut;
        state.clear();
    }

    /// Everything is followed again: what came meanwhile is read.
    pub(super) fn whole(&self) {
        let mut state = self.state.lock();
        state.again = true;
        if state.stage == Stage::Cut {
            state.stage = Stage::Healing;
        }
        self.wake.notify_one();
    }

    /// Something is followed again that was not when the intake went on.
    pub(super) fn rejoined(&self) {
        let mut state = self.state.lock();
        state.owed = true;
        self.stop(&mut state);
    }

    /// Whether healing is due.
    pub(super) fn is_healing(&self) -> bool {
        self.state.lock().stage == Stage::Healing
    }

    /// Healing reads the log's stand next: what is known to be missed until now is covered.
    pub(super) fn vet(&self) {
        let mut state = self.state.lock();
        state.again = false;
        state.vetted = state.queue.len();
    }

    /// Whether a gap is owed that only a place of its own can end. It is no more.
    pub(super) fn take_owed(&self) -> bool {
        std::mem::take(&mut self.state.lock().owed)
    }

    /// A gap is owed after all.
    pub(super) fn owe(&self) {
        self.state.lock().owed = true;
    }

    /// Tells of another epoch, if it is another, and answers how far this one was handed on.
    pub(super) fn enter(&self, stand: &Stand) -> u64 {
        let mut state = self.state.lock();
        if state.epoch != stand.epoch {
            let after = self.place(&state, state.high);
            state.see(stand.epoch, stand.offset, &stand.run);
            (state.epoch, state.high) = (stand.epoch, stand.begin);
            self.metrics.gap(GapCause::NewEpoch);
            self.interest.offer_gap(&Gap {
                scope: Pattern::all(),
                cause: GapCause::NewEpoch,
                after: Some(after),
                next: self.place(&state, stand.begin),
            });
        }
        state.high
    }

    /// The patterns that are followed in this partition.
    pub(super) fn followed(&self) -> Vec<Pattern> {
        let patterns = self.interest.patterns().into_iter();
        let here = |pattern: &Pattern| self.names.partitions_of(pattern).contains(&self.partition);
        patterns.filter(here).collect()
    }

    /// Hands on what was missed, as far as a page goes.
    pub(super) fn heal(&self, stand: &Stand, page: Page) -> Healed {
        let mut state = self.state.lock();
        let floor = |scope: &Pattern| {
            let channel = scope.as_channel();
            channel.map_or(0, |channel| state.floors.of(&channel, state.epoch))
        };
        let owed = |loss: &Loss| loss.next > floor(&loss.scope);
        let losses: Vec<_> = page.losses.into_iter().filter(owed).collect();
        if losses.iter().any(|loss| loss.next > stand.offset) {
            return Healed::Beyond;
        }
        // What ends beyond this page is told by the next.
        let within = losses.into_iter().filter(|loss| loss.next <= page.upto);
        let losses = joined(within.collect());
        if losses.len() > MAX_GAPS {
            // Too many to tell each at its place: one over all that ends where the last one does.
            let next = losses
                .iter()
                .map(|loss| loss.next)
                .max()
                .unwrap_or_default();
            let (all, after) = (Pattern::all(), Some(state.high));
            self.gap(&state, all, GapCause::Evicted, after, next);
            state.high = next;
            return Healed::More;
        }
        let mut losses = losses.into_iter().peekable();
        for event in page.events {
            while let Some(loss) = losses.next_if(|loss| at(&event) >= loss.next) {
                self.gap(&state, loss.scope, loss.cause, Some(loss.after), loss.next);
            }
            self.heal_event(&mut state, &event);
        }
        for loss in losses {
            self.gap(&state, loss.scope, loss.cause, Some(loss.after), loss.next);
        }
        state.high = state.high.max(page.upto);
        if page.more {
            Healed::More
        } else {
            Healed::Whole
        }
    }

    fn heal_event(&self, state: &mut State, event: &Arc<Event>) {
        let offset = at(event);
        if offset <= state.high || offset <= state.floors.of(&event.channel, state.epoch) {
            return;
        }
        state.high = offset;
        if self.interest.offer(event) > 0 {
            self.metrics.events.inc();
            self.metrics.healed.inc();
        }
    }

    /// Tells everyone of a loss that ends where the log stands, a place taken for it.
    pub(super) fn tell(&self, cause: GapCause, stand: &Stand) {
        let mut state = self.state.lock();
        // What is followed again was missed since a cut that lies further back.
        let after = (cause != GapCause::Reconnected).then_some(state.high);
        self.gap(&state, Pattern::all(), cause, after, stand.offset);
        state.high = stand.offset;
    }

    /// Hands on a part of the queue, after healing.
    pub(super) fn drain(&self) -> Drained {
        let mut state = self.state.lock();
        if state.stage == Stage::Cut {
            return Drained::Done;
        }
        if state.again || state.owed {
            return Drained::Again;
        }
        for _ in 0..STEP {
            let Some(announced) = state.queue.pop_front() else {
                state.clear();
                state.stage = Stage::Flowing;
                return Drained::Done;
            };
            let turn = state.turn(&announced);
            // One of another epoch that came before the stand was read is of a log that is no more.
            let is_over = turn == Turn::Foreign && state.vetted > 0;
            if turn == Turn::Hole || turn == Turn::Foreign && !is_over {
                state.queue.push_front(announced);
                return Drained::Again;
            }
            state.vetted = state.vetted.saturating_sub(1);
            state.queued_bytes = state.queued_bytes.saturating_sub(announced.weight());
            if turn == Turn::Next {
                self.hand_on(&mut state, announced);
            }
        }
        Drained::More
    }

    /// Holds a pattern: from here on, what is known of its past counts.
    pub(super) fn hold(self: &Arc<Self>, pattern: &Pattern) -> FloorHold {
        self.state.lock().floors.hold(pattern);
        FloorHold {
            intake: self.clone(),
            pattern: pattern.clone(),
        }
    }
}

impl FloorHold {
    /// Whether it is not known yet since when the pattern is followed.
    pub(super) fn is_open(&self) -> bool {
        self.intake.state.lock().floors.is_open(&self.pattern)
    }

    /// Everything after this stand is owed to followers of the pattern.
    pub(super) fn set(&self, stand: &Stand) {
        let mut state = self.intake.state.lock();
        state.floors.set(&self.pattern, stand.epoch, stand.offset);
    }
}

impl Drop for FloorHold {
    fn drop(&mut self) {
        self.intake.state.lock().floors.let_go(&self.pattern);
    }
}

impl State {
    fn see(&mut self, epoch: Epoch, offset: u64, run: &Arc<str>) {
        if epoch != self.seen.epoch || offset >= self.seen.offset {
            self.seen = Seen {
                epoch,
                offset,
                run: run.clone(),
            };
        }
    }

    fn turn(&self, announced: &Announced) -> Turn {
        let (offset, previous) = (announced.entry.offset, announced.entry.previous.offset);
        if announced.epoch != self.epoch {
            Turn::Foreign
        } else if offset <= self.high {
            Turn::Known
        } else if previous > self.high && previous > self.floors.of(&announced.channel, self.epoch)
        {
            Turn::Hole
        } else {
            Turn::Next
        }
    }

    fn clear(&mut self) {
        self.queue = VecDeque::new();
        (self.queued_bytes, self.vetted) = (0, 0);
    }
}

impl Announced {
    fn weight(&self) -> usize {
        const FLAT: usize = 192;
        FLAT + self.entry.content.as_ref().map_or(0, |e| e.data.len())
    }
}

fn at(event: &Event) -> u64 {
    u64::try_from(event.position.offset.0).unwrap_or(u64::MAX)
}

/// In the order of their ends, each of which has one gap.
fn joined(mut losses: Vec<Loss>) -> Vec<Loss> {
    losses.sort_by_key(|loss| loss.next);
    losses.dedup_by(|loss, kept| {
        let same = loss.next == kept.next;
        if same && loss.scope != kept.scope {
            kept.scope = Pattern::all();
        }
        same
    });
    losses
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Intake")
            .field("log", &self.log)
            .field("stage", &state.stage)
            .field("high", &state.high)
            .field("queued", &state.queue.len())
            .field("floors", &state.floors.len())
            .finish_non_exhaustive()
    }
}
