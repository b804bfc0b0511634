//! What a recorder writes next, so that everything is written once and in order, or lies in a hole.
//! No socket, no clock.

use std::sync::Arc;

use super::tape::{Batch, Heard, Spot, Tape};

/// The most messages of one write: what a script does at once holds up everyone else in Redis.
const BATCH: usize = 512;
/// About how many bytes a write holds.
const BATCH_BYTES: usize = 1 << 20;

/// A place on the bus, as a log knows it: everything that listeners of this run of the server took
/// by these rules, up to the spot, is recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) run: Arc<str>,
    /// A digest of the rules: who goes by others counts other messages.
    pub(crate) rules: u64,
    pub(crate) spot: Spot,
}

/// How a recorder begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// Right after what was recorded.
    Aligned,
    /// It cannot be proved where that is: the log gets a hole.
    Hole,
    /// Nothing was recorded before; what was published until now lies in a hole too.
    New,
}

/// A recorder's place in its tape, and in the log.
#[derive(Debug)]
pub(crate) struct Pen {
    run: Arc<str>,
    rules: u64,
    /// The place that the log knows.
    written: Option<Place>,
    /// A hole is to be written first.
    owes_hole: bool,
}

/// A write: from the place that the log must know, to the one that it knows then.
#[derive(Debug)]
pub(crate) struct Write<M> {
    pub(crate) from: Option<Place>,
    pub(crate) to: Place,
    /// Whether a hole comes first.
    pub(crate) hole: bool,
    pub(crate) messages: Vec<Arc<M>>,
}

impl Place {
    /// `run rules mark count check`; without a run there is none that could be found again.
    pub(crate) fn to_text(&self) -> String {
        let run = if self.run.is_empty() { "?" } else { &*self.run };
        format!("{run} {} {}", self.rules, self.spot.to_text())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (run, rest) = text.split_once(' ')?;
        let (rules, spot) = rest.split_once(' ')?;
        Some(Self {
            run: if run == "?" { "" } else { run }.into(),
            rules: rules.parse().ok()?,
            spot: Spot::parse(spot)?,
        })
    }
}

impl Pen {
    /// Begins where the recorder before left off, which can write no more. `mark`, published after
    /// that was so, was heard: the tape knows of all that was recorded, unless it began later.
    pub(crate) fn start<M: Heard>(
        tape: &mut Tape<M>,
        run: &Arc<str>,
        rules: u64,
        recorded: Option<Place>,
        mark: &Arc<str>,
    ) -> (Self, Start) {
        let start = match &recorded {
            None => Start::New,
            Some(place) => {
                // Another server may announce in another order, and so may one that we cannot name.
                let is_same = !run.is_empty() && place.run == *run && place.rules == rules;
                if is_same && tape.skip_to(&place.spot) {
                    Start::Aligned
                } else {
                    Start::Hole
                }
            }
        };
        if start != Start::Aligned {
            // Some of what came before may have been recorded. Where the tape does not hold the
            // mark any more, it begins after it.
            tape.skip_to_mark(mark);
        }
        let pen = Self {
            run: run.clone(),
            rules,
            written: recorded,
            owes_hole: start != Start::Aligned,
        };
        (pen, start)
    }

    /// The spot up to which everything is known to be recorded, for others to let go of.
    ///
    /// Not the tape's base: that moves on too where messages fall off.
    pub(crate) fn recorded(&self) -> Option<&Spot> {
        let written = self.written.as_ref().filter(|_| !self.owes_hole);
        written.map(|place| &place.spot)
    }

    /// Whether messages fell off the tape that were to be written. Then another one goes on.
    pub(crate) fn is_torn<M: Heard>(&self, tape: &Tape<M>) -> bool {
        // A hole that is still to be written covers them.
        !self.owes_hole && tape.base() != self.recorded()
    }

    /// What to write next, of a tape that is not torn; `None` where there is nothing.
    pub(crate) fn next<M: Heard>(&self, tape: &Tape<M>) -> Option<Write<M>> {
        let batch = tape.batch(BATCH, BATCH_BYTES);
        let Batch { to, messages, .. } = match batch {
            Some(batch) => batch,
            None if !self.owes_hole => return None,
            None => Batch {
                to: tape.base()?.clone(),
                messages: Vec::new(),
            },
        };
        Some(Write {
            from: self.written.clone(),
            to: Place {
                run: self.run.clone(),
                rules: self.rules,
                spot: to,
            },
            hole: self.owes_hole,
            messages,
        })
    }

    /// It was written.
    pub(crate) fn wrote<M: Heard>(&mut self, tape: &mut Tape<M>, to: Place) {
        tape.skip_to(&to.spot);
        self.written = Some(to);
        self.owes_hole = false;
    }

    /// The log knows this place, and it is not known which writes came through. Answers no where
    /// the tape does not hold the place: then another one goes on.
    pub(crate) fn realign<M: Heard>(&mut self, tape: &mut Tape<M>, place: Option<Place>) -> bool {
        if place == self.written {
            return true;
        }
        let ours = place.filter(|place| place.run == self.run && place.rules == self.rules);
        let Some(place) = ours.filter(|place| tape.skip_to(&place.spot)) else {
            return false;
        };
        self.written = Some(place);
        self.owes_hole = false;
        true
    }
}

#[cfg(test)]
mod tests;
