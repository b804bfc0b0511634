//! The bytes that a floor server sends: those that Fanfare sends.

use std::io::Write as _;

/// The head of a stream, and the first chunk.
pub(super) const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\
content-type: text/event-stream\r\n\
cache-control: no-cache, no-store, no-transform\r\n\
x-accel-buffering: no\r\n\
connection: keep-alive\r\n\
transfer-encoding: chunked\r\n\
date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n\
e\r\nretry: 2345\n:\n\r\n";

/// As long as the epoch of a memory broker.
const EPOCH: &str = "floor00000000";

/// Encodes events, one chunk each.
#[derive(Debug, Default)]
pub(super) struct Frames {
    offset: u64,
    body: Vec<u8>,
    chunk: Vec<u8>,
}

impl Frames {
    /// The next event's id, and its chunk.
    pub(super) fn next(&mut self, data: &str) -> (String, &[u8]) {
        self.offset += 1;
        let id = format!("m.{EPOCH}.{}", base36(self.offset));
        self.body.clear();
        // Writing to a Vec does not fail.
        let _ = write!(self.body, "id: {id}\ndata: {data}\n\n");
        self.chunk.clear();
        let _ = write!(self.chunk, "{:x}\r\n", self.body.len());
        self.chunk.extend_from_slice(&self.body);
        self.chunk.extend_from_slice(b"\r\n");
        (id, &self.chunk)
    }
}

/// The answer to a publish.
pub(super) fn created(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = (number % 36) as u32;
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_whole_chunk() {
        let mut frames = Frames::default();
        let (_, chunk) = frames.next("x");
        let text = String::from_utf8(chunk.to_vec()).unwrap();
        assert_eq!(text, format!("1f\r\nid: m.{EPOCH}.1\ndata: x\n\n\r\n"));
        assert_eq!(base36(0), "0");
        assert_eq!(base36(36 * 36 + 35), "10z");
    }
}
