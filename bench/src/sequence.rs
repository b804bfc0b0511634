//! What became of the numbered events of one channel at one client.

/// The most missing numbers that a client remembers, to tell a late event from a repeated one.
const MOST_REMEMBERED: usize = 4096;

/// Follows one client's numbers, which should rise by one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence {
    next: u64,
    missing: Vec<u64>,
}

/// What was not as it should be. All zero is the promise kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Faults {
    /// Never came.
    pub(crate) lost: u64,
    /// Came more than once.
    pub(crate) repeated: u64,
    /// Came after a later one.
    pub(crate) reordered: u64,
}

impl Sequence {
    /// A client that is owed everything from this number on.
    pub(crate) fn starting_at(next: u64) -> Self {
        Self {
            next,
            missing: Vec::new(),
        }
    }

    /// The number that should come next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// An event came. Answers whether it came for the first time.
    pub(crate) fn came(&mut self, number: u64, faults: &mut Faults) -> bool {
        if number == self.next {
            self.next += 1;
            return true;
        }
        if number > self.next {
            faults.lost += number - self.next;
            let room = MOST_REMEMBERED.saturating_sub(self.missing.len());
            self.missing.extend((self.next..number).take(room));
            self.next = number + 1;
            return true;
        }
        match self.missing.iter().position(|missing| *missing == number) {
            Some(at) => {
                self.missing.swap_remove(at);
                faults.lost -= 1;
                faults.reordered += 1;
                true
            }
            None => {
                faults.repeated += 1;
                false
            }
        }
    }

    /// Nothing more comes, and so many were published.
    pub(crate) fn ended(&self, published: u64, faults: &mut Faults) {
        faults.lost += published.saturating_sub(self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(start: u64, came: &[u64], published: u64) -> Faults {
        let mut sequence = Sequence::starting_at(start);
        let mut faults = Faults::default();
        for number in came {
            sequence.came(*number, &mut faults);
        }
        sequence.ended(published, &mut faults);
        faults
    }

    fn of(lost: u64, repeated: u64, reordered: u64) -> Faults {
        Faults {
            lost,
            repeated,
            reordered,
        }
    }

    #[test]
    fn every_fault_is_seen_once() {
        for (came, published, expected) in [
            (&[0, 1, 2, 3][..], 4, of(0, 0, 0)),
            (&[], 3, of(3, 0, 0)),
            (&[0, 1], 4, of(2, 0, 0)),
            (&[0, 2, 3], 4, of(1, 0, 0)),
            (&[0, 0, 1], 2, of(0, 1, 0)),
            (&[0, 2, 1, 3], 4, of(0, 0, 1)),
            (&[0, 3, 2, 1], 4, of(0, 0, 2)),
            (&[0, 2, 1, 1], 3, of(0, 1, 1)),
            (&[3], 4, of(3, 0, 0)),
            (&[1, 1], 4, of(3, 1, 0)),
        ] {
            assert_eq!(faults(0, came, published), expected, "{came:?}");
        }
        assert_eq!(faults(5, &[5, 6], 7), of(0, 0, 0));
        assert_eq!(faults(5, &[4, 5, 6], 7), of(0, 1, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut sequence = Sequence::default();
        let mut faults = Faults::default();
        sequence.came(1_000_000, &mut faults);
        assert_eq!(faults.lost, 1_000_000);
        assert_eq!(sequence.missing.len(), MOST_REMEMBERED);
    }
}
