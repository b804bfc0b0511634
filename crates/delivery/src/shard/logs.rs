//! Which logs the subscribers of a shard have. A log has an index while somebody has it: channel
//! names come from strangers, and on some backends each has a log of its own.

use std::collections::HashMap;

use fanfare_core::LogId;

use super::Shard;
use crate::ring::LogIndex;

/// The indexes of logs, and how many subscribers hold each.
#[derive(Debug, Default)]
pub(super) struct Holds {
    by_name: HashMap<LogId, LogIndex>,
    slots: Vec<Slot>,
    vacant: Vec<LogIndex>,
}

#[derive(Debug, Default)]
struct Slot {
    subscribers: usize,
    is_late: bool,
}

impl Holds {
    /// The index of a log, if somebody has it.
    pub(super) fn index(&self, log: &LogId) -> Option<LogIndex> {
        self.by_name.get(log).copied()
    }

    /// Whether subscribers can come to have the log after they joined.
    pub(super) fn is_late(&self, log: LogIndex) -> bool {
        self.slots
            .get(usize::from(log))
            .is_some_and(|slot| slot.is_late)
    }
}

impl Shard {
    /// One more subscriber has a log.
    pub(super) fn hold_log(&mut self, log: &LogId) -> LogIndex {
        if let Some(index) = self.holds.index(log) {
            self.holds.slots[usize::from(index)].subscribers += 1;
            return index;
        }
        let slot = Slot {
            subscribers: 1,
            is_late: self.map.late(log).is_some(),
        };
        let index = match self.holds.vacant.pop() {
            Some(index) => {
                self.logs[usize::from(index)] = log.clone();
                self.holds.slots[usize::from(index)] = slot;
                index
            }
            None => {
                self.logs.push(log.clone());
                self.heads.push(None);
                self.holds.slots.push(slot);
                (self.logs.len() - 1) as LogIndex
            }
        };
        self.holds.by_name.insert(log.clone(), index);
        index
    }

    /// One subscriber less has a log. What the last one leaves behind is history's to tell.
    pub(super) fn release_log(&mut self, index: LogIndex) {
        let slot = &mut self.holds.slots[usize::from(index)];
        slot.subscribers -= 1;
        if slot.subscribers > 0 {
            return;
        }
        self.holds.by_name.remove(&self.logs[usize::from(index)]);
        if self.holds.by_name.is_empty() {
            self.holds.by_name.shrink_to_fit();
        }
        self.heads[usize::from(index)] = None;
        self.floors.remove(&index);
        self.holds.vacant.push(index);
        let freed = self.ring.forget(index);
        self.metrics.ring_bytes.sub(freed as i64);
    }
}
