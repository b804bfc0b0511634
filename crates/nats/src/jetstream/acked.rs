//! What was acknowledged to publishers here, and did not come by the feed yet: nobody else may know
//! of it.

use super::place::Place;

/// How many stays of the link and of the feed are told apart.
const STAYS: usize = 64;

/// The newest publication of this node in one stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Acked {
    pub(super) place: Place,
    pub(super) stay: Stay,
    /// What the feed had come to when it was published, or one before it: what came later may stand
    /// in a place that was lost.
    pub(super) head: u64,
    /// Rises with each that is noted.
    pub(super) serial: u64,
}

/// A time in which a stream cannot have lost anything unseen: the feed is attached, or not, over
/// one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Stay {
    /// The attachment's number; zero is none.
    pub(super) feed: u64,
    pub(super) connection: u64,
}

/// The newest of each stay.
#[derive(Debug, Default)]
pub(super) struct Acks {
    all: Vec<Acked>,
    serial: u64,
}

impl Acks {
    /// Notes one. Answers whether it proves that the stream lost what was acknowledged before.
    pub(super) fn add(&mut self, place: Place, stay: Stay, head: u64) -> bool {
        self.serial += 1;
        let overtakes = |other: &Acked| other.place.seq >= place.seq && other.place != place;
        // Two publishers at a time may hear of theirs in any order, within one stay.
        let proof = self.all.iter().any(|a| overtakes(a) && a.stay != stay)
            || self
                .all
                .iter()
                .any(|a| overtakes(a) && a.place.seq == place.seq);
        let acked = Acked {
            place,
            stay,
            head,
            serial: self.serial,
        };
        match self.all.iter_mut().find(|other| other.stay == stay) {
            Some(other) => {
                let head = other.head.min(head);
                if other.place.seq < place.seq {
                    *other = acked;
                }
                other.head = head;
            }
            None => {
                if self.all.len() == STAYS {
                    // Each is looked at when the feed or the link comes back: never so many.
                    self.all.remove(0);
                }
                self.all.push(acked);
            }
        }
        proof
    }

    pub(super) fn all(&self) -> Vec<Acked> {
        self.all.clone()
    }

    /// The feed has come to this place.
    pub(super) fn seen(&mut self, here: Place) {
        if !self.all.is_empty() {
            self.all.retain(|acked| acked.place.seq > here.seq);
        }
    }

    /// These are told.
    pub(super) fn are_told(&mut self, told: &[Acked]) {
        self.all.retain(|acked| !told.contains(acked));
    }

    /// All up to this one are told, or stand in the stream before a mark that is known.
    pub(super) fn told(&mut self, serial: u64) {
        self.all.retain(|acked| acked.serial > serial);
    }

    /// The number of the newest.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// All up to this one stand in the stream: what it loses next, it loses from the end.
    pub(super) fn stand(&mut self, serial: u64) {
        let (stand, later): (Vec<Acked>, Vec<Acked>) =
            self.all.iter().partition(|a| a.serial <= serial);
        let head = stand.iter().map(|acked| acked.head).min();
        let newest = stand.into_iter().max_by_key(|acked| acked.place);
        let newest = newest
            .zip(head)
            .map(|(newest, head)| Acked { head, ..newest });
        self.all = newest.into_iter().chain(later).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> Place {
        Place {
            seq,
            check: 2 * seq as u32,
        }
    }

    fn stay(feed: u64, connection: u64) -> Stay {
        Stay { feed, connection }
    }

    fn places(acks: &Acks) -> Vec<u64> {
        acks.all().iter().map(|acked| acked.place.seq).collect()
    }

    #[test]
    fn the_newest_of_each_stay_is_known_until_it_comes() {
        let mut acks = Acks::default();
        for (seq, feed) in [(3, 1), (5, 1), (4, 1), (6, 0), (8, 2)] {
            assert!(!acks.add(place(seq), stay(feed, 1), seq - 1), "{seq}");
        }
        assert_eq!(places(&acks), [5, 6, 8]);
        // The one before it was published when less had come.
        assert_eq!(acks.all()[0].head, 2);
        acks.seen(place(5));
        assert_eq!(places(&acks), [6, 8]);
        let serial = acks.serial();
        acks.add(place(9), stay(3, 1), 8);
        acks.stand(serial);
        assert_eq!(places(&acks), [8, 9]);
        assert_eq!(acks.all()[0].head, 5);
        acks.told(serial);
        assert_eq!(places(&acks), [9]);
        acks.are_told(&acks.all());
        assert_eq!(places(&acks), [0; 0]);
    }

    #[test]
    fn a_sequence_that_is_given_again_proves_a_loss() {
        let mut acks = Acks::default();
        acks.add(place(5), stay(1, 1), 0);
        assert!(acks.add(place(4), stay(0, 2), 0));
        // Another message at the same place.
        assert!(acks.add(Place { seq: 5, check: 2 }, stay(1, 1), 0));
        assert!(!acks.add(place(6), stay(0, 2), 0));
        assert_eq!(places(&acks), [5, 6]);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut acks = Acks::default();
        for n in 0..1000 {
            acks.add(place(n), stay(0, n), 0);
        }
        assert_eq!(acks.all().len(), STAYS);
    }
}
