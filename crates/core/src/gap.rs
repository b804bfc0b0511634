//! A known loss, with cause and bounds.

use crate::{Pattern, Position};

/// A known loss: events of the channels in `scope`, after `after` and up to and including `next`,
/// may be missing. Everything after `next` is whole again.
///
/// A gap in a live feed takes a place of its own: `next` lies after every event of the log that
/// was handed on before it. So a cursor at one of these events lies before the gap's end, and a
/// client that was away at the time is still told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The channels that may have lost events.
    pub scope: Pattern,
    /// Why.
    pub cause: GapCause,
    /// The last place before the loss; `None` where it is not known.
    pub after: Option<Position>,
    /// The place where the loss ends. Its log is the log of the loss.
    pub next: Position,
}

/// Why events are missing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum GapCause {
    /// Retention took them away before they were asked for.
    Evicted,
    /// The log began again: the place belongs to another epoch, or lies beyond the log's end.
    NewEpoch,
    /// The link to the bus was cut, and the bus keeps nothing.
    Reconnected,
    /// This node took them up more slowly than they came.
    Lagged,
    /// The log does not hold what was published while this node did not follow the channel.
    NotFollowed,
    /// A publisher sent what cannot be delivered: data that is not UTF-8, or too large.
    Undeliverable,
    /// The client read more slowly than they came, and its channel's policy is to drop.
    Slow,
    /// The client read more slowly than they came, and its channel's policy is to keep the newest.
    Conflated,
    /// A filter failed on them.
    Filter,
    /// History could not be read.
    Unavailable,
}

impl GapCause {
    /// Every cause, for metrics that want all labels from the start.
    pub const ALL: [Self; 10] = [
        Self::Evicted,
        Self::NewEpoch,
        Self::Reconnected,
        Self::Lagged,
        Self::NotFollowed,
        Self::Undeliverable,
        Self::Slow,
        Self::Conflated,
        Self::Filter,
        Self::Unavailable,
    ];

    /// The cause's name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::NewEpoch => "new_epoch",
            Self::Reconnected => "reconnected",
            Self::Lagged => "lagged",
            Self::NotFollowed => "not_followed",
            Self::Undeliverable => "undeliverable",
            Self::Slow => "slow",
            Self::Conflated => "conflated",
            Self::Filter => "filter",
            Self::Unavailable => "unavailable",
        }
    }
}
