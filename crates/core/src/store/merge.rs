//! Several sequences of events, each in order, as one.

use std::{collections::BinaryHeap, sync::Arc};

use crate::{Event, Offset};

/// Merges sequences; of all their next events the one with the greatest key comes first.
///
/// Seeding costs O(sequences), each event O(log sequences).
pub(super) struct Merge<'a, I, K> {
    heap: BinaryHeap<(K, usize)>,
    heads: Vec<(Option<&'a Arc<Event>>, I)>,
    key: fn(Offset) -> K,
}

impl<'a, I: Iterator<Item = &'a Arc<Event>>, K: Ord> Merge<'a, I, K> {
    pub(super) fn new(sequences: impl Iterator<Item = I>, key: fn(Offset) -> K) -> Self {
        let heads: Vec<_> = sequences
            .map(|mut sequence| (sequence.next(), sequence))
            .collect();
        let keyed = |(index, (head, _)): (usize, &(Option<&'a Arc<Event>>, I))| {
            head.map(|event| (key(event.position.offset), index))
        };
        Self {
            heap: heads.iter().enumerate().filter_map(keyed).collect(),
            heads,
            key,
        }
    }
}

impl<'a, I: Iterator<Item = &'a Arc<Event>>, K: Ord> Iterator for Merge<'a, I, K> {
    type Item = &'a Arc<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let (_, index) = self.heap.pop()?;
        let (head, sequence) = self.heads.get_mut(index)?;
        let event = std::mem::replace(head, sequence.next());
        if let Some(event) = head {
            self.heap.push(((self.key)(event.position.offset), index));
        }
        event
    }
}
