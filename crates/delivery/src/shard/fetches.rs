//! Questions for history that wait to be asked.

use std::{collections::VecDeque, sync::Arc};

use fanfare_core::HistoryQuery;

use crate::outbox::Key;

/// A page of history, and the subscribers that wait for it.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// At least one, the oldest first.
    pub(crate) keys: Vec<Key>,
    pub(crate) query: HistoryQuery,
}

/// Questions for history that wait to be asked, in the order of the first who has each. Whoever has
/// the same as one that waits shares it: after a storm most clients come from the same place.
///
/// One that was asked already is not shared. An answer holds for those who were there before the
/// question was asked: what came later passes through the ring.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    order: VecDeque<Arc<HistoryQuery>>,
    /// Channel names come from strangers: std's hashing.
    waiting: std::collections::HashMap<Arc<HistoryQuery>, Vec<Key>>,
}

impl Fetches {
    pub(super) fn push(&mut self, key: Key, query: HistoryQuery) {
        if let Some(keys) = self.waiting.get_mut(&query) {
            keys.push(key);
            return;
        }
        let query = Arc::new(query);
        self.order.push_back(query.clone());
        self.waiting.insert(query, vec![key]);
    }

    pub(super) fn pop(&mut self) -> Option<Fetch> {
        let query = self.order.pop_front()?;
        let keys = self.waiting.remove(&query).unwrap_or_default();
        Some(Fetch {
            keys,
            query: Arc::unwrap_or_clone(query),
        })
    }
}
