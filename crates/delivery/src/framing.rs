//! What stands around SSE bytes on a socket.

use bytes::Bytes;

/// What stands around the bytes of a stream, by the client's version of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Framing {
    /// Nothing: HTTP/1.0, where the connection's end is the stream's, and bodies, which hyper
    /// frames.
    Plain,
    /// The chunks of HTTP/1.1 (RFC 9112, section 7.1).
    Chunked,
}

/// Bytes of a stream in both framings: one buffer, of which the plain one is a part.
#[derive(Clone, Debug)]
pub(crate) struct Framed {
    pub(crate) plain: Bytes,
    pub(crate) chunked: Bytes,
}

impl Framing {
    /// The bytes as they go to the socket.
    pub(crate) fn of(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Plain => bytes,
            Self::Chunked => Framed::new(&bytes).chunked,
        }
    }

    /// A heartbeat, made once for all.
    pub(crate) fn heartbeat(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Plain => fanfare_sse::HEARTBEAT,
            Self::Chunked => b"2\r\n:\n\r\n",
        })
    }

    /// What ends a stream.
    pub(crate) fn end(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Plain => b"",
            Self::Chunked => b"0\r\n\r\n",
        })
    }
}

impl Framed {
    /// Frames bytes, which are not empty: an empty chunk would end the stream.
    pub(crate) fn new(plain: &[u8]) -> Self {
        let mut digits = [0_u8; 16];
        let mut start = digits.len();
        let mut size = plain.len();
        while size > 0 || start == digits.len() {
            start -= 1;
            digits[start] = b"0123456789abcdef"[size % 16];
            size /= 16;
        }
        let head = digits.len() - start + 2;
        let mut out = Vec::with_capacity(head + plain.len() + 2);
        out.extend_from_slice(&digits[start..]);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(plain);
        out.extend_from_slice(b"\r\n");
        let chunked = Bytes::from(out);
        Self {
            plain: chunked.slice(head..head + plain.len()),
            chunked,
        }
    }

    pub(crate) fn get(&self, framing: Framing) -> &Bytes {
        match framing {
            Framing::Plain => &self.plain,
            Framing::Chunked => &self.chunked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_names_its_size_in_hex() {
        for (size, head) in [(1, "1"), (15, "f"), (16, "10"), (4096, "1000")] {
            let framed = Framed::new(&vec![b'x'; size]);
            let expected = format!("{head}\r\n{}\r\n", "x".repeat(size));
            assert_eq!(framed.chunked, expected);
            assert_eq!(framed.plain, "x".repeat(size));
        }
        let heartbeat = Framing::Chunked.of(Framing::Plain.heartbeat());
        assert_eq!(heartbeat, Framing::Chunked.heartbeat());
    }
}
