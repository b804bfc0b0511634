//! What stands beside the data: the headers of a message.
//!
//! The data itself is the payload, bytes as they are.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use fanfare_core::{EventType, IdempotencyKey, Publication, Tags, Undeliverable};

use crate::subjects::Target;

/// When it was published, in milliseconds since 1970.
pub(crate) const AT: &str = "Fanfare-At";
/// `name=value`, once per tag: one name, because the client keeps no order between names.
const TAG: &str = "Fanfare-Tag";

/// Which headers say what, in messages of a subject.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The header of the event's type.
    pub(crate) event: Box<str>,
    /// The header of the idempotency key, where there is one.
    pub(crate) key: Option<Box<str>>,
    /// Headers that are tags of their own names.
    pub(crate) tags: Vec<Box<str>>,
}

/// The header of an event's type where no rule names another.
pub(crate) const EVENT: &str = "Fanfare-Event";

impl Default for Names {
    /// Where only Fanfare writes.
    fn default() -> Self {
        Self {
            event: EVENT.into(),
            key: None,
            tags: Vec::new(),
        }
    }
}

impl Names {
    fn is_key(&self, header: &str) -> bool {
        let key = self.key.as_ref();
        key.is_some_and(|key| key.eq_ignore_ascii_case(header))
    }

    /// The name of a tag that a header is, as the rule writes it.
    fn tag(&self, header: &str) -> Option<&str> {
        let mut tags = self.tags.iter();
        tags.find(|tag| tag.eq_ignore_ascii_case(header))
            .map(|tag| &**tag)
    }
}

/// What the headers of a message say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) event_type: Option<EventType>,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) tags: Tags,
    pub(crate) published_at: Option<SystemTime>,
}

/// The headers of a publication; empty where there is nothing to say.
pub(crate) fn encode(publication: &Publication, target: &Target<'_>, now: SystemTime) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Names are constants or checked with the settings, values are escaped or checked by their
    // types: neither is ever refused here.
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.append(name, value);
        }
    };
    if let Some(event_type) = &publication.event_type {
        add(&target.names.event, event_type.as_str());
    }
    if let (Some(name), Some(key)) = (&target.names.key, &publication.key) {
        add(name, key.as_str());
    }
    // Where others write, there is no more of ours than is needed.
    if target.own {
        let at = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        add(AT, &at.as_millis().to_string());
    }
    for (name, value) in publication.tags.iter() {
        // What others would read under its own name is written there, if a header can hold it.
        let holds = value.trim() == value && value.parse::<HeaderValue>().is_ok();
        if target.names.tag(name) == Some(name) && holds {
            add(name, value);
        } else {
            add(TAG, &format!("{}={}", escape(name), escape(value)));
        }
    }
    headers
}

/// How many bytes the headers are on the wire.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    let line = |name: &HeaderName, value: &HeaderValue| {
        name.to_string().len() + ": \r\n".len() + value.as_str().len()
    };
    let lines = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| line(name, value)));
    let all: usize = lines.sum();
    if all == 0 {
        return 0;
    }
    "NATS/1.0\r\n\r\n".len() + all
}

/// Reads the headers.
pub(crate) fn decode(
    headers: Option<&HeaderMap>,
    names: &Names,
) -> Result<Envelope, Undeliverable> {
    let mut envelope = Envelope::default();
    let mut tags = Vec::new();
    let all = headers.into_iter().flat_map(HeaderMap::iter);
    for (name, value) in all.flat_map(|(name, values)| values.iter().map(move |v| (name, v))) {
        let (name, value): (&str, &str) = (name.as_ref(), value.as_str());
        if name.eq_ignore_ascii_case(&names.event) {
            if !value.is_empty() {
                let parsed = EventType::parse(value).map_err(|_| Undeliverable::BadEventType)?;
                envelope.event_type = Some(parsed);
            }
        } else if name.eq_ignore_ascii_case(AT) {
            let millis = value.parse().map_err(|_| Undeliverable::BadEnvelope)?;
            envelope.published_at =
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        } else if name.eq_ignore_ascii_case(TAG) {
            let (name, value) = value.split_once('=').ok_or(Undeliverable::BadEnvelope)?;
            tags.push((unescape(name), unescape(value)));
        } else if names.is_key(name) {
            // What is no key of ours tells no two messages apart: both are delivered.
            envelope.key = IdempotencyKey::parse(value).ok();
        } else if let Some(tag) = names.tag(name) {
            tags.push((tag.to_owned(), value.to_owned()));
        }
    }
    envelope.tags = tags.into_iter().collect();
    Ok(envelope)
}

