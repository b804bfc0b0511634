//! Events to bytes.
//!
//! Rules beyond the specification, each for a client that needs it: lines end in LF only; no byte
//! order mark; no id-only block (some clients forget its id); a blank line only where it ends an
//! event (some clients fire an empty message at any other).

use std::time::Duration;

use memchr::{memchr2, memchr2_iter, memchr3};

/// What an idle stream sends: a comment without text.
///
/// Two bytes, and no blank line after it: a blank line makes some clients fire an empty message.
/// It may stand between any two events.
pub const HEARTBEAT: &[u8] = b":\n";

const DATA: &[u8] = b"data: ";

/// Writes an event: its `id:` line, if any, then what [`encode_body`] writes.
pub fn encode_event(out: &mut Vec<u8>, id: Option<&str>, event_type: Option<&str>, data: &str) {
    let id_bytes = id.map_or(0, |id| field_bytes("id", id));
    out.reserve(id_bytes + body_bytes(event_type, data));
    if let Some(id) = id {
        write_field(out, "id", id);
    }
    write_body(out, event_type, data);
}

/// Writes the `id:` line of an event. [`encode_body`] must follow.
///
/// Apart from the body, so that subscribers with different ids share one encoded body.
pub fn encode_id(out: &mut Vec<u8>, id: &str) {
    out.reserve(field_bytes("id", id));
    write_field(out, "id", id);
}

/// Writes the rest of an event: the `event:` line, if it has a type, a `data:` line for each line
/// of its data, and the blank line that dispatches it.
///
/// LF, CR and CRLF each end a line of data and arrive as LF. Data that ends in one has an empty
/// last line. Empty data is one empty `data:` line, which is dispatched: only a block without any
/// `data:` line is not.
pub fn encode_body(out: &mut Vec<u8>, event_type: Option<&str>, data: &str) {
    out.reserve(body_bytes(event_type, data));
    write_body(out, event_type, data);
}

/// Writes how long a client shall wait before it reconnects, in whole milliseconds.
///
/// A line of its own, in effect once read; no blank line, as with [`HEARTBEAT`].
pub fn encode_retry(out: &mut Vec<u8>, wait: Duration) {
    let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    write_field(out, "retry", itoa::Buffer::new().format(milliseconds));
}

/// Writes a comment, one line for each line of the text. Clients ignore it.
pub fn encode_comment(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() {
        out.extend_from_slice(HEARTBEAT);
    } else {
        write_lines(out, b": ", text);
    }
}

fn write_body(out: &mut Vec<u8>, event_type: Option<&str>, data: &str) {
    if let Some(event_type) = event_type {
        write_field(out, "event", event_type);
    }
    // Always with the space: it guards a leading space of the data, and simple clients that look
    // for `data: ` find empty lines too.
    write_lines(out, DATA, data);
    out.push(b'\n');
}

fn write_lines(out: &mut Vec<u8>, prefix: &[u8], text: &str) {
    let mut rest = text.as_bytes();
    loop {
        out.extend_from_slice(prefix);
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let pair = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(pair)..];
    }
}

/// Writes a field of one line. What would end the line (CR, LF), or void an id (NUL), becomes
/// U+FFFD.
///
/// Ids and event types come as parsed types that hold none of these, so a second newtype here
/// would check the same twice; and an error nobody can cause would be handled nowhere. What
/// remains is a last guard that costs one look at a short text. It replaces and does not drop:
/// dropping could make a name out of what was none (`fan\nfare.gap`).
fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let mut rest = value.as_bytes();
    while let Some(bad) = memchr3(b'\r', b'\n', 0, rest) {
        out.extend_from_slice(&rest[..bad]);
        out.extend_from_slice("\u{fffd}".as_bytes());
        rest = &rest[bad + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\n');
}

fn field_bytes(name: &str, value: &str) -> usize {
    name.len() + value.len() + ": \n".len()
}

/// Room for a body; a little more than needed where CRLF ends a line.
fn body_bytes(event_type: Option<&str>, data: &str) -> usize {
    let breaks = memchr2_iter(b'\n', b'\r', data.as_bytes()).count();
    let event = event_type.map_or(0, |event_type| field_bytes("event", event_type));
    event + data.len() + (breaks + 1) * DATA.len() + "\n\n".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, event_type: Option<&str>, data: &str) -> String {
        let mut out = Vec::new();
        encode_event(&mut out, id, event_type, data);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_of_data_is_a_data_line() {
        for (data, expected) in [
            ("", "data: \n\n"),
            ("a", "data: a\n\n"),
            (" a", "data:  a\n\n"),
            ("a\nb", "data: a\ndata: b\n\n"),
            ("a\rb", "data: a\ndata: b\n\n"),
            ("a\r\nb", "data: a\ndata: b\n\n"),
            ("a\n\rb", "data: a\ndata: \ndata: b\n\n"),
            ("a\r\r\nb", "data: a\ndata: \ndata: b\n\n"),
            ("a\n", "data: a\ndata: \n\n"),
            ("a\r", "data: a\ndata: \n\n"),
            ("\n", "data: \ndata: \n\n"),
            ("id: 1\n\n:", "data: id: 1\ndata: \ndata: :\n\n"),
            ("a\u{2028}b\u{85}c\u{b}", "data: a\u{2028}b\u{85}c\u{b}\n\n"),
        ] {
            assert_eq!(event(None, None, data), expected, "{data:?}");
        }
    }

    #[test]
    fn fields_stand_in_a_fixed_order() {
        assert_eq!(
            event(Some("m1.8"), Some("order"), "x"),
            "id: m1.8\nevent: order\ndata: x\n\n"
        );
    }

    #[test]
    fn id_and_body_apart_are_the_event() {
        let mut apart = Vec::new();
        encode_id(&mut apart, "7");
        encode_body(&mut apart, Some("t"), "a\nb");
        assert_eq!(apart, event(Some("7"), Some("t"), "a\nb").as_bytes());
    }

    #[test]
    fn names_cannot_inject_a_field() {
        assert_eq!(
            event(Some("1\ndata: x"), Some("a\r\n\nfanfare.gap\0"), "y"),
            "id: 1\u{fffd}data: x\n\
             event: a\u{fffd}\u{fffd}\u{fffd}fanfare.gap\u{fffd}\n\
             data: y\n\n"
        );
    }

    #[test]
    fn room_is_made_once() {
        for data in ["", "x", "a\nb\r\nc\r", &"line\n".repeat(1000)] {
            let exact = event(Some("12"), Some("t"), data).len();
            let mut out = Vec::new();
            encode_event(&mut out, Some("12"), Some("t"), data);
            let slack = data.matches("\r\n").count() * (DATA.len() + 1);
            assert!(out.capacity() <= exact + slack, "{data:?}");
        }
    }

    #[test]
    fn retry_is_whole_milliseconds() {
        let mut out = Vec::new();
        encode_retry(&mut out, Duration::from_micros(1_500_900));
        encode_retry(&mut out, Duration::MAX);
        assert_eq!(out, b"retry: 1500\nretry: 18446744073709551615\n");
    }

    #[test]
    fn comments_cannot_inject_a_field() {
        let mut out = Vec::new();
        encode_comment(&mut out, "hi\ndata: x\r\n");
        encode_comment(&mut out, "");
        assert_eq!(out, b": hi\n: data: x\n: \n:\n");
    }
}
