//! The intake of one partition: hands announcements on, in the log's order, and stops at a hole.
//!
//! It knows how far it has handed on, and how far of each channel. An announcement names the place
//! of the channel's event before it; where that lies beyond, something was missed. Then the intake
//! stands still, announcements queue, and the missing is read from the streams ([`super::heal`])
//! before it goes on. So it does after every cut of the link.
//!
//! A link brings what the server announces in order, so what is missed shows before anything that
//! comes later on other channels is handed on. Should a link lose one announcement alone, it shows
//! too late to be handed on in the log's order: a cursor may lie behind it already. Then followers
//! of the channel get a gap.

mod healing;
mod places;
mod state;

use std::{fmt, sync::Arc};

use fanfare_core::{
    BrokerMetrics, Gap, GapCause, Interest, LogId, Pattern, Position, feed::FeedBounds,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::state::{Stage, State, Turn};
pub(super) use self::{
    healing::{Drained, Healed},
    state::Announced,
};
use super::{
    entry,
    names::Names,
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

/// A hold on a pattern in a partition. Dropping it lets go.
#[must_use = "dropping it lets go"]
pub(crate) struct FloorHold {
    intake: Arc<Intake>,
    pattern: Pattern,
}

impl Intake {
    pub(super) fn new(
        names: Arc<Names>,
        interest: Interest,
        metrics: BrokerMetrics,
        bounds: FeedBounds,
        log: LogId,
        partition: usize,
    ) -> Self {
        Self {
            log,
            partition,
            names,
            interest,
            metrics,
            bounds,
            // Until `start`.
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Begins where the log stands.
    pub(super) fn start(&self, stand: &Stand) {
        let mut state = self.state.lock();
        state.seen = stand.seen();
        (state.epoch, state.high) = (stand.epoch, stand.offset);
        state.places.restart(stand.offset);
        state.stage = Stage::Healing;
        self.wake.notify_one();
    }

    pub(super) fn linked(&self, run: &Arc<str>) {
        self.state.lock().run = run.clone();
    }

    /// The furthest place that this node has seen.
    pub(crate) fn seen(&self) -> Seen {
        self.state.lock().seen.clone()
    }

    /// Notes where the log stands, as the server said when it was told what this node had `seen`.
    pub(crate) fn saw(&self, seen: &Seen, now: Seen) {
        let mut state = self.state.lock();
        let is_other = now.epoch != state.epoch;
        let is_moved = now.epoch != seen.epoch;
        // Not covered by a new epoch is what was seen since the server was asked.
        if state.accept(seen, now) && is_other || is_moved || !state.strays.is_empty() {
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
        state.see(&announced);
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
                Turn::Late(after) => {
                    state.owe(Pattern::from(&announced.channel), Some(after));
                    self.stop(&mut state);
                }
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
        let known = channel.clone();
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
        state.advance(&known, entry.offset);
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

    /// The log has a hole: it is told with all else that was missed, in its place.
    pub(super) fn hole(&self) {
        self.stop(&mut self.state.lock());
    }

    /// Something is followed again that was not when the intake went on.
    pub(super) fn rejoined(&self) {
        let mut state = self.state.lock();
        // Since a cut that lies further back than what was handed on.
        state.owe(Pattern::all(), None);
        self.stop(&mut state);
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
        let mut state = self.intake.state.lock();
        state.floors.let_go(&self.pattern);
        if let Some(channel) = self.pattern.as_channel()
            && !state.floors.selects(&channel)
        {
            state.places.forget(&channel);
        }
    }
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
            .field("places", &state.places.len())
            .finish_non_exhaustive()
    }
}
