//! The checks of the newest messages of a stream that this node has seen.

use std::collections::VecDeque;

use super::place::Place;

/// The checks of the newest messages, by sequence. Bounded.
#[derive(Debug)]
pub(super) struct Ring {
    /// The sequence of the first entry.
    first: u64,
    /// Zero where no message stood.
    checks: VecDeque<u32>,
    most: usize,
}

impl Ring {
    /// A ring that begins after `seq`.
    pub(super) fn after(seq: u64, most: usize) -> Self {
        Self {
            first: seq + 1,
            checks: VecDeque::new(),
            most: most.max(1),
        }
    }

    /// Adds a place beyond all that are there; what lies between held no message.
    pub(super) fn push(&mut self, place: Place) {
        let next = self.first + self.checks.len() as u64;
        let between = place.seq.saturating_sub(next);
        if between >= self.most as u64 {
            self.checks.clear();
            self.first = place.seq;
        } else {
            self.checks.extend((0..between).map(|_| 0));
        }
        self.checks.push_back(place.check);
        while self.checks.len() > self.most {
            self.checks.pop_front();
            self.first += 1;
        }
    }

    /// The check at a sequence, zero where no message stood; `None` where it is not known.
    pub(super) fn get(&self, seq: u64) -> Option<u32> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.checks.get(at).copied()
    }

    /// The first sequence that it knows.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Forgets everything after `seq`.
    pub(super) fn cut(&mut self, seq: u64) {
        let keep = (seq + 1).saturating_sub(self.first);
        self.checks
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        if self.checks.is_empty() {
            self.first = seq + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_newest_and_where_nothing_stood() {
        let mut ring = Ring::after(10, 4);
        for seq in [11, 12, 14] {
            ring.push(Place {
                seq,
                check: 2 * seq as u32,
            });
        }
        let all = [10, 11, 12, 13, 14, 15].map(|seq| ring.get(seq));
        assert_eq!(all, [None, Some(22), Some(24), Some(0), Some(28), None]);
        ring.push(Place { seq: 15, check: 30 });
        assert_eq!((ring.get(11), ring.first()), (None, 12));
        ring.cut(13);
        assert_eq!((ring.get(13), ring.get(14)), (Some(0), None));
        ring.push(Place { seq: 14, check: 6 });
        assert_eq!((ring.get(12), ring.get(14)), (Some(24), Some(6)));
        ring.push(Place { seq: 99, check: 8 });
        assert_eq!(
            (ring.get(14), ring.get(98), ring.get(99)),
            (None, None, Some(8))
        );
        ring.cut(5);
        assert_eq!((ring.first(), ring.get(99)), (6, None));
    }
}
