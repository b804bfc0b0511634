//! HTTP/1.1 responses as they come: heads, then the lines of their bodies.
//!
//! Written apart from Fanfare's own decoder, so that no figure and no fault is seen through the
//! code that is measured; and quicker, since it copies a line only where a read cut it.

use std::io;

use memchr::{memchr, memmem};

/// The largest head of a response that is read.
const MAX_HEAD: usize = 16 << 10;
/// The longest line of a body that is read.
const MAX_LINE: usize = 4 << 20;

/// Takes what a [`Reader`] finds.
pub(crate) trait Heard {
    /// A head came.
    fn head(&mut self, status: u16);
    /// A line of the body, without its LF.
    fn line(&mut self, line: &[u8]);
    /// The response is whole; another may follow.
    fn end(&mut self);
}

/// Reads the responses on one connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    state: State,
    /// A head that a read cut, or a line that a read or a chunk cut.
    held: Vec<u8>,
    chunked: bool,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum State {
    #[default]
    Head,
    /// A chunk's size, as far as it came.
    Size(usize),
    /// So many bytes of the body, or of a chunk.
    Body(usize),
    /// The CRLF after a chunk; how much of it is left.
    AfterChunk(usize),
    /// What follows the last chunk; whether the line is empty so far.
    Trailer(bool),
}

impl Reader {
    /// Takes bytes that came.
    ///
    /// # Errors
    /// What is no HTTP/1.1 response.
    pub(crate) fn take(&mut self, mut bytes: &[u8], heard: &mut impl Heard) -> io::Result<()> {
        while let Some((&first, after)) = bytes.split_first() {
            match self.state {
                State::Head => bytes = self.take_head(bytes, heard)?,
                State::Body(left) => {
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    self.take_body(now, heard)?;
                    bytes = rest;
                    match left - now.len() {
                        0 if self.chunked => self.state = State::AfterChunk(2),
                        0 => self.whole(heard),
                        left => self.state = State::Body(left),
                    }
                }
                State::Size(size) => {
                    bytes = after;
                    self.state = match (first, (first as char).to_digit(16)) {
                        (_, Some(digit)) if size < usize::MAX >> 4 => {
                            State::Size(size << 4 | digit as usize)
                        }
                        (b'\r', _) => State::Size(size),
                        (b'\n', _) if size == 0 => State::Trailer(true),
                        (b'\n', _) => State::Body(size),
                        _ => return Err(bad("a chunk without a size")),
                    };
                }
                State::AfterChunk(left) => {
                    bytes = after;
                    self.state = match left {
                        2.. => State::AfterChunk(left - 1),
                        _ => State::Size(0),
                    };
                }
                State::Trailer(empty) => {
                    bytes = after;
                    match first {
                        b'\n' if empty => self.whole(heard),
                        b'\n' => self.state = State::Trailer(true),
                        b'\r' => {}
                        _ => self.state = State::Trailer(false),
                    }
                }
            }
        }
        Ok(())
    }

    fn take_head<'a>(&mut self, bytes: &'a [u8], heard: &mut impl Heard) -> io::Result<&'a [u8]> {
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.held, b"\r\n\r\n") else {
            return if self.held.len() > MAX_HEAD {
                Err(bad("a head without an end"))
            } else {
                Ok(&[])
            };
        };
        let head = String::from_utf8_lossy(&self.held[..end]).to_ascii_lowercase();
        let status = head.get(9..12).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| bad("no status line"))?;
        let field = |name: &str| {
            let found = head.lines().find_map(|line| line.strip_prefix(name));
            found.map(str::trim)
        };
        self.chunked = field("transfer-encoding:") == Some("chunked");
        let length = field("content-length:").and_then(|text| text.parse().ok());
        self.held = Vec::new();
        heard.head(status);
        match length {
            _ if self.chunked => self.state = State::Size(0),
            Some(0) => self.whole(heard),
            Some(length) => self.state = State::Body(length),
            // Until the connection ends.
            None => self.state = State::Body(usize::MAX),
        }
        Ok(&bytes[end + 4 - before..])
    }

    fn take_body(&mut self, mut bytes: &[u8], heard: &mut impl Heard) -> io::Result<()> {
        while let Some(end) = memchr(b'\n', bytes) {
            if self.held.is_empty() {
                heard.line(&bytes[..end]);
            } else {
                self.held.extend_from_slice(&bytes[..end]);
                heard.line(&self.held);
                self.held.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.held.extend_from_slice(bytes);
        if self.held.len() > MAX_LINE {
            return Err(bad("a line without an end"));
        }
        Ok(())
    }

    fn whole(&mut self, heard: &mut impl Heard) {
        if !self.held.is_empty() {
            heard.line(&std::mem::take(&mut self.held));
        }
        heard.end();
        self.state = State::Head;
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Heard for Notes {
        fn head(&mut self, status: u16) {
            self.0.push(status.to_string());
        }
        fn line(&mut self, line: &[u8]) {
            self.0.push(String::from_utf8_lossy(line).into_owned());
        }
        fn end(&mut self) {
            self.0.push("end".into());
        }
    }

    const STREAM: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        9\r\nid: 1\ndat\r\nA\r\na: x\n\nid: \r\n3\r\n2\n\n\r\n0\r\nX: y\r\n\r\n";
    const SIZED: &str = "HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\na\nb";
    const EMPTY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    const OPEN: &str = "HTTP/1.0 200 OK\r\n\r\n:\ndata: 1\n";

    #[test]
    fn wherever_reads_cut_it_is_the_same() {
        let text = [STREAM, SIZED, EMPTY, OPEN].concat();
        let expected = [
            "200", "id: 1", "data: x", "", "id: 2", "", "end", "201", "a", "b", "end", "503",
            "end", "200", ":", "data: 1",
        ];
        for size in 1..text.len() + 1 {
            let (mut reader, mut notes) = (Reader::default(), Notes::default());
            for piece in text.as_bytes().chunks(size) {
                reader.take(piece, &mut notes).unwrap();
            }
            assert_eq!(notes.0, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_response_is_an_error() {
        for text in [
            "garbage\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            let result = Reader::default().take(text.as_bytes(), &mut Notes::default());
            assert!(result.is_err(), "{text}");
        }
    }
}
