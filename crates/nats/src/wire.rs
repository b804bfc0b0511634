//! The bytes of the NATS client protocol.
//!
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Deserialize;

/// The longest line of the server, in bytes; an `INFO` of a large cluster fits.
const MAX_LINE: usize = 256 << 10;

/// What the server sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Message(Message),
    /// A message over the bound; its bytes are passed over.
    TooLarge {
        subject: Bytes,
        bytes: usize,
    },
    Ping,
    Pong,
    Info(Box<Info>),
    Err(String),
}

/// A message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) subject: Bytes,
    /// The header block; empty where there is none.
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

/// What the server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Info {
    pub(crate) headers: bool,
    pub(crate) tls_required: bool,
    pub(crate) nonce: String,
    pub(crate) max_payload: usize,
    pub(crate) connect_urls: Vec<String>,
    /// The server is about to stop and wants its clients to go elsewhere.
    #[serde(rename = "ldm")]
    pub(crate) lame_duck: bool,
}

/// Bytes that are not the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the NATS protocol: {0}")]
pub(crate) struct NotNats(&'static str);

/// Takes operations off the front of a buffer.
#[derive(Debug)]
pub(crate) struct Parser {
    /// The most bytes of a message, headers included.
    max_message: usize,
    head: Option<Head>,
    /// How many bytes of a message over the bound are still to come.
    skip: usize,
}

/// The line of a message whose payload is not all here yet.
#[derive(Debug)]
struct Head {
    subject: Bytes,
    headers: usize,
    total: usize,
}

impl Parser {
    pub(crate) fn new(max_message: usize) -> Self {
        Self {
            max_message,
            head: None,
            skip: 0,
        }
    }

    /// The next operation; `None` where more bytes are needed.
    pub(crate) fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Op>, NotNats> {
        loop {
            if self.skip > 0 {
                let gone = self.skip.min(buf.len());
                buf.advance(gone);
                self.skip -= gone;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            if let Some(head) = self.head.take() {
                if buf.len() < head.total + 2 {
                    self.head = Some(head);
                    return Ok(None);
                }
                return Ok(Some(Op::Message(take(head, buf)?)));
            }
            let Some(end) = memchr::memmem::find(buf, b"\r\n") else {
                if buf.len() > MAX_LINE {
                    return Err(NotNats("a line without an end"));
                }
                return Ok(None);
            };
            let line = buf.split_to(end);
            buf.advance(2);
            if let Some(op) = self.line(&line)? {
                return Ok(Some(op));
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Op>, NotNats> {
        let space = |b: &u8| matches!(b, b' ' | b'\t');
        let verb = line.split(space).next().unwrap_or_default();
        let rest = line[verb.len()..].trim_ascii();
        if verb.eq_ignore_ascii_case(b"MSG") || verb.eq_ignore_ascii_case(b"HMSG") {
            let head = Head::parse(rest, verb.len() == 4)?;
            if head.total > self.max_message {
                self.skip = head.total + 2;
                return Ok(Some(Op::TooLarge {
                    subject: head.subject,
                    bytes: head.total,
                }));
            }
            self.head = Some(head);
            return Ok(None);
        }
        Ok(Some(match verb.to_ascii_uppercase().as_slice() {
            b"PING" => Op::Ping,
            b"PONG" => Op::Pong,
            b"+OK" => return Ok(None),
            b"-ERR" => Op::Err(
                String::from_utf8_lossy(rest)
                    .trim_matches('\'')
                    .chars()
                    .take(512)
                    .collect(),
            ),
            b"INFO" => Op::Info(
                serde_json::from_slice(rest).map_err(|_| NotNats("an INFO that is not JSON"))?,
            ),
            _ => return Err(NotNats("an unknown operation")),
        }))
    }
}

fn take(head: Head, buf: &mut BytesMut) -> Result<Message, NotNats> {
    // Copied rather than sliced: an event may be retained for long, and a slice would hold the
    // whole read buffer, which no bound counts.
    let message = Message {
        subject: head.subject,
        headers: Bytes::copy_from_slice(&buf[..head.headers]),
        payload: Bytes::copy_from_slice(&buf[head.headers..head.total]),
    };
    let ended = &buf[head.total..head.total + 2] == b"\r\n";
    buf.advance(head.total + 2);
    if ended {
        Ok(message)
    } else {
        Err(NotNats("a message longer than announced"))
    }
}

impl Head {
    /// `subject sid [reply] [headers] total`
    fn parse(rest: &[u8], with_headers: bool) -> Result<Self, NotNats> {
        let fields: Vec<&[u8]> = rest
            .split(|b| matches!(b, b' ' | b'\t'))
            .filter(|field| !field.is_empty())
            .collect();
        let numbers = 1 + usize::from(with_headers);
        if !(2 + numbers..=3 + numbers).contains(&fields.len()) {
            return Err(NotNats("a message line with the wrong number of fields"));
        }
        let number = |field: &[u8]| {
            let text = std::str::from_utf8(field).ok();
            let value = text.and_then(|text| text.parse::<u32>().ok());
            value
                .and_then(|value| usize::try_from(value).ok())
                .ok_or(NotNats("a message line without a size"))
        };
        let total = number(fields[fields.len() - 1])?;
        let headers = match with_headers {
            true => number(fields[fields.len() - 2])?,
            false => 0,
        };
        if headers > total {
            return Err(NotNats("headers that are larger than their message"));
        }
        Ok(Self {
            subject: Bytes::copy_from_slice(fields[0]),
            headers,
            total,
        })
    }
}

/// Writes a `PUB`, or an `HPUB` where there are headers.
pub(crate) fn publish(out: &mut BytesMut, subject: &str, headers: &str, payload: &[u8]) {
    out.reserve(subject.len() + headers.len() + payload.len() + 48);
    let total = headers.len() + payload.len();
    let line = if headers.is_empty() {
        format!("PUB {subject} {total}\r\n")
    } else {
        format!("HPUB {subject} {} {total}\r\n", headers.len())
    };
    for part in [line.as_bytes(), headers.as_bytes(), payload, b"\r\n"] {
        out.put_slice(part);
    }
}

/// Writes a `SUB` as a member of a queue group.
pub(crate) fn subscribe(out: &mut BytesMut, subject: &str, group: &str, sid: u64) {
    out.put_slice(format!("SUB {subject} {group} {sid}\r\n").as_bytes());
}

/// Writes an `UNSUB`.
pub(crate) fn unsubscribe(out: &mut BytesMut, sid: u64) {
    out.put_slice(format!("UNSUB {sid}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(parser: &mut Parser, buf: &mut BytesMut) -> Vec<Op> {
        std::iter::from_fn(|| parser.next(buf).unwrap()).collect()
    }

    fn message(subject: &str, headers: &str, payload: &[u8]) -> Op {
        Op::Message(Message {
            subject: Bytes::copy_from_slice(subject.as_bytes()),
            headers: Bytes::copy_from_slice(headers.as_bytes()),
            payload: Bytes::copy_from_slice(payload),
        })
    }

    const HEADERS: &str = "NATS/1.0\r\nA: b\r\n\r\n";

    fn stream() -> (Vec<u8>, Vec<Op>) {
        let mut bytes = b"INFO {\"max_payload\":7,\"headers\":true,\"x\":[1]}\r\n+OK\r\n".to_vec();
        bytes.extend(b"PING\r\npong\r\nMSG a.b 1 5\r\nh\r\nlo\r\nMSG a 2 reply.to 0\r\n\r\n");
        bytes.extend(format!("HMSG a 3 {} {}\r\n{HEADERS}x\0y\r\n", 18, 21).as_bytes());
        bytes.extend(b"MSG big 1 100\r\n");
        bytes.extend([b'\r'; 102]);
        bytes.extend(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n");
        let info = Info {
            max_payload: 7,
            headers: true,
            ..Info::default()
        };
        let ops = vec![
            Op::Info(Box::new(info)),
            Op::Ping,
            Op::Pong,
            message("a.b", "", b"h\r\nlo"),
            message("a", "", b""),
            message("a", HEADERS, b"x\0y"),
            Op::TooLarge {
                subject: Bytes::from_static(b"big"),
                bytes: 100,
            },
            Op::Err("Permissions Violation for Publish to \"x\"".into()),
        ];
        (bytes, ops)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_reads_the_same(cuts in proptest::collection::vec(1_usize..40, 1..60)) {
            let (bytes, expected) = stream();
            let mut parser = Parser::new(99);
            let (mut buf, mut ops, mut rest) = (BytesMut::new(), Vec::new(), &bytes[..]);
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let n = rest.len().min(*cuts.next().unwrap());
                buf.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                ops.extend(all(&mut parser, &mut buf));
            }
            prop_assert_eq!(ops, expected);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buf = BytesMut::from(&bytes[..]);
            let mut parser = Parser::new(99);
            while let Ok(Some(_)) = parser.next(&mut buf) {}
        }
    }

    #[test]
    fn refuses_what_is_not_nats() {
        for bad in [
            "HTTP/1.1 400 Bad Request\r\n",
            "MSG a 1\r\n",
            "MSG a 1 -1\r\n",
            "MSG a 1 2 3 4\r\n",
            "HMSG a 1 9 5\r\n",
            "MSG a 1 1\r\nxyz",
            "INFO x\r\n",
        ] {
            let mut buf = BytesMut::from(bad);
            assert!(Parser::new(99).next(&mut buf).is_err(), "{bad:?}");
        }
        let mut endless = BytesMut::from(&[b'x'; MAX_LINE + 1][..]);
        assert!(Parser::new(99).next(&mut endless).is_err());
    }

    #[test]
    fn writes_the_documented_forms() {
        let mut out = BytesMut::new();
        publish(&mut out, "a.b", "", b"hi");
        publish(&mut out, "a", HEADERS, b"x");
        subscribe(&mut out, "a.*", "g", 7);
        unsubscribe(&mut out, 7);
        let expected =
            format!("PUB a.b 2\r\nhi\r\nHPUB a 18 19\r\n{HEADERS}x\r\nSUB a.* g 7\r\nUNSUB 7\r\n");
        assert_eq!(out, expected.as_bytes());
    }
}
