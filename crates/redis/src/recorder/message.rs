//! A message that a raw publisher published, as a recorder holds it.

use std::time::SystemTime;

use bytes::Bytes;
use fanfare_core::{Channel, Data, Publication, Undeliverable};

use super::tape::Heard;
use crate::{durable::names::fnv1a, envelope};

/// How much of a message, at its beginning and at its end, is looked at for its hash, in bytes.
const SAMPLED: usize = 64;

/// A message of a raw publisher.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) channel: Channel,
    content: Result<Data, Undeliverable>,
    heard_at: SystemTime,
    hash: u64,
}

impl Message {
    pub(crate) fn new(
        channel: Channel,
        name: &[u8],
        message: Bytes,
        max_data_bytes: usize,
    ) -> Self {
        let hash = hash(name, &message);
        let content = if message.len() > max_data_bytes {
            Err(Undeliverable::TooLarge)
        } else {
            Data::parse(message).map_err(|_| Undeliverable::NotUtf8)
        };
        Self {
            channel,
            content,
            heard_at: SystemTime::now(),
            hash,
        }
    }

    /// Its envelope, and what it weighs against the bounds of retention. What cannot be delivered
    /// gets an envelope that says why: it takes a place too, and becomes a gap on every node.
    pub(crate) fn sealed(&self) -> (Vec<u8>, usize) {
        match &self.content {
            Ok(data) => {
                let publication = Publication::new(data.clone());
                let weight = publication.weight(&self.channel);
                let envelope = envelope::encode(&publication, self.heard_at);
                (envelope.unwrap_or_default(), weight)
            }
            Err(why) => {
                let weight = Publication::new("").weight(&self.channel);
                (envelope::lost(*why, self.heard_at), weight)
            }
        }
    }
}

impl Heard for Message {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn weight(&self) -> usize {
        let data = self.content.as_ref().map_or(0, Data::len);
        self.channel.as_str().len() + data
    }
}

fn hash(name: &[u8], message: &[u8]) -> u64 {
    let begin = &message[..message.len().min(SAMPLED)];
    let end = &message[message.len().saturating_sub(SAMPLED)..];
    let length = (message.len() as u64).to_le_bytes();
    let parts = [fnv1a(name), fnv1a(begin), fnv1a(end), fnv1a(&length)];
    fnv1a(&parts.map(u64::to_le_bytes).concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::MAX_HEAD_BYTES;

    fn message(name: &str, data: &'static [u8]) -> Message {
        let channel = Channel::parse("a.b").unwrap();
        Message::new(channel, name.as_bytes(), Bytes::from_static(data), 10)
    }

    #[test]
    fn the_hash_is_of_the_name_and_the_data() {
        let hash = |name, data| message(name, data).hash();
        assert_eq!(hash("a", b"x"), hash("a", b"x"));
        assert_ne!(hash("a", b"x"), hash("b", b"x"));
        assert_ne!(hash("a", b"x"), hash("a", b"y"));
        assert_ne!(hash("a", b""), hash("a", b"\0"));
    }

    #[test]
    fn what_cannot_be_delivered_says_so_wherever_it_is_read() {
        let read = |data| envelope::decode(&message("a", data).sealed().0.into());
        assert_eq!(read(b"ok").unwrap().data.as_str(), "ok");
        assert_eq!(read(b"\xff").unwrap_err(), Undeliverable::NotUtf8);
        assert_eq!(read(b"more than ten").unwrap_err(), Undeliverable::TooLarge);
        assert!(envelope::lost(Undeliverable::TooLarge, SystemTime::now()).len() < MAX_HEAD_BYTES);
    }
}
