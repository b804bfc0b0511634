//! A message of a stream, as it is delivered.

use std::time::{Duration, SystemTime};

use async_nats::Message;
use fanfare_core::{Channel, Data, Event, InvalidChannel, Position, Undeliverable};

use super::{
    mark::Mark,
    place::{self, Place},
};
use crate::{
    envelope::{self, Envelope},
    subjects::Subjects,
};

/// Where a delivered message stands, as the subject that it would be confirmed on says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Delivery {
    /// Its sequence in the stream.
    pub(super) seq: u64,
    /// Its number among what the consumer delivered.
    pub(super) nth: u64,
    /// When the stream took it, in nanoseconds since 1970.
    pub(super) stored: u64,
    /// How many more wait to be delivered.
    pub(super) pending: u64,
}

impl Delivery {
    /// `None` where the message was not delivered by a consumer.
    pub(super) fn of(message: &Message) -> Option<Self> {
        let rest = message.reply.as_deref()?.strip_prefix("$JS.ACK.")?;
        let tokens: Vec<&str> = rest.split('.').collect();
        // Newer servers put the domain and the account's hash before, and may add to the end.
        let numbers = match tokens.len() {
            7 => &tokens[2..7],
            9.. => &tokens[4..9],
            _ => return None,
        };
        let number = |at: usize| numbers[at].parse::<u64>().ok();
        Some(Self {
            seq: number(1)?,
            nth: number(2)?,
            stored: number(3)?,
            pending: number(4)?,
        })
    }
}

/// What a message says.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) content: Content,
    message: Message,
    stored: u64,
}

/// What a message is to us.
#[derive(Debug)]
pub(super) enum Content {
    /// No rule takes its subject.
    Nothing,
    /// Its subject gives no channel name.
    Nameless(InvalidChannel),
    /// A channel's.
    Of(Channel),
    /// The stream lost something.
    Mark(Mark),
}

impl Entry {
    pub(super) fn read(message: Message, delivery: &Delivery, subjects: &Subjects) -> Self {
        let at = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(envelope::AT))
            .and_then(|at| at.as_str().parse().ok());
        let check = place::check(at, &message.payload, delivery.stored);
        let content = if subjects.marks() == Some(message.subject.as_str()) {
            Mark::read(delivery.seq, delivery.stored, &message.payload)
                .map_or(Content::Nothing, Content::Mark)
        } else {
            match subjects.read(&message.subject).map(|read| read.channel) {
                None => Content::Nothing,
                Some(Err(why)) => Content::Nameless(why),
                Some(Ok(channel)) => Content::Of(channel),
            }
        };
        Self {
            place: Place {
                seq: delivery.seq,
                check,
            },
            content,
            message,
            stored: delivery.stored,
        }
    }

    /// The event at `position`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn event(
        self,
        channel: Channel,
        position: Position,
        subjects: &Subjects,
        max_data_bytes: usize,
    ) -> Result<Event, Undeliverable> {
        let message = self.message;
        if message.payload.len() > max_data_bytes {
            return Err(Undeliverable::TooLarge);
        }
        let envelope = match subjects.read(&message.subject) {
            Some(reading) => envelope::decode(message.headers.as_ref(), reading.names)?,
            None => Envelope::default(),
        };
        let data = Data::copied(&message.payload).map_err(|_| Undeliverable::NotUtf8)?;
        let stored = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.stored);
        Ok(Event {
            channel,
            position,
            // A stream does not say it.
            previous: None,
            event_type: envelope.event_type,
            data,
            tags: envelope.tags,
            published_at: envelope.published_at.unwrap_or(stored),
        })
    }

    pub(super) fn subject(&self) -> &str {
        &self.message.subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_nothing_of_the_links_buffer() {
        let subjects = Subjects::durable("fanfare");
        let channel = Channel::parse("a").unwrap();
        let buffer = bytes::Bytes::from(vec![b'x'; 1 << 16]);
        let message = Message {
            subject: subjects.publish(&channel).unwrap().subject.into(),
            reply: None,
            payload: buffer.slice(7..17),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let delivery = Delivery {
            seq: 1,
            nth: 1,
            stored: 1,
            pending: 0,
        };
        let entry = Entry::read(message, &delivery, &subjects);
        let position = Position {
            log: fanfare_core::LogId::parse("j").unwrap(),
            epoch: fanfare_core::Epoch(1),
            offset: entry.place.offset(),
        };
        let event = entry.event(channel, position, &subjects, 100).unwrap();
        assert_eq!(event.data.as_str(), "xxxxxxxxxx");
        assert!(buffer.is_unique());
    }

    #[test]
    fn reads_what_old_and_new_servers_write() {
        let message = |reply: &str| Message {
            subject: "s".into(),
            reply: Some(reply.into()),
            payload: "x".into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let expected = Delivery {
            seq: 22,
            nth: 3,
            stored: 44,
            pending: 5,
        };
        for reply in [
            "$JS.ACK.ORDERS.c1.1.22.3.44.5",
            "$JS.ACK._.hash.ORDERS.c1.1.22.3.44.5",
            "$JS.ACK.hub.hash.ORDERS.c1.1.22.3.44.5.random",
        ] {
            assert_eq!(Delivery::of(&message(reply)), Some(expected), "{reply}");
        }
        for reply in [
            "",
            "_INBOX.a.b",
            "$JS.ACK.a.b.1.2.3",
            "$JS.ACK.a.b.1.x.3.4.5",
        ] {
            assert_eq!(Delivery::of(&message(reply)), None, "{reply}");
        }
    }
}
