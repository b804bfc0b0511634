//! Bytes to events.

use std::{borrow::Cow, time::Duration};

use memchr::memchr;

use crate::lines::{DEFAULT_LIMIT, Lines, Part, TooLarge};

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An event that a browser would dispatch.
    Event(Event),
    /// A comment line, without its colon and one leading space. A heartbeat is an empty one.
    Comment(String),
    /// How long to wait before a reconnect.
    Retry(Duration),
}

/// An event that a browser would dispatch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The last event id at dispatch: of this event, or of one before it; empty if none was sent.
    pub id: String,
    /// Its type: `message` where the stream names none.
    pub event_type: Cow<'static, str>,
    /// Its data, lines joined by LF.
    pub data: String,
}

/// Decodes a stream as a browser does, pushed in chunks of any size.
///
/// [`push`](Self::push) bytes, then iterate: the iterator ends where more bytes are needed and
/// goes on after the next push. A block that the stream's end cuts off is never yielded. Bytes
/// that are not UTF-8 become U+FFFD.
///
/// After [`TooLarge`] nothing more is yielded: the stream has no place to go on from.
///
/// Memory: the bytes pushed and not yet iterated over, plus at most twice the limit.
///
/// ```
/// # use fanfare_sse::{Decoder, Item};
/// let mut decoder = Decoder::new();
/// decoder.push(b"id: 7\ndata: a\nda");
/// assert!(decoder.next().is_none());
/// decoder.push(b"ta: b\r\n\r\n");
/// let Some(Ok(Item::Event(event))) = decoder.next() else { panic!() };
/// assert_eq!((&*event.id, &*event.event_type, &*event.data), ("7", "message", "a\nb"));
/// ```
#[derive(Debug)]
pub struct Decoder {
    lines: Lines,
    block: Block,
    last_event_id: String,
    failed: bool,
}

impl Decoder {
    /// A decoder with [`DEFAULT_LIMIT`].
    pub fn new() -> Self {
        Self::with_limit(DEFAULT_LIMIT)
    }

    /// A decoder that takes lines, and data of one event, of up to `limit` bytes each.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            lines: Lines::new(limit),
            block: Block::new(limit),
            last_event_id: String::new(),
            failed: false,
        }
    }

    /// Begins with the last event id of the connection before, as browsers do: an event without
    /// an id then leaves it as it was.
    #[must_use]
    pub fn resuming(mut self, last_event_id: impl Into<String>) -> Self {
        self.last_event_id = last_event_id.into();
        self.block.id.clone_from(&self.last_event_id);
        self
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, chunk: &[u8]) {
        if !self.failed {
            self.lines.push(chunk);
        }
    }

    /// What a client that reconnects now sends as `Last-Event-ID`; empty: nothing.
    ///
    /// An id counts once its block ended, with or without data.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    fn step(&mut self) -> Result<Option<Item>, TooLarge> {
        while let Some(line) = self.lines.next()? {
            let item = if line.is_empty() {
                if self.block.id_changed {
                    self.block.id_changed = false;
                    self.last_event_id.clone_from(&self.block.id);
                }
                self.block.dispatch().map(Item::Event)
            } else {
                self.block.line(line)?
            };
            if item.is_some() {
                return Ok(item);
            }
        }
        Ok(None)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Decoder {
    type Item = Result<Item, TooLarge>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.failed = true;
            self.lines = Lines::new(0);
            self.block = Block::new(0);
        }
        step.transpose()
    }
}

/// The buffers of the specification for the block being read.
#[derive(Debug)]
struct Block {
    id: String,
    id_changed: bool,
    event_type: String,
    /// The data lines, joined by LF; `None` before the first, which is not the same as empty.
    data: Option<Vec<u8>>,
    limit: usize,
}

impl Block {
    fn new(limit: usize) -> Self {
        Self {
            id: String::new(),
            id_changed: false,
            event_type: String::new(),
            data: None,
            limit,
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Item>, TooLarge> {
        let colon = memchr(b':', line);
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[..0]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => self.data_line(value)?,
            b"event" => self.event_type = text(value),
            b"id" if memchr(0, value).is_none() => {
                self.id = text(value);
                self.id_changed = true;
            }
            b"retry" => return Ok(milliseconds(value).map(Item::Retry)),
            b"" => return Ok(Some(Item::Comment(text(value)))),
            _ => {}
        }
        Ok(None)
    }

    fn data_line(&mut self, value: &[u8]) -> Result<(), TooLarge> {
        let joined = self.data.as_ref().map_or(0, |data| data.len() + 1) + value.len();
        if joined > self.limit {
            return Err(TooLarge {
                part: Part::Event,
                limit: self.limit,
            });
        }
        match &mut self.data {
            None => self.data = Some(value.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event_type = std::mem::take(&mut self.event_type);
        let data = self.data.take()?;
        Some(Event {
            id: self.id.clone(),
            event_type: if event_type.is_empty() {
                Cow::Borrowed("message")
            } else {
                Cow::Owned(event_type)
            },
            data: String::from_utf8(data)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        })
    }
}

/// Decoding line by line is the same as decoding the stream: no sequence of UTF-8 holds a CR, LF,
/// colon or space, so an ill-formed one ends before them.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Digits only; more of them than a `u64` holds are as long as a `u64` can say.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = value.iter().fold(0_u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Some(Duration::from_millis(number))
}
