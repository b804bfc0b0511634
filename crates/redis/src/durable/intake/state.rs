//! What an intake knows, and what follows from it for an announcement.

use std::{collections::VecDeque, sync::Arc};

use fanfare_core::{Channel, Epoch, Pattern};

use super::{
    super::{entry::Entry, floors::Floors, store::Seen},
    places::Places,
};
use crate::error::Failure;

/// The most servers and epochs, beside the one where a node is, of which it remembers how far it saw.
const MAX_STRAYS: usize = 8;

/// What an intake knows.
pub(super) struct State {
    pub(super) epoch: Epoch,
    /// Everything up to here was handed on, told as a gap, or is not followed.
    pub(super) high: u64,
    pub(super) seen: Seen,
    /// What was seen on servers or of epochs that this node is not at, and no script has compared
    /// yet: the furthest of each, oldest first.
    pub(super) strays: Vec<Seen>,
    /// The run of the server at the other end of the link for subscriptions.
    pub(super) run: Arc<str>,
    pub(super) stage: Stage,
    /// Something may have been missed that the healing under way does not know of.
    pub(super) again: bool,
    /// Followers missed what only a gap can tell.
    pub(super) owed: Option<Owed>,
    /// Why healing does not get on.
    pub(super) failing: Option<Failure>,
    pub(super) queue: VecDeque<Announced>,
    pub(super) queued_bytes: usize,
    /// How many of the queue were there before the log's stand was last read.
    pub(super) vetted: usize,
    pub(super) floors: Floors,
    pub(super) places: Places,
}

/// A gap that is owed. It ends at a place of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owed {
    pub(super) scope: Pattern,
    /// The last place before the loss; `None` where it is not known.
    pub(super) after: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
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
pub(super) enum Turn {
    /// It comes next.
    Next,
    /// It was handed on, or told, before.
    Known,
    /// Something before it was missed, which can be read before it is handed on.
    Hole,
    /// Something of its channel was missed after this place, and what came later on other channels
    /// was handed on.
    Late(u64),
    /// It is of another epoch.
    Foreign,
}

impl Default for State {
    /// Nowhere, and cut off.
    fn default() -> Self {
        let nowhere = Seen {
            epoch: Epoch(0),
            offset: 0,
            run: "".into(),
        };
        Self {
            epoch: nowhere.epoch,
            high: 0,
            seen: nowhere,
            strays: Vec::new(),
            run: "".into(),
            stage: Stage::Cut,
            again: false,
            owed: None,
            failing: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            vetted: 0,
            floors: Floors::default(),
            places: Places::default(),
        }
    }
}

impl State {
    pub(super) fn see(&mut self, announced: &Announced) {
        let (epoch, offset) = (announced.epoch, announced.entry.offset);
        if epoch == self.seen.epoch && self.run == self.seen.run {
            self.seen.offset = self.seen.offset.max(offset);
        } else {
            // What another server announces may stand on less than what was seen: the script must
            // compare that first.
            let run = self.run.clone();
            self.stray(Seen { epoch, offset, run });
        }
    }

    /// Takes a server's word, given on what was `seen`. Answers whether it covers what is seen now.
    pub(super) fn accept(&mut self, seen: &Seen, now: Seen) -> bool {
        if now.epoch == self.seen.epoch && now.run == self.seen.run {
            self.seen.offset = self.seen.offset.max(now.offset);
            return true;
        }
        let is_covered = *seen == self.seen;
        if is_covered {
            self.seen = now;
        } else {
            self.stray(now);
        }
        is_covered
    }

    /// A word came late, of a server or an epoch that was left, or too early: what was taken there
    /// may not be where this node is.
    fn stray(&mut self, stray: Seen) {
        let is_same = |held: &&mut Seen| held.epoch == stray.epoch && held.run == stray.run;
        if let Some(held) = self.strays.iter_mut().find(is_same) {
            held.offset = held.offset.max(stray.offset);
            return;
        }
        if self.strays.len() == MAX_STRAYS {
            self.strays.remove(0);
        }
        self.strays.push(stray);
    }

