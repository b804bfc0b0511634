//! The slot of a key in a Redis Cluster.
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.

/// How many there are.
const SLOTS: u16 = 16_384;

/// The slot of a key: of what stands in its first braces, if anything does.
pub(crate) fn of(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let crc = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(crc, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_servers() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT answers.
        for (key, slot) in [("foo", 12182), ("{foo}.x", 12182), ("bar", 5061)] {
            assert_eq!(of(key), slot, "{key}");
        }
        assert_eq!(of("foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(of("foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
    }
}
