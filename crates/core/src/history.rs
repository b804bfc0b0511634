//! Retained events, read in pages.

use std::num::NonZeroUsize;

use crate::{Gap, Live, LogId, Pattern, Position};

/// The most gaps of one cause that a page tells by name.
pub const MAX_GAPS: usize = 32;

/// A question for retained events of one log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Since {
    /// From the oldest retained event on. What retention took before that is not a gap, in this
    /// page; a further page, which is asked for with [`Since::After`], can tell one.
    Oldest,
    /// Everything after this place, or a gap.
    ///
    /// Where the place is of another epoch, or beyond the log's head, the answer begins with a gap
    /// [`NewEpoch`](crate::GapCause::NewEpoch) for the channels asked for, from the place to just
    /// before their oldest retained event (to the head, where there is none), and goes on with
    /// everything from there: the client is told, and gets as much as there is.
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
    /// Events and gaps in the order of [`Live::position`]: a gap comes where it ends.
    ///
    /// Each page stands for itself: a gap that reaches beyond [`upto`](Self::upto) is cut there,
    /// and its rest is told by the next page. What retention took away is one gap for each channel
    /// that lost something, or, for more than [`MAX_GAPS`], one for each pattern asked for, or, for
    /// more than that many patterns, one for `>`.
    pub items: Vec<Live>,
    /// How far the answer goes: every event of the channels asked for up to and including this
    /// place is in this page, an earlier one, or covered by a gap. The log's head, unless there is
    /// `more`. The next page is asked for with [`Since::After`] this.
    pub upto: Position,
    /// Whether the page was cut by a limit.
    pub more: bool,
}

/// The gaps of one cause as a page tells them, which asks for these channels: each by itself, or,
/// where that would be more than [`MAX_GAPS`], joined: see [`History::items`].
pub fn told(gaps: Vec<Gap>, asked: &[Pattern]) -> Vec<Gap> {
    if gaps.len() <= MAX_GAPS {
        return gaps;
    }
    let joined = scopes(asked).into_iter().filter_map(|scope| {
        let within = gaps.iter().filter(|gap| scope.covers(&gap.scope));
        let last = within.max_by_key(|gap| gap.next.offset)?.clone();
        Some(Gap { scope, ..last })
    });
    joined.collect()
}

/// The scopes of a gap over all channels that a page asks for.
pub fn scopes(asked: &[Pattern]) -> Vec<Pattern> {
    if asked.len() > MAX_GAPS {
        vec![Pattern::all()]
    } else {
        asked.to_vec()
    }
}