/// Percent-encodes everything that could end a header or its name.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'=') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Undoes [`escape`]; what is no escape, or no text afterwards, stays as it is.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        out.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(own: bool, names: &Names) -> Target<'_> {
        Target {
            subject: "s".into(),
            own,
            names,
        }
    }

    fn tagged(tags: &[&str]) -> Names {
        Names {
            tags: tags.iter().map(|tag| (*tag).into()).collect(),
            ..Names::default()
        }
    }

    /// The client keeps headers of different names in no order.
    fn sorted(tags: &Tags) -> Tags {
        let mut all: Vec<_> = tags
            .iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        all.sort();
        all.into_iter().collect()
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(
            event_type in proptest::option::of("[a-zé](\\PC{0,8}[a-zé:%])?"),
            tags in proptest::collection::vec((".{0,6}", "(?s).{0,12}"), 0..4),
            millis in 0_u64..4_000_000_000_000,
            own in any::<bool>(),
        ) {
            let event_type = event_type.and_then(|text| EventType::parse(&text).ok());
            let publication = Publication {
                event_type: event_type.clone(),
                tags: tags.into_iter().collect(),
                ..Publication::default()
            };
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let names = tagged(&["a", "Tenant"]);
            let headers = encode(&publication, &target(own, &names), now);
            let expected = Envelope {
                event_type,
                key: None,
                tags: sorted(&publication.tags),
                published_at: own.then_some(now),
            };
            let mut read = decode(Some(&headers), &names).unwrap();
            read.tags = sorted(&read.tags);
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn takes_any_value(name in 0_usize..3, value in "\\PC{0,12}") {
            let name = [EVENT, AT, TAG][name];
            let mut headers = HeaderMap::new();
            headers.append(name, value.as_str());
            let _ = decode(Some(&headers), &Names::default());
        }
    }

    #[test]
    fn nothing_to_say_is_no_header() {
        let headers = encode(
            &Publication::new("x"),
            &target(false, &Names::default()),
            SystemTime::UNIX_EPOCH,
        );
        assert!(headers.is_empty() && size(&headers) == 0);
        assert_eq!(decode(None, &Names::default()), Ok(Envelope::default()));
    }

    #[test]
    fn the_size_is_that_on_the_wire() {
        let mut headers = HeaderMap::new();
        headers.append("A", "x");
        headers.append("A", "yz");
        assert_eq!(size(&headers), "NATS/1.0\r\nA: x\r\nA: yz\r\n\r\n".len());
    }

    #[test]
    fn headers_of_others_are_tags() {
        let names = tagged(&["Tenant"]);
        let mut headers = HeaderMap::new();
        headers.append("tenant", "acme");
        headers.append("Other", "x");
        let read = decode(Some(&headers), &names).unwrap();
        assert_eq!(read.tags, [("Tenant", "acme")].into_iter().collect());
        let publication = Publication {
            tags: read.tags,
            ..Publication::default()
        };
        let headers = encode(&publication, &target(false, &names), SystemTime::UNIX_EPOCH);
        assert_eq!(
            headers.get("Tenant").map(|value| value.as_str()),
            Some("acme")
        );
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn bad_headers_are_told_apart() {
        let bad = |name: &str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.append(name, value);
            decode(Some(&headers), &Names::default()).err()
        };
        assert_eq!(bad("Fanfare-At", "x"), Some(Undeliverable::BadEnvelope));
        assert_eq!(bad("fanfare-tag", "x"), Some(Undeliverable::BadEnvelope));
        assert_eq!(
            bad("fanfare-event", "fanfare.gap"),
            Some(Undeliverable::BadEventType)
        );
        assert_eq!(bad("Other", "1"), None);
    }
}
