//! A byte stream in any split to lines: a byte order mark at its start, and CR, LF and CRLF as
//! line ends.

use std::fmt;

use memchr::memchr2;

/// The bound of one line and of one event's data, unless another is given: 16 MiB.
pub const DEFAULT_LIMIT: usize = 16 << 20;

/// Buffers above this size, in bytes, are given back once they are empty.
const KEPT_CAPACITY: usize = 64 << 10;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The stream holds something larger than the decoder's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{part} has more than {limit} bytes")]
pub struct TooLarge {
    /// What is too large.
    pub part: Part,
    /// The bound, in bytes.
    pub limit: usize,
}

/// What can be too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One line of the stream, without its end.
    Line,
    /// The data of one event, its lines joined by LF.
    Event,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "a line",
            Self::Event => "the data of an event",
        })
    }
}

/// Bytes not yet read as lines.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    read: usize,
    /// Up to where no line end was found, so that a long line is looked through once.
    scanned: usize,
    at_start: bool,
    /// The last line ended in CR with nothing after it yet: an LF that follows belongs to it.
    after_cr: bool,
    limit: usize,
}

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            read: 0,
            scanned: 0,
            at_start: true,
            after_cr: false,
            limit,
        }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        if self.read == self.bytes.len() {
            self.bytes.clear();
            if self.bytes.capacity() > KEPT_CAPACITY {
                self.bytes = Vec::new();
            }
            (self.read, self.scanned) = (0, 0);
        } else if self.read > self.bytes.len() / 2 {
            // Only when the larger half is read: each byte then moves at most once on average.
            self.bytes.drain(..self.read);
            self.scanned -= self.read;
            self.read = 0;
        }
        self.bytes.extend_from_slice(chunk);
    }

    /// The next whole line, without its end.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, TooLarge> {
        if self.at_start {
            let head = &self.bytes[..self.bytes.len().min(BOM.len())];
            if head == BOM {
                self.skip(BOM.len());
            } else if BOM.starts_with(head) {
                return Ok(None);
            }
            self.at_start = false;
        }
        if self.after_cr && self.read < self.bytes.len() {
            self.after_cr = false;
            if self.bytes[self.read] == b'\n' {
                self.skip(1);
            }
        }
        let found = memchr2(b'\n', b'\r', &self.bytes[self.scanned..]);
        let end = found.map_or(self.bytes.len(), |at| self.scanned + at);
        if end - self.read > self.limit {
            return Err(TooLarge {
                part: Part::Line,
                limit: self.limit,
            });
        }
        if found.is_none() {
            self.scanned = end;
            return Ok(None);
        }
        let start = self.read;
        self.after_cr = self.bytes[end] == b'\r';
        self.read = end + 1;
        self.scanned = self.read;
        Ok(Some(&self.bytes[start..end]))
    }

    fn skip(&mut self, bytes: usize) {
        self.read += bytes;
        self.scanned = self.scanned.max(self.read);
    }
}
