//! The data of an event: it says which one it is, and shows where bytes are not its own.

use std::fmt::Write as _;

/// The least length, which has room for every channel and number.
const LEAST: usize = 16;

/// The length that data of a wanted length has.
pub(super) fn length(wanted: usize) -> usize {
    wanted.max(LEAST)
}

/// `<channel>/<number> ` and filler up to the length.
pub(super) fn make(channel: usize, number: usize, wanted: usize) -> String {
    let bytes = length(wanted);
    let mut data = String::with_capacity(bytes);
    // Writing to a String does not fail.
    let _ = write!(data, "{channel}/{number} ");
    let filler = filler(channel, number);
    while data.len() < bytes {
        data.push(filler);
    }
    data
}

/// The number, if the data is whole and of this channel.
pub(super) fn number_of(channel: usize, data: &str) -> Option<usize> {
    let (head, rest) = data.split_once(' ')?;
    let (of, number) = head.split_once('/')?;
    let number = number.parse().ok()?;
    let is_own = of.parse() == Ok(channel) && rest.chars().all(|c| c == filler(channel, number));
    is_own.then_some(number)
}

fn filler(channel: usize, number: usize) -> char {
    char::from(b"abcdefghijklmnopqrstuvwxyz"[(channel + number) % 26])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_says_which_event_it_is() {
        let data = make(7, 123, 40);
        assert_eq!((data.len(), number_of(7, &data)), (40, Some(123)));
        assert_eq!(number_of(8, &data), None, "of another channel");
        assert_eq!(number_of(7, &format!("{data}x")), None, "other bytes");
        assert_eq!(number_of(7, &make(7, 1, 0)), Some(1));
        assert_eq!(make(49, 1_000_000, 0).len(), length(0));
    }
}
