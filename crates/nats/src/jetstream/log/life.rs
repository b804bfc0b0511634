//! In which life of the stream a log is, and how it comes into another.

use fanfare_core::{Epoch, GapCause, Pattern, Store};

use super::{
    super::{
        acked::{Acked, Stay},
        mark::Mark,
        message::{Content, Entry},
        place::{self, Place},
        ring::Ring,
    },
    Log, State,
};

impl Log {
    /// The stream was looked at, before it is followed.
    pub(in super::super) fn met(&self, born: Epoch, mark: Option<Mark>) {
        let mut state = self.state.lock();
        if !state.began && state.born != Some(born) {
            state.name(born, mark);
        }
    }

    /// It lost something, before it is followed.
    pub(in super::super) fn renamed(&self, born: Epoch, mark: Option<Mark>) {
        let mut state = self.state.lock();
        if !state.began {
            state.name(born, mark);
        }
    }

    /// Begins after `seq`, in a stream that nobody here has followed, or not for long: what stands
    /// up to `silent` is kept and not handed on.
    pub(in super::super) fn begin(&self, born: Epoch, mark: Option<Mark>, seq: u64, silent: u64) {
        let mut state = self.state.lock();
        // In a stream of others, what this node alone knows to be another life goes on.
        if state.born != Some(born) || self.is_marked() {
            state.name(born, mark);
        }
        state.began = true;
        state.silent = silent;
        self.reset(&mut state, Place { seq, check: 0 });
        self.tell_stage(&state);
    }

    /// What comes up to `seq` is not handed on: nobody follows.
    pub(in super::super) fn hush(&self, seq: u64) {
        let mut state = self.state.lock();
        state.silent = state.silent.max(seq);
    }

    fn reset(&self, state: &mut State, head: Place) {
        state.head = head;
        (state.reached, state.floor) = (head.seq, head.seq);
        state.ring = Ring::after(head.seq, self.config.checked_messages);
        let head = self.at(state.epoch, head);
        state.store = Store::new(head, self.config.store.clone(), self.metrics.clone());
    }

    /// The stream is another one, or lost its end: tells it, and begins again after `survived`, in
    /// a new epoch.
    pub(in super::super) fn begin_again(&self, born: Epoch, mark: Option<Mark>, survived: Place) {
        let mut state = self.state.lock();
        let same = state.born == Some(born);
        let mut after = state.head;
        if same {
            after = after.min(survived);
            after = mark.map_or(after, |mark| mark.survived(state.epoch, after));
        }
        let before = self.at(state.epoch, after);
        if same && !self.is_marked() {
            state.epoch = place::torn(state.epoch, survived);
        } else {
            state.name(born, mark);
        }
        state.silent = 0;
        // The checks up to there still hold.
        let mut ring = std::mem::replace(&mut state.ring, Ring::after(0, 1));
        self.reset(&mut state, survived);
        if survived.check != 0 {
            ring.cut(survived.seq);
            state.ring = ring;
        }
        let next = self.at(state.epoch, survived);
        let (all, cause) = (Pattern::all(), GapCause::NewEpoch);
        self.gap(&mut state, all, cause, Some(before), next);
        self.tell_stage(&state);
    }

    /// Whether others are told of a loss by a mark.
    pub(in super::super) fn is_marked(&self) -> bool {
        self.stream.marks.is_some()
    }

    /// The stream has this mark, behind all that was taken.
    pub(in super::super) fn comes_to(&self, mark: Option<Mark>) {
        self.state.lock().ahead = mark;
    }

    /// What there is, comes from the other side of a mark.
    pub(super) fn cross(&self, state: &mut State, entry: &Entry) {
        if let Content::Mark(mark) = entry.content {
            self.turn(state, mark, entry.place);
        } else if state.ahead.is_some_and(|mark| mark.seq < entry.place.seq) {
            self.turn_ahead(state);
        }
    }

    /// Crosses a mark that was taken away before it came.
    pub(super) fn cross_gone(&self, state: &mut State) {
        if state.ahead.is_some_and(|mark| mark.seq <= state.reached) {
            self.turn_ahead(state);
        }
    }

