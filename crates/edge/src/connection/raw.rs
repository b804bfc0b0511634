//! Answers below HTTP's own level: to requests that hyper cannot read, and where there is no room
//! for a connection.

use std::{future::poll_fn, time::Duration};

use serde_json::json;
use tokio::{io::ReadBuf, time};

use super::wire::Wire;

/// How long, and how many bytes, a refused client is listened to, so that its answer is not
/// overtaken by the reset that closing a socket with unread bytes sends.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 1 << 20;

/// The answer in place of hyper's own to a request that it cannot read, which has no body.
pub(super) fn in_place_of(written: &[u8]) -> Option<Vec<u8>> {
    // Every answer of ours to a bad request has a body and its type.
    let head = written
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| written.strip_prefix(b"HTTP/1.0 "))?;
    let head = std::str::from_utf8(head).ok()?;
    if !head.ends_with("\r\n\r\n") || head.contains("content-type") {
        return None;
    }
    let (status, reason, title, detail) = match head.get(..3)? {
        "400" => (
            400,
            "bad_request",
            "Bad Request",
            "this is no HTTP/1.1 request",
        ),
        "414" => (
            414,
            "uri_too_long",
            "URI Too Long",
            "the request's target is too long",
        ),
        "431" => (
            431,
            "head_too_large",
            "Request Header Fields Too Large",
            "the request's head is too large, or has too many fields",
        ),
        _ => return None,
    };
    Some(problem(status, reason, title, detail, ""))
}

/// The answer where there is no room for a connection.
pub(crate) fn no_room() -> Vec<u8> {
    let detail = "this node has as many open sockets as it may have";
    problem(
        503,
        "no_room",
        "Service Unavailable",
        detail,
        "retry-after: 2\r\n",
    )
}

fn problem(status: u16, reason: &str, title: &str, detail: &str, extra: &str) -> Vec<u8> {
    let body = json!({
        "type": format!("urn:fanfare:problem:{reason}"),
        "title": title,
        "status": status,
        "detail": detail,
    });
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n\
         cache-control: no-store\r\n{extra}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads what a refused client still sends, for a short while.
pub(super) async fn linger(wire: &Wire) {
    let drain = async {
        // A client that is gone needs no end.
        let _ = poll_fn(|cx| wire.poll_shutdown(cx)).await;
        let (mut bytes, mut left) = ([0; 4096], LINGER_BYTES);
        while left > 0 {
            let mut read = ReadBuf::new(&mut bytes);
            match poll_fn(|cx| wire.poll_read(cx, &mut read)).await {
                Ok(()) if !read.filled().is_empty() => {
                    left = left.saturating_sub(read.filled().len());
                }
                _ => break,
            }
        }
    };
    let _ = time::timeout(LINGER, drain).await;
}
