//! A publication that has a place.

use std::{sync::Arc, time::SystemTime};

use crate::{Channel, Data, EventType, Gap, Offset, Position, Publication, Tags};

/// A publication that has a place in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The channel it was published under.
    pub channel: Channel,
    /// Its place.
    pub position: Position,
    /// The place of the channel's event before it; [`Offset::ZERO`] where it is the first of its
    /// epoch, `None` where the log does not say.
    ///
    /// A live event whose `previous` was never seen shows a loss at once; a retained event whose
    /// `previous` lies after a client's cursor shows that trimming took something away.
    pub previous: Option<Offset>,
    /// Its type, where it has one.
    pub event_type: Option<EventType>,
    /// Its data.
    pub data: Data,
    /// Names and values for filters.
    pub tags: Tags,
    /// When the publisher, or the first node that saw it, handed it in. Shown and measured,
    /// never used for order.
    pub published_at: SystemTime,
}

impl Event {
    /// What the event weighs against bounds in bytes: its data and names plus a flat sum for the
    /// structures around them.
    pub fn weight(&self) -> usize {
        weight(
            &self.channel,
            self.event_type.as_ref(),
            &self.tags,
            &self.data,
        )
    }
}

impl Publication {
    /// What its event would weigh on a channel: see [`Event::weight`].
    pub fn weight(&self, channel: &Channel) -> usize {
        weight(channel, self.event_type.as_ref(), &self.tags, &self.data)
    }
}

fn weight(channel: &Channel, event_type: Option<&EventType>, tags: &Tags, data: &Data) -> usize {
    const FLAT: usize = 192;
    let tags: usize = tags
        .iter()
        .map(|(key, value)| key.len() + value.len() + 32)
        .sum();
    let event_type = event_type.map_or(0, |event_type| event_type.as_str().len());
    FLAT + channel.as_str().len() + event_type + tags + data.len()
}

/// What a feed and a history page yield: an event, or a known loss that must be matched on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Live {
    /// An event.
    Event(Arc<Event>),
    /// A known loss.
    Gap(Gap),
}

impl Live {
    /// The place of the event, or the place where the gap ends.
    pub fn position(&self) -> &Position {
        match self {
            Self::Event(event) => &event.position,
            Self::Gap(gap) => &gap.next,
        }
    }
}
