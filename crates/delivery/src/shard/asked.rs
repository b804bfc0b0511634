//! What subscribers asked for: held once for all that asked for the same.

use std::{
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use fanfare_core::Pattern;
use smallvec::SmallVec;

use super::class::address;
use crate::{Filter, Format, ring::LogIndex};

/// What a subscriber asked for.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) channels: Arc<[Pattern]>,
    /// The logs in which its channels live.
    pub(super) logs: SmallVec<[LogIndex; 8]>,
    pub(super) format: Format,
    pub(super) filter: Option<Arc<dyn Filter>>,
}

/// All that is asked for, each once.
#[derive(Default)]
pub(super) struct AllAsked {
    held: HashSet<Same>,
}

/// By what it asks for: lists and filters are the same where they are shared.
struct Same(Arc<Asked>);

impl AllAsked {
    /// One for all that ask for the same; [`leave`](Self::leave) gives it back.
    pub(super) fn enter(&mut self, asked: Asked) -> Arc<Asked> {
        let same = Same(Arc::new(asked));
        if let Some(held) = self.held.get(&same) {
            return held.0.clone();
        }
        let asked = same.0.clone();
        self.held.insert(same);
        asked
    }

    pub(super) fn leave(&mut self, asked: Arc<Asked>) {
        let same = Same(asked);
        // This one and the one that is held.
        if Arc::strong_count(&same.0) > 2 {
            return;
        }
        self.held.remove(&same);
        // A wave of clients leaves no table of its size behind.
        if self.held.len() * 8 < self.held.capacity() {
            self.held.shrink_to(self.held.len() * 2);
        }
    }
}

impl Same {
    fn key(&self) -> (usize, &[LogIndex], Format, Option<usize>) {
        let asked = &*self.0;
        (
            asked.channels.as_ptr().addr(),
            &asked.logs,
            asked.format,
            asked.filter.as_ref().map(address),
        )
    }
}

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_held_once_and_for_as_long_as_somebody_asks_for_it() {
        let mut all = AllAsked::default();
        let list = || Arc::<[Pattern]>::from([Pattern::all()]);
        let asked = |channels: &Arc<[Pattern]>, log| Asked {
            channels: channels.clone(),
            logs: SmallVec::from_elem(log, 1),
            format: Format::Sse,
            filter: None,
        };
        let (shared, other) = (list(), list());
        let first = all.enter(asked(&shared, 0));
        let same = all.enter(asked(&shared, 0));
        assert!(Arc::ptr_eq(&first, &same));
        let apart = [all.enter(asked(&shared, 1)), all.enter(asked(&other, 0))];
        assert!(apart.iter().all(|apart| !Arc::ptr_eq(&first, apart)));
        assert_eq!(all.held.len(), 3);
        all.leave(same);
        assert_eq!(all.held.len(), 3);
        all.leave(first);
        apart.into_iter().for_each(|apart| all.leave(apart));
        assert!(all.held.is_empty());
    }
}
