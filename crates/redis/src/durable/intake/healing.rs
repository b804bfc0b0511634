//! How an intake takes what was missed: it is read elsewhere ([`super::super::heal`]) and handed on
//! here.

use std::sync::Arc;

use fanfare_core::{Event, Gap, GapCause, Pattern, history::MAX_GAPS};

use super::{
    super::{
        entry,
        read::{Loss, Page},
        store::{Seen, Stand},
    },
    Intake,
    state::{Owed, Stage, State, Turn},
};

/// How many announcements of the queue are handed on in one step.
const STEP: usize = 512;

/// How far a page brought the intake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::durable) enum Healed {
    /// There is more to read.
    More,
    /// It is where the log stood.
    Whole,
    /// What is lost ends beyond where the log stood: it must be read anew.
    Beyond,
}

/// What the queue held after healing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::durable) enum Drained {
    /// More than one step takes.
    More,
    /// Something else was missed.
    Again,
    /// Nothing more: the intake flows, or was cut again.
    Done,
}

impl Intake {
    /// The same while healing, which tells followers itself. Answers whether the server's word
    /// covers all that this node has seen.
    pub(in crate::durable) fn verified(&self, seen: &Seen, now: Seen) -> bool {
        self.state.lock().accept(seen, now)
    }

    /// What was seen elsewhere than where this node is, and must be compared.
    pub(in crate::durable) fn strays(&self) -> Vec<Seen> {
        self.state.lock().strays.clone()
    }

    /// A script has compared it, on this run of a server. Its own server has what was seen there,
    /// which says nothing where this node is at another one.
    pub(in crate::durable) fn settle(&self, stray: &Seen, run: &Arc<str>) {
        let mut state = self.state.lock();
        if *run != stray.run || *run == state.seen.run {
            state.strays.retain(|held| held != stray);
        }
    }

    /// Whether healing is due.
    pub(in crate::durable) fn is_healing(&self) -> bool {
        self.state.lock().stage == Stage::Healing
    }

    /// Healing reads the log's stand next: what is known to be missed until now is covered.
    pub(in crate::durable) fn vet(&self) {
        let mut state = self.state.lock();
        state.again = false;
        state.vetted = state.queue.len();
    }

    /// Whether a gap is owed that only a place of its own can end.
    pub(in crate::durable) fn owes(&self) -> bool {
        self.state.lock().owed.is_some()
    }

    /// Tells of another epoch, if it is another, and answers how far this one was handed on.
    pub(in crate::durable) fn enter(&self, stand: &Stand) -> u64 {
        let mut state = self.state.lock();
        if state.epoch != stand.epoch {
            let whole = stand.whole(state.epoch, state.high);
            let after = whole.map(|(epoch, offset)| entry::place(&self.log, epoch, offset));
            (state.epoch, state.high) = (stand.epoch, stand.begin);
            state.places.restart(stand.begin);
            self.metrics.gap(GapCause::NewEpoch);
            self.interest.offer_gap(&Gap {
                scope: Pattern::all(),
                cause: GapCause::NewEpoch,
                after,
                next: self.place(&state, stand.begin),
            });
        }
        state.high
    }

    /// The patterns that are followed in this partition.
    pub(in crate::durable) fn followed(&self) -> Vec<Pattern> {
        let patterns = self.interest.patterns().into_iter();
        let here = |pattern: &Pattern| self.names.partitions_of(pattern).contains(&self.partition);
        patterns.filter(here).collect()
    }

