//! What stands beside the data: the headers of a message.
//!
//! The data itself is the payload, bytes as they are.

use std::time::{Duration, SystemTime};

use fanfare_core::{EventType, Publication, Tags, Undeliverable};

use crate::subjects::Target;

const VERSION: &str = "NATS/1.0";
/// When it was published, in milliseconds since 1970.
const AT: &str = "Fanfare-At";
const TAG: &str = "Fanfare-Tag-";

/// What the headers of a message say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) event_type: Option<EventType>,
    pub(crate) tags: Tags,
    pub(crate) published_at: Option<SystemTime>,
}

/// The header block of a publication; empty where there is nothing to say.
pub(crate) fn encode(publication: &Publication, target: &Target<'_>, now: SystemTime) -> String {
    let mut block = String::new();
    let mut line = |name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            block.push_str(part);
        }
    };
    if let Some(event_type) = &publication.event_type {
        line(target.event_header, event_type.as_str());
    }
    // Where others write, there is no more of ours than is needed.
    if target.own {
        let at = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        line(AT, &at.as_millis().to_string());
    }
    for (name, value) in publication.tags.iter() {
        line(&format!("{TAG}{}", escape(name)), &escape(value));
    }
    if block.is_empty() {
        return block;
    }
    format!("{VERSION}\r\n{block}\r\n")
}

/// Reads a header block.
pub(crate) fn decode(block: &[u8], event_header: &str) -> Result<Envelope, Undeliverable> {
    let mut envelope = Envelope::default();
    if block.is_empty() {
        return Ok(envelope);
    }
    let block = std::str::from_utf8(block).map_err(|_| Undeliverable::BadEnvelope)?;
    let lines = block
        .strip_prefix(VERSION)
        .ok_or(Undeliverable::BadEnvelope)?;
    let mut tags: Vec<(String, String)> = Vec::new();
    // What follows the version on its line is a status, which says nothing here.
    for line in lines.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case(event_header) {
            if !value.is_empty() {
                let parsed = EventType::parse(value).map_err(|_| Undeliverable::BadEventType)?;
                envelope.event_type = Some(parsed);
            }
        } else if name.eq_ignore_ascii_case(AT) {
            let millis = value.parse().map_err(|_| Undeliverable::BadEnvelope)?;
            envelope.published_at =
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        } else if let Some(start) = name.get(..TAG.len())
            && start.eq_ignore_ascii_case(TAG)
        {
            tags.push((unescape(&name[TAG.len()..]), unescape(value)));
        }
    }
    envelope.tags = tags.into_iter().collect();
    Ok(envelope)
}

/// Percent-encodes everything that could end a header or its name.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b':') {
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
    use crate::subjects::EVENT;

    fn target(own: bool) -> Target<'static> {
        Target {
            subject: "s".into(),
            own,
            event_header: EVENT,
        }
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
            let block = encode(&publication, &target(own), now);
            let expected = Envelope {
                event_type,
                tags: publication.tags,
                published_at: own.then_some(now),
            };
            prop_assert_eq!(decode(block.as_bytes(), EVENT), Ok(expected));
        }

        #[test]
        fn takes_any_bytes(block in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&block, EVENT);
            let mut framed = b"NATS/1.0\r\n".to_vec();
            framed.extend(block);
            let _ = decode(&framed, EVENT);
        }
    }

    #[test]
    fn nothing_to_say_is_no_header() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(encode(&Publication::new("x"), &target(false), now), "");
        assert_eq!(decode(b"", EVENT), Ok(Envelope::default()));
    }

    #[test]
    fn bad_headers_are_told_apart() {
        let bad = |block: &str| decode(block.as_bytes(), EVENT).err();
        assert_eq!(bad("HTTP/1.1\r\n\r\n"), Some(Undeliverable::BadEnvelope));
        assert_eq!(
            bad("NATS/1.0\r\nFanfare-At: x\r\n\r\n"),
            Some(Undeliverable::BadEnvelope)
        );
        assert_eq!(
            bad("NATS/1.0\r\nfanfare-event: fanfare.gap\r\n\r\n"),
            Some(Undeliverable::BadEventType)
        );
        assert_eq!(bad("NATS/1.0\r\nOther:1\r\n\r\n"), None);
    }
}
