//! What is remembered of channels that were forgotten: enough to answer a gap, in bounded space.

use std::hash::{BuildHasher, RandomState};

use crate::{Channel, Offset, Pattern};

const BUCKETS: usize = 4096;

/// The newest forgotten place, by buckets of names.
///
/// Forgetting must not make silence: a cursor from before a forgotten channel's last event has to
/// be answered by a gap. One number for the log would be enough for that, but then whoever follows
/// a quiet channel with an old cursor would be told of a loss as soon as any other channel was
/// forgotten. A number per name would be exact, and would never be forgotten itself. So names share
/// buckets: an answer is never too low, and it is too high only for a name that shares its bucket
/// with a channel forgotten after the cursor. The cost is 128 KiB, from the start: made later, it
/// would stand above all that is then retained, and keep the allocator from giving that back.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// For channel names.
    names: Vec<Offset>,
    /// For patterns with wildcards, by the first segment.
    roots: Vec<Offset>,
    upto: Offset,
    hasher: RandomState,
}

impl Default for Forgotten {
    fn default() -> Self {
        Self {
            names: vec![Offset::ZERO; BUCKETS],
            roots: vec![Offset::ZERO; BUCKETS],
            upto: Offset::ZERO,
            hasher: RandomState::new(),
        }
    }
}

impl Forgotten {
    /// Notes that a channel was forgotten whose newest event stood at `last`.
    pub(super) fn note(&mut self, channel: &Channel, last: Offset) {
        let (name, root) = (self.bucket(channel.as_str()), self.root(channel.as_str()));
        self.names[name] = self.names[name].max(last);
        self.roots[root] = self.roots[root].max(last);
        self.upto = self.upto.max(last);
    }

    /// No event of this channel, if it was forgotten, stood after this place.
    pub(super) fn of(&self, channel: &Channel) -> Offset {
        let bucket = self.bucket(channel.as_str());
        self.names.get(bucket).copied().unwrap_or_default()
    }

    /// No event of any forgotten channel of the pattern stood after this place.
    pub(super) fn of_pattern(&self, pattern: &Pattern) -> Offset {
        if let Some(channel) = pattern.as_channel() {
            return self.of(&channel);
        }
        if pattern.as_str().starts_with(['*', '>']) {
            return self.upto;
        }
        let bucket = self.root(pattern.as_str());
        self.roots.get(bucket).copied().unwrap_or_default()
    }

    /// No event of any forgotten channel stood after this place.
    pub(super) fn upto(&self) -> Offset {
        self.upto
    }

    fn root(&self, text: &str) -> usize {
        self.bucket(text.split('.').next().unwrap_or_default())
    }

    fn bucket(&self, text: &str) -> usize {
        self.hasher.hash_one(text) as usize % BUCKETS
    }
}
