//! The body sink: an ordinary streaming HTTP body. Slower than a socket, never wrong.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;

use super::Hold;

/// A stream of SSE bytes as an HTTP body. Dropping it leaves.
#[derive(Debug)]
pub struct Body {
    hold: Hold,
}

impl Body {
    pub(super) fn new(hold: Hold) -> Self {
        Self { hold }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.hold
            .outbox
            .poll_take(cx)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}
