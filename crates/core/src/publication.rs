//! What a publisher hands in. It has no place yet.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// The longest event type, in bytes.
pub const MAX_EVENT_TYPE_BYTES: usize = 255;
/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// Event types with this beginning are Fanfare's own: `fanfare.hello`, `fanfare.gap`, `fanfare.close`.
pub const RESERVED_EVENT_TYPES: &str = "fanfare.";

/// The data of an event: UTF-8 text, bytes as the publisher sent them.
///
/// Invariant: valid UTF-8, since an SSE stream can carry nothing else.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Data(Bytes);

/// Bytes that are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("data is not UTF-8 at byte {at}")]
pub struct NotUtf8 {
    /// The place of the first bad byte.
    pub at: usize,
}

impl Data {
    /// Takes bytes as data, without a copy. They are all, or nearly all, of their allocation: an
    /// event may be retained, and all of the allocation with it.
    ///
    /// # Errors
    /// [`NotUtf8`] names the first byte that is not UTF-8.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Self, NotUtf8> {
        let bytes = bytes.into();
        check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Copies data out of a buffer that holds more than them, such as a connection's.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn copied(bytes: &[u8]) -> Result<Self, NotUtf8> {
        check(bytes)?;
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Checked by `parse`; the fallback is never taken and keeps this free of `unsafe` and panics.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn check(bytes: &[u8]) -> Result<(), NotUtf8> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(NotUtf8 {
            at: error.valid_up_to(),
        }),
    }
}

impl From<String> for Data {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

/// The type of an event: what the browser dispatches on.
///
/// Invariants: 1 to 255 bytes of UTF-8 without control characters or line and paragraph
/// separators; no white space at an end (an SSE field loses its leading space); not `fanfare.…`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventType(Arc<str>);

/// Why a text is no event type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEventType {
    /// Empty, or longer than [`MAX_EVENT_TYPE_BYTES`].
    #[error("event type has {0} bytes; 1 to {MAX_EVENT_TYPE_BYTES} are allowed")]
    Length(usize),
    /// A control character, a separator, or white space at an end.
    #[error("event type has the character {0:?} where it is not allowed")]
    Character(char),
    /// A name that is Fanfare's own.
    #[error("event types that begin with `{RESERVED_EVENT_TYPES}` are reserved")]
    Reserved,
}

impl EventType {
    /// Parses an event type.
    ///
    /// # Errors
    /// [`InvalidEventType`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidEventType> {
        if !(1..=MAX_EVENT_TYPE_BYTES).contains(&text.len()) {
            return Err(InvalidEventType::Length(text.len()));
        }
        let separator =
            |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
        let ends = [text.chars().next(), text.chars().next_back()];
        let bad = text.chars().find(|c| separator(*c));
        let space = ends.into_iter().flatten().find(|c| c.is_whitespace());
        if let Some(bad) = bad.or(space) {
            return Err(InvalidEventType::Character(bad));
        }
        if text.starts_with(RESERVED_EVENT_TYPES) {
            return Err(InvalidEventType::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventType({:?})", &*self.0)
    }
}

/// A publisher's own name for one publication: publishing it again within the backend's window
/// stores nothing and answers the first one's position.
///
/// Invariant: 1 to 255 visible ASCII characters, so that it fits any bus header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// A text that is no [`IdempotencyKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to {MAX_KEY_BYTES} visible ASCII characters")]
pub struct InvalidKey;

impl IdempotencyKey {
    /// Parses a key.
    ///
    /// # Errors
    /// [`InvalidKey`] where the text breaks the invariant.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if visible && (1..=MAX_KEY_BYTES).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKey)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({:?})", &*self.0)
    }
}

/// Names and values beside the data, for filters. They are never sent to a client.
///
/// Shared: a clone is a reference. Absent tags cost nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tags(Option<Arc<[Tag]>>);

type Tag = (Box<str>, Box<str>);

impl Tags {
    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// All tags, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|all| all.iter())
            .map(|(key, value)| (&**key, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Tags {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let all: Vec<_> = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        Self((!all.is_empty()).then(|| all.into()))
    }
}

/// What a publisher hands in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Publication {
    /// The type of the event, where it has one.
    pub event_type: Option<EventType>,
    /// The data.
    pub data: Data,
    /// Names and values for filters.
    pub tags: Tags,
    /// The publisher's own name for this publication.
    pub key: Option<IdempotencyKey>,
}

impl Publication {
    /// A publication of data alone.
    pub fn new(data: impl Into<Data>) -> Self {
        Self {
            data: data.into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_utf8() {
        assert_eq!(
            Data::parse("é\n\0".as_bytes().to_vec()).unwrap().as_str(),
            "é\n\0"
        );
        assert_eq!(Data::parse(vec![b'a', 0xff]), Err(NotUtf8 { at: 1 }));
    }

    #[test]
    fn event_types_cannot_inject_a_field_or_forge_a_control_event() {
        for good in ["order.created", "größe", "a b"] {
            assert!(EventType::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a\nb",
            "a\rb",
            "a\0",
            " a",
            "a ",
            "\u{feff}a",
            "fanfare.gap",
            &"x".repeat(256),
        ] {
            assert!(EventType::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_visible_ascii() {
        assert!(IdempotencyKey::parse("a-1:b/c").is_ok());
        for bad in ["", "a b", "ü", "a\n", &"x".repeat(256)] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tags_are_looked_up_by_name() {
        let tags: Tags = [("region", "eu"), ("tier", "1")].into_iter().collect();
        assert_eq!(tags.get("tier"), Some("1"));
        assert_eq!(tags.get("x"), None);
        assert!(Tags::from_iter(Vec::<(String, String)>::new()).is_empty());
    }
}
