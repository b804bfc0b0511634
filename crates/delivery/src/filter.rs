//! What a subscriber may see of an event.

use std::fmt;

use fanfare_core::{Data, Event};

/// What one class of subscribers may see of an event.
///
/// Subscribers that hold the same `Arc` are one class: a shard asks once for each event and
/// class, never for each subscriber. So a filter answers from the event alone, quickly, without
/// waiting. One that panics withholds the event from its class, which is told a gap.
pub trait Filter: fmt::Debug + Send + Sync + 'static {
    /// The view of an event.
    fn view(&self, event: &Event) -> View;
}

/// A filter's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// The event as it is.
    Whole,
    /// The event with other data.
    Redacted(Data),
    /// Not this event. Withholding is not a loss: no gap is told.
    Nothing,
}
