//! Places: a [`Position`] is `(log, epoch, offset)`.

use std::{fmt, sync::Arc};

/// The name of a log: a backend's unit of order, channels that share one rising sequence.
///
/// Invariant: 1 to 40 bytes of ASCII letters, digits, `-` and `_`.
/// It stands in every `id:` line of its log, so backends keep it short.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(Arc<str>);

/// A text that is no [`LogId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log name: 1 to 40 ASCII letters, digits, `-` and `_` are allowed")]
pub struct InvalidLogId(pub String);

impl LogId {
    /// Parses a log's name.
    ///
    /// # Errors
    /// [`InvalidLogId`] where the text breaks the invariant.
    pub fn parse(text: &str) -> Result<Self, InvalidLogId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=40).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidLogId(text.chars().take(64).collect()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({})", self.0)
    }
}

/// One life of a log. Offsets of different epochs have no order.
///
/// A log that was lost and began again (a process that restarted, a store that was flushed) has
/// another epoch, so that a place in the old one is never taken for one in the new.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(pub u64);

/// A place within one epoch of a log. Offsets rise, not always by one.
///
/// 128 bits hold a Redis stream's `ms-seq` as well as a JetStream sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Offset(pub u128);

impl Offset {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The place just before this one.
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// A place in a log. Every event has one.
///
/// Two positions have an order only within one epoch of one log: [`Position::is_after`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// The log.
    pub log: LogId,
    /// The life of the log.
    pub epoch: Epoch,
    /// The place in it.
    pub offset: Offset,
}

impl Position {
    /// Whether this place lies after `other`; `None` across logs and epochs.
    pub fn is_after(&self, other: &Self) -> Option<bool> {
        (self.log == other.log && self.epoch == other.epoch).then(|| self.offset > other.offset)
    }

    /// Another place in the same epoch of the same log.
    pub fn at(&self, offset: Offset) -> Self {
        Self {
            offset,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_names_are_short_ascii() {
        assert!(LogId::parse("r0").is_ok());
        for bad in ["", "a.b", "a~b", "ü", " ", &"x".repeat(41)] {
            assert!(LogId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn order_exists_only_within_one_epoch_of_one_log() {
        let place = |log: &str, epoch, offset| Position {
            log: LogId::parse(log).unwrap(),
            epoch: Epoch(epoch),
            offset: Offset(offset),
        };
        assert_eq!(place("a", 1, 2).is_after(&place("a", 1, 1)), Some(true));
        assert_eq!(place("a", 1, 1).is_after(&place("a", 1, 1)), Some(false));
        assert_eq!(place("a", 2, 2).is_after(&place("a", 1, 1)), None);
        assert_eq!(place("b", 1, 2).is_after(&place("a", 1, 1)), None);
    }
}
