//! One event as Redis holds and announces it.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use fanfare_core::{Channel, Epoch, Event, LogId, Offset, Position, Undeliverable};

use crate::envelope::{self, Envelope};

/// The longest first line of an announcement, in bytes: three numbers and a channel.
const MAX_LINE_BYTES: usize = 80 + 256;

/// An event with its place, of one partition.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) previous: Previous,
    pub(crate) content: Result<Envelope, Undeliverable>,
}

/// The place of the channel's event before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Previous {
    /// No event of the channel stands between this place and the event.
    pub(crate) offset: u64,
    /// Whether it is the channel's own: the channel may have been forgotten.
    pub(crate) exact: bool,
}

/// An entry of a stream, as `XRANGE` answers it.
pub(crate) type Range = Vec<(String, HashMap<String, Vec<u8>>)>;

impl Previous {
    fn parse(text: &str) -> Option<Self> {
        let (digits, exact) = match text.strip_prefix('?') {
            Some(digits) => (digits, false),
            None => (text, true),
        };
        let offset = digits.parse().ok()?;
        Some(Self { offset, exact })
    }
}

impl Entry {
    /// An entry of a stream; `None` where it is none of ours.
    pub(crate) fn stored(
        id: &str,
        mut fields: HashMap<String, Vec<u8>>,
        most: usize,
    ) -> Option<Self> {
        let (offset, _) = id.split_once('-')?;
        let envelope = fields.remove("e").unwrap_or_default();
        let previous = std::str::from_utf8(fields.get("p")?).ok()?;
        Some(Self {
            offset: offset.parse().ok()?,
            previous: Previous::parse(previous)?,
            content: open(envelope.into(), most),
        })
    }

    /// An announcement, with its epoch and the channel if it names one; `None` where it is none of
    /// ours.
    pub(crate) fn announced(
        message: &Bytes,
        most: usize,
    ) -> Option<(Epoch, Self, Option<Channel>)> {
        let window = &message[..message.len().min(MAX_LINE_BYTES)];
        let end = window.iter().position(|b| *b == b'\n')?;
        let line = std::str::from_utf8(&message[..end]).ok()?;
        let mut numbers = line.split(' ');
        let epoch = Epoch(numbers.next()?.parse().ok()?);
        let entry = Self {
            offset: numbers.next()?.parse().ok()?,
            previous: Previous::parse(numbers.next()?)?,
            content: open(message.slice(end + 1..), most),
        };
        let channel = numbers.next().map(Channel::parse);
        Some((epoch, entry, channel.transpose().ok()?))
    }
}

fn open(envelope: Bytes, max_data_bytes: usize) -> Result<Envelope, Undeliverable> {
    let envelope = envelope::decode(&envelope)?;
    if envelope.data.len() > max_data_bytes {
        return Err(Undeliverable::TooLarge);
    }
    Ok(envelope)
}

/// A place in a partition's log.
pub(crate) fn place(log: &LogId, epoch: Epoch, offset: u64) -> Position {
    Position {
        log: log.clone(),
        epoch,
        offset: Offset(offset.into()),
    }
}

/// The event of an envelope at its place.
pub(crate) fn event(
    channel: Channel,
    position: Position,
    previous: Previous,
    envelope: Envelope,
) -> Arc<Event> {
    Arc::new(Event {
        channel,
        position,
        previous: previous.exact.then(|| Offset(previous.offset.into())),
        event_type: envelope.event_type,
        data: envelope.data,
        tags: envelope.tags,
        published_at: envelope.published_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVELOPE: &str = "{\"v\":1,\"at\":1}\nx";

    fn announced(line: &str) -> Option<(Epoch, Entry, Option<Channel>)> {
        Entry::announced(&format!("{line}\n{ENVELOPE}").into(), 10)
    }

    #[test]
    fn announcements_are_read() {
        let (epoch, entry, channel) = announced("18446744073709551615 7 3").unwrap();
        assert_eq!(channel, None);
        let (.., channel) = announced("1 7 3 a.b").unwrap();
        assert_eq!(channel.unwrap().as_str(), "a.b");
        assert_eq!((epoch, entry.offset), (Epoch(u64::MAX), 7));
        let exact = |offset, exact| Previous { offset, exact };
        assert_eq!(entry.previous, exact(3, true));
        assert_eq!(entry.content.unwrap().data.as_str(), "x");
        assert_eq!(announced("1 7 ?5").unwrap().1.previous, exact(5, false));
    }

    #[test]
    fn what_others_publish_is_none() {
        for line in [
            "",
            "1 2",
            "1 2 3 a..b",
            "1 2 x",
            "-1 2 3",
            "1 2 ??3",
            &"1".repeat(100),
        ] {
            assert!(announced(line).is_none(), "{line}");
        }
        assert!(Entry::announced(&"1 2 3".into(), 10).is_none());
        let long = format!("1 2 0\n{ENVELOPE}{}", "x".repeat(10));
        let (_, entry, _) = Entry::announced(&long.into(), 10).unwrap();
        assert_eq!(entry.content.unwrap_err(), Undeliverable::TooLarge);
    }
}