    /// Hands on what was missed, as far as a page goes.
    pub(in crate::durable) fn heal(&self, stand: &Stand, page: Page) -> Healed {
        let is_hole = |loss: &Loss| loss.cause == GapCause::Reconnected;
        let has_hole = page.losses.iter().any(is_hole);
        let followed = if has_hole {
            self.followed()
        } else {
            Vec::new()
        };
        let mut state = self.state.lock();
        let epoch = state.epoch;
        let lowest = state.floors.lowest(&followed, epoch);
        let floor = |loss: &Loss| match loss.scope.as_channel() {
            Some(channel) => state.floors.of(&channel, epoch),
            // A hole is in all that is followed.
            None if is_hole(loss) => lowest,
            None => 0,
        };
        let owed = |loss: &Loss| loss.next > floor(loss);
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
            state.cover(next);
            return Healed::More;
        }
        let mut losses = losses.into_iter().peekable();
        for event in page.events {
            while let Some(loss) = losses.next_if(|loss| at(&event) >= loss.next) {
                self.lose(&mut state, loss);
            }
            self.heal_event(&mut state, &event);
        }
        for loss in losses {
            self.lose(&mut state, loss);
        }
        state.high = state.high.max(page.upto);
        if page.more {
            Healed::More
        } else {
            Healed::Whole
        }
    }

    /// Tells of a loss. What its channels name as predecessors up to its end is told with it.
    fn lose(&self, state: &mut State, loss: Loss) {
        let Loss {
            scope,
            cause,
            after,
            next,
        } = loss;
        let after = match scope.as_channel() {
            Some(channel) => {
                let whole = state.places.of(&channel);
                state.mark(&channel, next);
                after.min(whole)
            }
            None => {
                state.places.cover(next);
                after
            }
        };
        self.gap(state, scope, cause, Some(after), next);
    }

    fn heal_event(&self, state: &mut State, event: &Arc<Event>) {
        let offset = at(event);
        if offset <= state.high || offset <= state.floors.of(&event.channel, state.epoch) {
            return;
        }
        let previous = event.previous.map_or(0, |previous| narrow(previous.0));
        if let Some(after) = state.missed(&event.channel, previous) {
            // Missed among what was handed on before healing began.
            state.owe(Pattern::from(&event.channel), Some(after));
        }
        state.advance(&event.channel, offset);
        if self.interest.offer(event) > 0 {
            self.metrics.events.inc();
            self.metrics.healed.inc();
        }
    }

    /// Tells of what is owed, which ends where the log stands, a place taken for it.
    pub(in crate::durable) fn tell_owed(&self, stand: &Stand) {
        let mut state = self.state.lock();
        if let Some(Owed { scope, after }) = state.owed.take() {
            let cause = GapCause::Reconnected;
            if scope == Pattern::all() {
                state.cover(stand.offset);
            }
            self.gap(&state, scope, cause, after, stand.offset);
        }
        state.high = state.high.max(stand.offset);
    }

    /// Tells everyone of a loss of what was not handed on, which ends where the log stands, a place
    /// taken for it.
    pub(in crate::durable) fn tell_lost(&self, stand: &Stand) {
        let mut state = self.state.lock();
        let after = match state.owed.take() {
            Some(owed) => owed.after,
            None => Some(state.high),
        };
        self.gap(
            &state,
            Pattern::all(),
            GapCause::Evicted,
            after,
            stand.offset,
        );
        state.cover(stand.offset);
    }

    /// Hands on a part of the queue, after healing.
    pub(in crate::durable) fn drain(&self) -> Drained {
        let mut state = self.state.lock();
        if state.stage == Stage::Cut {
            return Drained::Done;
        }
        if state.again || state.owed.is_some() {
            return Drained::Again;
        }
        for _ in 0..STEP {
            let Some(announced) = state.queue.pop_front() else {
                state.clear();
                state.stage = Stage::Flowing;
                return Drained::Done;
            };
            let turn = state.turn(&announced);
            if let Turn::Late(after) = turn {
                state.owe(Pattern::from(&announced.channel), Some(after));
                state.queue.push_front(announced);
                return Drained::Again;
            }
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
}

fn at(event: &Event) -> u64 {
    narrow(event.position.offset.0)
}

/// A partition counts in 64 bits.
fn narrow(offset: u128) -> u64 {
    u64::try_from(offset).unwrap_or(u64::MAX)
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