    pub(super) fn turn(&self, announced: &Announced) -> Turn {
        let (offset, previous) = (announced.entry.offset, announced.entry.previous);
        if announced.epoch != self.epoch {
            return Turn::Foreign;
        }
        if offset <= self.high {
            return Turn::Known;
        }
        match self.missed(&announced.channel, previous.offset) {
            None => Turn::Next,
            Some(_) if previous.offset > self.high => Turn::Hole,
            // The place before the last channel that was forgotten is no event's of this one.
            Some(_) if !previous.exact => Turn::Next,
            Some(after) => Turn::Late(after),
        }
    }

    /// After which place something of a channel was missed that followers are owed, by what an
    /// event of it names as its predecessor.
    pub(super) fn missed(&self, channel: &Channel, previous: u64) -> Option<u64> {
        let place = self.places.of(channel);
        // Floors are asked last: they are a walk over patterns.
        let is_missed = previous > place && previous > self.floors.of(channel, self.epoch);
        is_missed.then_some(place)
    }

    /// A channel was handed on up to here, and the log with it.
    pub(super) fn advance(&mut self, channel: &Channel, offset: u64) {
        self.high = self.high.max(offset);
        self.mark(channel, offset);
    }

    /// A channel was handed on, or told as a gap, up to here.
    pub(super) fn mark(&mut self, channel: &Channel, offset: u64) {
        let floors = &self.floors;
        self.places
            .set(channel, offset, |channel| floors.selects(channel));
    }

    /// The log is handed on, or told as a gap, up to here, over all channels.
    pub(super) fn cover(&mut self, offset: u64) {
        self.high = self.high.max(offset);
        self.places.cover(offset);
    }

    /// A gap is owed.
    pub(super) fn owe(&mut self, scope: Pattern, after: Option<u64>) {
        self.owed = Some(match self.owed.take() {
            None => Owed { scope, after },
            Some(owed) => Owed {
                after: owed.after.min(after),
                scope: if owed.scope == scope {
                    scope
                } else {
                    Pattern::all()
                },
            },
        });
    }

    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
        (self.queued_bytes, self.vetted) = (0, 0);
    }
}

