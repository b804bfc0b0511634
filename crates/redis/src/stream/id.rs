//! The ids of streams' entries as offsets, and the names of the streams' logs.

use fanfare_core::{LogId, Offset};

/// How many digits a log's name has after its letter: 62 bits, of which a cursor may hold 64.
const DIGITS: usize = 12;

/// The offset of an id, `ms-seq`.
pub(super) fn offset(id: &str) -> Option<Offset> {
    let (ms, seq) = id.split_once('-')?;
    let (ms, seq): (u64, u64) = (ms.parse().ok()?, seq.parse().ok()?);
    Some(Offset(u128::from(ms) << 64 | u128::from(seq)))
}

/// The id of an offset.
pub(super) fn id(offset: Offset) -> String {
    let (ms, seq) = ((offset.0 >> 64) as u64, offset.0 as u64);
    format!("{ms}-{seq}")
}

/// The milliseconds of an id, which Redis takes from its clock unless the publisher names the id.
pub(super) fn millis(offset: Offset) -> u64 {
    (offset.0 >> 64) as u64
}

/// The log of a stream: the same on every node.
///
/// A digest, since a key can be longer than an id may be, and has bytes that an id cannot hold.
pub(super) fn log(key: &str) -> Option<LogId> {
    digest('s', key)
}

/// The index log of a rule: see [`fanfare_core::Late`].
pub(super) fn index(rule: &str) -> Option<LogId> {
    digest('t', rule)
}

/// Whether it can be the log of a stream.
pub(super) fn is_log(log: &LogId) -> bool {
    let digits = log.as_str().strip_prefix('s').unwrap_or_default();
    digits.len() == DIGITS
        && digits
            .bytes()
            .all(|b| b"0123456789abcdefghijklmnopqrstuvwxyz".contains(&b))
}

fn digest(letter: char, text: &str) -> Option<LogId> {
    let digest = sha1_smol::Sha1::from(text).digest().bytes();
    let mut number = digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    let mut name = String::from(letter);
    for _ in 0..DIGITS {
        name.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    LogId::parse(&name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_offsets_are_one_to_one_and_in_order() {
        let ids = [
            "0-0",
            "0-1",
            "1-0",
            "1700000000000-3",
            "18446744073709551615-18446744073709551615",
        ];
        let offsets = ids.map(|text| offset(text).unwrap());
        assert!(offsets.is_sorted());
        assert_eq!(offsets.map(id), ids);
        for bad in ["", "1", "1-", "-1", "1-2-3", "18446744073709551616-0"] {
            assert_eq!(offset(bad), None, "{bad}");
        }
    }

    /// Clients hold these names in their ids: they never change.
    #[test]
    fn a_log_is_named_by_a_digest_of_its_key() {
        let log = log("orders:eu").unwrap();
        assert_eq!(log.as_str().len(), 13);
        assert_ne!(log, super::log("orders:us").unwrap());
        assert!(is_log(&log) && !is_log(&index("orders:eu").unwrap()));
    }
}
