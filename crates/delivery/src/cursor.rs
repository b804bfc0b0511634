//! The text of `id:` and `Last-Event-ID`. No other file knows it.
//!
//! `<log>.<epoch>.<offset>`, numbers in base 36, one such place for each log, joined by `~`:
//! `m.1x8w.5k` or `r0.2f.9c~r1.2f.8a`. Letters, digits, `-`, `_`, `.` and `~` stand in a URL, a
//! header and an SSE line as they are. Clients treat it as opaque.

use std::fmt;

use fanfare_core::{Epoch, LogId, Offset, Position};
use smallvec::SmallVec;

/// The longest text of a cursor, in bytes.
pub const MAX_BYTES: usize = 4096;
/// The most logs in a cursor.
pub const MAX_LOGS: usize = 64;
/// What a cursor of one log usually has room in.
const USUAL_BYTES: usize = 48;
/// The digits of the greatest offset, in base 36.
const WIDEST: usize = 25;
/// The greatest power of 36 that 64 bits hold, and its exponent.
const CHUNK: u64 = 36_u64.pow(CHUNK_DIGITS as u32);
const CHUNK_DIGITS: usize = 12;

/// One client's place in every log that its channels live in.
///
/// Invariants: at most one place a log; sorted by log, so that equal cursors are equal texts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    places: SmallVec<[Position; 1]>,
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCursor {
    /// Longer than [`MAX_BYTES`], or more than [`MAX_LOGS`] places.
    #[error("is too long; at most {MAX_BYTES} bytes and {MAX_LOGS} places are allowed")]
    TooLong,
    /// Not of the form that an `id:` line has.
    #[error("was not made by this server; send an `id:` back as it came, or none")]
    Syntax,
}

impl Cursor {
    /// Parses the text of an `id:` line.
    ///
    /// # Errors
    /// [`InvalidCursor`] where no server of this kind made the text.
    pub fn parse(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > MAX_BYTES {
            return Err(InvalidCursor::TooLong);
        }
        let mut places = SmallVec::new();
        for part in text.split('~') {
            if places.len() == MAX_LOGS {
                return Err(InvalidCursor::TooLong);
            }
            places.push(parse_place(part).ok_or(InvalidCursor::Syntax)?);
        }
        places.sort_by(|a: &Position, b: &Position| a.log.cmp(&b.log));
        if places.windows(2).any(|pair| pair[0].log == pair[1].log) {
            return Err(InvalidCursor::Syntax);
        }
        Ok(Self { places })
    }

    /// The place in a log.
    pub fn get(&self, log: &LogId) -> Option<&Position> {
        self.places.iter().find(|place| place.log == *log)
    }

    /// Puts a place, in the stead of the one of the same log.
    pub fn set(&mut self, place: Position) {
        match self
            .places
            .binary_search_by(|held| held.log.cmp(&place.log))
        {
            Ok(index) => self.places[index] = place,
            Err(index) => self.places.insert(index, place),
        }
    }

    /// Every place, sorted by log.
    pub fn places(&self) -> &[Position] {
        &self.places
    }

    /// Whether it names no place.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

impl From<Position> for Cursor {
    fn from(place: Position) -> Self {
        Self {
            places: SmallVec::from_elem(place, 1),
        }
    }
}

impl FromIterator<Position> for Cursor {
    fn from_iter<I: IntoIterator<Item = Position>>(places: I) -> Self {
        let mut cursor = Self::default();
        places.into_iter().for_each(|place| cursor.set(place));
        cursor
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, place) in self.places.iter().enumerate() {
            if index > 0 {
                f.write_str("~")?;
            }
            write_place(f, place)?;
        }
        Ok(())
    }
}

/// The text of the cursor that names this place alone: the id of most events.
pub(crate) fn text_of(place: &Position) -> String {
    let mut text = String::with_capacity(USUAL_BYTES);
    // A string takes all that is written.
    let _ = write_place(&mut text, place);
    text
}

fn write_place(out: &mut impl fmt::Write, place: &Position) -> fmt::Result {
    out.write_str(place.log.as_str())?;
    out.write_str(".")?;
    write_base36(out, u128::from(place.epoch.0))?;
    out.write_str(".")?;
    write_base36(out, place.offset.0)
}

fn write_base36(out: &mut impl fmt::Write, number: u128) -> fmt::Result {
    let mut digits = [b'0'; WIDEST];
    let mut end = WIDEST;
    let mut rest = number;
    // Numbers of 128 bits are divided by a routine, those of 64 by the processor.
    let high = loop {
        match u64::try_from(rest) {
            Ok(high) => break high,
            Err(_) => {
                let low = (rest % u128::from(CHUNK)) as u64;
                put_base36(&mut digits[..end], low);
                rest /= u128::from(CHUNK);
                end -= CHUNK_DIGITS;
            }
        }
    };
    let start = put_base36(&mut digits[..end], high);
    // They are ASCII.
    out.write_str(std::str::from_utf8(&digits[start..]).unwrap_or_default())
}

/// Writes a number so that it ends where `digits` end. Answers where it begins.
fn put_base36(digits: &mut [u8], mut number: u64) -> usize {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
        if number == 0 {
            return start;
        }
    }
}

fn parse_base36(text: &str) -> Option<u128> {
    // One text for each number: no signs, capitals or leading zeros.
    let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    if text.is_empty() || !text.bytes().all(plain) || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    u128::from_str_radix(text, 36).ok()
}

fn parse_place(text: &str) -> Option<Position> {
    let mut parts = text.split('.');
    let (log, epoch, offset) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Position {
        log: LogId::parse(log).ok()?,
        epoch: Epoch(parse_base36(epoch)?.try_into().ok()?),
        offset: Offset(parse_base36(offset)?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_cursor_are_one_to_one(
            places in proptest::collection::vec(("[a-c]{1,2}", any::<u64>(), any::<u128>()), 1..5),
        ) {
            let cursor: Cursor = places
                .into_iter()
                .map(|(log, epoch, offset)| Position {
                    log: LogId::parse(&log).unwrap(),
                    epoch: Epoch(epoch),
                    offset: Offset(offset),
                })
                .collect();
            let text = cursor.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            let each: Vec<_> = cursor.places().iter().map(text_of).collect();
            prop_assert_eq!(&text, &each.join("~"));
            prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,60}|[a-z0-9.~-]{0,60}") {
            if let Ok(cursor) = Cursor::parse(&text) {
                prop_assert_eq!(cursor.places().len(), text.split('~').count());
            }
        }
    }

    #[test]
    fn one_log_is_short() {
        let widest = format!("m.{}.{}", "3w5e11264sgsf", "f5lxx1zz5pnorynqglhzmsp33");
        let cursor = Cursor::parse(&widest).unwrap();
        assert_eq!(cursor.places()[0].offset, Offset(u128::MAX));
        assert!(widest.len() < 64);
    }

    #[test]
    fn foreign_texts_are_refused() {
        for bad in [
            "",
            "0",
            "m",
            "m.1",
            "m.1.2.3",
            "m.-1.2",
            "m.+1.2",
            "m.A.2",
            "m.01.2",
            "m.1.2~",
            "~m.1.2",
            "m.1.2~m.1.3",
            "m.zzzzzzzzzzzzzzzz.1",
            "m.1.zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "m .1.2",
            "ü.1.1",
            "m.1.\0",
        ] {
            assert_eq!(Cursor::parse(bad), Err(InvalidCursor::Syntax), "{bad:?}");
        }
        assert_eq!(
            Cursor::parse(&"x".repeat(MAX_BYTES + 1)),
            Err(InvalidCursor::TooLong)
        );
    }
}