impl Announced {
    pub(super) fn weight(&self) -> usize {
        const FLAT: usize = 192;
        FLAT + self.entry.content.as_ref().map_or(0, |e| e.data.len())
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::Undeliverable;

    use super::{super::super::entry::Previous, *};

    fn announced(epoch: u64, offset: u64, previous: u64) -> Announced {
        Announced {
            channel: Channel::parse("a.b").unwrap(),
            epoch: Epoch(epoch),
            entry: Entry {
                offset,
                previous: Previous {
                    offset: previous,
                    exact: true,
                },
                content: Err(Undeliverable::TooLarge),
            },
        }
    }

    fn seen(epoch: u64, offset: u64, run: &str) -> Seen {
        Seen {
            epoch: Epoch(epoch),
            offset,
            run: run.into(),
        }
    }

    fn state(high: u64) -> State {
        let mut state = State {
            epoch: Epoch(1),
            high,
            seen: seen(1, high, "one"),
            run: "one".into(),
            ..State::default()
        };
        state.places.restart(high);
        state.floors.hold(&"a.*".parse().unwrap());
        state
    }

    #[test]
    fn a_hole_in_the_midst_of_other_channels_is_seen() {
        let mut state = state(10);
        state.floors.set(&"a.*".parse().unwrap(), Epoch(1), 5);
        let ours = Channel::parse("a.b").unwrap();
        let other = Channel::parse("a.c").unwrap();
        state.advance(&ours, 11);
        state.advance(&other, 14);
        let turn = |state: &State, offset, previous| state.turn(&announced(1, offset, previous));
        assert!(turn(&state, 15, 11) == Turn::Next);
        assert!(turn(&state, 15, 12) == Turn::Late(11));
        let mut bound = announced(1, 15, 12);
        bound.entry.previous.exact = false;
        assert!(state.turn(&bound) == Turn::Next, "a bound names no event");
        // Who follows since later is owed less, and a gap that was told is told.
        state.floors.let_go(&"a.*".parse().unwrap());
        state.floors.hold(&"a.b".parse().unwrap());
        state.floors.set(&"a.b".parse().unwrap(), Epoch(1), 12);
        assert!(turn(&state, 15, 12) == Turn::Next);
        assert!(turn(&state, 16, 13) == Turn::Late(11));
        state.cover(14);
        assert!(turn(&state, 16, 13) == Turn::Next);
    }

    #[test]
    fn gaps_that_are_owed_become_one() {
        let mut state = state(10);
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        state.owe(pattern("a.b"), Some(7));
        state.owe(pattern("a.b"), Some(5));
        let owed = |scope: &str, after| Owed {
            scope: pattern(scope),
            after,
        };
        assert_eq!(state.owed, Some(owed("a.b", Some(5))));
        state.owe(pattern("a.c"), Some(9));
        assert_eq!(state.owed, Some(owed(">", Some(5))));
        state.owe(Pattern::all(), None);
        assert_eq!(state.owed, Some(owed(">", None)));
    }

    #[test]
    fn a_hole_is_what_lies_beyond_all_that_was_handed_on() {
        let mut state = state(10);
        let turn = |state: &State, offset, previous| state.turn(&announced(1, offset, previous));
        assert!(turn(&state, 10, 9) == Turn::Known);
        assert!(turn(&state, 20, 10) == Turn::Next);
        assert!(
            turn(&state, 20, 12) == Turn::Next,
            "nobody is owed what came before"
        );
        state.floors.set(&"a.*".parse().unwrap(), Epoch(1), 11);
        assert!(turn(&state, 20, 11) == Turn::Next);
        assert!(turn(&state, 20, 12) == Turn::Hole);
        assert!(state.turn(&announced(2, 1, 0)) == Turn::Foreign);
    }

    #[test]
    fn what_another_server_announces_is_no_proof_for_what_was_seen() {
        let mut state = state(10);
        state.see(&announced(1, 12, 0));
        assert_eq!(state.seen, seen(1, 12, "one"));
        state.run = "two".into();
        state.see(&announced(1, 20, 0));
        state.see(&announced(1, 19, 0));
        assert_eq!(state.seen, seen(1, 12, "one"));
        assert_eq!(state.strays, [seen(1, 20, "two")], "it is compared");
    }

    #[test]
    fn a_word_counts_if_it_was_given_on_all_that_is_seen() {
        let mut state = state(10);
        let before = state.seen.clone();
        state.see(&announced(1, 12, 0));
        // Another server, which compared less than this node knows by now.
        assert!(!state.accept(&before, seen(1, 11, "two")));
        let now = state.seen.clone();
        assert!(state.accept(&now, seen(1, 15, "two")));
        assert_eq!(state.seen, seen(1, 15, "two"));
        // The same server, in whatever order its answers are read.
        assert!(state.accept(&before, seen(1, 14, "two")));
        assert_eq!(state.seen, seen(1, 15, "two"));
        assert_eq!(state.strays, [seen(1, 11, "two")]);
        // A publication that an old server took: only it and this node know.
        state.strays.clear();
        assert!(!state.accept(&before, seen(1, 13, "one")));
        assert_eq!(state.strays, [seen(1, 13, "one")]);
        state.strays.clear();
        // A new epoch, given on less than is seen by now.
        assert!(!state.accept(&before, seen(2, 15, "three")));
        assert_eq!(state.strays, [seen(2, 15, "three")]);
        state.strays.clear();
        // A new epoch, and then late answers from before it: what they say is not forgotten.
        let now = state.seen.clone();
        assert!(state.accept(&now, seen(2, 15, "two")));
        assert!(!state.accept(&now, seen(1, 17, "one")));
        assert!(!state.accept(&now, seen(1, 16, "one")));
        assert_eq!(state.seen, seen(2, 15, "two"));
        assert_eq!(state.strays, [seen(1, 17, "one")]);
        for epoch in 10..30 {
            assert!(!state.accept(&before, seen(epoch, 1, "one")));
        }
        assert_eq!(state.strays.len(), MAX_STRAYS);
    }
}
