//! The bytes' way to the client: the socket as it is, or TLS on it.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A client's socket, used by one task through shared references.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(TcpStream),
    /// Boxed: most sockets are plain, behind a load balancer.
    Tls(Box<Mutex<TlsStream<TcpStream>>>),
}

impl Wire {
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = match self {
            Self::Tls(stream) => return Pin::new(&mut *stream.lock()).poll_read(cx, into),
            Self::Plain(stream) => stream,
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done.map(drop)),
            }
        }
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = match self {
            Self::Tls(stream) => {
                return Pin::new(&mut *stream.lock()).poll_write_vectored(cx, slices);
            }
            Self::Plain(stream) => stream,
        };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut *stream.lock()).poll_flush(cx),
        }
    }

    /// Ends this side: what was written arrives, and then the end.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write)),
            Self::Tls(stream) => Pin::new(&mut *stream.lock()).poll_shutdown(cx),
        }
    }

    /// Closing is a reset from now on: what is unsent is thrown away.
    pub(super) fn set_zero_linger(&self) {
        // A socket that takes no options is gone already.
        let _ = match self {
            Self::Plain(stream) => stream.set_zero_linger(),
            Self::Tls(stream) => stream.lock().get_ref().0.set_zero_linger(),
        };
    }
}
