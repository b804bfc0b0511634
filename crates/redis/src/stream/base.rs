//! The epoch of streams' first lives, which changes when Redis has lost what it held.

use std::time::Duration;

use fanfare_core::Epoch;
use tokio::time::Instant;

/// That epoch, as looks over several links say it.
#[derive(Debug)]
pub(super) struct Base {
    now: Epoch,
    /// What it was before, and since when it is that no more.
    before: Option<(Epoch, Instant)>,
}

impl Base {
    pub(super) fn new(now: Epoch) -> Self {
        Self { now, before: None }
    }

    pub(super) fn now(&self) -> Epoch {
        self.now
    }

    /// Notes what was seen; answers what it was, if that is news. An answer may have been on its way
    /// for as long as `patience`.
    pub(super) fn moves_to(&mut self, seen: Epoch, patience: Duration) -> Option<Epoch> {
        let is_stale =
            |(before, since): (Epoch, Instant)| before == seen && since.elapsed() < patience;
        if seen == self.now || self.before.is_some_and(is_stale) {
            return None;
        }
        let before = std::mem::replace(&mut self.now, seen);
        self.before = Some((before, Instant::now()));
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_on_its_way_is_no_news_and_a_return_is() {
        let (one, other, patience) = (Epoch(1), Epoch(2), Duration::from_secs(1));
        let mut base = Base::new(one);
        assert_eq!(base.moves_to(one, patience), None);
        assert_eq!(base.moves_to(other, patience), Some(one));
        // Of another link, asked before.
        assert_eq!(base.moves_to(one, patience), None);
        assert_eq!(base.now(), other);
        // Redis came back with what it held long ago.
        tokio::time::advance(patience).await;
        assert_eq!(base.moves_to(one, patience), Some(other));
    }
}
