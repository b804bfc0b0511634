//! What Redis holds and announces of an event of a durable channel: one line of JSON, then the data
//! as it is.
//!
//! `{"v":1,"at":1700000000000,"type":"order.created","tags":[["region","eu"]]}\n<data>`
//!
//! With `"lost":"too_large"` it stands for something that cannot be delivered.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fanfare_core::{Data, EventType, Publication, Tags, Undeliverable};
use serde::{Deserialize, Serialize};

/// The version that this node writes and reads.
const VERSION: u32 = 1;
/// The longest head that is read, in bytes. The tags of a publication must fit.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;

/// What an envelope holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) event_type: Option<EventType>,
    pub(crate) tags: Tags,
    pub(crate) published_at: SystemTime,
    pub(crate) data: Data,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    v: u32,
    /// Milliseconds since 1970.
    at: u64,
    #[serde(
        rename = "type",
        borrow,
        default,
        skip_serializing_if = "Option::is_none"
    )]
    event_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Why there is no data: what was published could not be delivered.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    lost: Option<Cow<'a, str>>,
}

/// Puts a publication into an envelope; `None` where its tags are too large for a head.
pub(crate) fn encode(publication: &Publication, now: SystemTime) -> Option<Vec<u8>> {
    let tags = publication.tags.iter();
    let head = Head {
        v: VERSION,
        at: millis(now),
        event_type: publication
            .event_type
            .as_ref()
            .map(|text| text.as_str().into()),
        tags: tags
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        lost: None,
    };
    let mut message = serde_json::to_vec(&head).ok()?;
    if message.len() > MAX_HEAD_BYTES {
        return None;
    }
    message.reserve_exact(publication.data.len() + 1);
    message.push(b'\n');
    message.extend_from_slice(publication.data.bytes());
    Some(message)
}

/// An envelope in the place of something that cannot be delivered.
pub(crate) fn lost(why: Undeliverable, now: SystemTime) -> Vec<u8> {
    let head = Head {
        v: VERSION,
        at: millis(now),
        event_type: None,
        tags: Vec::new(),
        lost: Some(why.as_str().into()),
    };
    let mut message = serde_json::to_vec(&head).unwrap_or_default();
    message.push(b'\n');
    message
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Takes an envelope apart. The data is a slice of the message.
pub(crate) fn decode(message: &Bytes) -> Result<Envelope, Undeliverable> {
    let window = &message[..message.len().min(MAX_HEAD_BYTES + 1)];
    let end = window
        .iter()
        .position(|b| *b == b'\n')
        .ok_or(Undeliverable::BadEnvelope)?;
    let head: Head<'_> =
        serde_json::from_slice(&message[..end]).map_err(|_| Undeliverable::BadEnvelope)?;
    let published_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(head.at));
    if head.v != VERSION {
        return Err(Undeliverable::BadEnvelope);
    }
    if let Some(lost) = head.lost {
        let mut reasons = Undeliverable::ALL.into_iter();
        let why = reasons.find(|why| why.as_str() == lost);
        return Err(why.unwrap_or(Undeliverable::BadEnvelope));
    }
    let event_type = head
        .event_type
        .map(|text| EventType::parse(&text))
        .transpose();
    let tags = head.tags.into_iter();
    Ok(Envelope {
        event_type: event_type.map_err(|_| Undeliverable::BadEventType)?,
        tags: tags
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect(),
        published_at: published_at.ok_or(Undeliverable::BadEnvelope)?,
        data: Data::parse(message.slice(end + 1..)).map_err(|_| Undeliverable::NotUtf8)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(
            event_type in proptest::option::of("[a-zé\"\\\\](\\PC{0,8}[a-z])?"),
            tags in proptest::collection::vec(("(?s).{0,6}", "(?s).{0,12}"), 0..4),
            data in "(?s).{0,40}",
            millis in 0_u64..4_000_000_000_000,
        ) {
            let publication = Publication {
                event_type: event_type.and_then(|text| EventType::parse(&text).ok()),
                tags: tags.into_iter().collect(),
                data: data.into(),
                key: None,
            };
            let published_at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let message = encode(&publication, published_at).unwrap();
            let expected = Envelope {
                event_type: publication.event_type,
                tags: publication.tags,
                data: publication.data,
                published_at,
            };
            prop_assert_eq!(decode(&message.into()), Ok(expected));
        }

        #[test]
        fn takes_any_bytes(message in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&message.into());
        }
    }

    #[test]
    fn bad_envelopes_are_told_apart() {
        let why = |message: &'static [u8]| decode(&Bytes::from_static(message)).unwrap_err();
        assert_eq!(why(b"plain"), Undeliverable::BadEnvelope);
        assert_eq!(why(b"{}\nx"), Undeliverable::BadEnvelope);
        assert_eq!(why(b"{\"v\":2,\"at\":1}\nx"), Undeliverable::BadEnvelope);
        assert_eq!(
            why(b"{\"v\":1,\"at\":1,\"type\":\"fanfare.gap\"}\nx"),
            Undeliverable::BadEventType
        );
        assert_eq!(why(b"{\"v\":1,\"at\":1}\n\xff"), Undeliverable::NotUtf8);
        assert!(decode(&Bytes::from_static(b"{\"v\":1,\"at\":1,\"later\":0}\nx")).is_ok());
    }

    #[test]
    fn a_head_has_a_bound() {
        let publication = Publication {
            tags: [("a", "x".repeat(MAX_HEAD_BYTES))].into_iter().collect(),
            ..Publication::new("")
        };
        assert_eq!(encode(&publication, SystemTime::UNIX_EPOCH), None);
        let long = vec![b' '; MAX_HEAD_BYTES + 10];
        assert_eq!(decode(&long.into()), Err(Undeliverable::BadEnvelope));
    }
}
