//! When to look at which subscriber again.

use std::collections::BTreeMap;

use super::Millis;
use crate::outbox::Key;

/// How finely times are kept, in milliseconds.
const GRAIN: Millis = 100;

/// Dues of subscribers, one at a time each. A due that is stale, because its subscriber left, is
/// met and passed over.
#[derive(Debug, Default)]
pub(super) struct Wheel {
    slots: BTreeMap<Millis, Vec<Key>>,
}

impl Wheel {
    pub(super) fn add(&mut self, key: Key, at: Millis) {
        self.slots.entry(at.div_ceil(GRAIN)).or_default().push(key);
    }

    pub(super) fn next_due(&mut self, now: Millis) -> Option<Key> {
        loop {
            let mut first = self.slots.first_entry()?;
            if *first.key() > now / GRAIN {
                return None;
            }
            if let Some(key) = first.get_mut().pop() {
                return Some(key);
            }
            first.remove();
        }
    }
}
