//! The socket as hyper sees it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time,
};

use super::{Phase, Reader, Socket, Target, raw, wire::Wire};

/// The socket as hyper sees it: shared with the watch.
pub(super) struct Io(pub(super) Arc<Socket>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &self.0;
        let mut state = socket.state.lock();
        if state.reader != Reader::Hyper {
            // The connection's task reads, and is woken when hyper may read again.
            return Poll::Pending;
        }
        if !state.stash.is_empty() {
            let count = state.stash.len().min(into.remaining());
            into.put_slice(&state.stash[..count]);
            state.stash.drain(..count);
            state.stray = 0;
            return Poll::Ready(Ok(()));
        }
        let target = state.target;
        drop(state);
        let before = into.filled().len();
        let target = match target {
            Target::Past => {
                ready!(socket.wire.poll_read(cx, into))?;
                target
            }
            _ => ready!(read_target(&socket.wire, target, cx, into))?,
        };
        let mut state = socket.state.lock();
        state.target = target;
        if into.filled().len() > before && matches!(state.phase, Phase::Idle(_)) {
            state.phase = Phase::Head(time::Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads a request's first line, and writes `>` in it as `%3E`: the pattern `orders.>` is typed
/// into a URL as it is, curl sends it so, and hyper takes no such URL.
fn read_target(
    wire: &Wire,
    target: Target,
    cx: &mut Context<'_>,
    into: &mut ReadBuf<'_>,
) -> Poll<io::Result<Target>> {
    const ESCAPED: &[u8] = b"%3E";
    let mut bytes = [0; 2048];
    let most = bytes.len().min(into.remaining() / ESCAPED.len());
    if most == 0 {
        return wire.poll_read(cx, into).map_ok(|()| Target::Past);
    }
    let mut read = ReadBuf::new(&mut bytes[..most]);
    ready!(wire.poll_read(cx, &mut read))?;
    let bytes = read.filled();
    // What does not begin like a request may be the rest of one that was read already.
    let begins = || {
        [&b"GET /"[..], b"POST /", b"HEAD /"]
            .iter()
            .any(|begin| bytes.starts_with(begin))
    };
    if bytes.is_empty() || (target == Target::Awaited && !begins()) {
        into.put_slice(bytes);
        return Poll::Ready(Ok(if bytes.is_empty() {
            target
        } else {
            Target::Past
        }));
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    for (index, part) in line.split(|byte| *byte == b'>').enumerate() {
        if index > 0 {
            into.put_slice(ESCAPED);
        }
        into.put_slice(part);
    }
    into.put_slice(rest);
    Poll::Ready(Ok(if end.is_some() {
        Target::Past
    } else {
        Target::Open
    }))
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = &self.0;
        let first = slices.first().map_or(&[][..], |slice| slice);
        let no_request = {
            let mut state = socket.state.lock();
            state.unflushed = true;
            !matches!(state.phase, Phase::Busy)
        };
        if no_request && let Some(problem) = raw::in_place_of(first) {
            // The last that this connection says, and short: what the kernel does not take at
            // once is not worth waiting for.
            let _ = socket
                .wire
                .poll_write_vectored(cx, &[IoSlice::new(&problem)]);
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        socket.wire.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.wire.poll_flush(cx))?;
        self.0.state.lock().unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.wire.poll_shutdown(cx)
    }
}
