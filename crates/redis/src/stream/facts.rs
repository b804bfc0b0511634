//! What Redis tells of a stream, and what that says about losses.

use fanfare_core::Offset;

/// Where a stream stood when it was looked at: `XINFO STREAM`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    /// The last id that was given.
    pub(super) last: Offset,
    /// The oldest entry that is there.
    pub(super) first: Option<Offset>,
    /// The greatest id that `XDEL` took away. Trimming does not move it.
    pub(super) deleted: Offset,
    /// How many entries there ever were.
    pub(super) added: u64,
    /// How many there are.
    pub(super) length: u64,
}

/// Entries after a place, up to and including another, may be gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Loss {
    pub(super) after: Offset,
    pub(super) next: Offset,
}

impl Facts {
    /// What may have been lost after a place, up to where the stream stands. `ordinal` is how many
    /// entries there ever were up to the place, where that is known.
    pub(super) fn losses(&self, from: Offset, ordinal: Option<u64>) -> Vec<Loss> {
        let mut losses = Vec::new();
        let mut after = from;
        if let Some(next) = self.trimmed(from, ordinal) {
            losses.push(Loss { after, next });
            after = next;
        }
        if self.deleted > after {
            let next = self.deleted;
            losses.push(Loss { after, next });
        }
        losses
    }

    /// Trimming takes the oldest: while an entry up to the place is there, nothing after it was
    /// trimmed. Nor while no more are gone than there were up to the place.
    fn trimmed(&self, from: Offset, ordinal: Option<u64>) -> Option<Offset> {
        if self.last <= from || self.first.is_some_and(|first| first <= from) {
            return None;
        }
        if ordinal.is_some_and(|ordinal| self.gone() <= ordinal) {
            return None;
        }
        let next = self.first.map_or(self.last, Offset::before);
        (next > from).then_some(next)
    }

    /// How many entries are gone.
    pub(super) fn gone(&self) -> u64 {
        self.added.saturating_sub(self.length)
    }

    /// The place just before the oldest entry; where the stream stands, if there is none.
    pub(super) fn oldest(&self) -> Offset {
        self.first.map_or(self.last, Offset::before)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A stream as Redis keeps it: entries in order, each there or not.
    #[derive(Default, Debug)]
    struct Model {
        entries: Vec<u128>,
        there: Vec<bool>,
        deleted: u128,
    }

    impl Model {
        fn facts(&self) -> Facts {
            let there = || {
                self.entries
                    .iter()
                    .zip(&self.there)
                    .filter(|(_, there)| **there)
            };
            Facts {
                last: Offset(self.entries.last().copied().unwrap_or_default()),
                first: there().next().map(|(id, _)| Offset(*id)),
                deleted: Offset(self.deleted),
                added: self.entries.len() as u64,
                length: there().count() as u64,
            }
        }

        fn trim(&mut self) {
            if let Some(oldest) = self.there.iter().position(|there| *there) {
                self.there[oldest] = false;
            }
        }

        fn delete(&mut self, index: usize) {
            if std::mem::take(&mut self.there[index]) {
                self.deleted = self.deleted.max(self.entries[index]);
            }
        }
    }

    proptest! {
        #[test]
        fn every_loss_is_told(
            ops in proptest::collection::vec((0..6u8, any::<prop::sample::Index>()), 1..40),
            place in any::<prop::sample::Index>(),
            knows in any::<bool>(),
        ) {
            let mut model = Model::default();
            for (op, index) in ops {
                match op {
                    0..=3 => {
                        let last = model.entries.last().copied().unwrap_or_default();
                        model.entries.push(last + 1 + u128::from(op));
                        model.there.push(true);
                    }
                    4 => model.trim(),
                    _ if model.entries.is_empty() => {}
                    _ => model.delete(index.index(model.entries.len())),
                }
            }
            let ordinal = place.index(model.entries.len() + 1);
            let from = Offset(ordinal.checked_sub(1).map_or(0, |last| model.entries[last]));
            let losses = model.facts().losses(from, knows.then_some(ordinal as u64));
            let gone = || model.entries.iter().zip(&model.there).skip(ordinal).filter(|(_, there)| !**there);
            for (id, _) in gone() {
                let told = losses.iter().any(|loss| loss.after.0 < *id && *id <= loss.next.0);
                prop_assert!(told, "{id} after {from:?} is lost in silence: {losses:?} {model:?}");
            }
            // And where it is known how many there were, nothing is told without need, unless an
            // entry before it was deleted in the middle.
            if knows && model.deleted == 0 && gone().count() == 0 {
                prop_assert!(losses.is_empty(), "{losses:?} {model:?}");
            }
            prop_assert!(losses.iter().all(|loss| loss.after < loss.next && loss.after >= from));
        }
    }

    fn facts(first: Option<u128>, last: u128, added: u64, length: u64) -> Facts {
        Facts {
            first: first.map(Offset),
            last: Offset(last),
            added,
            length,
            ..Facts::default()
        }
    }

    #[test]
    fn a_stream_of_one_entry_loses_nothing_for_who_reads_each() {
        // MAXLEN 1: the entry read last is gone, and the next one is there.
        let now = facts(Some(12), 12, 8, 1);
        assert!(now.losses(Offset(11), Some(7)).is_empty());
        let missed = now.losses(Offset(10), Some(6));
        assert_eq!(
            missed,
            [Loss {
                after: Offset(10),
                next: Offset(11)
            }]
        );
        // Who does not know how many there were is told.
        assert_eq!(now.losses(Offset(10), None), missed);
    }

    #[test]
    fn an_empty_stream_lost_all_that_came_since() {
        let now = facts(None, 12, 8, 0);
        assert!(now.losses(Offset(12), None).is_empty());
        assert_eq!(
            now.losses(Offset(5), None),
            [Loss {
                after: Offset(5),
                next: Offset(12)
            }]
        );
    }
}
