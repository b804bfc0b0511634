//! Request bodies: bounded in bytes and time.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time;
use tokio_util::task::AbortOnDropHandle;

use crate::{connection::Connection, problem::Refusal};

/// How much of a body that is too large is read and thrown away, so that its sender gets to read
/// the answer: closing a socket with unread bytes resets it.
const DISCARD_BYTES: usize = 8 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Reads a whole body.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    what: &'static str,
    timeout: Duration,
) -> Result<Bytes, Refusal> {
    refuse_encoding(headers)?;
    match time::timeout(timeout, collect(&mut body, limit)).await {
        Err(_) => Err(Refusal::BodyTimeout),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(Failed::Broken)) => {
            Err(Refusal::bad_body("the body ended before its announced end"))
        }
        Ok(Err(Failed::TooLarge)) => {
            let _ = time::timeout(DISCARD_TIME, discard(&mut body)).await;
            Err(Refusal::TooLarge {
                what,
                allowed: format!("{limit} bytes"),
            })
        }
    }
}

/// Bodies are taken as they are: undoing compression would turn few bytes into many.
pub(crate) fn refuse_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Refusal::UnsupportedEncoding)
        }
        _ => Ok(()),
    }
}

/// An answer of one piece that holds `permit` until the client has read it. hyper takes no more of
/// it than fits its buffer. A client that has not read it in time is cut off.
pub(crate) fn held<P>(bytes: Vec<u8>, permit: P, connection: Connection, time: Duration) -> Body
where
    P: Send + Sync + Unpin + 'static,
{
    let cut = async move {
        time::sleep(time).await;
        connection.abort();
    };
    let _cut = AbortOnDropHandle::new(tokio::spawn(cut));
    Body::new(Held {
        bytes: bytes.into(),
        _permit: permit,
        _cut,
    })
}

struct Held<P> {
    bytes: Bytes,
    _permit: P,
    _cut: AbortOnDropHandle<()>,
}

impl<P: Unpin> http_body::Body for Held<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PIECE: usize = 16 << 10;
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let count = PIECE.min(self.bytes.len());
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(count)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

enum Failed {
    Broken,
    TooLarge,
}

async fn collect(body: &mut Body, limit: usize) -> Result<Bytes, Failed> {
    let announced = http_body::Body::size_hint(body).lower();
    if usize::try_from(announced).map_or(true, |announced| announced > limit) {
        return Err(Failed::TooLarge);
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failed::Broken)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > limit {
            return Err(Failed::TooLarge);
        }
        if whole.is_empty() && http_body::Body::is_end_stream(body) {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn discard(body: &mut Body) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
