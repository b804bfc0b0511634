//! Channel names and patterns: parsed once, at the boundary, into types.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// The longest channel name or pattern, in bytes.
pub const MAX_BYTES: usize = 255;

/// The name that events are published under.
///
/// Invariants:
/// - 1 to 255 bytes of UTF-8;
/// - segments separated by `.`, none of them empty;
/// - no white space and no control characters;
/// - none of `*`, `>`, `?`, `[`, `]`, `\`, `"`, which are wildcards or quotes on some bus.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// A selector of channels: a channel name in which a whole segment may be `*` (any one segment)
/// and the last one may be `>` (one or more segments).
///
/// A channel name is the pattern that selects just that channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

/// Why a text is not a channel name, or not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidChannel {
    /// The text is empty.
    #[error("is empty; 1 to {MAX_BYTES} bytes are allowed")]
    Empty,
    /// The text is longer than [`MAX_BYTES`].
    #[error("has {0} bytes; at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// Two dots stand side by side, or one stands at an end.
    #[error("has an empty segment; segments are separated by single dots")]
    EmptySegment,
    /// A character that channel names do not have.
    #[error(
        "has the character {0:?}; white space, control characters and * > ? [ ] \\ \" are not allowed"
    )]
    Character(char),
    /// A wildcard that is only a part of its segment, or a `>` that is not the last segment.
    #[error("has a misplaced wildcard; `*` stands for one whole segment, `>` for the rest, last")]
    Wildcard,
}

fn check(text: &str, wildcards: bool) -> Result<(), InvalidChannel> {
    if text.is_empty() {
        return Err(InvalidChannel::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(InvalidChannel::TooLong(text.len()));
    }
    let mut segments = text.split('.').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            return Err(InvalidChannel::EmptySegment);
        }
        if wildcards && (segment == "*" || (segment == ">" && segments.peek().is_none())) {
            continue;
        }
        if let Some(bad) = segment.chars().find(|c| is_forbidden(*c)) {
            let misplaced = wildcards && (bad == '*' || bad == '>');
            return Err(if misplaced {
                InvalidChannel::Wildcard
            } else {
                InvalidChannel::Character(bad)
            });
        }
    }
    Ok(())
}

fn is_forbidden(c: char) -> bool {
    // A byte order mark is no white space to `char`, yet invisible in a name: two channels that
    // look the same would differ.
    matches!(c, '*' | '>' | '?' | '[' | ']' | '\\' | '"' | '\u{feff}')
        || c.is_whitespace()
        || c.is_control()
}

impl Channel {
    /// Parses a channel name.
    ///
    /// # Errors
    /// [`InvalidChannel`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidChannel> {
        check(text, false)?;
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// The pattern that selects every channel: `>`.
    pub fn all() -> Self {
        Self(">".into())
    }

    /// Parses a pattern.
    ///
    /// # Errors
    /// [`InvalidChannel`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidChannel> {
        check(text, true)?;
        Ok(Self(text.into()))
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern has a wildcard.
    pub fn is_wild(&self) -> bool {
        // Channel names hold neither character, so no look at segments is needed.
        self.0.contains(['*', '>'])
    }

    /// The channel, where the pattern selects just one.
    pub fn as_channel(&self) -> Option<Channel> {
        (!self.is_wild()).then(|| Channel(self.0.clone()))
    }

    /// Whether the pattern selects `channel`.
    pub fn matches(&self, channel: &Channel) -> bool {
        self.covers_text(channel.as_str())
    }

    /// Whether every channel that `other` selects is selected by this pattern too.
    pub fn covers(&self, other: &Pattern) -> bool {
        self.covers_text(other.as_str())
    }

    fn covers_text(&self, other: &str) -> bool {
        let (mut mine, mut theirs) = (self.0.split('.'), other.split('.'));
        loop {
            match (mine.next(), theirs.next()) {
                (Some(">"), Some(_)) => return true,
                // `*` is one segment: it does not cover a `>` that may be several.
                (Some("*"), Some(segment)) if segment != ">" => {}
                (Some(a), Some(b)) if a == b => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }

    /// Whether some channel could be selected by both patterns.
    pub fn intersects(&self, other: &Pattern) -> bool {
        let (mut mine, mut theirs) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (mine.next(), theirs.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(a), Some(b)) if a == b => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

impl From<Channel> for Pattern {
    fn from(channel: Channel) -> Self {
        Self(channel.0)
    }
}

impl From<&Channel> for Pattern {
    fn from(channel: &Channel) -> Self {
        Self(channel.0.clone())
    }
}

macro_rules! name_impls {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }
        impl FromStr for $name {
            type Err = InvalidChannel;
            fn from_str(text: &str) -> Result<Self, InvalidChannel> {
                Self::parse(text)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(|why| {
                    serde::de::Error::custom(format_args!("{:?} {why}", text.as_ref()))
                })
            }
        }
    };
}

name_impls!(Channel);
name_impls!(Pattern);

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn channel_names_keep_their_invariants() {
        for good in [
            "a",
            "orders.eu.42",
            "größe.日本",
            "a-b_c:d/e",
            "$sys",
            &"x".repeat(255),
        ] {
            assert!(Channel::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\u{a0}b",
            "a\nb",
            "a\0",
            "a*",
            "*",
            ">",
            "a?",
            "[a]",
            "a\\b",
            "\"",
            "\u{feff}a",
            "a\u{7f}",
            &"x".repeat(256),
        ] {
            assert!(Channel::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_place_wildcards_in_whole_segments() {
        for good in ["*", ">", "a.*", "a.>", "*.b.*", "a"] {
            assert!(Pattern::parse(good).is_ok(), "{good}");
        }
        for bad in ["a*", "a.b*", ">.a", "a.>.b", "**", "a>", ">>", "a.?"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_by_segment() {
        for (text, channel, expected) in [
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*.b", "a.b", true),
            ("a", "a", true),
            ("a", "b", false),
            ("a.b", "a", false),
        ] {
            let channel = Channel::parse(channel).unwrap();
            assert_eq!(
                pattern(text).matches(&channel),
                expected,
                "{text} {channel}"
            );
        }
    }

    #[test]
    fn covering_and_intersecting() {
        for (a, b, covers, intersects) in [
            (">", "a.>", true, true),
            ("a.>", ">", false, true),
            ("a.*", "a.b", true, true),
            ("a.*", "a.>", false, true),
            ("a.>", "a.*", true, true),
            ("*.b", "a.*", false, true),
            ("a.b", "a.c", false, false),
            ("a.*", "a.b.c", false, false),
            ("*", "a", true, true),
            ("a", "a.>", false, false),
        ] {
            assert_eq!(pattern(a).covers(&pattern(b)), covers, "{a} covers {b}");
            assert_eq!(
                pattern(a).intersects(&pattern(b)),
                intersects,
                "{a} with {b}"
            );
            assert_eq!(
                pattern(b).intersects(&pattern(a)),
                intersects,
                "{b} with {a}"
            );
        }
    }
}
