//! `POST /publish` with NDJSON: a publication each line, a result each line, while it streams.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Body, response::Response};
use bytes::{Buf, Bytes, BytesMut};
use fanfare_core::{Channel, MAX_BATCH, Publication};
use futures_util::{FutureExt, stream};
use http::{HeaderValue, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use memchr::memchr;
use tokio::{task::yield_now, time};

use super::{item, not_utf8, publisher::Publisher};
use crate::{app::App, body, problem::Refusal, query::Query, route::json};

/// About how many bytes of lines are published at a time.
const BATCH_BYTES: usize = 256 << 10;
/// How often it is looked whether more has come, before what has is published. hyper hands on one
/// piece of a body in a turn of its connection, and asks for the answer's body twice in each.
const LOOKS: usize = 2;

/// Answers at once with a stream of results. Lines that have come are published together; the next
/// ones are read when the results of those before have been taken: order is kept, and a publisher
/// that does not read its results waits.
pub(super) fn answer(app: &Arc<App>, parts: &Parts, body: Body) -> Result<Response, Refusal> {
    Query::parse(parts.uri.query(), &[], app.auth.takes_query_token())?;
    body::refuse_encoding(&parts.headers)?;
    let publisher = Publisher::new(app, parts)?;
    let lines = Lines {
        body,
        buffer: BytesMut::new(),
        searched: 0,
        most: longest_line(app.config.limits.event_bytes),
        skipping: false,
        ended: false,
    };
    let results = stream::unfold((publisher, lines), |(publisher, mut lines)| async move {
        let result = lines.publish_next(&publisher).await?;
        Some((Ok::<_, Infallible>(result), (publisher, lines)))
    });
    let mut response = json(StatusCode::OK, Body::from_stream(results));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// The longest line that an event within its own bound can need: JSON writes a byte as six at
/// most, beside names and punctuation.
fn longest_line(event_bytes: usize) -> usize {
    event_bytes.saturating_mul(6).saturating_add(8 << 10)
}

/// The body, line by line.
struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How far the buffer was searched for an end of line already.
    searched: usize,
    most: usize,
    /// The rest of a line that was too long is being thrown away.
    skipping: bool,
    ended: bool,
}

enum Line {
    Whole(Bytes),
    TooLong,
    Stalled,
    Broken,
}

impl Lines {
    /// The results of the next line and of what has come behind it, each with its end of line;
    /// `None` at the end.
    async fn publish_next(&mut self, publisher: &Publisher) -> Option<Bytes> {
        let mut batch = Vec::new();
        while batch.is_empty() {
            let (mut bytes, mut next) = (0, Some(self.next(publisher).await?));
            while let Some(line) = next {
                if let Line::Whole(text) = &line {
                    bytes += text.len();
                }
                let is_broken = matches!(line, Line::Broken);
                batch.extend(self.parse(line));
                if is_broken {
                    break;
                }
                let is_full = batch.len() == MAX_BATCH || bytes >= BATCH_BYTES;
                next = if is_full {
                    None
                } else {
                    self.next_if_there(publisher).await
                };
            }
            if self.ended && batch.is_empty() {
                return None;
            }
        }
        let results = publisher.publish_all(batch).await.into_iter();
        let lines = results.map(|published| item::result(published) + "\n");
        Some(lines.collect::<String>().into())
    }

    /// What a line publishes; nothing where it is blank.
    fn parse(&self, line: Line) -> Option<Result<(Channel, Publication), Refusal>> {
        match line {
            Line::Whole(line) => match std::str::from_utf8(&line) {
                Ok(text) if text.trim().is_empty() => None,
                Ok(text) => Some(item::parse(text)),
                Err(error) => Some(Err(not_utf8(fanfare_core::NotUtf8 {
                    at: error.valid_up_to(),
                }))),
            },
            Line::TooLong => Some(Err(Refusal::TooLarge {
                what: "the line",
                allowed: format!("{} bytes", self.most),
            })),
            Line::Stalled => Some(Err(Refusal::BodyTimeout)),
            Line::Broken => None,
        }
    }

    /// The next line of what has come.
    fn whole(&mut self) -> Option<Line> {
        loop {
            let Some(at) = memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return None;
            };
            let mut line = self.buffer.split_to(self.searched + at + 1).freeze();
            self.searched = 0;
            line.truncate(line.len() - 1);
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            return Some(if line.len() > self.most {
                Line::TooLong
            } else {
                Line::Whole(line)
            });
        }
    }

    /// The next line, if it has come.
    async fn next_if_there(&mut self, publisher: &Publisher) -> Option<Line> {
        for _ in 0..LOOKS {
            if let Some(line) = self.next(publisher).now_or_never() {
                return line;
            }
            yield_now().await;
        }
        self.next(publisher).now_or_never().flatten()
    }

    /// The next line; `None` at the end. Cancel safe.
    async fn next(&mut self, publisher: &Publisher) -> Option<Line> {
        let limits = &publisher.app.config.limits;
        loop {
            if let Some(line) = self.whole() {
                return Some(line);
            }
            if self.skipping {
                self.buffer.advance(self.searched);
                self.searched = 0;
            } else if self.buffer.len() > self.most {
                self.skipping = true;
                return Some(Line::TooLong);
            }
            if self.ended {
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return (!rest.is_empty()).then_some(Line::Whole(rest));
            }
            // Between lines a publisher may rest; within one it goes on.
            let patience = if self.buffer.is_empty() {
                limits.ndjson_idle
            } else {
                limits.body_timeout
            };
            match time::timeout(patience, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Ok(None) => self.ended = true,
                // A line without its end is not published: nobody knows what it was to be.
                Ok(Some(Err(_))) => return Some(self.end(Line::Broken)),
                Err(_) => return Some(self.end(Line::Stalled)),
            }
        }
    }

    fn end(&mut self, with: Line) -> Line {
        self.ended = true;
        self.buffer.clear();
        self.searched = 0;
        with
    }
}
