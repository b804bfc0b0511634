//! Places in a stream, and lives of one.
//!
//! A sequence alone is no place that every node can trust: a server that lost the end of a stream
//! gives the same sequences again, to other messages. So an offset is the sequence with a check of
//! the message below it, and a cursor is compared with the message that stands there now.

use fanfare_core::{Epoch, Offset};

/// How many bits of an offset the check takes.
const CHECK_BITS: u32 = 32;
/// How many bytes of a message's data the check looks at.
const CHECKED_BYTES: usize = 4096;
/// How many bits an epoch has: it stands in every `id:` line.
const EPOCH_BITS: u32 = 40;

/// A place in a stream: its sequence, and a check of the message that stands there.
///
/// Checks of messages are even and positive. One less is the place just before the message, as
/// [`Offset::before`] makes it. Zero is a place where no message stood.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) check: u32,
}

impl Place {
    pub(super) fn offset(self) -> Offset {
        Offset(u128::from(self.seq) << CHECK_BITS | u128::from(self.check))
    }

    /// `None` where the offset is none of a stream.
    pub(super) fn of(offset: Offset) -> Option<Self> {
        Some(Self {
            seq: u64::try_from(offset.0 >> CHECK_BITS).ok()?,
            check: (offset.0 & u128::from(u32::MAX)) as u32,
        })
    }
}

/// The check of a message: of when its publisher, if it is one of ours, says it was published, and
/// what it said; else of when the stream took it. The first is known to the publisher too, so that
/// a publish can answer the place without reading it back.
pub(super) fn check(published_millis: Option<u64>, data: &[u8], stored_nanos: u64) -> u32 {
    let mut hash = Fnv::new();
    match published_millis {
        Some(millis) => {
            hash.add(&millis.to_le_bytes());
            hash.add(&(data.len() as u64).to_le_bytes());
            hash.add(&data[..data.len().min(CHECKED_BYTES)]);
        }
        None => hash.add(&stored_nanos.to_le_bytes()),
    }
    let folded = (hash.0 ^ (hash.0 >> 32)) as u32;
    (folded & !1).max(2)
}

/// The epoch of a stream that was created at that time, as the server writes it.
pub(super) fn born(created: &str) -> Epoch {
    let mut hash = Fnv::new();
    hash.add(created.as_bytes());
    hash.epoch()
}

/// The epoch of a stream of others that lost everything after `survived`. Nodes that saw the same
/// loss name it the same.
pub(super) fn torn(epoch: Epoch, survived: Place) -> Epoch {
    let mut hash = Fnv::new();
    hash.add(&epoch.0.to_le_bytes());
    hash.add(&survived.seq.to_le_bytes());
    hash.add(&survived.check.to_le_bytes());
    hash.epoch()
}

/// The epoch of a stream whose newest mark says this life.
pub(super) fn marked(born: Epoch, life: u64) -> Epoch {
    let mut hash = Fnv::new();
    hash.add(&born.0.to_le_bytes());
    hash.add(&life.to_le_bytes());
    hash.epoch()
}

/// A number for a stream's name that is the same on every node.
pub(super) fn fingerprint(name: &str) -> u64 {
    let mut hash = Fnv::new();
    hash.add(name.as_bytes());
    hash.0
}

/// FNV-1a, 64 bits: the same in every release of every compiler. It is no secret, and need be none:
/// who can write into a stream can do worse than hit a check.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn epoch(&self) -> Epoch {
        Epoch((self.0 ^ (self.0 >> EPOCH_BITS)) & ((1 << EPOCH_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_the_order_of_sequences_and_come_back() {
        let check = check(Some(1), b"x", 0);
        let places = [(1, check), (1, check + 2), (2, 2), (u64::MAX, u32::MAX)];
        let places = places.map(|(seq, check)| Place { seq, check });
        assert!(places.is_sorted_by(|a, b| a.offset() < b.offset()));
        for place in places {
            assert_eq!(Place::of(place.offset()), Some(place));
        }
        assert_eq!(Place::of(Offset(u128::MAX)), None);
    }

    #[test]
    fn checks_are_even_and_tell_messages_apart() {
        let ours = |millis, data: &str| check(Some(millis), data.as_bytes(), 7);
        let all = [
            ours(1, "a"),
            ours(1, "b"),
            ours(2, "a"),
            check(None, b"a", 1),
            check(None, b"a", 2),
        ];
        assert!(all.iter().all(|check| check % 2 == 0 && *check > 0));
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        // When the stream took it is known to nobody who publishes.
        assert_eq!(ours(1, "a"), check(Some(1), b"a", 8));
        // Written down, since nodes of different releases must agree.
        assert_eq!(ours(1, "a"), 1_798_775_368);
        assert_eq!(born("2026-01-01T00:00:00Z").0, 664_791_679_655);
        assert_eq!(marked(Epoch(664_791_679_655), 7).0, 168_606_399_332);
    }
}
