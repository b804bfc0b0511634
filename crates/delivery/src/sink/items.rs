//! The items sink: what a long poll answers with.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time;

use super::Hold;
use crate::{CloseReason, Cursor};

/// A subscriber's events, gaps and cursor as JSON, taken in one page. Dropping it leaves.
#[derive(Debug)]
pub struct Items {
    hold: Hold,
}

/// What a poll answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// JSON objects `{"channel","event","id","data"}`, in order.
    pub events: Vec<Bytes>,
    /// JSON objects of `fanfare.gap`.
    pub gaps: Vec<Bytes>,
    /// Where to go on.
    pub cursor: Option<String>,
    /// Why the node ended it, if it did.
    pub closed: Option<CloseReason>,
}

/// One item as it stands in the outbox: see `control` and `frame`.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    gap: Option<&'a RawValue>,
    hello: Option<&'a RawValue>,
    close: Option<&'a str>,
    id: Option<&'a str>,
}

impl Items {
    pub(super) fn new(hold: Hold) -> Self {
        Self { hold }
    }

    /// Waits for an event or a gap, at most for `timeout`, then takes what is there, up to about
    /// `max_events` events and `max_bytes` bytes; one event is taken however large.
    ///
    /// Not cancel safe: a dropped call may have taken items. They are not lost to a client that
    /// polls again with the cursor it has.
    pub async fn collect(
        &mut self,
        timeout: Duration,
        max_events: usize,
        max_bytes: usize,
    ) -> Page {
        let mut page = Page::default();
        let until = time::Instant::now() + timeout;
        let mut bytes = 0;
        while page.events.len() < max_events && bytes < max_bytes {
            let something = !(page.events.is_empty() && page.gaps.is_empty());
            let next = poll_fn(|cx| self.hold.outbox.poll_take(cx));
            // What is queued is taken without a wait, once there is something to answer with.
            let wait = if something {
                time::Instant::now()
            } else {
                until
            };
            match time::timeout_at(wait, next).await {
                Ok(Some(piece)) => {
                    bytes += piece.len();
                    page.take(&piece);
                }
                Ok(None) | Err(_) => break,
            }
        }
        page
    }
}

impl Page {
    /// The cursor goes past a gap that this page tells: everything before its end was taken, and
    /// on a quiet channel the next poll would be told the same gap for ever.
    fn pass(&mut self, gap: &RawValue) {
        #[derive(Deserialize)]
        struct Ends<'a> {
            next: &'a str,
        }
        let ends = serde_json::from_str::<Ends<'_>>(gap.get()).ok();
        let Some(next) = ends.and_then(|ends| Cursor::parse(ends.next).ok()) else {
            return;
        };
        let text = self.cursor.as_deref().unwrap_or_default();
        let mut cursor = Cursor::parse(text).unwrap_or_default();
        next.places()
            .iter()
            .cloned()
            .for_each(|place| cursor.set(place));
        self.cursor = Some(cursor.to_string());
    }

    /// A piece is one item, or several that stand side by side.
    fn take(&mut self, piece: &Bytes) {
        for raw in serde_json::Deserializer::from_slice(piece).into_iter::<&RawValue>() {
            let Ok(raw) = raw else { return };
            let Ok(item) = serde_json::from_str::<Item<'_>>(raw.get()) else {
                return;
            };
            let own = |part: &RawValue| piece.slice_ref(part.get().as_bytes());
            if let Some(gap) = item.gap {
                self.gaps.push(own(gap));
                self.pass(gap);
            } else if let Some(close) = item.close {
                let named = |reason: &&CloseReason| reason.as_str() == close;
                self.closed = CloseReason::ALL.iter().find(named).copied();
            } else if item.hello.is_none() {
                self.events.push(own(raw));
            }
            if let Some(id) = item.id {
                self.cursor = Some(id.to_owned());
            }
        }
    }
}