    fn turn_ahead(&self, state: &mut State) {
        if let Some(mark) = state.ahead.take() {
            let seq = mark.seq;
            self.turn(state, mark, Place { seq, check: 0 });
        }
    }

    /// Goes over into the life that begins with a mark, and tells it.
    fn turn(&self, state: &mut State, mark: Mark, here: Place) {
        let (Some(born), taken) = (state.born, state.mark) else {
            return;
        };
        if taken.is_some_and(|taken| mark.seq <= taken.seq) {
            return;
        }
        if taken.is_some_and(|taken| mark.is_same(&taken)) {
            state.mark = Some(mark);
            return;
        }
        let after = mark.survived(state.epoch, state.head);
        let before = self.at(state.epoch, after);
        state.name(born, Some(mark));
        // What was handed on of this stream is what stands there: the checks hold.
        let ring = std::mem::replace(&mut state.ring, Ring::after(0, 1));
        let reached = state.reached;
        self.reset(state, here);
        (state.ring, state.reached) = (ring, reached.max(here.seq));
        let next = self.at(state.epoch, here);
        let (all, cause) = (Pattern::all(), GapCause::NewEpoch);
        self.gap(state, all, cause, Some(before), next);
    }

    /// The stay in which something is published now.
    pub(in super::super) fn stay(&self) -> Stay {
        let connection = self.stream.wire.connection().borrow().number;
        let (feeds, attached) = self.state.lock().feeds;
        Stay {
            feed: if attached { feeds } else { 0 },
            connection,
        }
    }

    /// A feed delivers what stands behind the newest message that was taken; or does not any more.
    pub(in super::super) fn attached(&self, attached: bool) {
        let feeds = &mut self.state.lock().feeds;
        *feeds = (feeds.0 + u64::from(attached), attached);
    }

    /// A publisher was told that the stream has this, having begun in that stay, when the feed had
    /// come to `head`.
    pub(in super::super) fn acked(&self, place: Place, began: Stay, head: u64) {
        let now = self.stay();
        let mut state = self.state.lock();
        let seen = state.ring.get(place.seq);
        if !self.is_marked() || seen == Some(place.check) {
            return;
        }
        let is_another = seen.is_some_and(|check| check != 0);
        let stay = if began == now {
            now
        } else {
            Stay { feed: 0, ..now }
        };
        if state.acks.add(place, stay, head) || is_another {
            self.kick.notify_one();
        }
    }

    /// What was acknowledged here, and has not come yet.
    pub(in super::super) fn acks(&self) -> (Vec<Acked>, u64) {
        let acks = &self.state.lock().acks;
        (acks.all(), acks.serial())
    }

    /// What was acknowledged up to there is told.
    pub(in super::super) fn acks_are_told(&self, serial: u64) {
        self.state.lock().acks.told(serial);
    }

    /// These are told.
    pub(in super::super) fn are_told(&self, lost: &[Acked]) {
        self.state.lock().acks.are_told(lost);
    }

    /// What was acknowledged up to there stands in the stream.
    pub(in super::super) fn acks_stand(&self, serial: u64) {
        self.state.lock().acks.stand(serial);
    }

    /// Whether a mark that was found covers a loss of something that was acknowledged here: it was
    /// written after that. One that stands behind it was. One before it was, if this node saw
    /// another message in its place, while it published.
    pub(in super::super) fn is_covered(&self, lost: &Acked, mark: &Mark) -> bool {
        let state = self.state.lock();
        let here = lost.stay.feed != 0 && lost.stay.feed == state.feeds.0;
        lost.place.seq <= mark.seq || here && mark.seq <= state.head.seq
    }
}

impl State {
    fn name(&mut self, born: Epoch, mark: Option<Mark>) {
        self.born = Some(born);
        self.epoch = mark.map_or(born, |mark| mark.epoch(born));
        (self.mark, self.ahead) = (mark, None);
    }
}
