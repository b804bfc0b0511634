//! Fanfare's own events. None but `fanfare.hello` carries an `id:`, so that a browser's cursor
//! never moves past an event that it did not get.

use std::time::Duration;

use bytes::Bytes;
use fanfare_core::{Gap, Pattern};
use serde::Serialize;

use crate::{Cursor, Format};

#[derive(Serialize)]
struct Hello<'a> {
    node: &'a str,
    channels: &'a [Pattern],
    gap: bool,
}

#[derive(Serialize)]
struct GapData<'a> {
    channel: &'a Pattern,
    cause: &'static str,
    after: Option<String>,
    next: String,
}

#[derive(Serialize)]
struct Close<'a> {
    reason: &'a str,
    retry_ms: u64,
}

/// What opens an SSE stream: sent at once, so that proxies pass the head on. The next block's
/// lines follow it directly; a blank line here would make some clients fire an empty message.
pub(crate) fn preface(retry: Duration) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    fanfare_sse::encode_retry(&mut out, retry);
    out.extend_from_slice(fanfare_sse::HEARTBEAT);
    out
}

/// Opens the stream with the cursor that it starts from, so that a client which breaks off before
/// its first event resumes exactly too.
pub(crate) fn hello(
    format: Format,
    node: &str,
    channels: &[Pattern],
    gap: bool,
    start: &Cursor,
) -> Bytes {
    let data = Hello {
        node,
        channels,
        gap,
    };
    let id = (!start.is_empty()).then(|| start.to_string());
    block(format, "hello", &data, id.as_deref())
}

/// Tells a loss.
pub(crate) fn gap(format: Format, gap: &Gap) -> Bytes {
    let place = |position: &fanfare_core::Position| Cursor::from(position.clone()).to_string();
    let data = GapData {
        channel: &gap.scope,
        cause: gap.cause.as_str(),
        after: gap.after.as_ref().map(place),
        next: place(&gap.next),
    };
    block(format, "gap", &data, None)
}

/// Says why the stream ends and when to come back, in the words of `fanfare.close` and of
/// `retry:`, which is the one that a browser obeys.
pub(crate) fn close(reason: &str, retry: Duration) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    fanfare_sse::encode_retry(&mut out, retry);
    let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
    out.extend_from_slice(&block(
        Format::Sse,
        "close",
        &Close { reason, retry_ms },
        None,
    ));
    out
}

fn block(format: Format, name: &str, data: &impl Serialize, id: Option<&str>) -> Bytes {
    // Plain structs of strings and numbers: serialising them does not fail.
    let json = serde_json::to_string(data).unwrap_or_default();
    if format == Format::Items {
        let id = id.map(|id| format!(",\"id\":\"{id}\"")).unwrap_or_default();
        return format!("{{\"{name}\":{json}{id}}}").into();
    }
    let mut out = Vec::with_capacity(json.len() + 64);
    fanfare_sse::encode_event(&mut out, id, Some(&format!("fanfare.{name}")), &json);
    out.into()
}
