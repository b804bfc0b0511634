//! Retained events, read in pages.

use std::num::NonZeroUsize;

use crate::{Live, LogId, Pattern, Position};

/// A question for retained events of one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryQuery {
    /// The log.
    pub log: LogId,
    /// The channels: names or patterns. An event that several of them select is answered once.
    pub channels: Vec<Pattern>,
    /// From where on.
    pub since: Since,
    /// The most events in the page.
    pub limit: NonZeroUsize,
    /// About the most bytes of data in the page; one event is always answered, however large.
    pub max_bytes: usize,
}

/// From where on history is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Since {
    /// From the oldest retained event on. What retention took before that is not a gap.
    Oldest,
    /// Everything after this place, or a gap.
    After(Position),
    /// The newest so many of each channel, in one page. Where that is more than `limit`, the
    /// newest `limit` of them.
    Last(NonZeroUsize),
    /// Nothing: only where the log stands, [`History::upto`].
    Now,
}

/// A page of history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// Events in offset order, and gaps where they belong among them.
    pub items: Vec<Live>,
    /// How far the answer goes: every event of the channels asked for up to and including this
    /// place is in this page, an earlier one, or covered by a gap. The log's head, unless there is
    /// `more`. The next page is asked for with [`Since::After`] this.
    pub upto: Position,
    /// Whether the page was cut by a limit.
    pub more: bool,
}
